//! Signature Version 4 in the Authorization header, for services other than S3 ("Create a signed AWS API
//! request", IAM user guide).
//!
//! 1. `host`, the date and every `x-amz-*` header that is present are signed.
//! 2. A signature is good for a quarter of an hour around its date.
//! 3. Signatures are compared in constant time.

use super::Refused;
use access::{Access, Principal, Unknown};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use subtle::ConstantTimeEq;

const SCHEME: &str = "AWS4-HMAC-SHA256";
const SKEW_S: i64 = 15 * 60;

/// Whether the request shows an identity at all.
pub(super) fn shown(parts: &Parts) -> bool {
    parts.headers.contains_key(header::AUTHORIZATION)
}

/// Whose key signed the request.
pub(super) fn verify(access: &Access, parts: &Parts, body: &[u8]) -> Result<Principal, Refused> {
    let mut all = parts.headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return Err(incomplete("there must be one Authorization header"));
    };
    let value = value
        .to_str()
        .map_err(|_| incomplete("the Authorization header is no text"))?;
    let fields = value
        .strip_prefix(SCHEME)
        .filter(|rest| rest.starts_with(' '))
        .ok_or_else(|| incomplete("only AWS4-HMAC-SHA256 is taken"))?;
    let [mut credential, mut signed, mut signature] = [None; 3];
    for field in fields.split(',') {
        let slot = match field.trim().split_once('=') {
            Some(("Credential", value)) => (&mut credential, value),
            Some(("SignedHeaders", value)) => (&mut signed, value),
            Some(("Signature", value)) => (&mut signature, value),
            _ => return Err(incomplete("the Authorization header has an unknown field")),
        };
        if slot.0.replace(slot.1).is_some() {
            return Err(incomplete("the Authorization header names a field twice"));
        }
    }
    let (Some(credential), Some(signed), Some(signature)) = (credential, signed, signature) else {
        return Err(incomplete(
            "Credential, SignedHeaders and Signature must be there",
        ));
    };
    let scope: Vec<&str> = credential.splitn(5, '/').collect();
    let [key, day, region, service @ ("iam" | "sts"), "aws4_request"] = scope[..] else {
        return Err(incomplete(
            "Credential must be <access key>/<date>/<region>/<iam or sts>/aws4_request",
        ));
    };
    let date = header_text(parts, "x-amz-date")?;
    check_date(date, day)?;
    check_signed(parts, signed)?;
    let token = match parts.headers.get("x-amz-security-token") {
        None => None,
        Some(_) => Some(header_text(parts, "x-amz-security-token")?),
    };
    let known = access.key(key, token).map_err(unknown)?;
    let canonical = canonical(parts, signed, body)?;
    let to_sign = format!(
        "{SCHEME}\n{date}\n{day}/{region}/{service}/aws4_request\n{}",
        hex(&Sha256::digest(canonical.as_bytes()))
    );
    let mut secret = mac(format!("AWS4{}", known.secret).as_bytes(), day.as_bytes());
    for part in [region, service, "aws4_request"] {
        secret = mac(&secret, part.as_bytes());
    }
    let expected = hex(&mac(&secret, to_sign.as_bytes()));
    if bool::from(expected.as_bytes().ct_eq(signature.as_bytes())) {
        return Ok(known.principal);
    }
    Err(Refused::new(
        StatusCode::FORBIDDEN,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. Check your \
         secret access key.",
    ))
}

fn check_date(date: &str, day: &str) -> Result<(), Refused> {
    let stamp = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date)
        .ok()
        .and_then(|stamp| stamp.to_zoned(jiff::tz::TimeZone::UTC).ok())
        .filter(|_| date.starts_with(day));
    let Some(stamp) = stamp else {
        return Err(incomplete(
            "x-amz-date is not of the form 20261122T131500Z, or not of that day",
        ));
    };
    let away = jiff::Timestamp::now().as_second() - stamp.timestamp().as_second();
    if away.abs() <= SKEW_S {
        return Ok(());
    }
    Err(Refused::new(
        StatusCode::FORBIDDEN,
        "SignatureDoesNotMatch",
        format!(
            "Signature expired or not yet current: it is {away} s away from the server's clock; {SKEW_S} are taken"
        ),
    ))
}

fn check_signed(parts: &Parts, signed: &str) -> Result<(), Refused> {
    let lists = |name: &str| signed.split(';').any(|listed| listed == name);
    let present = parts.headers.keys().map(header::HeaderName::as_str);
    let needed = present.filter(|name| name.starts_with("x-amz-"));
    match std::iter::once("host")
        .chain(needed)
        .find(|name| !lists(name))
    {
        None => Ok(()),
        Some(name) => Err(incomplete(&format!("the header {name} is not signed"))),
    }
}

fn canonical(parts: &Parts, signed: &str, body: &[u8]) -> Result<String, Refused> {
    let mut text = format!("{}\n/\n", parts.method);
    let query = parts.uri.query().unwrap_or_default();
    if !query.is_empty() {
        return Err(incomplete(
            "parameters belong into the form, not into the URL",
        ));
    }
    text.push('\n');
    for name in signed.split(';') {
        let values: Vec<String> = parts
            .headers
            .get_all(name)
            .iter()
            .map(|value| {
                let value = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
                value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
            })
            .collect();
        // HTTP/2 has no host header; here it is always there (RFC 9112, 3.2).
        let _ = writeln!(text, "{name}:{}", values.join(","));
    }
    // The payload itself is hashed, whatever a header claims it to be.
    let _ = write!(text, "\n{signed}\n{}", hex(&Sha256::digest(body)));
    Ok(text)
}

fn header_text<'a>(parts: &'a Parts, name: &str) -> Result<&'a str, Refused> {
    let value = parts
        .headers
        .get(name)
        .and_then(|value| value.to_str().ok());
    value.ok_or_else(|| incomplete(&format!("the header {name} is missing or no text")))
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return Vec::new();
    };
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    ::hex::encode(bytes)
}

fn incomplete(why: &str) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, "IncompleteSignature", why)
}

fn unknown(why: Unknown) -> Refused {
    let code = match why {
        Unknown::Key | Unknown::Inactive | Unknown::Token => "InvalidClientTokenId",
        Unknown::Expired => "ExpiredToken",
    };
    Refused::new(StatusCode::FORBIDDEN, code, why.to_string())
}
