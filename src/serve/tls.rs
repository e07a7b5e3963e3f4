//! The server's certificate: which files, how they are read, and how new ones come in while it runs.
//!
//! 1. One pair (chain and key) serves every listener. A pair that does not fit together, or a key that
//!    everybody on the machine can read, is refused at the start and at a reload.
//! 2. A reload (SIGHUP, or the files changed) swaps the pair for handshakes to come; connections that
//!    stand are not touched. While the new files are no good, the old pair goes on.

use crate::config::{Config, TlsMode};
use crate::exit::{Exit, Failure, Outcome};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Certificates and keys, below the data directory. The names are those that GnuTLS programs (QEMU,
/// libnbd) look for in a directory, so that this one can be handed to them as it is.
pub(crate) const TLS_DIRECTORY: &str = "tls";
/// The certificate that clients trust.
pub(crate) const CA_CERT: &str = "ca-cert.pem";
/// What signed the server's certificate.
pub(crate) const CA_KEY: &str = "ca-key.pem";
/// The server's certificate, and those between it and the CA.
pub(crate) const SERVER_CERT: &str = "server-cert.pem";
/// The server's private key.
pub(crate) const SERVER_KEY: &str = "server-key.pem";

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A chain and a key are a few KiB; whatever is larger is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A certificate chain and its key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// The chain, PEM, the server's own certificate first.
    pub(crate) cert: PathBuf,
    /// The key, PEM.
    pub(crate) key: PathBuf,
}

/// When a file was last written, and which one it is: a renamed one may be older.
type Stamp = (i64, i64, u64, u64);

impl Files {
    /// Where `infall tls make` and `infall tls load` put them.
    pub(crate) fn of(data: &Path) -> Self {
        let directory = data.join(TLS_DIRECTORY);
        Self {
            cert: directory.join(SERVER_CERT),
            key: directory.join(SERVER_KEY),
        }
    }

    /// Reads both; they must belong together.
    pub(crate) fn read(&self) -> Outcome<CertifiedKey> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&read(&self.cert)?)
                .collect::<Result<_, _>>()
                .map_err(|error| no_pem(&self.cert, "certificates", &error))?;
        if chain.is_empty() {
            return Err(no_pem(&self.cert, "certificates", &"there is none in it"));
        }
        let mode = std::fs::metadata(&self.key)
            .map_err(|error| Failure::io(format_args!("read {}", self.key.display()), &error))?
            .mode()
            & 0o7777;
        if mode & 0o007 != 0 {
            let message = format!(
                "the key {} can be read by everybody (mode {mode:04o})",
                self.key.display()
            );
            return Err(Failure::new(Exit::Denied, "tls", message).hint(format!(
                "If you trust it still: chmod 600 {}",
                self.key.display()
            )));
        }
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|error| no_pem(&self.key, "a private key", &error))?;
        let provider = rustls::crypto::ring::default_provider();
        CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
            let message = format!(
                "{} and {} are no pair",
                self.cert.display(),
                self.key.display()
            );
            Failure::new(Exit::Invalid, "tls", message)
                .because(error)
                .hint("Make one: infall tls make; or load yours: infall tls load --cert FILE --key FILE")
        })
    }

    fn stamps(&self) -> Option<[Stamp; 2]> {
        let stamp = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.mtime(), found.mtime_nsec(), found.ino(), found.size()))
        };
        Some([stamp(&self.cert)?, stamp(&self.key)?])
    }
}

/// Which pair the settings ask for, if any. Whoever listens beyond loopback must have one.
pub(crate) fn choose(
    config: &Config,
    data: &Path,
    listeners: &[(&str, SocketAddr)],
) -> Outcome<Option<Files>> {
    let own = Files::of(data);
    let files = match config.tls_files() {
        (None, None) => own,
        (Some(cert), Some(key)) => Files { cert, key },
        _ => {
            let message = "only one of serve.tls_cert and serve.tls_key is set";
            return Err(Failure::new(Exit::Usage, "config", message).hint("Set both, or neither"));
        }
    };
    let there = files.cert.exists() && files.key.exists();
    let chosen = match config.tls()? {
        TlsMode::Off => None,
        TlsMode::Auto if there => Some(files),
        TlsMode::Auto if config.tls_files().0.is_none() => None,
        TlsMode::On if there => Some(files),
        TlsMode::Auto | TlsMode::On => {
            let message = format!(
                "TLS is asked for, and {} is not there",
                files.cert.display()
            );
            return Err(Failure::new(Exit::Usage, "tls", message).hint(MAKE));
        }
    };
    let open = listeners
        .iter()
        .find(|(_, address)| !address.ip().is_loopback());
    match (&chosen, open) {
        (None, Some((key, address))) => {
            let message = format!("{key} = {address} is open to other machines, which needs TLS");
            let hint = match config.tls()? {
                TlsMode::Off => "serve.tls is off: set it to auto, or listen on 127.0.0.1",
                TlsMode::Auto | TlsMode::On => MAKE,
            };
            Err(Failure::new(Exit::Usage, "tls", message).hint(hint))
        }
        _ => Ok(chosen),
    }
}

const MAKE: &str = "Make a certificate: infall tls make NAME-OR-ADDRESS; or load yours: infall tls load --cert FILE --key FILE";

