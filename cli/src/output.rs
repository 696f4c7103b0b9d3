//! What users see: results on stdout, as text or as one JSON value; notices and progress on stderr, and
//! only where a person looks at it.

use std::io::{self, IsTerminal, StdoutLock, Write};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nearfield_protocol::Digest;
use nearfield_protocol::units::format_bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::visible::{visible, visible_json, visible_line};

#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// The result: `value` itself, or what `human` says of it. Fields that this build does not know stay in JSON.
    pub fn show<T: DeserializeOwned>(&self, value: &Value, human: impl FnOnce(T) -> String) -> Result<()> {
        if self.json {
            return self.json_text(value);
        }
        let known = serde_json::from_value(value.clone())
            .context("the node's answer is not what this build expects; are both of the same version?")?;
        self.text(&human(known))
    }

    /// The same when nothing has to be read from `value`.
    pub fn show_as(&self, value: &Value, human: impl FnOnce() -> String) -> Result<()> {
        match self.json {
            true => self.json_text(value),
            false => self.text(&human()),
        }
    }

    fn json_text(&self, value: &Value) -> Result<()> {
        let mut stdout = stdout();
        writeln!(stdout, "{}", visible_json(&format!("{value:#}")))?;
        Ok(stdout.flush()?)
    }

    /// Text on stdout, ended by one line end.
    pub fn text(&self, text: &str) -> Result<()> {
        let mut stdout = stdout();
        if !text.is_empty() {
            writeln!(stdout, "{}", visible(text.trim_end()))?;
        }
        Ok(stdout.flush()?)
    }

    /// The text that a command was asked for, such as a job's result. A program or a file gets it unchanged, with one line end; a
    /// terminal gets it with its control characters written out.
    pub fn data(&self, text: &str) -> Result<()> {
        if io::stdout().is_terminal() {
            return self.text(text);
        }
        let mut stdout = stdout();
        writeln!(stdout, "{}", text.trim_end())?;
        Ok(stdout.flush()?)
    }

    /// Something a person may want to know meanwhile.
    pub fn notice(&self, text: &str) {
        if io::stderr().is_terminal() {
            eprintln!("{}", visible(text));
        }
    }

    /// A line that somebody needs for the next step, on standard error wherever that goes. A reader of JSON has it there.
    pub fn report(&self, text: &str) {
        if !self.json {
            eprintln!("{}", visible_line(text));
        }
    }

    /// A line that must be known, whoever looks.
    pub fn warn(&self, text: &str) {
        eprintln!("note: {}", visible_line(text));
    }

    /// Bytes with rate and, if the total is known, the time left.
    pub fn bytes_bar(&self, total: Option<u64>) -> ProgressBar {
        const KNOWN: &str = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left {msg}";
        const UNKNOWN: &str = "{spinner} {bytes} {bytes_per_sec}";
        let bar = ProgressBar::with_draw_target(total, target());
        bar.with_style(style(if total.is_some() { KNOWN } else { UNKNOWN }))
    }

    /// One line that changes.
    pub fn spinner(&self) -> ProgressBar {
        ProgressBar::with_draw_target(None, target()).with_style(style("{spinner} {wide_msg}"))
    }
}

/// Standard output.
pub fn stdout() -> Leaving<StdoutLock<'static>> {
    Leaving(io::stdout().lock())
}

/// A pipe or what may be one: that its reader left is told apart from all other pipes that break.
pub struct Leaving<W>(pub W);

/// Nobody reads on, as in `nearfield ls … | head`: nobody is left to tell, and nothing went wrong.
#[derive(Debug)]
pub struct ReaderLeft;

impl std::fmt::Display for ReaderLeft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("whoever read this has left")
    }
}

impl std::error::Error for ReaderLeft {}

/// Whether it was our reader that left.
pub fn is_reader_left(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<ReaderLeft>())
}

fn leaving(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, ReaderLeft),
        _ => error,
    }
}

impl<W: Write> Write for Leaving<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(leaving)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(leaving)
    }
}

fn target() -> ProgressDrawTarget {
    if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Columns as wide as their widest cell; the last is not padded. Each row is one line, whatever its cells hold.
pub fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_uppercase))
        .chain(rows)
        .map(|row| row.map(|cell| visible_line(&cell).into_owned()))
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Lines `name: value` in this order, JSON below a name indented; sizes and times in people's units by the ending of their key.
pub fn page(fields: &[(&str, Value)]) -> String {
    let mut text = String::new();
    for (name, value) in fields.iter().filter(|(_, value)| *value != "") {
        field(&mut text, name, value, 0);
    }
    text
}

