//! `cargo xtask demo`: the whole path on data that is the same everywhere, as a user would go it, with a report.

mod hosts;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nearfield_testkit::cleanup::Folder;
use nearfield_testkit::{Answer, Node};
use serde_json::Value;
use ureq::http::Request;

use crate::guests;
use crate::report::{Table, bytes, count, rate, short, time};
use crate::sources::{self, Facts};
use crate::workspace::{self, Profile, root, step};

/// How much the demo puts: what a debug build puts in seconds.
const SOURCES_BYTES: u64 = 200 << 20;

pub struct Options {
    keep: bool,
    profile: Profile,
    /// A network of so many hosts and a gateway, instead of one node.
    hosts: Option<usize>,
}

impl Options {
    pub fn parse(arguments: &[&str]) -> Result<Options> {
        let mut options = Options {
            keep: false,
            profile: Profile::Debug,
            hosts: None,
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match *argument {
                "--hosts" => {
                    let hosts = arguments.next().and_then(|hosts| hosts.parse().ok());
                    let hosts = hosts.filter(|hosts| (2..=16).contains(hosts));
                    options.hosts = Some(hosts.context("--hosts takes a number from 2 to 16")?);
                }
                "--keep" => options.keep = true,
                "--release" => options.profile = Profile::Release,
                other => bail!("demo knows --hosts, --keep and --release, not {other}"),
            }
        }
        ensure!(
            options.hosts.is_none() || !options.keep,
            "--keep leaves one node up: with --hosts there are several"
        );
        Ok(options)
    }
}

pub fn run(options: &Options) -> Result<()> {
    if let Some(hosts) = options.hosts {
        return hosts::run(hosts, options.profile);
    }
    let components = guests::build()?;
    let binary = workspace::nearfield(options.profile)?;

    step("making sources");
    let folder = Folder::new("demo")?;
    let (sources, csv) = (folder.path().join("sources"), folder.path().join("files.csv"));
    sources::write(&sources, SOURCES_BYTES)?;
    let facts = sources::describe(&sources, &csv)?;

    let node = Node::start(&binary, &folder.path().join("data"))?;
    println!(
        "\n{} files, {} in {}\n",
        count(facts.files),
        bytes(facts.bytes),
        sources.display()
    );
    println!("{}", put(&node, &sources, &csv)?);
    deploy(&node, folder.path(), &components)?;
    println!("{}", call(&node, &sources, &facts)?);
    println!("{}", jobs(&node, &sources, &facts)?);
    println!("All answers are as they must be; ✓ were compared with the files themselves.");
    if options.profile == Profile::Debug {
        println!("This was a debug build; --release shows the speed.");
    }

    if options.keep {
        keep(&node, &folder, &binary, &facts);
        node.leave();
        folder.leave();
        return Ok(());
    }
    node.stop()?;
    println!("The node has stopped and its folder is gone; --keep leaves it up.");
    Ok(())
}

fn put(node: &Node, sources: &Path, csv: &Path) -> Result<Table> {
    let mut table = Table::new(["dataset", "bytes", "shards", "digest", "time", "rate"]);
    for (path, name, split) in [(sources, "registry", "files"), (csv, "files-csv", "csv")] {
        step(&format!("putting {} as {name}", path.display()));
        let start = Instant::now();
        let stored = node.put(path, name, split)?;
        let took = start.elapsed();
        let number = |field: &str| stored[field].as_u64().context("a number that put prints");
        table.row([
            name.to_owned(),
            bytes(number("bytes")?),
            count(number("shards")?),
            short(stored["digest"].as_str().unwrap_or_default(), 14),
            time(took),
            rate(number("bytes")?, took),
        ]);
    }
    Ok(table)
}

