//! The store's ssh authority: short-lived user certificates that guests trust.
//!
//! 1. One authority per store, made when first needed; its private key leaves the catalog only to sign.
//! 2. A certificate opens one login of one instance: its only principal is `<instance uuid>:<login>`,
//!    which the guest's sshd holds against itself. An instance made later under the same name has
//!    another uuid.
//! 3. It is good for [`LIFETIME`]; a session that began in time goes on.
//! 4. A guest learns of the authority by the seed's vendor data: a boothook that no user data replaces
//!    (cloud-init, "Vendor data").
//!
//! OpenSSH, PROTOCOL.certkeys has the format; sshd_config(5), `TrustedUserCAKeys` and
//! `AuthorizedPrincipalsCommand`, the guest's side.

use blockstore::{Error, Kind, Result, Store, Subject, Who};
use serde::{Deserialize, Serialize};
use ssh_key::certificate::{Builder, CertType};
use ssh_key::rand_core::{OsRng, RngCore};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey};
use std::time::Duration;
use uuid::Uuid;

/// How long a certificate is good for.
pub const LIFETIME: Duration = Duration::from_secs(300);
/// How far a guest's clock may be behind ours.
const BEHIND: Duration = Duration::from_secs(60);
const RECORD_KIND: &str = "ssh-authority";
const RECORD_NAME: &str = "user";
/// Linux, useradd(8): "Usernames may only be up to 32 characters long."
const LOGIN_BYTES_MAX: usize = 32;
/// What a session may do beyond running commands (PROTOCOL.certkeys, "Extensions").
const EXTENSIONS: [&str; 2] = ["permit-port-forwarding", "permit-pty"];

/// What a certificate is asked for with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshAsk {
    /// The key to certify, as the line of a `.pub` file.
    pub public_key: String,
    /// The user inside the guest.
    pub login: String,
}

/// A certificate and what it is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshCertificate {
    /// The line of a `-cert.pub` file.
    pub certificate: String,
    /// The user inside the guest.
    pub login: String,
    /// `<instance uuid>:<login>`
    pub principal: String,
    /// The instance's uuid: a name for its host key that no other instance ever has.
    pub instance: Uuid,
    /// Of the certified key, `SHA256:…`.
    pub fingerprint: String,
    /// Its number; sshd logs it.
    pub serial: u64,
    /// When it ends, milliseconds since the Unix epoch.
    pub expires_ms: u64,
}

/// Signs.
pub(crate) struct Authority(PrivateKey);

#[derive(Serialize, Deserialize)]
struct Row {
    /// OpenSSH's own format, PEM.
    private_key: String,
    created_ms: u64,
}

impl Authority {
    /// The one of this store.
    pub(crate) fn of(store: &Store, now_ms: u64) -> Result<Self> {
        if let Some(row) = store.record_get(RECORD_KIND, RECORD_NAME)? {
            return Self::read(row);
        }
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(failed)?;
        let row = Row {
            private_key: key.to_openssh(LineEnding::LF).map_err(failed)?.to_string(),
            created_ms: now_ms,
        };
        let value = serde_json::to_value(row).map_err(failed)?;
        match store.record_create(&Who::server(), RECORD_KIND, RECORD_NAME, &value, None) {
            Ok(()) => Ok(Self(key)),
            // Another was a moment earlier: there is but one.
            Err(error) if error.kind() == Kind::Conflict => {
                let row = store.record_get(RECORD_KIND, RECORD_NAME)?;
                Self::read(row.unwrap_or_default())
            }
            Err(error) => Err(error),
        }
    }

    fn read(row: serde_json::Value) -> Result<Self> {
        let unread = |cause: String| {
            let text = "the store's ssh authority does not read; look with infall check";
            Error::new(Kind::Corrupt, Subject::Record, text).because(cause)
        };
        // What serde says of a text would repeat it.
        let row: Row = serde_json::from_value(row).map_err(|_| unread("no such row".into()))?;
        let key = PrivateKey::from_openssh(row.private_key);
        key.map(Self).map_err(|cause| unread(cause.to_string()))
    }

    /// The line that guests trust.
    pub(crate) fn public_key(&self) -> Result<String> {
        let mut key = self.0.public_key().clone();
        key.set_comment("infall");
        key.to_openssh().map_err(failed)
    }

