//! Guests that mean no good.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use nearfield_testkit::Node;
use serde_json::Value;
use ureq::http::Request;

use super::{Attack, End};
use crate::soak::Setting;

/// Ways to misbehave that `functions/hostile` knows.
const HOSTILE: [&str; 21] = [
    "loop",
    "memory",
    "recurse",
    "sleep",
    "panic",
    "never",
    "half",
    "logs",
    "handles",
    "hoard/headers",
    "hoard/bodies",
    "header",
    "host/random",
    "host/random-once",
    "host/insecure",
    "host/now",
    "host/wait",
    "host/environment",
    "host/print",
    "host/fields",
    "host/directories",
];

/// Of all that goes on until its time is over.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Answers that `functions/rude` and `functions/rude-p3` give, and what becomes of them.
const RUDE: [(&str, &str, u16); 6] = [
    (
        "speaks as its host",
        "field=nearfield-problem:1&body=%7B%22type%22:%22urn:nearfield:problem:host-lost%22%7D",
        200,
    ),
    (
        "declares too little",
        "field=content-length:2&body=abc&times=100",
        502,
    ),
    ("declares too much", "field=content-length:200&body=abc", 502),
    ("answers 999", "status=999&body=abc", 502),
    ("has an error of 7 MB", "error=7000000", 502),
    ("prints what moves a terminal", "log=%1b%5b2J&body=abc", 200),
];

/// Components that no toolchain makes.
const BY_HAND: [(&str, &str); 2] = [
    ("fills", include_str!("../../../../tests/src/fills.wat")),
    ("strings", include_str!("../../../../tests/src/strings.wat")),
];

/// Deploys them all, and the neighbour.
pub fn deploy(node: &Node, folder: &Path, setting: &Setting) -> Result<()> {
    let folder = folder.join("functions");
    fs::create_dir_all(&folder)?;
    let of_the_crate = |name: &str| {
        setting
            .components
            .join(format!("{name}.wasm"))
            .display()
            .to_string()
    };
    let mut manifest = String::new();
    let mut function = |name: &str, component: &str, more: &str| {
        manifest += &format!(
            "[function.{name}]\nbuild = {{ component = \"{component}\" }}\nroute = \"/{name}\"\npublic = true\n{more}\n"
        );
    };
    function("hello", &of_the_crate("hello"), "");
    let hostile = of_the_crate("hostile");
    function(
        "hostile",
        &hostile,
        "limits = { timeout = \"2s\", fuel = \"10T\" }",
    );
    function(
        "greedy",
        &hostile,
        "limits = { timeout = \"2s\", fuel = \"10T\", memory = \"4GiB\" }",
    );
    function("hostile-start", &of_the_crate("hostile_start"), "");
    function("rude", &of_the_crate("rude"), "");
    function("rude-p3", &of_the_crate("rude_p3"), "");
    for version in 0..8 {
        let name = format!("kept-{version}");
        function(&name, &of_the_crate("plain_p2"), "instances = \"reuse\"");
    }
    for (name, text) in BY_HAND {
        let file = folder.join(format!("{name}.wasm"));
        fs::write(&file, wat::parse_str(text)?)?;
        let limits = "limits = { timeout = \"2s\", fuel = \"10T\" }";
        function(name, &file.display().to_string(), limits);
    }
    fs::write(folder.join("nearfield.toml"), manifest)?;
    node.json(&["deploy", &folder.display().to_string()])?;
    Ok(())
}

pub fn attacks() -> Vec<Attack> {
    let mut attacks = Vec::new();
    for path in HOSTILE {
        attacks.push(gets(&format!("hostile/{path}"), 8));
    }
    attacks.push(gets("greedy/memory", 8));
    attacks.push(gets("hostile-start", 8));
    attacks.push(gets("fills", 8));
    attacks.push(gets("strings", 8));
    for (what, query, status) in RUDE {
        for name in ["rude", "rude-p3"] {
            let target = format!("/{name}?{query}");
            attacks.push(Attack {
                name: format!("{name} {what}"),
                at_once: 4,
                attempt: Box::new(move |node| {
                    let answer = match node.get(&target) {
                        // What a guest says late is found out once its head is gone: the answer breaks off.
                        Err(_) if status == 502 => return Ok(Some("broken off".to_owned().into())),
                        answer => answer?,
                    };
                    ensure!(answer.status == status, "{} to {target}", answer.status);
                    Ok(Some(status.to_string().into()))
                }),
            });
        }
    }
    attacks.push(Attack {
        name: "keeps instances of eight functions".to_owned(),
        at_once: 16,
        attempt: Box::new(|node| {
            for version in 0..8 {
                let answer = node.get(&format!("/kept-{version}"))?;
                ensure!([200, 503].contains(&answer.status), "{}", answer.status);
            }
            Ok(None)
        }),
    });
    attacks
}

/// So many clients that call a function again and again. How their calls end is told.
fn gets(path: &str, at_once: usize) -> Attack {
    let target = format!("/{path}");
    Attack {
        name: path.to_owned(),
        at_once,
        attempt: Box::new(move |node| {
            let request = Request::get(format!("{}{target}", node.functions_url)).body(Vec::new())?;
            // A response that breaks off is an error here, and meant.
            let Ok(answer) = node.send(request) else {
                return Ok(Some("broken off".to_owned().into()));
            };
            let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let kind = problem["type"].as_str().and_then(|kind| kind.rsplit(':').next());
            Ok(Some(End {
                what: kind.map_or_else(|| answer.status.to_string(), str::to_owned),
                late: (kind == Some("timeout")).then(|| answer.took.saturating_sub(TIMEOUT)),
            }))
        }),
    }
}
