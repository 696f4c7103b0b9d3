//! Values with a syntax of their own.

use std::str::FromStr;

use clap::builder::{OsStringValueParser, TypedValueParser};
use nearfield_gpu::wire::Choice;
use nearfield_protocol::job::check_integers;
use nearfield_protocol::units::parse_count;
use nearfield_protocol::{DatasetName, Digest, FunctionName, JobId, ParseSplitError, Split};

use crate::source::Source;

/// `KIND/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    Function(FunctionName),
    Dataset(DatasetName),
    Job(JobId),
    Token(String),
    Node(String),
}

impl FromStr for Thing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("`{text}` is not function/NAME, dataset/NAME, job/ID, token/ID or node/ID");
        let (kind, name) = text.split_once('/').ok_or_else(expected)?;
        Ok(match kind {
            "function" => Thing::Function(name.parse().map_err(shown)?),
            "dataset" => Thing::Dataset(name.parse().map_err(shown)?),
            "job" => Thing::Job(job_id(name)?),
            "token" if !name.is_empty() => Thing::Token(name.to_owned()),
            "node" if !name.is_empty() => Thing::Node(name.to_owned()),
            _ => return Err(expected()),
        })
    }
}

/// Which GPU functions may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpu {
    Off,
    On(Choice),
}

impl FromStr for Gpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "" => return Err("auto, hardware, software, off, or a part of an adapter's name".to_owned()),
            "off" => Gpu::Off,
            "auto" => Gpu::On(Choice::Best),
            "hardware" => Gpu::On(Choice::Hardware),
            "software" => Gpu::On(Choice::Software),
            name => Gpu::On(Choice::Named(name.to_owned())),
        })
    }
}

/// What a rollback brings back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolledBack {
    Function(FunctionName),
    Dataset(DatasetName),
}

impl FromStr for RolledBack {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            None => Ok(RolledBack::Function(text.parse().map_err(shown)?)),
            Some(("function", name)) => Ok(RolledBack::Function(name.parse().map_err(shown)?)),
            Some(("dataset", name)) => Ok(RolledBack::Dataset(name.parse().map_err(shown)?)),
            Some(_) => Err(format!("`{text}` is not FUNCTION, function/NAME or dataset/NAME")),
        }
    }
}

/// Whose log to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logged {
    Function(FunctionName),
    Job(JobId),
}

impl FromStr for Logged {
    type Err = String;

    /// What looks like a job's id is one: a function of such a name is not to be had here.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(job) = text.parse() {
            return Ok(Logged::Job(job));
        }
        Ok(Logged::Function(text.parse().map_err(shown)?))
    }
}

/// `b3:` and up to 64 digits: the node knows whose beginning they are.
pub fn digest_or_beginning(text: &str) -> Result<String, String> {
    match text.strip_prefix("b3:") {
        Some(hex) if hex.len() < 64 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            Ok(text.to_owned())
        }
        _ => text
            .parse::<Digest>()
            .map(|digest| digest.to_string())
            .map_err(shown),
    }
}

pub(super) fn job_id(id: &str) -> Result<JobId, String> {
    id.parse().map_err(|_| {
        format!("`{id}` is no job's id: `nearfield ls jobs` shows them, 32 hexadecimal digits each")
    })
}

/// What a token may call: `F` or `F@b3:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenScope {
    pub function: FunctionName,
    /// A digest or its beginning.
    pub component: Option<String>,
}

impl FromStr for TokenScope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (function, component) = match text.split_once('@') {
            Some((function, digest)) => (function, Some(digest_or_beginning(digest)?)),
            None => (text, None),
        };
        Ok(TokenScope {
            function: function.parse().map_err(shown)?,
            component,
        })
    }
}

/// Checked here, sent as it was typed: only the node sees enough to know what `auto` means.
pub(super) fn split(text: &str) -> Result<String, ParseSplitError> {
    if text != "auto" {
        text.parse::<Split>()?;
    }
    Ok(text.to_owned())
}

