//! `infall tls`: makes the server's certificate, or takes one, and says what it is.
//!
//! 1. Private keys are written 0600, and only into the data directory.
//! 2. A file appears whole or not at all. The server reads a pair only when both halves fit together,
//!    so it never sees a new certificate with an old key.
//! 3. The CA stays when a certificate is made again, so that clients which trust it go on.

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render::{self, Table};
use crate::serve::tls::{CA_CERT, CA_KEY, Files, SERVER_CERT, SERVER_KEY, TLS_DIRECTORY};
use clap::Subcommand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the CA is good for.
const CA_DAYS: u64 = 3650;
/// Clocks of clients may be behind by so much.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);
/// What every certificate of ours is good for, so that the machine itself always reaches its server.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Certificates.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a CA of your own and a certificate signed by it
    #[command(after_help = "\
They go to DIR/tls, keys readable by you only. A running server takes a new certificate within
seconds and drops no connection; one that was started without TLS wants a restart. The CA is kept
when a certificate is made again. Clients trust DIR/tls/ca-cert.pem (infall's own commands and
infall env find it).

Examples:
  infall tls make                                      localhost and this machine's name
  infall tls make store.example.org 10.0.0.7
  infall tls make store.example.org --days 30")]
    Make {
        /// Names and addresses that clients reach the server by
        names: Vec<String>,
        /// Days until it expires
        #[arg(long, default_value_t = 397, value_parser = clap::value_parser!(u64).range(1..=3650))]
        days: u64,
        /// Make a new CA, too: whoever trusts the old one must be told
        #[arg(long)]
        new_ca: bool,
    },
    /// Use a certificate from elsewhere
    #[command(after_help = "\
The files are checked, then copied to DIR/tls; a running server takes them within seconds. To use
files where they are, set serve.tls_cert and serve.tls_key instead.

Examples:
  infall tls load --cert fullchain.pem --key privkey.pem
  infall tls load --cert server.pem --key server.key --issuer company-ca.pem")]
    Load {
        /// The certificate, and those between it and its CA, PEM
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
        /// Its private key, PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The CA that clients shall trust, PEM [default: what their system trusts]
        #[arg(long, value_name = "FILE")]
        issuer: Option<PathBuf>,
    },
    /// Show the certificate: names, dates, fingerprint
    #[command(after_help = "\
Examples:
  infall tls show
  infall tls show --json | jq -r .ca")]
    Show,
}

/// A certificate, for people and scripts.
#[derive(Clone, Debug, Serialize)]
struct Shown {
    /// The chain's file.
    cert: PathBuf,
    /// The key's file.
    key: PathBuf,
    /// What clients trust, if it is ours.
    ca: Option<PathBuf>,
    subject: String,
    issuer: String,
    names: Vec<String>,
    not_before: String,
    not_after: String,
    /// Days left; negative once it has expired.
    days_left: i64,
    /// SHA-256 of the certificate, in hex.
    sha256: String,
}

/// Does it.
pub(crate) async fn run(context: &Context, verb: Verb) -> Outcome {
    let data = context.data()?;
    match verb {
        Verb::Make {
            names,
            days,
            new_ca,
        } => make(&data, &names, days, new_ca)?,
        Verb::Load { cert, key, issuer } => load(&data, cert, key, issuer.as_deref())?,
        Verb::Show => {}
    }
    let files = match context.config.tls_files() {
        (Some(cert), Some(key)) => Files { cert, key },
        _ => Files::of(&data),
    };
    let shown = show(&data, files)?;
    context.show(&shown, || {
        let mut table = Table::new(["certificate", &shown.cert.display().to_string()]);
        table.row(["names", &shown.names.join(", ")]);
        table.row(["subject", &shown.subject]);
        table.row(["issuer", &shown.issuer]);
        let left = match shown.days_left {
            days if days < 0 => "EXPIRED: infall tls make".to_owned(),
            days => format!("{days} days left"),
        };
        table.row(["good until", &format!("{} ({left})", shown.not_after)]);
        table.row(["sha256", &shown.sha256]);
        let ca = shown.ca.as_ref().map(|ca| ca.display().to_string());
        table.row([
            "clients trust",
            ca.as_deref().unwrap_or("their system's CAs"),
        ]);
        table.to_string()
    });
    Ok(())
}

