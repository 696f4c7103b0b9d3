use std::io::Read;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nearfield_gateway::Narrowing;
use nearfield_protocol::unix_ms;
use serde::Deserialize;
use serde_json::json;

use super::{Session, ls, manage};
use crate::args::{ListSubject, Listing, RmArgs, Thing, TokenScope, TokenVerb};
use crate::failure::{Exit, Failure};

/// More than any token has.
const MAX_TOKEN_TEXT: u64 = 64 << 10;

pub fn run(session: &Session, verb: TokenVerb) -> Result<()> {
    match verb {
        TokenVerb::Create {
            function,
            max_fuel,
            expires,
        } => create(session, function, max_fuel, expires),
        TokenVerb::Narrow {
            token,
            path,
            methods,
            expires,
        } => {
            let narrowing = Narrowing {
                path,
                methods,
                expires: expires.map(|expires| SystemTime::now() + expires),
            };
            narrow(session, &token, &narrowing)
        }
        TokenVerb::Revoke { id } => {
            let args = RmArgs {
                purge: false,
                keep_tokens: false,
                thing: Thing::Token(id),
            };
            manage::rm(session, args)
        }
        TokenVerb::Ls => ls::run(session, ListSubject::All(Listing::Tokens)),
    }
}

#[derive(Deserialize)]
struct Created {
    token: String,
    id: String,
}

fn create(
    session: &Session,
    scope: TokenScope,
    max_fuel_per_day: Option<u64>,
    expires: Option<Duration>,
) -> Result<()> {
    let mut body = json!({ "function": scope.function });
    if let Some(component) = scope.component {
        body["component"] = json!(component);
    }
    if let Some(fuel) = max_fuel_per_day {
        body["max_fuel_per_day"] = json!(fuel);
    }
    if let Some(expires) = expires {
        body["expires_unix_ms"] = json!(unix_ms(SystemTime::now() + expires));
    }
    let created = session
        .client
        .change("POST", "/v1/tokens", &body)
        .with_context(|| format!("making a token for `{}`", scope.function))?;
    session.out.show(&created, |created: Created| {
        let revoke = format!("nearfield token revoke {}", created.id);
        session.out.notice(&format!(
            "Shown once, and never kept. Take it back with `{revoke}`."
        ));
        created.token
    })
}

fn narrow(session: &Session, token: &str, narrowing: &Narrowing) -> Result<()> {
    if *narrowing == Narrowing::default() {
        let failure = Failure::new(Exit::Usage, "nothing says how to narrow the token");
        return Err(failure.next("give --path, --method or --expires").into());
    }
    if narrowing.path.as_ref().is_some_and(|path| !path.starts_with('/')) {
        let failure = Failure::new(Exit::Usage, "--path names no path below the function's route");
        return Err(failure.next("begin it with a /").into());
    }
    let token = match token {
        "-" => {
            let mut text = String::new();
            std::io::stdin()
                .take(MAX_TOKEN_TEXT)
                .read_to_string(&mut text)
                .context("reading the token")?;
            text
        }
        token => token.to_owned(),
    };
    let token = nearfield_gateway::narrow(&token, narrowing).context("narrowing the token")?;
    session.out.show_as(&json!({ "token": token }), || token.clone())
}
