//! Who may do what: one admin token, and function tokens that anybody can narrow.
//!
//! A function token is a biscuit signed by this node. Its authority block names the token and the
//! function; a holder may append checks on `time`, `path` and `method` without asking us. What a
//! token may do is remembered as long as it cannot change; revocation is looked up every time.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use biscuit_auth::builder::{Algorithm, Term, date, fact, string};
use biscuit_auth::{AuthorizerBuilder, AuthorizerLimits, Biscuit, KeyPair, PrivateKey};
use http::{HeaderMap, header};
use nearfield_net::Records;
use nearfield_protocol::records::{FunctionVersion, TokenVersion};
use nearfield_protocol::{Digest, FunctionName, Problem, ProblemKind};

/// Tokens whose verdict is remembered.
const MAX_VERDICTS: u64 = 10_000;
/// A token longer than this is none of ours.
const MAX_TOKEN_BYTES: usize = 8 << 10;
/// Time, facts and rounds that checking one token may take: checks are anybody's code.
const LIMITS: AuthorizerLimits = AuthorizerLimits {
    max_facts: 200,
    max_iterations: 50,
    max_time: Duration::from_millis(5),
};

/// Checks tokens.
pub struct Auth {
    admin: blake3::Hash,
    keys: KeyPair,
    /// Digest of a token that only its authority block limits → which token it is.
    verdicts: moka::sync::Cache<Digest, Verdict>,
}

/// What the authority block of a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    token_id: String,
    function: FunctionName,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq)]
pub enum Caller {
    /// A public function needs no token.
    Anyone,
    Admin,
    Token(TokenVersion),
}

/// What a call asks for.
pub struct Asked<'a> {
    pub function: &'a FunctionVersion,
    pub method: &'a str,
    /// Below the function's route.
    pub path: &'a str,
}

impl Auth {
    /// `secret` signs function tokens; whoever has it can make them.
    pub fn new(admin_token: &str, secret: [u8; 32]) -> Result<Self, biscuit_auth::error::Format> {
        let private = PrivateKey::from_bytes(&secret, Algorithm::Ed25519)?;
        Ok(Auth {
            admin: blake3::hash(admin_token.as_bytes()),
            keys: KeyPair::from(&private),
            verdicts: moka::sync::Cache::new(MAX_VERDICTS),
        })
    }

    /// Whether the request carries the admin token.
    pub fn admin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match bearer(headers) {
            Some(token) if self.is_admin(token) => Ok(()),
            Some(_) => Err(unauthorized("the token is not the admin token")),
            None => Err(unauthorized("the admin API needs the admin token")),
        }
    }

    /// Who asks to call a function, if they may.
    pub fn caller(
        &self,
        headers: &HeaderMap,
        asked: &Asked<'_>,
        records: &Records,
    ) -> Result<Caller, Problem> {
        if asked.function.manifest.public {
            return Ok(Caller::Anyone);
        }
        let name = &asked.function.name;
        let Some(token) = bearer(headers) else {
            return Err(unauthorized(&format!(
                "function `{name}` is not public: send `Authorization: Bearer TOKEN` (make one with `nearfield token create --function {name}`)"
            )));
        };
        if self.is_admin(token) {
            return Ok(Caller::Admin);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(unauthorized("the token is not one of this network"));
        }
        let digest = Digest::of(token.as_bytes());
        let verdict = match self.verdicts.get(&digest) {
            Some(verdict) => verdict,
            None => self.judge(token, digest, asked)?,
        };
        let issued = records
            .token(&verdict.token_id)
            .ok_or_else(|| unauthorized(&format!("token {} was revoked", verdict.token_id)))?;
        check_grant(issued, asked.function, unix_ms())?;
        Ok(Caller::Token(issued.clone()))
    }

    /// Signs a token for what `grant` says.
    pub fn issue(&self, grant: &TokenVersion) -> Result<String, biscuit_auth::error::Token> {
        let mut builder = Biscuit::builder()
            .fact(fact("token", &[string(&grant.id)]))?
            .fact(fact("function", &[string(grant.function.as_str())]))?;
        if let Some(expires) = grant.expires_unix_ms {
            let code = format!("check if time($now), $now < {}", Term::Date(expires / 1000));
            builder = builder.code(code)?;
        }
        builder.build(&self.keys)?.to_base64()
    }

    fn is_admin(&self, token: &str) -> bool {
        // Comparing hashes takes the same time wherever they differ.
        blake3::hash(token.as_bytes()) == self.admin
    }

    /// Checks signature and checks, and reads the authority block.
    fn judge(&self, token: &str, digest: Digest, asked: &Asked<'_>) -> Result<Verdict, Problem> {
        let unknown = |_| unauthorized("the token is not one of this network, or damaged");
        let biscuit = Biscuit::from_base64(token, self.keys.public()).map_err(unknown)?;
        let mut authorizer = AuthorizerBuilder::new()
            .set_limits(LIMITS.clone())
            .fact(fact("time", &[date(&SystemTime::now())]))
            .and_then(|builder| builder.fact(fact("method", &[string(asked.method)])))
            .and_then(|builder| builder.fact(fact("path", &[string(asked.path)])))
            .and_then(|builder| builder.code("allow if true"))
            .and_then(|builder| builder.build(&biscuit))
            .map_err(unknown)?;
        authorizer.authorize().map_err(|error| {
            Problem::new(
                ProblemKind::Forbidden,
                format!("a check in the token does not hold for this request: {error}"),
            )
        })?;
        // Only the authority block's facts are seen by a query from here.
        let facts: Vec<(String, String)> = authorizer
            .query("data($token, $function) <- token($token), function($function)")
            .map_err(unknown)?;
        let [(token_id, function)] = facts.as_slice() else {
            return Err(unauthorized("the token names no function"));
        };
        let verdict = Verdict {
            token_id: token_id.clone(),
            function: function
                .parse()
                .map_err(|_| unauthorized("the token names no function"))?,
        };
        // Appended blocks may check the path or the time, so each such call is judged anew.
        if biscuit.block_count() == 1 {
            self.verdicts.insert(digest, verdict.clone());
        }
        Ok(verdict)
    }
}

