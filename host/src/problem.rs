//! A store's failure as a call or a run ends with it.

use std::borrow::Borrow;

use nearfield_protocol::Problem;
use nearfield_store::StoreError;

/// A store's failure as a caller sees it.
pub(crate) fn store_problem(error: impl Borrow<StoreError>) -> Problem {
    let error = error.borrow();
    Problem::new(error.kind(), error.to_string())
}
