//! What bytes from outside are read by here, each as a function of any bytes that panics where something does not hold.

use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::call::{CallReport, CallSpec};
use crate::http::DeclaredLength;
use crate::job::{self, PureFailure, PureReport, PureSpec, Shape};
use crate::manifest::{FunctionManifest, HostPort, ManifestFile, Origin, Route, Template};
use crate::meta::DatasetMeta;
use crate::node::{Label, NodeRecord, Role};
use crate::records::{DatasetRecord, FunctionRecord, RecordKey, TokenRecord};
use crate::said::SAID_BYTES;
use crate::{
    CallId, DatasetName, Digest, FunctionName, JobId, NodeId, PartName, Problem, Split, limits, units,
};

/// A `nearfield.toml`: what is taken keeps its bounds and comes back from a record.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match ManifestFile::parse(text) {
        Ok(file) => {
            for entry in file.function.values() {
                assert_eq!(entry.manifest.check(), Ok(()));
                assert!(entry.manifest.inputs.len() <= limits::INPUTS);
                json::<FunctionManifest>(&serde_json::to_vec(&entry.manifest).unwrap()).unwrap();
            }
        }
        Err(error) => {
            let span = error.span.unwrap_or(0..0);
            assert!(span.start <= span.end && span.end <= text.len() + 1);
        }
    }
}

/// Names, ids and quantities as people type them and messages carry them: what is taken is written so that it is read again,
/// and what names something has one spelling.
pub fn words(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let same = |written: Option<String>| assert!(written.is_none_or(|written| written == text));
    same(word::<FunctionName>(text));
    same(word::<DatasetName>(text));
    same(word::<PartName>(text));
    same(word::<Role>(text));
    same(word::<Label>(text));
    let same_but_for_case =
        |written: Option<String>| assert!(written.is_none_or(|written| written.eq_ignore_ascii_case(text)));
    same_but_for_case(word::<Digest>(text));
    same_but_for_case(word::<NodeId>(text));
    same_but_for_case(word::<CallId>(text));
    same_but_for_case(word::<JobId>(text));
    word::<Split>(text);
    if let Some(host) = word::<HostPort>(text) {
        assert!(host.len() <= 253 + 8);
    }
    if let Ok(route) = Route::try_from(text.to_owned()) {
        assert!(route.as_str() == text && text.len() <= limits::ROUTE_BYTES);
        assert!(route.shape().starts_with('/') && route.parameters().all(|name| !name.is_empty()));
    }
    if let Ok(origin) = text.parse::<Origin>() {
        assert_eq!(String::from(origin), text);
    }
    if let Ok(template) = Template::try_from(text.to_owned()) {
        let echo = |name: &str| Some(Cow::Owned(name.to_owned()));
        assert!(template.fill("rest", echo, echo).is_some());
    }
    if let Ok(bytes) = units::parse_bytes(text) {
        assert_eq!(units::parse_bytes(&units::exact_bytes(bytes)), Ok(bytes));
    }
    if let Ok(count) = units::parse_count(text) {
        assert_eq!(units::parse_count(&units::exact_count(count)), Ok(count));
    }
    if let Ok(duration) = units::parse_duration(text) {
        assert_eq!(
            units::parse_duration(&units::exact_duration(duration)),
            Ok(duration)
        );
    }
}

/// The meta of a dataset, of any version.
pub fn meta(bytes: &[u8]) {
    let Ok(meta) = DatasetMeta::decode(bytes) else {
        return;
    };
    let encoded = meta.encode();
    assert_eq!(DatasetMeta::decode(&encoded).as_ref().ok(), Some(&meta));
    assert!(encoded.len() <= bytes.len(), "an honest writer never needs more");
    assert!(
        DatasetMeta::decode(&[bytes, &[0]].concat()).is_err(),
        "nothing stands behind it"
    );
    if let Some(key) = &meta.key {
        for (shard, range) in key.ranges.iter().enumerate() {
            assert_eq!(key.shard_of(&range.min), Some(shard as u32));
            assert_eq!(key.shard_of(&range.max), Some(shard as u32));
        }
    }
}