/// Deploys each function by its own manifest; `stats` is told another dataset, so it gets a manifest of ours.
fn deploy(node: &Node, folder: &Path, components: &Path) -> Result<()> {
    for name in [
        "hello",
        "echo",
        "cat",
        "grep",
        "fetch",
        "plain-p2",
        "plain-p3",
        "audit",
        "wordcount",
    ] {
        step(&format!("deploying {name}"));
        let path = root().join("functions").join(name);
        node.json(&["deploy", path.to_str().context("a path that is not UTF-8")?])?;
    }
    step("deploying stats over files-csv");
    let stats = folder.join("stats");
    fs::create_dir(&stats)?;
    let component = guests::component(components, "stats").canonicalize()?;
    let manifest = format!(
        "[function.stats]\n\
         build = {{ component = {component:?} }}\n\
         route     = \"/stats\"\n\
         public    = true\n\
         inputs    = {{ table = \"files-csv\" }}\n\
         limits    = {{ fuel = 50_000_000_000, timeout = \"120s\" }}\n"
    );
    fs::write(stats.join("nearfield.toml"), manifest)?;
    node.json(&["deploy", stats.to_str().context("a path that is not UTF-8")?])?;
    Ok(())
}

/// Calls every function over HTTP and checks what it says.
fn call<'a>(node: &'a Node, sources: &Path, facts: &Facts) -> Result<Calls<'a>> {
    step("calling");
    let mut calls = Calls {
        node,
        table: Table::new(["call", "", "answer", "bytes", "fuel", "placement", "time"]),
    };
    let hello = calls.get("/hello", 200)?;
    ensure!(hello.text() == "Hello, world!", "hello said {}", hello.text());

    let sent: Vec<u8> = (0..1u32 << 20).map(|index| (index % 251) as u8).collect();
    let request = Request::post(format!("{}/echo", node.functions_url))
        .header("content-type", "application/octet-stream")
        .body(sent.clone())?;
    let echoed = calls.send("POST /echo, 1 MiB", request, 200, "✓ the same bytes")?;
    ensure!(echoed.body == sent, "echo changed the bytes");

    let (file, unsafe_lines) = &facts.unsafest;
    let original = fs::read(sources.join(file))?;
    let part = 100..original.len().min(300);
    let request = Request::get(format!("{}/cat/{file}", node.functions_url))
        .header("range", format!("bytes={}-{}", part.start, part.end - 1))
        .body(Vec::new())?;
    let shown = short(&String::from_utf8_lossy(&original[part.clone()]), 20);
    let read = calls.send("GET /cat/…, a Range", request, 206, &format!("✓ {shown}"))?;
    ensure!(read.body == original[part], "cat gave other bytes of {file}");

    let request = Request::get(format!("{}/grep/{file}?q=unsafe", node.functions_url)).body(Vec::new())?;
    let shown = format!("✓ {} lines", count(*unsafe_lines));
    let found = calls.send("GET /grep/…?q=unsafe", request, 200, &shown)?;
    let lines = memchr::memchr_iter(b'\n', &found.body).count() as u64;
    ensure!(
        lines == *unsafe_lines,
        "grep found {lines} lines in {file}, not {unsafe_lines}"
    );

    let request = Request::get(format!("{}/stats?column=bytes", node.functions_url)).body(Vec::new())?;
    let mean = facts.bytes as f64 / facts.files as f64;
    let shown = format!("✓ {} files, {mean:.0} bytes each", count(facts.files));
    let stats = calls.send("GET /stats?column=bytes", request, 200, &shown)?;
    let column: Value = serde_json::from_slice(&stats.body)?;
    let told = (column[0]["count"].as_u64(), column[0]["mean"].as_f64());
    ensure!(
        told.0 == Some(facts.files) && told.1.is_some_and(|told| (told / mean - 1.0).abs() < 1e-9),
        "stats said {}",
        stats.text()
    );

    let token = node.json(&["token", "create", "--function", "fetch"])?;
    let token = token["token"].as_str().context("the token that was made")?;
    let request = Request::get(format!(
        "{}/fetch?url=http://169.254.169.254/",
        node.functions_url
    ))
    .header("authorization", format!("Bearer {token}"))
    .body(Vec::new())?;
    calls.send("GET /fetch, not granted", request, 502, "refused")?;

    for path in ["/plain-p2", "/plain-p3"] {
        let hello = calls.get(path, 200)?;
        ensure!(hello.text() == "Hello, world!", "{path} said {}", hello.text());
    }
    Ok(calls)
}

