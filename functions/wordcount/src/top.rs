//! The most frequent words of a stream of them.

/// A word and how often it was seen.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Frequent {
    pub word: String,
    pub count: u64,
}

/// Keeps the most frequent words of those that it is offered: at most twice as many as are asked for, and some.
pub struct Top {
    limit: usize,
    kept: Vec<Frequent>,
    /// What is less frequent will not be among the first.
    least: u64,
}

/// Room beyond the limit, so that few words are not sorted again and again.
const SPARE: usize = 1024;

impl Top {
    pub fn new(limit: usize) -> Self {
        Top {
            limit,
            kept: Vec::new(),
            least: 0,
        }
    }

    pub fn offer(&mut self, word: &[u8], count: u64) {
        if count < self.least {
            return;
        }
        let word = str::from_utf8(word).expect("words are ASCII").to_owned();
        self.kept.push(Frequent { word, count });
        if self.kept.len() / 2 >= self.limit.saturating_add(SPARE) {
            self.cut();
        }
    }

    /// The most frequent first; of equally frequent ones the first in the alphabet.
    pub fn sorted(mut self) -> Vec<Frequent> {
        self.cut();
        self.kept
    }

    fn cut(&mut self) {
        self.kept
            .sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.word.cmp(&b.word)));
        self.kept.truncate(self.limit);
        if self.kept.len() == self.limit {
            self.least = self.kept.last().map_or(u64::MAX, |last| last.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(limit: usize, words: &[(&str, u64)]) -> Vec<(String, u64)> {
        let mut top = Top::new(limit);
        words
            .iter()
            .for_each(|(word, count)| top.offer(word.as_bytes(), *count));
        let told = top.sorted().into_iter();
        told.map(|frequent| (frequent.word, frequent.count)).collect()
    }

    #[test]
    fn the_top_is_ordered_by_count_then_word() {
        let words = [("b", 2), ("d", 1), ("a", 2), ("c", 1)];
        let first = |limit| {
            top(limit, &words)
                .into_iter()
                .map(|(word, _)| word)
                .collect::<Vec<_>>()
        };
        assert_eq!(first(3), ["a", "b", "c"]);
        assert_eq!(first(0), [""; 0]);
        assert_eq!(first(9).len(), 4);
    }

    #[test]
    fn many_words_leave_what_sorting_all_of_them_leaves() {
        let mut words: Vec<(String, u64)> = (0..20_000u64)
            .map(|n| (format!("w{n}"), n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52))
            .collect();
        let offered: Vec<_> = words
            .iter()
            .map(|(word, count)| (word.as_str(), *count))
            .collect();
        let kept = top(100, &offered);
        words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        assert_eq!(kept, words[..100]);
    }
}