fn make(data: &Path, names: &[String], days: u64, new_ca: bool) -> Outcome {
    let directory = directory(data)?;
    let names = all_names(names)?;
    let (ca_cert, ca_key) = (directory.join(CA_CERT), directory.join(CA_KEY));
    let issuer = if ca_key.exists() && !new_ca {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|error| Failure::io(format_args!("read {}", path.display()), &error))
        };
        let key = KeyPair::from_pem(&read(&ca_key)?).map_err(|error| unfit(&ca_key, &error))?;
        Issuer::from_ca_cert_pem(&read(&ca_cert)?, key).map_err(|error| unfit(&ca_cert, &error))?
    } else {
        let (params, key) = ca_params()?;
        let made = params.self_signed(&key).map_err(|error| broken(&error))?;
        write(&ca_key, key.serialize_pem().as_bytes(), 0o600)?;
        write(&ca_cert, made.pem().as_bytes(), 0o644)?;
        Issuer::new(params, key)
    };
    let key = KeyPair::generate().map_err(|error| broken(&error))?;
    let mut params = CertificateParams::new(names.clone()).map_err(|error| {
        let message = format!("a certificate cannot have the names {}", names.join(", "));
        Failure::new(Exit::Usage, "tls", message).because(error)
    })?;
    params.distinguished_name = name(&names[0]);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    good_for(&mut params, days);
    let made = params
        .signed_by(&key, &issuer)
        .map_err(|error| broken(&error))?;
    write(
        &directory.join(SERVER_KEY),
        key.serialize_pem().as_bytes(),
        0o600,
    )?;
    write(&directory.join(SERVER_CERT), made.pem().as_bytes(), 0o644)
}

fn load(data: &Path, cert: PathBuf, key: PathBuf, issuer: Option<&Path>) -> Outcome {
    let read = |path: &Path| {
        std::fs::read(path)
            .map_err(|error| Failure::io(format_args!("read {}", path.display()), &error))
    };
    let given = Files { cert, key };
    given.read()?;
    let directory = directory(data)?;
    let own = Files::of(data);
    let (chain, key) = (read(&given.cert)?, read(&given.key)?);
    let issuer = issuer.map(|path| {
        let pem = read(path)?;
        describe(&pem).map_err(|error| unfit(path, &error))?;
        Ok::<_, Failure>(pem)
    });
    // Not ours to sign with, and not what clients shall trust any more.
    for name in [CA_KEY, CA_CERT] {
        match std::fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::io(format_args!("remove {name}"), &error));
            }
            _ => {}
        }
    }
    if let Some(pem) = issuer.transpose()? {
        write(&directory.join(CA_CERT), &pem, 0o644)?;
    }
    write(&own.key, &key, 0o600)?;
    write(&own.cert, &chain, 0o644)
}

fn show(data: &Path, files: Files) -> Outcome<Shown> {
    if !files.cert.exists() {
        let message = format!(
            "there is no certificate: {} is missing",
            files.cert.display()
        );
        return Err(Failure::new(Exit::NotFound, "tls", message).hint(
            "Make one: infall tls make; or load yours: infall tls load --cert FILE --key FILE",
        ));
    }
    // Says what is wrong with the pair, if anything.
    files.read()?;
    let pem = std::fs::read(&files.cert)
        .map_err(|error| Failure::io(format_args!("read {}", files.cert.display()), &error))?;
    let found = describe(&pem).map_err(|error| unfit(&files.cert, &error))?;
    let ca = data.join(TLS_DIRECTORY).join(CA_CERT);
    let ours = files == Files::of(data) && ca.exists();
    Ok(Shown {
        cert: files.cert,
        key: files.key,
        ca: ours.then_some(ca),
        ..found
    })
}

/// The first certificate of a PEM file.
fn describe(pem: &[u8]) -> Result<Shown, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|error| error.to_string())?;
    let (_, found) = X509Certificate::from_der(&pem.contents).map_err(|error| error.to_string())?;
    let alternatives = found
        .subject_alternative_name()
        .map_err(|error| error.to_string())?;
    let names = alternatives.map_or_else(Vec::new, |names| {
        names.value.general_names.iter().map(spelled).collect()
    });
    let (before, after) = (
        found.validity().not_before.timestamp(),
        found.validity().not_after.timestamp(),
    );
    let time =
        |seconds: i64| render::time(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    let now = i64::try_from(now().as_secs()).unwrap_or(i64::MAX);
    Ok(Shown {
        cert: PathBuf::new(),
        key: PathBuf::new(),
        ca: None,
        subject: found.subject().to_string(),
        issuer: found.issuer().to_string(),
        names,
        not_before: time(before),
        not_after: time(after),
        days_left: (after - now).div_euclid(24 * 3600),
        sha256: Sha256::digest(&pem.contents)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    })
}

fn spelled(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => {
            match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                (Ok(four), _) => std::net::Ipv4Addr::from(four).to_string(),
                (_, Ok(sixteen)) => std::net::Ipv6Addr::from(sixteen).to_string(),
                _ => format!("{bytes:02x?}"),
            }
        }
        other => other.to_string(),
    }
}

