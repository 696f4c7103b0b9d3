//! The way to the GPU: submissions by a function in Wasm, through the host and its worker, beside the same by plain wgpu.
//!
//! The function submits many times in one call; what one submission takes is the difference between many and few, so that
//! neither HTTP nor the start of a call is in it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nearfield_testkit::Node;
use nearfield_testkit::cleanup::Folder;
use serde_json::{Value, json};
use ureq::http::Request;

use crate::report::{Table, median};
use crate::workspace::{self, Profile, output, step};
use crate::{gpu, guests};

const ROUNDS: usize = 5;
/// Submissions of a call, many and few.
const MANY: u32 = 110;
const FEW: u32 = 10;

const DOUBLE: &str = include_str!("../../../benches/gpu/double.wgsl");
const HISTOGRAM: &str = include_str!("../../../functions/histogram/src/histogram.wgsl");

/// One row: the name, what is asked of the function, the shader, and what `bare-gpu` calls it.
const ROWS: [(&str, &str, &str, &str); 3] = [
    ("1 small dispatch", "buffers=256&read=4", DOUBLE, "one_us"),
    (
        "100 small dispatches",
        "buffers=256&read=4&dispatches=100",
        DOUBLE,
        "hundred_us",
    ),
    (
        "histogram of a resident shard of 4 MiB",
        "entry=histogram&shard=0&buffers=1024&workgroups=64,1,1&read=1024",
        HISTOGRAM,
        "shard_us",
    ),
];

pub fn run(as_json: bool) -> Result<()> {
    let components = guests::build()?;
    let bare = workspace::bare_gpu()?;
    let nearfield = workspace::nearfield(Profile::Release)?;
    let adapter = gpu::adapter(&nearfield)?.map_err(anyhow::Error::msg)?;
    let folder = Folder::new("bench-gpu")?;
    let node = Node::start(&nearfield, &folder.path().join("data"))?;
    let numbers: Vec<u8> = (0..1_u32 << 20)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let file = folder.path().join("numbers");
    std::fs::write(&file, numbers)?;
    node.put(&file, "numbers", "none")?;
    deploy(&node, &components, folder.path())?;
    gpu::wait(&node)?;

    step(&format!("{ROUNDS} rounds on {adapter}"));
    let (mut ours, mut plain) = (
        [const { Vec::new() }; ROWS.len()],
        [const { Vec::new() }; ROWS.len()],
    );
    for _ in 0..ROUNDS {
        let printed = output(Command::new(&bare).args([&adapter, "200"]))?;
        let printed: Value = serde_json::from_slice(&printed).context("what bare-gpu prints")?;
        for (at, (_, query, wgsl, name)) in ROWS.iter().enumerate() {
            plain[at].push(printed[name].as_f64().context("a figure of bare-gpu's")?);
            let (few, many) = (
                submit(&node, query, wgsl, FEW)?,
                submit(&node, query, wgsl, MANY)?,
            );
            ours[at].push((many - few) / f64::from(MANY - FEW));
        }
    }
    let rows: Vec<_> = ROWS
        .iter()
        .zip(ours.into_iter().zip(plain))
        .map(|((what, ..), (ours, plain))| (*what, median(ours), median(plain)))
        .collect();
    if as_json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(what, ours, plain)| json!({ "what": what, "nearfield_us": ours, "wgpu_us": plain, "ratio": ours / plain }))
            .collect();
        println!("{}", json!({ "adapter": adapter, "rows": rows }));
        return Ok(());
    }
    let mut table = Table::new(["one submission", "nearfield", "plain wgpu", "ratio"]);
    for (what, ours, plain) in rows {
        table.row([
            what.to_owned(),
            format!("{ours:.0} µs"),
            format!("{plain:.0} µs"),
            format!("{:.2}", ours / plain),
        ]);
    }
    println!("on {adapter}\n\n{table}");
    Ok(())
}

fn deploy(node: &Node, components: &std::path::Path, folder: &std::path::Path) -> Result<()> {
    let component = guests::component(components, "shader");
    let manifest = format!(
        "[function.shader]\nbuild = {{ component = \"{}\" }}\npublic = true\ninputs = {{ data = \"numbers\" }}\n\
         require = {{ gpu = \"any\" }}\nlimits = {{ gpu_time = \"60s\", timeout = \"120s\" }}\n",
        component.display()
    );
    std::fs::write(folder.join("nearfield.toml"), manifest)?;
    node.json(&["deploy", folder.to_str().context("a path that is not UTF-8")?])?;
    Ok(())
}

/// Microseconds of a call that submits so many times.
fn submit(node: &Node, query: &str, wgsl: &str, submissions: u32) -> Result<f64> {
    let url = format!(
        "{}/fn/shader?{query}&submissions={submissions}",
        node.functions_url
    );
    let answer = node.send(Request::post(url).body(wgsl.as_bytes().to_vec())?)?;
    let said: Value = serde_json::from_slice(&answer.body).with_context(|| answer.text())?;
    ensure!(said["error"].is_null() && answer.status == 200, "{said}");
    Ok(answer.took.as_secs_f64() * 1e6)
}
