//! The root key: the one key pair that no user record holds, kept in a file of the operator's.
//!
//! 1. The file that keeps the pair is readable by its owner only; one that others can read is
//!    refused, not quietly used.
//! 2. The file appears whole or not at all: it is written and synced under another name, then
//!    linked into place, so that a crash cannot leave half a key behind.
//! 3. A secret is compared in constant time and never printed.

use rand::Rng;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;

/// Access keys are told apart from those of other systems by how they begin.
const ACCESS_KEY_PREFIX: &str = "INF4";
/// Letters and digits that are hard to mistake for one another (RFC 4648, section 6).
const ACCESS_KEY_LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const ACCESS_KEY_LENGTH: usize = 20;
const SECRET_KEY_LENGTH: usize = 40;
/// A credentials file is two short strings; whatever is larger is not one.
const FILE_BYTES_MAX: u64 = 4096;

/// The root key pair, made at first start and kept in a file readable by its owner only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// `INF4…`, 20 characters.
    pub access_key: String,
    /// 40 characters.
    pub secret_key: String,
    /// What is shown beside a key that is good for a while only; the root key has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<String>,
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The file could not be read or written.
    #[error("cannot {what} the credentials file {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Others can read the file, so the key in it is no secret.
    #[error(
        "the credentials file {} can be read by others (mode {mode:04o}); if you trust the key still, run: chmod 600 {}",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold a key pair.
    #[error(
        "the credentials file {} does not hold a key pair ({why}); restore it, or move it away to have a new pair made",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Credentials {
    /// A new random pair: 80 bits of access key, 238 bits of secret, from the system's generator.
    pub fn generate() -> Self {
        let mut random = rand::rng();
        let mut access_key = ACCESS_KEY_PREFIX.to_owned();
        while access_key.len() < ACCESS_KEY_LENGTH {
            let letter = ACCESS_KEY_LETTERS[random.random_range(0..ACCESS_KEY_LETTERS.len())];
            access_key.push(char::from(letter));
        }
        let secret_key: String = random
            .sample_iter(Alphanumeric)
            .take(SECRET_KEY_LENGTH)
            .map(char::from)
            .collect();
        Self {
            access_key,
            secret_key,
            session_token: None,
        }
    }

    /// `<access key>:<secret key>[:<session token>]`, as every door takes it behind `Bearer`.
    pub fn bearer(&self) -> String {
        let token = self.session_token.iter();
        let token: String = token.map(|token| format!(":{token}")).collect();
        format!("{}:{}{token}", self.access_key, self.secret_key)
    }

    /// Reads the pair kept in `path`, or makes one there. The flag says whether it was made now:
    /// that is the only time its secret is worth showing.
    pub fn load_or_create(path: &Path) -> Result<(Self, bool), CredentialsError> {
        match Self::load(path)? {
            Some(found) => Ok((found, false)),
            None => {
                let made = Self::generate();
                if made.create(path)? {
                    return Ok((made, true));
                }
                // Another process linked its own pair between our look and our link.
                let found = Self::load(path)?;
                found
                    .map(|found| (found, false))
                    .ok_or_else(|| CredentialsError::Io {
                        what: "read",
                        path: path.into(),
                        source: io::ErrorKind::NotFound.into(),
                    })
            }
        }
    }

    /// Keeps this pair in `path` instead of the one that is there, all at once.
    pub(crate) fn replace(&self, path: &Path) -> Result<(), CredentialsError> {
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let io = |what, source| CredentialsError::Io {
            what,
            path: path.into(),
            source,
        };
        match std::fs::remove_file(&fresh) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(io("tidy up beside", source));
            }
            _ => {}
        }
        self.create(&fresh)?;
        std::fs::rename(&fresh, path).map_err(|source| io("replace", source))?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(|source| io("sync the directory of", source))
    }

    /// Whether `token` is `<access key>:<secret key>`, as the JSON API wants it behind `Bearer`.
    pub fn verify_bearer(&self, token: &str) -> bool {
        let Some((access_key, secret_key)) = token.split_once(':') else {
            return false;
        };
        let access = access_key.as_bytes().ct_eq(self.access_key.as_bytes());
        let secret = secret_key.as_bytes().ct_eq(self.secret_key.as_bytes());
        (access & secret).into()
    }

    fn load(path: &Path) -> Result<Option<Self>, CredentialsError> {
        let io = |what, source| CredentialsError::Io {
            what,
            path: path.into(),
            source,
        };
        let malformed = |why: &dyn fmt::Display| CredentialsError::Malformed {
            path: path.into(),
            why: why.to_string(),
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io("open", source)),
        };
        // Of the open file, not of the path: what is checked is what is read.
        let mode = file
            .metadata()
            .map_err(|source| io("look at", source))?
            .permissions()
            .mode()
            & 0o7777;
        if mode & 0o077 != 0 {
            return Err(CredentialsError::Exposed {
                path: path.into(),
                mode,
            });
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|source| io("read", source))?;
        // Only the place of the mistake is told: the parser's own words may quote the secret.
        let found: Self = serde_json::from_str(&text).map_err(|bad| {
            malformed(&format_args!(
                "line {}, column {}",
                bad.line(),
                bad.column()
            ))
        })?;
        let fits = |key: &str, shortest: usize| {
            key.len() >= shortest
                && key
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && byte != b':')
        };
        if !fits(&found.access_key, 3) || found.access_key.contains('/') {
            return Err(malformed(
                &"access_key must be 3 or more printable characters without : and /",
            ));
        }
        if !fits(&found.secret_key, 8) {
            return Err(malformed(
                &"secret_key must be 8 or more printable characters without :",
            ));
        }
        Ok(Some(found))
    }

    /// `false` if a file was there already.
    fn create(&self, path: &Path) -> Result<bool, CredentialsError> {
        let io = |what, source| CredentialsError::Io {
            what,
            path: path.into(),
            source,
        };
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", uuid::Uuid::new_v4().simple()));
        let fresh = PathBuf::from(fresh);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(|source| io("create", source))?;
        let linked = (|| {
            let mut text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
            text.push(b'\n');
            file.write_all(&text)?;
            file.sync_all()?;
            // A hard link never replaces: the file that is there first stays.
            std::fs::hard_link(&fresh, path)
        })();
        let cleared = std::fs::remove_file(&fresh);
        match linked {
            Ok(()) => {}
            Err(there) if there.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(source) => return Err(io("write", source)),
        }
        cleared.map_err(|source| io("tidy up after", source))?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(|source| io("sync the directory of", source))?;
        Ok(true)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .field("secret_key", &"(not shown)")
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_made_at_first_start_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials.json");
        let (made, new) = Credentials::load_or_create(&path).unwrap();
        assert!(new);
        assert!(made.access_key.starts_with("INF4"));
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let (found, new) = Credentials::load_or_create(&path).unwrap();
        assert!(!new);
        assert_eq!(found, made);
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing else is left"
        );
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials.json");
        Credentials::load_or_create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Credentials::load_or_create(&path).unwrap_err();
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
        assert!(refused.to_string().contains("0640"), "{refused}");
    }

    #[test]
    fn a_damaged_file_is_refused_and_not_replaced_nor_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials.json");
        for damage in [
            "",
            "{\"access_key\":\"INF4\",\"secret_key\":12345678901234567890}",
            "{\"access_key\":\"a\",\"secret_key\":\"topsecret0\"}",
            "{\"access_key\":\"INF4ABCD\",\"secret_key\":\"short\"}",
        ] {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)
                .unwrap();
            file.write_all(damage.as_bytes()).unwrap();
            let refused = Credentials::load_or_create(&path).unwrap_err();
            assert!(
                matches!(refused, CredentialsError::Malformed { .. }),
                "{damage}: {refused}"
            );
            assert!(
                !refused.to_string().contains("12345678901234567890"),
                "{refused}"
            );
            assert!(!refused.to_string().contains("topsecret0"), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), damage);
        }
    }

    #[test]
    fn only_the_whole_pair_opens_the_api() {
        let pair = Credentials::generate();
        let token = format!("{}:{}", pair.access_key, pair.secret_key);
        assert!(pair.verify_bearer(&token));
        assert!(!pair.verify_bearer(&token[..token.len() - 1]));
        assert!(!pair.verify_bearer(&format!("{token}x")));
        assert!(!pair.verify_bearer(&pair.secret_key));
        assert!(!pair.verify_bearer(":"));
        assert!(!pair.verify_bearer(""));
        assert!(!pair.verify_bearer(&format!("{}:{}", pair.access_key, "x".repeat(40))));
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let pair = Credentials::generate();
        assert!(!format!("{pair:?}").contains(&pair.secret_key));
        assert!(format!("{pair:?}").contains(&pair.access_key));
    }

    #[test]
    fn two_pairs_differ() {
        let (one, two) = (Credentials::generate(), Credentials::generate());
        assert_ne!(one.access_key, two.access_key);
        assert_ne!(one.secret_key, two.secret_key);
    }
}
