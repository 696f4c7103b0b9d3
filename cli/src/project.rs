//! A function author's folder: its nearfield.toml, what is wrong with it, and what changed in it.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use nearfield_protocol::gpu::GpuKind;
use nearfield_protocol::manifest::{FunctionManifest, ManifestError, ManifestFile};
use nearfield_protocol::units::{format_bytes, format_count};
use serde_json::Value;

use crate::failure::{Exit, Failure};

pub const MANIFEST: &str = "nearfield.toml";

/// Reads the manifest of the project in `dir`.
pub fn read(dir: &Path) -> Result<ManifestFile> {
    let path = dir.join(MANIFEST);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let failure = Failure::new(Exit::NotFound, format!("there is no {}", path.display()));
            return Err(failure
                .next("name a function's folder, or make one with `nearfield new NAME`")
                .into());
        }
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    ManifestFile::parse(&text).map_err(|error| {
        let source = NamedSource::new(path.display().to_string(), text);
        BadManifest { error, source }.into()
    })
}

/// A manifest that is refused, with its text to point into.
#[derive(Debug)]
pub struct BadManifest {
    error: ManifestError,
    source: NamedSource<String>,
}

impl BadManifest {
    /// `error: ` with file, line and column, then the place itself.
    pub fn render(&self) -> String {
        let mut theme = GraphicalTheme::unicode_nocolor();
        theme.characters.error = "error:".to_owned();
        let mut text = String::new();
        let handler = GraphicalReportHandler::new_themed(theme).with_wrap_lines(false);
        match handler.render_report(&mut text, self) {
            Ok(()) => text.trim().to_owned(),
            Err(fmt::Error) => format!("error: {self}"),
        }
    }
}

impl fmt::Display for BadManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source.name())?;
        if let Some((line, column)) = self.error.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.error.message)
    }
}

impl std::error::Error for BadManifest {}

impl miette::Diagnostic for BadManifest {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.error.span.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::underline(span))))
    }
}

/// What a function is granted beyond its own memory, a line each.
pub fn grants(manifest: &FunctionManifest) -> Vec<String> {
    let inputs = manifest.inputs.iter().map(|(name, input)| {
        let dataset = String::from(input.clone());
        format!("reads {dataset} as `{name}`")
    });
    let hosts = manifest
        .allow
        .http
        .iter()
        .map(|host| format!("sends requests to {host}"));
    let env = manifest
        .env
        .iter()
        .map(|(key, value)| format!("sees {key}={value}"));
    let gpu = manifest.require.gpu.map(|kind| match kind {
        GpuKind::Any => "computes on a GPU, the software adapter if need be".to_owned(),
        GpuKind::Hardware => "computes on a GPU that is hardware".to_owned(),
    });
    inputs.chain(hosts).chain(gpu).chain(env).collect()
}

/// What differs between two manifests, a line a field, in the manifest's own words.
pub fn changes(before: &FunctionManifest, after: &FunctionManifest) -> Result<Vec<String>> {
    let (before, after) = (fields(before)?, fields(after)?);
    let mut names: Vec<&String> = before.iter().chain(&after).map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    let value = |fields: &[(String, Value)], name: &String| {
        fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| worded(name, value))
    };
    let change = |name: &String| match (value(&before, name), value(&after, name)) {
        (Some(before), Some(after)) if before == after => None,
        (Some(before), Some(after)) => Some(format!("{name}: {before} → {after}")),
        (None, Some(after)) => Some(format!("{name}: added {after}")),
        (Some(before), None) => Some(format!("{name}: removed {before}")),
        (None, None) => None,
    };
    Ok(names.into_iter().filter_map(change).collect())
}

/// A field's value as people write it.
fn worded(name: &str, value: &Value) -> String {
    match (name, value.as_u64()) {
        ("limits.memory" | "limits.gpu_memory", Some(bytes)) => format_bytes(bytes),
        ("limits.fuel", Some(fuel)) => format_count(fuel),
        _ => value.to_string(),
    }
}

/// Every leaf under its dotted name; a list is one value.
fn fields(manifest: &FunctionManifest) -> Result<Vec<(String, Value)>> {
    fn walk(name: String, value: Value, fields: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(inner) => inner.into_iter().for_each(|(key, value)| {
                let name = if name.is_empty() {
                    key
                } else {
                    format!("{name}.{key}")
                };
                walk(name, value, fields);
            }),
            leaf => fields.push((name, leaf)),
        }
    }
    let mut all = Vec::new();
    walk(String::new(), serde_json::to_value(manifest)?, &mut all);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &str) -> FunctionManifest {
        let file =
            ManifestFile::parse(&format!("[function.f]\nbuild = {{ crate = \".\" }}\n{text}")).unwrap();
        file.function.into_values().next().unwrap().manifest
    }

    #[test]
    fn changes_are_told_field_by_field() {
        let before = manifest(
            "limits = { memory = \"1MiB\" }\npublic = false\nenv = { LEVEL = \"info\", OLD = \"1\" }",
        );
        let after =
            manifest("public = true\nenv = { LEVEL = \"debug\" }\nallow = { http = [\"example.org:443\"] }");
        assert_eq!(
            changes(&before, &after).unwrap(),
            [
                "allow.http: [] → [\"example.org:443\"]",
                "env.LEVEL: \"info\" → \"debug\"",
                "env.OLD: removed \"1\"",
                "limits.memory: 1.0 MiB → 256.0 MiB",
                "public: false → true",
            ]
        );
        assert!(changes(&after, &after).unwrap().is_empty());
    }

    #[test]
    fn grants_name_everything_beyond_memory() {
        let manifest = manifest("inputs = { logs = \"app-logs\" }\nallow = { http = [\"example.org:443\"] }");
        assert_eq!(
            grants(&manifest),
            ["reads app-logs as `logs`", "sends requests to example.org:443"]
        );
    }

    #[test]
    fn a_bad_manifest_points_at_its_place() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join(MANIFEST),
            "[function.f]\nbuild = { crate = \".\" }\nrout = \"/f\"\n",
        )
        .unwrap();
        let message = crate::failure::message(&read(dir.path()).unwrap_err());
        assert!(message.starts_with("error: "), "{message}");
        assert!(
            message.contains("nearfield.toml:") && message.contains("rout"),
            "{message}"
        );
    }
}
