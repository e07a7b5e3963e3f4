//! Signatures as `ssh-keygen -Y sign` makes them (OpenSSH, PROTOCOL.sshsig), in our namespace.
//!
//! 1. A signature is checked with the key that it carries; whether that key is anybody's is the signers'
//!    file to say.
//! 2. Ed25519 (also of a security key), ECDSA on P-256 and P-384, RSA from 2048 bits with SHA-2.
//!    Anything else, certificates too, is refused by name.

use super::NAMESPACE;
use crate::{Error, Kind, Result, Subject};
use ring::signature as ring_signature;
use ssh_key::public::{EcdsaPublicKey, KeyData, RsaPublicKey};
use ssh_key::{Algorithm, HashAlg, Mpint, PublicKey, SshSig};

/// A signature by RSA with 8192 bits, armored, has less than 4 KiB.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// A signature that holds, and by which key.
#[derive(Clone, Debug)]
pub(super) struct Signed {
    /// The key.
    pub(super) key: KeyData,
    /// `SHA256:…`
    pub(super) fingerprint: String,
}

/// Checks an armored signature over `message`. Invalid, saying what is wrong, unless it holds.
pub(super) fn verify(armored: &str, message: &[u8]) -> Result<Signed> {
    if armored.len() > TEXT_BYTES_MAX {
        return Err(invalid(format!(
            "the signature has {} bytes; one that ssh-keygen -Y sign made has less than {TEXT_BYTES_MAX}",
            armored.len()
        )));
    }
    let signature = SshSig::from_pem(armored.trim_end().as_bytes()).map_err(|cause| {
        invalid("this is no signature: give the file that ssh-keygen -Y sign wrote (-----BEGIN SSH SIGNATURE-----)")
            .because(cause.to_string())
    })?;
    if signature.namespace() != NAMESPACE {
        return Err(invalid(format!(
            "the signature is for the namespace {:?}, not for {NAMESPACE:?}: sign with -n {NAMESPACE}",
            signature.namespace()
        )));
    }
    if !signature.reserved().is_empty() {
        return Err(invalid(
            "the signature has a reserved field that this release does not know",
        ));
    }
    let key = signature.public_key().clone();
    let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
    let signed = SshSig::signed_data(NAMESPACE, signature.hash_alg(), message)
        .map_err(|cause| invalid("the signature cannot be checked").because(cause.to_string()))?;
    if holds(&signature, &key, message, &signed)? {
        return Ok(Signed { key, fingerprint });
    }
    Err(invalid(format!(
        "the signature by {fingerprint} is not over this statement: sign exactly what infall image statement prints"
    )))
}

/// `signed` is what the key signed: the digest of `message` with its namespace.
fn holds(signature: &SshSig, key: &KeyData, message: &[u8], signed: &[u8]) -> Result<bool> {
    let bytes = signature.signature_bytes();
    match (key, signature.algorithm()) {
        (KeyData::Ed25519(_), Algorithm::Ed25519)
        | (KeyData::SkEd25519(_), Algorithm::SkEd25519) => {
            let key = PublicKey::from(key.clone());
            Ok(key.verify(NAMESPACE, message, signature).is_ok())
        }
        (KeyData::Ecdsa(key), Algorithm::Ecdsa { .. }) => ecdsa(key, signed, bytes),
        (KeyData::Rsa(key), Algorithm::Rsa { hash: Some(hash) }) => {
            Ok(rsa(key, hash, signed, bytes))
        }
        (_, algorithm) => Err(invalid(format!(
            "signatures by {algorithm} are not read: sign with ed25519, ecdsa (P-256, P-384) or rsa"
        ))),
    }
}

/// `r` and `s` are mpints one behind the other (RFC 5656, 3.1.2); ring wants both at full width.
fn ecdsa(key: &EcdsaPublicKey, signed: &[u8], bytes: &[u8]) -> Result<bool> {
    let (algorithm, width): (&'static dyn ring_signature::VerificationAlgorithm, usize) = match key
    {
        EcdsaPublicKey::NistP256(_) => (&ring_signature::ECDSA_P256_SHA256_FIXED, 32),
        EcdsaPublicKey::NistP384(_) => (&ring_signature::ECDSA_P384_SHA384_FIXED, 48),
        EcdsaPublicKey::NistP521(_) => {
            return Err(invalid(
                "signatures by ecdsa-sha2-nistp521 are not read: sign with ed25519, ecdsa (P-256, P-384) or rsa",
            ));
        }
    };
    let mut fixed = Vec::with_capacity(2 * width);
    let mut rest = bytes;
    for _ in 0..2 {
        let Some((length, behind)) = rest.split_first_chunk::<4>() else {
            return Ok(false);
        };
        let length = u32::from_be_bytes(*length) as usize;
        let Some((number, behind)) = behind.split_at_checked(length) else {
            return Ok(false);
        };
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        if number.len() > width {
            return Ok(false);
        }
        fixed.resize(fixed.len() + width - number.len(), 0);
        fixed.extend_from_slice(number);
        rest = behind;
    }
    let point = ring_signature::UnparsedPublicKey::new(algorithm, key.as_sec1_bytes());
    Ok(rest.is_empty() && point.verify(signed, &fixed).is_ok())
}

/// RFC 8332: PKCS#1 v1.5 with SHA-256 or SHA-512. SHA-1 has no algorithm here at all.
fn rsa(key: &RsaPublicKey, hash: HashAlg, signed: &[u8], bytes: &[u8]) -> bool {
    let algorithm = match hash {
        HashAlg::Sha256 => &ring_signature::RSA_PKCS1_2048_8192_SHA256,
        HashAlg::Sha512 => &ring_signature::RSA_PKCS1_2048_8192_SHA512,
        _ => return false,
    };
    let number = |number: &Mpint| number.as_positive_bytes().unwrap_or_default().to_vec();
    let (n, e) = (number(&key.n), number(&key.e));
    let parts = ring_signature::RsaPublicKeyComponents { n: &n, e: &e };
    parts.verify(algorithm, signed, bytes).is_ok()
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, Subject::Image, text)
}
