//! Join tokens: how a new node knows the cluster, and the cluster the new node's operator.
//!
//! ```text
//! infall1.<base64url of: version u8 · cluster [16] · CA fingerprint [32] · id [8] · secret [16]
//!                        expires, seconds u64 · addresses u8, each: length u8, bytes · CRC-32 u32>
//! ```
//!
//! 1. The joiner believes only a server whose CA has the token's fingerprint; the cluster believes
//!    only a joiner who knows the secret. Of the secret the catalog holds only a digest.
//! 2. A token counts a bounded number of joins, until it expires. A joiner who lost the answer may
//!    ask again with the same disk and key, and is the same node.

use super::hello::{Incarnation, Refusal, RefusalCode};
use super::trust::Fingerprint;
use super::{Authority, ClusterId};
use crate::{Error, Kind, NodeId, Result, Subject};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use subtle::ConstantTimeEq;

const PREFIX: &str = "infall1.";
const VERSION: u8 = 1;
const ROW_VERSION: u32 = 1;
/// Longest text looked at.
const TEXT_BYTES_MAX: usize = 4096;
/// Addresses in a token.
const ADDRESSES_MAX: usize = 16;
/// The longest that a token may be good for.
const LASTS_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Joins that one token may count.
const USES_MAX: u32 = 1000;

/// A token, as its holder has it. `Display` prints the secret; `Debug` does not.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(super) cluster: ClusterId,
    pub(super) authority: Fingerprint,
    pub(super) id: [u8; 8],
    pub(super) secret: [u8; 16],
    /// Seconds since the Unix epoch.
    pub(super) expires_s: u64,
    /// Where members listen, `host:port`.
    pub(super) addresses: Vec<String>,
}

/// What the catalog keeps of it; the key is [`TokenRow::id`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenRow {
    v: u32,
    /// Names the token in lists; no secret.
    pub(crate) id: String,
    secret_sha256: String,
    /// When it was made.
    pub(crate) made_ms: u64,
    /// When it ends.
    pub(crate) expires_ms: u64,
    /// Joins that it counts.
    pub(crate) uses_max: u32,
    /// Who joined with it.
    pub(crate) joined: Vec<Use>,
}

/// One join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Use {
    /// As this node.
    pub(crate) node: NodeId,
    /// When.
    pub(crate) at_ms: u64,
    incarnation: Incarnation,
    key_sha256: String,
}

/// What a joiner shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(super) cluster: ClusterId,
    /// The token's id: where its row is.
    pub(crate) id: String,
    secret: String,
    pub(super) incarnation: Incarnation,
    /// Of the public key that is to be signed.
    #[serde(skip)]
    pub(super) key_sha256: String,
}

/// What a good token lets its holder be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// A new node: choose its id, then put [`New::by`]'s row in the same transaction.
    New(New),
    /// The node that it became before; nothing is to be changed.
    Again(NodeId),
}

/// A token's row that waits for the id of the new node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct New {
    row: TokenRow,
    at_ms: u64,
    incarnation: Incarnation,
    key_sha256: String,
}

impl New {
    /// The row after this node has joined.
    pub(crate) fn by(self, node: NodeId) -> TokenRow {
        let mut row = self.row;
        row.joined.push(Use {
            node,
            at_ms: self.at_ms,
            incarnation: self.incarnation,
            key_sha256: self.key_sha256,
        });
        row
    }
}

