//! How an image stands at this moment, as listings show it.

use serde::{Deserialize, Serialize};

/// How an image stands by the site's rules now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The rule by which new uses are refused, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// Whether a signature counts.
    pub signed: bool,
    /// Whether the site requires one.
    pub signature_required: bool,
    /// Its signatures, each with what it is worth; in the order of its endorsements.
    pub signatures: Vec<SignatureStanding>,
}

/// Why an image may not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// `images.signed`
    pub rule: String,
    /// What is wrong, and what to do next.
    pub why: String,
}

/// What a signature is worth here and now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureStanding {
    /// The signing key, `SHA256:…`.
    pub fingerprint: String,
    /// Whose it is, as the signers' file says; absent where it does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// When the signer lets it end, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Why it does not count.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Refusal {
    pub(super) fn new(rule: &str, why: String) -> Self {
        Self {
            rule: rule.into(),
            why,
        }
    }
}
