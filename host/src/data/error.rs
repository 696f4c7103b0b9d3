//! What a guest is told that went wrong.

use nearfield_store::StoreError;
use wasmtime::component::{ComponentType, Lift, Lower};

/// What a function of the interface answers.
pub(crate) type Answer<T> = Result<T, DataError>;

/// `variant error`.
#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(variant)]
pub(crate) enum DataError {
    #[component(name = "denied")]
    Denied(String),
    #[component(name = "not-found")]
    NotFound(String),
    #[component(name = "corrupt")]
    Corrupt(String),
    #[component(name = "changed")]
    Changed(String),
    #[component(name = "invalid")]
    Invalid(String),
    #[component(name = "io")]
    Io(String),
}

impl From<StoreError> for DataError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Missing(_) => DataError::NotFound(error.to_string()),
            StoreError::Corrupt(_) => DataError::Corrupt(error.to_string()),
            StoreError::SourceChanged { .. } => DataError::Changed(error.to_string()),
            StoreError::NotADataset { .. } => DataError::Invalid(error.to_string()),
            _ => DataError::Io(error.to_string()),
        }
    }
}
