//! The cluster's CA: a row of the catalog that is made when the cluster is founded, signs nodes'
//! certificates, and is replaced without a connection that fails for it.
//!
//! ```text
//!            rotate                    every member trusts it
//!   Signing ────────▶ Signing + Coming ──────────────────────▶ Leaving + Signing
//!                                                                    │ no member's certificate
//!                             Signing ◀──────────────────────────────┘ is signed by it any more
//! ```
//!
//! 1. All CAs of the row are trusted; one signs. A CA signs only once every member trusts it, and is
//!    dropped only once nobody needs it.
//! 2. Private keys lie in the row under the cluster's [`Seal`]: any member can sign joins and renew its
//!    own certificate, after the founder died and without a quorum; a copy of the catalog alone cannot.
//! 3. All of it is a function of the row, the seal and the time; who runs it decides nothing.

use super::hello::Named;
use super::trust::{CLOCK_SLACK, Fingerprint, read, uri};
use super::{ClusterId, Seal};
use crate::{Error, Kind, NodeId, Result, Subject};
use rand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a CA is good for.
const CA_LASTS: Duration = DAY.saturating_mul(3650);
/// A CA with less than this left is replaced.
const CA_REPLACED_BEFORE: Duration = DAY.saturating_mul(365);
/// How long a node's certificate is good for.
pub(super) const NODE_LASTS: Duration = DAY.saturating_mul(90);
const ROW_VERSION: u32 = 1;

/// The row. One per cluster; the caller chooses its key in the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Authority {
    v: u32,
    cluster: ClusterId,
    authorities: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    state: State,
    /// PEM.
    certificate: String,
    /// PKCS #8 under the cluster's seal, in hex.
    key_sealed: String,
    made_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// Trusted by those who know it; does not sign yet.
    Coming,
    /// Signs.
    Signing,
    /// Trusted still; signs no more.
    Leaving,
}

/// What one member trusts and shows, as it last said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Which CAs it trusts.
    pub(crate) trusts: Vec<Fingerprint>,
    /// Which one signed its certificate.
    pub(crate) issuer: Fingerprint,
    /// When its certificate expires.
    pub(crate) not_after_ms: u64,
}

/// What is to be done with the CA now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Advance {
    /// Nothing: one CA signs, and will for long.
    Settled,
    /// A change is under way and waits for these members.
    Waits(Vec<NodeId>),
    /// Put this row in place of the old one.
    Change(Authority),
}

impl Authority {
    /// The first CA of a new cluster.
    pub(crate) fn found(cluster: ClusterId, seal: &Seal, now_ms: u64) -> Result<Self> {
        Ok(Self {
            v: ROW_VERSION,
            cluster,
            authorities: vec![Row::make(cluster, seal, State::Signing, now_ms)?],
        })
    }

    /// Reads the row.
    pub(crate) fn decode(row: &[u8]) -> Result<Self> {
        let corrupt = |text: String| Error::new(Kind::Corrupt, Subject::Store, text);
        let found: Self = serde_json::from_slice(row).map_err(|cause| {
            corrupt("the catalog's row of the cluster's CA is malformed".to_owned()).because(cause)
        })?;
        if found.v != ROW_VERSION {
            let text = format!(
                "the row of the cluster's CA has version {}, this release reads {ROW_VERSION}: run the release \
                 that wrote it",
                found.v
            );
            return Err(Error::new(Kind::Unsupported, Subject::Store, text));
        }
        let signing = found.authorities.iter();
        if signing.filter(|row| row.state == State::Signing).count() != 1 {
            return Err(corrupt(
                "not exactly one CA of the cluster signs".to_owned(),
            ));
        }
        for row in &found.authorities {
            row.der()?;
        }
        Ok(found)
    }