fn field(text: &mut String, name: &str, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let children = match value {
        Value::Object(fields) => fields.len(),
        Value::Array(items) => items.len(),
        Value::Null => 0,
        leaf => {
            let units = ["_unix_ms", "_bytes"];
            let named = units
                .iter()
                .find_map(|unit| name.strip_suffix(unit))
                .unwrap_or(name);
            text.push_str(&format!("{indent}{}: {}\n", worded(named), scalar(name, leaf)));
            return;
        }
    };
    if children > 0 {
        let mut inner = String::new();
        branch(&mut inner, value, depth + 1);
        if !inner.is_empty() {
            text.push_str(&format!("{indent}{}:\n{inner}", worded(name)));
        }
    }
}

fn branch(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                field(text, name, value, depth);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                branch(&mut inner, item, depth + 1);
                // The first line's indentation makes room for the dash.
                text.push_str(&format!("{indent}- {}\n", inner.trim()));
            }
        }
        leaf => text.push_str(&format!("{indent}{}\n", scalar("", leaf))),
    }
}

/// A field's name, which may be a key that somebody chose.
fn worded(name: &str) -> String {
    visible_line(&name.replace('_', " ")).into_owned()
}

/// A value on one line: those that end one, such as a CSV header, lose its end.
fn scalar(key: &str, value: &Value) -> String {
    match (value, value.as_u64()) {
        (Value::String(text), _) => visible_line(text.trim_end_matches(['\r', '\n'])).into_owned(),
        (_, Some(bytes)) if key.ends_with("bytes") => format_bytes(bytes),
        (_, Some(unix_ms)) if key.ends_with("unix_ms") => format!("{} UTC", utc_minute(unix_ms)),
        _ => value.to_string(),
    }
}

/// `2026-11-23 03:36:25.120`, in UTC; cut it where less will do.
pub fn utc(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03}",
        ms % 1000
    )
}

/// The beginning of a digest, as tables show it and as every verb that takes a digest takes it back.
pub fn short_digest(digest: &Digest) -> String {
    format!("b3:{}", digest.short())
}

/// `1 shard`, `2 shards`.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// To the minute, for tables.
pub fn utc_minute(unix_ms: u64) -> String {
    utc(unix_ms)[..16].to_owned()
}

/// Days since 1970 as year, month, day: Howard Hinnant, "chrono-compatible low-level date algorithms".
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_the_calendars() {
        assert_eq!(utc(0), "1970-01-01 00:00:00.000");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(utc(1_795_405_000_123), "2026-11-23 03:36:40.123");
    }

    #[test]
    fn tables_align() {
        let text = table(
            ["name", "size"],
            [["a".into(), "1".into()], ["longer".into(), "22".into()]],
        );
        assert_eq!(text, "NAME    SIZE\na       1\nlonger  22\n");
    }

    #[test]
    fn what_others_name_makes_no_lines() {
        let text = table(
            ["name", "size"],
            [["a\nb  1".into(), "1".into()], ["c\td".into(), "22".into()]],
        );
        assert_eq!(text, "NAME        SIZE\na\\u{a}b  1  1\nc\\u{9}d     22\n");
        let env = json!({ "A\nurl": "x\nurl: y", "list": ["a,b\r\n", "c\nd"] });
        assert_eq!(
            page(&[("env", env)]),
            "env:\n  A\\u{a}url: x\\u{a}url: y\n  list:\n    - a,b\n    - c\\u{a}d\n"
        );
    }

    #[test]
    fn pages_keep_their_order_and_leave_out_what_is_not_there() {
        let list = json!([{ "a": 1, "size_bytes": 2 }, { "put_unix_ms": 0 }, "text"]);
        let fields = [
            ("name", json!("f")),
            ("code_bytes", json!(4096)),
            ("none", json!([])),
            ("of none", json!({ "none": [], "null": null })),
            ("null", Value::Null),
            ("empty", json!("")),
            ("a list", list),
        ];
        let text = "name: f\ncode: 4.0 KiB\na list:\n  - a: 1\n    size: 2 B\n  - put: 1970-01-01 00:00 UTC\n  - text\n";
        assert_eq!(page(&fields), text);
    }
}
