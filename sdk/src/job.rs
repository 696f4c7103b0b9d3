//! Jobs: a function over each shard of a dataset, and what makes one result of them all.
//!
//! `nearfield run words --over notes --args '{"least": 2}'` calls [`map`](macro@crate::map) once for each shard, on a
//! host that holds it, then [`reduce`](macro@crate::reduce) until one part is left, then
//! [`finish`](macro@crate::finish), whose JSON is the result.
//!
//! ```
//! use std::collections::BTreeMap;
//! use nearfield::{Result, Shard};
//!
//! type Words = BTreeMap<String, u64>;
//!
//! #[nearfield::map]
//! fn words(shard: Shard) -> Result<Words> {
//!     let mut words = Words::new();
//!     for line in shard.lines() {
//!         for word in line?.split_whitespace() {
//!             *words.entry(word.to_owned()).or_default() += 1;
//!         }
//!     }
//!     Ok(words)
//! }
//!
//! #[nearfield::reduce]
//! fn add(mut all: Words, more: Words) -> Words {
//!     for (word, count) in more {
//!         *all.entry(word).or_default() += count;
//!     }
//!     all
//! }
//!
//! #[derive(serde::Deserialize)]
//! struct Args { least: Option<u64> }
//!
//! #[nearfield::finish]
//! fn often(mut words: Words, Args { least }: Args) -> Words {
//!     words.retain(|_, count| *count >= least.unwrap_or(1));
//!     words
//! }
//!
//! // The whole job in a native test: the function that has `map` names it.
//! use nearfield::mock;
//! let notes = mock::Dataset::new("lines").shard_bytes(4).file("a.txt", "to be\nor not\nto be\n");
//! let done = mock::Host::new()
//!     .dataset("notes", notes)
//!     .job::<words>("notes", serde_json::json!({ "least": 2 }))
//!     .unwrap();
//! assert_eq!(done.result, serde_json::json!({ "be": 2, "to": 2 }));
//! ```
//!
//! **What travels.** `A`, what `map` returns, is any type that serde can write and read. It goes from host to host as
//! MessagePack with named fields, so enums without tags and flattened structs work, too. Many bytes are best a
//! `serde_bytes::ByteBuf`: a `Vec<u8>` travels as numbers. Without a `reduce`, `A` is `()`: such a job only writes
//! [`output`](crate::output). Without a `finish`, the result is the last `A` as JSON.
//!
//! **Arguments.** `map` and `finish` may take a second parameter, read from the job's JSON. No arguments are the same
//! as `{}`; a type that does not take `{}` is read from `null`, so that structs with defaults and `Option`s work.
//!
//! **Order.** Parts are reduced in the order of their shards, but grouped as the host likes, so `reduce` must be
//! associative: `(a + b) + c` is `a + (b + c)`.
//!
//! **The same bytes everywhere.** Hosts remember results, so a job sees nothing that could differ: clocks stand still,
//! randomness is seeded from the work itself, there is no environment, network or file, and
//! [`Shard::source`](crate::Shard::source) is the shard's digest. The order of a `HashMap` is fixed by that seeded
//! randomness only, and differs from shard to shard: return a `BTreeMap` or a sorted `Vec`.
//!
//! **Failure.** An `Err` or a panic ends the job, or skips the shard where the job was told to. It is reported with the
//! shard, and the error's text with its causes. `nearfield replay JOB --shard N --native`, in the crate's folder, runs
//! `map` on that shard as an ordinary program, under a debugger if you like.
//!
//! The three stand in one module, and a component has one job. It may have an [`http`](macro@crate::http) as well.
//! `map` also defines a type of its function's name, which is how tests name the job.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result, Shard};

/// A whole job as hosts see it: bytes in, bytes out. [`map`](macro@crate::map) implements it.
pub trait Job {
    /// A shard's part.
    fn map(shard: Shard, args: &[u8]) -> Result<Vec<u8>, String>;
    /// One part of many.
    fn reduce(parts: Vec<Vec<u8>>, args: &[u8]) -> Result<Vec<u8>, String>;
    /// The result, as JSON.
    fn finish(total: &[u8], args: &[u8]) -> Result<Vec<u8>, String>;
}

/// What the attributes' code is made of.
#[doc(hidden)]
pub mod glue {
    use super::*;

