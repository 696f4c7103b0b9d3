use http::HeaderValue;
use proptest::prelude::*;

use super::*;

/// Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110's own examples.
const DATE: u64 = 784_111_777;
const SIZE: u64 = 10;

fn current() -> Validators {
    Validators {
        tag: EntityTag::strong("now"),
        modified: Some(Modified {
            unix_s: DATE,
            strong: true,
        }),
    }
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn get(lines: &[(&str, &str)]) -> Answer {
    evaluate(&Method::GET, &headers(lines), &current(), Some(SIZE))
}

#[test]
fn each_precondition_alone_and_their_order() {
    let (same, earlier, later) = (
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:36 GMT",
        "Sun, 06 Nov 1994 08:49:38 GMT",
    );
    let failed = |name| Answer::Failed(name);
    let cases: &[(&[(&str, &str)], Answer)] = &[
        (&[], Answer::Whole),
        // If-Match: strong, lists, `*`.
        (&[("if-match", "\"now\"")], Answer::Whole),
        (&[("if-match", "*")], Answer::Whole),
        (&[("if-match", "\"a,b\", \"now\"")], Answer::Whole),
        (&[("if-match", "\"a\""), ("if-match", "\"now\"")], Answer::Whole),
        (&[("if-match", "W/\"now\"")], failed(header::IF_MATCH)),
        (&[("if-match", "\"then\"")], failed(header::IF_MATCH)),
        (&[("if-match", "now")], failed(header::IF_MATCH)),
        (&[("if-match", "")], failed(header::IF_MATCH)),
        // If-Unmodified-Since, and that If-Match goes before it.
        (&[("if-unmodified-since", same)], Answer::Whole),
        (&[("if-unmodified-since", later)], Answer::Whole),
        (
            &[("if-unmodified-since", earlier)],
            failed(header::IF_UNMODIFIED_SINCE),
        ),
        (&[("if-unmodified-since", "yesterday")], Answer::Whole),
        (
            &[("if-match", "\"now\""), ("if-unmodified-since", earlier)],
            Answer::Whole,
        ),
        // If-None-Match: weak, lists, `*`.
        (&[("if-none-match", "\"now\"")], Answer::NotModified),
        (&[("if-none-match", "W/\"now\"")], Answer::NotModified),
        (&[("if-none-match", " * ")], Answer::NotModified),
        (
            &[("if-none-match", "\"a\" ,, W/\"b\",\t\"now\"")],
            Answer::NotModified,
        ),
        (
            &[("if-none-match", "\"a\""), ("if-none-match", "\"now\"")],
            Answer::NotModified,
        ),
        (&[("if-none-match", "\"then\"")], Answer::Whole),
        (&[("if-none-match", "\"a,now\"")], Answer::Whole),
        (&[("if-none-match", "w/\"now\"")], Answer::Whole),
        (&[("if-none-match", "now")], Answer::Whole),
        // If-Modified-Since, and that If-None-Match goes before it.
        (&[("if-modified-since", same)], Answer::NotModified),
        (&[("if-modified-since", later)], Answer::NotModified),
        (&[("if-modified-since", earlier)], Answer::Whole),
        (
            &[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")],
            Answer::NotModified,
        ),
        (
            &[("if-modified-since", "Sun Nov  6 08:49:37 1994")],
            Answer::NotModified,
        ),
        (&[("if-modified-since", "tomorrow")], Answer::Whole),
        (
            &[("if-modified-since", same), ("if-modified-since", same)],
            Answer::Whole,
        ),
        (
            &[("if-none-match", "\"then\""), ("if-modified-since", same)],
            Answer::Whole,
        ),
        // What fails goes before what is not modified, and both before ranges.
        (
            &[("if-match", "\"then\""), ("if-none-match", "\"now\"")],
            failed(header::IF_MATCH),
        ),
        (
            &[("if-match", "\"then\""), ("range", "bytes=0-1")],
            failed(header::IF_MATCH),
        ),
        (
            &[("if-none-match", "\"now\""), ("range", "bytes=0-1")],
            Answer::NotModified,
        ),
        (
            &[("if-none-match", "\"now\""), ("range", "bytes=99-")],
            Answer::NotModified,
        ),
        // If-Range: strong, or the exact date.
        (
            &[("range", "bytes=0-1"), ("if-range", "\"now\"")],
            Answer::Part(0..2),
        ),
        (&[("range", "bytes=0-1"), ("if-range", "\"then\"")], Answer::Whole),
        (
            &[("range", "bytes=0-1"), ("if-range", "W/\"now\"")],
            Answer::Whole,
        ),
        (
            &[("range", "bytes=0-1"), ("if-range", "\"now\", \"then\"")],
            Answer::Whole,
        ),
        (
            &[
                ("range", "bytes=0-1"),
                ("if-range", "\"now\""),
                ("if-range", "\"now\""),
            ],
            Answer::Whole,
        ),
        (&[("range", "bytes=0-1"), ("if-range", same)], Answer::Part(0..2)),
        (&[("range", "bytes=0-1"), ("if-range", later)], Answer::Whole),
        (&[("range", "bytes=0-1"), ("if-range", earlier)], Answer::Whole),
        (&[("range", "bytes=0-1"), ("if-range", "now")], Answer::Whole),
        (&[("range", "bytes=0-1"), ("if-range", "*")], Answer::Whole),
        (&[("range", "bytes=99-"), ("if-range", "\"then\"")], Answer::Whole),
        (&[("if-range", "\"then\"")], Answer::Whole),
    ];
    for (lines, answer) in cases {
        assert_eq!(get(lines), *answer, "{lines:?}");
    }
}

#[test]
fn other_methods_and_content_without_a_date() {
    let ask = |method, lines: &[(&str, &str)]| evaluate(&method, &headers(lines), &current(), Some(SIZE));
    let range = ("range", "bytes=0-1");
    assert_eq!(ask(Method::HEAD, &[range]), Answer::Whole, "HEAD has no ranges");
    assert_eq!(ask(Method::HEAD, &[("range", "bytes=99-")]), Answer::Whole);
    assert_eq!(
        ask(Method::HEAD, &[("if-none-match", "\"now\""), range]),
        Answer::NotModified
    );
    assert_eq!(
        ask(Method::PUT, &[("if-none-match", "*")]),
        Answer::Failed(header::IF_NONE_MATCH)
    );
    let always = "Fri, 31 Dec 9999 23:59:59 GMT";
    assert_eq!(ask(Method::PUT, &[("if-modified-since", always)]), Answer::Whole);

    let undated = Validators {
        modified: None,
        ..current()
    };
    let ask = |lines: &[(&str, &str)]| evaluate(&Method::GET, &headers(lines), &undated, Some(SIZE));
    assert_eq!(ask(&[("if-modified-since", always)]), Answer::Whole);
    assert_eq!(
        ask(&[("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT")]),
        Answer::Whole
    );
    assert_eq!(ask(&[range, ("if-range", always)]), Answer::Whole);
}

#[test]
fn weak_validators_serve_no_range() {
    let weak = Validators {
        tag: EntityTag::weak("now"),
        modified: Some(Modified {
            unix_s: DATE,
            strong: false,
        }),
    };
    let ask = |lines: &[(&str, &str)]| evaluate(&Method::GET, &headers(lines), &weak, Some(SIZE));
    let range = ("range", "bytes=0-1");
    assert_eq!(ask(&[range]), Answer::Part(0..2));
    for if_range in ["\"now\"", "W/\"now\"", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        assert_eq!(ask(&[range, ("if-range", if_range)]), Answer::Whole, "{if_range}");
    }
    assert_eq!(
        ask(&[("if-match", "W/\"now\"")]),
        Answer::Failed(header::IF_MATCH)
    );
    assert_eq!(ask(&[("if-none-match", "\"now\"")]), Answer::NotModified);
}

#[test]
fn ranges_mean_what_the_standard_says() {
    let ask = |range: &str, size| {
        evaluate(
            &Method::GET,
            &headers(&[("range", range)]),
            &current(),
            Some(size),
        )
    };
    for (range, part) in [
        ("bytes=0-0", 0..1),
        ("bytes=3-", 3..10),
        ("bytes=-3", 7..10),
        ("bytes=-30", 0..10),
        ("bytes=3-99", 3..10),
        ("BYTES=3-5", 3..6),
        ("bytes= 3-5 ,", 3..6),
        ("bytes=0-18446744073709551615", 0..10),
        ("bytes=0-99999999999999999999999", 0..10),
        ("bytes=-99999999999999999999999", 0..10),
    ] {
        assert_eq!(ask(range, 10), Answer::Part(part), "{range}");
    }
    for outside in [
        "bytes=10-",
        "bytes=10-12",
        "bytes=-0",
        "bytes=99999999999999999999999-",
        "bytes=10-,11-12",
    ] {
        assert_eq!(ask(outside, 10), Answer::Unsatisfiable, "{outside}");
    }
    assert_eq!(ask("bytes=0-0", 0), Answer::Unsatisfiable);
    assert_eq!(ask("bytes=0-", 0), Answer::Unsatisfiable);
    assert_eq!(ask("bytes=-1", 0), Answer::Whole);
    for whole in [
        "bytes=5-3",
        "bytes=0-1,5-3",
        "bytes=x-y",
        "bytes=+1-2",
        "bytes=1 -2",
        "bytes=1-2-3",
        "bytes=-",
        "bytes=",
        "bytes=,",
        "bytes",
        "bytes 0-1",
        "lines=1-2",
        "",
        // Several are answered with all of it.
        "bytes=0-1,3-4",
        "bytes=0-1,99-",
    ] {
        assert_eq!(ask(whole, 10), Answer::Whole, "{whole}");
    }
    let twice = headers(&[("range", "bytes=0-1"), ("range", "bytes=0-1")]);
    assert_eq!(
        evaluate(&Method::GET, &twice, &current(), Some(10)),
        Answer::Whole
    );
    let none = headers(&[("range", "bytes=99-")]);
    assert_eq!(evaluate(&Method::GET, &none, &current(), None), Answer::Whole);
}

fn tag() -> impl Strategy<Value = (bool, String)> {
    (any::<bool>(), "[!#-~]{0,3}")
}

fn written((weak, opaque): &(bool, String)) -> String {
    format!("{}\"{opaque}\"", if *weak { "W/" } else { "" })
}

proptest! {
    /// A part is only ever sent of what was there before, and lies within it.
    #[test]
    fn a_part_is_within_the_content_and_of_the_same_content(
        range in "(bytes=)?[0-9 ,x-]{0,12}",
        if_range in proptest::option::of(tag()),
        size in 0u64..40,
    ) {
        let mut lines = vec![("range".to_owned(), range)];
        lines.extend(if_range.as_ref().map(|tag| ("if-range".to_owned(), written(tag))));
        let lines: Vec<_> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = evaluate(&Method::GET, &headers(&lines), &current(), Some(size));
        if let Answer::Part(part) = &answer {
            prop_assert!(part.start < part.end && part.end <= size);
        }
        if matches!(answer, Answer::Part(_) | Answer::Unsatisfiable) {
            prop_assert!(if_range.is_none_or(|tag| tag == (false, "now".to_owned())));
        }
    }

    /// Lists are read as they were written, commas within tags and all.
    #[test]
    fn a_list_matches_as_its_tags_do(listed in proptest::collection::vec(tag(), 1..5), own in "[!#-~]{0,3}") {
        let current = Validators { tag: EntityTag::strong(own.clone()), modified: None };
        let text = listed.iter().map(written).collect::<Vec<_>>().join(", ");
        let ask = |name| evaluate(&Method::GET, &headers(&[(name, &text)]), &current, None);
        let weakly = listed.iter().any(|(_, opaque)| *opaque == own);
        let strongly = listed.iter().any(|(weak, opaque)| !weak && *opaque == own);
        prop_assert_eq!(ask("if-none-match") == Answer::NotModified, weakly);
        prop_assert_eq!(ask("if-match") == Answer::Whole, strongly);
    }

    /// No header can do worse than being passed over.
    #[test]
    fn no_value_breaks_it(value in proptest::collection::vec(0x20u8..=0xff, 0..20), size in 0u64..5) {
        for name in ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range"] {
            let Ok(value) = HeaderValue::from_bytes(&value) else { continue };
            let mut lines = headers(&[("range", "bytes=0-")]);
            lines.insert(HeaderName::from_static(name), value);
            evaluate(&Method::GET, &lines, &current(), Some(size));
        }
    }
}
