//! The lock system that the protocol layer asks, for one request.
//!
//! It differs from the crate's own in three points of RFC 4918: a state token of an If header holds
//! only where that lock really is (10.4.4), a collection's own lock guards which members it has
//! (7.4), and every lock ends (6.6).

use super::locks::{Lock, Locks, NoLock, Wanted};
use super::place::{PREFIX, Place};
use super::session::Shared;
use crate::blocking;
use dav_server::davpath::DavPath;
use dav_server::ls::{DavLock, DavLockSystem, LsFuture};
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};
use xmltree::Element;

/// The locks as one request sees them.
#[derive(Clone)]
pub(super) struct Locking {
    pub(super) locks: Locks,
    pub(super) session: Shared,
}

impl fmt::Debug for Locking {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Locking")
    }
}

impl DavLockSystem for Locking {
    fn lock(
        &self,
        path: &DavPath,
        _principal: Option<&str>,
        owner: Option<&Element>,
        timeout: Option<Duration>,
        shared: bool,
        deep: bool,
    ) -> LsFuture<'_, Result<DavLock, DavLock>> {
        let path = path.clone();
        let owner = owner.map(text_of).unwrap_or_default();
        Box::pin(async move {
            let in_the_way = |lock: Option<Lock>| Err(shown(lock, &path));
            let Some(place) = Place::of_decoded(path.as_bytes()) else {
                return in_the_way(None);
            };
            let wanted = Wanted {
                place,
                principal: self.session.principal(),
                owner,
                timeout,
                shared,
                deep,
            };
            let (locks, who) = (self.locks.clone(), self.session.who());
            let taken = blocking::run(move || match locks.take(&who, wanted) {
                Ok(lock) => Ok(Ok(lock)),
                Err(NoLock::Held(held)) => Ok(Err(held)),
                Err(NoLock::Failed(error)) => Err(error),
            })
            .await;
            match taken {
                Ok(Ok(lock)) => Ok(shown(Some(lock), &path)),
                Ok(Err(held)) => in_the_way(Some(*held)),
                Err(error) => {
                    self.session.failed(error);
                    in_the_way(None)
                }
            }
        })
    }

    fn unlock(&self, path: &DavPath, token: &str) -> LsFuture<'_, Result<(), ()>> {
        let (place, token) = (Place::of_decoded(path.as_bytes()), token.to_owned());
        Box::pin(async move {
            let place = place.ok_or(())?;
            let (locks, who) = (self.locks.clone(), self.session.who());
            match blocking::run(move || locks.release(&who, &place, &token)).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(()),
                Err(error) => {
                    self.session.failed(error);
                    Err(())
                }
            }
        })
    }

    fn refresh(
        &self,
        path: &DavPath,
        token: &str,
        timeout: Option<Duration>,
    ) -> LsFuture<'_, Result<DavLock, ()>> {
        let (path, token) = (path.clone(), token.to_owned());
        Box::pin(async move {
            let place = Place::of_decoded(path.as_bytes()).ok_or(())?;
            let (locks, who) = (self.locks.clone(), self.session.who());
            match blocking::run(move || locks.refresh(&who, &place, &token, timeout)).await {
                Ok(Some(lock)) => Ok(shown(Some(lock), &path)),
                Ok(None) => Err(()),
                Err(error) => {
                    self.session.failed(error);
                    Err(())
                }
            }
        })
    }

    fn check(
        &self,
        path: &DavPath,
        principal: Option<&str>,
        ignore_principal: bool,
        deep: bool,
        submitted_tokens: &[String],
    ) -> LsFuture<'_, Result<(), DavLock>> {
        let found = self.judge(path, principal, ignore_principal, deep, submitted_tokens);
        Box::pin(std::future::ready(found))
    }

    fn discover(&self, path: &DavPath) -> LsFuture<'_, Vec<DavLock>> {
        let place = Place::of_decoded(path.as_bytes());
        let locks = place.map_or_else(Vec::new, |place| self.locks.covering(&place.name()));
        let locks = locks
            .into_iter()
            .map(|lock| shown(Some(lock), path))
            .collect();
        Box::pin(std::future::ready(locks))
    }

    fn delete(&self, path: &DavPath) -> LsFuture<'_, Result<(), ()>> {
        let place = Place::of_decoded(path.as_bytes());
        Box::pin(async move {
            let place = place.ok_or(())?;
            let (locks, who) = (self.locks.clone(), self.session.who());
            blocking::run(move || locks.release_below(&who, &place))
                .await
                .map_err(|error| {
                    self.session.failed(error);
                })
        })
    }
}

impl Locking {
    fn judge(
        &self,
        path: &DavPath,
        principal: Option<&str>,
        ignore_principal: bool,
        deep: bool,
        tokens: &[String],
    ) -> Result<(), DavLock> {
        let Some(place) = Place::of_decoded(path.as_bytes()) else {
            return Err(shown(None, path));
        };
        let name = place.name();
        let covering = self.locks.covering(&name);
        // So the protocol layer asks about one state token of an If header.
        if ignore_principal && principal.is_none() {
            let holds = covering.iter().any(|lock| tokens.contains(&lock.token));
            return if holds {
                Ok(())
            } else {
                Err(shown(None, path))
            };
        }
        let ours = |lock: &Lock| {
            tokens.contains(&lock.token)
                && (ignore_principal || principal == Some(lock.principal.as_str()))
        };
        // One of several shared locks is enough; an exclusive one stands alone anyway.
        let fits = |locks: &[Lock]| match locks.iter().find(|lock| !ours(lock)) {
            Some(held) if !locks.iter().any(ours) => Err(shown(Some(held.clone()), path)),
            Some(held) if !held.shared => Err(shown(Some(held.clone()), path)),
            _ => Ok(()),
        };
        fits(&covering)?;
        if deep && let Some(held) = self.locks.below(&name).into_iter().find(|lock| !ours(lock)) {
            return Err(shown(Some(held), path));
        }
        if self.session.changes_members {
            fits(&self.locks.at(&place.parent().name()))?;
        }
        Ok(())
    }
}

/// A lock as the protocol layer has it; without one, what stands for "no".
fn shown(lock: Option<Lock>, asked: &DavPath) -> DavLock {
    let Some(lock) = lock else {
        return DavLock {
            token: String::new(),
            path: Box::new(asked.clone()),
            principal: None,
            owner: None,
            timeout_at: None,
            timeout: None,
            shared: false,
            deep: false,
        };
    };
    let path = DavPath::new(&lock.href).ok().and_then(|mut path| {
        path.set_prefix(PREFIX).ok()?;
        Some(path)
    });
    DavLock {
        token: lock.token,
        path: Box::new(path.unwrap_or_else(|| asked.clone())),
        principal: Some(lock.principal),
        owner: Element::parse(lock.owner.as_bytes()).ok().map(Box::new),
        timeout_at: Some(UNIX_EPOCH + Duration::from_millis(lock.until_ms)),
        timeout: Some(Duration::from_secs(lock.seconds)),
        shared: lock.shared,
        deep: lock.deep,
    }
}

/// An element as text, to be kept.
fn text_of(element: &Element) -> String {
    let mut bytes = Vec::new();
    let config = xmltree::EmitterConfig::new().write_document_declaration(false);
    match element.write_with_config(&mut bytes, config) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
        Err(error) => {
            tracing::debug!(%error, "the owner of a lock cannot be kept");
            String::new()
        }
    }
}