    /// A map's function: of a shard, or of a shard and arguments. `Parameters` only keeps the two apart.
    #[diagnostic::on_unimplemented(
        message = "a map takes a `Shard`, or a `Shard` and arguments that implement `Deserialize`",
        label = "this function has other parameters"
    )]
    pub trait Map<Parameters> {
        type Returned;
        fn call(self, shard: Shard, args: &[u8]) -> Result<Self::Returned>;
    }

    impl<F: FnOnce(Shard) -> R, R> Map<(Shard,)> for F {
        type Returned = R;
        fn call(self, shard: Shard, _: &[u8]) -> Result<R> {
            Ok(self(shard))
        }
    }

    impl<F: FnOnce(Shard, Args) -> R, Args: DeserializeOwned, R> Map<(Shard, Args)> for F {
        type Returned = R;
        fn call(self, shard: Shard, args: &[u8]) -> Result<R> {
            Ok(self(shard, arguments(args)?))
        }
    }

    /// A finish's function: of the total, or of the total and arguments.
    #[diagnostic::on_unimplemented(
        message = "a finish takes a `{A}`, or a `{A}` and arguments that implement `Deserialize`",
        label = "this function has other parameters",
        note = "`{A}` is what the map returns"
    )]
    pub trait Finish<A, Parameters> {
        type Returned;
        fn call(self, total: A, args: &[u8]) -> Result<Self::Returned>;
    }

    impl<F: FnOnce(A) -> R, A, R> Finish<A, (A,)> for F {
        type Returned = R;
        fn call(self, total: A, _: &[u8]) -> Result<R> {
            Ok(self(total))
        }
    }

    impl<F: FnOnce(A, Args) -> R, A, Args: DeserializeOwned, R> Finish<A, (A, Args)> for F {
        type Returned = R;
        fn call(self, total: A, args: &[u8]) -> Result<R> {
            Ok(self(total, arguments(args)?))
        }
    }

    /// What a function returned. [`outcome`](Self::outcome) takes a `Result` apart and leaves all else as it is: the
    /// method of the type is found before the one of the trait.
    pub struct Returned<R>(pub R);

    impl<A, E> Returned<Result<A, E>> {
        pub fn outcome(self) -> Result<A>
        where
            E: Into<Error>,
        {
            self.0.map_err(Into::into)
        }
    }

    pub trait Infallible {
        type Value;
        fn outcome(self) -> Result<Self::Value>;
    }

    impl<A> Infallible for Returned<A> {
        type Value = A;
        fn outcome(self) -> Result<A> {
            Ok(self.0)
        }
    }

    /// A map with everything decided but its shard and arguments. It says what `A` is.
    pub fn map<A: Serialize>(
        map: impl FnOnce(Shard, &[u8]) -> Result<A>,
        shard: Shard,
        args: &[u8],
    ) -> Result<Vec<u8>, String> {
        told(map(shard, args).and_then(|part| encode(&part)))
    }

    /// Folds parts from the left. `_map` is never called.
    pub fn reduce<A: Serialize + DeserializeOwned>(
        _map: impl FnOnce(Shard, &[u8]) -> Result<A>,
        mut reduce: impl FnMut(A, A) -> Result<A>,
        mut parts: Vec<Vec<u8>>,
    ) -> Result<Vec<u8>, String> {
        // A lone part is its own sum.
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let mut parts = parts.into_iter();
        let Some(first) = parts.next() else {
            return Err("there are no parts to reduce".to_owned());
        };
        let fold = |all: A, part: Vec<u8>| reduce(all, decode(&part)?);
        told(
            decode(&first)
                .and_then(|first| parts.try_fold(first, fold))
                .and_then(|all| encode(&all)),
        )
    }

    /// The result as JSON. `_map` is never called.
    pub fn finish<A: DeserializeOwned, R: Serialize>(
        _map: impl FnOnce(Shard, &[u8]) -> Result<A>,
        finish: impl FnOnce(A, &[u8]) -> Result<R>,
        total: &[u8],
        args: &[u8],
    ) -> Result<Vec<u8>, String> {
        told(
            decode(total)
                .and_then(|total| finish(total, args))
                .and_then(|result| Ok(serde_json::to_vec(&result)?)),
        )
    }

    fn told(result: Result<Vec<u8>>) -> Result<Vec<u8>, String> {
        result.map_err(|error| error.to_string())
    }

    /// The job's arguments. None are `{}`, which an `Option` or a list does not take: it is offered `null` then. What is
    /// wrong with `{}` is what the author's user wants to read ("missing field `q`").
    fn arguments<Args: DeserializeOwned>(json: &[u8]) -> Result<Args> {
        let read = serde_json::from_slice(json).or_else(|error| match json {
            b"{}" => serde_json::from_slice(b"null").map_err(|_| error),
            _ => Err(error),
        });
        read.map_err(|error| Error::bad_request(format!("the job's arguments: {error}")))
    }

    /// Self-describing, so that every serde type comes back as it was.
    fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
        rmp_serde::to_vec_named(value)
            .map_err(|error| Error::bad_request(format!("a part can't be written: {error}")))
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
        rmp_serde::from_slice(bytes)
            .map_err(|error| Error::bad_request(format!("a part can't be read: {error}")))
    }
}