/// The names asked for, then this machine's own, each once.
fn all_names(asked: &[String]) -> Outcome<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for name in asked {
        let fits = name.parse::<std::net::IpAddr>().is_ok() || is_host_name(name);
        if !fits {
            let message = format!("{name:?} is neither a host's name nor an address");
            return Err(Failure::new(Exit::Usage, "tls", message).hint(
                "Write store.example.org, *.example.org or 10.0.0.7, without https:// and port",
            ));
        }
        names.push(name.to_ascii_lowercase());
    }
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_ascii_lowercase();
    names.extend(Some(host).filter(|host| is_host_name(host)));
    names.extend(OWN_NAMES.map(str::to_owned));
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

/// RFC 1123, 2.1; a wildcard may be the whole first label (RFC 9525, 6.3).
fn is_host_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

fn ca_params() -> Outcome<(CertificateParams, KeyPair)> {
    let key = KeyPair::generate().map_err(|error| broken(&error))?;
    let mut params = CertificateParams::default();
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    params.distinguished_name = name(&format!("Infall CA of {host}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    good_for(&mut params, CA_DAYS);
    Ok((params, key))
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // RFC 5280, appendix A.1: a common name has 64 characters at most.
    name.push(
        DnType::CommonName,
        common.chars().take(64).collect::<String>(),
    );
    name
}

fn good_for(params: &mut CertificateParams, days: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = now();
    params.not_before = epoch + now.saturating_sub(CLOCK_SLACK);
    params.not_after = epoch + now + DAY * u32::try_from(days).unwrap_or(1);
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn directory(data: &Path) -> Outcome<PathBuf> {
    let directory = data.join(TLS_DIRECTORY);
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&directory);
    made.map_err(|error| Failure::io(format_args!("make {}", directory.display()), &error))?;
    Ok(directory)
}

/// Under another name first, then in its place.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Outcome {
    let failed =
        |error: std::io::Error| Failure::io(format_args!("write {}", path.display()), &error);
    let fresh = path.with_extension(format!("fresh-{}", std::process::id()));
    // What an earlier process of this number left would keep its mode.
    let _ = std::fs::remove_file(&fresh);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&fresh)
        .map_err(failed)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(failed)
}

fn unfit(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    let message = format!("{} is not what it should be", path.display());
    Failure::new(Exit::Invalid, "tls", message)
        .because(error)
        .hint("Make all of it anew: infall tls make --new-ca")
}

fn broken(error: &rcgen::Error) -> Failure {
    Failure::new(Exit::Internal, "tls", "no certificate could be made").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_made_certificate_has_the_names_and_its_keys_are_private() {
        let data = tempfile::tempdir().unwrap();
        let asked = ["Store.example.org".to_owned(), "10.0.0.7".to_owned()];
        make(data.path(), &asked, 30, false).unwrap();
        let shown = show(data.path(), Files::of(data.path())).unwrap();
        for name in [
            "store.example.org",
            "10.0.0.7",
            "localhost",
            "127.0.0.1",
            "::1",
        ] {
            assert!(shown.names.iter().any(|found| found == name), "{shown:?}");
        }
        assert!((29..=30).contains(&shown.days_left), "{shown:?}");
        for key in [CA_KEY, SERVER_KEY] {
            let found = std::fs::metadata(data.path().join(TLS_DIRECTORY).join(key)).unwrap();
            assert_eq!(found.permissions().mode() & 0o777, 0o600, "{key}");
        }
        // Made again, the CA is the same and the certificate another.
        let ca = std::fs::read(shown.ca.as_ref().unwrap()).unwrap();
        make(data.path(), &[], 30, false).unwrap();
        let again = show(data.path(), Files::of(data.path())).unwrap();
        assert_ne!(again.sha256, shown.sha256);
        assert_eq!(std::fs::read(again.ca.unwrap()).unwrap(), ca);
        make(data.path(), &[], 30, true).unwrap();
        assert_ne!(std::fs::read(shown.ca.unwrap()).unwrap(), ca);
    }

    #[test]
    fn a_loaded_pair_must_fit_together() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let data = tempfile::tempdir().unwrap();
        for maker in [&one, &two] {
            make(maker.path(), &[], 30, false).unwrap();
        }
        let (one, two) = (Files::of(one.path()), Files::of(two.path()));
        assert!(load(data.path(), one.cert.clone(), two.key, None).is_err());
        assert!(!Files::of(data.path()).cert.exists());
        load(data.path(), one.cert, one.key, None).unwrap();
        assert_eq!(show(data.path(), Files::of(data.path())).unwrap().ca, None);
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for wrong in ["https://x", "x:9000", "", "a_b", "-a", "a..b", "*"] {
            assert!(all_names(&[wrong.to_owned()]).is_err(), "{wrong:?}");
        }
        for fine in ["x", "*.example.org", "fe80::1", "a-b.c1"] {
            assert!(all_names(&[fine.to_owned()]).is_ok(), "{fine:?}");
        }
    }
}