    /// The row's bytes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|cause| {
            let text = "the row of the cluster's CA cannot be written as JSON";
            Error::new(Kind::Internal, Subject::Store, text).because(cause)
        })
    }

    /// Which cluster.
    pub(crate) fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The certificates that members trust.
    pub(super) fn bundle(&self) -> Result<Vec<CertificateDer<'static>>> {
        self.authorities.iter().map(Row::der).collect()
    }

    /// The CA that signs.
    pub(crate) fn signing(&self) -> Result<Fingerprint> {
        self.signer()?.fingerprint()
    }

    /// Begins to replace the CA. Conflict while a change is under way.
    pub(crate) fn rotate(&self, seal: &Seal, now_ms: u64) -> Result<Self> {
        if self.authorities.len() > 1 {
            let text = "the cluster's CA is being replaced already; see who is waited for in `infall cluster status`";
            return Err(Error::new(Kind::Conflict, Subject::Store, text));
        }
        let mut next = self.clone();
        let coming = Row::make(self.cluster, seal, State::Coming, now_ms)?;
        next.authorities.push(coming);
        Ok(next)
    }

    /// The next step of a change, given what every member last said (none: nothing yet). Also begins
    /// a change when the CA will expire within a year.
    pub(crate) fn advance(
        &self,
        seal: &Seal,
        members: &[(NodeId, Option<Standing>)],
        now_ms: u64,
    ) -> Result<Advance> {
        let waits = |ready: &dyn Fn(&Standing) -> bool| -> Vec<NodeId> {
            let missing = members
                .iter()
                .filter(|(_, standing)| !standing.as_ref().is_some_and(ready));
            missing.map(|(node, _)| *node).collect()
        };
        let in_state = |state| self.authorities.iter().find(|row| row.state == state);
        if let Some(leaving) = in_state(State::Leaving) {
            let leaving = leaving.fingerprint()?;
            let missing = waits(&|standing| standing.issuer != leaving);
            if !missing.is_empty() {
                return Ok(Advance::Waits(missing));
            }
            let mut next = self.clone();
            next.authorities.retain(|row| row.state != State::Leaving);
            return Ok(Advance::Change(next));
        }
        if let Some(coming) = in_state(State::Coming) {
            let coming = coming.fingerprint()?;
            let missing = waits(&|standing| standing.trusts.contains(&coming));
            if !missing.is_empty() {
                return Ok(Advance::Waits(missing));
            }
            let mut next = self.clone();
            for row in &mut next.authorities {
                row.state = match row.state {
                    State::Coming => State::Signing,
                    State::Signing | State::Leaving => State::Leaving,
                };
            }
            return Ok(Advance::Change(next));
        }
        let signing = self.signer()?;
        let left = signing.read()?.not_after_s.saturating_sub(now_ms / 1000);
        if left < CA_REPLACED_BEFORE.as_secs() {
            return self.rotate(seal, now_ms).map(Advance::Change);
        }
        Ok(Advance::Settled)
    }

    /// A certificate for the key of a joiner's request. Nothing else of the request counts: who it
    /// is to be is said here. Invalid if the request is not signed by its own key.
    pub(super) fn sign_request(
        &self,
        seal: &Seal,
        request: &[u8],
        node: NodeId,
        now_ms: u64,
    ) -> Result<CertificateDer<'static>> {
        let request = CertificateSigningRequestDer::from(request);
        let read = CertificateSigningRequestParams::from_der(&request).map_err(|cause| {
            let text = "the certificate request of the joining node does not read, or its signature is wrong";
            Error::new(Kind::Invalid, Subject::Store, text).because(cause)
        })?;
        self.sign(seal, &read.public_key, node, now_ms, NODE_LASTS)
    }

    /// A certificate for this key.
    pub(super) fn sign(
        &self,
        seal: &Seal,
        key: &impl PublicKeyData,
        node: NodeId,
        now_ms: u64,
        lasts: Duration,
    ) -> Result<CertificateDer<'static>> {
        let signer = self.signer()?;
        let sealed = hex::decode(&signer.key_sealed).map_err(|_| {
            let text = "the sealed key of the cluster's CA is not hex";
            Error::new(Kind::Corrupt, Subject::Store, text)
        })?;
        let clear = seal.open(self.cluster, &sealed)?;
        let ca_key = KeyPair::try_from(clear.as_slice())
            .map_err(|cause| failed("read the key of the cluster's CA", cause))?;
        let issuer = Issuer::from_ca_cert_der(&signer.der()?, ca_key)
            .map_err(|cause| failed("read the certificate of the cluster's CA", cause))?;
        let named = Named {
            cluster: self.cluster,
            node,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&node.to_string());
        let uri = uri(named)
            .try_into()
            .map_err(|cause| failed("name a node in a certificate", cause))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, now_ms, lasts);
        let made = params
            .signed_by(key, &issuer)
            .map_err(|cause| failed("sign a node's certificate", cause))?;
        Ok(made.der().clone())
    }

    fn signer(&self) -> Result<&Row> {
        let mut rows = self.authorities.iter();
        rows.find(|row| row.state == State::Signing)
            .ok_or_else(|| Error::new(Kind::Corrupt, Subject::Store, "no CA of the cluster signs"))
    }
}

