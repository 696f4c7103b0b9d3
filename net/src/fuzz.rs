//! What bytes from outside are read by here, each as a function of any bytes that panics where something does not hold.

use bytes::Bytes;
use futures_util::FutureExt;
use nearfield_protocol::NodeId;
use nearfield_protocol::records::{RecordClock, RecordKey, RecordKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::{self, Opening, Reply, Report, Welcome};
use crate::join::{self, Ticket};
use crate::view::{Entry, Records};
use crate::{bytes as blobs, frame};

/// Longest message that is looked at: no input is longer.
const MESSAGE_BYTES: usize = 1 << 20;

/// What somebody types after `nearfield join`.
pub fn ticket(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(ticket) = text.parse::<Ticket>() else {
        return;
    };
    let written = ticket.to_string();
    assert_eq!(written.parse::<Ticket>().ok(), Some(ticket));
    assert!(written.len() <= text.len(), "an honest ticket is never longer");
    // A byte behind it is in eight more letters, whatever bits the last ones had left.
    assert!(format!("{}aaaaaaaa", text.trim()).parse::<Ticket>().is_err());
}

/// A stream of control, as a member sends it: an opening, then reports with digests behind them.
pub fn control(mut stream: &[u8]) {
    let Some(opening) = message::<Opening>(&mut stream) else {
        return;
    };
    if let Opening::Ask(_) = opening {
        return;
    }
    while let Some(report) = message::<Report>(&mut stream) {
        let (Report::Holds { added, removed } | Report::Residents { added, removed }) = report else {
            continue;
        };
        for count in [added, removed] {
            match control::digests(&mut stream, count).now_or_never().unwrap() {
                Ok(digests) => assert_eq!(digests.len(), count as usize),
                Err(_) => return,
            }
        }
    }
}

/// One answer of another node: to a report, a question, a stranger or a request for a blob; and what such a request says.
pub fn answer(bytes: &[u8]) {
    message::<Welcome>(&mut &bytes[..]);
    message::<Reply>(&mut &bytes[..]);
    message::<join::Request>(&mut &bytes[..]);
    message::<join::Answer>(&mut &bytes[..]);
    message::<blobs::Request>(&mut &bytes[..]);
    message::<blobs::Answer>(&mut &bytes[..]);
}

/// A record's key as a question writes it.
pub fn record_hex(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Some(key) = control::record_key(text) {
        let written: String = key.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(written.eq_ignore_ascii_case(text));
    }
}

/// Records, a line each: the kind's first letter, the author's digit, the time, a blank, the name, a blank, the value. They add
/// up to the same in whatever order they come.
pub fn records(bytes: &[u8]) {
    let lines = bytes.split(|&byte| byte == b'\n').take(64);
    let mut entries: Vec<Entry> = lines.filter_map(entry).collect();
    entries.sort_by_key(|entry| entry.key.clone());
    entries.dedup_by(|one, other| one.key == other.key);
    let founder = node(b'1');
    let (records, ignored) = Records::of(founder, &mut entries.clone());
    assert!(ignored.len() <= entries.len());
    entries.reverse();
    assert_eq!(Records::of(founder, &mut entries.clone()).0, records);
    for member in records.nodes() {
        assert!(!records.is_expelled(&member.node.id));
    }
    for version in records.all_function_versions() {
        assert!(records.function_versions(&version.name).contains(version));
    }
    for version in records.all_dataset_versions() {
        assert!(records.dataset_versions(&version.name).contains(version));
    }
    for token in records.tokens() {
        assert_eq!(records.token(&token.id), Some(token));
    }
    // One after another, as they come in.
    entries.sort_by(|one, other| {
        one.key
            .clock
            .cmp(&other.key.clock)
            .then_with(|| one.key.cmp(&other.key))
    });
    let mut grown = Records::new(founder);
    for (index, entry) in entries.iter().enumerate() {
        if grown.follows(entry) {
            let _ = grown.apply(entry);
        } else {
            grown = Records::of(founder, &mut entries[..=index].to_vec()).0;
        }
    }
    assert_eq!(grown, records);
}

fn entry(line: &[u8]) -> Option<Entry> {
    let text = str::from_utf8(line).ok()?;
    let (head, rest) = text.split_once(' ')?;
    let (name, value) = rest.split_once(' ').filter(|(name, _)| !name.contains('\0'))?;
    let &[kind, author, ref time @ ..] = head.as_bytes() else {
        return None;
    };
    let kind = match kind {
        b'f' => RecordKind::Function,
        b'd' => RecordKind::Dataset,
        b't' => RecordKind::Token,
        b'n' => RecordKind::Node,
        _ => return None,
    };
    let author = node(author);
    let key = RecordKey {
        kind,
        name: name.to_owned(),
        clock: RecordClock {
            unix_ms: str::from_utf8(time).ok()?.parse().ok()?,
            counter: 0,
            writer: *author.as_bytes().first_chunk()?,
        },
    };
    // As the document has it.
    Some(Entry {
        key: RecordKey::decode(&key.encode()).filter(|decoded| *decoded == key)?,
        author,
        value: Bytes::copy_from_slice(value.as_bytes()),
    })
}

fn node(name: u8) -> NodeId {
    NodeId::from_bytes([name; 32])
}

/// The next message of a stream. What is read is written so that it is read as the same.
fn message<T: Serialize + DeserializeOwned>(stream: &mut &[u8]) -> Option<T> {
    let message: T = frame::read(stream, MESSAGE_BYTES).now_or_never().unwrap().ok()?;
    let written = serde_json::to_vec(&message).unwrap();
    let again: T = serde_json::from_slice(&written).unwrap();
    assert_eq!(serde_json::to_vec(&again).unwrap(), written);
    Some(message)
}

#[cfg(test)]
nearfield_mutate::targets!(ticket, control, answer, record_hex, records);
