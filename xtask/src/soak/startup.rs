//! A store full of blobs must not make the node slow to start.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nearfield_testkit::cleanup::Folder;
use nearfield_testkit::{Node, until_ready};

use super::{Finding, Setting};
use crate::report::{count, median, time};

/// DESIGN §13: with 100,000 sealed blobs.
const MOST: Duration = Duration::from_millis(300);
const STARTS: usize = 5;

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let blobs: u64 = if setting.quick { 5_000 } else { 100_000 };
    let folder = Folder::new("startup")?;
    let data = folder.path().join("data");
    let node = Node::start(&setting.nearfield, &data)?;
    // A text split cuts inside each file: so each is a shard, and a blob.
    let files = folder.path().join("files");
    for number in 0..blobs {
        let parent = files.join(format!("{:03}", number / 1000));
        if number % 1000 == 0 {
            fs::create_dir_all(&parent)?;
        }
        fs::write(parent.join(number.to_string()), format!("blob {number}\n"))?;
    }
    let stored = node.put(&files, "blobs", "bytes")?;
    ensure!(
        stored["new_shards"] == blobs,
        "{} of {blobs} blobs were stored",
        stored["new_shards"]
    );
    let component = crate::guests::component(&setting.components, "plain-p2")
        .display()
        .to_string();
    node.json(&["deploy", &component, "--name", "hello", "--public"])?;
    node.stop()?;

    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let start = Instant::now();
        let node = Node::start(&setting.nearfield, &data)?;
        until_ready(&format!("{}/fn/hello", node.functions_url))?;
        starts.push(start.elapsed().as_secs_f64());
        node.stop()?;
    }
    let took = Duration::from_secs_f64(median(starts));
    ensure!(
        took < MOST,
        "exec to the first 200 took {}, more than {}",
        time(took),
        time(MOST)
    );
    Ok(vec![(
        format!(
            "exec to a function's first 200 over {} sealed blobs",
            count(blobs)
        ),
        format!("{} (middle of {STARTS}; goal < {})", time(took), time(MOST)),
    )])
}
