//! The SDK that travels with this binary. A function's crate names it by version; where it lies on this machine stands in
//! the crate's `.cargo/config.toml`, which is of this machine alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

/// The version that crates name.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// First line of a configuration that is ours to write anew.
const OURS: &str =
    "# Written by `nearfield`: what lies where on this machine. Leave it out of version control.";

/// Sees that the crate in `dir` finds the SDK, if it names it by version, and that crates share their builds.
pub fn provide(dir: &Path) -> Result<()> {
    let manifest = fs::read_to_string(dir.join("Cargo.toml"))
        .with_context(|| format!("reading {}", dir.join("Cargo.toml").display()))?;
    if !by_version(&manifest) {
        return Ok(());
    }
    let config = dir.join(".cargo/config.toml");
    let present = fs::read_to_string(&config).unwrap_or_default();
    // What an author wrote there stays: then it is theirs to say where the SDK is.
    if !present.is_empty() && !present.starts_with(OURS) {
        return Ok(());
    }
    let text = configuration(&unpacked()?, &folder("XDG_CACHE_HOME", ".cache")?.join("target"));
    if present != text {
        fs::create_dir_all(dir.join(".cargo"))?;
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    }
    Ok(())
}

/// Whether a manifest asks for the SDK by version, and not by path or git.
fn by_version(manifest: &str) -> bool {
    let Ok(manifest) = manifest.parse::<toml::Table>() else {
        return false;
    };
    match manifest.get("dependencies").and_then(|all| all.get("nearfield")) {
        Some(toml::Value::String(_)) => true,
        Some(toml::Value::Table(table)) => {
            table.contains_key("version") && !table.contains_key("path") && !table.contains_key("git")
        }
        _ => false,
    }
}

fn configuration(sdk: &Path, target: &Path) -> String {
    let text = |path: &Path| toml::Value::from(path.to_string_lossy().into_owned());
    format!(
        "{OURS}\n[patch.crates-io]\nnearfield = {{ path = {} }}\n\n# All functions share what they are built of.\n\
         [build]\ntarget-dir = {}\n",
        text(&sdk.join("sdk")),
        text(target)
    )
}

/// The folder with the SDK's files, written if this binary's are not there.
fn unpacked() -> Result<PathBuf> {
    let all = folder("XDG_DATA_HOME", ".local/share")?.join("sdk");
    let dir = all.join(format!("{VERSION}-{MARK}"));
    if dir.is_dir() {
        return Ok(dir);
    }
    let write = || -> Result<()> {
        fs::create_dir_all(&all)?;
        let fresh = tempfile::tempdir_in(&all)?;
        for (path, text) in FILES {
            let path = fresh.path().join(path);
            fs::create_dir_all(path.parent().expect("below the folder"))?;
            fs::write(&path, text)?;
        }
        match fs::rename(fresh.path(), &dir) {
            Ok(()) => {
                let _ = fresh.keep();
                Ok(())
            }
            // Another one was faster.
            Err(_) if dir.is_dir() => Ok(()),
            Err(error) => Err(error.into()),
        }
    };
    write().with_context(|| format!("writing the SDK to {}", dir.display()))?;
    Ok(dir)
}

/// The user's folder for our files of one kind.
fn folder(variable: &str, below_home: &str) -> Result<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = match named(variable) {
        Some(base) => PathBuf::from(base),
        None => {
            let home = named("HOME").with_context(|| {
                format!("neither {variable} nor HOME is set: set one, so that there is a folder for the SDK")
            })?;
            PathBuf::from(home).join(below_home)
        }
    };
    Ok(base.join("nearfield"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_version_is_ours_to_provide() {
        let with = |dependency: &str| format!("[dependencies]\nnearfield = {dependency}\n");
        for (dependency, ours) in [
            ("\"0.1\"", true),
            ("{ version = \"0.1.0\", features = [\"gpu\"] }", true),
            ("{ path = \"../sdk\" }", false),
            ("{ version = \"0.1\", path = \"../sdk\" }", false),
            ("{ workspace = true }", false),
        ] {
            assert_eq!(by_version(&with(dependency)), ours, "{dependency}");
        }
        assert!(!by_version("[dependencies]\n") && !by_version("no toml ["));
    }

    #[test]
    fn the_sdk_is_whole() {
        let has = |wanted: &str| FILES.iter().any(|(path, _)| *path == wanted);
        for path in [
            "Cargo.toml",
            "sdk/Cargo.toml",
            "sdk/src/lib.rs",
            "sdk/macros/src/lib.rs",
            "wit/data/data.wit",
            "csv/src/lib.rs",
            "gpu/src/lib.rs",
            "protocol/src/lib.rs",
        ] {
            assert!(has(path), "{path}");
        }
        let root: toml::Table = FILES[0].1.parse().unwrap();
        assert_eq!(root["workspace"]["members"].as_array().unwrap().len(), 5);
    }

    #[test]
    fn a_configuration_is_toml_wherever_the_folders_are() {
        let text = configuration(Path::new("/a \"b\"/sdk"), Path::new("/c"));
        let parsed: toml::Table = text.parse().unwrap();
        let path = &parsed["patch"]["crates-io"]["nearfield"]["path"];
        assert_eq!(path.as_str(), Some("/a \"b\"/sdk/sdk"));
    }
}
