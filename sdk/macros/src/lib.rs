//! The attributes of the `nearfield` crate. They only reshape a signature: what a call does is ordinary code in
//! `nearfield::handler` and `nearfield::guest`. Without syn or quote, so that a first build stays short.

use proc_macro::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};

/// Exports a function as this component's HTTP handler.
///
/// It takes a `nearfield::Request` or nothing, and returns anything that is `nearfield::IntoResponse`, a
/// `nearfield::Result` of such a thing included. The function itself stays as it is: native tests call it, by
/// itself or through `nearfield::mock::call`.
#[proc_macro_attribute]
pub fn http(arguments: TokenStream, function: TokenStream) -> TokenStream {
    attach("http", HTTP, arguments, function)
}

/// Exports a function as this component's job, run once for each shard of a dataset.
///
/// It takes a `nearfield::Shard`, or a `Shard` and arguments that implement `Deserialize`, and returns its part `A`
/// or a `Result` of one: any type that implements `Serialize` and `Deserialize`. `reduce` and `finish` stand in the
/// same module; the job module of `nearfield` tells what holds without them.
///
/// The function itself stays as it is. It also lends its name to a type that implements `nearfield::job::Job`, with
/// which tests name the job, so no module or type of that name can stand beside it. Among the crate's tests there is an
/// ignored one more, `__nearfield_replay`, with which `nearfield replay` runs the function natively.
#[proc_macro_attribute]
pub fn map(arguments: TokenStream, function: TokenStream) -> TokenStream {
    attach("map", MAP, arguments, function)
}

/// Makes one part of two: `fn(A, A) -> A`, or a `Result` of it, with the `A` that the module's `map` returns.
///
/// It must be associative. The first `A` is of earlier shards than the second.
#[proc_macro_attribute]
pub fn reduce(arguments: TokenStream, function: TokenStream) -> TokenStream {
    attach("reduce", REDUCE, arguments, function)
}

/// Makes the job's result of the last part: `fn(A)` or `fn(A, Args)`, with the `A` that the module's `map` returns.
///
/// It returns what implements `Serialize`, or a `Result` of it. The result is that as JSON.
#[proc_macro_attribute]
pub fn finish(arguments: TokenStream, function: TokenStream) -> TokenStream {
    attach("finish", FINISH, arguments, function)
}

/// The component's export, and natively the same type check. `FUNCTION` stands for the function.
const HTTP: &str = r#"
    const _: () = {
        #[cfg(target_family = "wasm")]
        struct Exported;
        #[cfg(target_family = "wasm")]
        impl ::nearfield::guest::Guest for Exported {
            fn handle(
                request: ::nearfield::guest::IncomingRequest,
                response: ::nearfield::guest::ResponseOutparam,
            ) {
                ::nearfield::guest::serve(FUNCTION, request, response)
            }
        }
        #[cfg(target_family = "wasm")]
        ::nearfield::guest::wasip2::http::proxy::export!(Exported with_types_in ::nearfield::guest::wasip2);
        #[cfg(not(target_family = "wasm"))]
        const _: () = ::nearfield::handler::check(&FUNCTION);
    };
"#;

/// The job as a type, and its export. `__nearfield_reduce` and `__nearfield_finish` are what the other two attributes
/// define in this module, or else what the glob brings: a name that is defined comes before a glob's. The constant is
/// what they look for, so that one without a map says so. `VISIBILITY` is the function's own. The test is how
/// `nearfield replay` gets at the function: a test's executable is the only one that a `cdylib` has natively.
const MAP: &str = r#"
    #[allow(unused_imports)]
    use ::nearfield::job::defaults::*;
    #[doc(hidden)]
    #[allow(non_upper_case_globals, dead_code)]
    const a_function_with_nearfield_map_belongs_in_this_module: () = ();
    #[doc(hidden)]
    #[allow(non_camel_case_types, dead_code)]
    VISIBILITY enum FUNCTION {}
    const _: () = {
        use ::nearfield::job::glue::Infallible as _;
        // Natively only tests use it, and what it uses is not dead for that.
        #[allow(dead_code)]
        impl ::nearfield::job::Job for FUNCTION {
            fn map(
                shard: ::nearfield::Shard,
                args: &[u8],
            ) -> ::core::result::Result<::std::vec::Vec<u8>, ::std::string::String> {
                ::nearfield::job::glue::map(
                    |shard, args| ::nearfield::job::glue::Returned(
                        ::nearfield::job::glue::Map::call(FUNCTION, shard, args)?
                    ).outcome(),
                    shard,
                    args,
                )
            }
            fn reduce(
                parts: ::std::vec::Vec<::std::vec::Vec<u8>>,
                _args: &[u8],
            ) -> ::core::result::Result<::std::vec::Vec<u8>, ::std::string::String> {
                ::nearfield::job::glue::reduce(
                    |shard, args| ::nearfield::job::glue::Returned(
                        ::nearfield::job::glue::Map::call(FUNCTION, shard, args)?
                    ).outcome(),
                    |all, more| ::nearfield::job::glue::Returned(__nearfield_reduce(all, more)).outcome(),
                    parts,
                )
            }
            fn finish(
                total: &[u8],
                args: &[u8],
            ) -> ::core::result::Result<::std::vec::Vec<u8>, ::std::string::String> {
                ::nearfield::job::glue::finish(
                    |shard, args| ::nearfield::job::glue::Returned(
                        ::nearfield::job::glue::Map::call(FUNCTION, shard, args)?
                    ).outcome(),
                    |total, args| ::nearfield::job::glue::Returned(
                        ::nearfield::job::glue::Finish::call(__nearfield_finish, total, args)?
                    ).outcome(),
                    total,
                    args,
                )
            }
        }
        #[cfg(target_family = "wasm")]
        ::nearfield::guest::job::bindings::export_job!(FUNCTION with_types_in ::nearfield::guest::job::bindings);
    };
    #[cfg(all(test, not(target_family = "wasm")))]
    #[::core::prelude::v1::test]
    #[ignore = "`nearfield replay JOB --shard N --native` runs it"]
    fn __nearfield_replay() -> ::std::process::ExitCode {
        ::nearfield::mock::replay::<FUNCTION>()
    }
