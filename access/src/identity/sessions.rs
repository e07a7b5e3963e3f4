//! Sessions: keys that end by themselves, with a token that must be shown beside them.
//!
//! 1. A session is durable before its key is told to anybody, and lives in memory until it expires.
//! 2. Of the token only a digest is kept: the catalog cannot give away a whole session.
//! 3. What a session may do is what its role or user may do at that moment, and what its own policy
//!    allows besides; it ends with its role or user.

use super::rows::Secret;
use super::snapshot::rows;
use super::{now_ms, value_of};
use crate::policy::{Form, Policy, SESSION_BYTES_MAX};
use crate::{Access, Credentials, Principal};
use blockstore::{Entry, Error, Kind, Result, Subject, Who};
use rand::Rng;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Sessions alive at the same time.
const SESSIONS_MAX: usize = 100_000;
/// Seconds that a session may last (STS: 900 to 129,600 for GetSessionToken).
const SECONDS: std::ops::RangeInclusive<u64> = 1..=129_600;
/// How often expired sessions are taken away, while new ones begin.
const PRUNE_MS: u64 = 60_000;
/// Expired sessions taken away at a time.
const PRUNED_MAX: usize = 1000;
const TOKEN_LENGTH: usize = 120;
/// Condition keys that a session carries, and bytes of each value.
const TAGS_MAX: usize = 64;
const TAG_BYTES_MAX: usize = 1024;

/// Whose permissions a session has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionSubject {
    /// The operator's.
    Root,
    /// A user's own.
    User {
        /// Their project.
        project: String,
        /// The user.
        name: String,
    },
    /// A role's.
    Role {
        /// Its project.
        project: String,
        /// The role.
        name: String,
        /// What the session is called: 2 to 64 of the letters of a user's name.
        session: String,
    },
}

/// A session to be begun. Whether it may be is decided before: [`Access::authorize_assume`].
#[derive(Clone, Debug)]
pub struct Begin {
    /// Whose permissions it has.
    pub subject: SessionSubject,
    /// How long it lasts.
    pub lifetime: Duration,
    /// What limits it further: a policy's text. Roles only.
    pub policy: Option<String>,
    /// Condition keys of every request of it, e.g. `("oidc:sub", "…")`.
    pub tags: Vec<(String, String)>,
}

/// A session as it is told once, to whoever asked for it.
#[derive(Clone, Debug)]
pub struct Session {
    /// `INF4…`
    pub access_key: String,
    /// What its owner signs with.
    pub secret_key: Secret,
    /// Shown beside the key.
    pub token: Secret,
    /// When it ends, milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// Who requests under it come from.
    pub principal: Principal,
}

/// A session as the catalog keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SessionRow {
    pub(crate) id: String,
    pub(crate) subject: SessionSubject,
    pub(crate) secret: Secret,
    /// SHA-256 of the token, in hex.
    token_sha256: String,
    pub(crate) begun_ms: u64,
    pub(crate) expires_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, Vec<String>>,
}

/// A session in memory.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) row: SessionRow,
    /// Its own policy, parsed.
    pub(crate) policy: Option<Arc<Policy>>,
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    live: RwLock<HashMap<String, Arc<Live>>>,
    pruned_ms: Mutex<u64>,
}

impl Live {
    fn new(row: SessionRow) -> Self {
        let policy = row.policy.as_deref().map(|text| {
            let read = Policy::parse(text, Form::Session, SESSION_BYTES_MAX);
            Arc::new(read.unwrap_or_else(|error| {
                tracing::error!(session = row.id, %error, "its policy does not read and denies everything");
                Policy::deny_all()
            }))
        });
        Self { row, policy }
    }

    /// Whether `token` came with the key.
    pub(crate) fn is_token(&self, token: &str) -> bool {
        let shown = digest(token);
        shown
            .as_bytes()
            .ct_eq(self.row.token_sha256.as_bytes())
            .into()
    }

    /// Who requests under it come from.
    pub(crate) fn principal(&self) -> Principal {
        match &self.row.subject {
            SessionSubject::Root => Principal::Root,
            SessionSubject::User { project, name } => Principal::User {
                name: name.clone(),
                project: project.clone(),
            },
            SessionSubject::Role {
                project,
                name,
                session,
            } => Principal::Session {
                role: name.clone(),
                session: session.clone(),
                project: project.clone(),
                key: self.row.id.clone(),
            },
        }
    }
}

impl Sessions {
    /// Those of the catalog that have not ended.
    pub(crate) fn read(store: &blockstore::Store) -> Result<Self> {
        let now = now_ms();
        let live = rows::<SessionRow>(store, "iam-session")?
            .into_iter()
            .filter(|row| row.expires_ms > now)
            .map(|row| (row.id.clone(), Arc::new(Live::new(row))))
            .collect();
        Ok(Self {
            live: RwLock::new(live),
            pruned_ms: Mutex::default(),
        })
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Live>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.get(key).cloned()
    }

    fn insert(&self, live: Live) {
        let id = live.row.id.clone();
        let mut all = self.live.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(id, Arc::new(live));
    }

