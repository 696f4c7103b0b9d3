//! Where the bytes of a remembered result are.

use bytes::Bytes;
use nearfield_protocol::Digest;

/// Bytes in a row, a blob that the row keeps alive, or bytes that only the maker of the result has.
pub(super) enum Payload {
    Inline(Bytes),
    Blob(Digest),
    Elsewhere(Digest),
}

impl Payload {
    const INLINE: u8 = 0;
    const BLOB: u8 = 1;
    const ELSEWHERE: u8 = 2;

    pub fn encode(&self) -> Vec<u8> {
        match self {
            Payload::Inline(bytes) => [&[Self::INLINE], &bytes[..]].concat(),
            Payload::Blob(digest) => [&[Self::BLOB], &digest.as_bytes()[..]].concat(),
            Payload::Elsewhere(digest) => [&[Self::ELSEWHERE], &digest.as_bytes()[..]].concat(),
        }
    }

    /// `None` if a newer build wrote it.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        let digest = || Some(Digest::from_bytes(rest.try_into().ok()?));
        match kind {
            Self::INLINE => Some(Payload::Inline(Bytes::copy_from_slice(rest))),
            Self::BLOB => Some(Payload::Blob(digest()?)),
            Self::ELSEWHERE => Some(Payload::Elsewhere(digest()?)),
            _ => None,
        }
    }

    /// The blob that must be kept for it.
    pub fn blob(&self) -> Option<Digest> {
        match self {
            Payload::Blob(digest) => Some(*digest),
            Payload::Inline(_) | Payload::Elsewhere(_) => None,
        }
    }

    /// BLAKE3 of the bytes.
    pub fn digest(&self) -> Digest {
        match self {
            Payload::Inline(bytes) => Digest::of(bytes),
            Payload::Blob(digest) | Payload::Elsewhere(digest) => *digest,
        }
    }

    /// What they take here.
    pub fn held_bytes(&self, len: u64) -> u64 {
        match self {
            Payload::Inline(_) | Payload::Blob(_) => len,
            Payload::Elsewhere(_) => 0,
        }
    }
}
