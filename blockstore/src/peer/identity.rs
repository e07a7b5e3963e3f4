//! Who this node is: one file, and the TLS settings made of it, which can change while it runs.
//!
//! 1. `peer/identity.json` (0600) holds the key, the certificate, the CAs trusted and the cluster's
//!    seal together, so a new key never stands beside an old certificate. It is replaced by rename,
//!    and synced before it is used.
//! 2. A node renews its own certificate with the CA's key from its own copy of the catalog: no peer
//!    and no quorum is needed, so a cluster that was off for a year comes up again.
//! 3. A change swaps the settings for handshakes to come and counts the generation up; links then
//!    move to new connections in order, without losing what is on its way.

use super::authority::{Authority, NODE_LASTS, Standing, failed};
use super::trust::{Examined, Trust, Verifier, read};
use super::{ClusterId, Incarnation, Seal};
use crate::{Error, Kind, NodeId, Result, Subject};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::KeyPair;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// Below the data directory.
const DIRECTORY: &str = "peer";
const FILE: &str = "identity.json";
const FILE_VERSION: u32 = 1;
/// A certificate with less than a third of its time left is renewed.
const RENEWED_BEFORE: Duration = Duration::from_secs(NODE_LASTS.as_secs() / 3);

/// What two members say to each other over.
pub(super) const ALPN_PEER: &[u8] = b"infall-peer/1";
/// What a joiner and a member say to each other over.
pub(super) const ALPN_JOIN: &[u8] = b"infall-join/1";

/// What makes a node a member: the contents of `peer/identity.json`. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Passport {
    v: u32,
    /// Which cluster.
    pub(crate) cluster: ClusterId,
    /// Which node of it.
    pub(crate) node: NodeId,
    /// Which disk.
    pub(crate) incarnation: Incarnation,
    /// PKCS #8, base64.
    pub(super) key: String,
    /// DER, base64.
    pub(super) certificate: String,
    /// The CAs, DER, base64.
    pub(super) trusted: Vec<String>,
    /// Opens the CA's key in the catalog.
    pub(crate) seal: Seal,
}

impl fmt::Debug for Passport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Passport({} of {})", self.node, self.cluster)
    }
}

impl Passport {
    /// A node's own: a new key, and a certificate for it signed with the CA of the row. For the node
    /// that founds a cluster, and for renewals.
    pub(crate) fn issue(
        authority: &Authority,
        seal: &Seal,
        node: NodeId,
        incarnation: Incarnation,
        now_ms: u64,
    ) -> Result<Self> {
        Self::issue_for(authority, seal, node, incarnation, now_ms, NODE_LASTS)
    }

    /// The same with another lifetime.
    pub(super) fn issue_for(
        authority: &Authority,
        seal: &Seal,
        node: NodeId,
        incarnation: Incarnation,
        now_ms: u64,
        lasts: Duration,
    ) -> Result<Self> {
        let key = KeyPair::generate().map_err(|cause| failed("make a key", cause))?;
        let certificate = authority.sign(seal, &key, node, now_ms, lasts)?;
        Self::of(authority, seal, node, incarnation, &key, &certificate)
    }

    /// Of a key and a certificate that was signed for it.
    pub(super) fn of(
        authority: &Authority,
        seal: &Seal,
        node: NodeId,
        incarnation: Incarnation,
        key: &KeyPair,
        certificate: &CertificateDer<'_>,
    ) -> Result<Self> {
        Ok(Self {
            v: FILE_VERSION,
            cluster: authority.cluster(),
            node,
            incarnation,
            key: BASE64.encode(key.serialized_der()),
            certificate: BASE64.encode(certificate),
            trusted: encode_all(&authority.bundle()?),
            seal: seal.clone(),
        })
    }

    /// From what a member sent to a joiner.
    pub(super) fn joined(
        cluster: ClusterId,
        node: NodeId,
        incarnation: Incarnation,
        key: &KeyPair,
        certificate: String,
        trusted: Vec<String>,
        seal: Seal,
    ) -> Self {
        Self {
            v: FILE_VERSION,
            cluster,
            node,
            incarnation,
            key: BASE64.encode(key.serialized_der()),
            certificate,
            trusted,
            seal,
        }
    }
}

