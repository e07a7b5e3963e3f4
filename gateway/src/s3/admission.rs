//! Which requests get as far as their signature's check.
//!
//! The layer below verifies whatever a request lists in SignedHeaders; it does not ask whether
//! enough is listed, and it knows older schemes besides. Here, before it:
//!
//! 1. There is one signature: AWS Signature Version 4 for service `s3`, in the Authorization header
//!    or in a presigned URL, never both, never version 2 (forms have a way of their own:
//!    [`super::post`]). A request without any is anonymous, and gets what policies and lists give
//!    to everybody.
//! 2. `host` and every `x-amz-*` header that is present are signed ("Create a canonical request",
//!    IAM user guide): whoever relays a request cannot add a meaning to it.
//! 3. A presigned URL lives a week at most.

use form_urlencoded::parse;
use http::header::{AUTHORIZATION, CONTENT_ENCODING};
use http::{HeaderMap, Uri};
use s3s::{S3Error, S3Result, s3_error};
use std::borrow::Cow;

/// Seconds a presigned URL may live.
const EXPIRES_SECONDS_MAX: u32 = 7 * 24 * 3600;
const SCHEME: &str = "AWS4-HMAC-SHA256";
const STREAMING: &[u8] = b"STREAMING-";

/// Refuses what must not reach the signature's check.
pub(super) fn admit(uri: &Uri, headers: &HeaderMap) -> S3Result<()> {
    let query: Vec<(Cow<'_, str>, Cow<'_, str>)> =
        parse(uri.query().unwrap_or_default().as_bytes()).collect();
    let has = |name: &str| query.iter().any(|(key, _)| key == name);

    let mut given = headers.get_all(AUTHORIZATION).into_iter();
    let (authorization, second) = (given.next(), given.next());
    let presigned = has("X-Amz-Signature") || has("X-Amz-Algorithm") || has("X-Amz-Credential");
    let version_2 = has("Signature")
        || has("AWSAccessKeyId")
        || authorization.is_some_and(|value| value.as_bytes().starts_with(b"AWS "));
    if version_2 {
        return Err(s3_error!(
            InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use {SCHEME} (with \
             aws: aws configure set default.s3.signature_version s3v4)."
        ));
    }
    if second.is_some() || (presigned && authorization.is_some()) {
        return Err(s3_error!(
            InvalidArgument,
            "Only one auth mechanism allowed: one Authorization header, or the X-Amz-Signature of \
             a presigned URL"
        ));
    }
    let signed = match (authorization, presigned) {
        (Some(value), _) => by_header(value.to_str().ok(), headers)?,
        (None, true) => by_query(&query)?,
        (None, false) => return admit_anonymous(headers),
    };
    check_signed(&signed, headers)?;
    check_framing(headers)
}

/// The session token that the request shows, in either of its places.
pub(super) fn token(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get("x-amz-security-token") {
        return value.to_str().ok().map(ToOwned::to_owned);
    }
    parse(uri.query().unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "X-Amz-Security-Token")
        .map(|(_, value)| value.into_owned())
}

/// The framing's chunks are taken apart behind the signature only; without one, it would be stored.
fn admit_anonymous(headers: &HeaderMap) -> S3Result<()> {
    if framing(headers).is_some() {
        return Err(s3_error!(
            InvalidRequest,
            "An anonymous request cannot have an aws-chunked body: send it as it is"
        ));
    }
    check_framing(headers)
}

/// Whether the body comes in aws-chunked framing; `Some(true)` if each chunk is signed.
pub(super) fn framing(headers: &HeaderMap) -> Option<bool> {
    let value = headers.get("x-amz-content-sha256")?.as_bytes();
    value
        .starts_with(STREAMING)
        .then(|| !value.starts_with(b"STREAMING-UNSIGNED-"))
}

