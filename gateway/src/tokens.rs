//! Function tokens: biscuits that gateways sign and that any holder can narrow offline.
//!
//! The authority block names the token and the function. A holder appends blocks; what they may hold is judged before
//! anything in them is evaluated (`read`): checks that compare the request's `time`, `path` and `method`, and nothing
//! else. Each of these is one fact, so a check has one match to try, however it is written: a token costs what its bytes
//! cost, never what its author thought of.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use biscuit_auth::builder::{Algorithm, BlockBuilder, Term, date, fact, string};
use biscuit_auth::error::{FailedCheck, Logic, Token as TokenError};
use biscuit_auth::format::schema;
use biscuit_auth::{
    AuthorizerBuilder, AuthorizerLimits, Biscuit, KeyPair, PrivateKey, PublicKey, UnverifiedBiscuit,
};
use nearfield_protocol::records::TokenVersion;
use nearfield_protocol::{FunctionName, Problem, ProblemKind};
use prost::Message;

/// A token longer than this is none of ours: one as issued has 300 bytes, and each narrowing adds about 200.
const MAX_TOKEN_BYTES: usize = 4 << 10;
/// Blocks of one token. Each costs the check of a signature, about 0.1 ms.
const MAX_BLOCKS: usize = 8;
/// Checks of one appended block, ways of one check to hold, facts that one of these names, and steps of its comparison.
const MAX_CHECKS: usize = 8;
const MAX_QUERIES: usize = 4;
const MAX_FACTS: usize = 3;
const MAX_STEPS: usize = 64;
/// Symbols below this one are the library's own, the same for all tokens.
const FIRST_SYMBOL: u64 = 1_024;
/// What the evaluation of a token whose blocks were judged can never come near. The time is for a thread that has to
/// wait for its core.
const LIMITS: AuthorizerLimits = AuthorizerLimits {
    max_facts: 20,
    max_iterations: 2,
    max_time: Duration::from_millis(500),
};

/// A token that a gateway signed and whose blocks may be evaluated.
pub(crate) struct Token {
    pub id: String,
    /// The key that it is signed with, as records name it.
    pub key: String,
    pub function: FunctionName,
    biscuit: Biscuit,
}

/// What a token's checks may look at.
pub(crate) struct Facts<'a> {
    pub now: SystemTime,
    pub method: &'a str,
    /// Below the function's route.
    pub path: &'a str,
}

/// Signs a token for what `grant` says.
pub(crate) fn issue(grant: &TokenVersion, keys: &KeyPair) -> Result<String, TokenError> {
    let mut builder = Biscuit::builder()
        .root_key_id(hint(&keys.public().to_bytes_hex()).unwrap_or_default())
        .fact(fact("token", &[string(&grant.id)]))?
        .fact(fact("function", &[string(grant.function.as_str())]))?;
    if let Some(expires) = grant.expires_unix_ms {
        builder = builder.code(until(expires / 1000))?;
    }
    builder.build(keys)?.to_base64()
}

/// Keys that sign tokens, from a secret.
pub(crate) fn keys(secret: &[u8; 32]) -> Result<KeyPair, biscuit_auth::error::Format> {
    Ok(KeyPair::from(&PrivateKey::from_bytes(
        secret,
        Algorithm::Ed25519,
    )?))
}

/// What a token says of the key that it is signed with: the first digits of it. Another key may begin alike, and the signature
/// tells them apart.
fn hint(key: &str) -> Option<u32> {
    u32::from_str_radix(key.get(..8)?, 16).ok()
}

/// Which of `keys` a token says that it is signed with.
pub(crate) fn key_of<'a>(
    token: &UnverifiedBiscuit,
    mut keys: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    keys.find(|key| hint(key) == token.root_key_id())
}

/// A token that no gateway of this network signed.
pub(crate) fn unknown() -> Problem {
    unauthorized("the token is not one of this network, or damaged")
}

/// Takes a token apart. Checks no signature.
pub(crate) fn parse(text: &str) -> Result<UnverifiedBiscuit, Problem> {
    if text.len() > MAX_TOKEN_BYTES {
        return Err(unauthorized(&format!(
            "the token has {} bytes, and one of this network has {MAX_TOKEN_BYTES} at most",
            text.len()
        )));
    }
    UnverifiedBiscuit::from_base64(text).map_err(|_| unknown())
}