impl Row {
    fn make(cluster: ClusterId, seal: &Seal, state: State, now_ms: u64) -> Result<Self> {
        let key = KeyPair::generate().map_err(|cause| failed("make a key", cause))?;
        let mut params = CertificateParams::default();
        // Each CA of a cluster has a name of its own, for people and for whoever builds chains.
        let number: u32 = rand::rng().random();
        params.distinguished_name = common_name(&format!("Infall {cluster} {number:08x}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, now_ms, CA_LASTS);
        let made = params
            .self_signed(&key)
            .map_err(|cause| failed("make the cluster's CA", cause))?;
        Ok(Self {
            state,
            certificate: made.pem(),
            key_sealed: hex::encode(seal.close(cluster, key.serialized_der())?),
            made_ms: now_ms,
        })
    }

    fn der(&self) -> Result<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .ok()
            .filter(|der| read(der).is_some())
            .ok_or_else(unreadable)
    }

    fn read(&self) -> Result<super::trust::Read> {
        read(&self.der()?).ok_or_else(unreadable)
    }

    fn fingerprint(&self) -> Result<Fingerprint> {
        self.read().map(|found| found.fingerprint)
    }
}

fn unreadable() -> Error {
    let text = "a certificate in the row of the cluster's CA does not read";
    Error::new(Kind::Corrupt, Subject::Store, text)
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // RFC 5280, appendix A.1: a common name has 64 characters at most.
    name.push(
        DnType::CommonName,
        text.chars().take(64).collect::<String>(),
    );
    name
}

fn valid(params: &mut CertificateParams, now_ms: u64, lasts: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // Whole seconds, as certificates have them.
    let now = Duration::from_secs(now_ms / 1000);
    params.not_before = epoch + now.saturating_sub(CLOCK_SLACK);
    params.not_after = epoch + now + lasts;
}

pub(super) fn failed(what: &str, cause: rcgen::Error) -> Error {
    Error::new(Kind::Internal, Subject::Store, format!("cannot {what}")).because(cause)
}

#[cfg(test)]
mod tests {
    use super::{Advance, Authority, CA_LASTS, DAY, NODE_LASTS, Standing};
    use crate::peer::trust::{Trust, read};
    use crate::peer::{ClusterId, Seal};
    use crate::{Kind, NodeId};
    use rcgen::KeyPair;
    use rustls::pki_types::UnixTime;
    use std::time::Duration;

    const NOW: u64 = 1_800_000_000_000;

    fn at(ms: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_millis(ms))
    }

    fn standing(trusts: &Authority, signed_by: &Authority) -> Option<Standing> {
        let bundle = trusts.bundle().unwrap();
        Some(Standing {
            trusts: Trust::new(None, &bundle).unwrap().fingerprints(),
            issuer: signed_by.signing().unwrap(),
            not_after_ms: NOW,
        })
    }

    #[test]
    fn a_ca_is_replaced_only_when_everybody_is_ready() {
        let (seal, nodes) = (Seal::random(), [NodeId(1), NodeId(2)]);
        let one = Authority::found(ClusterId::random(), &seal, NOW).unwrap();
        let settled = one.advance(&seal, &[(nodes[0], None)], NOW).unwrap();
        assert_eq!(settled, Advance::Settled);
        let both = one.rotate(&seal, NOW).unwrap();
        assert_eq!(both.rotate(&seal, NOW).unwrap_err().kind(), Kind::Conflict);
        // The new one does not sign before the second member trusts it.
        assert_eq!(both.signing().unwrap(), one.signing().unwrap());
        let members = [
            (nodes[0], standing(&both, &one)),
            (nodes[1], standing(&one, &one)),
        ];
        let step = both.advance(&seal, &members, NOW).unwrap();
        assert_eq!(step, Advance::Waits(vec![nodes[1]]));
        let members = nodes.map(|node| (node, standing(&both, &one)));
        let Advance::Change(signs) = both.advance(&seal, &members, NOW).unwrap() else {
            panic!("everybody trusts the new one");
        };
        assert_ne!(signs.signing().unwrap(), one.signing().unwrap());
        assert_eq!(signs.bundle().unwrap().len(), 2);
        // The old one stays while one certificate of it is in use.
        let members = [
            (nodes[0], standing(&signs, &signs)),
            (nodes[1], standing(&signs, &one)),
        ];
        let step = signs.advance(&seal, &members, NOW).unwrap();
        assert_eq!(step, Advance::Waits(vec![nodes[1]]));
        let members = nodes.map(|node| (node, standing(&signs, &signs)));
        let Advance::Change(last) = signs.advance(&seal, &members, NOW).unwrap() else {
            panic!("nobody needs the old one");
        };
        assert_eq!(last.bundle().unwrap().len(), 1);
        assert_eq!(last.signing().unwrap(), signs.signing().unwrap());
        assert_eq!(
            last.advance(&seal, &members, NOW).unwrap(),
            Advance::Settled
        );
    }