/// What the record of a token allows, at the time `now`.
fn check_grant(issued: &TokenVersion, function: &FunctionVersion, now_unix_ms: u64) -> Result<(), Problem> {
    let forbidden = |text: String| Err(Problem::new(ProblemKind::Forbidden, text));
    if issued.function != function.name {
        return forbidden(format!(
            "token {} is for function `{}`",
            issued.id, issued.function
        ));
    }
    if issued
        .component
        .is_some_and(|component| component != function.component)
    {
        return forbidden(format!(
            "token {} is for another component of `{}`",
            issued.id, issued.function
        ));
    }
    if issued
        .expires_unix_ms
        .is_some_and(|expires| expires <= now_unix_ms)
    {
        return Err(unauthorized(&format!("token {} has expired", issued.id)));
    }
    Ok(())
}

/// The admin token in `path`, made on the first start, readable by this user alone.
pub fn load_or_create_admin_token(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(token) if token.trim().len() >= 32 => return Ok(token.trim().to_owned()),
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} holds no token: remove it to have a new one made",
                    path.display()
                ),
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let token = blake3::Hash::from_bytes(rand::random()).to_hex().to_string();
    let folder = path.parent().unwrap_or(Path::new("."));
    // A named temporary file is made with mode 0600 and renamed whole.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(token.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(token)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(ProblemKind::Unauthorized, detail)
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_protocol::manifest::FunctionManifest;

    fn auth() -> Auth {
        Auth::new("admin", [7; 32]).unwrap()
    }

    fn function(name: &str) -> FunctionVersion {
        FunctionVersion {
            name: name.parse().unwrap(),
            version: 1,
            component: Digest::of(b"component"),
            manifest: FunctionManifest::default(),
            deployed_unix_ms: 0,
            rolled_back_to: None,
        }
    }

    fn grant(function: &str) -> TokenVersion {
        TokenVersion {
            id: "t1".into(),
            function: function.parse().unwrap(),
            component: None,
            max_fuel_per_day: None,
            expires_unix_ms: None,
            issued_unix_ms: 0,
        }
    }

    fn headers(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    }

    fn judged(auth: &Auth, token: &str, path: &str) -> Result<Verdict, ProblemKind> {
        let function = function("f");
        let asked = Asked {
            function: &function,
            method: "GET",
            path,
        };
        auth.judge(token, Digest::of(token.as_bytes()), &asked)
            .map_err(|problem| problem.kind)
    }

    #[test]
    fn a_token_names_its_function() {
        let auth = auth();
        let token = auth.issue(&grant("f")).unwrap();
        assert_eq!(judged(&auth, &token, "/").unwrap().function.as_str(), "f");
        let stranger = Auth::new("admin", [8; 32]).unwrap().issue(&grant("f")).unwrap();
        assert_eq!(judged(&auth, &stranger, "/"), Err(ProblemKind::Unauthorized));
        assert_eq!(judged(&auth, "nonsense", "/"), Err(ProblemKind::Unauthorized));
    }

    #[test]
    fn a_holder_can_narrow_but_not_widen() {
        let auth = auth();
        let token = auth.issue(&grant("f")).unwrap();
        let biscuit = Biscuit::from_base64(&token, auth.keys.public()).unwrap();
        let narrow = biscuit_auth::builder::BlockBuilder::new()
            .code("check if path($path), $path.starts_with(\"/public/\")")
            .unwrap();
        let narrow = biscuit.append(narrow).unwrap().to_base64().unwrap();
        assert!(judged(&auth, &narrow, "/public/x").is_ok());
        assert_eq!(judged(&auth, &narrow, "/private"), Err(ProblemKind::Forbidden));

        let wide = biscuit_auth::builder::BlockBuilder::new()
            .code("function(\"g\"); token(\"t2\")")
            .unwrap();
        let wide = biscuit.append(wide).unwrap().to_base64().unwrap();
        assert_eq!(judged(&auth, &wide, "/").unwrap().function.as_str(), "f");
    }

    #[test]
    fn expiry_is_in_the_token_and_in_the_record() {
        let auth = auth();
        let expired = TokenVersion {
            expires_unix_ms: Some(1_000),
            ..grant("f")
        };
        let token = auth.issue(&expired).unwrap();
        assert_eq!(judged(&auth, &token, "/"), Err(ProblemKind::Forbidden));
        assert_eq!(
            check_grant(&expired, &function("f"), 2_000).unwrap_err().kind,
            ProblemKind::Unauthorized
        );
        assert!(check_grant(&grant("f"), &function("f"), 2_000).is_ok());
        assert_eq!(
            check_grant(&grant("g"), &function("f"), 0).unwrap_err().kind,
            ProblemKind::Forbidden
        );
    }

    #[test]
    fn the_admin_token_opens_everything() {
        let auth = auth();
        assert!(auth.admin(&headers("admin")).is_ok());
        assert!(auth.admin(&headers("other")).is_err());
        assert!(auth.admin(&HeaderMap::new()).is_err());
    }

    #[test]
    fn the_admin_token_is_made_once_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        let first = load_or_create_admin_token(&path).unwrap();
        assert_eq!(load_or_create_admin_token(&path).unwrap(), first);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
