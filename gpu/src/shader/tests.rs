use proptest::prelude::*;

use super::*;

const SAXPY: &str = "
    override scale: f32 = 2.0;
    @group(0) @binding(0) var<storage, read> x: array<f32>;
    @group(0) @binding(1) var<storage, read_write> y: array<f32>;
    @group(0) @binding(2) var<uniform> unused: vec4<f32>;
    @compute @workgroup_size(64)
    fn saxpy(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x < arrayLength(&x) { y[id.x] += scale * x[id.x]; }
    }";

fn checked(source: &str) -> Result<Kernel, ShaderError> {
    check(source, "main", &[], Features::default(), &Limits::default())
}

fn body(statements: &str) -> String {
    format!(
        "@group(0) @binding(0) var<storage, read_write> out: array<u32>;
        var<workgroup> shared_value: u32;
        fn wait() {{ workgroupBarrier(); }}
        @compute @workgroup_size(8)
        fn main(@builtin(local_invocation_index) index: u32) {{ {statements} }}"
    )
}

/// The rewritten shader as text.
fn rewritten(kernel: &Kernel) -> String {
    let flags = naga::back::wgsl::WriterFlags::empty();
    naga::back::wgsl::write_string(&kernel.module, &kernel.info, flags).unwrap()
}

#[test]
fn what_a_shader_uses_is_known() {
    let kernel = check(SAXPY, "saxpy", &[], Features::default(), &Limits::default()).unwrap();
    let binding = |binding, access| Binding { binding, access };
    assert_eq!(
        kernel.bindings,
        [binding(0, Access::Read), binding(1, Access::ReadWrite)]
    );
    assert_eq!(kernel.workgroup_size, [64, 1, 1]);
}

#[test]
fn what_constants_make_of_a_shader_is_bounded() {
    let source = "override n: u32 = 4;
        override side: u32 = 8;
        var<workgroup> shared_values: array<u32, n>;
        @group(0) @binding(0) var<storage, read_write> out: array<u32>;
        @compute @workgroup_size(side, side)
        fn main(@builtin(local_invocation_index) i: u32) { shared_values[i % n] = i; out[i] = shared_values[0]; }
        @compute @workgroup_size(1) fn other() {}";
    let with = |constants: &[(&str, f64)]| {
        let constants: Vec<_> = constants
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect();
        check(
            source,
            "main",
            &constants,
            Features::default(),
            &Limits::default(),
        )
    };
    assert_eq!(with(&[]).unwrap().workgroup_size, [8, 8, 1]);
    assert_eq!(
        with(&[("side", 16.0), ("n", 4096.0)]).unwrap().workgroup_size,
        [16, 16, 1]
    );
    for (constants, of) in [
        (("side", 17.0), "invocations of a workgroup"),
        (("side", 4096.0), "invocations of a workgroup"),
        (("n", 4097.0), "bytes of workgroup memory"),
        (("n", 4e9), "bytes of workgroup memory"),
    ] {
        match with(&[constants]).unwrap_err() {
            ShaderError::TooMany { what, .. } => assert_eq!(what, of, "{constants:?}"),
            ShaderError::Invalid { .. } if constants.1 > 1e9 => {}
            error => panic!("{constants:?}: {error:?}"),
        }
    }
    for constants in [
        ("n", 0.0),
        ("n", -1.0),
        ("n", f64::NAN),
        ("side", f64::INFINITY),
        ("side", 0.0),
        ("m", 1.0),
    ] {
        assert!(
            matches!(with(&[constants]), Err(ShaderError::Invalid { .. })),
            "{constants:?}"
        );
    }
}

#[test]
fn errors_have_a_place() {
    let error = checked("fn main() {\n    let a = 1u + b;\n}").unwrap_err();
    let ShaderError::Invalid {
        message,
        line,
        column,
    } = &error
    else {
        panic!("{error:?}");
    };
    assert!(message.contains('b') && (*line, *column) == (2, 18), "{error}");
    // What only the validator finds has one, too.
    let twice = "@group(0) @binding(0) var<storage, read_write> a: u32;
        @group(0) @binding(0) var<storage, read_write> b: u32;
        @compute @workgroup_size(1) fn main() { a = b; }";
    let error = checked(twice).unwrap_err();
    assert!(
        matches!(&error, ShaderError::Invalid { line: 1..=3, .. }),
        "{error:?}"
    );
    let error = check(SAXPY, "other", &[], Features::default(), &Limits::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no compute entry point `other`; there is `saxpy`"
    );
}

