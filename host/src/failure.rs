//! Why a call failed, in words that name what helps.

use nearfield_protocol::call::CallSpec;
use nearfield_protocol::records::FunctionVersion;
use nearfield_protocol::{FunctionName, Problem, ProblemKind, said, units};
use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap};

use crate::memory::HostFull;

/// The guest ended and said nothing.
pub(crate) fn no_response(name: &FunctionName) -> Problem {
    Problem::new(
        ProblemKind::NoResponse,
        format!("function `{name}` ended without a response; see `nearfield logs {name}`"),
    )
}

/// The guest's own word that it has no response.
pub(crate) fn refused(name: &FunctionName, code: &str) -> Problem {
    Problem::new(
        ProblemKind::NoResponse,
        format!("function `{name}` answered with the error {code}"),
    )
}

/// The guest burned all that it may.
pub(crate) fn out_of_fuel(function: &FunctionVersion) -> Problem {
    Problem::new(
        ProblemKind::OutOfFuel,
        format!(
            "function `{}` used up its fuel: do less in one call, or raise `limits.fuel` in its nearfield.toml",
            function.name
        ),
    )
    .with_limit(format!(
        "limits.fuel = {}",
        units::exact_count(function.manifest.limits.fuel)
    ))
}

/// `panic` is what the guest said of it, if it is Rust.
pub(crate) fn trap_problem(spec: &CallSpec, error: &wasmtime::Error, panic: Option<String>) -> Problem {
    let name = &spec.function.name;
    if error.downcast_ref::<Trap>() == Some(&Trap::OutOfFuel) {
        return out_of_fuel(&spec.function);
    }
    if let Some(full) = error.downcast_ref::<HostFull>() {
        return full.problem();
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return Problem::new(
            ProblemKind::Overload,
            format!("no room to instantiate `{name}`: {error}"),
        );
    }
    let cause = said(error.root_cause());
    // The engine counts handles in tables of its own, too, and has no type for a full one.
    if matches!(
        error.downcast_ref::<ResourceTableError>(),
        Some(ResourceTableError::Full)
    ) || cause.contains("store handle limit exceeded")
    {
        return Problem::new(
            ProblemKind::TooManyHandles,
            format!("function `{name}` held more handles than its limit"),
        )
        .with_limit(format!(
            "guest handles = {}",
            nearfield_protocol::limits::GUEST_HANDLES
        ));
    }
    // The engine has no type for this one.
    if cause.contains("fuel allocated for hostcalls") {
        return Problem::new(
            ProblemKind::HostCallTooLarge,
            format!("function `{name}` passed more to one host call than may be copied"),
        )
        .with_limit(format!(
            "host-call copy = {}",
            units::exact_bytes(nearfield_protocol::limits::HOST_CALL_COPY_BYTES as u64)
        ));
    }
    let what = match panic {
        Some(panic) => format!("panicked at {panic}"),
        None => format!("trapped: {cause}"),
    };
    Problem::new(
        ProblemKind::Trap,
        format!("function `{name}` {what}; see `nearfield logs {name}`"),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use nearfield_protocol::{CallId, Digest};

    use super::*;

    fn spec() -> CallSpec {
        CallSpec {
            id: CallId::new(0, 0),
            function: Arc::new(FunctionVersion {
                name: "f".parse().unwrap(),
                version: 1,
                component: Digest::EMPTY,
                manifest: Default::default(),
                deployed_unix_ms: 0,
                rolled_back_to: None,
            }),
            inputs: Arc::new(BTreeMap::new()),
        }
    }

    #[test]
    fn a_trap_is_told_by_its_type() {
        let of = |error: wasmtime::Error, panic: Option<&str>| {
            trap_problem(&spec(), &error, panic.map(str::to_owned))
        };
        let fuel = of(Trap::OutOfFuel.into(), None);
        assert_eq!(fuel.kind, ProblemKind::OutOfFuel);
        assert!(fuel.limit.unwrap().starts_with("limits.fuel = "));
        assert_eq!(
            of(ResourceTableError::Full.into(), None).kind,
            ProblemKind::TooManyHandles
        );
        assert_eq!(
            of(Trap::UnreachableCodeReached.into(), None).kind,
            ProblemKind::Trap
        );
        let panicked = of(Trap::UnreachableCodeReached.into(), Some("src/lib.rs:7: no"));
        assert!(
            panicked.detail.contains("panicked at src/lib.rs:7: no"),
            "{panicked}"
        );
        // What somebody wrapped is the same trap.
        let wrapped = wasmtime::Error::from(Trap::OutOfFuel).context("while it ran");
        assert_eq!(of(wrapped, None).kind, ProblemKind::OutOfFuel);
    }
}
