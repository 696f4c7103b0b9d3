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
    let export = match arguments.into_iter().next() {
        Some(argument) => complain(
            argument.span(),
            "#[nearfield::http] takes no arguments; routes are in nearfield.toml",
        ),
        None => match name_of(&function) {
            Ok(name) => name_handler(EXPORT.parse().expect("EXPORT is Rust"), &name),
            Err((span, message)) => complain(span, message),
        },
    };
    function.into_iter().chain(export).collect()
}

/// The component's export, and natively the same type check. `HANDLER` stands for the function.
const EXPORT: &str = r#"
    const _: () = {
        #[cfg(target_family = "wasm")]
        struct Exported;
        #[cfg(target_family = "wasm")]
        impl ::nearfield::guest::Guest for Exported {
            fn handle(
                request: ::nearfield::guest::IncomingRequest,
                response: ::nearfield::guest::ResponseOutparam,
            ) {
                ::nearfield::guest::serve(HANDLER, request, response)
            }
        }
        #[cfg(target_family = "wasm")]
        ::nearfield::guest::wasip2::http::proxy::export!(Exported with_types_in ::nearfield::guest::wasip2);
        #[cfg(not(target_family = "wasm"))]
        const _: () = ::nearfield::handler::check(&HANDLER);
    };
"#;

/// The name after `fn`, or what is wrong and where.
fn name_of(function: &TokenStream) -> Result<Ident, (Span, &'static str)> {
    let mut tokens = function.clone().into_iter();
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = &token else { continue };
        match word.to_string().as_str() {
            "async" => return Err((word.span(), "a handler blocks instead of being async")),
            "fn" => match (tokens.next(), tokens.next()) {
                (Some(TokenTree::Ident(name)), Some(TokenTree::Group(_))) => return Ok(name),
                (Some(name), _) => return Err((name.span(), "a handler has no type parameters")),
                (None, _) => break,
            },
            "struct" | "enum" | "impl" | "mod" | "trait" | "const" | "static" | "use" => break,
            _ => {}
        }
    }
    Err((Span::call_site(), "#[nearfield::http] belongs on a function"))
}

/// Puts the function's own name, with its place in the source, where `HANDLER` stands: type errors point there.
fn name_handler(tokens: TokenStream, name: &Ident) -> TokenStream {
    let replace = |token| match token {
        TokenTree::Ident(word) if word.to_string() == "HANDLER" => TokenTree::Ident(name.clone()),
        TokenTree::Group(group) => Group::new(group.delimiter(), name_handler(group.stream(), name)).into(),
        other => other,
    };
    tokens.into_iter().map(replace).collect()
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
