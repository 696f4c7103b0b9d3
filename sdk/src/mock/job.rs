//! Runs a whole job on this thread, over the same bytes as a real host would.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;

use serde::Serialize;
use serde_json::Value;

use super::{Host, host};
use crate::Shard;
use crate::job::Job;

/// What a job made.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// What `finish` returned.
    pub result: Value,
    /// What was written to [`output`](crate::output), by path.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What was at work: `map of shard 2 (app.log)`, `reduce` or `finish`.
    pub step: String,
    /// The error with its causes, or the panic's text.
    pub message: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.message)
    }
}

impl std::error::Error for Failed {}

/// How many parts a reduce gets at most: so few that a handful of shards already make a tree, which shows whether the
/// reduce is associative.
const GROUP: usize = 2;

impl Host {
    /// Runs the job whose `map` is the function `J`, over a dataset of this host, as
    /// `nearfield run J --over OVER --args ARGS --into …` would. See [`job`](mod@crate::job) for an example.
    ///
    /// `args` are anything that serde writes, `()` for none. Parts are encoded and decoded between the steps, and
    /// reduced in a tree. As on a real host there is no environment and nothing to fetch, and a shard's source is its
    /// digest. Time and randomness are the test's own, though.
    ///
    /// # Panics
    ///
    /// When there is no dataset of that name, or `args` have no JSON form.
    pub fn job<J: Job>(self, over: &str, args: impl Serialize) -> Result<Done, Failed> {
        let dataset = self.datasets.get(over).map(Rc::clone);
        let dataset = dataset.unwrap_or_else(|| panic!("the mock host has no dataset {over}"));
        // By way of a value: its keys are sorted. No arguments are `{}`, as on a real host.
        let args = match serde_json::to_value(args).expect("arguments have a JSON form") {
            Value::Null => Value::Object(Default::default()),
            args => args,
        };
        let args = serde_json::to_vec(&args).expect("a value has a JSON form");

        let (result, files) = host::with_job(self, true, || {
            let mut parts = Vec::new();
            for (index, shard) in dataset.shards.iter().enumerate() {
                let handle = host::Shard::new(&dataset, index);
                let step = || format!("map of shard {index} ({})", shard.source);
                parts.push(attempt(step, || J::map(Shard::new(handle), &args))?);
            }
            let total = reduce::<J>(parts, &args)?;
            attempt(|| "finish".to_owned(), || J::finish(&total, &args))
        });
        Ok(Done {
            result: serde_json::from_slice(&result?).expect("finish writes JSON"),
            files,
        })
    }
}

/// Level by level, until one is left.
fn reduce<J: Job>(mut parts: Vec<Vec<u8>>, args: &[u8]) -> Result<Vec<u8>, Failed> {
    let step = || "reduce".to_owned();
    while parts.len() > 1 {
        let groups = parts.chunks(GROUP).map(<[_]>::to_vec);
        parts = groups
            .map(|group| attempt(step, || J::reduce(group, args)))
            .collect::<Result<_, _>>()?;
    }
    parts.pop().ok_or_else(|| Failed {
        step: step(),
        message: "the dataset has no shards".to_owned(),
    })
}