"#;

const REDUCE: &str = r#"
    #[doc(hidden)]
    use FUNCTION as __nearfield_reduce;
    const _: () = a_function_with_nearfield_map_belongs_in_this_module;
"#;

const FINISH: &str = r#"
    #[doc(hidden)]
    use FUNCTION as __nearfield_finish;
    const _: () = a_function_with_nearfield_map_belongs_in_this_module;
"#;

/// The function, followed by `code` about it.
fn attach(attribute: &str, code: &str, arguments: TokenStream, function: TokenStream) -> TokenStream {
    let code = match (arguments.into_iter().next(), head_of(attribute, &function)) {
        (Some(argument), _) => complain(argument.span(), &refusal(attribute)),
        (None, Ok(head)) => fill(code.parse().expect("the attribute's code is Rust"), &head),
        (None, Err((span, message))) => complain(span, &message),
    };
    function.into_iter().chain(code).collect()
}

fn refusal(attribute: &str) -> String {
    match attribute {
        "http" => "#[nearfield::http] takes no arguments; routes are in nearfield.toml".to_owned(),
        _ => format!("#[nearfield::{attribute}] takes no arguments"),
    }
}

/// What an attribute's code needs of its function.
struct Head {
    name: Ident,
    visibility: TokenStream,
}

/// What stands before a function's parameters, or what is wrong there and where.
fn head_of(attribute: &str, function: &TokenStream) -> Result<Head, (Span, String)> {
    let mut visibility = TokenStream::new();
    let mut tokens = function.clone().into_iter().peekable();
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = &token else { continue };
        let span = word.span();
        match word.to_string().as_str() {
            "pub" => {
                visibility.extend([token]);
                // `pub(crate)`
                visibility.extend(tokens.next_if(|next| matches!(next, TokenTree::Group(_))));
            }
            "async" => {
                return Err((
                    span,
                    format!("#[nearfield::{attribute}]: the function blocks instead of being async"),
                ));
            }
            "fn" => match (tokens.next(), tokens.next()) {
                (Some(TokenTree::Ident(name)), Some(TokenTree::Group(_))) => {
                    return Ok(Head { name, visibility });
                }
                (Some(name), _) => {
                    return Err((
                        name.span(),
                        format!("#[nearfield::{attribute}]: the function has no type parameters"),
                    ));
                }
                (None, _) => break,
            },
            "struct" | "enum" | "impl" | "mod" | "trait" | "const" | "static" | "use" => break,
            _ => {}
        }
    }
    Err((
        Span::call_site(),
        format!("#[nearfield::{attribute}] belongs on a function"),
    ))
}

/// Puts the function's own name, with its place in the source, where `FUNCTION` stands: type errors point there.
fn fill(code: TokenStream, head: &Head) -> TokenStream {
    let replace = |token: TokenTree| -> TokenStream {
        match &token {
            TokenTree::Ident(word) => match word.to_string().as_str() {
                "FUNCTION" => TokenTree::Ident(head.name.clone()).into(),
                "VISIBILITY" => head.visibility.clone(),
                _ => token.into(),
            },
            TokenTree::Group(group) => {
                TokenTree::Group(Group::new(group.delimiter(), fill(group.stream(), head))).into()
            }
            _ => token.into(),
        }
    };
    code.into_iter().flat_map(replace).collect()
}

/// `compile_error!` at `span`.
fn complain(span: Span, message: &str) -> TokenStream {
    let text = TokenTree::from(Literal::string(message));
    let tokens: [TokenTree; 3] = [
        Ident::new("compile_error", span).into(),
        Punct::new('!', Spacing::Alone).into(),
        Group::new(Delimiter::Brace, text.into()).into(),
    ];
    tokens
        .into_iter()
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect()
}
