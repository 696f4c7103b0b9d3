//! Buckets of S3: what is signed, and how listings read.

use std::fmt::Display;

use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequestBody;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderMap;
use reqwest::{Request, Url};
use serde::Deserialize;

use crate::error::{Cause, RemoteError};
use crate::source::{ListedObject, Page, Source, get};
use crate::trouble::SET_KEYS;
use crate::url::is_exposed;

/// All of a key but what S3 signs as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

/// What an S3 endpoint takes when it is asked for no region.
const DEFAULT_REGION: &str = "us-east-1";

/// A bucket, and as whom it is read.
pub struct Bucket {
    pub name: String,
    /// The bucket's own URL, with a `/` at its end.
    base: Url,
    region: String,
    /// None: unsigned.
    credential: Option<AwsCredential>,
}

impl Bucket {
    /// As the usual variables have it. `insecure`: plain http may be used wherever it leads.
    pub fn from_env(
        name: &str,
        insecure: bool,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Bucket, RemoteError> {
        let set = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| env(name).filter(|value| !value.is_empty()))
        };
        let is_true = |name: &str| {
            set(&[name])
                .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes"))
        };
        let region = set(&["AWS_REGION", "AWS_DEFAULT_REGION"]).unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let endpoint = set(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
            .unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let base = base(&endpoint, name, is_true("AWS_VIRTUAL_HOSTED_STYLE_REQUEST"))?;
        if is_exposed(&base) && !insecure && !is_true("AWS_ALLOW_HTTP") {
            let what = format!("{endpoint} is plain http, where others can read and change what comes");
            return Err(RemoteError::new(Cause::Usage, what)
                .next("use https://, pass --insecure-source or set AWS_ALLOW_HTTP=true"));
        }
        let id = set(&["AWS_ACCESS_KEY_ID"]);
        let secret = set(&["AWS_SECRET_ACCESS_KEY"]);
        let credential = match (is_true("AWS_SKIP_SIGNATURE"), id, secret) {
            (true, _, _) => None,
            (false, Some(key_id), Some(secret_key)) => Some(AwsCredential {
                key_id: graphic("AWS_ACCESS_KEY_ID", key_id)?,
                secret_key,
                token: set(&["AWS_SESSION_TOKEN"])
                    .map(|token| graphic("AWS_SESSION_TOKEN", token))
                    .transpose()?,
            }),
            (false, _, _) => {
                let what = format!("no credentials are set to read s3://{name} with");
                return Err(RemoteError::new(Cause::NotAllowed, what).next(SET_KEYS));
            }
        };
        Ok(Bucket {
            name: name.to_owned(),
            base,
            region,
            credential,
        })
    }

    fn signed(&self, url: Url, headers: HeaderMap) -> Result<Request, RemoteError> {
        let Some(credential) = &self.credential else {
            return Ok(get(url, headers));
        };
        let unsigned = |cause: &dyn Display| {
            RemoteError::new(Cause::Failed, format!("a request could not be signed: {cause}"))
        };
        let request = http::Request::get(url.as_str()).body(HttpRequestBody::empty());
        let mut request = request.map_err(|error| unsigned(&error))?;
        *request.headers_mut() = headers;
        AwsAuthorizer::new(credential, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|error| unsigned(&error))?;
        Ok(get(url, request.into_parts().0.headers))
    }
}

impl Source for Bucket {
    fn place(&self) -> &Url {
        &self.base
    }

    fn shown(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    fn container(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn object(&self, key: &str, headers: HeaderMap) -> Result<Request, RemoteError> {
        let path = utf8_percent_encode(key, ESCAPED);
        let url = format!("{}{path}", self.base).parse();
        let url =
            url.map_err(|error| RemoteError::new(Cause::Failed, format!("`{key}` makes no URL: {error}")))?;
        self.signed(url, headers)
    }

    fn listing(&self, prefix: &str, page: Option<&str>) -> Result<Option<Request>, RemoteError> {
        let mut url = self.base.clone();
        let mut query = url.query_pairs_mut();
        query.append_pair("list-type", "2").append_pair("prefix", prefix);
        if let Some(page) = page {
            query.append_pair("continuation-token", page);
        }
        drop(query);
        self.signed(url, HeaderMap::new()).map(Some)
    }

    fn page(&self, answer: &[u8]) -> Result<Page, RemoteError> {
        page(answer)
    }
}

/// Of the XML of a listing, keys as they are.
pub fn page(xml: &[u8]) -> Result<Page, RemoteError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Listing {
        #[serde(default)]
        contents: Vec<Contents>,
        next_continuation_token: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Contents {
        key: String,
        size: u64,
        #[serde(rename = "ETag")]
        etag: Option<String>,
    }
    let listing: Listing = quick_xml::de::from_reader(xml).map_err(|error| {
        RemoteError::new(
            Cause::Failed,
            format!("the answer is no listing of objects: {error}"),
        )
        .next("check that AWS_ENDPOINT_URL names an S3 endpoint")
    })?;
    let listed = |object: Contents| ListedObject {
        key: object.key,
        size_bytes: object.size,
        etag: object.etag,
    };
    Ok(Page {
        objects: listing.contents.into_iter().map(listed).collect(),
        next: listing.next_continuation_token,
    })
}

/// `endpoint/bucket/`; with the bucket in the host's name the endpoint is the bucket's already.
fn base(endpoint: &str, bucket: &str, virtual_hosted: bool) -> Result<Url, RemoteError> {
    let endpoint = endpoint.trim_end_matches('/');
    let text = match virtual_hosted {
        true => format!("{endpoint}/"),
        false => format!("{endpoint}/{bucket}/"),
    };
    let url = text.parse::<Url>().ok();
    let fits = |url: &Url| matches!(url.scheme(), "http" | "https") && url.query().is_none();
    url.filter(fits).ok_or_else(|| {
        RemoteError::new(Cause::Usage, format!("the S3 endpoint `{endpoint}` is no URL"))
            .next("set AWS_ENDPOINT_URL to https://HOST or http://HOST:PORT")
    })
}

/// As a header can hold it. The value itself is not told: it may be a secret.
fn graphic(name: &str, value: String) -> Result<String, RemoteError> {
    if value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(value);
    }
    let what = format!("{name} holds characters that no key has");
    Err(RemoteError::new(Cause::NotAllowed, what).next("check it for spaces and line ends"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];

    fn bucket(insecure: bool, variables: &[(&str, &str)]) -> Result<Bucket, String> {
        Bucket::from_env("b", insecure, |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| value.to_string())
        })
        .map_err(|error| format!("{error} next: {}", error.next.as_deref().unwrap_or_default()))
    }