/// A panic is what a trap is to a real host: the end of that step, with a reason.
fn attempt(
    step: impl Fn() -> String,
    work: impl FnOnce() -> Result<Vec<u8>, String>,
) -> Result<Vec<u8>, Failed> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(text_of(&*panic)));
    outcome.map_err(|message| Failed {
        step: step(),
        message,
    })
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a text"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::glue::{self, Infallible as _, Returned};
    use crate::{DataError, Dataset, Error, mock, output};

    /// The attributes' code names this crate from outside, so here it is written out.
    macro_rules! job {
        ($name:ident, $map:expr, $reduce:expr, $finish:expr) => {
            enum $name {}
            impl Job for $name {
                fn map(shard: Shard, args: &[u8]) -> Result<Vec<u8>, String> {
                    glue::map(
                        |shard, args| Returned(glue::Map::call($map, shard, args)?).outcome(),
                        shard,
                        args,
                    )
                }
                fn reduce(parts: Vec<Vec<u8>>, _: &[u8]) -> Result<Vec<u8>, String> {
                    glue::reduce(
                        |shard, args| Returned(glue::Map::call($map, shard, args)?).outcome(),
                        |all, more| Returned($reduce(all, more)).outcome(),
                        parts,
                    )
                }
                fn finish(total: &[u8], args: &[u8]) -> Result<Vec<u8>, String> {
                    glue::finish(
                        |shard, args| Returned(glue::Map::call($map, shard, args)?).outcome(),
                        |total, args| Returned(glue::Finish::call($finish, total, args)?).outcome(),
                        total,
                        args,
                    )
                }
            }
        };
    }

    fn letters() -> mock::Dataset {
        mock::Dataset::new("bytes").shard_bytes(1).file("abc", "abcde")
    }

    fn text(shard: Shard) -> Result<String, Error> {
        Ok(std::io::read_to_string(shard)?)
    }

    fn identity<T>(value: T) -> T {
        value
    }

    #[test]
    fn parts_are_reduced_in_order() {
        fn join(a: String, b: String) -> String {
            a + &b
        }
        job!(Joined, text, join, identity);
        let done = Host::new().dataset("data", letters()).job::<Joined>("data", ());
        assert_eq!(done.unwrap().result, json!("abcde"));
    }

    #[test]
    fn a_failing_shard_is_named() {
        fn picky(shard: Shard) -> Result<(), Error> {
            match text(shard)?.as_str() {
                "c" => Err(std::io::Error::other("c is bad").into()),
                "e" => panic!("e is worse"),
                _ => Ok(()),
            }
        }
        fn nothing(_: (), _: ()) {}
        job!(Picky, picky, nothing, identity);
        let failed = |data| {
            let failed = Host::new().dataset("data", data).job::<Picky>("data", ());
            failed.unwrap_err().to_string()
        };
        assert_eq!(failed(letters()), "map of shard 2 (abc): c is bad");
        let worse = mock::Dataset::new("none").file("x", "a").file("y", "e");
        assert_eq!(failed(worse), "map of shard 1 (y): panicked: e is worse");
        assert_eq!(
            failed(mock::Dataset::new("none")),
            "reduce: the dataset has no shards"
        );
    }

    #[test]
    fn a_job_sees_nothing_that_differs_between_hosts() {
        fn look(shard: Shard) -> Result<bool, Error> {
            assert_eq!(shard.source(), shard.digest().to_string());
            assert_eq!(crate::env("LEVEL"), None);
            assert_eq!(crate::env("PATH"), None);
            assert!(crate::fetch(mock::get("http://localhost/")).is_err());
            Ok(Dataset::open("side")?.len() == 1)
        }
        fn both(a: bool, b: bool) -> bool {
            a && b
        }
        job!(Look, look, both, identity);
        let host = Host::new()
            .env("LEVEL", "info")
            .outgoing(|_| unreachable!())
            .dataset("side", mock::Dataset::new("none").file("s", "s"))
            .dataset("data", letters());
        assert_eq!(host.job::<Look>("data", ()).unwrap().result, json!(true));
    }

    #[test]
    fn what_is_written_is_there_once() {
        fn write(shard: Shard, twice: Option<bool>) -> Result<(), Error> {
            let text = text(shard)?;
            let path = if twice.is_some() {
                "same".to_owned()
            } else {
                format!("out/{text}")
            };
            Ok(output::write(&path, text)?)
        }
        fn nothing(_: (), _: ()) {}
        job!(Write, write, nothing, identity);
        let done = Host::new().dataset("data", letters()).job::<Write>("data", ());
        let files = done.unwrap().files;
        assert_eq!(files.len(), 5);
        assert_eq!(files["out/d"], b"d");
        let twice = Host::new().dataset("data", letters()).job::<Write>("data", true);
        assert_eq!(
            twice.unwrap_err().to_string(),
            "map of shard 1 (abc): the path same was written before"
        );
    }

    #[test]
    fn only_a_job_writes_and_only_to_proper_paths() {
        Host::new().run(|| assert!(matches!(output::write("a", "b"), Err(DataError::Denied(_)))));
        fn write(_: Shard) -> Result<(), Error> {
            for path in ["", "/a", "a/", "a//b", "..", "a/../b", "./a"] {
                assert!(
                    matches!(output::write(path, ""), Err(DataError::Invalid(_))),
                    "{path:?}"
                );
            }
            Ok(())
        }
        fn nothing(_: (), _: ()) {}
        job!(Paths, write, nothing, identity);
        Host::new()
            .dataset("data", letters())
            .job::<Paths>("data", ())
            .unwrap();
    }

    #[test]
    fn arguments_reach_map_and_finish() {
        #[derive(serde::Deserialize)]
        struct Args {
            q: String,
            #[serde(default)]
            plus: u64,
        }
        fn found(shard: Shard, Args { q, .. }: Args) -> Result<u64, Error> {
            Ok(u64::from(text(shard)? == q))
        }
        fn more(found: u64, Args { plus, .. }: Args) -> u64 {
            found + plus
        }
        job!(Found, found, u64::saturating_add, more);
        let run = |args| Host::new().dataset("data", letters()).job::<Found>("data", args);
        assert_eq!(run(json!({ "q": "b", "plus": 4 })).unwrap().result, json!(5));
        assert_eq!(run(json!({ "q": "z" })).unwrap().result, json!(0));
        let message = run(json!(null)).unwrap_err().message;
        assert!(message.contains("missing field `q`"), "{message}");
        let message = run(json!({ "q": 1 })).unwrap_err().message;
        assert!(message.contains("expected a string"), "{message}");
    }

    #[test]
    fn parts_of_any_serde_type_come_back() {
        use std::collections::BTreeMap;

        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(i64),
            Float(f64),
            Text(String),
            Named { left: u8, right: Option<u8> },
        }
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "kind", rename_all = "kebab-case")]
        enum Tagged {
            OneThing { at: u32 },
            Nothing,
        }
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Inner {
            #[serde(skip_serializing_if = "Option::is_none")]
            absent: Option<u8>,
            #[serde(flatten)]
            rest: BTreeMap<String, Either>,
        }
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Part {
            #[serde(flatten)]
            inner: Inner,
            tagged: Vec<Tagged>,
            pairs: BTreeMap<(u8, String), [f32; 2]>,
            result: Result<char, ()>,
            infinite: f64,
            big: u64,
            bytes: Vec<u8>,
        }
        fn part() -> Part {
            let rest = [
                ("n", Either::Number(-7)),
                ("f", Either::Float(0.1)),
                ("t", Either::Text("ö".into())),
                ("s", Either::Named { left: 1, right: None }),
            ];
            Part {
                inner: Inner {
                    absent: None,
                    rest: rest
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect(),
                },
                tagged: vec![Tagged::OneThing { at: 9 }, Tagged::Nothing],
                pairs: [((1, "a".to_owned()), [0.5, -1.0])].into(),
                result: Ok('x'),
                infinite: f64::NEG_INFINITY,
                big: u64::MAX,
                bytes: vec![0, 127, 128, 255],
            }
        }
        fn make(_: Shard) -> Part {
            part()
        }
        fn same(a: Part, b: Part) -> Part {
            assert_eq!((&a, &b), (&part(), &part()));
            a
        }
        fn checked(total: Part) -> bool {
            total == part()
        }
        job!(Any, make, same, checked);
        let done = Host::new().dataset("data", letters()).job::<Any>("data", ());
        assert_eq!(done.unwrap().result, json!(true));
    }
}
