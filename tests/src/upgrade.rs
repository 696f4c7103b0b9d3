//! A data folder that an older build wrote opens, whole, and goes on. `tests/folders` has one of each release: what `make.sh` there did
//! with that build, without the compiled code, which a node makes anew.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::Node;

/// What `make.sh` put, as it put it.
struct Input {
    table: String,
    lines: String,
}

impl Input {
    fn new() -> Input {
        let row = |number: u32| format!("{number:05},name {},{}\n", number % 97, number * 7 % 1_000);
        Input {
            table: std::iter::once("id,name,amount\n".to_owned())
                .chain((0..4_000).map(row))
                .collect(),
            lines: (0..3_000)
                .map(|number| format!("line {number} of the golden folder\n"))
                .collect(),
        }
    }
}

/// The folders, each with what its build said of it.
fn folders() -> Vec<(PathBuf, Value)> {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join("folders");
    let files = std::fs::read_dir(folders)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut told: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    told.sort();
    told.into_iter()
        .map(|path| {
            let told = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            (path.with_extension("tar.zst"), told)
        })
        .collect()
}

fn unpacked(archive: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let packed = std::fs::File::open(archive).unwrap();
    let plain = zstd::Decoder::new(packed).unwrap();
    tar::Archive::new(plain).unpack(folder.path()).unwrap();
    // As `nearfield up` makes it; a node refuses one that others may read.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    folder
}

/// All that the folder held is there.
fn is_whole(node: &Node, input: &Input, told: &Value) {
    let build = &told["build"];
    for (name, bytes) in [
        ("table", &input.table),
        ("lines", &input.lines),
        ("grown", &input.lines),
    ] {
        assert!(node.ok(&["get", name]) == bytes.as_bytes(), "{build}: {name}");
    }
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("folder");
    node.ok(&["get", "folder", "-o", folder.to_str().unwrap()]);
    assert_eq!(std::fs::read(folder.join("a.txt")).unwrap(), b"a file\n");
    let bytes: Vec<u8> = (0..2_048).map(|at| at as u8).collect();
    assert_eq!(std::fs::read(folder.join("sub/b.bin")).unwrap(), bytes);

    let datasets = node.json(&["ls", "datasets"]);
    for before in told["datasets"]["datasets"].as_array().unwrap() {
        let now = datasets["datasets"].as_array().unwrap().iter();
        let now = now.into_iter().find(|now| now["name"] == before["name"]).unwrap();
        for field in ["digest", "version", "size_bytes", "versions"] {
            assert_eq!(
                now[field], before[field],
                "{build}: {field} of {}",
                before["name"]
            );
        }
    }

    let url = format!("{}/fn/hello", node.functions_url);
    // Tokens of builds whose folder names none ended with them: see CHANGELOG.
    let token = told["token"].as_str().unwrap_or(node.token.as_str());
    let bearer = format!("Bearer {token}");
    let hello = node.request("GET", &url, &[("authorization", &bearer)], &[]);
    assert_eq!(
        (hello.status, hello.text().as_str()),
        (200, "Hello, world!"),
        "{build}"
    );
    assert_eq!(node.get("/fn/hello").status, 401, "{build}");

    let path = format!("/v1/jobs/{}", told["job"]["job"].as_str().unwrap());
    let job = node.admin("GET", &path, &[]).json();
    assert_eq!(job["state"]["state"], "done", "{build}: {job}");
}

#[test]
fn a_folder_of_an_older_build_opens_whole_and_goes_on() {
    let (input, folders) = (Input::new(), folders());
    assert!(folders.len() >= 2);
    for (archive, told) in &folders {
        let build = &told["build"];
        let node = Node::start_in(unpacked(archive), &[]);
        is_whole(&node, &input, told);
        let again = node.json(&["run", "wordcount", "--over", "lines"]);
        assert_eq!(again["output"], told["job"]["output"], "{build}");

        // It is written to, and opens once more.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "new\n").unwrap();
        node.json(&["put", file.path().to_str().unwrap(), "--name", "new"]);
        node.deploy("hello", "hello", "");
        let node = node.restart_with(&[], &[]);
        assert!(node.ok(&["get", "grown"]) == input.lines.as_bytes(), "{build}");
        assert!(node.ok(&["get", "new"]) == b"new\n", "{build}");
        node.ok(&["rollback", "hello"]);
        is_whole(&node, &input, told);
    }
}
