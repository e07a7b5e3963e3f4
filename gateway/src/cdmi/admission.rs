//! Who asks.
//!
//! `Authorization: Basic` with the access key for the name and the secret key for the password, or
//! `Authorization: Bearer <access key>:<secret key>`, as at the JSON API. Without either, somebody
//! unknown asks, who may do what policies allow to everybody.

use super::failure::{Failure, Reply};
use access::{Access, Caller, Origin, Principal};
use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Bytes of the header at most.
const SHOWN_BYTES_MAX: usize = 16 << 10;

/// The one who asks. 401 for credentials that show nobody.
pub(super) fn caller(
    access: &Access,
    headers: &HeaderMap,
    origin: Option<Origin>,
    request: String,
) -> Reply<Caller> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let principal = match (shown.next(), shown.next()) {
        (None, _) => Principal::Anonymous,
        (Some(_), Some(_)) => {
            return Err(Failure::unauthenticated(
                "more than one Authorization: send one",
            ));
        }
        (Some(shown), None) => {
            let token = token(shown.as_bytes()).ok_or_else(|| {
                Failure::unauthenticated(
                    "the Authorization is neither Basic nor Bearer <access key>:<secret key>; \
                     infall env prints both keys",
                )
            })?;
            access
                .bearer(&token)
                .map_err(|unknown| Failure::unauthenticated(&unknown.to_string()))?
        }
    };
    Ok(Caller {
        principal,
        origin: origin.unwrap_or_default(),
        request,
    })
}

/// What is shown behind the scheme, as `<access key>:<secret key>` or another token.
fn token(shown: &[u8]) -> Option<String> {
    if shown.len() > SHOWN_BYTES_MAX {
        return None;
    }
    let (scheme, rest) = std::str::from_utf8(shown).ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        return String::from_utf8(BASE64.decode(rest).ok()?).ok();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_schemes_show_the_same() {
        let basic = format!("Basic {}", BASE64.encode("INF4ABC:secret"));
        for shown in ["Bearer INF4ABC:secret", "bearer  INF4ABC:secret ", &basic] {
            assert_eq!(token(shown.as_bytes()).as_deref(), Some("INF4ABC:secret"));
        }
        for bad in ["", "Basic", "Basic !!!", "Digest x", "Bearer", "Basic /w=="] {
            assert_eq!(token(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(token(&[b'x'; 20_000]), None);
    }
}
