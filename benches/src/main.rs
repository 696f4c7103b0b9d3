//! The floors that `cargo xtask bench http` measures us against: hyper alone, and wasmtime in hyper with nothing
//! around it. What we lose to these is the price of our own code; what they lose to each other is Wasm's.
//!
//! `bare-server hyper` or `bare-server fresh|reuse COMPONENT`: prints its address, serves until it is killed.

mod wasm;

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use wasmtime::error::Context;
use wasmtime::{Result, bail};
use wasmtime_wasi_http::io::TokioIo;

const USAGE: &str = "usage: bare-server hyper | fresh COMPONENT | reuse COMPONENT";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // One thread, since one core is what it gets.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        match arguments[..] {
            ["hyper"] => serve(|_| async { Ok::<_, Infallible>(hello()) }).await,
            [mode @ ("fresh" | "reuse"), component] => {
                let guest = Rc::new(wasm::Guest::load(component, mode == "reuse")?);
                serve(move |request| {
                    let guest = guest.clone();
                    async move { guest.call(request).await }
                })
                .await
            }
            _ => bail!(USAGE),
        }
    })
}

/// Accepts on a free port of loopback and answers every request with `answer`.
async fn serve<A, F, B, E>(answer: A) -> Result<()>
where
    A: Fn(Request<Incoming>) -> F + Clone + 'static,
    F: Future<Output = Result<Response<B>, E>> + 'static,
    B: Body<Error: std::error::Error + Send + Sync> + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (connection, _) = listener.accept().await.context("accepting")?;
        connection.set_nodelay(true)?;
        let answer = answer.clone();
        tokio::task::spawn_local(async move {
            // A client that hangs up is no news.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(connection), service_fn(answer))
                .await;
        });
    }
}

fn hello() -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from_static(b"Hello, world!")))
}
