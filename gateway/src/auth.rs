//! Who may do what: one admin token, and function tokens that anybody can narrow.
//!
//! A function token is a biscuit that a gateway signed (`tokens.rs`), with a key that it shares with nobody; the token's record
//! names that key, so every gateway can check it, and a gateway that is expelled can make none that look like another's. The
//! authority block names the token and the function; a holder may append checks on `time`, `path` and `method` without
//! asking us. Whether a token was revoked is looked up for every call, before a signature or a check that a holder wrote is
//! looked at. Signatures are checked once and remembered; they and the checks take up to milliseconds, so they are judged on
//! threads of their own, and few at once.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use biscuit_auth::KeyPair;
use http::{HeaderMap, header};
use nearfield_net::Records;
use nearfield_protocol::records::{FunctionVersion, TokenVersion};
use nearfield_protocol::{Digest, Problem, ProblemKind, limits, unix_ms};

use crate::admit::{CallPlace, Client, Pool, Refusal};
use crate::origin::sharer;
use crate::tokens::{self, Facts, Token};

/// Tokens that are remembered, good and bad ones: each has some KiB.
const MAX_KNOWN: u64 = 4_096;
/// Tokens that are judged at once: who sends many takes no more of the machine than this.
const JUDGED_AT_ONCE: u32 = 2;

/// Checks tokens.
pub struct Auth {
    admin: blake3::Hash,
    keys: KeyPair,
    /// Digest of a token's text → the token, or why it is none of ours.
    known: moka::sync::Cache<Digest, Result<Arc<Token>, Problem>>,
    /// Turns to judge a token, which clients share.
    judges: Arc<Pool>,
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
pub struct CallTarget<'a> {
    pub function: &'a FunctionVersion,
    pub method: &'a str,
    /// Below the function's route.
    pub path: &'a str,
}