/// Runs jobs over all sources; changes a file, puts them again, and runs them again.
fn jobs(node: &Node, sources: &Path, facts: &Facts) -> Result<Table> {
    let mut table = Table::new(["job", "answer", "shards", "ran", "read", "fuel burned", "time"]);
    let mut run = |what: &str, function: &str, shown: &dyn Fn(&Value) -> String| -> Result<Value> {
        step(&format!("running {function} over registry, {what}"));
        let done = node.json(&["run", function, "--over", "registry"])?;
        let number = |field: &str| {
            done[field]
                .as_u64()
                .with_context(|| format!("`{field}` of a job"))
        };
        table.row([
            format!("{function}, {what}"),
            shown(&done["output"]),
            count(number("shards")?),
            count(number("shards")? - number("remembered")?),
            bytes(number("bytes_read")?),
            count(number("fuel_spent")?),
            time(Duration::from_secs_f64(done["seconds"].as_f64().unwrap_or(0.0))),
        ]);
        Ok(done)
    };
    let words = |output: &Value| format!("{} words", count(output["words"].as_u64().unwrap_or(0)));
    let audited = |output: &Value| {
        format!(
            "{} unsafe blocks",
            count(output["total"]["unsafe_blocks"].as_u64().unwrap_or(0))
        )
    };
    run("first", "audit", &audited)?;
    let first = run("first", "wordcount", &words)?;
    let again = run("again", "wordcount", &words)?;
    ensure!(
        again["digest"] == first["digest"],
        "the same job came to something else"
    );
    ensure!(again["fuel_spent"] == 0, "a remembered job burned fuel");

    let (file, _) = &facts.unsafest;
    let path = sources.join(file);
    let mut content = fs::read(&path)?;
    content.extend_from_slice(b"// nearfield_was_here\n");
    fs::write(&path, content)?;
    step("putting the sources again, one file changed");
    node.put(sources, "registry", "files")?;
    let changed = run("a file changed", "wordcount", &words)?;
    let total = |done: &Value| done["output"]["words"].as_u64().context("words");
    ensure!(
        total(&changed)? == total(&first)? + 1,
        "the new word was not counted"
    );
    run("a file changed", "audit", &audited)?;
    Ok(table)
}

/// The calls so far, as a table.
struct Calls<'a> {
    node: &'a Node,
    table: Table,
}

impl Calls<'_> {
    fn get(&mut self, path: &str, status: u16) -> Result<Answer> {
        let request = Request::get(format!("{}{path}", self.node.functions_url)).body(Vec::new())?;
        self.send(&format!("GET {path}"), request, status, "")
    }

    /// Without `shown`, the answer itself is shown.
    fn send(&mut self, what: &str, request: Request<Vec<u8>>, status: u16, shown: &str) -> Result<Answer> {
        let answer = self.node.send(request)?;
        ensure!(
            answer.status == status,
            "{what}: {} {}",
            answer.status,
            answer.text()
        );
        let told = self.node.record(answer.call()?)?;
        self.table.row([
            what.to_owned(),
            answer.status.to_string(),
            if shown.is_empty() {
                short(&answer.text(), 24)
            } else {
                shown.to_owned()
            },
            bytes(answer.body.len() as u64),
            told["report"]["fuel"].as_u64().map_or("?".into(), count),
            answer.header("nearfield-placement").unwrap_or("-").to_owned(),
            time(answer.took),
        ]);
        Ok(answer)
    }
}

impl std::fmt::Display for Calls<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.table.fmt(f)
    }
}

fn keep(node: &Node, folder: &Folder, binary: &Path, facts: &Facts) {
    let (url, file) = (&node.functions_url, &facts.unsafest.0);
    let data = folder.path().join("data");
    println!(
        "\nThe node runs on. Try:\n\n\
         \x20 curl {url}/hello\n\
         \x20 curl '{url}/grep/{file}?q=unsafe'\n\
         \x20 curl {url}/stats\n\n\
         \x20 export NEARFIELD_URL={admin} NEARFIELD_DATA={data}\n\
         \x20 {binary} ls functions\n\
         \x20 {binary} describe dataset/registry\n\
         \x20 {binary} logs hello\n\n\
         End it:\n\n\
         \x20 kill {pid} && rm -r {folder}",
        admin = node.admin_url,
        data = data.display(),
        binary = binary.display(),
        pid = node.pid(),
        folder = folder.path().display(),
    );
    // The first call compiled; an answer in milliseconds is what one sees from here on.
    let _ = node.get("/hello").inspect(|answer| {
        println!(
            "\n(hello just answered in {}.)",
            time(answer.took.max(Duration::from_micros(100)))
        );
    });
}