    #[test]
    fn a_ca_that_will_expire_is_replaced_by_itself() {
        let seal = Seal::random();
        let one = Authority::found(ClusterId::random(), &seal, NOW).unwrap();
        let late = NOW + u64::try_from((CA_LASTS - DAY * 364).as_millis()).unwrap();
        assert!(matches!(
            one.advance(&seal, &[], late).unwrap(),
            Advance::Change(_)
        ));
    }

    #[test]
    fn a_certificate_names_its_node_and_is_believed_while_it_lasts() {
        let seal = Seal::random();
        let cluster = ClusterId::random();
        let authority = Authority::found(cluster, &seal, NOW).unwrap();
        let key = KeyPair::generate().unwrap();
        let made = authority
            .sign(&seal, &key, NodeId(7), NOW, NODE_LASTS)
            .unwrap();
        let trust = Trust::new(Some(cluster), &authority.bundle().unwrap()).unwrap();
        let found = trust.examine(&made, &[], at(NOW)).unwrap();
        assert_eq!(
            (found.named.cluster, found.named.node),
            (cluster, NodeId(7))
        );
        assert_eq!(found.issuer, authority.signing().unwrap());
        let days = |days: u64| NOW + days * 24 * 3_600_000;
        assert!(trust.examine(&made, &[], at(days(90))).is_ok());
        assert!(trust.examine(&made, &[], at(days(91))).is_err(), "expired");
        assert!(trust.examine(&made, &[], at(NOW - 3_600_000)).is_ok());
        assert!(
            trust.examine(&made, &[], at(NOW - 3 * 3_600_000)).is_err(),
            "the clock is three hours behind"
        );
        let stranger = Authority::found(cluster, &seal, NOW).unwrap();
        let trust = Trust::new(Some(cluster), &stranger.bundle().unwrap()).unwrap();
        assert!(trust.examine(&made, &[], at(NOW)).is_err(), "another CA");
        let bundle = authority.bundle().unwrap();
        let trust = Trust::new(Some(ClusterId::random()), &bundle).unwrap();
        assert!(
            trust.examine(&made, &[], at(NOW)).is_err(),
            "another cluster"
        );
        // A CA's own certificate is nobody's.
        let trust = Trust::new(Some(cluster), &bundle).unwrap();
        assert!(trust.examine(&bundle[0], &[], at(NOW)).is_err());
        assert!(read(&bundle[0]).unwrap().named.is_none());
    }

    #[test]
    fn the_row_reads_as_it_was_written_and_holds_no_key_in_clear() {
        let seal = Seal::random();
        let authority = Authority::found(ClusterId::random(), &seal, NOW).unwrap();
        let row = authority.encode().unwrap();
        assert_eq!(Authority::decode(&row).unwrap(), authority);
        assert!(!String::from_utf8(row).unwrap().contains("PRIVATE KEY"));
        let wrong = authority.sign(
            &Seal::random(),
            &KeyPair::generate().unwrap(),
            NodeId(1),
            NOW,
            NODE_LASTS,
        );
        assert_eq!(wrong.unwrap_err().kind(), Kind::Corrupt);
        for (row, kind) in [
            ("{}", Kind::Corrupt),
            (
                r#"{"v":1,"cluster":"00000000-0000-0000-0000-000000000000","authorities":[]}"#,
                Kind::Corrupt,
            ),
            (
                r#"{"v":9,"cluster":"00000000-0000-0000-0000-000000000000","authorities":[]}"#,
                Kind::Unsupported,
            ),
        ] {
            assert_eq!(
                Authority::decode(row.as_bytes()).unwrap_err().kind(),
                kind,
                "{row}"
            );
        }
    }
}
