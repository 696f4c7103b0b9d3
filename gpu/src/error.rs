//! Why something on the GPU failed, as a guest is told.

use serde::{Deserialize, Serialize};

/// The text names the thing, the cause and, where there is one, the limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum GpuError {
    /// The manifest does not grant it.
    #[error("{0}")]
    Denied(String),
    /// An argument or a shader that cannot be used.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    /// A limit.
    #[error("{0}")]
    Quota(String),
    /// It was stopped.
    #[error("{0}")]
    Timeout(String),
    /// The worker or its device went away, and with it what the call's buffers held.
    #[error("{0}")]
    DeviceLost(String),
    /// There is no such GPU here now.
    #[error("{0}")]
    Unavailable(String),
}
