//! Lists the SDK's files, so that the binary can bring them along: `nearfield new` must work on a machine that has no
//! checkout of this repository.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// What a function's crate needs: the SDK, the contract that it generates bindings from, CSV for the mock host, and, for native
/// tests on a GPU, the crates that drive one.
const PARTS: [&str; 5] = ["sdk", "wit", "csv", "gpu", "protocol"];

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let root = root.canonicalize().expect("the repository's root");
    let mut paths = Vec::new();
    for part in PARTS {
        println!("cargo::rerun-if-changed={}", root.join(part).display());
        list(&root.join(part), &mut paths);
    }
    let manifest = root.join("Cargo.toml");
    println!("cargo::rerun-if-changed={}", manifest.display());
    let workspace = workspace(&fs::read_to_string(&manifest).expect("the root's Cargo.toml"));

    let mut hasher = DefaultHasher::new();
    workspace.hash(&mut hasher);
    let mut files = format!("    (\"Cargo.toml\", {workspace:?}),\n");
    for path in paths {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.strip_prefix(&root).expect("below the root");
        (name, &text).hash(&mut hasher);
        files.push_str(&format!(
            "    ({:?}, include_str!({:?})),\n",
            name.display().to_string(),
            path.display().to_string()
        ));
    }
    let code = format!(
        "/// Path and text of each file.\nconst FILES: &[(&str, &str)] = &[\n{files}];\n\
         /// Tells the SDKs of different builds apart.\nconst MARK: &str = \"{:016x}\";\n",
        hasher.finish()
    );
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("sdk.rs"), code).expect("writing to OUT_DIR");
}

/// All files of a folder in the order of their names, without what cargo or an editor left there.
fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut entries: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let kept = ["rs", "toml", "wit", "wgsl"];
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() && !path.ends_with("target") {
            list(&path, files);
        } else if extension.is_some_and(|extension| kept.contains(&extension)) {
            files.push(path);
        }
    }
}

/// The workspace's manifest, with those members only that travel.
fn workspace(manifest: &str) -> String {
    let kept = manifest
        .lines()
        .filter_map(|line| match line.split(" = ").next() {
            Some("members") => Some("members = [\"csv\", \"gpu\", \"protocol\", \"sdk\", \"sdk/macros\"]"),
            Some("default-members" | "exclude") => None,
            _ => Some(line),
        });
    kept.flat_map(|line| [line, "\n"]).collect()
}
