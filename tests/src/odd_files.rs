//! Files that are not what they seem, and places that are no plain files: bytes as they were, or an error that names them.

use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::harness::{Node, fails, lines};

/// A node, and a folder for files.
struct Odd {
    node: Node,
    dir: TempDir,
}

fn start() -> Odd {
    Odd {
        node: Node::start(),
        dir: tempfile::tempdir().unwrap(),
    }
}

impl Odd {
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, arguments: &[&str]) -> Output {
        self.node.cli(&[&["put"], arguments, &["--name", "odd"]].concat())
    }

    /// The verb under a umask of its own, its output in `shell`'s hands.
    fn shell(&self, shell: &str, arguments: &[&str]) -> Output {
        let command = self.node.command(arguments);
        let mut wrapped = Command::new("sh");
        wrapped
            .arg("-c")
            .arg(shell)
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn text_in_another_encoding_is_kept_or_refused() {
    let odd = start();
    let utf16: Vec<u8> = "\u{feff}id,name\r\n7,Ada\r\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let path = odd.file("t.csv", &utf16);
    let kept = odd.put(&[&path]);
    assert!(kept.status.success(), "{kept:?}");
    let told = String::from_utf8_lossy(&kept.stderr).into_owned();
    assert!(
        told.contains("UTF-16") && told.contains("iconv -f UTF-16 -t UTF-8 t.csv"),
        "{told}"
    );
    assert!(odd.node.ok(&["get", "odd"]) == utf16);
    for more in [&["--split", "csv"][..], &["--split", "lines"], &["--key", "id"]] {
        let refused = odd.put(&[&[path.as_str()], more].concat());
        fails(&refused, 1, "`t.csv` is UTF-16 (little-endian) text");
        fails(&refused, 1, "iconv");
    }
    let folder = odd.path("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("b.csv"), &utf16).unwrap();
    let refused = odd.put(&[folder.to_str().unwrap(), "--split", "csv"]);
    fails(&refused, 1, "`b.csv` is UTF-16");
}

#[test]
fn what_is_compressed_is_taken_off_or_said() {
    let odd = start();
    let table = b"id,name\n7,Ada\n3,Bo\n";
    let skippable = b"\x5e\x2a\x4d\x18\x04\0\0\0abcd";
    let pzstd = [
        skippable,
        &zstd::encode_all(&table[..], 1).unwrap()[..],
        skippable,
    ]
    .concat();
    let path = odd.file("t.csv.zst", &pzstd);
    assert!(odd.put(&[&path]).status.success());
    assert_eq!(odd.node.ok(&["get", "odd"]), table);
    let bzip2 = odd.file("t.csv.bz2", b"BZh91AY&SY\x80\xff\0\x01");
    let kept = odd.put(&[&bzip2]);
    assert!(
        kept.status.success() && String::from_utf8_lossy(&kept.stderr).contains("bunzip2 -c t.csv.bz2"),
        "{kept:?}"
    );
    fails(&odd.put(&[&bzip2, "--split", "csv"]), 1, "compressed with bzip2");
    fails(
        &odd.put(&[&bzip2, "--append", "--split", "csv"]),
        1,
        "compressed with bzip2",
    );
    let short = odd.file("t.csv.zst", &pzstd[..pzstd.len() - 20]);
    fails(&odd.put(&[&short]), 1, "its zstd stream is cut short");
}

#[test]
fn a_table_with_lone_crs_is_sorted_by_nothing() {
    let odd = start();
    let path = odd.file("t.csv", b"id,name\r7,Ada\r3,Bo\r");
    fails(
        &odd.put(&[&path, "--key", "id"]),
        1,
        "a CR alone stands at byte 7",
    );
    assert!(odd.put(&[&path]).status.success());
    assert_eq!(odd.node.ok(&["get", "odd"]), b"id,name\r7,Ada\r3,Bo\r");
    let header = odd.file("t.csv", b"id,name");
    assert!(odd.put(&[&header, "--key", "id"]).status.success());
    assert_eq!(odd.node.ok(&["get", "odd"]), b"id,name\n");
}

#[test]
fn what_is_got_is_written_as_cp_would() {
    let odd = start();
    let text = lines(3, 200_000);
    let path = odd.file("in.txt", &text);
    assert!(odd.put(&[&path]).status.success());
    let get = |umask: &str, out: &str| {
        let got = odd.shell(
            &format!("umask {umask}; exec \"$0\" \"$@\""),
            &["get", "odd", "-o", out],
        );
        assert!(got.status.success(), "{got:?}");
    };
    for (umask, expected) in [("022", 0o644), ("077", 0o600), ("002", 0o664)] {
        get(umask, umask);
        assert_eq!(mode(&odd.path(umask)), expected);
    }
    std::fs::set_permissions(odd.path("022"), PermissionsExt::from_mode(0o600)).unwrap();
    symlink("022", odd.path("link")).unwrap();
    get("000", "link");
    assert_eq!(mode(&odd.path("022")), 0o600, "what is there keeps its mode");
    assert!(std::fs::symlink_metadata(odd.path("link")).unwrap().is_symlink());

    let pipe = odd.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    get("022", "pipe");
    assert!(reader.join().unwrap() == text);
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());

    std::fs::write(odd.path("log"), "before\n").unwrap();
    let added = odd.shell("exec \"$0\" \"$@\" >> log", &["get", "odd", "-o", "/dev/stdout"]);
    assert!(added.status.success(), "{added:?}");
    assert!(std::fs::read(odd.path("log")).unwrap() == [&b"before\n"[..], &text].concat());
    for out in [&[][..], &["-o", "/dev/stdout"]] {
        let arguments = [&["get", "odd"], out].concat();
        let left = odd.shell("\"$0\" \"$@\" | head -c 5; exit 0", &arguments);
        assert!(left.stderr.is_empty(), "{left:?}");
        assert_eq!(left.stdout, text[..5]);
    }
}

#[test]
fn a_folder_is_written_by_the_umask() {
    let odd = start();
    let folder = odd.path("folder");
    std::fs::create_dir_all(folder.join("deep/empty")).unwrap();
    std::fs::write(folder.join("deep/run.sh"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(folder.join("deep/run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(folder.join("deep/text"), "x").unwrap();
    assert!(odd.put(&[folder.to_str().unwrap()]).status.success());
    let got = odd.shell("umask 027; exec \"$0\" \"$@\"", &["get", "odd", "-o", "out"]);
    assert!(got.status.success(), "{got:?}");
    for (path, expected) in [
        ("", 0o750),
        ("deep", 0o750),
        ("deep/empty", 0o750),
        ("deep/run.sh", 0o750),
        ("deep/text", 0o640),
    ] {
        assert_eq!(mode(&odd.path("out").join(path)), expected, "{path}");
    }
    let got = odd.shell(
        "umask 027; exec \"$0\" \"$@\"",
        &["get", "odd/deep/run.sh", "-o", "one.sh"],
    );
    assert!(got.status.success(), "{got:?}");
    assert_eq!(mode(&odd.path("one.sh")), 0o750);
}
