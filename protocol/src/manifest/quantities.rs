//! Bounds on a call, as numbers or as people write them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{limits, units};

/// Bounds on one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Guest operators and host calls by the cost table.
    #[serde(deserialize_with = "fuel")]
    pub fuel: u64,
    /// Linear memory.
    pub memory: ByteSize,
    /// Wall time from admission to the end of the response.
    pub timeout: Timeout,
    /// How long the GPU and its driver may be busy for a call, compiling and uploads included.
    pub gpu_time: Timeout,
    /// GPU memory for its own buffers; shards are beside that.
    pub gpu_memory: ByteSize,
    /// Calls at once, through one gateway. Left out where it is the default: older nodes do not know it.
    #[serde(skip_serializing_if = "is_default_calls")]
    pub calls: u32,
}

fn is_default_calls(calls: &u32) -> bool {
    *calls == limits::CALLS_PER_FUNCTION
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            fuel: limits::FUEL_PER_CALL,
            memory: ByteSize(limits::GUEST_MEMORY_BYTES),
            timeout: Timeout(limits::CALL_TIMEOUT),
            gpu_time: Timeout(limits::GPU_TIME),
            gpu_memory: ByteSize(limits::GPU_MEMORY_BYTES),
            calls: limits::CALLS_PER_FUNCTION,
        }
    }
}

/// Bytes; in text as `256MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// Wall time; in text as `30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(pub Duration);

/// Reads a number or text by what the text means, so that an error tells the one as the other.
struct AsWritten<F>(F);

impl<T, F: Fn(&str) -> Result<T, units::ParseUnitError>> de::Visitor<'_> for AsWritten<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or text with a unit")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        self.0(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

fn fuel<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(AsWritten(units::parse_count))
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(AsWritten(units::parse_bytes))
            .map(ByteSize)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(AsWritten(units::parse_duration))
            .map(Timeout)
    }
}

impl Serialize for Timeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.0.as_millis()))
    }
}
