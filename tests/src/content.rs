//! Content over HTTP: preconditions, ranges, what its names say of how long it stays, what is not there.

use serde_json::Value;

use crate::harness::{Node, Reply, lines};

/// Headers, and the status and text that they make.
type Case<'a> = (&'a [(&'a str, &'a str)], u16, &'a str);

#[test]
fn content_answers_preconditions_by_what_its_url_names() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    std::fs::write(dir.path().join("folder/a.txt"), b"0123456789").unwrap();
    let folder = dir.path().join("folder");
    let put = node.json(&["put", folder.to_str().unwrap(), "--name", "folder"]);
    let file = dir.path().join("x.txt");
    std::fs::write(&file, b"0123456789").unwrap();
    let stream = node.json(&["put", file.to_str().unwrap(), "--name", "data", "--split", "none"]);
    let of = |put: &Value| put["digest"].as_str().unwrap().to_owned();
    let hex = |digest: &str| digest.strip_prefix("b3:").unwrap().to_owned();

    let by_digest = [
        format!("/b3/{}/a.txt", hex(&of(&put))),
        format!("/v1/content?of={}&path=a.txt", of(&put)),
        format!("/v1/content?of={}", of(&stream)),
    ];
    let by_name = [
        "/v1/content?of=folder&path=a.txt".to_owned(),
        "/v1/content?of=data".to_owned(),
    ];
    for path in by_digest.iter().chain(&by_name) {
        let named = by_name.contains(path);
        let ask = |method, headers: &[(&str, &str)]| node.admin_asks(method, path, headers);
        let whole = ask("GET", &[]);
        assert_eq!(
            (whole.status, whole.text().as_str()),
            (200, "0123456789"),
            "{path}"
        );
        let cached = whole.header("cache-control").unwrap();
        assert_eq!(cached.contains("immutable"), !named, "{path}: {cached}");
        assert_eq!(cached.contains("no-cache"), named, "{path}: {cached}");
        assert_eq!(whole.header("last-modified").is_some(), named, "{path}");
        let etag = whole.header("etag").unwrap();

        // HEAD has the headers of GET, whatever range is asked for.
        let head = ask("HEAD", &[("range", "bytes=0-1")]);
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        let told = |reply: &Reply| {
            let mut told = reply.headers.clone();
            told.remove("date");
            told
        };
        assert_eq!(told(&head), told(&whole), "{path}");

        let weak = format!("W/{etag}");
        let cases: &[Case<'_>] = &[
            (&[("if-range", "\"stale\"")], 200, "0123456789"),
            (&[("if-range", &weak)], 200, "0123456789"),
            (
                &[("if-range", "Thu, 01 Jan 1970 00:00:00 GMT")],
                200,
                "0123456789",
            ),
            (&[("if-range", etag)], 206, "23"),
            (&[], 206, "23"),
            (&[("if-none-match", &weak)], 304, ""),
            (&[("if-none-match", "*")], 304, ""),
            (&[("if-none-match", "\"stale\"")], 206, "23"),
            (&[("if-match", etag)], 206, "23"),
            (&[("if-match", "\"stale\"")], 412, ""),
            (&[("if-match", &weak)], 412, ""),
        ];
        for (headers, status, body) in cases {
            let reply = ask("GET", &[&[("range", "bytes=2-3")], *headers].concat());
            assert_eq!(reply.status, *status, "{path} {headers:?}");
            match status {
                412 => assert_eq!(reply.problem(), "precondition-failed"),
                304 => assert_eq!(reply.header("etag"), Some(etag)),
                _ => assert_eq!(reply.text(), *body, "{path} {headers:?}"),
            }
        }
        for (range, status, says) in [
            ("bytes=-3", 206, Some("bytes 7-9/10")),
            ("bytes=10-", 416, Some("bytes */10")),
            ("bytes=0-1,4-5", 200, None),
            ("bytes=4-2", 200, None),
            ("lines=1-2", 200, None),
        ] {
            let reply = ask("GET", &[("range", range)]);
            assert_eq!(
                (reply.status, reply.header("content-range")),
                (status, says),
                "{path} {range}"
            );
        }
        let unmodified = ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(
            ask("GET", &[unmodified]).status,
            if named { 412 } else { 200 },
            "{path}"
        );
        let modified = ("if-modified-since", "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(
            ask("GET", &[modified]).status,
            if named { 304 } else { 200 },
            "{path}"
        );
    }

    // A folder as a tar: revalidated, not in parts.
    let tar = node.admin_asks("GET", "/v1/content?of=folder", &[("range", "bytes=0-1")]);
    assert_eq!((tar.status, tar.header("accept-ranges")), (200, Some("none")));
    let etag = tar.header("etag").unwrap();
    assert!(etag.starts_with("W/"), "{etag}");
    let same = node.admin_asks("GET", "/v1/content?of=folder", &[("if-none-match", etag)]);
    assert_eq!((same.status, same.body.len()), (304, 0));
    let head = node.admin_asks("HEAD", "/v1/content?of=folder", &[]);
    assert_eq!(
        (head.status, head.header("etag"), head.body.len()),
        (200, Some(etag), 0)
    );

    // A name's ETag follows what is put under it.
    let before = node.admin_asks("GET", "/v1/content?of=data", &[]);
    std::fs::write(&file, b"abcdefghij").unwrap();
    node.json(&["put", file.to_str().unwrap(), "--name", "data", "--split", "none"]);
    let stale = before.header("etag").unwrap();
    let resumed = node.admin_asks(
        "GET",
        "/v1/content?of=data",
        &[("range", "bytes=5-"), ("if-range", stale)],
    );
    assert_eq!((resumed.status, resumed.text().as_str()), (200, "abcdefghij"));
}

