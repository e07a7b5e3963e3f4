//! The cluster's seal: the key under which the CA's private key lies in the catalog.
//!
//! Each member holds it in its own `peer/identity.json` (0600), and gets it when it joins. It is in
//! no row, no snapshot of the catalog and no backup of it, so whoever finds one of those cannot sign
//! certificates. ChaCha20-Poly1305 (RFC 8439), a random nonce first, bound to the cluster's id.

use super::ClusterId;
use crate::{Error, Kind, Result, Subject};
use rand::RngCore;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use std::fmt;

const KEY_BYTES: usize = 32;

/// The key. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Seal([u8; KEY_BYTES]);

impl Seal {
    /// A new one, when a cluster is founded.
    pub(crate) fn random() -> Self {
        let mut key = [0; KEY_BYTES];
        rand::rng().fill_bytes(&mut key);
        Self(key)
    }

    /// What only holders of the seal can open again.
    pub(super) fn close(&self, cluster: ClusterId, clear: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::rng().fill_bytes(&mut nonce);
        let mut bytes = clear.to_vec();
        self.key()?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(cluster.bytes()),
                &mut bytes,
            )
            .map_err(|_| broken("the CA's key cannot be sealed"))?;
        bytes.splice(0..0, nonce);
        Ok(bytes)
    }

    /// What was closed with this seal for this cluster.
    pub(super) fn open(&self, cluster: ClusterId, closed: &[u8]) -> Result<Vec<u8>> {
        let wrong = || {
            let text = format!(
                "the CA's key in the catalog does not open with this node's seal for the cluster {cluster}: \
                 peer/identity.json is of another cluster or damaged; let the node join again"
            );
            Error::new(Kind::Corrupt, Subject::Store, text)
        };
        let (nonce, sealed) = closed.split_at_checked(NONCE_LEN).ok_or_else(wrong)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
        let mut bytes = sealed.to_vec();
        let clear = self
            .key()?
            .open_in_place(nonce, Aad::from(cluster.bytes()), &mut bytes)
            .map_err(|_| wrong())?;
        Ok(clear.to_vec())
    }

    fn key(&self) -> Result<LessSafeKey> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.0)
            .map_err(|_| broken("the cluster's seal is no key"))?;
        Ok(LessSafeKey::new(key))
    }
}

fn broken(text: &str) -> Error {
    Error::new(Kind::Internal, Subject::Store, text)
}

impl fmt::Debug for Seal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Seal(…)")
    }
}

impl From<Seal> for String {
    fn from(seal: Seal) -> Self {
        hex::encode(seal.0)
    }
}

impl TryFrom<String> for Seal {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let mut key = [0; KEY_BYTES];
        hex::decode_to_slice(text, &mut key)
            .map_err(|_| format!("a seal is {} hex digits", 2 * KEY_BYTES))?;
        Ok(Self(key))
    }
}

#[cfg(test)]
mod tests {
    use super::Seal;
    use crate::Kind;
    use crate::peer::ClusterId;

    #[test]
    fn what_is_sealed_opens_with_the_same_seal_for_the_same_cluster_only() {
        let (seal, cluster) = (Seal::random(), ClusterId::random());
        let closed = seal.close(cluster, b"secret").unwrap();
        assert_eq!(seal.open(cluster, &closed).unwrap(), b"secret");
        assert!(!closed.windows(6).any(|window| window == b"secret"));
        let mut changed = closed.clone();
        *changed.last_mut().unwrap() ^= 1;
        for wrong in [
            Seal::random().open(cluster, &closed),
            seal.open(ClusterId::random(), &closed),
            seal.open(cluster, &changed),
            seal.open(cluster, b"short"),
        ] {
            assert_eq!(wrong.unwrap_err().kind(), Kind::Corrupt);
        }
    }
}
