//! Failures of the store and of the network as clients see them.

use nearfield_net::NetError;
use nearfield_protocol::{Problem, ProblemKind};
use nearfield_store::StoreError;

/// A store's failure as a client sees it.
pub fn store_problem(error: StoreError) -> Problem {
    Problem::new(error.kind(), error.to_string())
}

/// A network's failure as a client sees it.
pub fn net_problem(error: NetError) -> Problem {
    match error {
        NetError::Store(error) => store_problem(error),
        NetError::Failed(problem) => problem,
        NetError::Conflict { .. } => Problem::new(ProblemKind::Conflict, error.to_string()),
        NetError::Unreachable { .. } => Problem::new(ProblemKind::HostUnreachable, error.to_string()),
        NetError::NotAGateway(_) | NetError::Membership(_) | NetError::Refused { .. } => {
            Problem::new(ProblemKind::NotPermitted, error.to_string())
        }
        NetError::Unconfirmed { .. } => Problem::new(ProblemKind::HostUnreachable, error.to_string()),
        other => Problem::new(ProblemKind::Internal, other.to_string()),
    }
}

/// No dataset has this name.
pub fn unknown_dataset(name: &str) -> Problem {
    Problem::new(
        ProblemKind::UnknownDataset,
        format!("no dataset `{name}`; `nearfield ls datasets` lists them"),
    )
}

/// No function has this name.
pub fn unknown_function(name: &str) -> Problem {
    Problem::new(
        ProblemKind::UnknownFunction,
        format!("no function `{name}`; `nearfield ls functions` lists them"),
    )
}

/// The host was not reached: nothing ran there.
pub fn unreachable(error: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::HostUnreachable, error.to_string())
}

/// The host was lost under way: it may or may not have run.
pub fn lost(error: impl std::error::Error) -> Problem {
    let mut text = format!("the host was lost under way: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    Problem::new(ProblemKind::HostLost, text)
}
