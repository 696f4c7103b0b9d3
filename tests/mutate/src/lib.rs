//! Tries what reads foreign bytes: with each file of `fuzz/corpus/NAME`, and then with mutations of them.
//!
//! A crate's `fuzz` module has one function for each parser: any bytes in, a panic where something does not hold. cargo-fuzz
//! calls these functions from `fuzz/fuzz_targets`, on a nightly compiler and for hours; [`targets!`] makes tests of them, which
//! every run of the tests includes. Both use the same corpus. The mutations follow from a seed, so a failure comes back.

mod allocator;
mod mutator;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use allocator::Counting;
use mutator::Mutator;

/// Longest input that is made. What one input may take is a promise about inputs of up to this size.
pub const INPUT_BYTES: usize = 64 << 10;
/// How long one input may take, also in a debug build: a parser that is slower can be kept busy by whoever sends it bytes.
const LONGEST: Duration = Duration::from_secs(1);
/// Most memory that one input may take on the thread that reads it.
const MOST_BYTES: usize = 64 << 20;
/// How long a target is tried with mutations, unless `NEARFIELD_FUZZ_RUNS` says how often.
const USUAL: Duration = Duration::from_millis(400);

/// The name of the file that holds the input while it is run.
const RUNNING: &str = "running";

/// Makes a test of each target, and counts what the tests allocate.
#[macro_export]
macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        mod tests {
            #[global_allocator]
            static COUNTING: $crate::Counting = $crate::Counting;

            $(
                #[test]
                fn $name() {
                    $crate::hold(stringify!($name), super::$name);
                }
            )*
        }
    };
}

/// Runs `target` over its corpus and over mutations of it.
///
/// # Panics
/// Where the target does, or takes more time or memory than an input may. The input is in `fuzz/artifacts` then, also where the
/// process itself ended.
pub fn hold(name: &str, target: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let script = fuzz.join("fuzz_targets").join(name).with_extension("rs");
    assert!(
        script.exists(),
        "cargo-fuzz does not know `{name}`: add {}",
        script.display()
    );
    let corpus = corpus(&fuzz.join("corpus").join(name));
    let trial = Trial::new(name, target, fuzz.join("artifacts").join(name));
    for (path, input) in &corpus {
        trial.run(input, || path.display().to_string());
    }
    let (seed, runs) = (number("NEARFIELD_FUZZ_SEED"), number("NEARFIELD_FUZZ_RUNS"));
    let mut mutator = Mutator::new(
        seed.unwrap_or(1),
        corpus.into_iter().map(|(_, input)| input).collect(),
    );
    let (begun, mut done) = (Instant::now(), 0);
    while runs.map_or_else(|| begun.elapsed() < USUAL, |runs| done < runs) {
        let input = mutator.next();
        trial.run(input, || format!("mutation {done} of seed {}", seed.unwrap_or(1)));
        done += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    trial.end();
    println!(
        "{name}: {done} mutations in {seconds:.1} s, {:.0} a second",
        done as f64 / seconds
    );
}

/// What inputs are run with.
struct Trial<'a> {
    name: &'a str,
    target: fn(&[u8]),
    artifacts: PathBuf,
    /// The input that is run: what ends the process, as a stack that is too deep does, leaves it behind.
    running: File,
}

impl<'a> Trial<'a> {
    fn new(name: &'a str, target: fn(&[u8]), artifacts: PathBuf) -> Self {
        let made = fs::create_dir_all(&artifacts).and_then(|()| File::create(artifacts.join(RUNNING)));
        Trial {
            name,
            target,
            running: made.unwrap_or_else(|error| panic!("{}: {error}", artifacts.display())),
            artifacts,
        }
    }

    fn end(self) {
        // Whatever stays is overwritten by the next trial.
        let _ = fs::remove_file(self.artifacts.join(RUNNING));
        let _ = fs::remove_dir(self.artifacts);
    }

