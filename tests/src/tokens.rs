use crate::harness::{Node, until};

fn call(node: &Node, token: &str) -> crate::harness::Reply {
    let bearer = format!("Bearer {token}");
    node.request(
        "GET",
        &format!("{}/fn/hello", node.functions_url),
        &[("authorization", &bearer)],
        &[],
    )
}

#[test]
fn a_function_needs_a_token_unless_it_is_public() {
    let node = Node::start();
    node.deploy("hello", "hello", "");
    node.deploy("other", "hello", "");
    assert_eq!(node.get("/fn/hello").problem(), "unauthorized");
    assert_eq!(
        call(&node, &node.token.clone()).status,
        200,
        "the admin token opens everything"
    );

    let made = node.json(&["token", "create", "--function", "hello"]);
    let token = made["token"].as_str().unwrap();
    assert_eq!(call(&node, token).status, 200);
    let bearer = format!("Bearer {token}");
    let url = format!("{}/fn/other", node.functions_url);
    assert_eq!(
        node.request("GET", &url, &[("authorization", &bearer)], &[])
            .problem(),
        "forbidden"
    );
    let url = format!("{}/v1/status", node.admin_url);
    assert_eq!(
        node.request("GET", &url, &[("authorization", &bearer)], &[])
            .problem(),
        "unauthorized"
    );

    node.ok(&["token", "revoke", made["id"].as_str().unwrap()]);
    assert_eq!(call(&node, token).problem(), "unauthorized");
}

#[test]
fn a_token_has_its_budget() {
    let node = Node::start();
    node.deploy("hello", "hello", "");
    let token = |fuel: u64| {
        let fuel = format!("{fuel}/day");
        let made = node.json(&["token", "create", "--function", "hello", "--max-fuel", &fuel]);
        made["token"].as_str().unwrap().to_owned()
    };
    let needs = node.fuel(&call(&node, &token(1_000_000_000)));
    let enough = token(needs + needs / 2);
    assert_eq!(call(&node, &enough).status, 200);
    // What is left bounds the next call, which says so, and burns no more than that.
    let cut = call(&node, &enough);
    assert_eq!(cut.problem(), "too-many-requests");
    let burned = node.fuel(&cut);
    assert!(burned <= needs / 2 + 1, "{burned} of {needs}");
    assert_eq!(call(&node, &enough).problem(), "too-many-requests");
    assert_eq!(call(&node, &token(1)).problem(), "too-many-requests");
}

#[test]
fn the_admin_api_is_closed_to_strangers() {
    let node = Node::start();
    for path in ["/v1/status", "/v1/functions", "/v1/content?of=x", "/nothing"] {
        let reply = node.request("GET", &format!("{}{path}", node.admin_url), &[], &[]);
        assert_eq!(reply.problem(), "unauthorized", "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics", "/v1/openapi.json"] {
        let reply = node.request("GET", &format!("{}{path}", node.admin_url), &[], &[]);
        assert_eq!(reply.status, 200, "{path}");
    }
    assert_eq!(
        node.get("/v1/status").status,
        404,
        "the functions' listener has no admin API"
    );
    let blob = format!("/b3/{}", "0".repeat(64));
    assert_eq!(node.get(&blob).problem(), "unauthorized");
}

#[test]
fn an_expelled_gateways_tokens_end_and_others_go_on() {
    let first = Node::start();
    let second = Node::join(&first, &["--role", "gateway"], &["--no-host"]);
    // Who confirms what is written while the other gateway is gone.
    let _host = Node::join(&first, &[], &[]);
    first.deploy("hello", "hello", "");
    until("the function is there", || second.get("/fn/hello").status == 401);
    let token = |node: &Node| {
        let made = node.json(&["token", "create", "--function", "hello"]);
        made["token"].as_str().unwrap().to_owned()
    };
    let (ours, theirs) = (token(&first), token(&second));
    // Each takes the other's.
    for node in [&first, &second] {
        for token in [&ours, &theirs] {
            until("the token is known", || call(node, token).status == 200);
        }
    }
    let expelled = first.json(&["rm", &format!("node/{}", second.id())]);
    assert_eq!(expelled["tokens_ended"], 1, "{expelled}");
    assert_eq!(call(&first, &theirs).problem(), "unauthorized");
    assert_eq!(call(&first, &ours).status, 200);
    let third = Node::join(&first, &["--role", "gateway"], &["--no-host"]);
    until("the function is there", || third.get("/fn/hello").status == 401);
    let kept = token(&third);
    until("the token is known", || call(&first, &kept).status == 200);
    first.ok(&["rm", &format!("node/{}", third.id()), "--keep-tokens"]);
    assert_eq!(call(&first, &kept).status, 200);
    let first = first.crash_and_restart();
    assert_eq!(call(&first, &theirs).problem(), "unauthorized");
    for token in [&ours, &kept] {
        assert_eq!(call(&first, token).status, 200, "keys outlive a restart");
    }
}