/// The signed headers of an Authorization header, semicolons between.
fn by_header(value: Option<&str>, headers: &HeaderMap) -> S3Result<String> {
    let fields = value
        .and_then(|value| value.strip_prefix(SCHEME))
        .filter(|rest| rest.starts_with(' '));
    let Some(fields) = fields else {
        return Err(s3_error!(
            InvalidArgument,
            "Unsupported Authorization Type: only {SCHEME} opens this store"
        ));
    };
    let [mut credential, mut signed, mut signature] = [None; 3];
    for field in fields.split(',') {
        let slot = match field.trim().split_once('=') {
            Some(("Credential", value)) => (&mut credential, value),
            Some(("SignedHeaders", value)) => (&mut signed, value),
            Some(("Signature", value)) => (&mut signature, value),
            _ => {
                return Err(malformed_header(&format!(
                    "it has the field {:?}",
                    field.trim()
                )));
            }
        };
        if slot.0.replace(slot.1).is_some() {
            return Err(malformed_header("it names a field twice"));
        }
    }
    let (Some(credential), Some(signed), Some(_)) = (credential, signed, signature) else {
        return Err(malformed_header(
            "Credential, SignedHeaders and Signature must be there",
        ));
    };
    if !for_s3(credential) {
        return Err(malformed_header(
            "Credential must be <access key>/<date>/<region>/s3/aws4_request",
        ));
    }
    if !headers.contains_key("x-amz-date") {
        return Err(s3_error!(
            AccessDenied,
            "AWS authentication requires a valid x-amz-date header"
        ));
    }
    Ok(signed.to_owned())
}

/// The signed headers of a presigned URL, semicolons between.
fn by_query(query: &[(Cow<'_, str>, Cow<'_, str>)]) -> S3Result<String> {
    let field = |name: &str| {
        let mut found = query
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_ref());
        match (found.next(), found.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(malformed_query(&format!("{name} must be there once"))),
        }
    };
    for name in ["X-Amz-Algorithm", "X-Amz-Date", "X-Amz-Signature"] {
        field(name)?;
    }
    if !for_s3(field("X-Amz-Credential")?) {
        return Err(malformed_query(
            "X-Amz-Credential must be <access key>/<date>/<region>/s3/aws4_request",
        ));
    }
    let expires = field("X-Amz-Expires")?;
    match expires.parse::<u32>() {
        Ok(seconds) if seconds <= EXPIRES_SECONDS_MAX => {}
        _ => {
            return Err(malformed_query(&format!(
                "X-Amz-Expires must be less than a week (in seconds): it is {expires:?}, at most \
                 {EXPIRES_SECONDS_MAX} is taken"
            )));
        }
    }
    Ok(field("X-Amz-SignedHeaders")?.to_owned())
}

fn for_s3(credential: &str) -> bool {
    let mut scope = credential.rsplitn(5, '/');
    scope.next() == Some("aws4_request") && scope.next() == Some("s3") && scope.count() == 3
}

fn check_signed(signed: &str, headers: &HeaderMap) -> S3Result<()> {
    let lists = |name: &str| signed.split(';').any(|listed| listed == name);
    let unsigned = std::iter::once("host")
        .chain(
            headers
                .keys()
                .map(http::HeaderName::as_str)
                .filter(|name| name.starts_with("x-amz-")),
        )
        .find(|name| !lists(name));
    if let Some(name) = unsigned {
        return Err(s3_error!(
            AccessDenied,
            "There were headers present in the request which were not signed: {name}. List it in \
             SignedHeaders."
        ));
    }
    // What is not text never enters the canonical request, so it would pass unsigned.
    let unreadable = headers.iter().find(|(name, value)| {
        name.as_str().starts_with("x-amz-") && std::str::from_utf8(value.as_bytes()).is_err()
    });
    match unreadable {
        None => Ok(()),
        Some((name, _)) => Err(s3_error!(
            InvalidArgument,
            "The value of {name} is not UTF-8"
        )),
    }
}

/// A body in aws-chunked framing that does not say so would be stored with its framing.
fn check_framing(headers: &HeaderMap) -> S3Result<()> {
    let coded = headers
        .get_all(CONTENT_ENCODING)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("aws-chunked"));
    // Where the body's own digest is signed, it is no framing that came by mistake.
    let digest = headers
        .get("x-amz-content-sha256")
        .map(http::HeaderValue::as_bytes);
    let vouched =
        digest.is_some_and(|digest| digest.len() == 64 && digest.iter().all(u8::is_ascii_hexdigit));
    if coded && framing(headers).is_none() && !vouched {
        return Err(s3_error!(
            InvalidRequest,
            "Content-Encoding says aws-chunked, but x-amz-content-sha256 names no STREAMING-… payload"
        ));
    }
    Ok(())
}

