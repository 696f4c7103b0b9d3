//! A guest's WGSL: parsed, checked against what guests may use, and rewritten so that its loops end.
//!
//! All buffers are in group 0. [`EXHAUSTED_GROUP`] is ours: a shader whose loops were cut short says so there, since what it
//! wrote is then not what its author meant.

mod bound;
#[cfg(test)]
mod tests;

use naga::back::pipeline_constants::process_overrides;
use naga::valid::{Capabilities, GlobalUse, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Handle, Module, ShaderStage, SourceLocation, StorageAccess, TypeInner};

use crate::wire::{Access, Binding};

/// The group of the one buffer, a `u32` at binding 0, that is not 0 once a loop was cut short.
pub const EXHAUSTED_GROUP: u32 = 1;
/// What a shader calls recursively is bounded by how deep its source nests, and by this stack for reading it.
const STACK_BYTES: usize = 64 << 20;

/// Bounds on one shader, each checked before what it bounds is made.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub source_bytes: usize,
    /// Brackets of any kind that are open at once, and operators in a row.
    pub nesting: usize,
    /// Blocks within blocks. Mesa's software adapter does not look at conditions beyond 80.
    pub blocks: usize,
    /// Bytes of all variables of a function, and of all private ones: what WGSL allows (§13.2.2 "Limits").
    pub variable_bytes: u64,
    pub bindings: usize,
    /// Expressions and statements, each call replaced by what it calls.
    pub expanded: u64,
    /// Invocations of a workgroup: its three sizes multiplied.
    pub workgroup_invocations: u32,
    /// Bytes that the invocations of a workgroup share: what every WebGPU device has, unless the adapter has more.
    pub workgroup_bytes: u64,
    /// Turns of all loops of one invocation together, and once more as many of loops that wait for others. A driver may leave
    /// loops sooner without a word, as Mesa's software adapter does after 65,535 turns: there it must be less.
    pub turns: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            source_bytes: crate::limits::SOURCE_BYTES,
            nesting: 64,
            blocks: 64,
            variable_bytes: 8 << 10,
            // What every WebGPU device has, less the one of ours.
            bindings: 7,
            expanded: 1 << 17,
            workgroup_invocations: 256,
            workgroup_bytes: 16 << 10,
            turns: 1 << 24,
        }
    }
}

/// What an adapter has beyond the least.
#[derive(Debug, Clone, Copy, Default)]
pub struct Features {
    pub f16: bool,
    pub subgroups: bool,
}

/// A shader that may be given to a driver.
#[derive(Debug)]
pub struct Kernel {
    pub module: Module,
    pub info: ModuleInfo,
    pub entry: String,
    pub workgroup_size: [u32; 3],
    /// What the entry point uses, by binding.
    pub bindings: Vec<Binding>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShaderError {
    /// Line and column count from 1; 0 if the fault has no place.
    #[error("line {line}, column {column}: {message}")]
    Invalid { message: String, line: u32, column: u32 },
    #[error("no compute entry point `{entry}`; there is {known}")]
    NoEntry { entry: String, known: String },
    #[error("{what} = {found}, where at most {most} are allowed")]
    TooMany {
        what: &'static str,
        found: u64,
        most: u64,
    },
    #[error("`{name}` is {kind}: a shader may use storage and uniform buffers in group 0, and nothing else")]
    Resource { name: String, kind: &'static str },
}

impl ShaderError {
    fn at(place: Option<SourceLocation>, message: String) -> Self {
        let (line, column) = place.map_or((0, 0), |place| (place.line_number, place.line_position));
        ShaderError::Invalid {
            message,
            line,
            column,
        }
    }

    fn invalid(message: impl Into<String>) -> Self {
        ShaderError::at(None, message.into())
    }
}

/// Checks `source` with values for its `override`s, and makes its loops end.
pub fn check(
    source: &str,
    entry: &str,
    constants: &[(String, f64)],
    features: Features,
    limits: &Limits,
) -> Result<Kernel, ShaderError> {
    at_most("bytes of source", source.len() as u64, limits.source_bytes as u64)?;
    at_most("nesting", nesting(source) as u64, limits.nesting as u64)?;
    // Parsing is recursive. A thread of its own has the stack for all that the bounds above let through.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let reading = thread.spawn_scoped(scope, || read(source, entry, constants, features, limits));
        let reading =
            reading.map_err(|error| ShaderError::invalid(format!("no thread to read it: {error}")))?;
        let ended = reading.join();
        ended.unwrap_or_else(|_| Err(ShaderError::invalid("it cannot be read")))
    })
}

fn read(
    source: &str,
    entry: &str,
    constants: &[(String, f64)],
    features: Features,
    limits: &Limits,
) -> Result<Kernel, ShaderError> {
    let module = naga::front::wgsl::parse_str(source)
        .map_err(|error| ShaderError::at(error.location(source), error.message().to_owned()))?;
    at_most(
        "blocks within blocks",
        bound::deepest(&module) as u64,
        limits.blocks as u64,
    )?;
    let info = validate(&module, features, source)?;
    entry_index(&module, entry)?;
    // Sizes may depend on them, so what follows looks at the module as it will be.
    let values = constants.iter().cloned().collect();
    let point = Some((ShaderStage::Compute, entry));
    let resolved = process_overrides(&module, &info, point, &values);
    let (module, info) = resolved.map_err(|error| ShaderError::invalid(chain(&error)))?;
    let (mut module, info) = (module.into_owned(), info.into_owned());
    let index = entry_index(&module, entry)?;
    let workgroup_size = module.entry_points[index].workgroup_size;
    let invocations: u64 = workgroup_size.iter().map(|size| u64::from(*size)).product();
    at_most(
        "invocations of a workgroup",
        invocations,
        u64::from(limits.workgroup_invocations),
    )?;
    at_most(
        "expressions and statements with those of what is called",
        bound::expanded(&module),
        limits.expanded,
    )?;
    at_most(
        "bytes of variables",
        bound::variable_bytes(&module),
        limits.variable_bytes,
    )?;
    at_most(
        "bytes of workgroup memory",
        bound::workgroup_bytes(&module, &info, index),
        limits.workgroup_bytes,
    )?;
    let bindings = bindings(&module, &info, index)?;
    at_most("bindings", bindings.len() as u64, limits.bindings as u64)?;
    bound::loops(&mut module, limits.turns);
    // What was rewritten is checked as if a guest had sent it.
    let info = validate(&module, features, source)?;
    Ok(Kernel {
        module,
        info,
        entry: entry.to_owned(),
        workgroup_size,
        bindings,
    })
}