/// Checks a token's signatures and what its blocks hold. Evaluates nothing.
pub(crate) fn read(token: UnverifiedBiscuit, key: &str) -> Result<Token, Problem> {
    let public = PublicKey::from_bytes_hex(key, Algorithm::Ed25519).map_err(|_| unknown())?;
    let biscuit = token.verify(public).map_err(|_| unknown())?;
    if biscuit.block_count() > MAX_BLOCKS {
        return Err(unauthorized(&format!(
            "the token was narrowed {} times, and may be {} times",
            biscuit.block_count() - 1,
            MAX_BLOCKS - 1
        )));
    }
    for (index, signed) in biscuit.container().to_proto().blocks.iter().enumerate() {
        let block = schema::Block::decode(&signed.block[..]).map_err(|_| unknown())?;
        let foreign = signed.external_signature.is_some();
        if let Some(reason) = objection(&block, foreign) {
            return Err(unauthorized(&format!(
                "block {} of the token {reason}: a holder may add checks that compare `time`, `path` and `method`, as \
                 `nearfield token narrow` does",
                index + 1
            )));
        }
    }
    let source = biscuit.print_block_source(0).map_err(|_| unknown())?;
    let (id, function) = named(&source).ok_or_else(|| unauthorized("the token names no function"))?;
    Ok(Token {
        id,
        key: key.to_owned(),
        function,
        biscuit,
    })
}

impl Token {
    /// Whether it says the same of every request: then nobody narrowed it, and its own expiry stands in its record.
    pub fn is_plain(&self) -> bool {
        self.biscuit.block_count() == 1
    }

    /// Whether its checks hold for a request.
    pub fn check(&self, facts: &Facts<'_>) -> Result<(), Problem> {
        let damaged = |_| unauthorized("the token is damaged");
        let mut authorizer = AuthorizerBuilder::new()
            .set_limits(LIMITS.clone())
            .fact(fact("time", &[date(&facts.now)]))
            .and_then(|builder| builder.fact(fact("method", &[string(facts.method)])))
            .and_then(|builder| builder.fact(fact("path", &[string(facts.path)])))
            .and_then(|builder| builder.code("allow if true"))
            .and_then(|builder| builder.build(&self.biscuit))
            .map_err(damaged)?;
        match authorizer.authorize() {
            Ok(_) => Ok(()),
            Err(error) => Err(Problem::new(
                ProblemKind::Forbidden,
                format!("token {} {}", self.id, in_words(&error, facts)),
            )),
        }
    }
}

/// What is wrong with an appended block, if anything is.
pub(crate) fn objection(block: &schema::Block, foreign: bool) -> Option<&'static str> {
    if foreign {
        return Some("is signed by somebody else");
    }
    if !block.facts.is_empty() {
        return Some("states facts");
    }
    if !block.rules.is_empty() {
        return Some("has rules");
    }
    if !block.scope.is_empty() || !block.public_keys.is_empty() {
        return Some("names whom it trusts");
    }
    if block.checks.len() > MAX_CHECKS {
        return Some("has too many checks");
    }
    let is_simple = |query: &schema::Rule| {
        let steps = query
            .expressions
            .iter()
            .try_fold(0, |sum, expression| Some(sum + steps(&expression.ops, 0)?));
        query.body.len() <= MAX_FACTS
            && query.scope.is_empty()
            && steps.is_some_and(|steps: usize| steps <= MAX_STEPS)
    };
    let queries = || block.checks.iter().map(|check| &check.queries);
    if queries().any(|queries| queries.len() > MAX_QUERIES) {
        return Some("has a check with too many ways to hold");
    }
    let all_simple = queries().flatten().all(is_simple);
    (!all_simple).then_some("has a check that is more than a comparison")
}

/// How many steps a comparison has; none if it is more than that: arithmetic, a regular expression, a closure over a set,
/// a function of the host's.
fn steps(ops: &[schema::Op], depth: usize) -> Option<usize> {
    use schema::op::Content;
    use schema::op_binary::Kind as Binary;
    use schema::op_unary::Kind as Unary;
    // `&&` and `||` put what is on their right into a closure without parameters.
    if depth > 4 || ops.len() > MAX_STEPS {
        return None;
    }
    ops.iter().try_fold(0, |sum, op| {
        let more = match op.content.as_ref()? {
            Content::Value(_) => 1,
            Content::Unary(unary) => match Unary::from_i32(unary.kind)? {
                Unary::Negate | Unary::Parens => 1,
                _ => return None,
            },
            Content::Binary(binary) => match Binary::from_i32(binary.kind)? {
                Binary::LessThan
                | Binary::GreaterThan
                | Binary::LessOrEqual
                | Binary::GreaterOrEqual
                | Binary::Equal
                | Binary::NotEqual
                | Binary::HeterogeneousEqual
                | Binary::HeterogeneousNotEqual
                | Binary::Contains
                | Binary::Prefix
                | Binary::Suffix
                | Binary::And
                | Binary::Or
                | Binary::LazyAnd
                | Binary::LazyOr => 1,
                _ => return None,
            },
            Content::Closure(closure) if closure.params.is_empty() => steps(&closure.ops, depth + 1)?,
            Content::Closure(_) => return None,
        };
        Some(sum + more)
    })
}