fn malformed_header(why: &str) -> S3Error {
    s3_error!(
        AuthorizationHeaderMalformed,
        "The authorization header is malformed: {why}"
    )
}

fn malformed_query(why: &str) -> S3Error {
    s3_error!(AuthorizationQueryParametersError, "{why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "AWS4-HMAC-SHA256 Credential=INF4/20260101/eu/s3/aws4_request, \
                        SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=ab";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut all: HeaderMap = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        all.insert("host", "localhost".parse().unwrap());
        all
    }

    fn verdict(uri: &str, pairs: &[(&'static str, &str)]) -> Result<(), String> {
        admit(&uri.parse().unwrap(), &headers(pairs))
            .map_err(|refused| refused.code().as_str().to_owned())
    }

    fn get(pairs: &[(&'static str, &str)]) -> Result<(), String> {
        verdict("/bucket/key", pairs)
    }

    fn presigned(changes: &[(&str, Option<&str>)]) -> Result<(), String> {
        let mut query = vec![
            ("X-Amz-Algorithm", SCHEME),
            ("X-Amz-Credential", "INF4/20260101/eu/s3/aws4_request"),
            ("X-Amz-Date", "20260101T000000Z"),
            ("X-Amz-Expires", "604800"),
            ("X-Amz-SignedHeaders", "host"),
            ("X-Amz-Signature", "ab"),
        ];
        for (name, value) in changes {
            query.retain(|(key, _)| key != name);
            query.extend(value.map(|value| (*name, value)));
        }
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(query)
            .finish();
        verdict(&format!("/bucket/key?{query}"), &[])
    }

    #[test]
    fn a_signed_request_passes_by_header_and_by_url() {
        let date = ("x-amz-date", "20260101T000000Z");
        get(&[
            ("authorization", GOOD),
            date,
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ])
        .unwrap();
        get(&[
            ("authorization", GOOD),
            date,
            ("range", "bytes=0-1"),
            ("amz-sdk-request", "1"),
        ])
        .unwrap();
        presigned(&[]).unwrap();
    }

    #[test]
    fn an_amz_header_that_is_not_signed_is_refused() {
        let date = ("x-amz-date", "20260101T000000Z");
        for extra in [
            "x-amz-acl",
            "x-amz-meta-a",
            "x-amz-copy-source",
            "x-amz-trailer",
        ] {
            let refused = get(&[("authorization", GOOD), date, (extra, "v")]);
            assert_eq!(refused.unwrap_err(), "AccessDenied", "{extra}");
        }
        let host_only = verdict(
            "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F1%2Feu%2Fs3%2Faws4_request\
             &X-Amz-Date=1&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=ab",
            &[("x-amz-meta-late", "v")],
        );
        assert_eq!(host_only.unwrap_err(), "AccessDenied");
    }

    #[test]
    fn an_unsigned_host_is_refused() {
        let without = GOOD.replace("host;", "");
        let pairs = [
            ("authorization", without.as_str()),
            ("x-amz-date", "20260101T000000Z"),
        ];
        assert_eq!(get(&pairs).unwrap_err(), "AccessDenied");
        assert_eq!(
            presigned(&[("X-Amz-SignedHeaders", Some("x-a"))]).unwrap_err(),
            "AccessDenied"
        );
    }

    #[test]
    fn an_amz_header_that_is_not_text_is_refused() {
        let mut all = headers(&[("authorization", GOOD), ("x-amz-date", "20260101T000000Z")]);
        all.append(
            "x-amz-content-sha256",
            http::HeaderValue::from_bytes(b"\xff").unwrap(),
        );
        let refused = admit(&"/b/k".parse().unwrap(), &all).unwrap_err();
        assert_eq!(refused.code().as_str(), "InvalidArgument");
    }

    #[test]
    fn there_is_no_other_way_in() {
        let date = ("x-amz-date", "20260101T000000Z");
        assert_eq!(
            get(&[("authorization", "AWS INF4:sig"), date]).unwrap_err(),
            "InvalidRequest"
        );
        assert_eq!(
            get(&[("authorization", "Bearer INF4:secret")]).unwrap_err(),
            "InvalidArgument"
        );
        let sts = GOOD.replace("/s3/", "/sts/");
        assert_eq!(
            get(&[("authorization", sts.as_str()), date]).unwrap_err(),
            "AuthorizationHeaderMalformed"
        );
        let old = verdict("/b/k?AWSAccessKeyId=A&Signature=s&Expires=1", &[]);
        assert_eq!(old.unwrap_err(), "InvalidRequest");
        // A version 4 header beside a version 2 query must not be checked as version 2.
        let both = verdict("/b/k?Signature=s", &[("authorization", GOOD), date]);
        assert_eq!(both.unwrap_err(), "InvalidRequest");
        let twice = verdict("/b/k?X-Amz-Signature=s", &[("authorization", GOOD), date]);
        assert_eq!(twice.unwrap_err(), "InvalidArgument");
        // A token that is not signed is nobody's.
        let token = [("authorization", GOOD), date, ("x-amz-security-token", "t")];
        assert_eq!(get(&token).unwrap_err(), "AccessDenied");
    }

    #[test]
    fn an_anonymous_request_goes_on_to_be_judged_but_not_with_a_framed_body() {
        assert_eq!(get(&[]), Ok(()));
        let framed = [("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")];
        assert_eq!(get(&framed).unwrap_err(), "InvalidRequest");
        assert_eq!(
            get(&[("content-encoding", "aws-chunked")]).unwrap_err(),
            "InvalidRequest"
        );
    }

    #[test]
    fn a_malformed_authorization_header_is_named_so() {
        for bad in [
            "AWS4-HMAC-SHA256 ",
            "AWS4-HMAC-SHA256 Credential=a",
            "AWS4-HMAC-SHA256 Credential=INF4/1/eu/s3/aws4_request, SignedHeaders=host, SignedHeaders=x, Signature=s",
            "AWS4-HMAC-SHA256 Credential=INF4, SignedHeaders=host, Signature=s",
            "AWS4-HMAC-SHA256 Credential=INF4/1/eu/s3/aws4_request, Headers=host, Signature=s",
        ] {
            let refused = get(&[("authorization", bad), ("x-amz-date", "20260101T000000Z")]);
            assert_eq!(
                refused.unwrap_err(),
                "AuthorizationHeaderMalformed",
                "{bad}"
            );
        }
        assert_eq!(
            get(&[("authorization", GOOD)]).unwrap_err(),
            "AccessDenied",
            "no x-amz-date"
        );
    }

    #[test]
    fn a_presigned_url_lives_a_week_at_most() {
        for expires in ["604801", "-1", "1e3", "", "99999999999"] {
            let refused = presigned(&[("X-Amz-Expires", Some(expires))]);
            assert_eq!(
                refused.unwrap_err(),
                "AuthorizationQueryParametersError",
                "{expires}"
            );
        }
        for missing in [
            "X-Amz-Expires",
            "X-Amz-Date",
            "X-Amz-SignedHeaders",
            "X-Amz-Credential",
        ] {
            let refused = presigned(&[(missing, None)]);
            assert_eq!(
                refused.unwrap_err(),
                "AuthorizationQueryParametersError",
                "{missing}"
            );
        }
    }

    #[test]
    fn framing_that_is_not_announced_is_refused() {
        let date = ("x-amz-date", "20260101T000000Z");
        let plain = ("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
        let coded = ("content-encoding", "gzip, AWS-chunked");
        assert_eq!(
            get(&[("authorization", GOOD), date, plain, coded]).unwrap_err(),
            "InvalidRequest"
        );
        let streaming = ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        get(&[("authorization", GOOD), date, streaming, coded]).unwrap();
        assert_eq!(framing(&headers(&[streaming])), Some(false));
        assert_eq!(
            framing(&headers(&[(
                "x-amz-content-sha256",
                "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
            )])),
            Some(true)
        );
        assert_eq!(framing(&headers(&[plain])), None);
    }
}
