//! Load by `wrk`, from a core of its own.

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

/// Loads a URL for so many seconds; an answer that is not 2xx is an error.
pub fn run(url: &str, seconds: u32) -> Result<Load> {
    let mut wrk = Command::new("taskset");
    wrk.args(["--cpu-list", CORE, "wrk", "--latency", "--threads", "1"])
        .args(["--connections", &CONNECTIONS.to_string()])
        .args(["--duration", &format!("{seconds}s"), url]);
    parse(&String::from_utf8(output(&mut wrk)?)?).with_context(|| format!("loading {url}"))
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