/// The id that a token says it has. Whoever made the token may say anything: only bytes are read, no source is parsed.
pub(crate) fn said_id(token: &UnverifiedBiscuit) -> Option<String> {
    use schema::term::Content;
    let signed = schema::Biscuit::decode(&token.to_vec().ok()?[..]).ok()?;
    let block = schema::Block::decode(&signed.authority.block[..]).ok()?;
    let symbol = |index: u64| block.symbols.get(index.checked_sub(FIRST_SYMBOL)? as usize);
    block.facts.iter().find_map(|fact| {
        let is_token = symbol(fact.predicate.name)? == "token";
        match fact.predicate.terms.first()?.content.as_ref()? {
            Content::String(id) if is_token => symbol(*id).cloned(),
            _ => None,
        }
    })
}

/// The token's id and its function, from the block that a gateway wrote.
fn named(source: &str) -> Option<(String, FunctionName)> {
    let parsed = biscuit_auth::parser::parse_block_source(source).ok()?;
    let only = |name: &str| {
        let mut terms = parsed.facts.iter().filter_map(|(_, fact)| {
            let fact = biscuit_auth::builder::Fact::from(fact.clone());
            match (fact.predicate.name == name, fact.predicate.terms.as_slice()) {
                (true, [Term::Str(text)]) => Some(text.clone()),
                _ => None,
            }
        });
        terms.next().filter(|_| terms.next().is_none())
    };
    Some((only("token")?, only("function")?.parse().ok()?))
}

/// How a holder narrows a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// Paths below the function's route: this one and what lies below it.
    pub path: Option<String>,
    /// Only these methods; all if there are none.
    pub methods: Vec<String>,
    pub expires: Option<SystemTime>,
}

/// Why a token was not narrowed.
#[derive(Debug, thiserror::Error)]
pub enum NarrowError {
    #[error("this is no token: {0}")]
    NoToken(TokenError),
    #[error("the token would have {bytes} bytes, and may have {MAX_TOKEN_BYTES}")]
    TooLong { bytes: usize },
    #[error("the token cannot be narrowed: {0}")]
    Refused(TokenError),
}

/// Appends checks to a token. Needs no node: whoever holds a token can narrow it.
pub fn narrow(token: &str, narrowing: &Narrowing) -> Result<String, NarrowError> {
    let token = UnverifiedBiscuit::from_base64(token.trim()).map_err(NarrowError::NoToken)?;
    let mut block = BlockBuilder::new();
    // Values go in as parameters: the library writes a text without escaping what is in it.
    let add = |block: BlockBuilder, code: &str, parameters: Vec<(String, Term)>| {
        let parameters = parameters.into_iter().collect();
        let added = block.code_with_params(code, parameters, HashMap::new());
        added.map_err(NarrowError::Refused)
    };
    if let Some(path) = &narrowing.path {
        // A path is told without its first slash, and written with it.
        let told = path.trim_matches('/');
        let below = match told.is_empty() {
            true => String::new(),
            false => format!("{told}/"),
        };
        let text = |name: &str, text: String| (name.to_owned(), Term::Str(text));
        let parameters = vec![
            text("written", format!("/{told}")),
            text("below_written", format!("/{below}")),
            text("told", told.to_owned()),
            text("below", below),
        ];
        let code = "check if path($path), $path == {written} || $path.starts_with({below_written}) \
                    || $path == {told} || $path.starts_with({below})";
        block = add(block, code, parameters)?;
    }
    if !narrowing.methods.is_empty() {
        let methods = narrowing
            .methods
            .iter()
            .map(|method| Term::Str(method.to_ascii_uppercase()))
            .collect();
        let parameters = vec![("methods".to_owned(), Term::Set(methods))];
        let code = "check if method($method), {methods}.contains($method)";
        block = add(block, code, parameters)?;
    }
    if let Some(expires) = narrowing.expires {
        let since = expires.duration_since(SystemTime::UNIX_EPOCH);
        block = add(block, &until(since.unwrap_or_default().as_secs()), Vec::new())?;
    }
    let narrowed = token.append(block).and_then(|token| token.to_base64());
    let narrowed = narrowed.map_err(NarrowError::Refused)?;
    match narrowed.len() {
        bytes if bytes > MAX_TOKEN_BYTES => Err(NarrowError::TooLong { bytes }),
        _ => Ok(narrowed),
    }
}

