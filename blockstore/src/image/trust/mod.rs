//! Which images may be used: deprecation, expiry, signatures, and the site's rules on them.
//!
//! ```text
//! statement ──ssh-keygen -Y sign──▶ endorsement (kept in the image's row)
//!                                        │
//! image's row, signers' file, now ──▶ Rules::judge ──▶ admitted, or refused by a named rule
//! ```
//! 1. A signature is over an image's id, which is its content's digest: names move, what was signed
//!    does not.
//! 2. Anybody's signature is kept; whose counts is the site's to say, each time anew: a signer who was
//!    taken out of the file no longer counts, whatever was said before.
//! 3. What makes something of an image asks [`crate::Store::volume_create`], and that asks here. Reading
//!    an image is not using it.

mod pattern;
mod rules;
mod signature;
mod signers;
mod standing;
pub mod statement;
mod verbs;

pub use rules::{DeprecatedRule, Rules, SignedRule};
pub use standing::{Refusal, SignatureStanding, Standing};

use serde::{Deserialize, Serialize};

/// The namespace of signatures over images (PROTOCOL.sshsig), and the first line of what is signed.
pub const NAMESPACE: &str = "infall-image@v1";
/// Endorsements of one image.
pub const ENDORSEMENTS_MAX: usize = 16;

/// That an image should no longer be used, and what to use instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deprecation {
    /// Since when, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Why, for people.
    pub why: String,
    /// The image to use instead, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<String>,
}

/// A signature over an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endorsement {
    /// The signing key, `SHA256:…` as `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// What was signed, to the byte.
    pub statement: String,
    /// The signature as `ssh-keygen -Y sign` writes it.
    pub signature: String,
    /// When it was handed in, milliseconds since the Unix epoch.
    pub added_ms: u64,
    /// Who handed it in; that is not who signed.
    pub added_by: String,
}

/// Whether the last of `now_ms` lies at or behind `at_ms`.
fn is_over(at_ms: u64, now_ms: u64) -> bool {
    at_ms <= now_ms
}

/// `2027-01-01T00:00:00Z` of milliseconds since the Unix epoch.
fn shown(milliseconds: u64) -> String {
    let time = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(time).map_or_else(|_| "?".into(), |time| time.to_string())
}
