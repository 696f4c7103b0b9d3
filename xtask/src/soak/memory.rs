//! Memory stays flat: what calls take, they give back.

use anyhow::{Result, ensure};
use nearfield_testkit::Node;
use nearfield_testkit::cleanup::Folder;
use ureq::http::Request;

use super::{Finding, Setting};
use crate::report::{bytes, count};
use crate::workspace::root;

/// As many calls at once as keep two cores busy.
const CALLERS: u64 = 4;
const MOST_GROWTH: f64 = 0.05;

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let (warm_up, calls) = if setting.quick {
        (2_000, 20_000)
    } else {
        (10_000, 100_000)
    };
    let folder = Folder::new("memory")?;
    let node = Node::start(&setting.nearfield, &folder.path().join("data"))?;
    for function in ["hello", "echo", "plain-p3"] {
        let path = root().join("functions").join(function);
        node.json(&["deploy", &path.display().to_string()])?;
    }
    call(&node, warm_up)?;
    let before = node.memory("VmRSS")?;
    call(&node, calls)?;
    let after = node.memory("VmRSS")?;
    node.stop()?;
    let growth = after as f64 / before as f64 - 1.0;
    let told = format!("{} → {}, {:+.1} %", bytes(before), bytes(after), growth * 100.0);
    ensure!(
        growth <= MOST_GROWTH,
        "resident memory grew by more than 5 %: {told}"
    );
    Ok(vec![(
        format!("{} calls after {} of warm-up", count(calls), count(warm_up)),
        format!("resident {told}"),
    )])
}

/// Makes exactly so many calls: hello, an echo of 10 KB and p3 in turn.
fn call(node: &Node, calls: u64) -> Result<()> {
    let url = &node.functions_url;
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                scope.spawn(move || -> Result<()> {
                    for number in (caller..calls).step_by(CALLERS as usize) {
                        let request = match number % 3 {
                            0 => Request::get(format!("{url}/hello")).body(Vec::new()),
                            1 => Request::post(format!("{url}/echo")).body(vec![7; 10_000]),
                            _ => Request::get(format!("{url}/plain-p3")).body(Vec::new()),
                        };
                        let answer = node.send(request?)?;
                        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
                    }
                    Ok(())
                })
            })
            .collect();
        callers
            .into_iter()
            .try_for_each(|caller| caller.join().expect("callers do not panic"))
    })
}