fn until(unix_seconds: u64) -> String {
    format!("check if time($now), $now < {}", Term::Date(unix_seconds))
}

/// Which check failed, and what the request was instead.
fn in_words(error: &TokenError, facts: &Facts<'_>) -> String {
    let (TokenError::FailedLogic(Logic::Unauthorized { checks, .. })
    | TokenError::FailedLogic(Logic::NoMatchingPolicy { checks })) = error
    else {
        return format!("could not be checked: {error}");
    };
    let said: Vec<_> = checks
        .iter()
        .map(|check| match check {
            FailedCheck::Block(check) => one_in_words(&check.rule, facts),
            FailedCheck::Authorizer(check) => check.rule.clone(),
        })
        .collect();
    said.join("; and it ")
}

fn one_in_words(rule: &str, facts: &Facts<'_>) -> String {
    let Facts { method, path, .. } = facts;
    let condition = rule.trim_start_matches("check if ");
    let literals = || {
        let quoted: Vec<_> = condition.split('"').skip(1).step_by(2).collect();
        quoted.join(", ")
    };
    if condition.starts_with("time($") {
        let date = condition.rsplit(' ').next().unwrap_or_default();
        return format!("expired at {date}");
    }
    if condition.starts_with("method($") {
        return format!("is for {} only, and this is {method}", literals());
    }
    match condition.split_once(" || ") {
        Some((exact, _)) if condition.starts_with("path($") && exact.contains(" == \"") => {
            let first = exact.split('"').nth(1).unwrap_or_default();
            format!("is for the path `{first}` and what is below it, and this is `{path}`")
        }
        _ => format!("was narrowed to `{condition}`, and this is {method} `{path}`"),
    }
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(ProblemKind::Unauthorized, detail)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn grant() -> TokenVersion {
        TokenVersion {
            id: "t1".into(),
            key: signer().public().to_bytes_hex(),
            function: "f".parse().unwrap(),
            component: None,
            max_fuel_per_day: None,
            expires_unix_ms: None,
            issued_unix_ms: 0,
        }
    }

    fn signer() -> KeyPair {
        keys(&[7; 32]).unwrap()
    }

    fn appended(code: &str) -> String {
        let token = issue(&grant(), &signer()).unwrap();
        let block = BlockBuilder::new().code(code).unwrap();
        let token = UnverifiedBiscuit::from_base64(token).unwrap();
        token.append(block).unwrap().to_base64().unwrap()
    }

    fn judged(token: &str, method: &str, path: &str) -> Result<(), Problem> {
        let now = SystemTime::now();
        signed(token)?.check(&Facts { now, method, path })
    }

    fn signed(token: &str) -> Result<Token, Problem> {
        read(parse(token)?, &signer().public().to_bytes_hex())
    }

    #[test]
    fn a_token_names_its_function_and_only_the_first_block_does() {
        let token = signed(&issue(&grant(), &signer()).unwrap()).unwrap();
        assert_eq!((token.id.as_str(), token.function.as_str()), ("t1", "f"));
        assert!(token.is_plain());
        let stranger = issue(&grant(), &keys(&[8; 32]).unwrap()).unwrap();
        for bad in [
            stranger.as_str(),
            "nonsense",
            "",
            &"x".repeat(MAX_TOKEN_BYTES + 1),
        ] {
            assert_eq!(
                judged(bad, "GET", "/").unwrap_err().kind,
                ProblemKind::Unauthorized
            );
        }
    }

    #[test]
    fn a_holder_can_narrow_and_is_told_in_words() {
        let token = issue(&grant(), &signer()).unwrap();
        let narrowing = Narrowing {
            path: Some("/public".to_owned()),
            methods: vec!["get".to_owned(), "HEAD".to_owned()],
            expires: Some(SystemTime::now() + Duration::from_secs(60)),
        };
        let narrow_token = narrow(&token, &narrowing).unwrap();
        for path in [
            "/public",
            "/public/",
            "/public/a/b",
            "public",
            "public/",
            "public/a/b",
        ] {
            judged(&narrow_token, "GET", path).unwrap();
        }
        let whole = Narrowing {
            path: Some("/".to_owned()),
            ..Narrowing::default()
        };
        for path in ["", "a", "a/b"] {
            judged(&narrow(&token, &whole).unwrap(), "GET", path).unwrap();
        }
        let detail = |method: &str, path: &str| judged(&narrow_token, method, path).unwrap_err().detail;
        for path in [
            "/",
            "/publicity",
            "/private",
            "/a/public",
            "publicity",
            "private/a",
            "",
        ] {
            let told = detail("GET", path);
            let wanted =
                format!("token t1 is for the path `/public` and what is below it, and this is `{path}`");
            assert_eq!(told, wanted);
        }
        assert_eq!(
            detail("POST", "/public"),
            "token t1 is for GET, HEAD only, and this is POST"
        );
        let expired = Narrowing {
            expires: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)),
            ..Narrowing::default()
        };
        let told = judged(&narrow(&narrow_token, &expired).unwrap(), "GET", "/public").unwrap_err();
        assert_eq!(told.detail, "token t1 expired at 1970-01-02T00:00:00Z");
        let quoted = Narrowing {
            path: Some("/a\"b\\".to_owned()),
            ..Narrowing::default()
        };
        let quoted = narrow(&token, &quoted).unwrap();
        judged(&quoted, "GET", "/a\"b\\/c").unwrap();
        assert!(judged(&quoted, "GET", "/a").is_err());
    }

    /// Each of these is refused by its form, before anything in it runs.
    #[test]
    fn more_than_comparisons_is_refused_unread() {
        let facts: String = (0..12).map(|n| format!("f({n}); ")).collect();
        let vars: Vec<_> = (0..6).map(|n| format!("f($v{n})")).collect();
        let join = format!("{facts} check if {}, $v0 > 99", vars.join(", "));
        let wide = format!("check if path($p), {}", vec!["$p == \"a\""; 60].join(" || "));
        let deep = format!(
            "check if path($p), {}",
            "($p == \"a\" && ".repeat(6) + "true" + &")".repeat(6)
        );
        let many = "check if path($p), $p != \"a\"; ".repeat(MAX_CHECKS + 1);
        let ways = ["path($p), $p == \"a\""; MAX_QUERIES + 1].join(" or ");
        for code in [
            join.as_str(),
            "token(\"t2\"); function(\"g\");",
            "path(\"/public\");",
            "g($x) <- path($x);",
            "check if path($p), $p.matches(\"(a+)+$\")",
            "check if time($t), 1 + 1 == 2",
            "check if path($p), $p.length() < 5",
            "check if [1, 2].any($x -> $x > 1)",
            "check if path($a), path($b), path($c), path($d)",
            "check if path($p) trusting previous",
            &wide,
            &deep,
            &many,
            &format!("check if {ways}"),
        ] {
            let token = appended(code);
            let begun = Instant::now();
            let problem = judged(&token, "GET", "/").unwrap_err();
            assert_eq!(problem.kind, ProblemKind::Unauthorized, "{code}: {problem}");
            assert!(begun.elapsed() < Duration::from_secs(1), "{code}");
        }
        for code in [
            "check if path($p), $p.starts_with(\"/public/\")",
            "check if method($m), $m == \"GET\" or method($m), $m == \"HEAD\"",
            "check if time($t), $t < 2100-01-01T00:00:00Z, path($p), !($p == \"/x\") && $p != \"/y\"",
            "reject if path($p), $p.ends_with(\".key\")",
        ] {
            judged(&appended(code), "GET", "/public/a").unwrap_or_else(|problem| panic!("{code}: {problem}"));
        }
    }

    #[test]
    fn a_token_is_narrowed_so_often_and_no_more() {
        let mut token = issue(&grant(), &signer()).unwrap();
        let narrowing = Narrowing {
            methods: vec!["GET".to_owned()],
            ..Narrowing::default()
        };
        for _ in 1..MAX_BLOCKS {
            token = narrow(&token, &narrowing).unwrap();
            judged(&token, "GET", "/").unwrap();
        }
        let once_more = narrow(&token, &narrowing).unwrap();
        assert_eq!(
            judged(&once_more, "GET", "/").unwrap_err().kind,
            ProblemKind::Unauthorized
        );
    }

    #[test]
    fn an_expiry_is_in_the_token_itself() {
        let expired = TokenVersion {
            expires_unix_ms: Some(1_000),
            ..grant()
        };
        let token = issue(&expired, &signer()).unwrap();
        assert_eq!(
            judged(&token, "GET", "/").unwrap_err().kind,
            ProblemKind::Forbidden
        );
    }
}
