//! A store's failure as a call or a run ends with it.

use std::borrow::Borrow;

use nearfield_protocol::{Problem, ProblemKind};
use nearfield_store::StoreError;

/// A store's failure as a caller sees it.
pub(crate) fn store_problem(error: impl Borrow<StoreError>) -> Problem {
    let error = error.borrow();
    let kind = match error {
        // What was put in place once, and this host cannot read now: another may.
        StoreError::Source(_) => ProblemKind::SourceUnreachable,
        _ => error.kind(),
    };
    Problem::new(kind, error.to_string())
}