#[test]
fn a_blob_is_no_folder_and_nothing_is_nothing() {
    let node = Node::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    // Lengths that could be a list of digests, and ones that could not.
    for size in [64, 96, 100, 4_096] {
        std::fs::write(file.path(), lines(size as u64, size)).unwrap();
        node.json(&["put", file.path().to_str().unwrap(), "--name", "data"]);
        let described = node.admin("GET", "/v1/datasets/data?shards=true", &[]).json();
        let shard = described["shards"][0]["digest"].as_str().unwrap().to_owned();
        let hex = shard.strip_prefix("b3:").unwrap();
        for (path, problem) in [
            (format!("/b3/{hex}/x"), "unknown-path"),
            (format!("/b3/{hex}/"), "unknown-path"),
            (format!("/v1/content?of={shard}&path=x"), "unknown-path"),
        ] {
            let reply = node.admin_asks("GET", &path, &[]);
            assert_eq!((reply.status, reply.problem().as_str()), (404, problem), "{path}");
        }
        assert_eq!(
            node.admin_asks("GET", &format!("/b3/{hex}"), &[]).body.len(),
            size
        );
        assert_eq!(
            node.admin_asks("PUT", &format!("/v1/pins/{shard}"), &[])
                .problem(),
            "unknown-dataset"
        );
    }
    let nothing = "0".repeat(64);
    for path in [
        format!("/b3/{nothing}"),
        format!("/b3/{nothing}/x"),
        format!("/v1/content?of=b3:{nothing}"),
        format!("/v1/content?of=b3:{nothing}&path=x"),
    ] {
        let reply = node.admin_asks("GET", &path, &[]);
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (404, "unknown-blob"),
            "{path}"
        );
    }
    for path in [
        "/b3/zz",
        "/b3/zz/x",
        "/b3/",
        "/v1/content?of=b3:zz",
        "/v1/content",
    ] {
        let reply = node.admin_asks("GET", path, &[]);
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (400, "bad-request"),
            "{path}"
        );
    }
}