    fn run(&self, input: &[u8], which: impl Fn() -> String) {
        let written = self.running.set_len(input.len() as u64);
        written
            .and_then(|()| self.running.write_all_at(input, 0))
            .unwrap();
        let begun = Instant::now();
        let (outcome, bytes) = allocator::peak_of(|| catch_unwind(AssertUnwindSafe(|| (self.target)(input))));
        let took = begun.elapsed();
        let fault = match outcome {
            Err(_) => Some("it panics".to_owned()),
            Ok(()) if bytes > MOST_BYTES => Some(format!("it allocates {bytes} bytes")),
            Ok(()) if took > LONGEST && self.is_slow(input) => Some(format!("it takes {took:?}")),
            Ok(()) => None,
        };
        if let Some(fault) = fault {
            self.fail(input, &which(), &fault);
        }
    }

    /// Whether it takes too long each time: the first time may have been the machine's fault.
    fn is_slow(&self, input: &[u8]) -> bool {
        let takes_long = || {
            let begun = Instant::now();
            (self.target)(input);
            begun.elapsed() > LONGEST
        };
        (0..3).all(|_| takes_long())
    }

    fn fail(&self, input: &[u8], which: &str, fault: &str) -> ! {
        let path = self
            .artifacts
            .join(format!("crash-{:016x}", mutator::hash(input)));
        let at = match fs::write(&path, input) {
            Ok(()) => path.display().to_string(),
            Err(error) => format!("nowhere ({error})"),
        };
        panic!(
            "`{name}`: {fault}, with {len} bytes: {which}. The input is at {at}; `cargo fuzz run {name} {at}` runs it again, \
             and so does this test once it lies in fuzz/corpus/{name}",
            name = self.name,
            len = input.len()
        );
    }
}

/// The files of a corpus, in the order of their names.
fn corpus(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(
        !paths.is_empty(),
        "{} is empty: it needs a file to begin with",
        folder.display()
    );
    let read = |path: PathBuf| {
        let input = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, input)
    };
    paths.into_iter().map(read).collect()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} = {text} is no number")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    fn fault_of(target: fn(&[u8]), input: &[u8]) -> (String, PathBuf) {
        let artifacts = std::env::temp_dir().join(format!("nearfield-mutate-{}", std::process::id()));
        let trial = Trial::new("trial", target, artifacts.clone());
        let caught = catch_unwind(AssertUnwindSafe(|| trial.run(input, || "a test".to_owned())));
        let told = caught.map_or_else(|panic| *panic.downcast::<String>().unwrap(), |()| String::new());
        fs::remove_file(artifacts.join(RUNNING)).unwrap();
        (told, artifacts)
    }

    #[test]
    fn a_panic_and_too_much_memory_are_told_with_the_input() {
        let panics = |bytes: &[u8]| assert!(bytes.len() < 3);
        assert_eq!(fault_of(panics, b"ab").0, "");
        let (told, artifacts) = fault_of(panics, b"abc");
        assert!(
            told.starts_with("`trial`: it panics, with 3 bytes: a test"),
            "{told}"
        );
        let kept: Vec<_> = fs::read_dir(&artifacts).unwrap().collect();
        assert_eq!(fs::read(kept[0].as_ref().unwrap().path()).unwrap(), b"abc");
        let allocates = |bytes: &[u8]| drop(std::hint::black_box(vec![1_u8; bytes.len() << 20]));
        assert_eq!(fault_of(allocates, &[0; 63]).0, "");
        assert!(fault_of(allocates, &[0; 65]).0.contains("it allocates"));
        fs::remove_dir_all(artifacts).unwrap();
    }

    #[test]
    fn every_target_of_cargo_fuzz_has_a_corpus_and_a_line_in_its_manifest() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        let mut targets = 0;
        for script in fs::read_dir(fuzz.join("fuzz_targets")).unwrap() {
            let script = script.unwrap().path();
            let name = script.file_stem().unwrap().to_str().unwrap();
            assert!(!corpus(&fuzz.join("corpus").join(name)).is_empty());
            assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
            let text = fs::read_to_string(&script).unwrap();
            assert!(text.contains(&format!("::fuzz::{name}(")), "{name}");
            targets += 1;
        }
        assert_eq!(targets, fs::read_dir(fuzz.join("corpus")).unwrap().count());
    }
}
