//! Object lock: what keeps a version from being removed, and until when.
//!
//! ```text
//! retention  none ──▶ governance ──▶ compliance       longer in the same mode: always; all else:
//!                        │   ▲                        governance only with the bypass
//!                        └───┘                        compliance never
//! legal hold on ⇄ off, whatever the retention says
//! ```
//! 1. A protected version is removed by nothing: no delete, replacement, rename or removal of its
//!    bucket. The lock is asked in the transaction that would remove.
//! 2. Time is the server's clock. A retention that has run out protects nothing any more.
//! 3. Only versions in buckets with object lock have locks; such a bucket keeps versioning on.
//!
//! S3 user guide, "Locking objects with Object Lock".

use super::{Bucket, Object};
use crate::{Error, Kind, Result, Subject, clock};
use serde::{Deserialize, Serialize};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// S3 API, DefaultRetention: days up to a hundred years.
const DAYS_MAX: u32 = 36_500;
const YEARS_MAX: u32 = 100;

/// What keeps a version from being removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Until when, and how strictly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Until somebody ends it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub legal_hold: bool,
}

/// How long a version stays, and whether anyone may change that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// How strictly.
    pub mode: RetentionMode,
    /// Until when, milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// How strictly a retention holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RetentionMode {
    /// Those who may bypass it can shorten and end it.
    Governance,
    /// Nobody can.
    Compliance,
}

/// A bucket's object lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectLock {
    /// What a new version gets that brings no retention of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<DefaultRetention>,
}

/// The retention of new versions in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRetention {
    /// How strictly.
    pub mode: RetentionMode,
    /// For how long.
    pub period: Period,
}

/// A length of time as S3 states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// Of 24 hours.
    Days(u32),
    /// Of 365 days.
    Years(u32),
}

impl Lock {
    /// Whether there is no lock at all.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}

impl DefaultRetention {
    fn beginning_now(self) -> Retention {
        let days = match self.period {
            Period::Days(days) => u64::from(days),
            Period::Years(years) => 365 * u64::from(years),
        };
        Retention {
            mode: self.mode,
            until_ms: clock::now_ms() + days * DAY_MS,
        }
    }

