//! Tokens: JSON Web Tokens as OpenID Connect issues them (OpenID Connect Core 1.0, 3.1.3.7).
//!
//! Pure: keys and the time are arguments. Signatures by public keys only; a token that says `none`, or
//! is signed with a shared secret, is refused whatever it claims.

use super::{Entitlement, Issuer};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Longest token that is read.
const BYTES_MAX: usize = 16 << 10;
/// Clocks may differ by this.
const LEEWAY_S: u64 = 60;
/// Entitlements and groups that are looked at.
const CLAIMS_MAX: usize = 200;
const TEXT_BYTES_MAX: usize = 1024;

/// Why a token shows nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token, or not one that can be read.
    #[error("the token cannot be read: {0}")]
    Malformed(&'static str),
    /// Somebody signed it who is not believed here.
    #[error("the issuer {0:?} is not on this provider's list")]
    Issuer(String),
    /// It was made for somebody else.
    #[error("the token is not meant for this provider: its audience is not {0}")]
    Audience(String),
    /// It is over.
    #[error("the token has expired: log in again")]
    Expired,
    /// It is not valid yet; perhaps a clock is wrong.
    #[error("the token is not valid yet: compare this machine's clock with the issuer's")]
    Early,
    /// No key of the issuer's has that name.
    #[error("the issuer publishes no key {0:?}")]
    Key(String),
    /// The key does not confirm it.
    #[error("the token's signature does not hold")]
    Signature,
    /// Signed in a way that is not taken.
    #[error("the token is signed by {0}: RS, PS, ES and EdDSA are taken")]
    Algorithm(String),
}

/// An identity that an issuer vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// By whom.
    pub issuer: Issuer,
    /// Who: unique at that issuer, for ever.
    pub subject: String,
    /// Which of our audiences it names.
    pub audience: String,
    /// Memberships, as [`Entitlement::named`] writes them.
    pub groups: Vec<String>,
    /// The entitlements as they came.
    pub entitlements: Vec<String>,
    /// When it ends, seconds since the Unix epoch.
    pub expires_s: u64,
    /// SHA-256 of what its signature is over, in hex.
    pub digest: String,
}

impl Vouched {
    /// Condition keys of a role's trust and of the session: `<issuer>:sub` and so on.
    pub fn context(&self) -> Vec<(String, String)> {
        let issuer = self.issuer.short();
        let one = |name: &str, value: &str| (format!("{issuer}:{name}"), value.to_owned());
        let mut context = vec![one("sub", &self.subject), one("aud", &self.audience)];
        context.extend(self.groups.iter().map(|group| one("groups", group)));
        context.extend(
            self.entitlements
                .iter()
                .map(|text| one("entitlements", text)),
        );
        context
    }
}

#[derive(Deserialize)]
struct Unverified {
    iss: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    #[serde(default)]
    nbf: Option<u64>,
    #[serde(default)]
    iat: Option<u64>,
    aud: Several,
    #[serde(default)]
    azp: Option<String>,
    #[serde(default)]
    eduperson_entitlement: Several,
    #[serde(default)]
    entitlements: Several,
    #[serde(default)]
    groups: Several,
}

/// A string or a list of them.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Several {
    One(String),
    Many(Vec<String>),
    #[default]
    None,
}

impl Several {
    fn iter(&self) -> impl Iterator<Item = &str> {
        let all: &[String] = match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
            Self::None => &[],
        };
        all.iter()
            .map(String::as_str)
            .filter(|text| text.len() <= TEXT_BYTES_MAX)
            .take(CLAIMS_MAX)
    }
}

/// Who claims to have issued a token. Nothing of it is true before [`verify`].
pub fn issuer_of(token: &str) -> Result<String, TokenError> {
    if token.len() > BYTES_MAX {
        return Err(TokenError::Malformed("it is too long"));
    }
    let mut lax = Validation::default();
    lax.insecure_disable_signature_validation();
    lax.required_spec_claims.clear();
    lax.validate_exp = false;
    lax.validate_aud = false;
    lax.algorithms = ALGORITHMS.to_vec();
    let header = header(token)?;
    lax.algorithms = vec![header.alg];
    let read = jsonwebtoken::decode::<Unverified>(token, &DecodingKey::from_secret(&[]), &lax);
    read.map(|read| read.claims.iss)
        .map_err(|_| TokenError::Malformed("its claims name no issuer"))
}

const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

fn header(token: &str) -> Result<jsonwebtoken::Header, TokenError> {
    let header = jsonwebtoken::decode_header(token)
        .map_err(|_| TokenError::Malformed("it is no signed JSON Web Token"))?;
    if ALGORITHMS.contains(&header.alg) {
        Ok(header)
    } else {
        Err(TokenError::Algorithm(format!("{:?}", header.alg)))
    }
}

