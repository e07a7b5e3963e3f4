//! One request: who asks, for what, what was decided already, what the store said.
//!
//! 1. Each question is put to [`Access`] once a request: its answer holds until the reply.
//! 2. The protocol layer knows a dozen error codes and no words. So the first error of the store is
//!    kept here, and the door tells it.

use super::place::Place;
use access::{Access, Caller, Principal, Resource};
use axum::http::{HeaderMap, Method};
use blockstore::object::Object;
use blockstore::{Error, Kind, Who};
use dav_server::fs::FsError;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// What a request's parts share.
pub(super) struct Session {
    pub(super) access: Access,
    pub(super) caller: Caller,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) place: Place,
    /// What the URL named when the request came; `None` for nothing, or a collection.
    pub(super) object: Option<Object>,
    /// Where COPY and MOVE go.
    pub(super) target: Option<Place>,
    /// Whether the request adds to a collection or takes from it: then its parent's lock counts too.
    pub(super) changes_members: bool,
    /// Bodies on their way in.
    pub(super) incoming: Arc<Semaphore>,
    pub(super) decided: Mutex<HashSet<(String, String)>>,
    pub(super) failure: Mutex<Option<Error>>,
}

/// How the protocol layer holds it.
pub(super) type Shared = Arc<Session>;

impl Session {
    /// Whether the caller may. Blocks: the decision is recorded.
    pub(super) fn may(&self, action: &str, resource: &Resource<'_>) -> blockstore::Result<()> {
        let question = (action.to_owned(), resource.to_string());
        let decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        if decided.contains(&question) {
            return Ok(());
        }
        drop(decided);
        let prefix = match resource {
            Resource::Bucket(_) => self.place.prefix(),
            _ => String::new(),
        };
        let context = [("s3:prefix", prefix.as_str()), ("s3:delimiter", "/")];
        let context = if action == "s3:ListBucket" {
            &context[..]
        } else {
            &[]
        };
        self.access
            .authorize(&self.caller, action, resource, context)?;
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        decided.insert(question);
        Ok(())
    }

    /// Whether the caller may do this to an object.
    pub(super) fn may_object(
        &self,
        action: &str,
        bucket: &str,
        key: &str,
    ) -> blockstore::Result<()> {
        self.may(action, &Resource::Object(bucket, key))
    }

    /// Whether the caller may do everything, so that members of collections need not be asked for
    /// one by one.
    pub(super) fn is_root(&self) -> bool {
        self.caller.principal == Principal::Root
    }

    /// Who asks, for the journal.
    pub(super) fn who(&self) -> Who {
        self.caller.who()
    }

    /// How locks name their holder.
    pub(super) fn principal(&self) -> String {
        self.caller.principal.arn()
    }

    /// Keeps the store's words; gives the protocol layer its code.
    pub(super) fn failed(&self, error: Error) -> FsError {
        let code = match error.kind() {
            Kind::NotFound => FsError::NotFound,
            Kind::Conflict => FsError::Exists,
            Kind::Invalid | Kind::Denied => FsError::Forbidden,
            Kind::NoSpace => FsError::InsufficientStorage,
            Kind::Unsupported => FsError::NotImplemented,
            Kind::Precondition
            | Kind::Fenced
            | Kind::Unavailable
            | Kind::Corrupt
            | Kind::Internal => FsError::GeneralFailure,
        };
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        code
    }

    /// What the store said first, if anything.
    pub(super) fn take_failure(&self) -> Option<Error> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }
}
