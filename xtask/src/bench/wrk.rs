//! Load by `wrk`, from a core of its own.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{apt_install, has, output};

/// As many as the figures of DESIGN §13 were taken with.
pub const CONNECTIONS: u32 = 32;
const CORE: &str = "1";

/// What one run measured.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub requests_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

pub fn set_up() -> Result<()> {
    if (has("wrk") || apt_install(&["wrk"])) && has("taskset") {
        return Ok(());
    }
    bail!("this needs wrk and taskset: on Debian, apt-get install wrk util-linux")
}

/// What is loaded, and how.
pub struct Run<'a> {
    pub url: &'a str,
    pub seconds: u32,
    pub connections: u32,
    /// Lua, for requests that differ.
    pub script: Option<&'a Path>,
}

impl<'a> Run<'a> {
    /// A URL for so many seconds.
    pub fn new(url: &'a str, seconds: u32) -> Self {
        Run {
            url,
            seconds,
            connections: CONNECTIONS,
            script: None,
        }
    }

    /// Loads it; an answer that is not 2xx is an error.
    pub fn measure(&self) -> Result<Load> {
        let mut wrk = Command::new("taskset");
        wrk.args(["--cpu-list", CORE, "wrk", "--latency", "--threads", "1"])
            .args(["--connections", &self.connections.to_string()])
            .args(["--duration", &format!("{}s", self.seconds)]);
        if let Some(script) = self.script {
            wrk.arg("--script").arg(script);
        }
        let said = output(wrk.arg(self.url))?;
        parse(&String::from_utf8(said)?).with_context(|| format!("loading {}", self.url))
    }
}

fn parse(said: &str) -> Result<Load> {
    let after = |label: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(label));
        line.map(str::trim)
            .with_context(|| format!("wrk said no {label}: {said}"))
    };
    for trouble in ["Non-2xx or 3xx responses:", "Socket errors:"] {
        if let Ok(what) = after(trouble) {
            bail!("{trouble} {what}");
        }
    }
    Ok(Load {
        requests_per_second: after("Requests/sec:")?.parse()?,
        p50_ms: milliseconds(after("50%")?)?,
        p99_ms: milliseconds(after("99%")?)?,
    })
}

fn milliseconds(text: &str) -> Result<f64> {
    let unit = text
        .find(|c: char| c.is_ascii_alphabetic())
        .context("a time without a unit")?;
    let value: f64 = text[..unit].parse()?;
    Ok(value
        * match &text[unit..] {
            "us" => 0.001,
            "ms" => 1.0,
            "s" => 1000.0,
            other => bail!("wrk's unit {other}"),
        })
}

#[cfg(test)]
mod tests {
    const SAID: &str = "\
  Latency Distribution
     50%  311.00us
     75%    1.20ms
     90%    1.60ms
     99%    2.50ms
  1000 requests in 1.00s, 1.00MB read
Requests/sec:  98765.43
Transfer/sec:      8.01MB
";

    #[test]
    fn what_wrk_says_is_understood() {
        let load = super::parse(SAID).unwrap();
        assert_eq!(
            (load.requests_per_second, load.p50_ms, load.p99_ms),
            (98765.43, 0.311, 2.5)
        );
        assert!(super::parse(&format!("{SAID}  Non-2xx or 3xx responses: 3\n")).is_err());
    }
}
