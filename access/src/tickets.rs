//! Tickets: what opens one export over NBD on TCP, for a while, for whoever holds it.
//!
//! NBD has no credentials of its own. So an identity that may attach a volume has a random ticket made,
//! and the client shows it as part of the export's name.
//!
//! 1. The catalog keeps a ticket's hash, never the ticket.
//! 2. A ticket adds no right: whoever opens with it is decided about as its owner, at each opening.
//! 3. It ends by its date, or when it is revoked; what is open by then stays open.

use crate::{Access, Caller, Principal};
use blockstore::{Entry, Error, Kind, Result, Subject};
use rand::Rng;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What they are called in the catalog.
const KIND: &str = "nbd-ticket";
/// Letters and digits of a ticket: 190 bits.
const SECRET_LENGTH: usize = 32;
/// Hex digits of a ticket's id, the beginning of its hash.
const ID_LENGTH: usize = 16;
/// How long a ticket may live.
pub const TICKET_LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Tickets at once; those that have expired do not count.
const TICKETS_MAX: usize = 10_000;

/// A ticket, without what makes it one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Names it in lists and logs; opens nothing.
    pub id: String,
    /// The export, as NBD names it.
    pub export: String,
    /// Writes are refused.
    pub read_only: bool,
    /// In whose name it opens.
    pub owner: Principal,
    /// Milliseconds since the Unix epoch.
    pub made_ms: u64,
    /// The same; from then on it opens nothing.
    pub expires_ms: u64,
}

/// As the catalog keeps it (docs/FORMATS.md, "NBD tickets").
#[derive(Serialize, Deserialize)]
struct Row {
    v: u32,
    export: String,
    read_only: bool,
    owner: Owner,
    made_ms: u64,
    expires_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Owner {
    Root,
    User {
        name: String,
        project: String,
    },
    Session {
        role: String,
        session: String,
        project: String,
        key: String,
    },
    Service {
        name: String,
    },
}

impl Access {
    /// Makes a ticket for `export` in the name of `caller`, who was asked about already. The text is
    /// the ticket itself: it is shown now and never again.
    pub fn ticket_make(
        &self,
        caller: &Caller,
        export: &str,
        read_only: bool,
        lifetime: Duration,
    ) -> Result<(Ticket, String)> {
        let owner = owner_of(&caller.principal)?;
        if lifetime.is_zero() || lifetime > TICKET_LIFETIME_MAX {
            let text = format!(
                "a ticket lives 1 s to {} days, not {} s",
                TICKET_LIFETIME_MAX.as_secs() / (24 * 3600),
                lifetime.as_secs()
            );
            return Err(Error::new(Kind::Invalid, Subject::Record, text));
        }
        self.forget_expired(caller)?;
        let secret: String = rand::rng()
            .sample_iter(Alphanumeric)
            .take(SECRET_LENGTH)
            .map(char::from)
            .collect();
        let (hash, now) = (hash(&secret), now_ms());
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        let row = Row {
            v: 1,
            export: export.to_owned(),
            read_only,
            owner,
            made_ms: now,
            expires_ms: now.saturating_add(lifetime_ms),
        };
        let ticket = shown(&hash, &row);
        let what = if read_only { "to read" } else { "to write" };
        let entry = Entry::new("ticket.made", export).detail(format!("{} {what}", ticket.id));
        self.inner
            .store
            .record_create(&caller.who(), KIND, &hash, &encode(&row)?, Some(entry))?;
        Ok((ticket, secret))
    }

    /// What `secret` opens, if it is for `export`.
    pub fn ticket(&self, export: &str, secret: &str) -> Result<Ticket> {
        // The hash is looked up whole, so no comparison tells how much of a guess was right.
        let hash = hash(secret);
        let row = self.inner.store.record_get(KIND, &hash)?;
        let ticket = row.map(|row| decode(&hash, row)).transpose()?;
        let denied = |why: &str| {
            let text = format!("{why}: make one with infall volume attach");
            Err(Error::new(Kind::Denied, Subject::Identity, text))
        };
        match ticket {
            None => denied("the ticket is not valid here, or was revoked"),
            Some(ticket) if ticket.export != export => {
                denied("the ticket is for another export than this")
            }
            Some(ticket) if ticket.expires_ms <= now_ms() => denied("the ticket has expired"),
            Some(ticket) => Ok(ticket),
        }
    }

    /// All tickets that have not expired.
    pub fn tickets(&self) -> Result<Vec<Ticket>> {
        let now = now_ms();
        let mut all = self.all_tickets()?;
        all.retain(|(_, ticket)| ticket.expires_ms > now);
        Ok(all.into_iter().map(|(_, ticket)| ticket).collect())
    }

    /// Ends a ticket before its time.
    pub fn ticket_revoke(&self, caller: &Caller, id: &str) -> Result<Ticket> {
        let found = self
            .all_tickets()?
            .into_iter()
            .find(|(_, ticket)| ticket.id == id);
        let Some((hash, ticket)) = found else {
            let text = format!("no ticket {id:?}: it may have expired; look at the list");
            return Err(Error::new(Kind::NotFound, Subject::Record, text));
        };
        let entry = Entry::new("ticket.revoked", ticket.export.clone()).detail(id);
        self.inner
            .store
            .record_remove(&caller.who(), KIND, &hash, Some(entry))?;
        Ok(ticket)
    }

    fn all_tickets(&self) -> Result<Vec<(String, Ticket)>> {
        let rows = self.inner.store.record_list(KIND)?.into_iter();
        rows.map(|(hash, row)| decode(&hash, row).map(|ticket| (hash, ticket)))
            .collect()
    }