    fn remove(&self, keys: &[String]) {
        let mut all = self.live.write().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            all.remove(key);
        }
    }

    fn matching(&self, most: usize, is: impl Fn(&SessionRow) -> bool) -> Vec<String> {
        let all = self.live.read().unwrap_or_else(PoisonError::into_inner);
        all.values()
            .filter(|live| is(&live.row))
            .map(|live| live.row.id.clone())
            .take(most)
            .collect()
    }

    fn count(&self) -> usize {
        let all = self.live.read().unwrap_or_else(PoisonError::into_inner);
        all.len()
    }

    /// Whether it is time to look for expired ones.
    fn prune_due(&self, now: u64) -> bool {
        let mut last = self
            .pruned_ms
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let due = now.saturating_sub(*last) >= PRUNE_MS;
        if due {
            *last = now;
        }
        due
    }
}

impl Access {
    /// Begins a session; its key, secret and token are told this once.
    pub fn begin_session(&self, who: &Who, begin: Begin) -> Result<Session> {
        let invalid = |text: String| Error::new(Kind::Invalid, Subject::Identity, text);
        let seconds = begin.lifetime.as_secs();
        if !SECONDS.contains(&seconds) {
            return Err(invalid(format!(
                "a session of {seconds} s: {} to {} s are allowed",
                SECONDS.start(),
                SECONDS.end()
            )));
        }
        if let Some(text) = &begin.policy {
            if !matches!(begin.subject, SessionSubject::Role { .. }) {
                return Err(invalid("only a role's session takes a policy".into()));
            }
            Policy::parse(text, Form::Session, SESSION_BYTES_MAX)
                .map_err(|error| invalid(format!("the session's policy: {error}")))?;
        }
        let fits = |(key, value): &(String, String)| {
            key.contains(':') && key.len() <= 256 && value.len() <= TAG_BYTES_MAX
        };
        if begin.tags.len() > TAGS_MAX || !begin.tags.iter().all(fits) {
            return Err(invalid(format!(
                "a session carries up to {TAGS_MAX} condition keys, each as service:name with up \
                 to {TAG_BYTES_MAX} bytes"
            )));
        }
        match &begin.subject {
            SessionSubject::Root => {}
            SessionSubject::User { project, name } => {
                self.user(project, name)?;
            }
            SessionSubject::Role {
                project,
                name,
                session,
            } => {
                let role = self.role(project, name)?;
                super::check_name("session", session, 64)?;
                if seconds > role.session_seconds_max {
                    return Err(invalid(format!(
                        "a session of {seconds} s: those of role {name:?} last {} s at most",
                        role.session_seconds_max
                    )));
                }
            }
        }
        self.prune_sessions(who)?;
        if self.inner.sessions.count() >= SESSIONS_MAX {
            let text = format!("{SESSIONS_MAX} sessions are alive: wait until some expire");
            return Err(Error::new(Kind::Unavailable, Subject::Identity, text));
        }
        let pair = Credentials::generate();
        let token: String = rand::rng()
            .sample_iter(Alphanumeric)
            .take(TOKEN_LENGTH)
            .map(char::from)
            .collect();
        let begun_ms = now_ms();
        let mut tags: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in begin.tags {
            tags.entry(key).or_default().push(value);
        }
        let row = SessionRow {
            id: pair.access_key.clone(),
            subject: begin.subject,
            secret: Secret(pair.secret_key.clone()),
            token_sha256: digest(&token),
            begun_ms,
            expires_ms: begun_ms.saturating_add(seconds.saturating_mul(1000)),
            policy: begin.policy,
            tags,
        };
        let value = value_of(&row)?;
        let expires_ms = row.expires_ms;
        let live = Live::new(row);
        let principal = live.principal();
        let entry = Entry::new("session.begun", principal.arn())
            .detail(format!("key {} for {seconds} s", pair.access_key));
        let store = &self.inner.store;
        store.record_create(who, "iam-session", &pair.access_key, &value, Some(entry))?;
        self.inner.sessions.insert(live);
        Ok(Session {
            access_key: pair.access_key,
            secret_key: Secret(pair.secret_key),
            token: Secret(token),
            expires_ms,
            principal,
        })
    }

    /// Ends a session before its time; nothing happens if it is over.
    pub fn end_session(&self, who: &Who, key: &str) -> Result<()> {
        self.end_all(who, vec![key.to_owned()], "session.ended")
    }

    pub(super) fn sessions_of_user_end(&self, who: &Who, project: &str, user: &str) -> Result<()> {
        let keys = self.inner.sessions.matching(usize::MAX, |row| {
            matches!(&row.subject, SessionSubject::User { project: of, name }
                if of == project && name == user)
        });
        self.end_all(who, keys, "session.ended")
    }

    pub(super) fn sessions_of_role_end(&self, who: &Who, project: &str, role: &str) -> Result<()> {
        let keys = self.inner.sessions.matching(usize::MAX, |row| {
            matches!(&row.subject, SessionSubject::Role { project: of, name, .. }
                if of == project && name == role)
        });
        self.end_all(who, keys, "session.ended")
    }

    fn prune_sessions(&self, who: &Who) -> Result<()> {
        let now = now_ms();
        if !self.inner.sessions.prune_due(now) {
            return Ok(());
        }
        let expired = |row: &SessionRow| row.expires_ms <= now;
        let keys = self.inner.sessions.matching(PRUNED_MAX, expired);
        self.end_all(who, keys, "session.expired")
    }

    fn end_all(&self, who: &Who, keys: Vec<String>, kind: &'static str) -> Result<()> {
        self.inner.sessions.remove(&keys);
        for key in keys {
            let entry = Entry::new(kind, &key);
            let store = &self.inner.store;
            match store.record_remove(who, "iam-session", &key, Some(entry)) {
                Err(error) if error.kind() == Kind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(())
    }
}

fn digest(token: &str) -> String {
    Sha256::digest(token.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