    fn place(variables: &[(&str, &str)]) -> String {
        bucket(false, &[&KEYS, variables].concat())
            .unwrap()
            .base
            .to_string()
    }

    #[test]
    fn variables_say_where_it_is() {
        assert_eq!(place(&[]), "https://s3.us-east-1.amazonaws.com/b/");
        let regions = [("AWS_DEFAULT_REGION", "x"), ("AWS_REGION", "eu-west-1")];
        assert_eq!(place(&regions), "https://s3.eu-west-1.amazonaws.com/b/");
        let endpoints = [
            ("AWS_ENDPOINT", "https://other"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9/"),
        ];
        assert_eq!(place(&endpoints), "http://127.0.0.1:9/b/");
        let hosted = [
            ("AWS_ENDPOINT_URL", "https://b.host"),
            ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"),
        ];
        assert_eq!(place(&hosted), "https://b.host/");
        let bad = [KEYS[0], KEYS[1], ("AWS_ENDPOINT_URL", "host:9")];
        assert!(bucket(false, &bad).err().unwrap().contains("AWS_ENDPOINT_URL"));
    }

    #[test]
    fn without_credentials_the_variables_are_named() {
        for variables in [
            &[][..],
            &KEYS[..1],
            &KEYS[1..],
            &[KEYS[0], ("AWS_SECRET_ACCESS_KEY", "")],
        ] {
            let message = bucket(false, variables).err().unwrap();
            assert!(
                message.contains("AWS_ACCESS_KEY_ID") && message.contains("AWS_SKIP_SIGNATURE"),
                "{message}"
            );
        }
        let anonymous = bucket(false, &[("AWS_SKIP_SIGNATURE", "true")]).unwrap();
        assert!(
            anonymous
                .object("k", HeaderMap::new())
                .unwrap()
                .headers()
                .is_empty()
        );
        let broken = [KEYS[0], KEYS[1], ("AWS_SESSION_TOKEN", "to\nken")];
        let message = bucket(false, &broken).err().unwrap();
        assert!(
            message.contains("AWS_SESSION_TOKEN") && !message.contains("ken\n"),
            "{message}"
        );
    }

    #[test]
    fn plain_http_has_to_be_meant() {
        let exposed = [KEYS[0], KEYS[1], ("AWS_ENDPOINT_URL", "http://minio:9000")];
        assert!(
            bucket(false, &exposed)
                .err()
                .unwrap()
                .contains("--insecure-source")
        );
        assert!(bucket(true, &exposed).is_ok());
        assert!(bucket(false, &[&exposed[..], &[("AWS_ALLOW_HTTP", "true")]].concat()).is_ok());
    }

    #[test]
    fn requests_are_signed_with_what_they_ask_for() {
        let bucket = bucket(false, &[&KEYS[..], &[("AWS_SESSION_TOKEN", "token")]].concat()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("range", "bytes=0-9".parse().unwrap());
        let request = bucket.object("a b/ü+%.csv", headers).unwrap();
        assert_eq!(request.url().path(), "/b/a%20b/%C3%BC%2B%25.csv");
        let signed = request.headers();
        let authorization = signed["authorization"].to_str().unwrap();
        assert!(
            authorization.contains("range") && authorization.contains("us-east-1/s3"),
            "{authorization}"
        );
        assert_eq!(signed["x-amz-security-token"], "token");
        assert!(!format!("{signed:?}").contains("secret"));
    }

    #[test]
    fn listings_keep_keys_as_they_are() {
        let xml = "<ListBucketResult xmlns=\"x\"><IsTruncated>true</IsTruncated>\
            <NextContinuationToken>t</NextContinuationToken>\
            <Contents><Key>p/dir/</Key><Size>0</Size><ETag>&quot;e&quot;</ETag></Contents>\
            <CommonPrefixes><Prefix>x</Prefix></CommonPrefixes>\
            <Contents><Key>/a&amp;b/../c</Key><Size>7</Size></Contents></ListBucketResult>";
        let listed = |key: &str, size_bytes, etag: Option<&str>| ListedObject {
            key: key.to_owned(),
            size_bytes,
            etag: etag.map(str::to_owned),
        };
        let expected = Page {
            objects: vec![listed("p/dir/", 0, Some("\"e\"")), listed("/a&b/../c", 7, None)],
            next: Some("t".to_owned()),
        };
        assert_eq!(page(xml.as_bytes()).unwrap(), expected);
        assert!(page(b"<html></html>").is_ok_and(|page| page.objects.is_empty()));
        assert!(page(b"not xml <").is_err());
    }
}
