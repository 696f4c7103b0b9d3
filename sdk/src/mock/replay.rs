//! Runs a map on the shard of a real job that `nearfield replay` has fetched into a folder.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::Host;
use super::dataset::{Content, Dataset, Shard as Kept};
use super::host::{self, Files};
use crate::job::Job;
use crate::{Digest, Location, Shard};

/// Names the folder.
const FOLDER: &str = "NEARFIELD_REPLAY";

/// What is what in the folder: its `replay.json`.
#[derive(Deserialize)]
struct Parcel {
    shard: u32,
    may_write: bool,
    /// The job's dataset, with the one shard.
    over: Described,
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    data: Described,
}

#[derive(Deserialize)]
struct Described {
    #[serde(deserialize_with = "digest")]
    digest: Digest,
    format: String,
    headers: Vec<Vec<u8>>,
    #[serde(default)]
    key: Option<String>,
    shards: Vec<DescribedShard>,
}

#[derive(Deserialize)]
struct DescribedShard {
    #[serde(deserialize_with = "digest")]
    digest: Digest,
    header: Option<usize>,
}

/// Runs the map of `J` on the shard in the folder that `NEARFIELD_REPLAY` names, and leaves there what came of it:
/// `output` and `files/`, or `error`. A panic passes through, to the debugger.
pub fn replay<J: Job>() -> ExitCode {
    let Some(folder) = std::env::var_os(FOLDER) else {
        eprintln!("not run: `nearfield replay JOB --shard N --native` says on which shard");
        return ExitCode::SUCCESS;
    };
    match replay_in::<J>(Path::new(&folder)) {
        Ok(Ok(told)) => {
            eprintln!("{told}");
            ExitCode::SUCCESS
        }
        Ok(Err(message)) => {
            eprintln!("the map failed: {message}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{FOLDER}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the map came to; the outer error is the folder's.
fn replay_in<J: Job>(folder: &Path) -> io::Result<Result<String, String>> {
    // First: what is no parcel is left alone.
    let parcel: Parcel = serde_json::from_slice(&read(folder, "replay.json")?)?;
    for name in ["output", "error"] {
        gone(fs::remove_file(folder.join(name)))?;
    }
    gone(fs::remove_dir_all(folder.join("files")))?;
    let args = read(folder, "args.json")?;
    let mut host = Host::new();
    for (number, input) in parcel.inputs.into_iter().enumerate() {
        let paths = paths(&folder.join(format!("inputs/{number}")))?;
        let data = dataset(folder, input.data, paths)?;
        host = host.dataset(&input.name, data);
    }
    let over = Rc::new(dataset(folder, parcel.over, Vec::new())?);
    let shard = Shard::new(host::Shard::new(&over, 0));
    let (outcome, files) = host::with_job(host, parcel.may_write, || J::map(shard, &args));
    let index = parcel.shard;
    Ok(match outcome {
        Ok(part) => {
            write_files(&folder.join("files"), &files)?;
            fs::write(folder.join("output"), &part)?;
            Ok(format!(
                "shard {index}: a part of {} bytes, {} files written",
                part.len(),
                files.len()
            ))
        }
        Err(message) => {
            fs::write(folder.join("error"), &message)?;
            Err(message)
        }
    })
}

/// What an earlier run left; most often there is none.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn dataset(folder: &Path, described: Described, paths: Vec<(String, Location)>) -> io::Result<Dataset> {
    let Described {
        digest,
        format,
        headers,
        key,
        shards,
    } = described;
    let shard = |shard: DescribedShard| {
        let hex = shard.digest.to_string();
        let file = folder.join("blobs").join(hex.trim_start_matches("b3:"));
        let size = named(&file, fs::metadata(&file))?.len();
        let header = shard.header.and_then(|header| headers.get(header));
        Ok(Kept {
            format: format.clone(),
            header: header.cloned().unwrap_or_default(),
            // A job sees the digest instead.
            source: String::new(),
            content: Content::Kept {
                file,
                size,
                digest: shard.digest,
            },
        })
    };
    let shards = shards.into_iter().map(shard).collect::<io::Result<_>>()?;
    Ok(Dataset::kept(digest, format.clone(), shards, paths, key))
}

/// The paths of an input, from as many files as there are.
fn paths(folder: &Path) -> io::Result<Vec<(String, Location)>> {
    let mut paths = Vec::new();
    for part in 0.. {
        let file = folder.join(format!("paths-{part}"));
        if !file.exists() {
            break;
        }
        for line in BufReader::new(fs::File::open(file)?).lines() {
            let (path, shard, offset, length) = serde_json::from_str(&line?)?;
            let location = Location {
                shard,
                offset,
                length,
            };
            paths.push((path, location));
        }
    }
    Ok(paths)
}

fn write_files(folder: &Path, files: &Files) -> io::Result<()> {
    for (path, content) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        named(&path, fs::write(&path, content))?;
    }
    Ok(())
}

fn read(folder: &Path, name: &str) -> io::Result<Vec<u8>> {
    let path = folder.join(name);
    named(&path, fs::read(&path))
}

/// An error that says which file.
fn named<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn digest<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(from)?;
    let hex = text.strip_prefix("b3:").filter(|hex| hex.len() == 64);
    let bytes = hex.into_iter().flat_map(|hex| hex.as_bytes().chunks(2));
    let mut digest = [0; 32];
    let mut known = 0;
    for (byte, pair) in digest.iter_mut().zip(bytes) {
        let pair = std::str::from_utf8(pair).map_err(D::Error::custom)?;
        *byte = u8::from_str_radix(pair, 16).map_err(D::Error::custom)?;
        known += 1;
    }
    match known {
        32 => Ok(Digest(digest)),
        _ => Err(D::Error::custom(format!("`{text}` is no digest"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataError, Dataset, output};

    /// Tells its shard, its arguments and an input, and writes.
    enum Tell {}

    impl Job for Tell {
        fn map(shard: Shard, args: &[u8]) -> Result<Vec<u8>, String> {
            if args == b"{}" {
                return Err("there are no arguments".to_owned());
            }
            let side = Dataset::open("side").map_err(|error| error.to_string())?;
            let file = side.file("a/b").unwrap().unwrap();
            assert!(matches!(side.by_key("k"), Err(DataError::Invalid(_))));
            output::write("told/it", "yes").map_err(|error| error.to_string())?;
            let (source, header, digest) = (shard.source(), shard.header(), shard.digest());
            assert_eq!(source, digest.to_string());
            let text = std::io::read_to_string(shard).unwrap();
            let file = std::io::read_to_string(file).unwrap();
            Ok(format!(
                "{:?} {text:?} {file:?} {digest}",
                String::from_utf8(header).unwrap()
            )
            .into_bytes())
        }
        fn reduce(_: Vec<Vec<u8>>, _: &[u8]) -> Result<Vec<u8>, String> {
            unreachable!()
        }
        fn finish(_: &[u8], _: &[u8]) -> Result<Vec<u8>, String> {
            unreachable!()
        }
    }

    #[test]
    fn a_map_sees_what_is_in_the_folder() {
        let folder = std::env::temp_dir().join(format!("nearfield-replay-{}", std::process::id()));
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        let parcel = |may_write| {
            serde_json::json!({
                "shard": 3,
                "may_write": may_write,
                "over": {
                    "digest": format!("b3:{two}"), "format": "csv", "headers": [b"x\n", b"a,b\n"],
                    "shards": [{ "digest": format!("b3:{one}"), "header": 1 }],
                },
                "inputs": [{ "name": "side", "data": {
                    "digest": format!("b3:{one}"), "format": "files", "headers": [],
                    "shards": [{ "digest": format!("b3:{two}"), "header": null }],
                } }],
            })
            .to_string()
        };
        let put = |name: &str, content: &str| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        put(&format!("blobs/{one}"), "1,2\n");
        put(&format!("blobs/{two}"), "..inside..");
        put("inputs/0/paths-0", "[\"a/b\",0,2,6]\n");
        put("args.json", "[1]");

        put("replay.json", &parcel(true));
        assert!(replay_in::<Tell>(&folder).unwrap().is_ok());
        let told = fs::read_to_string(folder.join("output")).unwrap();
        assert_eq!(told, format!("\"a,b\\n\" \"1,2\\n\" \"inside\" b3:{one}"));
        assert_eq!(fs::read(folder.join("files/told/it")).unwrap(), b"yes");

        put("replay.json", &parcel(false));
        let failed = replay_in::<Tell>(&folder).unwrap().unwrap_err();
        assert!(failed.contains("--into"), "{failed}");
        assert_eq!(fs::read_to_string(folder.join("error")).unwrap(), failed);
        assert!(!folder.join("output").exists(), "what was before is gone");

        put("args.json", "{}");
        let failed = replay_in::<Tell>(&folder).unwrap().unwrap_err();
        assert_eq!(failed, "there are no arguments");
        fs::remove_dir_all(&folder).unwrap();
    }
}