    /// Invalid for no time at all, or more than S3 allows.
    pub(super) fn check(self, bucket: &str) -> Result<()> {
        let fits = match self.period {
            Period::Days(days) => (1..=DAYS_MAX).contains(&days),
            Period::Years(years) => (1..=YEARS_MAX).contains(&years),
        };
        if fits {
            return Ok(());
        }
        let text = format!(
            "the default retention of bucket {bucket:?} cannot be {:?}: give 1 to {DAYS_MAX} days, or 1 to {YEARS_MAX} years",
            self.period
        );
        Err(Error::new(Kind::Invalid, Subject::Bucket, text))
    }
}

/// The lock of a new version in `bucket` that brings `wanted`. Invalid where the bucket has no locks.
pub(super) fn of_new(bucket: &Bucket, wanted: Lock) -> Result<Lock> {
    let Some(config) = bucket.config.lock else {
        return if wanted.is_open() {
            Ok(wanted)
        } else {
            Err(without_locks(&bucket.name))
        };
    };
    if let Some(retention) = &wanted.retention {
        check_future(retention)?;
    }
    Ok(Lock {
        retention: wanted
            .retention
            .or_else(|| config.default.map(DefaultRetention::beginning_now)),
        ..wanted
    })
}

/// Invalid for a moment that is over.
pub(super) fn check_future(retention: &Retention) -> Result<()> {
    let now = clock::now_ms();
    if retention.until_ms > now {
        return Ok(());
    }
    let text = format!(
        "a retention ends in the future, this one would end at {} ms, and it is {now} ms: give a later date",
        retention.until_ms
    );
    Err(Error::new(Kind::Invalid, Subject::Object, text))
}

/// Denied unless this version may be removed for good now.
pub(super) fn check_removal(object: &Object, bypass_governance: bool) -> Result<()> {
    if object.meta.lock.legal_hold {
        return Err(protected(object, "a legal hold: end it first"));
    }
    match standing(object.meta.lock.retention) {
        None => Ok(()),
        Some(Retention {
            mode: RetentionMode::Governance,
            ..
        }) if bypass_governance => Ok(()),
        Some(retention) => Err(protected(object, &until(retention))),
    }
}

/// Denied unless the retention of this version may become `wanted` now.
pub(super) fn check_retention(
    object: &Object,
    wanted: Option<Retention>,
    bypass_governance: bool,
) -> Result<()> {
    if let Some(wanted) = &wanted {
        check_future(wanted)?;
    }
    let Some(present) = standing(object.meta.lock.retention) else {
        return Ok(());
    };
    // "In governance mode, users can't … alter its lock settings unless they have special permissions":
    // to compliance neither, from which there is no way back (S3 user guide, "Retention modes").
    let longer = wanted
        .is_some_and(|wanted| wanted.mode == present.mode && wanted.until_ms >= present.until_ms);
    let bypassed = present.mode == RetentionMode::Governance && bypass_governance;
    if longer || bypassed {
        return Ok(());
    }
    Err(protected(object, &until(present)))
}

/// What a bucket without object lock answers.
pub(super) fn without_locks(bucket: &str) -> Error {
    let text = format!(
        "bucket {bucket:?} has no object lock: turn it on for the bucket first (it needs versioning)"
    );
    Error::new(Kind::Invalid, Subject::Bucket, text)
}

/// A retention that still holds.
fn standing(retention: Option<Retention>) -> Option<Retention> {
    retention.filter(|retention| retention.until_ms > clock::now_ms())
}

fn until(retention: Retention) -> String {
    let mode = match retention.mode {
        RetentionMode::Governance => "governance",
        RetentionMode::Compliance => "compliance",
    };
    format!(
        "a {mode} retention until {} ms since 1970: wait until then",
        retention.until_ms
    )
}

fn protected(object: &Object, by: &str) -> Error {
    let text = format!(
        "version {} of {}/{} is kept by {by}",
        object.version, object.bucket, object.key
    );
    Error::new(Kind::Denied, Subject::Version, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use RetentionMode::{Compliance, Governance};

    fn object(lock: Lock) -> Object {
        let mut object = Object::default();
        object.meta.lock = lock;
        object
    }

    fn retained(mode: RetentionMode, in_ms: i64) -> Retention {
        Retention {
            mode,
            until_ms: clock::now_ms().saturating_add_signed(in_ms),
        }
    }

    #[test]
    fn only_the_bypass_opens_governance_and_nothing_opens_compliance() {
        let allowed =
            |lock: Lock| [false, true].map(|bypass| check_removal(&object(lock), bypass).is_ok());
        let lock = |retention, legal_hold| Lock {
            retention,
            legal_hold,
        };
        assert_eq!(allowed(lock(None, false)), [true, true]);
        assert_eq!(allowed(lock(None, true)), [false, false]);
        let governance = Some(retained(Governance, 60_000));
        assert_eq!(allowed(lock(governance, false)), [false, true]);
        assert_eq!(allowed(lock(governance, true)), [false, false]);
        let compliance = Some(retained(Compliance, 60_000));
        assert_eq!(allowed(lock(compliance, false)), [false, false]);
        let over = Some(retained(Compliance, -1));
        assert_eq!(allowed(lock(over, false)), [true, true]);
        assert_eq!(allowed(lock(over, true)), [false, false]);
    }

    #[test]
    fn a_retention_grows_freely_and_changes_otherwise_only_under_the_bypass() {
        let allowed = |present, wanted| {
            let object = object(Lock {
                retention: Some(present),
                legal_hold: false,
            });
            [false, true].map(|bypass| check_retention(&object, wanted, bypass).is_ok())
        };
        let (short, long) = (60_000, 120_000);
        let governance = retained(Governance, 90_000);
        assert_eq!(
            allowed(governance, Some(retained(Governance, long))),
            [true, true]
        );
        assert_eq!(
            allowed(governance, Some(retained(Compliance, long))),
            [false, true]
        );
        assert_eq!(
            allowed(governance, Some(retained(Governance, short))),
            [false, true]
        );
        assert_eq!(allowed(governance, None), [false, true]);
        let compliance = retained(Compliance, 90_000);
        assert_eq!(
            allowed(compliance, Some(retained(Compliance, long))),
            [true, true]
        );
        assert_eq!(
            allowed(compliance, Some(retained(Governance, long))),
            [false, false]
        );
        assert_eq!(
            allowed(compliance, Some(retained(Compliance, short))),
            [false, false]
        );
        assert_eq!(allowed(compliance, None), [false, false]);
        assert_eq!(allowed(retained(Compliance, -1), None), [true, true]);
        // Even over nothing a retention does not begin in the past.
        assert_eq!(
            allowed(retained(Compliance, -1), Some(retained(Governance, -1))),
            [false, false]
        );
    }
}
