//! Datasets sorted by a key, and calls that find records in them.

use serde_json::Value;

use crate::harness::{Node, fails};

const LOCATED: &str =
    "public = true\ninputs = { data = \"users\" }\nlocate = { input = \"data\", key = \"{rest}\" }";

/// `users.csv` with records in no order.
fn users(records: u32) -> (tempfile::TempDir, String, Vec<String>) {
    let mut text = "user_id,name\n".to_owned();
    let mut lines = Vec::new();
    for number in 0..records {
        let id = number.wrapping_mul(2_654_435_761);
        lines.push(format!(
            "u{id:010},\"{}, \"\"{number}\"\"\"\n",
            "name ".repeat(10)
        ));
        text.push_str(&lines[number as usize]);
    }
    lines.sort();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("users.csv"), &text).unwrap();
    let path = dir.path().join("users.csv").to_str().unwrap().to_owned();
    (dir, path, lines)
}

#[test]
fn a_record_is_found_by_its_key() {
    let node = Node::start();
    let (_dir, path, sorted) = users(20_000);
    let put_sorted = || {
        node.json(&[
            "put",
            &path,
            "--name",
            "users",
            "--key",
            "user_id",
            "--shard-size",
            "64KiB",
        ])
    };
    let put = put_sorted();
    assert!(put["shards"].as_u64().unwrap() > 3, "{put}");
    let back = String::from_utf8(node.ok(&["get", "users"])).unwrap();
    assert!(
        back == format!("user_id,name\n{}", sorted.concat()),
        "sorted, nothing lost"
    );
    let again = put_sorted();
    assert_eq!(
        (&again["digest"], &again["new_shards"]),
        (&put["digest"], &0.into())
    );

    let described = node.json(&["describe", "dataset/users", "--shards"]);
    assert_eq!(described["meta"]["key"], "user_id");
    assert_eq!(described["shards"][0]["keys"][0], &sorted[0][..11]);

    node.deploy("lookup", "lookup", LOCATED);
    for line in sorted.iter().step_by(997) {
        let id = &line[..11];
        let reply = node.get(&format!("/fn/lookup/{id}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let name = line[13..line.len() - 2].replace("\"\"", "\"");
        assert_eq!(reply.json(), serde_json::json!({ "user_id": id, "name": name }));
        let shards = described["shards"].as_array().unwrap();
        let holds = |shard: &&Value| {
            shard["keys"][0].as_str().unwrap() <= id && id <= shard["keys"][1].as_str().unwrap()
        };
        let shard = shards.iter().find(holds).unwrap();
        let call = node.record(reply.id());
        assert_eq!(call["placement"]["located"], shard["digest"], "placed by its key");
    }
    assert_eq!(node.get("/fn/lookup/nobody").status, 404);
    let reply = node.get(&format!("/fn/lookup/{}", &sorted[7][..11]));
    assert_eq!(
        node.fuel(&reply),
        node.fuel(&node.get(&format!("/fn/lookup/{}", &sorted[7][..11]))),
        "a look-up costs the same each time"
    );
}

#[test]
fn json_is_sorted_by_a_pointer() {
    let node = Node::start();
    let input = b"{\"user\": {\"id\": 2}}\n{\"user\": {\"id\": \"10\"}}\n\n{\"user\": {\"id\": 2}, \"n\": 1}";
    let put = [
        "put", "-", "--name", "users", "--split", "ndjson", "--key", "/user/id",
    ];
    let output = node.cli_with_input(&put, input);
    assert!(output.status.success(), "{output:?}");
    node.deploy("lookup", "lookup", LOCATED);
    let found = |key: &str| node.get(&format!("/fn/lookup/{key}")).text();
    assert_eq!(found("10"), "{\"user\": {\"id\": \"10\"}}\n");
    assert_eq!(
        found("2"),
        "{\"user\": {\"id\": 2}}\n{\"user\": {\"id\": 2}, \"n\": 1}\n"
    );
}

#[test]
fn what_does_not_go_together_is_told() {
    let node = Node::start();
    let (_dir, path, _) = users(10);
    let put = |more: &[&str]| node.cli(&[&["put", &path, "--name", "users"], more].concat());
    fails(&put(&["--key", "id"]), 1, "no column `id`: it has user_id, name");
    fails(
        &put(&["--key", "user_id", "--split", "lines"]),
        1,
        "csv or ndjson",
    );
    fails(&put(&["--key", "user_id", "--append"]), 2, "--append");
    let broken = b"user_id,name\n1,x\n2\n";
    let broken = node.cli_with_input(
        &["put", "-", "--name", "users", "--split", "csv", "--key", "name"],
        broken,
    );
    fails(
        &broken,
        1,
        "record 3, at byte 17, has 1 field, and the header has 2",
    );
    fails(&node.cli(&["describe", "dataset/users"]), 4, "users");

    assert!(put(&["--key", "user_id"]).status.success());
    fails(&put(&["--append"]), 1, "sorted by `user_id`");
    fails(&put(&["--part", "a"]), 1, "sorted by `user_id`");
    let empty = node.cli_with_input(
        &["put", "-", "--name", "users", "--split", "csv", "--key", "name"],
        b"user_id,name\n",
    );
    assert!(empty.status.success(), "a table without records");
    assert_eq!(node.json(&["describe", "dataset/users"])["meta"]["key"], "name");
    assert!(put(&[]).status.success(), "a new version may do without");
    node.deploy("lookup", "lookup", LOCATED);
    let reply = node.get("/fn/lookup/u0000000000");
    assert_eq!(reply.status, 500, "{}", reply.text());
}