/// A record's key, which has one spelling.
pub fn record_key(bytes: &[u8]) {
    if let Some(key) = RecordKey::decode(bytes) {
        assert_eq!(key.encode(), bytes);
    }
}

/// A record's value, of any kind.
pub fn record(bytes: &[u8]) {
    json::<FunctionRecord>(bytes);
    json::<DatasetRecord>(bytes);
    json::<TokenRecord>(bytes);
    json::<NodeRecord>(bytes);
}

/// What gateway and host tell each other of calls and runs.
pub fn job(bytes: &[u8]) {
    if let Some(spec) = json::<PureSpec>(bytes) {
        assert_eq!(spec.key(), spec.clone().key());
    }
    if let Some(report) = json::<PureReport>(bytes) {
        assert!(report.agrees(&report));
        assert_eq!(report.claim(), report.claim());
    }
    json::<PureFailure>(bytes);
    json::<CallSpec>(bytes);
    json::<CallReport>(bytes);
    if let Some(problem) = json::<Problem>(bytes) {
        // What was cut off is told in a few bytes more.
        assert!(problem.detail.len() <= SAID_BYTES + 8);
    }
    let shapes: Vec<_> = bytes
        .chunks(2)
        .map(|piece| Shape::of_shard(Digest::of(piece)))
        .collect();
    let groups = job::groups(&shapes);
    assert!(groups.len() <= shapes.len().div_ceil(2));
    assert_eq!(
        groups.iter().map(|group| group.len()).sum::<usize>(),
        shapes.len()
    );
}

/// A job's arguments: equal ones have equal bytes, and no integer is rounded. A double may be read as its neighbour: serde_json
/// rounds exactly only by a feature that is off here.
pub fn job_args(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let exact = job::check_integers(text).is_ok();
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return;
    };
    let canonical = job::canonical_args(&value);
    let again: Value = serde_json::from_slice(&canonical).unwrap();
    if is_exact(&value) {
        assert_eq!(job::canonical_args(&again), canonical);
    }
    if exact && !text.contains(['.', 'e', 'E']) {
        assert!(is_exact(&value));
    }
}

/// Whether a value has no number that is a double. `-0` is one, and nothing is lost by it.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64() || number.as_f64() == Some(0.0),
        Value::Array(values) => values.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        _ => true,
    }
}

/// All `content-length` fields of a message, a line each.
pub fn content_length(bytes: &[u8]) {
    let fields = || bytes.split(|&byte| byte == b'\n');
    let Ok(Some(mut length)) = DeclaredLength::of(fields()) else {
        return;
    };
    let declared = length.declared();
    for number in fields().flat_map(|field| field.split(|&byte| byte == b',')) {
        let digits = number.trim_ascii();
        assert!(!digits.is_empty() && digits.iter().all(u8::is_ascii_digit));
        let significant = digits
            .iter()
            .position(|&digit| digit != b'0')
            .unwrap_or(digits.len() - 1);
        assert_eq!(&digits[significant..], declared.to_string().as_bytes());
    }
    assert_eq!(length.end().is_ok(), declared == 0);
    assert_eq!(length.take(declared), Ok(true));
    assert!(length.end().is_ok() && length.take(1).is_err());
}

/// The word that `text` is, as it is written.
fn word<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<String> {
    let word: T = text.parse().ok()?;
    let written = word.to_string();
    assert_eq!(written.parse().ok(), Some(word));
    Some(written)
}

/// The message that `bytes` are. What is read is written so that it is read as the same.
fn json<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let message: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_vec(&message).unwrap();
    let again: T = serde_json::from_slice(&written).unwrap();
    assert_eq!(serde_json::to_vec(&again).unwrap(), written);
    Some(message)
}

#[cfg(test)]
nearfield_mutate::targets!(
    manifest,
    words,
    meta,
    record_key,
    record,
    job,
    job_args,
    content_length
);
