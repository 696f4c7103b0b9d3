use crate::harness::Node;

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
    let needs = call(&node, &token(1_000_000_000)).fuel();
    let enough = token(needs + needs / 2);
    assert_eq!(call(&node, &enough).status, 200);
    // What is left bounds the next call, which says so, and burns no more than that.
    let cut = call(&node, &enough);
    assert_eq!(cut.problem(), "too-many-requests");
    assert!(cut.fuel() <= needs / 2 + 1, "{} of {needs}", cut.fuel());
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