pub(super) fn encode_all(certificates: &[CertificateDer<'_>]) -> Vec<String> {
    certificates.iter().map(|der| BASE64.encode(der)).collect()
}

/// The node's identity as it is now, and as it will be after a renewal.
pub(crate) struct Identity {
    file: Option<PathBuf>,
    current: RwLock<Arc<Current>>,
    /// Held over a change: two at a time would lose one.
    changing: Mutex<()>,
    generation: watch::Sender<u64>,
}

/// One state of it.
pub(super) struct Current {
    pub(super) passport: Passport,
    pub(super) trust: Arc<Trust>,
    /// For members: they must show a certificate.
    pub(super) serve_peers: Arc<ServerConfig>,
    /// For joiners: they have none.
    pub(super) serve_join: Arc<ServerConfig>,
    pub(super) dial: Arc<ClientConfig>,
    own: Examined,
}

impl Identity {
    /// Reads `peer/identity.json` of the data directory. `None`: this node is in no cluster.
    pub(crate) fn load(data: &Path) -> Result<Option<Self>> {
        let file = data.join(DIRECTORY).join(FILE);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &file, error)),
        };
        let broken = |text: String| Error::new(Kind::Corrupt, Subject::Store, text);
        let passport: Passport = serde_json::from_slice(&bytes).map_err(|cause| {
            broken(format!(
                "{} is damaged; let the node join again with an empty data directory",
                file.display()
            ))
            .because(cause)
        })?;
        if passport.v != FILE_VERSION {
            let text = format!(
                "{} has version {}, this release reads {FILE_VERSION}: run the release that wrote it",
                file.display(),
                passport.v
            );
            return Err(Error::new(Kind::Unsupported, Subject::Store, text));
        }
        Self::with(Some(file), passport).map(Some)
    }

    /// Makes this data directory a member: writes the file, which must not be there yet.
    pub(crate) fn install(data: &Path, passport: Passport) -> Result<Self> {
        let directory = data.join(DIRECTORY);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .and_then(|()| std::fs::File::open(data)?.sync_all())
            .map_err(|error| Error::io("make", &directory, error))?;
        let file = directory.join(FILE);
        if file.exists() {
            let text = format!(
                "{} is there already: this data directory is a member of a cluster",
                file.display()
            );
            return Err(Error::new(Kind::Conflict, Subject::Store, text));
        }
        let made = Self::with(Some(file), passport)?;
        made.write(&made.current().passport)?;
        Ok(made)
    }

    /// Without a file: for tests, and for a look at a passport.
    pub(crate) fn in_memory(passport: Passport) -> Result<Self> {
        Self::with(None, passport)
    }

    fn with(file: Option<PathBuf>, passport: Passport) -> Result<Self> {
        let current = Current::new(passport)?;
        Ok(Self {
            file,
            current: RwLock::new(Arc::new(current)),
            changing: Mutex::new(()),
            generation: watch::Sender::new(0),
        })
    }

    /// Which cluster, node and disk this is.
    pub(crate) fn passport(&self) -> Passport {
        self.current().passport.clone()
    }

    /// What this node tells the others for [`Authority::advance`].
    pub(crate) fn standing(&self) -> Standing {
        let current = self.current();
        Standing {
            trusts: current.trust.fingerprints(),
            issuer: current.own.issuer,
            not_after_ms: current.own.not_after_s.saturating_mul(1000),
        }
    }

    /// Follows the catalog: trusts the CAs of the row, and renews this node's certificate when
    /// another CA signs now, or when a third of its time is left. To be called when the row has
    /// changed, at the start, and once an hour. True: something changed.
    pub(crate) fn follow(&self, authority: &Authority, now_ms: u64) -> Result<bool> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        let passport = &current.passport;
        if authority.cluster() != passport.cluster {
            let text = format!(
                "the catalog is of the cluster {}, this node of {}: the data directory was mixed from two",
                authority.cluster(),
                passport.cluster
            );
            return Err(Error::new(Kind::Corrupt, Subject::Store, text));
        }
        let left_ms = (current.own.not_after_s.saturating_mul(1000)).saturating_sub(now_ms);
        let renew = current.own.issuer != authority.signing()?
            || u128::from(left_ms) < RENEWED_BEFORE.as_millis();
        let trusted = encode_all(&authority.bundle()?);
        if !renew && trusted == passport.trusted {
            return Ok(false);
        }
        let next = if renew {
            let (node, incarnation) = (passport.node, passport.incarnation);
            Passport::issue(authority, &passport.seal, node, incarnation, now_ms)?
        } else {
            Passport {
                trusted,
                ..passport.clone()
            }
        };
        let next = Current::new(next)?;
        self.write(&next.passport)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        self.generation.send_modify(|generation| *generation += 1);
        tracing::info!(
            renewed = renew,
            "what this node shows and trusts has changed"
        );
        Ok(true)
    }

    pub(super) fn current(&self) -> Arc<Current> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// Counts changes.
    pub(super) fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Under another name first, synced, then in its place, and that synced, too.
    fn write(&self, passport: &Passport) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let bytes = serde_json::to_vec_pretty(passport).map_err(|cause| {
            Error::new(
                Kind::Internal,
                Subject::Store,
                "an identity cannot be written as JSON",
            )
            .because(cause)
        })?;
        let failed = |error| Error::io("write", file, error);
        let fresh = file.with_extension("fresh");
        // What an earlier process left would keep its mode.
        let _ = std::fs::remove_file(&fresh);
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(failed)?;
        out.write_all(&bytes)
            .and_then(|()| out.sync_all())
            .and_then(|()| std::fs::rename(&fresh, file))
            .map_err(failed)?;
        match file.parent() {
            Some(parent) => std::fs::File::open(parent)
                .and_then(|directory| directory.sync_all())
                .map_err(|error| Error::io("sync", parent, error)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.current().passport, out)
    }
}

