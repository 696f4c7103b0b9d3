//! Logs: one JSON line each on stderr, where the host collects them.
//!
//! ```
//! let path = "app.log";
//! nearfield::info!("reading {path}", bytes = 4096, cached = true);
//! // {"level":"info","message":"reading app.log","bytes":4096,"cached":true}
//! ```

use std::fmt;
use std::io::Write;

use serde::Serialize;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// What a line may carry beside its text; every `Serialize` value can.
pub trait Field {
    fn write_json(&self, out: &mut Vec<u8>) -> serde_json::Result<()>;
}

impl<T: Serialize + ?Sized> Field for T {
    fn write_json(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(out, self)
    }
}

/// Writes a line. [`info!`](crate::info) and its siblings are shorter.
pub fn write(level: Level, message: fmt::Arguments<'_>, fields: &[(&str, &dyn Field)]) {
    let mut text = line(level, message, fields);
    text.push(b'\n');
    // A host may close the log when it is full; that is no reason to fail a call.
    let _ = std::io::stderr().write_all(&text);
}

fn line(level: Level, message: fmt::Arguments<'_>, fields: &[(&str, &dyn Field)]) -> Vec<u8> {
    let level = match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    let mut out = Vec::with_capacity(256);
    out.push(b'{');
    let standard: [(&str, &dyn Field); 2] = [("level", &level), ("message", &message)];
    for (name, value) in standard.iter().chain(fields) {
        if out.len() > 1 {
            out.push(b',');
        }
        let start = out.len();
        let written = name.write_json(&mut out).and_then(|()| {
            out.push(b':');
            value.write_json(&mut out)
        });
        if written.is_err() {
            // A value that has no JSON form: the line stays valid without it.
            out.truncate(start);
            out.extend_from_slice(b"\"unserialisable\":true");
        }
    }
    out.push(b'}');
    out
}

/// A line of level `debug`; see [`log`](mod@crate::log).
#[macro_export]
macro_rules! debug {
    ($($line:tt)*) => { $crate::__log!(Debug, $($line)*) };
}

/// A line of level `info`; see [`log`](mod@crate::log).
#[macro_export]
macro_rules! info {
    ($($line:tt)*) => { $crate::__log!(Info, $($line)*) };
}

/// A line of level `warn`; see [`log`](mod@crate::log).
#[macro_export]
macro_rules! warn {
    ($($line:tt)*) => { $crate::__log!(Warn, $($line)*) };
}

/// A line of level `error`; see [`log`](mod@crate::log).
#[macro_export]
macro_rules! error {
    ($($line:tt)*) => { $crate::__log!(Error, $($line)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $text:literal $(, $key:ident = $value:expr)* $(,)?) => {
        $crate::log::write(
            $crate::log::Level::$level,
            ::core::format_args!($text),
            &[$((::core::stringify!($key), &$value as &dyn $crate::log::Field)),*],
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_whatever_it_carries() {
        let fields: [(&str, &dyn Field); 2] = [("path", &"a\"b"), ("took_ms", &3)];
        let text = line(Level::Info, format_args!("read\n{}", 1), &fields);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            r#"{"level":"info","message":"read\n1","path":"a\"b","took_ms":3}"#
        );
    }
}
