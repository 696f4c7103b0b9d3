//! Whether this machine has a GPU that tests and soaks can use, and bringing the software adapter where it has none.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nearfield_testkit::Node;
use serde_json::Value;

use crate::workspace::{apt_install, output};

/// The adapter's name, as `nearfield doctor` tells it; Mesa's software adapter is installed where there is none and that needs
/// nobody's password. The error says what to install.
pub fn adapter(nearfield: &Path) -> Result<Result<String, String>> {
    match found(nearfield)? {
        Err(_) if apt_install(&["libvulkan1", "mesa-vulkan-drivers"]) => found(nearfield),
        found => Ok(found),
    }
}

fn found(nearfield: &Path) -> Result<Result<String, String>> {
    // It fails where something else is missing, and has still said all.
    let mut doctor = Command::new("sh");
    doctor.args(["-c", "\"$0\" doctor --json || true"]).arg(nearfield);
    let said: Value =
        serde_json::from_slice(&output(&mut doctor)?).context("what `nearfield doctor --json` says")?;
    let checks = said["checks"].as_array().context("its checks")?;
    let gpu = checks
        .iter()
        .find(|check| check["what"] == "GPU")
        .context("its check of the GPU")?;
    let text = |key: &str| gpu[key].as_str().unwrap_or_default().to_owned();
    Ok(match gpu["adapter"].as_str() {
        Some(adapter) => Ok(adapter.to_owned()),
        None => Err(format!("{}; {}", text("found"), text("next"))),
    })
}

/// Waits until the node knows its GPU.
pub fn wait(node: &Node) -> Result<()> {
    for _ in 0..1_000 {
        let nodes = node.json(&["ls", "nodes"])?;
        let known = nodes["nodes"].as_array().context("nodes")?;
        let hosts = known.iter().filter(|node| node["hosting"] == true);
        if hosts.clone().count() > 0 && hosts.clone().all(|node| !node["load"]["gpu"].is_null()) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    anyhow::bail!("the node never knew its GPU")
}