impl Current {
    fn new(passport: Passport) -> Result<Self> {
        let broken = |what: &str| {
            let text = format!(
                "the {what} of {} in peer/identity.json does not read; let the node join again with an empty \
                 data directory",
                passport.node
            );
            Error::new(Kind::Corrupt, Subject::Store, text)
        };
        let der = |text: &str, what: &str| BASE64.decode(text).map_err(|_| broken(what));
        let certificate = CertificateDer::from(der(&passport.certificate, "certificate")?);
        let key = || -> Result<PrivateKeyDer<'static>> {
            PrivateKeyDer::try_from(der(&passport.key, "key")?).map_err(|_| broken("key"))
        };
        let bundle: Vec<CertificateDer<'static>> = passport
            .trusted
            .iter()
            .map(|text| der(text, "CA").map(CertificateDer::from))
            .collect::<Result<_>>()?;
        let trust = Trust::new(Some(passport.cluster), &bundle)
            .map_err(|cause| broken("CA").because(cause))?;
        let trust = Arc::new(trust);
        let found = read(&certificate).ok_or_else(|| broken("certificate"))?;
        // Its own dates do not count here: an expired one is renewed after this.
        let then = UnixTime::since_unix_epoch(Duration::from_secs(found.not_before_s));
        let own = trust
            .examine(&certificate, &[], then)
            .map_err(|cause| broken("certificate").because(cause))?;
        if own.named.node != passport.node {
            return Err(broken("certificate"));
        }
        // Joiners know their cluster by the CA's key, so the CA travels with the certificate.
        let issuer = bundle
            .iter()
            .find(|ca| read(ca).is_some_and(|ca| ca.fingerprint == own.issuer));
        let chain: Vec<_> = std::iter::once(&certificate)
            .chain(issuer)
            .cloned()
            .collect();
        let serve_peers = server(Some(&trust), chain.clone(), key()?, ALPN_PEER)
            .map_err(|cause| broken("key").because(cause))?;
        let serve_join =
            server(None, chain, key()?, ALPN_JOIN).map_err(|cause| broken("key").because(cause))?;
        let dial = client(
            Arc::clone(&trust),
            Some((vec![certificate], key()?)),
            ALPN_PEER,
        )
        .map_err(|cause| broken("key").because(cause))?;
        Ok(Self {
            passport,
            trust,
            serve_peers: Arc::new(serve_peers),
            serve_join: Arc::new(serve_join),
            dial: Arc::new(dial),
            own,
        })
    }
}