/// What stands in for an attribute that a module does not have. `map` imports all of it, and the names that `reduce`
/// and `finish` define come before a glob's.
#[doc(hidden)]
pub mod defaults {
    #[diagnostic::on_unimplemented(
        message = "a job whose map returns `{Self}` needs a reduce",
        label = "this map has no `#[nearfield::reduce]` beside it",
        note = "add `#[nearfield::reduce] fn merge(a: {Self}, b: {Self}) -> {Self}` to the same module, or return `()`"
    )]
    pub trait NeedsNoReduce {}
    impl NeedsNoReduce for () {}

    pub fn __nearfield_reduce<A: NeedsNoReduce>(all: A, _: A) -> A {
        all
    }

    pub fn __nearfield_finish<A>(total: A) -> A {
        total
    }
}

/// What the attributes refuse, each with a word of the reason.
///
/// A part that needs a reduce:
/// ```compile_fail,E0277
/// #[nearfield::map]
/// fn count(shard: nearfield::Shard) -> u64 { shard.size() }
/// # fn main() {}
/// ```
///
/// A reduce, or a finish, without a map beside it:
/// ```compile_fail,E0425
/// #[nearfield::reduce]
/// fn add(a: u64, b: u64) -> u64 { a + b }
/// # fn main() {}
/// ```
/// ```compile_fail,E0425
/// #[nearfield::map]
/// fn nothing(_: nearfield::Shard) {}
/// mod elsewhere {
///     #[nearfield::finish]
///     fn zero(_: ()) -> u64 { 0 }
/// }
/// # fn main() {}
/// ```
///
/// A reduce of another type:
/// ```compile_fail,E0308
/// #[nearfield::map]
/// fn count(shard: nearfield::Shard) -> u64 { shard.size() }
/// #[nearfield::reduce]
/// fn add(a: u32, b: u32) -> u32 { a + b }
/// # fn main() {}
/// ```
///
/// An error without causes to tell, here a text:
/// ```compile_fail,E0277
/// #[nearfield::map]
/// fn fail(_: nearfield::Shard) -> Result<(), String> { Err("no".into()) }
/// # fn main() {}
/// ```
///
/// Two jobs in one module, and parameters of other kinds:
/// ```compile_fail,E0428
/// #[nearfield::map]
/// fn one(_: nearfield::Shard) {}
/// #[nearfield::map]
/// fn two(_: nearfield::Shard) {}
/// # fn main() {}
/// ```
/// ```compile_fail,E0277
/// #[nearfield::map]
/// fn path(_: String) {}
/// # fn main() {}
/// ```
///
/// All three with every form of parameters and results:
/// ```
/// mod plain {
///     #[nearfield::map]
///     pub(super) fn size(shard: nearfield::Shard) -> u64 { shard.size() }
///     #[nearfield::reduce]
///     fn add(a: u64, b: u64) -> u64 { a + b }
/// }
/// mod failing {
///     use nearfield::{Error, Result};
///     #[nearfield::map]
///     pub fn size(shard: nearfield::Shard, least: Option<u64>) -> std::io::Result<u64> {
///         Ok(shard.size().max(least.unwrap_or(0)))
///     }
///     #[nearfield::reduce]
///     fn add(a: u64, b: u64) -> Result<u64> {
///         a.checked_add(b).ok_or_else(|| Error::bad_request("too much"))
///     }
///     #[nearfield::finish]
///     fn tell(sum: u64, least: Option<u64>) -> Result<(u64, Option<u64>)> { Ok((sum, least)) }
/// }
/// use nearfield::mock;
/// let data = || mock::Dataset::new("bytes").shard_bytes(2).file("f", "12345");
/// let host = || mock::Host::new().dataset("data", data());
/// assert_eq!(host().job::<plain::size>("data", ()).unwrap().result, 5);
/// assert_eq!(host().job::<failing::size>("data", 2).unwrap().result, serde_json::json!([6, 2]));
/// let failed = host().job::<failing::size>("data", u64::MAX / 2).unwrap_err();
/// assert_eq!(failed.to_string(), "reduce: too much");
/// ```
#[cfg(doctest)]
mod attributes {}