fn at_most(what: &'static str, found: u64, most: u64) -> Result<(), ShaderError> {
    match found <= most {
        true => Ok(()),
        false => Err(ShaderError::TooMany { what, found, most }),
    }
}

fn validate(module: &Module, features: Features, source: &str) -> Result<ModuleInfo, ShaderError> {
    let mut capabilities = Capabilities::empty();
    capabilities.set(Capabilities::SHADER_FLOAT16, features.f16);
    capabilities.set(Capabilities::SUBGROUP, features.subgroups);
    let validated = Validator::new(ValidationFlags::all(), capabilities).validate(module);
    validated.map_err(|error| ShaderError::at(error.location(source), chain(error.as_inner())))
}

/// An error and what caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// How deep a source may make its reader go: brackets that are open at once, or operators that follow each other.
fn nesting(source: &str) -> usize {
    let (mut open, mut angles, mut row, mut deepest) = (0_usize, 0_usize, 0, 0);
    for char in without_comments(source) {
        match char {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            '<' => angles += 1,
            '>' => angles = angles.saturating_sub(1),
            _ => {}
        }
        // One that compares is never closed, and nothing reaches over the end of a statement.
        if matches!(char, ';' | '{' | '}') {
            angles = 0;
        }
        row = match char {
            '-' | '!' | '~' | '&' | '*' => row + 1,
            char if char.is_whitespace() => row,
            _ => 0,
        };
        deepest = deepest.max(open + angles).max(row);
    }
    deepest
}

/// Ends of lines as WGSL has them (§3.2).
const LINE_ENDS: [char; 7] = ['\n', '\u{b}', '\u{c}', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

fn without_comments(source: &str) -> impl Iterator<Item = char> + '_ {
    let (mut rest, mut blocks) = (source, 0_usize);
    std::iter::from_fn(move || {
        loop {
            if blocks == 0
                && let Some(line) = rest.strip_prefix("//")
            {
                rest = line.find(LINE_ENDS).map_or("", |end| &line[end..]);
            } else if let Some(inner) = rest.strip_prefix("/*") {
                (rest, blocks) = (inner, blocks + 1);
            } else if blocks > 0
                && let Some(after) = rest.strip_prefix("*/")
            {
                (rest, blocks) = (after, blocks - 1);
            } else {
                let char = rest.chars().next()?;
                rest = &rest[char.len_utf8()..];
                if blocks == 0 {
                    return Some(char);
                }
            }
        }
    })
}

fn entry_index(module: &Module, entry: &str) -> Result<usize, ShaderError> {
    let compute = |point: &&naga::EntryPoint| point.stage == ShaderStage::Compute;
    let found = module
        .entry_points
        .iter()
        .position(|point| compute(&point) && point.name == entry);
    found.ok_or_else(|| {
        let known: Vec<_> = module.entry_points.iter().filter(compute).collect();
        let known: Vec<_> = known.iter().map(|point| format!("`{}`", point.name)).collect();
        ShaderError::NoEntry {
            entry: entry.to_owned(),
            known: match known.is_empty() {
                true => "none".to_owned(),
                false => known.join(", "),
            },
        }
    })
}

/// What the entry point uses. Whatever else the module declares must be something that guests may use, too.
fn bindings(module: &Module, info: &ModuleInfo, entry: usize) -> Result<Vec<Binding>, ShaderError> {
    let used = info.get_entry_point(entry);
    let mut bindings = Vec::new();
    for (handle, variable) in module.global_variables.iter() {
        let name = || variable.name.clone().unwrap_or_default();
        let access = match variable.space {
            AddressSpace::Private | AddressSpace::WorkGroup => continue,
            AddressSpace::Uniform => Access::Uniform,
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Access::ReadWrite,
            AddressSpace::Storage { .. } => Access::Read,
            _ => {
                return Err(ShaderError::Resource {
                    name: name(),
                    kind: "no buffer",
                });
            }
        };
        if is_array_of_buffers(module, variable.ty) {
            // Their indices are not checked by all drivers.
            return Err(ShaderError::Resource {
                name: name(),
                kind: "an array of buffers",
            });
        }
        let binding = match variable.binding {
            Some(binding) if binding.group == 0 => binding.binding,
            _ => {
                return Err(ShaderError::Resource {
                    name: name(),
                    kind: "in another group",
                });
            }
        };
        if used[handle] != GlobalUse::empty() {
            bindings.push(Binding { binding, access });
        }
    }
    bindings.sort_by_key(|binding| binding.binding);
    Ok(bindings)
}

fn is_array_of_buffers(module: &Module, ty: Handle<naga::Type>) -> bool {
    matches!(module.types[ty].inner, TypeInner::BindingArray { .. })
}