/// Paths need not be UTF-8; URLs must be.
pub(super) fn source() -> impl TypedValueParser<Value = Source> {
    OsStringValueParser::new().try_map(Source::parse)
}

pub(super) fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("`{text}` is not KEY:VALUE")),
    }
}

pub(super) fn fuel_per_day(text: &str) -> Result<u64, String> {
    let count = text
        .strip_suffix("/day")
        .ok_or_else(|| format!("`{text}` is not a count a day, such as 1T/day"))?;
    parse_count(count).map_err(shown)
}

pub(super) fn parse_fuel(text: &str) -> Result<u64, String> {
    parse_count(text).map_err(shown)
}

/// JSON, or `@FILE` that holds some.
pub(super) fn json_argument(text: &str) -> Result<serde_json::Value, String> {
    let text = match text.strip_prefix('@') {
        Some(path) => &std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?,
        None => text,
    };
    let value = serde_json::from_str(text).map_err(|error| format!("this is no JSON: {error}"))?;
    check_integers(text).map_err(shown)?;
    Ok(value)
}

/// `1%`, as a fraction.
pub(super) fn percentage(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    match number.parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err(format!("`{text}` is not a percentage above 0% and up to 100%")),
    }
}

/// `fail` or `skip:N`: how many shards may fail.
pub(super) fn on_error(text: &str) -> Result<u32, String> {
    match text.split_once(':') {
        None if text == "fail" => Ok(0),
        Some(("skip", count)) => count
            .parse()
            .map_err(|_| format!("`{count}` is no number of shards")),
        _ => Err(format!("`{text}` is neither `fail` nor `skip:N`")),
    }
}

fn shown(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_and_scopes_are_checked_while_typed() {
        assert_eq!(
            "dataset/app/logs".parse(),
            Ok(Thing::Dataset("app/logs".parse().unwrap()))
        );
        for bad in ["hello", "function/", "function/a/b", "pin/x", "token/", "job/17"] {
            assert!(bad.parse::<Thing>().is_err(), "{bad}");
        }
        let id = "019ab1f04c3d7e52a8c06b9d2f41e730";
        assert!(matches!(format!("job/{id}").parse(), Ok(Thing::Job(_))));
        assert!(matches!(id.parse(), Ok(Logged::Job(_))));
        assert!(matches!("hello".parse(), Ok(Logged::Function(_))));
        let pinned = format!("hello@{}", Digest::EMPTY);
        assert_eq!(
            pinned.parse::<TokenScope>().unwrap().component,
            Some(Digest::EMPTY.to_string())
        );
        assert!("hello@b3:af1349b9f5".parse::<TokenScope>().is_ok());
        assert!("hello@x".parse::<TokenScope>().is_err() && "hello@b3:xy".parse::<TokenScope>().is_err());
        for (text, dataset) in [
            ("hello", false),
            ("function/hello", false),
            ("dataset/app/logs", true),
        ] {
            let is_dataset = matches!(text.parse(), Ok(RolledBack::Dataset(_)));
            assert_eq!(
                (text.parse::<RolledBack>().is_ok(), is_dataset),
                (true, dataset),
                "{text}"
            );
        }
        assert!("job/1".parse::<RolledBack>().is_err());
        assert_eq!(fuel_per_day("1T/day"), Ok(1_000_000_000_000));
        assert!(fuel_per_day("1T").is_err());
        assert_eq!(json_argument("[1]"), Ok(serde_json::json!([1])));
        let rounded = json_argument("[18446744073709551617]").unwrap_err();
        assert!(rounded.contains("18446744073709551617"), "{rounded}");
        assert_eq!(percentage("1%"), Ok(0.01));
        assert!(percentage("0%").is_err() && percentage("101%").is_err() && percentage("x").is_err());
        assert_eq!((on_error("fail"), on_error("skip:3")), (Ok(0), Ok(3)));
        assert!(on_error("skip").is_err() && on_error("skip:-1").is_err());
    }
}
