//! A store's failure as a call or a run ends with it.

use std::borrow::Borrow;

use nearfield_protocol::{Problem, ProblemKind};
use nearfield_store::{ObjectError, SourceError, StoreError};

/// A store's failure as a caller sees it.
pub(crate) fn store_problem(error: impl Borrow<StoreError>) -> Problem {
    let error = error.borrow();
    let kind = match error {
        StoreError::Missing(_) => ProblemKind::UnknownBlob,
        StoreError::Corrupt(_) => ProblemKind::Corrupt,
        StoreError::SourceChanged { .. } => ProblemKind::SourceChanged,
        StoreError::Source(SourceError::Object(ObjectError::Unreachable(_))) => {
            ProblemKind::SourceUnreachable
        }
        _ => ProblemKind::Internal,
    };
    Problem::new(kind, error.to_string())
}
