use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;

use super::{Session, ls, manage};
use crate::args::{Listing, Thing, TokenScope, TokenVerb};

pub fn run(session: &Session, verb: TokenVerb) -> Result<()> {
    match verb {
        TokenVerb::Create {
            function,
            max_fuel,
            expires,
        } => create(session, function, max_fuel, expires),
        TokenVerb::Revoke { id } => manage::rm(session, Thing::Token(id), false),
        TokenVerb::Ls => ls::run(session, Listing::Tokens),
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
        body["expires_unix_ms"] = json!(unix_ms(SystemTime::now() + expires)?);
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

fn unix_ms(time: SystemTime) -> Result<u64> {
    Ok(time
        .duration_since(UNIX_EPOCH)
        .context("this machine's clock is before 1970")?
        .as_millis() as u64)
}