    /// Certifies a key for one login of one instance. `named` is who asked and for what, for sshd's log.
    pub(crate) fn certify(
        &self,
        ask: &SshAsk,
        instance: Uuid,
        named: &str,
        now_ms: u64,
    ) -> Result<SshCertificate> {
        check_login(&ask.login)?;
        let key = access::identity::read_ssh_key(&ask.public_key)?;
        if matches!(key.algorithm(), Algorithm::Dsa) {
            let text = "sshd takes no DSA keys: make another with ssh-keygen -t ed25519";
            return Err(Error::new(Kind::Invalid, Subject::Identity, text));
        }
        let now_s = now_ms / 1000;
        let until_s = now_s + LIFETIME.as_secs();
        let principal = principal(instance, &ask.login);
        // Bits beyond 63 read as negative numbers in some tools.
        let serial = OsRng.next_u64() >> 1;
        let after_s = now_s.saturating_sub(BEHIND.as_secs());
        let certificate = || {
            let mut certificate = Builder::new_with_random_nonce(
                &mut OsRng,
                key.key_data().clone(),
                after_s,
                until_s,
            )?;
            certificate
                .serial(serial)?
                .cert_type(CertType::User)?
                .key_id(named)?
                .valid_principal(&principal)?
                .comment("infall")?;
            for extension in EXTENSIONS {
                certificate.extension(extension, "")?;
            }
            certificate.sign(&self.0)?.to_openssh()
        };
        Ok(SshCertificate {
            certificate: certificate().map_err(failed)?,
            login: ask.login.clone(),
            principal: principal.clone(),
            instance,
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            serial,
            expires_ms: until_s * 1000,
        })
    }
}

fn principal(instance: Uuid, login: &str) -> String {
    format!("{instance}:{login}")
}

/// A name of a user as Linux has them (useradd(8)); nothing that sshd, a shell or a log could misread.
fn check_login(login: &str) -> Result<()> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let sound = (1..=LOGIN_BYTES_MAX).contains(&login.len())
        && login.bytes().all(inner)
        && login
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if sound {
        return Ok(());
    }
    let text = format!(
        "login {login:?} is no user's name: 1 to {LOGIN_BYTES_MAX} of letters, digits, _ - and ., \
         beginning with a letter, a digit or _"
    );
    Err(Error::new(Kind::Invalid, Subject::Record, text))
}

/// What the guest runs early in each boot, before its sshd (cloud-init, "User data formats", "Cloud
/// boothook"), so that who is greeted can log in: its sshd takes the authority's certificates for this
/// instance. An sshd from before `Include` (OpenSSH 8.2) gets the lines at the top of its own file, where
/// no `Match` block can catch them.
pub(crate) fn guest_script(authority: &str, instance: Uuid) -> String {
    // Its values are our own: a public key's line without quotes, and a uuid.
    let principal = principal(instance, "%u");
    format!(
        r#"#cloud-boothook
#!/bin/sh
# Infall: sshd lets in who shows a certificate of this authority for this instance and this user.
set -e
umask 022
mkdir -p /etc/ssh/sshd_config.d
echo '{authority}' > /etc/ssh/infall_ca.pub
cat > /etc/ssh/infall.conf <<'CONF'
TrustedUserCAKeys /etc/ssh/infall_ca.pub
AuthorizedPrincipalsCommand /bin/echo {principal}
AuthorizedPrincipalsCommandUser nobody
CONF
if grep -qs '^ *Include */etc/ssh/sshd_config.d/' /etc/ssh/sshd_config; then
    mv /etc/ssh/infall.conf /etc/ssh/sshd_config.d/05-infall.conf
elif ! grep -qs '^TrustedUserCAKeys /etc/ssh/infall_ca.pub' /etc/ssh/sshd_config; then
    {{ cat /etc/ssh/infall.conf; cat /etc/ssh/sshd_config 2>/dev/null || :; }} > /etc/ssh/sshd_config.infall
    mv /etc/ssh/sshd_config.infall /etc/ssh/sshd_config
fi
# One that runs reads it again. Early in the boot it does not yet, and whoever waited for it would wait for ever:
# it waits for cloud-init.
for unit in ssh sshd; do
    if [ -d /run/systemd/system ]; then
        systemctl --quiet is-active "$unit" 2>/dev/null && systemctl --no-block reload "$unit" || :
    else
        service "$unit" reload 2>/dev/null || :
    fi
done
"#
    )
}

