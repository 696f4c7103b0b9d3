//! What of a folder a put leaves out: rules as in a `.gitignore`. Whoever reads them gives them as text.

use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// A folder's own list.
pub const IGNORE_FILE: &str = ".nearfieldignore";
/// Where a rule of it stands.
const OWN: &str = "in .nearfieldignore";
/// Paths that are told by name.
const MAX_NAMED: usize = 5;

/// Rules of one list: each becomes a pattern of some 11 KB in memory, and real lists have dozens.
const MAX_RULES: usize = 2_000;

/// The rules of one put.
#[derive(Debug, Clone)]
pub struct LeftOut {
    given: Gitignore,
    own: Gitignore,
}

/// A rule that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the rule `{rule}` {of} cannot be used: {reason}")]
pub struct BadRule {
    rule: String,
    of: &'static str,
    reason: String,
}

impl BadRule {
    pub(crate) fn not_utf8() -> Self {
        BadRule {
            rule: String::new(),
            of: OWN,
            reason: "the file is not UTF-8".to_owned(),
        }
    }
}

impl LeftOut {
    /// `given` decides before the lines of the folder's own list.
    pub fn new(given: &[String], own: &str) -> Result<Self, BadRule> {
        Ok(LeftOut {
            given: rules(given.iter().map(String::as_str), "of --exclude")?,
            own: rules(own.trim_start_matches('\u{feff}').lines(), OWN)?,
        })
    }

    /// Whether the entry at `path` below the folder stays out, and a folder with all that is in it; `None` where no rule
    /// says so or otherwise.
    pub fn says(&self, path: &Path, is_dir: bool) -> Option<bool> {
        let rules = [&self.given, &self.own].into_iter();
        rules
            .map(|rules| rules.matched(path, is_dir))
            .find_map(|matched| match matched.is_none() {
                true => None,
                false => Some(matched.is_ignore()),
            })
    }

    /// Whether a file at `path` stays out, by itself or with a folder that it is in.
    pub fn leaves_out_file(&self, path: &str) -> bool {
        let path = Path::new(path);
        let folders = path.ancestors().skip(1).filter(|folder| *folder != Path::new(""));
        self.says(path, false) == Some(true)
            || folders
                .into_iter()
                .any(|folder| self.says(folder, true) == Some(true))
    }
}

fn rules<'a>(lines: impl Iterator<Item = &'a str>, of: &'static str) -> Result<Gitignore, BadRule> {
    let (mut rules, mut taken) = (GitignoreBuilder::new(""), 0);
    for line in lines {
        let bad = |error: ignore::Error| BadRule {
            rule: line.chars().take(80).collect(),
            of,
            reason: format!("it is no pattern of a .gitignore: {error}"),
        };
        rules.add_line(None, line).map_err(bad)?;
        taken += usize::from(!line.trim().is_empty() && !line.starts_with('#'));
        if taken > MAX_RULES {
            return Err(BadRule {
                rule: line.chars().take(80).collect(),
                of,
                reason: format!("a list has at most {MAX_RULES} rules; a folder is left out by one"),
            });
        }
    }
    rules.build().map_err(|error| BadRule {
        rule: String::new(),
        of,
        reason: error.to_string(),
    })
}

/// What a folder's put leaves out, the first few by name.
pub fn left_out_notice(paths: &[String]) -> Option<String> {
    let named = &paths[..MAX_NAMED.min(paths.len())];
    let more = match paths.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!named.is_empty()).then(|| format!("left out: {}{more}", named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_decides_before_the_folder_s_own_list() {
        let rules = LeftOut::new(
            &["target/".to_owned(), "!keep.tmp".to_owned()],
            "\u{feff}*.tmp\n# none\n/deep\n",
        )
        .unwrap();
        let says = |path: &str, is_dir| rules.says(Path::new(path), is_dir);
        assert_eq!(says("a/target", true), Some(true));
        assert_eq!(says("target", false), None, "a file of that name");
        assert_eq!(
            (says("x.tmp", false), says("keep.tmp", false)),
            (Some(true), Some(false))
        );
        assert_eq!((says("deep", true), says("a/deep", true)), (Some(true), None));
        assert!(rules.leaves_out_file("a/target/b/c") && rules.leaves_out_file("deep/x"));
        assert!(!rules.leaves_out_file("a/b.txt"));
    }

    #[test]
    fn a_rule_that_says_nothing_is_named() {
        let told = LeftOut::new(&["{a".to_owned()], "").unwrap_err().to_string();
        assert!(told.contains("`{a` of --exclude"), "{told}");
        assert!(
            LeftOut::new(&[], "ok\n{a\n")
                .unwrap_err()
                .to_string()
                .contains(".nearfieldignore")
        );
        let long = "*.x\n".repeat(MAX_RULES);
        assert!(LeftOut::new(&[], &format!("{long}# and a comment\n\n")).is_ok());
        let told = LeftOut::new(&[], &format!("{long}*.y\n"))
            .unwrap_err()
            .to_string();
        assert!(
            told.contains("`*.y` in .nearfieldignore") && told.contains("at most 2000"),
            "{told}"
        );
    }

    #[test]
    fn a_few_are_named() {
        let paths: Vec<String> = (0..7).map(|n| n.to_string()).collect();
        assert_eq!(
            left_out_notice(&paths).unwrap(),
            "left out: 0, 1, 2, 3, 4 and 2 more"
        );
        assert_eq!(
            (left_out_notice(&paths[..1]).unwrap(), left_out_notice(&[])),
            ("left out: 0".to_owned(), None)
        );
    }
}