impl Token {
    /// A new token and the row to be kept. Invalid: no address, a lifetime beyond 30 days, more than
    /// 1000 uses.
    pub(crate) fn make(
        authority: &Authority,
        addresses: Vec<String>,
        lasts: Duration,
        uses_max: u32,
        now_ms: u64,
    ) -> Result<(Self, TokenRow)> {
        let invalid = |text: String| Err(Error::new(Kind::Invalid, Subject::Store, text));
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            return invalid(format!(
                "a join token carries 1 to {ADDRESSES_MAX} addresses, {} were given",
                addresses.len()
            ));
        }
        if let Some(wrong) = addresses.iter().find(|address| !is_address(address)) {
            return invalid(format!("{wrong:?} is no address: write host:port"));
        }
        if lasts.as_secs() == 0 || lasts > LASTS_MAX {
            return invalid(format!(
                "a join token lasts from a second to 30 days, not {} s",
                lasts.as_secs()
            ));
        }
        if uses_max == 0 || uses_max > USES_MAX {
            return invalid(format!(
                "a join token counts 1 to {USES_MAX} joins, not {uses_max}"
            ));
        }
        let (mut id, mut secret) = ([0; 8], [0; 16]);
        rand::rng().fill_bytes(&mut id);
        rand::rng().fill_bytes(&mut secret);
        let expires_s = (now_ms / 1000).saturating_add(lasts.as_secs());
        let token = Self {
            cluster: authority.cluster(),
            authority: authority.signing()?,
            id,
            secret,
            expires_s,
            addresses,
        };
        let row = TokenRow {
            v: ROW_VERSION,
            id: hex::encode(id),
            secret_sha256: hex::encode(Sha256::digest(secret)),
            made_ms: now_ms,
            expires_ms: expires_s.saturating_mul(1000),
            uses_max,
            joined: Vec::new(),
        };
        Ok((token, row))
    }

    /// What is shown to the cluster.
    pub(super) fn shown(&self, incarnation: Incarnation) -> Shown {
        Shown {
            cluster: self.cluster,
            id: hex::encode(self.id),
            secret: hex::encode(self.secret),
            incarnation,
            key_sha256: String::new(),
        }
    }

    /// Where to ask.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(self.cluster.bytes());
        bytes.extend_from_slice(&self.authority.0);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.expires_s.to_be_bytes());
        bytes.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        for address in &self.addresses {
            bytes.push(u8::try_from(address.len()).unwrap_or(u8::MAX));
            bytes.extend_from_slice(address.as_bytes());
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

impl fmt::Display for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.bytes()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Token({} of {})", hex::encode(self.id), self.cluster)
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Shown({} of {})", self.id, self.cluster)
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let text =
                format!("this is no join token: {why}; copy it whole from `infall cluster add`");
            Error::new(Kind::Invalid, Subject::Store, text)
        };
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(wrong("it is too long"));
        }
        let coded = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| wrong("it does not begin with infall1."))?;
        let bytes = URL_SAFE_NO_PAD
            .decode(coded)
            .map_err(|_| wrong("a character is wrong or missing"))?;
        let (bytes, checksum): (&[u8], _) = bytes
            .split_last_chunk::<4>()
            .ok_or_else(|| wrong("it was cut off"))?;
        // Before anything else: a slip of the finger is told as such.
        if crc32fast::hash(bytes) != u32::from_be_bytes(*checksum) {
            return Err(wrong("a character is wrong or missing"));
        }
        parse(bytes).ok_or_else(|| wrong("a later release made it"))
    }
}

fn parse(bytes: &[u8]) -> Option<Token> {
    let (&version, rest) = bytes.split_first()?;
    if version != VERSION {
        return None;
    }
    let (cluster, rest) = rest.split_first_chunk::<16>()?;
    let (authority, rest) = rest.split_first_chunk::<32>()?;
    let (id, rest) = rest.split_first_chunk::<8>()?;
    let (secret, rest) = rest.split_first_chunk::<16>()?;
    let (expires, rest) = rest.split_first_chunk::<8>()?;
    let (&count, mut rest) = rest.split_first()?;
    let mut addresses = Vec::new();
    for _ in 0..count {
        let (&length, after) = rest.split_first()?;
        let (address, after) = after.split_at_checked(usize::from(length))?;
        let address = std::str::from_utf8(address).ok()?.to_owned();
        addresses.push(Some(address).filter(|address| is_address(address))?);
        rest = after;
    }
    let fits = rest.is_empty() && (1..=ADDRESSES_MAX).contains(&addresses.len());
    fits.then_some(Token {
        cluster: ClusterId::of(*cluster),
        authority: Fingerprint(*authority),
        id: *id,
        secret: *secret,
        expires_s: u64::from_be_bytes(*expires),
        addresses,
    })
}

