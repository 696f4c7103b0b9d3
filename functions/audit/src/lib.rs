//! Audits the sources of crates: `nearfield run audit --over registry`.
//!
//! Of each crate it counts the lines, the `unsafe` blocks and the calls of `.unwrap()` in `NAME-VERSION/src/….rs`, and
//! finds the largest file. The result is all of that in total, and the crates with the most `unsafe` blocks.

mod code;

use std::collections::BTreeMap;

use nearfield::{Result, Shard};

/// What is known of a crate, or of several.
#[derive(Default, serde::Serialize, serde::Deserialize)]
pub struct Source {
    files: u64,
    lines: u64,
    unsafe_blocks: u64,
    unwraps: u64,
    /// Nothing where there is no file.
    largest: Option<Largest>,
}

/// Ordered by size; of files of one size the last path is the largest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Largest {
    bytes: u64,
    path: String,
}

/// By name and version.
pub type Crates = BTreeMap<String, Source>;

#[derive(serde::Deserialize)]
struct Args {
    /// How many crates to tell; 20 unless given.
    top: Option<usize>,
}

#[derive(serde::Serialize)]
struct Report {
    crates: usize,
    total: Source,
    /// The crates with the most `unsafe` blocks, the most first.
    top: Vec<Crate>,
}

#[derive(serde::Serialize)]
struct Crate {
    name: String,
    #[serde(flatten)]
    source: Source,
}

/// Reads the files of a pack.
#[nearfield::map]
pub fn audit(shard: Shard) -> Result<Crates> {
    let mut crates = Crates::new();
    let mut text = Vec::new();
    shard.files().for_each(|path, content| {
        let Some(name) = crate_of(path) else {
            return Ok(());
        };
        text.clear();
        content.read_to_end(&mut text)?;
        let code = code::count(&text);
        let file = Source {
            files: 1,
            lines: code.lines,
            unsafe_blocks: code.unsafe_blocks,
            unwraps: code.unwraps,
            largest: Some(Largest {
                bytes: text.len() as u64,
                path: path.to_owned(),
            }),
        };
        crates.entry(name.to_owned()).or_default().add(&file);
        Ok(())
    })?;
    Ok(crates)
}

/// A crate's files may lie in several packs.
#[nearfield::reduce]
fn merge(mut all: Crates, more: Crates) -> Crates {
    for (name, source) in more {
        all.entry(name).or_default().add(&source);
    }
    all
}

#[nearfield::finish]
fn report(crates: Crates, args: Args) -> Report {
    let mut total = Source::default();
    for source in crates.values() {
        total.add(source);
    }
    let count = crates.len();
    let mut top: Vec<Crate> = crates
        .into_iter()
        .map(|(name, source)| Crate { name, source })
        .collect();
    // Stable: crates with equally many stay in the order of their names.
    top.sort_by_key(|one| std::cmp::Reverse(one.source.unsafe_blocks));
    top.truncate(args.top.unwrap_or(20));
    Report {
        crates: count,
        total,
        top,
    }
}

/// `NAME-VERSION` of the path of a source file.
fn crate_of(path: &str) -> Option<&str> {
    let (name, inside) = path.split_once('/')?;
    (inside.starts_with("src/") && inside.ends_with(".rs")).then_some(name)
}

impl Source {
    fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.lines += other.lines;
        self.unsafe_blocks += other.unsafe_blocks;
        self.unwraps += other.unwraps;
        if other.largest > self.largest {
            self.largest.clone_from(&other.largest);
        }
    }
}

#[cfg(test)]
mod tests {
    use nearfield::mock;
    use serde_json::json;

    /// A file of so many lines, the first of which hold `unsafe` blocks, and the last a call of `unwrap` each.
    fn source(lines: usize, blocks: usize, unwraps: usize) -> String {
        let line = |number| match number {
            _ if number < blocks => "unsafe { f() };\n",
            _ if number >= lines - unwraps => "g().unwrap();\n",
            _ => "// unsafe { .unwrap()\n",
        };
        (0..lines).map(line).collect()
    }

    #[test]
    fn crates_are_summed_up_over_packs() {
        // Crate n has n files of n + 10 lines, each with n blocks and one unwrap.
        let mut data = mock::Dataset::new("files").shard_bytes(2000);
        let (mut files, mut lines, mut blocks) = (0, 0, 0);
        for crate_ in 0..30 {
            for file in 0..crate_ {
                let path = format!("c{crate_:02}-1.0.{crate_}/src/m/{file}.rs");
                data = data.file(&path, source(crate_ + 10, crate_, 1));
                (files, lines, blocks) = (files + 1, lines + crate_ + 10, blocks + crate_);
            }
            data = data
                .file(&format!("c{crate_:02}-1.0.{crate_}/tests/t.rs"), "unsafe {}")
                .file(&format!("c{crate_:02}-1.0.{crate_}/src/data.bin"), "unsafe {}");
        }
        data = data.file("top.rs", "unsafe {}");

        let host = mock::Host::new().dataset("registry", data);
        let result = host
            .job::<super::audit>("registry", json!({ "top": 2 }))
            .unwrap()
            .result;
        let largest = |crate_: usize, file: &str| {
            let path = format!("c{crate_}-1.0.{crate_}/src/m/{file}.rs");
            json!({ "bytes": source(crate_ + 10, crate_, 1).len(), "path": path })
        };
        let size = |crate_| source(crate_ + 10, crate_, 1).len();
        assert!((0..29).all(|crate_| size(crate_) < size(29)));
        let top = |crate_: usize| {
            json!({
                "name": format!("c{crate_}-1.0.{crate_}"),
                "files": crate_,
                "lines": crate_ * (crate_ + 10),
                "unsafe_blocks": crate_ * crate_,
                "unwraps": crate_,
                "largest": largest(crate_, "9"),
            })
        };
        assert_eq!(
            result,
            json!({
                "crates": 29,
                "total": {
                    "files": files,
                    "lines": lines,
                    "unsafe_blocks": blocks,
                    "unwraps": files,
                    "largest": largest(29, "9"),
                },
                "top": [top(29), top(28)],
            })
        );
    }

    #[test]
    fn a_crate_without_sources_is_none() {
        let data = mock::Dataset::new("files").file("a-1/README.md", "unsafe {}");
        let host = mock::Host::new().dataset("registry", data);
        let result = host.job::<super::audit>("registry", ()).unwrap().result;
        assert_eq!(
            (&result["crates"], &result["total"]["largest"]),
            (&json!(0), &json!(null))
        );
    }
}
