//! Who the mount acts as, and what they may do: every operation asks here first.
//!
//! 1. A mount acts as the caller who made it, whichever local user's program uses it.
//! 2. A decision is believed for [`DECISION_VALID`], so that paths asked for again and again cost
//!    no policy; a grant taken back ends within that time, also for files that are open to be written.
//! 3. The actions are S3's for buckets and objects; ours for volumes, snapshots and images.

use super::failure::{Failure, Result};
use super::locked;
use access::{Access, Caller, Resource};
use blockstore::{Kind, Who};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a decision is believed.
const DECISION_VALID: Duration = Duration::from_secs(2);
/// Decisions remembered.
const DECISIONS_MAX: usize = 4096;

/// The caller behind a mount, and the decisions about them.
pub(super) struct Guard {
    access: Access,
    caller: Caller,
    decided: Mutex<HashMap<Question, Decided>>,
}

#[derive(PartialEq, Eq, Hash)]
struct Question {
    action: &'static str,
    /// The resource's ARN, and the prefix where one is listed.
    about: String,
}

struct Decided {
    at: Instant,
    /// Why not, or nothing.
    refused: Option<String>,
}

impl Guard {
    pub(super) fn new(access: Access, caller: Caller) -> Self {
        Self {
            access,
            caller,
            decided: Mutex::default(),
        }
    }

    /// As the store and its journal want it.
    pub(super) fn who(&self) -> Who {
        self.caller.who()
    }

    /// Whether the caller may do `action` to `resource`.
    pub(super) fn may(&self, action: &'static str, resource: Resource<'_>) -> Result<()> {
        self.decide(action, resource, "", &[])
    }

    /// Whether the caller may list the keys of `bucket` under `prefix`.
    pub(super) fn may_list(&self, bucket: &str, prefix: &str) -> Result<()> {
        let context = [("s3:prefix", prefix), ("s3:delimiter", "/")];
        self.decide(
            "s3:ListBucket",
            Resource::Bucket(bucket),
            &format!("?{prefix}"),
            &context,
        )
    }

    /// Whether the caller may learn what `key` is: they list its directory, or what lies below it, or
    /// read it.
    pub(super) fn may_look_up(&self, bucket: &str, prefix: &str, key: &str) -> Result<()> {
        self.may_list(bucket, prefix)
            .or_else(|_| self.may_list(bucket, &format!("{key}/")))
            .or_else(|_| self.may("s3:GetObject", Resource::Object(bucket, key)))
            .or_else(|_| self.may("s3:PutObject", Resource::Object(bucket, key)))
    }

    fn decide(
        &self,
        action: &'static str,
        resource: Resource<'_>,
        detail: &str,
        context: &[(&str, &str)],
    ) -> Result<()> {
        let question = Question {
            action,
            about: format!("{resource}{detail}"),
        };
        if let Some(known) = locked(&self.decided).get(&question)
            && known.at.elapsed() < DECISION_VALID
        {
            return known.answer();
        }
        let refused = match self
            .access
            .authorize(&self.caller, action, &resource, context)
        {
            Ok(()) => None,
            Err(error) if error.kind() == Kind::Denied => Some(error.to_string()),
            // Not decided: neither remembered nor allowed.
            Err(error) => return Err(error.into()),
        };
        let decided = Decided {
            at: Instant::now(),
            refused,
        };
        let answer = decided.answer();
        let mut all = locked(&self.decided);
        if all.len() >= DECISIONS_MAX {
            all.retain(|_, known| known.at.elapsed() < DECISION_VALID);
        }
        if all.len() < DECISIONS_MAX {
            all.insert(question, decided);
        }
        answer
    }
}

impl Decided {
    fn answer(&self) -> Result<()> {
        match &self.refused {
            None => Ok(()),
            Some(why) => Err(Failure::Refused(why.clone())),
        }
    }
}
