//! What a component says of itself, read from its binary without compiling it.

use nearfield_protocol::job::MAPPER;
use nearfield_protocol::{Problem, ProblemKind, limits, units};
use serde::{Deserialize, Serialize};
use wasmparser::{Encoding, Parser, Payload};

use crate::lane::Lane;

/// A component's outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// Bytes of code in all of its core modules.
    pub code_bytes: u64,
    /// Whether components inside it can call each other: what they hand over is copied by the engine, at no fuel.
    pub composed: bool,
}

/// Reads imports and exports. Refuses what is no component, with what it is instead.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, Problem> {
    let refused = |detail: String| Problem::new(ProblemKind::RefusedComponent, detail);
    if bytes.len() as u64 > limits::COMPONENT_BYTES {
        return Err(refused(format!(
            "the component has {}; build it in release mode and strip it",
            units::format_bytes(bytes.len() as u64)
        ))
        .with_limit(format!(
            "component size = {}",
            units::exact_bytes(limits::COMPONENT_BYTES)
        )));
    }
    let (mut imports, mut exports, mut depth, mut code_bytes) = (Vec::new(), Vec::new(), 0usize, 0u64);
    let mut composed = false;
    for payload in Parser::new(0).parse_all(bytes) {
        let malformed = |error: wasmparser::BinaryReaderError| {
            refused(format!("this is no valid WebAssembly component: {error}"))
        };
        match payload.map_err(malformed)? {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } if depth == 0 => {
                return Err(refused(
                    "this is a core WebAssembly module, not a component: build for wasm32-wasip2, or wrap it with \
                     `wasm-tools component new`"
                        .to_owned(),
                ));
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::CodeSectionStart { size, .. } => code_bytes += u64::from(size),
            // What toolchains put around a component's own exports is a component too, but has no code to lift or lower.
            Payload::ComponentCanonicalSection(_) => composed |= depth > 0,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(Inspection {
        imports,
        exports,
        code_bytes,
        composed,
    })
}

impl Inspection {
    /// The lane of its calls, by what it exports.
    pub fn call_lane(&self) -> Result<Lane, Problem> {
        if self.exports("wasi:http/handler@0.3") {
            Ok(Lane::LiveP3)
        } else if self.exports("wasi:http/incoming-handler@0.2") {
            Ok(Lane::LiveP2)
        } else {
            Err(self.refused(
                "a function that is called exports wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3 \
                 (use #[nearfield::http], or any wasi:http toolchain)",
            ))
        }
    }

    /// The lane of its jobs.
    pub fn job_lane(&self) -> Result<Lane, Problem> {
        if self.exports(MAPPER) {
            Ok(Lane::Pure)
        } else {
            Err(self.refused(&format!(
                "a job's function exports {MAPPER} (use #[nearfield::map])"
            )))
        }
    }

    fn exports(&self, prefix: &str) -> bool {
        self.exports.iter().any(|export| export.starts_with(prefix))
    }

    fn refused(&self, wanted: &str) -> Problem {
        let exports = match &self.exports[..] {
            [] => "nothing".to_owned(),
            exports => exports.join(", "),
        };
        Problem::new(
            ProblemKind::RefusedComponent,
            format!("the component exports {exports}; {wanted}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_module_is_named_as_one() {
        let problem = inspect(b"\0asm\x01\0\0\0").unwrap_err();
        assert_eq!(problem.kind, ProblemKind::RefusedComponent);
        assert!(problem.detail.contains("core WebAssembly module"), "{problem}");
    }

    #[test]
    fn other_bytes_are_refused() {
        for bytes in [&b""[..], b"#!/bin/sh", b"\0asm"] {
            assert_eq!(inspect(bytes).unwrap_err().kind, ProblemKind::RefusedComponent);
        }
    }

    #[test]
    fn an_empty_component_has_no_lane() {
        let inspection = inspect(b"\0asm\x0d\0\x01\0").unwrap();
        assert!(
            inspection
                .call_lane()
                .unwrap_err()
                .detail
                .contains("exports nothing")
        );
    }
}
