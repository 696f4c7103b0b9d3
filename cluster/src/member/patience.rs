//! How often a blob that too few hosts keep is asked for, when nobody gives it. Pure.

use std::collections::HashMap;

use nearfield_protocol::Digest;

/// Rounds between two tries at most: with rounds of 2 s, about nine minutes.
const LONGEST: u64 = 256;
/// Tries in vain after which it is said that nobody has a blob: the first ones may meet hosts that are busy.
const VAIN: u32 = 3;
/// Blobs that are remembered. Beyond that all are tried again at once, which costs questions only.
const MAX_BLOBS: usize = 1_000_000;

#[derive(Debug, Clone, Copy)]
struct Tries {
    in_vain: u32,
    /// The round of the next one.
    next: u64,
    /// The last round in which the blob was wanted.
    wanted: u64,
}

/// What was asked for in vain, and when it is asked for again: each time twice as late.
#[derive(Debug, Default)]
pub(super) struct Patience {
    round: u64,
    blobs: HashMap<Digest, Tries>,
    /// Who was there when these tries were made.
    generation: u64,
}

impl Patience {
    /// A round begins. What nobody wanted in the last one is kept by enough by now; with other hosts everything is worth
    /// a try.
    pub fn begin(&mut self, generation: u64) {
        if self.generation != generation || self.blobs.len() > MAX_BLOBS {
            self.blobs.clear();
            self.generation = generation;
        }
        let last = self.round;
        self.blobs.retain(|_, tries| tries.wanted == last);
        self.round += 1;
    }

    /// Whether a blob that is wanted is asked for in this round.
    pub fn is_due(&mut self, digest: &Digest) -> bool {
        let round = self.round;
        self.blobs.get_mut(digest).is_none_or(|tries| {
            tries.wanted = round;
            tries.next <= round
        })
    }

    /// A host did not get the blob from anybody. Whether that was so often enough to say it.
    pub fn in_vain(&mut self, digest: Digest) -> bool {
        let round = self.round;
        let tries = self.blobs.entry(digest).or_insert(Tries {
            in_vain: 0,
            next: round,
            wanted: round,
        });
        tries.in_vain += 1;
        tries.next = round + (1_u64 << tries.in_vain.min(32)).min(LONGEST);
        tries.wanted = round;
        tries.in_vain == VAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_is_asked_for_ever_more_seldom_and_said_once() {
        let (mut patience, blob) = (Patience::default(), Digest::of(b"lost"));
        let (mut asked, mut said) = (Vec::new(), Vec::new());
        for round in 1..=2_000 {
            patience.begin(7);
            if patience.is_due(&blob) {
                asked.push(round);
                if patience.in_vain(blob) {
                    said.push(round);
                }
            }
        }
        assert_eq!(asked[..6], [1, 3, 7, 15, 31, 63]);
        assert!(asked.len() < 16, "{asked:?}");
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] <= LONGEST));
        assert_eq!(said, [7]);
    }

    #[test]
    fn what_a_host_is_slow_to_fetch_is_not_in_vain() {
        let (mut patience, blob) = (Patience::default(), Digest::of(b"large"));
        for _ in 0..100 {
            patience.begin(7);
            assert!(patience.is_due(&blob));
        }
    }

    #[test]
    fn another_host_or_a_repair_begins_anew() {
        let (mut patience, blob) = (Patience::default(), Digest::of(b"lost"));
        let wear_out = |patience: &mut Patience, generation| {
            for _ in 0..20 {
                patience.begin(generation);
                if patience.is_due(&blob) {
                    patience.in_vain(blob);
                }
            }
            assert!(!patience.is_due(&blob));
        };
        wear_out(&mut patience, 7);
        patience.begin(8);
        assert!(patience.is_due(&blob), "another host may have it");
        wear_out(&mut patience, 8);
        patience.begin(8);
        patience.begin(8);
        assert!(patience.is_due(&blob), "it was kept by enough for a round");
    }
}
