//! Sources to measure and show with: folders of crates, the same files on every machine, made and not found.
//!
//! Each file is a run of lines of a [`Text`], with lines of Rust in between, so that functions over code find something.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use memchr::{memchr_iter, memmem};
use walkdir::WalkDir;

use crate::text::Text;

/// Lines that files take theirs from. More would only take longer to make.
const POOL_BYTES: usize = 8 << 20;
/// What the first crate hashes to: a change of the generator changes all figures that were measured with it.
const FIRST_CRATE: &str = "b3:b0a23d628d009662da3230a73c08bd282b6d6addf9603ba633789ca9de4131ff";
/// Stands among a file's lines, one in so many.
const CODE_LINES: [&[u8]; 4] = [
    b"    let value = unsafe { table.get_unchecked(at) };\n",
    b"    let first = values.first().unwrap();\n",
    b"    // unsafe: the caller checked the length\n",
    b"    unsafe { ffi::release(handle) };\n",
];
const CODE_LINE_EVERY: u64 = 40;

/// What was found on the way through the sources: the answers that the functions must come to.
pub struct Facts {
    pub files: u64,
    pub bytes: u64,
    /// The Rust file with the most lines that hold `unsafe`, and how many these are.
    pub unsafest: (String, u64),
}

/// Makes the folder `to` with crates of about `bytes` bytes together, a few hundred KiB each. Fewer bytes are the first of
/// these crates.
pub fn write(to: &Path, bytes: u64) -> Result<()> {
    let mut maker = Maker::new();
    let mut written = 0;
    for number in 0.. {
        if written >= bytes {
            break;
        }
        let (size_bytes, digest) = maker.make(to, number)?;
        ensure!(
            number > 0 || digest == FIRST_CRATE,
            "the sources are others: {digest}, not {FIRST_CRATE}"
        );
        written += size_bytes;
    }
    Ok(())
}

struct Maker {
    text: Text,
    /// Each line with its end.
    pool: Vec<Vec<u8>>,
}

impl Maker {
    fn new() -> Self {
        let (mut text, mut pool, mut bytes) = (Text::new(), Vec::new(), 0);
        while bytes < POOL_BYTES {
            let mut line = Vec::new();
            text.line(&mut line);
            bytes += line.len();
            pool.push(line);
        }
        Maker { text, pool }
    }

    /// Makes a crate; returns its bytes, and the digest of its files' paths and contents.
    fn make(&mut self, to: &Path, number: u64) -> Result<(u64, String)> {
        let version = [self.text.below(3), self.text.below(20), self.text.below(10)];
        let [major, minor, patch] = version;
        let name = format!("crate-{number:05}-{major}.{minor}.{patch}");
        let modules = 2 + self.text.below(20);
        let mut files = vec![
            "Cargo.toml".to_owned(),
            "README.md".to_owned(),
            "src/lib.rs".to_owned(),
        ];
        files.extend((0..modules).map(|module| format!("src/module_{module:02}.rs")));
        let (mut size_bytes, mut hasher) = (0, blake3::Hasher::new());
        fs::create_dir_all(to.join(&name).join("src"))?;
        for file in files {
            let content = match file.ends_with(".toml") {
                true => format!(
                    "[package]\nname = \"crate-{number:05}\"\nversion = \"{major}.{minor}.{patch}\"\n"
                )
                .into_bytes(),
                false => self.content(file.ends_with(".rs")),
            };
            hasher.update(file.as_bytes()).update(&content);
            size_bytes += content.len() as u64;
            let path = to.join(&name).join(&file);
            fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok((size_bytes, format!("b3:{}", hasher.finalize())))
    }

    /// From half a KiB to 100 KiB, most of them small, as in crates.
    fn content(&mut self, is_code: bool) -> Vec<u8> {
        let size = 512 + (self.text.below(1 << 10) * self.text.below(100)) as usize;
        let mut at = self.text.below(self.pool.len() as u64) as usize;
        let mut content = Vec::with_capacity(size + 200);
        while content.len() < size {
            content.extend_from_slice(&self.pool[at]);
            at = (at + 1) % self.pool.len();
            if is_code && self.text.below(CODE_LINE_EVERY) == 0 {
                let line = self.text.below(CODE_LINES.len() as u64);
                content.extend_from_slice(CODE_LINES[line as usize]);
            }
        }
        content
    }
}

/// Writes a CSV with a row for each file: `crate,file,extension,bytes,lines`.
pub fn describe(folder: &Path, csv: &Path) -> Result<Facts> {
    let mut out = BufWriter::new(File::create(csv)?);
    out.write_all(b"crate,file,extension,bytes,lines\n")?;
    let mut facts = Facts {
        files: 0,
        bytes: 0,
        unsafest: (String::new(), 0),
    };
    let search = memmem::Finder::new("unsafe");
    for entry in WalkDir::new(folder).sort_by_file_name() {
        let entry = entry?;
        if !entry.file_type().is_file() {
            continue;
        }
        let path = entry.path().strip_prefix(folder)?;
        let Some((name, file)) = path.to_str().and_then(|path| path.split_once('/')) else {
            continue;
        };
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        let content = fs::read(entry.path())?;
        let lines = memchr_iter(b'\n', &content).count();
        writeln!(
            out,
            "{},{},{},{},{lines}",
            field(name),
            field(file),
            field(&extension),
            content.len(),
        )?;
        facts.files += 1;
        facts.bytes += content.len() as u64;
        if extension == "rs" && search.find(&content).is_some() {
            let found = content
                .split(|byte| *byte == b'\n')
                .filter(|line| search.find(line).is_some());
            let found = found.count() as u64;
            if found > facts.unsafest.1 {
                facts.unsafest = (format!("{name}/{file}"), found);
            }
        }
    }
    out.flush()?;
    Ok(facts)
}

/// A CSV field, quoted where it must be.
fn field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_sources_are_those_that_were_measured_with() {
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        super::write(one.path(), 1).unwrap();
        super::write(two.path(), 2 << 20).unwrap();
        let csv = one.path().join("files.csv");
        let facts = super::describe(two.path(), &csv).unwrap();
        assert!(facts.bytes >= 2 << 20 && facts.unsafest.1 > 10, "{}", facts.bytes);
        let first = std::fs::read_dir(one.path()).unwrap().flatten();
        let name = first
            .map(|entry| entry.file_name())
            .find(|name| name != "files.csv")
            .unwrap();
        assert!(two.path().join(name).is_dir(), "fewer bytes are the first crates");
    }

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        assert_eq!(super::field("lib.rs"), "lib.rs");
        assert_eq!(super::field("a,\"b\".rs"), "\"a,\"\"b\"\".rs\"");
    }
}