impl Auth {
    /// `secret` signs the function tokens that this gateway gives out.
    pub fn new(admin_token: &str, secret: [u8; 32]) -> Result<Self, biscuit_auth::error::Format> {
        Ok(Auth {
            admin: blake3::hash(admin_token.as_bytes()),
            keys: tokens::keys(&secret)?,
            known: moka::sync::Cache::new(MAX_KNOWN),
            judges: Arc::default(),
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

    /// Who asks to call a function, if they may. `address` is where the request comes from: nobody knows yet who sent it.
    pub async fn caller(
        &self,
        headers: &HeaderMap,
        asked: &CallTarget<'_>,
        records: &Records,
        address: IpAddr,
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
        let client = Client::Address(sharer(address));
        let token = self.read(token, records, &client).await?;
        let issued = records
            .token(&token.id)
            // Signed by another gateway than issued it: that one may be expelled.
            .filter(|issued| issued.function == token.function && issued.key == token.key)
            .ok_or_else(|| unauthorized(&format!("token {} was revoked", token.id)))?;
        let now = SystemTime::now();
        check_grant(issued, asked.function, unix_ms(now))?;
        if !token.is_plain() {
            let (method, path) = (asked.method.to_owned(), asked.path.to_owned());
            let turn = self.turn(&client).await?;
            judge(turn, move || {
                let (method, path) = (&method, &path);
                token.check(&Facts { now, method, path })
            })
            .await?;
        }
        Ok(Caller::Token(issued.clone()))
    }

    /// Reads a token, once for all calls with it.
    async fn read(&self, text: &str, records: &Records, client: &Client) -> Result<Arc<Token>, Problem> {
        let digest = Digest::of(text.as_bytes());
        if let Some(known) = self.known.get(&digest) {
            return known;
        }
        // Even to take a token's text apart costs more than to send it.
        let turn = self.turn(client).await?;
        // A refusal before a signature is checked is not remembered: it costs little, and the token's record may be on its way.
        let unverified = tokens::parse(text)?;
        let Some(key) = tokens::key_of(&unverified, records.token_keys()) else {
            return Err(unauthorized(
                "the token is not one of this network, or was revoked",
            ));
        };
        let id = tokens::said_id(&unverified).ok_or_else(tokens::unknown)?;
        if records.token(&id).is_none() {
            return Err(unauthorized(&format!("token {id} was revoked")));
        }
        let (known, key) = (self.known.clone(), key.to_owned());
        let read = move || known.get_with(digest, || tokens::read(unverified, &key).map(Arc::new));
        judge(turn, read).await
    }

    /// A turn to judge a token.
    async fn turn(&self, client: &Client) -> Result<CallPlace, Problem> {
        self.judges
            .enter(client, JUDGED_AT_ONCE)
            .await
            .map_err(|refusal| match refusal {
                Refusal::Full => Problem::new(
                    ProblemKind::Overload,
                    "as many tokens are judged as may be: send the request again",
                )
                .with_limit(format!("tokens judged at once = {JUDGED_AT_ONCE}")),
                Refusal::TooManyWait => Problem::new(
                    ProblemKind::TooManyRequests,
                    "as many tokens of this client wait to be judged as may: wait until some were",
                )
                .with_limit(format!(
                    "waiting tokens of a client = {}",
                    limits::WAITING_PER_CLIENT
                )),
            })
    }

    /// The public half of the key that signs this gateway's tokens.
    pub fn key(&self) -> String {
        self.keys.public().to_bytes_hex()
    }

    /// Signs a token for what `grant` says.
    pub fn issue(&self, grant: &TokenVersion) -> Result<String, biscuit_auth::error::Token> {
        tokens::issue(grant, &self.keys)
    }

    fn is_admin(&self, token: &str) -> bool {
        // Comparing hashes takes the same time wherever they differ.
        blake3::hash(token.as_bytes()) == self.admin
    }
}

/// Does what takes long for a token where it holds up no guest and no other request. The turn is over once the thread is free,
/// whether or not the client still waits.
async fn judge<T: Send + 'static>(
    turn: CallPlace,
    judge: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let judged = move || {
        let judged = judge();
        drop(turn);
        judged
    };
    tokio::task::spawn_blocking(judged).await.map_err(unjudged)?
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

/// The node is stopping, or a library panicked.
fn unjudged(error: impl std::fmt::Display) -> Problem {
    let text = format!("the token could not be judged: {error}; send the request again");
    Problem::new(ProblemKind::Internal, text)
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(ProblemKind::Unauthorized, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_protocol::manifest::FunctionManifest;
    use nearfield_protocol::records::TokenRecord;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

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
            key: auth().key(),
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

    #[test]
    fn expiry_is_in_the_record() {
        let expired = TokenVersion {
            expires_unix_ms: Some(1_000),
            ..grant("f")
        };
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

    /// Nothing of a revoked token is evaluated, and a token that is none of ours is looked at once.
    #[tokio::test]
    async fn a_token_that_no_record_names_is_refused_before_its_checks() {
        let auth = auth();
        let narrowing = tokens::Narrowing {
            path: Some("/elsewhere".to_owned()),
            ..tokens::Narrowing::default()
        };
        let token = tokens::narrow(&auth.issue(&grant("f")).unwrap(), &narrowing).unwrap();
        let (function, records) = (function("f"), records(&[("t2", auth.key())]));
        let asked = CallTarget {
            function: &function,
            method: "GET",
            path: "/",
        };
        for token in [token.as_str(), "nonsense"] {
            let refused = auth
                .caller(&headers(token), &asked, &records, HERE)
                .await
                .unwrap_err();
            assert_eq!(refused.kind, ProblemKind::Unauthorized);
        }
        assert!(
            auth.caller(&headers(&token), &asked, &records, HERE)
                .await
                .unwrap_err()
                .detail
                .contains("revoked")
        );
        // Whoever checks a token's signature leaves an entry.
        assert!(!auth.known.contains_key(&Digest::of(token.as_bytes())));
    }

    /// One token narrowed in many ways is many tokens.
    #[tokio::test]
    async fn no_more_tokens_are_remembered_than_there_is_room_for() {
        let auth = Auth {
            known: moka::sync::Cache::new(20),
            ..auth()
        };
        let (function, records) = (function("f"), records(&[("t1", auth.key())]));
        let asked = CallTarget {
            function: &function,
            method: "GET",
            path: "/0",
        };
        let token = auth.issue(&grant("f")).unwrap();
        for number in 0..100 {
            let narrowing = tokens::Narrowing {
                path: Some(format!("/{number}")),
                ..tokens::Narrowing::default()
            };
            let narrowed = tokens::narrow(&token, &narrowing).unwrap();
            let caller = auth.caller(&headers(&narrowed), &asked, &records, HERE).await;
            assert_eq!(caller.is_ok(), number == 0, "{caller:?}");
        }
        auth.known.run_pending_tasks();
        assert!(auth.known.entry_count() <= 20, "{}", auth.known.entry_count());
    }

    /// Who leaves frees its turn when the thread is free and not before, and who floods keeps no other client waiting.
    #[tokio::test]
    async fn few_tokens_are_judged_at_once_and_clients_take_turns() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::sync::mpsc;

        let auth = Arc::new(auth());
        let client = |last: u8| Client::Address([192, 0, 2, last].into());
        let running = Arc::new(AtomicUsize::new(0));
        let judged = |client: Client| {
            let (end, ended) = mpsc::channel::<()>();
            let (auth, running) = (auth.clone(), running.clone());
            let task = tokio::spawn(async move {
                let judge = move || {
                    running.fetch_add(1, Ordering::SeqCst);
                    let _ = ended.recv();
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                };
                super::judge(auth.turn(&client).await?, judge).await
            });
            (task, end)
        };
        let until = async |so: &dyn Fn() -> bool| {
            while !so() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        let mut flood: Vec<_> = (0..30).map(|_| judged(client(1))).collect();
        until(&|| running.load(Ordering::SeqCst) == 2).await;
        flood.iter().take(20).for_each(|(task, _)| task.abort());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert_eq!(running.load(Ordering::SeqCst), 2, "their threads are still busy");
        // The other client's turn comes with the first place, before the rest of the flood.
        let (other, end) = judged(client(2));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        drop(end);
        drop(flood.drain(..20));
        other.await.unwrap().unwrap();
        drop(flood);
        until(&|| running.load(Ordering::SeqCst) == 0).await;
    }

    /// Records of tokens for `f`, with the keys that signed them.
    fn records(tokens: &[(&str, String)]) -> Records {
        let founder = nearfield_protocol::NodeId::from_bytes([1; 32]);
        let mut records = Records::new(founder);
        for (id, key) in tokens {
            let token = TokenVersion {
                id: id.to_string(),
                key: key.clone(),
                ..grant("f")
            };
            records.tell_token(founder, id, &TokenRecord::Issued(token));
        }
        records
    }

    #[tokio::test]
    async fn a_token_counts_by_the_key_that_its_record_names() {
        let (first, second) = (auth(), Auth::new("admin", [8; 32]).unwrap());
        let function = function("f");
        let asked = CallTarget {
            function: &function,
            method: "GET",
            path: "/",
        };
        let signed_by = |auth: &Auth| auth.issue(&grant("f")).unwrap();
        let both = records(&[("t1", first.key()), ("t2", second.key())]);
        // Whoever is asked, and whoever issued it.
        for auth in [&first, &second] {
            let caller = auth
                .caller(&headers(&signed_by(&first)), &asked, &both, HERE)
                .await;
            assert!(matches!(caller, Ok(Caller::Token(_))), "{caller:?}");
            // Another gateway's key signs nothing that looks like it.
            let refused = auth
                .caller(&headers(&signed_by(&second)), &asked, &both, HERE)
                .await;
            assert_eq!(refused.unwrap_err().kind, ProblemKind::Unauthorized);
        }
        // One that comes before its record counts once that is here.
        let third = Auth::new("admin", [9; 32]).unwrap();
        let token = headers(&signed_by(&first));
        assert!(third.caller(&token, &asked, &records(&[]), HERE).await.is_err());
        assert!(third.caller(&token, &asked, &both, HERE).await.is_ok());
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
