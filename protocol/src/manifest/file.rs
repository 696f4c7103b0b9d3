//! The file itself: its tables, where components come from, and errors that point into it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use super::{Allow, Cors, FunctionManifest, Input, Instances, Limits, Locate, Require, Route};
use crate::FunctionName;

/// A whole `nearfield.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    #[serde(default)]
    pub function: BTreeMap<FunctionName, FunctionEntry>,
}

/// One `[function.NAME]`: where its component comes from, and its manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionEntry {
    pub source: ComponentSource,
    pub manifest: FunctionManifest,
}

/// Where a component comes from; relative paths start at the manifest's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComponentSource {
    /// `build = { crate = "." }`
    Crate(String),
    /// `build = { component = "file.wasm" }`
    File(String),
}

impl Default for ComponentSource {
    fn default() -> Self {
        ComponentSource::Crate(".".to_owned())
    }
}

/// Why a manifest is refused; where the text is at hand, with line and column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ManifestError {
    pub message: String,
    /// Byte range of the offending text.
    pub span: Option<std::ops::Range<usize>>,
    /// Line and column, from 1.
    pub at: Option<(usize, usize)>,
}

impl ManifestFile {
    /// Parses and checks. The error names line and column.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let file: ManifestFile = toml::from_str(text).map_err(|error| ManifestError {
            message: error.message().trim().to_owned(),
            at: error.span().map(|span| line_and_column(text, span.start)),
            span: error.span(),
        })?;
        for (name, entry) in &file.function {
            entry.manifest.check().map_err(|message| {
                let header = format!("[function.{name}]");
                let span = text.find(&header).map(|start| start..start + header.len());
                ManifestError {
                    message: format!("function `{name}`: {message}"),
                    at: span.as_ref().map(|span| line_and_column(text, span.start)),
                    span,
                }
            })?;
        }
        Ok(file)
    }
}

/// Line and column, both from 1, of byte `at`.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    (line, column)
}

impl<'de> Deserialize<'de> for ComponentSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Build {
            #[serde(rename = "crate")]
            path: Option<String>,
            component: Option<String>,
        }
        match Build::deserialize(deserializer)? {
            Build {
                path: Some(path),
                component: None,
            } => Ok(ComponentSource::Crate(path)),
            Build {
                path: None,
                component: Some(file),
            } => Ok(ComponentSource::File(file)),
            _ => Err(de::Error::custom(
                "build takes one of `crate`, a folder, and `component`, a file",
            )),
        }
    }
}

/// `build` stands beside the manifest's own keys, so the entry takes it out first.
impl<'de> Deserialize<'de> for FunctionEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            #[serde(default)]
            build: ComponentSource,
            route: Option<Route>,
            #[serde(default)]
            public: bool,
            cors: Option<Cors>,
            #[serde(default)]
            inputs: BTreeMap<String, Input>,
            locate: Option<Locate>,
            #[serde(default)]
            limits: Limits,
            #[serde(default)]
            allow: Allow,
            #[serde(default)]
            require: Require,
            #[serde(default)]
            instances: Instances,
            #[serde(default)]
            env: BTreeMap<String, String>,
        }
        let Raw {
            build: source,
            route,
            public,
            cors,
            inputs,
            locate,
            limits,
            allow,
            require,
            instances,
            env,
        } = Raw::deserialize(deserializer)?;
        let manifest = FunctionManifest {
            route,
            public,
            cors,
            inputs,
            locate,
            limits,
            allow,
            require,
            instances,
            env,
        };
        Ok(FunctionEntry { source, manifest })
    }
}
