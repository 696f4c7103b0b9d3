//! Which file or record a call is about, and so where it runs.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::route::is_parameter;

/// Run where the shard of this file, or of this key, is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locate {
    /// A name from `inputs`.
    pub input: String,
    /// The file's path in it: text with `{rest}` (the path below the route), `{query.NAME}` and the route's own parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Template>,
    /// The key in a dataset that was put with one, in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Template>,
}

/// What a [`Locate`] asks for.
#[derive(Debug, Clone, Copy)]
pub enum Sought<'a> {
    Path(&'a Template),
    Key(&'a Template),
}

impl Locate {
    /// `None` unless it has either a path or a key, which a manifest's check makes sure of.
    pub fn sought(&self) -> Option<Sought<'_>> {
        match (&self.path, &self.key) {
            (Some(path), None) => Some(Sought::Path(path)),
            (None, Some(key)) => Some(Sought::Key(key)),
            _ => None,
        }
    }
}

/// Text with holes that a request fills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    text: String,
    parts: Vec<TemplatePart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    Rest,
    Query(String),
    /// A parameter of the route.
    Parameter(String),
}

impl Template {
    /// Fills the holes: `rest` is the decoded path below the route without its first `/`, `parameter` gives the decoded
    /// values of the route's own. `None` when the request lacks a query parameter that is named.
    pub fn fill<'a>(
        &self,
        rest: &str,
        query: impl Fn(&str) -> Option<Cow<'a, str>>,
        parameter: impl Fn(&str) -> Option<Cow<'a, str>>,
    ) -> Option<String> {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                TemplatePart::Text(text) => filled.push_str(text),
                TemplatePart::Rest => filled.push_str(rest),
                TemplatePart::Query(name) => filled.push_str(&query(name)?),
                TemplatePart::Parameter(name) => filled.push_str(&parameter(name)?),
            }
        }
        Some(filled)
    }

    /// The route's parameters that it names.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            TemplatePart::Parameter(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut left = text.as_str();
        while let Some((before, hole)) = left.split_once('{') {
            let (name, after) = hole
                .split_once('}')
                .ok_or_else(|| format!("`{text}` has a `{{` without its `}}`"))?;
            if !before.is_empty() {
                parts.push(TemplatePart::Text(before.to_owned()));
            }
            parts.push(match name.strip_prefix("query.") {
                Some(query) if !query.is_empty() => TemplatePart::Query(query.to_owned()),
                _ if name == "rest" => TemplatePart::Rest,
                _ if is_parameter(name) => TemplatePart::Parameter(name.to_owned()),
                _ => {
                    return Err(format!(
                        "`{{{name}}}` in `{text}` is unknown: use {{rest}}, {{query.NAME}} or a parameter of the route"
                    ));
                }
            });
            left = after;
        }
        if !left.is_empty() {
            parts.push(TemplatePart::Text(left.to_owned()));
        }
        Ok(Template { text, parts })
    }
}

impl From<Template> for String {
    fn from(template: Template) -> String {
        template.text
    }
}