/// The pair in use, for every listener.
pub(crate) struct Identity {
    files: Files,
    current: Arc<Current>,
    config: Arc<rustls::ServerConfig>,
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.0.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

impl Identity {
    /// Reads the pair for the first time.
    pub(crate) fn load(files: Files) -> Outcome<Self> {
        let current = Arc::new(Current(RwLock::new(Arc::new(files.read()?))));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(&current) as _;
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                Failure::new(Exit::Internal, "tls", "no TLS version is left").because(error)
            })?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        Ok(Self {
            files,
            current,
            config: Arc::new(config),
        })
    }

    /// The CA that signed the pair, if the pair lies beside it in the data directory.
    pub(crate) fn ca(&self, data: &Path) -> Option<PathBuf> {
        let ca = data.join(TLS_DIRECTORY).join(CA_CERT);
        (self.files == Files::of(data) && ca.exists()).then_some(ca)
    }

    /// For HTTP: its version is agreed in the handshake (RFC 7301).
    pub(crate) fn http(&self) -> Arc<rustls::ServerConfig> {
        let mut config = self.config.as_ref().clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// For NBD, which has no name in ALPN.
    pub(crate) fn nbd(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Reads the files again; on an error the old pair stays.
    fn reload(&self) -> Outcome {
        let fresh = Arc::new(self.files.read()?);
        let mut current = self
            .current
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if current.cert != fresh.cert {
            tracing::info!(cert = %self.files.cert.display(), "a new certificate is in use");
        }
        *current = fresh;
        Ok(())
    }

    /// Reloads on SIGHUP, and when the files change, until `stop`.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => {
                tracing::warn!(%error, "SIGHUP is not listened for: new certificates need a restart");
                return;
            }
        };
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let mut loaded = self.files.stamps();
        let mut seen = loaded;
        loop {
            let told = tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = hangup.recv() => true,
                _ = looks.tick() => false,
            };
            let found = self.files.stamps();
            // Two files are written one after the other: only what lay still between two looks counts.
            let settled = found == seen;
            seen = found;
            if !told && (found == loaded || !settled) {
                continue;
            }
            loaded = found;
            let identity = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || identity.reload()).await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => {
                    tracing::warn!(error = %failure, "the old certificate goes on: the new one is no good");
                }
                Err(error) => tracing::error!(%error, "reading the certificate broke off"),
            }
        }
    }
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    let failed = |error: std::io::Error| {
        Failure::io(format_args!("read {}", path.display()), &error).hint(MAKE)
    };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > FILE_BYTES_MAX {
        let why = format!("it has {length} bytes, {FILE_BYTES_MAX} is the most");
        return Err(no_pem(path, "certificates or keys", &why));
    }
    std::fs::read(path).map_err(failed)
}

fn no_pem(path: &Path, what: &str, error: &dyn std::fmt::Display) -> Failure {
    let message = format!("{} does not hold {what} as PEM", path.display());
    Failure::new(Exit::Invalid, "tls", message).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn write(directory: &Path, name: &str) -> Files {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let files = Files {
            cert: directory.join(SERVER_CERT),
            key: directory.join(SERVER_KEY),
        };
        std::fs::write(&files.cert, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_and_the_old_pair_stays() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = write(one.path(), "one");
        let identity = Identity::load(files.clone()).unwrap();
        let before = Arc::clone(&identity.current.0.read().unwrap());
        let other = write(two.path(), "two");
        std::fs::copy(&other.cert, &files.cert).unwrap();
        assert_eq!(identity.reload().unwrap_err().exit(), Exit::Invalid);
        assert_eq!(identity.current.0.read().unwrap().cert, before.cert);
        std::fs::copy(&other.key, &files.key).unwrap();
        identity.reload().unwrap();
        assert_ne!(identity.current.0.read().unwrap().cert, before.cert);
    }

    #[test]
    fn a_key_that_everybody_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let files = write(directory.path(), "x");
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let failure = files.read().unwrap_err();
        assert!(failure.to_string().contains("0644"), "{failure}");
    }

    #[test]
    fn whoever_listens_beyond_loopback_is_told_to_make_a_certificate() {
        let data = tempfile::tempdir().unwrap();
        let config = |settings: &[(&'static str, &str)]| {
            let flags: Vec<_> = settings
                .iter()
                .map(|(key, value)| (*key, (*value).to_owned()))
                .collect();
            Config::load(Some(Path::new("/dev/null")), &|_| None, &flags).unwrap()
        };
        let far = [("serve.listen", "0.0.0.0:9000".parse().unwrap())];
        let near = [("serve.listen", "127.0.0.1:9000".parse().unwrap())];
        let refused = choose(&config(&[]), data.path(), &far).unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("serve.listen = 0.0.0.0:9000") && text.contains("infall tls make"),
            "{text}"
        );
        assert_eq!(choose(&config(&[]), data.path(), &near).unwrap(), None);
        let on = config(&[("serve.tls", "on")]);
        assert!(choose(&on, data.path(), &near).is_err());
        std::fs::create_dir(data.path().join(TLS_DIRECTORY)).unwrap();
        let files = write(&data.path().join(TLS_DIRECTORY), "x");
        assert_eq!(
            choose(&config(&[]), data.path(), &far).unwrap(),
            Some(files)
        );
        let off = config(&[("serve.tls", "off")]);
        assert_eq!(choose(&off, data.path(), &near).unwrap(), None);
        assert!(choose(&off, data.path(), &far).is_err());
        let half = config(&[("serve.tls_cert", "/x")]);
        assert!(choose(&half, data.path(), &near).is_err());
    }
}