/// Believes a token of `issuer` by `keys`, at `now_s` seconds since the Unix epoch.
pub fn verify(
    token: &str,
    issuer: &Issuer,
    keys: &JwkSet,
    now_s: u64,
) -> Result<Vouched, TokenError> {
    if token.len() > BYTES_MAX {
        return Err(TokenError::Malformed("it is too long"));
    }
    let header = header(token)?;
    let mut strict = Validation::new(header.alg);
    strict.set_issuer(&[&issuer.url]);
    strict.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    // Times and audience are judged below, by the time given.
    strict.validate_exp = false;
    strict.validate_aud = false;
    let claims = confirmed(token, &header, keys, &strict)?;
    if claims.exp.saturating_add(LEEWAY_S) < now_s {
        return Err(TokenError::Expired);
    }
    let begins = claims.nbf.into_iter().chain(claims.iat).max().unwrap_or(0);
    if begins > now_s.saturating_add(LEEWAY_S) {
        return Err(TokenError::Early);
    }
    let meant = |audience: &&str| issuer.audiences.iter().any(|ours| ours == audience);
    let audience = claims.aud.iter().find(meant).map(str::to_owned);
    // Made for several: then the one it was handed to must be us, too (3.1.3.7, 4 and 5).
    let handed_on =
        claims.aud.iter().count() > 1 && claims.azp.as_deref().is_some_and(|party| !meant(&party));
    let audience = audience
        .filter(|_| !handed_on)
        .ok_or_else(|| TokenError::Audience(issuer.audiences.join(" or ")))?;
    if claims.sub.is_empty() || claims.sub.len() > 255 || claims.sub.chars().any(char::is_control) {
        return Err(TokenError::Malformed("its subject is empty or too long"));
    }
    let entitlements: Vec<String> = claims
        .eduperson_entitlement
        .iter()
        .chain(claims.entitlements.iter())
        .map(str::to_owned)
        .collect();
    let mut groups: Vec<String> = entitlements
        .iter()
        .filter_map(|text| Entitlement::parse(text))
        .map(|found| found.named())
        .collect();
    groups.extend(claims.groups.iter().map(str::to_owned));
    groups.sort();
    groups.dedup();
    Ok(Vouched {
        issuer: issuer.clone(),
        subject: claims.sub,
        audience,
        groups,
        entitlements,
        expires_s: claims.exp,
        digest: digest(signed(token)),
    })
}

fn confirmed(
    token: &str,
    header: &jsonwebtoken::Header,
    keys: &JwkSet,
    strict: &Validation,
) -> Result<Claims, TokenError> {
    let candidates: Vec<&Jwk> = match &header.kid {
        Some(name) => keys.find(name).into_iter().collect(),
        // A set of one key may go without names.
        None => keys
            .keys
            .iter()
            .take(1)
            .filter(|_| keys.keys.len() == 1)
            .collect(),
    };
    let Some(key) = candidates.first() else {
        return Err(TokenError::Key(header.kid.clone().unwrap_or_default()));
    };
    if matches!(
        key.algorithm,
        jsonwebtoken::jwk::AlgorithmParameters::OctetKey(_)
    ) {
        return Err(TokenError::Algorithm("a shared secret".into()));
    }
    let key = DecodingKey::from_jwk(key).map_err(|_| TokenError::Signature)?;
    use jsonwebtoken::errors::ErrorKind;
    jsonwebtoken::decode::<Claims>(token, &key, strict)
        .map(|read| read.claims)
        .map_err(|error| match error.kind() {
            ErrorKind::InvalidIssuer => TokenError::Malformed("its issuer changed"),
            ErrorKind::Json(_) | ErrorKind::MissingRequiredClaim(_) => {
                TokenError::Malformed("a claim is missing or has another form")
            }
            _ => TokenError::Signature,
        })
}

/// What the signature is over. The signature itself says nothing: one of ECDSA can be written in two
/// ways, and a token must not count as two by that.
fn signed(token: &str) -> &str {
    token.rsplit_once('.').map_or(token, |(signed, _)| signed)
}

fn digest(token: &str) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(token.as_bytes()) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_spelling_of_the_signature_makes_no_other_token() {
        let of = |token| digest(signed(token));
        assert_eq!(of("head.claims.r-s"), of("head.claims.r-n-minus-s"));
        assert_ne!(of("head.claims.r-s"), of("head.other.r-s"));
    }
}