#[test]
fn every_loop_ends() {
    for (loops, counted) in [
        ("loop { out[0] += 1u; }", 1),
        ("while true { out[0] += 1u; if out[0] == 7u { continue; } }", 1),
        (
            "for (var i = 0u; ; i++) { for (var j = 0u; j < i; j++) { out[j] += i; } }",
            2,
        ),
        (
            "loop { switch out[0] { case 1u: { loop {} } default: { continue; } } }",
            2,
        ),
        (
            "loop { continuing { loop { break; } break if out[0] == 1u; } }",
            2,
        ),
        ("{ if out[0] == 1u { loop {} } else { loop { return; } } }", 2),
    ] {
        let kernel = checked(&body(loops)).unwrap_or_else(|error| panic!("{loops}: {error}"));
        let text = rewritten(&kernel);
        assert_eq!(
            text.matches("atomicStore((&nearfield_exhausted)").count(),
            counted,
            "{text}"
        );
    }
}

/// Leaving its loop early would leave it without a result.
#[test]
fn a_function_with_a_result_does_not_end_with_a_loop() {
    let source = |ends: String| {
        format!(
            "fn find(start: u32) -> u32 {{ var n = start; {ends} }}
            @group(0) @binding(0) var<storage, read_write> out: array<u32>;
            @compute @workgroup_size(1) fn main() {{ out[0] = find(out[1]); }}"
        )
    };
    for ends in [
        "loop { if n == 7u { return n; } n++; }",
        "if n == 1u { return n; } else { loop { return 3u; } }",
    ] {
        assert!(checked(&source(ends.to_owned())).is_err(), "{ends}");
        assert!(checked(&source(format!("{ends} return 0u;"))).is_ok(), "{ends}");
    }
}

#[test]
fn loops_that_wait_have_an_account_of_their_own() {
    for wait in [
        "workgroupBarrier();",
        "wait();",
        "let a = workgroupUniformLoad(&shared_value);",
    ] {
        let loops = format!("loop {{ {wait} loop {{ out[index] += 1u; }} }}");
        let kernel = checked(&body(&loops)).unwrap_or_else(|error| panic!("{loops}: {error}"));
        let text = rewritten(&kernel);
        let taken = |account: &str| text.matches(&format!(" {account} = ")).count();
        assert_eq!(
            (
                taken("nearfield_waiting_turns_left"),
                taken("nearfield_turns_left")
            ),
            (1, 1),
            "{text}"
        );
    }
}

#[test]
fn guests_use_buffers_of_group_0_and_nothing_else() {
    let main = "@compute @workgroup_size(1) fn main() {}";
    for (declared, kind) in [
        (
            "@group(1) @binding(0) var<storage, read_write> a: atomic<u32>;",
            "in another group",
        ),
        ("@group(0) @binding(0) var a: texture_2d<f32>;", "no buffer"),
        ("@group(0) @binding(0) var a: sampler;", "no buffer"),
    ] {
        let error = checked(&format!("{declared} {main}")).unwrap_err();
        assert!(
            matches!(&error, ShaderError::Resource { name, kind: found } if name == "a" && *found == kind),
            "{error:?}"
        );
    }
    let array = format!(
        "enable wgpu_binding_array; @group(0) @binding(0) var<storage> a: binding_array<u32, 4>; {main}"
    );
    assert!(checked(&array).is_err());
    // A name of ours is nobody's.
    let named = body("let nearfield_turns_left = 5u; loop { out[0] = nearfield_turns_left; }");
    assert!(checked(&named).is_ok());
}

#[test]
fn what_only_looks_deep_is_taken() {
    let dashes = "-".repeat(200);
    let compared = "if index < 3u { out[0] = 1u; } out[1] = out[0] << 1u;\n".repeat(100);
    let nested = "/*(".repeat(100) + &")*/".repeat(100);
    let source = format!("// {dashes}\n/*{dashes}*/ {nested}\n {}", body(&compared));
    assert!(checked(&source).is_ok(), "{:?}", checked(&source).err());
    // What ends a comment ends it here, too.
    for end in LINE_ENDS {
        assert_eq!(nesting(&format!("// {dashes}{end}((( ")), 3, "{end:?}");
    }
    assert_eq!(nesting("/* /* (( */ ( */ ("), 1);
    assert_eq!(nesting("array<array<vec2<u32>, 2>, 3>"), 3);
}