    /// Makes room. What another call has removed meanwhile is gone as well.
    fn forget_expired(&self, caller: &Caller) -> Result<()> {
        let (now, mut left) = (now_ms(), 0);
        for (hash, ticket) in self.all_tickets()? {
            if ticket.expires_ms > now {
                left += 1;
                continue;
            }
            match self
                .inner
                .store
                .record_remove(&caller.who(), KIND, &hash, None)
            {
                Err(error) if error.kind() != Kind::NotFound => return Err(error),
                _ => {}
            }
        }
        if left >= TICKETS_MAX {
            let text = format!("{TICKETS_MAX} tickets are the most at a time: revoke some first");
            return Err(Error::new(Kind::Unavailable, Subject::Record, text));
        }
        Ok(())
    }
}

fn owner_of(principal: &Principal) -> Result<Owner> {
    Ok(match principal {
        Principal::Anonymous => {
            let text = "nobody in particular cannot own a ticket: show a key";
            return Err(Error::new(Kind::Denied, Subject::Identity, text));
        }
        Principal::Root => Owner::Root,
        Principal::User { name, project } => Owner::User {
            name: name.clone(),
            project: project.clone(),
        },
        Principal::Session {
            role,
            session,
            project,
            key,
        } => Owner::Session {
            role: role.clone(),
            session: session.clone(),
            project: project.clone(),
            key: key.clone(),
        },
        Principal::Service { name } => Owner::Service { name: name.clone() },
    })
}

fn shown(hash: &str, row: &Row) -> Ticket {
    Ticket {
        id: hash[..ID_LENGTH.min(hash.len())].to_owned(),
        export: row.export.clone(),
        read_only: row.read_only,
        owner: match &row.owner {
            Owner::Root => Principal::Root,
            Owner::User { name, project } => Principal::User {
                name: name.clone(),
                project: project.clone(),
            },
            Owner::Session {
                role,
                session,
                project,
                key,
            } => Principal::Session {
                role: role.clone(),
                session: session.clone(),
                project: project.clone(),
                key: key.clone(),
            },
            Owner::Service { name } => Principal::Service { name: name.clone() },
        },
        made_ms: row.made_ms,
        expires_ms: row.expires_ms,
    }
}

fn encode(row: &Row) -> Result<serde_json::Value> {
    serde_json::to_value(row).map_err(|error| {
        Error::new(Kind::Internal, Subject::Record, "a ticket is no JSON").because(error)
    })
}

fn decode(hash: &str, row: serde_json::Value) -> Result<Ticket> {
    let row: Row = serde_json::from_value(row).map_err(|error| {
        let text = "a ticket's row is not what this version writes";
        Error::new(Kind::Corrupt, Subject::Record, text).because(error)
    })?;
    Ok(shown(hash, &row))
}

fn hash(secret: &str) -> String {
    let digest = Sha256::digest(secret.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Credentials;

    fn access() -> (Access, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let store = blockstore::Store::open(directory.path(), Default::default()).unwrap();
        let access = Access::open(store, Credentials::generate()).unwrap();
        (access, directory)
    }

    #[test]
    fn a_ticket_opens_its_export_only_until_it_ends() {
        let (access, _directory) = access();
        let caller = Caller::root("test");
        let hour = Duration::from_secs(3600);
        let (made, secret) = access.ticket_make(&caller, "root1", true, hour).unwrap();
        assert_eq!(access.ticket("root1", &secret).unwrap(), made);
        for (export, shown) in [("root2", secret.as_str()), ("root1", "x"), ("root1", "")] {
            let refused = access.ticket(export, shown).unwrap_err();
            assert_eq!(refused.kind(), Kind::Denied, "{export} {shown}");
            assert!(shown.len() < 2 || !refused.to_string().contains(shown));
        }
        let (_, short) = access
            .ticket_make(&caller, "root1", false, Duration::from_millis(1))
            .unwrap();
        std::thread::sleep(Duration::from_millis(5));
        let refused = access.ticket("root1", &short).unwrap_err();
        assert!(refused.to_string().contains("expired"), "{refused}");
        assert_eq!(access.tickets().unwrap(), std::slice::from_ref(&made));
        access.ticket_revoke(&caller, &made.id).unwrap();
        assert_eq!(
            access.ticket("root1", &secret).unwrap_err().kind(),
            Kind::Denied
        );
        assert_eq!(
            access.ticket_revoke(&caller, &made.id).unwrap_err().kind(),
            Kind::NotFound
        );
    }

    #[test]
    fn the_catalog_never_holds_the_ticket_itself() {
        let (access, _directory) = access();
        let caller = Caller::root("test");
        let hour = Duration::from_secs(3600);
        let (_, secret) = access.ticket_make(&caller, "root1", true, hour).unwrap();
        let rows = access.inner.store.record_list(KIND).unwrap();
        let events = access.inner.store.journal_after(0, 100).unwrap();
        assert!(!format!("{rows:?} {events:?}").contains(&secret));
    }

    #[test]
    fn lifetimes_are_bounded_and_nobody_owns_none() {
        let (access, _directory) = access();
        let caller = Caller::root("test");
        for lifetime in [Duration::ZERO, TICKET_LIFETIME_MAX + Duration::from_secs(1)] {
            let refused = access
                .ticket_make(&caller, "v", true, lifetime)
                .unwrap_err();
            assert_eq!(refused.kind(), Kind::Invalid);
        }
        let nobody = Caller {
            principal: Principal::Anonymous,
            ..caller
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(
            access
                .ticket_make(&nobody, "v", true, hour)
                .unwrap_err()
                .kind(),
            Kind::Denied
        );
    }
}