fn failed(cause: impl std::fmt::Display) -> Error {
    let text = "the ssh authority cannot sign";
    Error::new(Kind::Internal, Subject::Record, text).because(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockstore::Options;
    use ssh_key::{Certificate, Fingerprint};

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILEtPFQ2rfaMfQw4lDS7PWLw6XyyuCG2UbUBkVy6gXk me@here";
    const NOW_MS: u64 = 1_800_000_000_000;

    fn ask(login: &str, public_key: &str) -> SshAsk {
        SshAsk {
            public_key: public_key.into(),
            login: login.into(),
        }
    }

    #[test]
    fn a_certificate_is_for_one_login_of_one_instance_and_five_minutes() {
        let directory = tempfile::tempdir().expect("tempdir");
        let store = Store::open(directory.path(), Options::default()).expect("store");
        let authority = Authority::of(&store, NOW_MS).expect("made");
        let instance = Uuid::new_v4();
        let given = authority
            .certify(&ask("debian", KEY), instance, "user/alice", NOW_MS)
            .expect("certificate");
        let again = Authority::of(&store, NOW_MS + 1).expect("kept");
        assert_eq!(
            again.public_key().expect("key"),
            authority.public_key().expect("key")
        );
        let read = Certificate::from_openssh(&given.certificate).expect("a certificate");
        let trusted: Fingerprint = again.0.fingerprint(HashAlg::Sha256);
        for (at_s, good) in [
            (NOW_MS / 1000 - 61, false),
            (NOW_MS / 1000, true),
            (NOW_MS / 1000 + 299, true),
            (NOW_MS / 1000 + 300, false),
        ] {
            assert_eq!(
                read.validate_at(at_s, [&trusted]).is_ok(),
                good,
                "at {at_s}"
            );
        }
        assert_eq!(read.valid_principals(), [format!("{instance}:debian")]);
        assert_eq!(
            (read.cert_type(), read.key_id()),
            (CertType::User, "user/alice")
        );
        assert_eq!(read.critical_options().len(), 0);
    }

    #[test]
    fn the_guests_script_is_a_boothook_that_may_run_again() {
        let root = tempfile::tempdir().expect("tempdir");
        let etc = root.path().join("etc");
        let instance = Uuid::new_v4();
        let script = guest_script("ssh-ed25519 AAAA infall", instance);
        assert!(
            script.starts_with("#cloud-boothook\n#!/bin/sh\n"),
            "{script}"
        );
        // No sshd of ours is to be told to read its settings again.
        let script = script
            .replace("/etc/ssh", &etc.join("ssh").display().to_string())
            .replace("for unit in ssh sshd", "for unit in");
        let run = || {
            let done = std::process::Command::new("sh")
                .args(["-c", &script])
                .status();
            assert!(done.expect("sh").success());
        };
        let settings = |name: &str| std::fs::read_to_string(etc.join("ssh").join(name));
        let principals = format!("AuthorizedPrincipalsCommand /bin/echo {instance}:%u\n");
        for (own, file) in [
            (
                "Include ETC/ssh/sshd_config.d/*.conf\n",
                "sshd_config.d/05-infall.conf",
            ),
            ("Port 22\n", "sshd_config"),
        ] {
            std::fs::create_dir_all(etc.join("ssh")).expect("mkdir");
            let own = own.replace("ETC", &etc.display().to_string());
            std::fs::write(etc.join("ssh/sshd_config"), &own).expect("write");
            run();
            run();
            let said = settings(file).expect(file);
            assert_eq!(said.matches(&principals).count(), 1, "{said}");
            assert!(settings("sshd_config").expect("kept").ends_with(&own));
            assert_eq!(
                settings("infall_ca.pub").expect("key"),
                "ssh-ed25519 AAAA infall\n"
            );
            std::fs::remove_dir_all(&etc).expect("rm");
        }
    }

    #[test]
    fn what_could_be_misread_is_no_login_and_no_key() {
        let directory = tempfile::tempdir().expect("tempdir");
        let store = Store::open(directory.path(), Options::default()).expect("store");
        let authority = Authority::of(&store, NOW_MS).expect("made");
        let certify = |login: &str, key: &str| {
            authority.certify(&ask(login, key), Uuid::new_v4(), "x", NOW_MS)
        };
        for login in ["", "-l", "a b", "a,b", "a:b", "ä", "a\nb", &"a".repeat(33)] {
            let error = certify(login, KEY).expect_err(login);
            assert_eq!(error.kind(), Kind::Invalid, "{login:?}");
        }
        for key in ["", "ssh-ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----"] {
            let error = certify("debian", key).expect_err(key);
            assert_eq!(error.kind(), Kind::Invalid, "{key:?}");
        }
    }
}