#[test]
fn what_is_too_much_is_refused_at_once() {
    let limits = Limits::default();
    let begun = std::time::Instant::now();
    let too_many = |source: &str, of: &str| match checked(source).unwrap_err() {
        ShaderError::TooMany { what, .. } => assert_eq!(what, of),
        error => panic!("{error:?}"),
    };
    too_many(&" ".repeat(5 << 20), "bytes of source");
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("{", "}"),
        ("-", ""),
        ("!", ""),
        ("- ", ""),
        ("vec2<", ">"),
    ] {
        let (open, close) = (open.repeat(5_000), close.repeat(5_000));
        too_many(&format!("fn main() {{ let a = {open}1{close}; }}"), "nesting");
    }
    too_many(
        "@compute @workgroup_size(1024, 1024, 64) fn main() {}",
        "invocations of a workgroup",
    );
    let declared: String = (0..8)
        .map(|n| format!("@group(0) @binding({n}) var<storage, read_write> b{n}: u32;\n"))
        .collect();
    let used: String = (0..8).map(|n| format!("b{n} = 1u;")).collect();
    too_many(
        &format!("{declared} @compute @workgroup_size(1) fn main() {{ {used} }}"),
        "bindings",
    );
    let calls: String = (1..40)
        .map(|n| format!("fn f{n}() {{ f{0}(); f{0}(); }}\n", n - 1))
        .collect();
    too_many(
        &format!("fn f0() {{}} {calls} @compute @workgroup_size(1) fn main() {{ f39(); }}"),
        "expressions and statements with those of what is called",
    );
    let chain = "if out[0] == 1u { out[1] = 1u; } else ".repeat(1_500);
    too_many(&body(&format!("{chain} {{}}")), "blocks within blocks");
    let chain = "if out[0] == 1u { out[1] = 1u; } else ".repeat(25);
    assert!(checked(&body(&format!("{chain} {{}}"))).is_ok());
    too_many(
        &body("var large: array<u32, 3000>; out[0] = large[index];"),
        "bytes of variables",
    );
    let private = format!(
        "var<private> large: array<array<u32, 30000>, 10000>; {}",
        body("large[index][0] = 1u;")
    );
    too_many(&private, "bytes of variables");
    // All that is allowed is read, whatever it is.
    for part in [
        "a+",
        "else if true {} ",
        "/*",
        "a.a",
        "a,",
        "fn",
        "x=x;",
        "*/",
        "\u{202e}",
        "let a=1;",
    ] {
        let source = part.repeat(limits.source_bytes / part.len());
        assert!(checked(&source).is_err());
        assert!(
            checked(&body(&source[..source.len() - 300])).is_err() || part == "let a=1;",
            "{part}"
        );
    }
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

const TOKENS: [&str; 40] = [
    "fn ",
    "main",
    "(",
    ")",
    "{",
    "}",
    "loop ",
    "if ",
    "else ",
    "-",
    "!",
    "a",
    "1u",
    ";",
    "=",
    "let ",
    "var ",
    "<",
    ">",
    "array",
    "vec2",
    "[",
    "]",
    ",",
    "@compute ",
    "@workgroup_size(1) ",
    "return ",
    "break;",
    "continue;",
    "switch ",
    "case ",
    "default",
    ":",
    "&",
    "*",
    "continuing ",
    "while ",
    "for ",
    "workgroupBarrier();",
    "a();",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// An error or a kernel, whatever comes.
    #[test]
    fn any_tokens_are_read(tokens in prop::collection::vec(0..TOKENS.len(), 0..600), wrapped: bool) {
        let text: String = tokens.into_iter().map(|token| TOKENS[token]).collect();
        let read = match wrapped {
            true => checked(&body(&text)),
            false => checked(&text),
        };
        if let Err(ShaderError::Invalid { message, .. }) = read {
            prop_assert_ne!(message, "it cannot be read");
        }
    }

    /// Statements that are whole, in any order and depth: whatever is a shader still is one once its loops are counted.
    #[test]
    fn counted_loops_are_valid(shape in prop::collection::vec(0_u8..7, 1..60)) {
        let mut statements = String::new();
        let mut open = Vec::new();
        for kind in shape {
            match kind {
                0 => { statements.push_str("loop { if out[0] == index { break; } "); open.push("}"); }
                1 => { statements.push_str("for (var i = 0u; i < out[1]; i++) { "); open.push("}"); }
                2 => { statements.push_str("while out[2] > 1u { "); open.push("}"); }
                3 => { statements.push_str("if out[3] == 2u { "); open.push("} else { out[4] = 1u; }"); }
                4 => statements.push_str("wait(); "),
                5 => statements.push_str("out[index] += 1u; "),
                _ => statements.push_str(open.pop().unwrap_or_default()),
            }
        }
        open.into_iter().rev().for_each(|end| statements.push_str(end));
        let kernel = checked(&body(&statements));
        prop_assert!(kernel.is_ok(), "{}: {:?}", statements, kernel.err());
    }
}
