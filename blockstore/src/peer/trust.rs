//! Which certificates are believed: those that a CA of the bundle signed, for this cluster.
//!
//! 1. Both ends of every connection are examined by the same rule; there are no anonymous ones, and
//!    no session is resumed, so a connection was examined under the bundle of its day.
//! 2. Who a node is stands in one URI of its certificate, `spiffe://<cluster>/node/<id>`; host names
//!    and addresses prove nothing and are not looked at.
//! 3. Clocks of nodes may differ: a certificate counts up to [`CLOCK_SLACK`] before and after its dates.

use super::hello::Named;
use super::{ClusterId, RefusalCode};
use crate::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How far the clocks of two nodes may be apart. Certificates also begin so much before they are made.
pub(super) const CLOCK_SLACK: Duration = Duration::from_secs(3600);

/// SHA-256 of a public key as it stands in a certificate (RFC 7469, 2.4: SubjectPublicKeyInfo).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Fingerprint(pub(super) [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl serde::Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let mut bytes = [0; 32];
        let digits = text.strip_prefix("sha256:").unwrap_or(&text);
        hex::decode_to_slice(digits, &mut bytes)
            .map_err(|_| serde::de::Error::custom("a fingerprint is sha256: and 64 hex digits"))?;
        Ok(Self(bytes))
    }
}

/// The URI that names a node.
pub(super) fn uri(named: Named) -> String {
    format!("spiffe://{}/node/{}", named.cluster, named.node.0)
}

fn named_by(uri: &str) -> Option<Named> {
    let (cluster, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
    let id = path.strip_prefix("node/")?;
    // One spelling only: "+1" and "01" are numbers to `parse`, too.
    let node = NodeId(id.parse().ok()?);
    let named = Named {
        cluster: cluster.parse().ok()?,
        node,
    };
    (self::uri(named) == uri).then_some(named)
}

/// What a certificate says, read but not yet believed.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) fingerprint: Fingerprint,
    pub(super) named: Option<Named>,
    pub(super) not_before_s: u64,
    pub(super) not_after_s: u64,
}

/// Reads a certificate. `None`: it is none.
pub(super) fn read(der: &[u8]) -> Option<Read> {
    let (rest, found) = X509Certificate::from_der(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let names = found.subject_alternative_name().ok()?;
    let uris = names.iter().flat_map(|names| &names.value.general_names);
    let mut named = uris.filter_map(|name| match name {
        GeneralName::URI(uri) => named_by(uri),
        _ => None,
    });
    // Two names in one certificate: then it names nobody.
    let named = named.next().filter(|_| named.next().is_none());
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    Some(Read {
        fingerprint: Fingerprint(Sha256::digest(found.public_key().raw).into()),
        named,
        not_before_s: seconds(found.validity().not_before.timestamp()),
        not_after_s: seconds(found.validity().not_after.timestamp()),
    })
}

/// What is known of an examined certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Examined {
    pub(super) named: Named,
    /// The CA of the bundle that signed it.
    pub(super) issuer: Fingerprint,
    pub(super) not_after_s: u64,
}

/// A bundle of CAs and the cluster that they speak for.
pub(super) struct Trust {
    /// None: any cluster will do (a joiner compares what it finds with its token).
    cluster: Option<ClusterId>,
    authorities: Vec<(Fingerprint, RootCertStore)>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Trust {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.authorities.iter().map(|(name, _)| name).collect();
        write!(out, "Trust({names:?})")
    }
}

impl Trust {
    /// Believes what these CAs signed. Fails on a certificate that is none.
    pub(super) fn new<'a>(
        cluster: Option<ClusterId>,
        bundle: impl IntoIterator<Item = &'a CertificateDer<'static>>,
    ) -> Result<Self, rustls::Error> {
        let mut authorities = Vec::new();
        for certificate in bundle {
            let found = read(certificate).ok_or(rustls::Error::InvalidCertificate(
                CertificateError::BadEncoding,
            ))?;
            let mut store = RootCertStore::empty();
            store.add(certificate.clone())?;
            authorities.push((found.fingerprint, store));
        }
        Ok(Self {
            cluster,
            authorities,
            algorithms: rustls::crypto::ring::default_provider().signature_verification_algorithms,
        })
    }

    /// The CAs' fingerprints.
    pub(super) fn fingerprints(&self) -> Vec<Fingerprint> {
        self.authorities.iter().map(|(name, _)| *name).collect()
    }

    /// Whether this CA is in the bundle.
    pub(super) fn has(&self, authority: Fingerprint) -> bool {
        self.authorities.iter().any(|(name, _)| *name == authority)
    }

    /// Says whose certificate this is, if it is to be believed at `now`.
    pub(super) fn examine(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Examined, rustls::Error> {
        let bad = rustls::Error::InvalidCertificate;
        let parsed = ParsedCertificate::try_from(certificate)?;
        let found = read(certificate).ok_or(bad(CertificateError::BadEncoding))?;
        let now = within_slack(now, &found);
        let mut refused = bad(CertificateError::UnknownIssuer);
        let issuer = self.authorities.iter().find(|(_, store)| {
            // Both ends have certificates of one profile, good for serving and for asking.
            let checked = verify_server_cert_signed_by_trust_anchor(
                &parsed,
                store,
                between,
                now,
                self.algorithms.all,
            );
            match checked {
                Ok(()) => true,
                Err(error) => {
                    // Expired under one CA says more than unknown to the other. A CA that has only
                    // the name of ours shows as a wrong signature: it is as unknown.
                    let unknown = [
                        CertificateError::UnknownIssuer,
                        CertificateError::BadSignature,
                    ];
                    if !unknown.into_iter().any(|unknown| error == bad(unknown)) {
                        refused = error;
                    }
                    false
                }
            }
        });
        let (issuer, _) = issuer.ok_or(refused)?;
        let named = found.named.ok_or_else(|| {
            other("its certificate names no node (no spiffe://CLUSTER/node/ID in it)".to_owned())
        })?;
        if self.cluster.is_some_and(|cluster| cluster != named.cluster) {
            return Err(other(format!(
                "its certificate is of the cluster {}",
                named.cluster
            )));
        }
        Ok(Examined {
            named,
            issuer: *issuer,
            not_after_s: found.not_after_s,
        })
    }
}

