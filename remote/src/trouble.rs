//! Failures in words, with the change that helps.

use crate::error::{Cause, RemoteError};
use crate::transport::{Refusal, Trouble};

/// What helps where a place wants to know who asks.
pub const SET_KEYS: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, with AWS_SESSION_TOKEN if they are \
     temporary, or AWS_SKIP_SIGNATURE=true for what everybody may read";

/// What was asked for, for messages.
pub struct AskedUrl<'a> {
    /// The URL without its secrets.
    pub shown: &'a str,
    /// Where requests go.
    pub host: &'a str,
    /// None: not S3.
    pub bucket: Option<&'a str>,
}

/// The thing, the cause, and what to do now.
pub fn explain(asked: &AskedUrl, trouble: &Trouble) -> RemoteError {
    let AskedUrl { shown, host, bucket } = asked;
    let address = match bucket {
        Some(_) => "check AWS_ENDPOINT_URL and AWS_REGION, and whether the endpoint can be reached from here",
        None => "check the URL, and whether its host can be reached from here",
    };
    match trouble {
        Trouble::Unreachable(cause) => RemoteError::new(
            Cause::Unreachable,
            format!("{shown}: nothing answers at {host} ({cause})"),
        )
        .next(address),
        Trouble::BrokeOff(cause) => {
            let what = format!("{shown}: {host} broke off again and again ({cause})");
            RemoteError::new(Cause::Unreachable, what).next("put it again later")
        }
        Trouble::Redirect(cause) => {
            let what = format!("{shown} is not followed: {cause}");
            RemoteError::new(Cause::Failed, what)
                .next("put the URL that it leads to, or pass --insecure-source")
        }
        Trouble::TooLong => {
            let what = format!("{shown}: {host} sends more than was asked for");
            RemoteError::new(Cause::Failed, what)
                .next("fetch it with another program and put that: … | nearfield put -")
        }
        Trouble::Refused(refusal) => refused(asked, refusal),
    }
}

/// It is not what it was when reading began.
pub fn changed(shown: &str) -> RemoteError {
    let what = format!("{shown} changed while it was read: nothing was made of it");
    RemoteError::new(Cause::Changed, what).next("put it again, when nobody writes it")
}

fn refused(asked: &AskedUrl, refusal: &Refusal) -> RemoteError {
    let AskedUrl { shown, host, bucket } = asked;
    let code = refusal.code.as_deref().unwrap_or_default();
    let told = match code {
        "" => refusal.status.to_string(),
        code => format!("{} {code}", refusal.status),
    };
    let not_found = |what: String, next: &str| RemoteError::new(Cause::NotFound, what).next(next);
    match (refusal.status, code, bucket) {
        (404, "NoSuchBucket", Some(bucket)) => not_found(
            format!("there is no bucket `{bucket}` at {host}"),
            "check its name, AWS_ENDPOINT_URL and AWS_REGION",
        ),
        (404 | 410, _, Some(_)) => not_found(
            format!("there is no {shown} at {host} ({told})"),
            "check bucket and key; all below a prefix is put with a / at its end",
        ),
        (404 | 410, _, None) => not_found(format!("there is no {shown} ({told})"), "check the URL"),
        (301 | 307, _, Some(bucket)) | (400, "AuthorizationHeaderMalformed", Some(bucket)) => {
            let region = refusal.region.as_deref().unwrap_or("the bucket's region");
            RemoteError::new(Cause::Failed, format!("`{bucket}` is in another region ({told})"))
                .next(format!("set AWS_REGION to {region}"))
        }
        (401 | 403, _, Some(_)) | (400, "ExpiredToken" | "InvalidToken", Some(_)) => {
            RemoteError::new(Cause::NotAllowed, format!("{shown} may not be read ({told})")).next(SET_KEYS)
        }
        (401 | 403, _, None) => {
            RemoteError::new(Cause::NotAllowed, format!("{shown} may not be read ({told})"))
                .next("check user, password and what the URL is signed with; signed URLs expire")
        }
        // A range after its end: it is shorter than it was.
        (412 | 416, _, _) => changed(shown),
        (300..=399, _, _) => RemoteError::new(Cause::Failed, format!("{shown} leads elsewhere ({told})"))
            .next("put the URL that it leads to"),
        (status, _, _) => RemoteError::new(
            Cause::of_status(status),
            format!("{shown}: {host} answered {told}"),
        )
        .next("put it again later"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bucket: Option<&str>, trouble: Trouble) -> (Cause, String) {
        let asked = AskedUrl {
            shown: "URL",
            host: "HOST",
            bucket,
        };
        let error = explain(&asked, &trouble);
        let next = error.next.as_deref().unwrap_or_default();
        (error.cause, format!("{error} next: {next}"))
    }

    fn refused(status: u16, code: &str) -> Trouble {
        Trouble::Refused(Refusal {
            status,
            code: (!code.is_empty()).then(|| code.to_owned()),
            region: Some("eu-west-1".to_owned()),
        })
    }

    #[test]
    fn each_trouble_has_its_cause_and_next_step() {
        let cause = || "refused".to_owned();
        for (bucket, trouble, expected, says) in [
            (
                Some("b"),
                Trouble::Unreachable(cause()),
                Cause::Unreachable,
                "AWS_ENDPOINT_URL",
            ),
            (
                None,
                Trouble::Unreachable(cause()),
                Cause::Unreachable,
                "nothing answers at HOST (refused)",
            ),
            (
                None,
                Trouble::BrokeOff(cause()),
                Cause::Unreachable,
                "again later",
            ),
            (
                None,
                Trouble::Redirect(cause()),
                Cause::Failed,
                "--insecure-source",
            ),
            (None, Trouble::TooLong, Cause::Failed, "nearfield put -"),
            (
                Some("b"),
                refused(404, "NoSuchBucket"),
                Cause::NotFound,
                "no bucket `b` at HOST",
            ),
            (
                Some("b"),
                refused(404, "NoSuchKey"),
                Cause::NotFound,
                "no URL at HOST (404 NoSuchKey)",
            ),
            (None, refused(404, ""), Cause::NotFound, "no URL (404)"),
            (
                Some("b"),
                refused(301, "PermanentRedirect"),
                Cause::Failed,
                "set AWS_REGION to eu-west-1",
            ),
            (
                Some("b"),
                refused(400, "AuthorizationHeaderMalformed"),
                Cause::Failed,
                "AWS_REGION",
            ),
            (
                Some("b"),
                refused(403, "SignatureDoesNotMatch"),
                Cause::NotAllowed,
                "set AWS_ACCESS_KEY_ID",
            ),
            (
                Some("b"),
                refused(400, "ExpiredToken"),
                Cause::NotAllowed,
                "AWS_SESSION_TOKEN",
            ),
            (None, refused(401, ""), Cause::NotAllowed, "signed URLs expire"),
            (
                None,
                refused(412, ""),
                Cause::Changed,
                "URL changed while it was read",
            ),
            (
                Some("b"),
                refused(503, "SlowDown"),
                Cause::Failed,
                "HOST answered 503 SlowDown",
            ),
            (None, refused(302, ""), Cause::Failed, "leads elsewhere (302)"),
            (None, refused(429, ""), Cause::OverLimit, "429"),
        ] {
            let (found, message) = told(bucket, trouble.clone());
            assert_eq!(found, expected, "{trouble:?}: {message}");
            assert!(
                message.contains(says) && message.contains(" next: "),
                "{trouble:?}: {message}"
            );
        }
    }
}