/// `host:port`, short enough for a token, without what could confuse a terminal.
pub(super) fn is_address(text: &str) -> bool {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    text.len() <= usize::from(u8::MAX)
        && port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port != 0))
        && text.chars().all(|character| character.is_ascii_graphic())
}

impl TokenRow {
    /// Reads a row.
    pub(crate) fn decode(row: &[u8]) -> Result<Self> {
        let found: Self = serde_json::from_slice(row).map_err(|cause| {
            Error::new(
                Kind::Corrupt,
                Subject::Store,
                "a join token's row is malformed",
            )
            .because(cause)
        })?;
        if found.v == ROW_VERSION {
            return Ok(found);
        }
        let text = format!(
            "a join token's row has version {}, this release reads {ROW_VERSION}: run the release that wrote it",
            found.v
        );
        Err(Error::new(Kind::Unsupported, Subject::Store, text))
    }

    /// The row's bytes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|cause| {
            let text = "a join token's row cannot be written as JSON";
            Error::new(Kind::Internal, Subject::Store, text).because(cause)
        })
    }

    /// Whether what was shown is good for a join now. `row` is what the catalog holds under
    /// [`Shown::id`]. To be called in the transaction that makes the member.
    pub(crate) fn spend(
        row: Option<Self>,
        cluster: ClusterId,
        shown: &Shown,
        now_ms: u64,
    ) -> Result<Spent, Refusal> {
        let refuse = |code, reason: String| Err(Refusal::new(code, reason));
        let make_new = "make a new one: infall cluster add";
        if shown.cluster != cluster {
            return refuse(
                RefusalCode::ForeignCluster,
                format!(
                    "the token is of the cluster {}, this is {cluster}: check the address",
                    shown.cluster
                ),
            );
        }
        // An unknown id takes as long as a wrong secret and is told in the same words.
        let digest = hex::encode(Sha256::digest(
            hex::decode(&shown.secret).unwrap_or_default(),
        ));
        let kept = row.as_ref().map_or("", |row| row.secret_sha256.as_str());
        let known = bool::from(digest.as_bytes().ct_eq(kept.as_bytes()));
        let Some(row) = row.filter(|row| known && row.id == shown.id) else {
            return refuse(
                RefusalCode::TokenUnknown,
                format!("the token is unknown here, or its secret is wrong; {make_new}"),
            );
        };
        let again = row.joined.iter().find(|used| {
            used.incarnation == shown.incarnation
                && used.key_sha256 == shown.key_sha256
                && !shown.key_sha256.is_empty()
        });
        if let Some(again) = again {
            return Ok(Spent::Again(again.node));
        }
        if now_ms >= row.expires_ms {
            return refuse(
                RefusalCode::TokenExpired,
                format!(
                    "the token {} expired {} s ago; {make_new}",
                    row.id,
                    (now_ms - row.expires_ms) / 1000
                ),
            );
        }
        if row.joined.len() >= usize::try_from(row.uses_max).unwrap_or(usize::MAX) {
            return refuse(
                RefusalCode::TokenSpent,
                format!(
                    "the token {} is spent: {} of {} joins are made; {make_new}",
                    row.id,
                    row.joined.len(),
                    row.uses_max
                ),
            );
        }
        Ok(Spent::New(New {
            row,
            at_ms: now_ms,
            incarnation: shown.incarnation,
            key_sha256: shown.key_sha256.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{Shown, Spent, Token, TokenRow};
    use crate::peer::{Authority, ClusterId, Incarnation, RefusalCode, Seal};
    use crate::{Kind, NodeId};
    use proptest::prelude::*;
    use std::time::Duration;

    const NOW: u64 = 1_800_000_000_000;
    const HOUR: Duration = Duration::from_secs(3600);

    fn made(uses: u32) -> (Authority, Token, TokenRow) {
        let authority = Authority::found(ClusterId::random(), &Seal::random(), NOW).unwrap();
        let addresses = vec!["10.0.0.1:7300".to_owned(), "[fe80::1]:7300".to_owned()];
        let (token, row) = Token::make(&authority, addresses, HOUR, uses, NOW).unwrap();
        (authority, token, row)
    }

    fn shown(token: &Token, disk: u64) -> Shown {
        Shown {
            key_sha256: format!("key of {disk}"),
            ..token.shown(Incarnation(disk))
        }
    }

    fn code(row: Option<&TokenRow>, authority: &Authority, shown: &Shown, now: u64) -> RefusalCode {
        TokenRow::spend(row.cloned(), authority.cluster(), shown, now)
            .unwrap_err()
            .code
    }

    #[test]
    fn a_token_is_good_for_its_joins_and_no_more() {
        let (authority, token, mut row) = made(2);
        for node in [4, 5] {
            let shown = shown(&token, node);
            let spent = TokenRow::spend(Some(row), authority.cluster(), &shown, NOW).unwrap();
            let Spent::New(new) = spent else {
                panic!("it is new");
            };
            row = TokenRow::decode(&new.by(NodeId(node)).encode().unwrap()).unwrap();
        }
        let third = shown(&token, 6);
        let refused = code(Some(&row), &authority, &third, NOW);
        assert_eq!(refused, RefusalCode::TokenSpent);
        // The second one lost the answer and asks again, even after the token's end.
        let late = NOW + 2 * 3_600_000;
        let again = TokenRow::spend(
            Some(row.clone()),
            authority.cluster(),
            &shown(&token, 5),
            late,
        );
        assert_eq!(again.unwrap(), Spent::Again(NodeId(5)));
        // The same disk with another key is not the same joiner.
        let other = Shown {
            key_sha256: "another".to_owned(),
            ..shown(&token, 5)
        };
        let refused = code(Some(&row), &authority, &other, NOW);
        assert_eq!(refused, RefusalCode::TokenSpent);
    }

    #[test]
    fn expired_unknown_and_foreign_tokens_are_refused_each_in_its_words() {
        let (authority, token, row) = made(1);
        let good = shown(&token, 1);
        let late = NOW + 3_600_000;
        assert_eq!(
            code(Some(&row), &authority, &good, late),
            RefusalCode::TokenExpired
        );
        assert_eq!(
            code(None, &authority, &good, NOW),
            RefusalCode::TokenUnknown
        );
        let guessed = Shown {
            secret: "00".repeat(16),
            ..good.clone()
        };
        assert_eq!(
            code(Some(&row), &authority, &guessed, NOW),
            RefusalCode::TokenUnknown
        );
        let (foreign, _, _) = made(1);
        assert_eq!(
            code(Some(&row), &foreign, &good, NOW),
            RefusalCode::ForeignCluster
        );
    }

    #[test]
    fn a_token_reads_as_it_was_printed_and_a_slip_is_told() {
        let (_, token, row) = made(1);
        let text = token.to_string();
        assert_eq!(format!(" {text}\n").parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&hex::encode(token.secret)));
        assert!(!row.secret_sha256.contains(&hex::encode(token.secret)));
        let at = text.len() / 2;
        for other in ["A", "b"] {
            let mut slipped = text.clone();
            slipped.replace_range(at..=at, other);
            if slipped != text {
                let error = slipped.parse::<Token>().unwrap_err();
                assert_eq!(error.kind(), Kind::Invalid);
            }
        }
        assert!(text[..at].parse::<Token>().is_err());
    }

    #[test]
    fn what_makes_no_token_is_refused() {
        let authority = Authority::found(ClusterId::random(), &Seal::random(), NOW).unwrap();
        let make = |address: &str, lasts, uses| {
            Token::make(&authority, vec![address.to_owned()], lasts, uses, NOW)
        };
        assert!(make("a:1", HOUR, 1).is_ok());
        for (address, lasts, uses) in [
            ("a", HOUR, 1),
            (":7300", HOUR, 1),
            ("a:0", HOUR, 1),
            ("a b:1", HOUR, 1),
            ("a:1", Duration::ZERO, 1),
            ("a:1", HOUR * 24 * 31, 1),
            ("a:1", HOUR, 0),
        ] {
            assert!(
                make(address, lasts, uses).is_err(),
                "{address} {lasts:?} {uses}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = text.parse::<Token>();
            let _ = format!("infall1.{text}").parse::<Token>();
            let _ = super::parse(&bytes);
        }
    }
}
