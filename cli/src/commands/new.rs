use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::Session;
use crate::args::{NewArgs, Template};
use crate::failure::{Exit, Failure};
use crate::interrupt::Partial;
use crate::sdk;

/// Path and text of each file; `{{name}}`, `{{sdk}}` and `{{sdk-gpu}}` are filled in.
const HTTP: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../templates/http/Cargo.toml")),
    (
        "nearfield.toml",
        include_str!("../../templates/http/nearfield.toml"),
    ),
    (".gitignore", include_str!("../../templates/http/.gitignore")),
    ("src/lib.rs", include_str!("../../templates/http/src/lib.rs")),
];

const JOB: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../templates/job/Cargo.toml")),
    (
        "nearfield.toml",
        include_str!("../../templates/job/nearfield.toml"),
    ),
    (".gitignore", include_str!("../../templates/job/.gitignore")),
    ("src/lib.rs", include_str!("../../templates/job/src/lib.rs")),
];

const GPU: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../templates/gpu/Cargo.toml")),
    (
        "nearfield.toml",
        include_str!("../../templates/gpu/nearfield.toml"),
    ),
    (".gitignore", include_str!("../../templates/gpu/.gitignore")),
    ("src/lib.rs", include_str!("../../templates/gpu/src/lib.rs")),
    (
        "src/square.wgsl",
        include_str!("../../templates/gpu/src/square.wgsl"),
    ),
];

pub fn run(session: &Session, args: NewArgs) -> Result<()> {
    let name = args.name.as_str();
    let crate_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(crate_name) {
        let failure = Failure::new(Exit::Usage, format!("`{name}` can name a function but no crate"));
        return Err(failure
            .next("start with a letter, and use letters, digits, - and _")
            .into());
    }
    let files = match args.template {
        Template::Http => HTTP,
        Template::Job => JOB,
        Template::Gpu => GPU,
    };
    let dir = PathBuf::from(name);
    if dir.exists() {
        let failure = Failure::new(Exit::Failed, format!("there is a `{name}` here already"));
        return Err(failure.next("choose another name, or remove it first").into());
    }
    fs::create_dir(&dir).with_context(|| format!("making the folder {name}"))?;
    let partial = Partial::new(&dir);
    write(&dir, files, name)?;
    sdk::provide(&dir)?;
    drop(partial);

    let text = format!("{name}: next, `cd {name}`, then `nearfield test` and `nearfield dev`");
    session
        .out
        .show_as(&json!({ "name": name, "path": dir.canonicalize()? }), || text)
}

fn write(dir: &Path, files: &[(&str, &str)], name: &str) -> Result<()> {
    let sdk = format!("\"{}\"", sdk::VERSION);
    let sdk_gpu = format!("{{ version = {sdk}, features = [\"gpu\"] }}");
    for (path, text) in files {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let text = text.replace("{{name}}", name);
        let text = text.replace("{{sdk}}", &sdk).replace("{{sdk-gpu}}", &sdk_gpu);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_a_crate_with_a_good_manifest() {
        for files in [HTTP, JOB, GPU] {
            check(files);
        }
    }

    fn check(files: &[(&str, &str)]) {
        let home = tempfile::tempdir().unwrap();
        write(home.path(), files, "hello").unwrap();
        let cargo: toml::Table = fs::read_to_string(home.path().join("Cargo.toml"))
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(cargo["package"]["name"].as_str(), Some("hello"));
        let sdk = &cargo["dependencies"]["nearfield"];
        let version = sdk.as_str().or_else(|| sdk["version"].as_str());
        assert_eq!(version, Some(sdk::VERSION), "no path into a checkout");
        let manifest = crate::project::read(home.path()).unwrap();
        assert!(manifest.function.contains_key(&"hello".parse().unwrap()));
        let source = fs::read_to_string(home.path().join("src/lib.rs")).unwrap();
        assert!(!source.contains("{{"));
    }
}
