//! Hosts whose results are not what the functions return.

use std::path::Path;

use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use crate::harness::{Node, fails, lines, until};
use crate::network::Network;

/// As the store has them: fuel, total fuel, data bytes, written files, written bytes, output bytes, output digest, last
/// use, bytes held.
type Row = (u64, u64, u64, u64, u64, u64, [u8; 32], u64, u64);
const ROWS: TableDefinition<[u8; 32], Row> = TableDefinition::new("rows");
const OUTPUTS: TableDefinition<[u8; 32], &[u8]> = TableDefinition::new("outputs");

/// The maps that are remembered in a table of rows.
fn maps(rows: &impl ReadableTable<[u8; 32], Row>) -> Vec<([u8; 32], Row)> {
    rows.iter()
        .unwrap()
        .map(|row| row.unwrap())
        .map(|(key, row)| (key.value(), row.value()))
        .filter(|(_, row)| row.0 == row.1)
        .collect()
}

/// How many maps are remembered in `data`.
fn count_maps(data: &Path) -> usize {
    let db = redb::Database::open(data.join("remembered.redb")).unwrap();
    let tx = db.begin_read().unwrap();
    maps(&tx.open_table(ROWS).unwrap()).len()
}

/// Gives all maps that are remembered in `data` the output of one of them.
fn mix_up(data: &Path) {
    let db = redb::Database::open(data.join("remembered.redb")).unwrap();
    let tx = db.begin_write().unwrap();
    {
        let (mut rows, mut outputs) = (tx.open_table(ROWS).unwrap(), tx.open_table(OUTPUTS).unwrap());
        let maps: Vec<_> = maps(&rows)
            .into_iter()
            .map(|(key, row)| (key, row, outputs.get(key).unwrap().unwrap().value().to_vec()))
            .collect();
        for (key, row, _) in maps.iter().skip(1) {
            let (_, other, output) = &maps[0];
            let lie = (row.0, row.1, row.2, row.3, row.4, other.5, other.6, row.7, row.8);
            rows.insert(key, lie).unwrap();
            outputs.insert(key, output.as_slice()).unwrap();
        }
    }
    tx.commit().unwrap();
}

/// What `text` comes to where nobody lies.
fn truth(text: &[u8]) -> String {
    let node = Node::start();
    let put = [
        "put",
        "-",
        "--name",
        "logs",
        "--split",
        "lines",
        "--shard-size",
        "64KiB",
    ];
    assert!(node.cli_with_input(&put, text).status.success());
    node.deploy("wordcount", "wordcount", "");
    let ran = node.json(&["run", "wordcount", "--over", "logs", "--sample", "50%"]);
    ran["digest"].as_str().unwrap().to_owned()
}

#[test]
fn a_host_that_remembers_what_is_not_so_is_found_and_quarantined() {
    let Network { gateway, mut hosts } = Network::start(3);
    let text = lines(11, 3 << 20);
    let network = Network {
        gateway,
        hosts: Vec::new(),
    };
    network.put("logs", &text, &["--shard-size", "64KiB"]);
    let gateway = &network.gateway;
    gateway.deploy("wordcount", "wordcount", "");
    gateway.json(&["run", "wordcount", "--over", "logs"]);

    // Which host ran how much is chance: of the one that ran the most, some maps are among any half of them.
    let stopped: Vec<_> = hosts.drain(..).map(|host| (host.id(), host.stop().0)).collect();
    let most = stopped.iter().max_by_key(|(_, data)| count_maps(data.path()));
    let (id, data) = most.expect("there are hosts");
    let id = id.clone();
    mix_up(data.path());
    hosts.extend(stopped.into_iter().map(|(_, data)| Node::start_in(data, &[])));
    network.wait_for(3);
    // Its maps are found again below another root.
    let truth = truth(&text);
    let ran = gateway.json(&[
        "run",
        "wordcount",
        "--over",
        "logs",
        "--sample",
        "50%",
        "--check",
        "100%",
    ]);
    assert_eq!(ran["quarantined"], serde_json::json!([id]), "{ran}");
    assert_eq!(ran["digest"], truth.as_str());
    let nodes = gateway.json(&["ls", "nodes"]);
    let nodes = nodes["nodes"].as_array().unwrap();
    let found = nodes.iter().find(|node| node["id"] == id.as_str()).unwrap();
    assert!(
        found["quarantined"].as_str().unwrap().contains("mapping shard"),
        "{found}"
    );
    let shown = String::from_utf8(gateway.ok(&["ls", "nodes"])).unwrap();
    assert!(shown.contains("quarantined"), "{shown}");

    // Nothing of it is used, and nothing runs there, until it is trusted again. Then it remembers nothing.
    let again = gateway.json(&["run", "wordcount", "--over", "logs", "--sample", "50%"]);
    assert_eq!(
        (&again["digest"], &again["fuel_spent"]),
        (&ran["digest"], &0.into())
    );
    gateway.deploy("hello", "hello", "public = true");
    for _ in 0..20 {
        assert_ne!(gateway.get("/fn/hello").header("nearfield-host"), Some(&id[..10]));
    }
    gateway.ok(&["drain", &id[..10], "--undo"]);
    until("it is trusted again", || {
        let nodes = gateway.json(&["ls", "nodes"]);
        let nodes = nodes["nodes"].as_array().unwrap();
        nodes.iter().all(|node| node["quarantined"].is_null())
    });
    let last = gateway.json(&[
        "run",
        "wordcount",
        "--over",
        "logs",
        "--sample",
        "50%",
        "--check",
        "100%",
    ]);
    assert!(last["checked"]["runs"].as_u64().unwrap() > 5, "{last}");
    assert_eq!(last["checked"]["unchecked"], 0, "{last}");
    assert_eq!(
        (&last["digest"], &last["quarantined"]),
        (&ran["digest"], &serde_json::json!([]))
    );
}

#[test]
fn a_purge_reaches_the_hosts() {
    let network = Network::start(2);
    let gateway = &network.gateway;
    network.put("logs", &lines(12, 1 << 20), &["--shard-size", "128KiB"]);
    gateway.deploy("wordcount", "wordcount", "");
    let ran = gateway.json(&["run", "wordcount", "--over", "logs"]);
    let runs = ran["shards"].as_u64().unwrap();
    let removed = gateway
        .admin("DELETE", "/v1/datasets/logs?purge=true", &[])
        .json();
    assert!(removed["forgotten_results"].as_u64().unwrap() > runs, "{removed}");
    network.put("logs", &lines(12, 1 << 20), &["--shard-size", "128KiB"]);
    let again = gateway.json(&["run", "wordcount", "--over", "logs"]);
    assert_eq!(again["remembered"], 0, "{again}");
    assert_eq!(again["digest"], ran["digest"]);
    let refused = gateway.cli(&["run", "wordcount", "--over", "logs", "--check", "0%"]);
    fails(&refused, 2, "percentage");
}
