//! Who asks, by what they show: `Basic` (access key and secret key) or `Bearer <access key>:<secret key>`.

use super::refusal::Refusal;
use access::{Access, Principal};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// The principal, or what to answer.
pub(super) fn identify(access: &Access, headers: &HeaderMap) -> Result<Principal, Refusal> {
    let refused = |words: String| Refusal::new(StatusCode::UNAUTHORIZED, words);
    let shown = headers.get(header::AUTHORIZATION).ok_or_else(|| {
        refused(
            "no key was shown: use the access key as user name and the secret key as password; \
             infall env prints both"
                .into(),
        )
    })?;
    let (scheme, rest) = shown
        .to_str()
        .ok()
        .and_then(|shown| shown.split_once(' '))
        .ok_or_else(|| refused("the Authorization header is malformed".into()))?;
    let token = if scheme.eq_ignore_ascii_case("basic") {
        let pair = BASE64
            .decode(rest.trim())
            .ok()
            .and_then(|pair| String::from_utf8(pair).ok());
        pair.ok_or_else(|| refused("the Basic credentials are not base64 of user:password".into()))?
    } else if scheme.eq_ignore_ascii_case("bearer") {
        rest.trim().to_owned()
    } else {
        // The scheme alone: what stands behind it may be a secret.
        return Err(refused(
            "only Basic and Bearer are understood at this door".into(),
        ));
    };
    access
        .bearer(&token)
        .map_err(|unknown| refused(unknown.to_string()))
}

/// Says how to identify oneself (RFC 7235, 4.1).
pub(super) fn challenge(response: &mut Response) {
    for way in [
        "Basic realm=\"infall\", charset=\"UTF-8\"",
        "Bearer realm=\"infall\"",
    ] {
        response
            .headers_mut()
            .append(header::WWW_AUTHENTICATE, HeaderValue::from_static(way));
    }
}