fn server(
    trust: Option<&Arc<Trust>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    alpn: &[u8],
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match trust {
        Some(trust) => {
            builder.with_client_cert_verifier(Arc::new(Verifier(Arc::clone(trust))) as _)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    // A resumed session would not be examined again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The settings of whoever dials.
pub(super) fn client(
    trust: Arc<Trust>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    alpn: &[u8],
) -> Result<ClientConfig, rustls::Error> {
    let verifier = Arc::new(Verifier(trust));
    client_with(verifier, own, alpn)
}

/// The same with another judge of the server's certificate.
pub(super) fn client_with(
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    alpn: &[u8],
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::{Identity, Passport};
    use crate::peer::{Authority, ClusterId, Incarnation, Seal};
    use crate::{Kind, NodeId};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    const NOW: u64 = 1_800_000_000_000;
    const DAY: u64 = 24 * 3_600_000;

    fn founded() -> (Authority, Seal, Passport) {
        let seal = Seal::random();
        let authority = Authority::found(ClusterId::random(), &seal, NOW).unwrap();
        let passport = Passport::issue(&authority, &seal, NodeId(1), Incarnation(9), NOW).unwrap();
        (authority, seal, passport)
    }

    #[test]
    fn the_file_is_readable_by_its_owner_only_and_reads_as_it_was_written() {
        let data = tempfile::tempdir().unwrap();
        assert!(Identity::load(data.path()).unwrap().is_none());
        let (_, _, passport) = founded();
        Identity::install(data.path(), passport.clone()).unwrap();
        let file = data.path().join("peer/identity.json");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Identity::load(data.path()).unwrap().unwrap();
        assert_eq!(read.passport(), passport);
        let twice = Identity::install(data.path(), passport).unwrap_err();
        assert_eq!(twice.kind(), Kind::Conflict);
        std::fs::write(&file, "{}").unwrap();
        assert_eq!(
            Identity::load(data.path()).unwrap_err().kind(),
            Kind::Corrupt
        );
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_time_is_left_even_after_years() {
        let (authority, _, passport) = founded();
        let identity = Identity::in_memory(passport).unwrap();
        assert!(!identity.follow(&authority, NOW + 59 * DAY).unwrap());
        assert!(identity.follow(&authority, NOW + 61 * DAY).unwrap());
        assert_eq!(identity.standing().not_after_ms, NOW + 151 * DAY);
        assert!(!identity.follow(&authority, NOW + 62 * DAY).unwrap());
        // Off for two years, its certificate expired long ago: it renews by itself.
        assert!(identity.follow(&authority, NOW + 800 * DAY).unwrap());
        assert_eq!(identity.standing().not_after_ms, NOW + 890 * DAY);
    }

    #[test]
    fn a_node_follows_the_ca_step_by_step() {
        let (one, seal, passport) = founded();
        let identity = Identity::in_memory(passport).unwrap();
        let mut generations = identity.generations();
        let both = one.rotate(&seal, NOW).unwrap();
        assert!(identity.follow(&both, NOW).unwrap());
        assert!(generations.has_changed().unwrap());
        generations.mark_unchanged();
        assert_eq!(identity.standing().trusts.len(), 2);
        assert_eq!(identity.standing().issuer, one.signing().unwrap());
        let members = [(NodeId(1), Some(identity.standing()))];
        let super::super::Advance::Change(signs) = both.advance(&seal, &members, NOW).unwrap()
        else {
            panic!("the only member trusts it");
        };
        assert!(identity.follow(&signs, NOW).unwrap());
        assert_eq!(identity.standing().issuer, signs.signing().unwrap());
        assert!(generations.has_changed().unwrap());
    }

    #[test]
    fn a_certificate_of_another_node_or_cluster_makes_no_identity() {
        let (authority, seal, passport) = founded();
        let other = Passport::issue(&authority, &seal, NodeId(2), Incarnation(9), NOW).unwrap();
        let mixed = Passport {
            certificate: other.certificate.clone(),
            key: other.key.clone(),
            ..passport.clone()
        };
        assert_eq!(
            Identity::in_memory(mixed).unwrap_err().kind(),
            Kind::Corrupt
        );
        let (foreign, _, _) = founded();
        let identity = Identity::in_memory(passport.clone()).unwrap();
        assert_eq!(
            identity.follow(&foreign, NOW).unwrap_err().kind(),
            Kind::Corrupt
        );
        assert!(!format!("{passport:?}").contains(&passport.key));
        let short = Duration::from_secs(60);
        let brief = Passport::issue_for(&authority, &seal, NodeId(1), Incarnation(9), NOW, short);
        assert!(Identity::in_memory(brief.unwrap()).is_ok());
    }
}
