//! One door: who asks, what they may do, and the record of each decision.
//!
//! ```text
//! a door (S3, CDMI, WebDAV, JSON API, NBD, mount, VM verbs)
//!    │ shows a key, a token or a socket             │ action, resource, conditions
//!    ▼                                              ▼
//! Access::key, Access::bearer ──► Caller ──► Access::authorize ──► Ok, or Denied
//!                                                   │
//!                                             audit in the journal
//! ```
//! 1. Every door asks [`Access`], and nobody else decides.
//! 2. Denied by default; an explicit deny wins over any allow.
//! 3. A secret or a token never reaches a log, an error or the journal.
//!
//! [`policy`] is the language and its evaluation, [`identity`] who there is and what they were given;
//! how both become a decision is in `decide.rs`, its record in `audit.rs`.

mod audit;
mod caller;
mod credentials;
mod decide;
pub mod federation;
pub mod identity;
mod owners;
pub mod policy;
mod resource;
mod tickets;

pub use caller::{Caller, Origin, Principal};
pub use credentials::{Credentials, CredentialsError};
pub use decide::Need;
pub use identity::{Begin, Session, SessionSubject};
pub use resource::Resource;
pub use tickets::{TICKET_LIFETIME_MAX, Ticket};

use audit::Audit;
use blockstore::{Result, Store};
use decide::ResourcePolicies;
use identity::now_ms;
use identity::sessions::Sessions;
use identity::snapshot::Snapshot;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use subtle::ConstantTimeEq;

/// The one place where doors learn who asks and whether they may; a cheap handle.
#[derive(Clone)]
pub struct Access {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    root: RwLock<Credentials>,
    root_file: OnceLock<PathBuf>,
    snapshot: RwLock<Arc<Snapshot>>,
    sessions: Sessions,
    /// Held while a change is made.
    writing: Mutex<()>,
    resource_policies: RwLock<ResourcePolicies>,
    audit: Audit,
}

/// Why a key or a token shows nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No such access key.
    #[error("the access key does not exist here: infall env prints yours")]
    Key,
    /// The key exists, and is switched off.
    #[error("the access key is switched off: ask for it to be activated, or use another")]
    Inactive,
    /// The session token is not the one that came with the key, or is missing.
    #[error(
        "the session token does not belong to the access key: use all three parts as they were issued"
    )]
    Token,
    /// The session is over.
    #[error("the session has expired: log in again")]
    Expired,
}

/// What a valid access key stands for.
pub struct Key {
    /// What its owner signs with.
    pub secret: String,
    /// Who that is.
    pub principal: Principal,
}

impl Access {
    /// Reads the identities in `store`; `root` is the operator's own key.
    pub fn open(store: Store, root: Credentials) -> Result<Self> {
        let snapshot = Snapshot::read(&store, &Snapshot::default())?;
        let sessions = Sessions::read(&store)?;
        let audit = Audit::start(store.clone())?;
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                root: RwLock::new(root),
                root_file: OnceLock::new(),
                snapshot: RwLock::new(Arc::new(snapshot)),
                sessions,
                writing: Mutex::default(),
                resource_policies: RwLock::default(),
                audit,
            }),
        })
    }

    /// Says where the root key is kept, so that it can be rotated.
    pub fn keep_root_in(&self, file: PathBuf) {
        // Said once, by whoever opened it.
        let _ = self.inner.root_file.set(file);
    }

    /// Waits until every decision made so far is in the journal. To be called before the store is
    /// closed.
    pub fn flush(&self) -> Result<()> {
        self.inner.audit.flush()
    }

    /// The secret behind an access key, for whoever verifies a signature with it, and who it stands
    /// for. `token` is the session token that was shown with it, if any.
    pub fn key(&self, access_key: &str, token: Option<&str>) -> Result<Key, Unknown> {
        let root = self.root();
        if access_key == root.access_key {
            return no_token(token).map(|()| Key {
                secret: root.secret_key,
                principal: Principal::Root,
            });
        }
        if let Some(live) = self.inner.sessions.get(access_key) {
            if !token.is_some_and(|token| live.is_token(token)) {
                return Err(Unknown::Token);
            }
            if live.row.expires_ms <= now_ms() || !self.is_there(&live.principal()) {
                return Err(Unknown::Expired);
            }
            return Ok(Key {
                secret: live.row.secret.reveal().to_owned(),
                principal: live.principal(),
            });
        }
        let snapshot = self.snapshot();
        let key = snapshot.keys.get(access_key).ok_or(Unknown::Key)?;
        no_token(token)?;
        let principal = Principal::User {
            name: key.user.clone(),
            project: key.project.clone(),
        };
        if !self.is_there(&principal) {
            return Err(Unknown::Key);
        }
        if !key.active {
            return Err(Unknown::Inactive);
        }
        Ok(Key {
            secret: key.secret.reveal().to_owned(),
            principal,
        })
    }

    /// Who shows `<access key>:<secret key>[:<session token>]` behind `Bearer`.
    pub fn bearer(&self, shown: &str) -> Result<Principal, Unknown> {
        let (access_key, rest) = shown.split_once(':').ok_or(Unknown::Key)?;
        let (secret, token) = match rest.split_once(':') {
            Some((secret, token)) => (secret, Some(token)),
            None => (rest, None),
        };
        let found = self.key(access_key, token);
        // Whether a key exists, is switched off or has expired is told only to who has its secret.
        let owns = |known: &str| bool::from(known.as_bytes().ct_eq(secret.as_bytes()));
        match found {
            Ok(key) if owns(&key.secret) => Ok(key.principal),
            Ok(_) => Err(Unknown::Key),
            Err(why) => match self.secret(access_key) {
                Some(known) if owns(&known) => Err(why),
                _ => Err(Unknown::Key),
            },
        }
    }

    /// The secret of a key, whatever state it is in.
    fn secret(&self, access_key: &str) -> Option<String> {
        let root = self.root();
        if access_key == root.access_key {
            return Some(root.secret_key);
        }
        if let Some(live) = self.inner.sessions.get(access_key) {
            return Some(live.row.secret.reveal().to_owned());
        }
        let snapshot = self.snapshot();
        let key = snapshot.keys.get(access_key)?;
        Some(key.secret.reveal().to_owned())
    }

    fn root(&self) -> Credentials {
        let root = self.inner.root.read();
        root.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the user or role behind a key is there still.
    fn is_there(&self, principal: &Principal) -> bool {
        match principal {
            Principal::User { name, project } => self.user(project, name).is_ok(),
            Principal::Session { role, project, .. } => self.role(project, role).is_ok(),
            Principal::Anonymous | Principal::Root | Principal::Service { .. } => true,
        }
    }
}

fn no_token(token: Option<&str>) -> Result<(), Unknown> {
    match token {
        None => Ok(()),
        Some(_) => Err(Unknown::Token),
    }
}