fn within_slack(now: UnixTime, found: &Read) -> UnixTime {
    let (now_s, slack) = (now.as_secs(), CLOCK_SLACK.as_secs());
    let near = if now_s < found.not_before_s && found.not_before_s - now_s <= slack {
        found.not_before_s
    } else if now_s > found.not_after_s && now_s - found.not_after_s <= slack {
        found.not_after_s
    } else {
        now_s
    };
    UnixTime::since_unix_epoch(Duration::from_secs(near))
}

fn other(text: String) -> rustls::Error {
    let cause: Arc<dyn std::error::Error + Send + Sync> = Arc::from(Box::from(text));
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))
}

/// Why a handshake failed.
#[derive(Debug)]
pub(super) struct Failed {
    /// None: nothing was said that would be worth an event.
    pub(super) code: Option<RefusalCode>,
    /// The other side refused, not this one.
    pub(super) there: bool,
    /// For people.
    pub(super) text: String,
}

impl Failed {
    /// Nothing about certificates.
    pub(super) fn plain(text: String) -> Self {
        Self {
            code: None,
            there: false,
            text,
        }
    }
}

/// Reads what TLS says.
pub(super) fn handshake_failed(error: &std::io::Error) -> Failed {
    use CertificateError as Bad;
    use rustls::Error;
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    let Some(inner) = inner else {
        return Failed::plain(format!("the TLS handshake broke off ({error})"));
    };
    let text = match inner {
        Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "its certificate is not signed by this cluster's CA".to_owned()
        }
        Error::InvalidCertificate(Bad::Other(OtherError(cause))) => cause.to_string(),
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired: set that node's clock and start it, it renews its own"
                .to_owned()
        }
        Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "its certificate is not valid yet: the clocks of both nodes are more than an hour apart"
                .to_owned()
        }
        Error::NoCertificatesPresented => "it showed no certificate".to_owned(),
        Error::AlertReceived(alert) => {
            format!("it refuses this node's certificate ({alert:?}): see the other node's events")
        }
        error => format!("the TLS handshake failed ({error})"),
    };
    Failed {
        code: Some(RefusalCode::Malformed),
        there: matches!(inner, Error::AlertReceived(_)),
        text,
    }
}

/// The verifier of both ends.
#[derive(Debug)]
pub(super) struct Verifier(pub(super) Arc<Trust>);

impl Verifier {
    fn signature_tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.algorithms)
    }
}

/// TLS 1.3 is all that nodes speak.
fn not_13<T>() -> Result<T, rustls::Error> {
    Err(rustls::Error::PeerIncompatible(
        rustls::PeerIncompatible::Tls13RequiredForQuic,
    ))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let examined = self.0.examine(certificate, between, now);
        examined.map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        not_13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let examined = self.0.examine(certificate, between, now);
        examined.map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        not_13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::{Read, named_by, read, uri, within_slack};
    use crate::NodeId;
    use crate::peer::ClusterId;
    use crate::peer::hello::Named;
    use proptest::prelude::*;
    use rustls::pki_types::UnixTime;
    use std::time::Duration;

    #[test]
    fn a_node_has_one_spelling() {
        let named = Named {
            cluster: ClusterId::random(),
            node: NodeId(12),
        };
        let good = uri(named);
        assert_eq!(named_by(&good), Some(named));
        for wrong in [
            good.replace("/12", "/012"),
            good.replace("/12", "/+12"),
            good.replace("spiffe", "https"),
            good.to_ascii_uppercase(),
            format!("{good}/"),
            format!("{good}?x"),
        ] {
            assert_eq!(named_by(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn clocks_may_be_an_hour_apart_and_no_more() {
        let found = Read {
            fingerprint: super::Fingerprint([0; 32]),
            named: None,
            not_before_s: 10_000,
            not_after_s: 20_000,
        };
        let at = |seconds| {
            within_slack(
                UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
                &found,
            )
            .as_secs()
        };
        assert_eq!(at(15_000), 15_000);
        assert_eq!((at(6_400), at(23_600)), (10_000, 20_000));
        assert_eq!((at(6_399), at(23_601)), (6_399, 23_601));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), text in ".{0,80}"
        ) {
            let _ = read(&bytes);
            let _ = named_by(&text);
        }
    }
}
