//! Object lock: retention, legal holds, and a bucket's default ("Locking objects with Object Lock",
//! Amazon S3 user guide). The store enforces them, in the transaction that would remove a version.

use super::condition::milliseconds;
use super::{Door, actions, stamp, who};
use blockstore::object::{
    Bucket, BucketChange, DefaultRetention, Lock, Object, ObjectLock, Period, Retention,
    RetentionMode, Versioning,
};
use blockstore::{Kind, Subject};
use http::HeaderMap;
use s3s::dto::{
    self, GetObjectLegalHoldInput, GetObjectLegalHoldOutput, GetObjectLockConfigurationInput,
    GetObjectLockConfigurationOutput, GetObjectRetentionInput, GetObjectRetentionOutput,
    ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold, ObjectLockLegalHoldStatus,
    ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode, ObjectLockRule,
    PutObjectLegalHoldInput, PutObjectLegalHoldOutput, PutObjectLockConfigurationInput,
    PutObjectLockConfigurationOutput, PutObjectRetentionInput, PutObjectRetentionOutput, Timestamp,
    TimestampFormat,
};
use s3s::{S3Error, S3Request, S3Result, s3_error};
use std::time::{SystemTime, UNIX_EPOCH};

const DAYS_MAX: i32 = 36_500;
const YEARS_MAX: i32 = 100;

/// The lock that the headers of a write ask for.
pub(super) fn of_headers(headers: &HeaderMap, bucket: &Bucket) -> S3Result<Lock> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mode = text("x-amz-object-lock-mode");
    let until = text("x-amz-object-lock-retain-until-date");
    let hold = text("x-amz-object-lock-legal-hold");
    if mode.is_none() && until.is_none() && hold.is_none() {
        return Ok(Lock::default());
    }
    if bucket.config.lock.is_none() {
        return Err(not_configured());
    }
    let retention = match (mode, until) {
        (None, None) => None,
        (Some(mode), Some(until)) => {
            let until = Timestamp::parse(TimestampFormat::DateTime, until).map_err(|_| {
                s3_error!(
                    InvalidArgument,
                    "The retain until date must be provided in ISO 8601 format: {until:?}"
                )
            })?;
            Some(retention(mode, &until)?)
        }
        _ => {
            return Err(s3_error!(
                InvalidArgument,
                "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be \
                 supplied"
            ));
        }
    };
    let legal_hold = match hold {
        None | Some("OFF") => false,
        Some("ON") => true,
        Some(other) => {
            return Err(s3_error!(
                InvalidArgument,
                "Legal Hold must be either of 'ON' or 'OFF': it is {other:?}"
            ));
        }
    };
    Ok(Lock {
        retention,
        legal_hold,
    })
}

pub(super) fn mode_of(object: &Object) -> Option<ObjectLockMode> {
    let retention = object.meta.lock.retention.as_ref()?;
    Some(ObjectLockMode::from_static(name(retention.mode)))
}

pub(super) fn until_of(object: &Object) -> Option<Timestamp> {
    let retention = object.meta.lock.retention.as_ref()?;
    Some(stamp(retention.until_ms))
}

pub(super) fn hold_of(object: &Object) -> Option<ObjectLockLegalHoldStatus> {
    let held = object.meta.lock.legal_hold;
    held.then(|| ObjectLockLegalHoldStatus::from_static(ObjectLockLegalHoldStatus::ON))
}

fn name(mode: RetentionMode) -> &'static str {
    match mode {
        RetentionMode::Governance => "GOVERNANCE",
        RetentionMode::Compliance => "COMPLIANCE",
    }
}

fn mode(text: &str) -> S3Result<RetentionMode> {
    match text {
        "GOVERNANCE" => Ok(RetentionMode::Governance),
        "COMPLIANCE" => Ok(RetentionMode::Compliance),
        other => Err(s3_error!(
            MalformedXML,
            "Unknown wormMode directive: {other:?} is neither GOVERNANCE nor COMPLIANCE"
        )),
    }
}

fn retention(text: &str, until: &Timestamp) -> S3Result<Retention> {
    let mode = mode(text)?;
    let until_ms = milliseconds(until);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    if until_ms <= now {
        return Err(s3_error!(
            InvalidArgument,
            "The retain until date must be in the future!"
        ));
    }
    Ok(Retention { mode, until_ms })
}

fn not_configured() -> S3Error {
    s3_error!(
        InvalidRequest,
        "Bucket is missing Object Lock Configuration"
    )
}

/// A bucket without locks has no use for this request.
async fn expect_locks(door: &Door, bucket: &str) -> S3Result<()> {
    let bucket = bucket.to_owned();
    let found = door.ask(move |store| store.bucket(&bucket)).await?;
    found.config.lock.map(drop).ok_or_else(not_configured)
}

pub(super) async fn put_configuration(
    door: &Door,
    request: S3Request<PutObjectLockConfigurationInput>,
) -> S3Result<PutObjectLockConfigurationOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let lock = configuration(input.object_lock_configuration)?;
    let change = BucketChange {
        lock: Some(lock),
        ..BucketChange::default()
    };
    let state = |why: &str| {
        s3_error!(
            InvalidBucketState,
            "Object Lock configuration cannot be enabled on existing buckets without versioning: \
             {why}"
        )
    };
    let changed = door
        .ask(move |store| {
            let found = store.bucket(&input.bucket)?;
            if found.config.lock.is_none() && found.config.versioning != Versioning::Enabled {
                return Ok(Err("enable versioning first".to_owned()));
            }
            match store.bucket_configure(&who, &input.bucket, &change) {
                Err(refused)
                    if refused.kind() == Kind::Conflict && refused.subject() == Subject::Bucket =>
                {
                    Ok(Err(refused.to_string()))
                }
                other => other.map(Ok),
            }
        })
        .await?;
    changed.map_err(|why| state(&why))?;
    Ok(PutObjectLockConfigurationOutput::default())
}

fn configuration(asked: Option<ObjectLockConfiguration>) -> S3Result<ObjectLock> {
    let malformed = |why: &str| {
        s3_error!(
            MalformedXML,
            "The XML you provided was not well-formed or did not validate against our published \
             schema: {why}"
        )
    };
    let asked = asked.ok_or_else(|| malformed("it has no ObjectLockConfiguration"))?;
    let enabled = asked
        .object_lock_enabled
        .is_some_and(|enabled| enabled.as_str() == ObjectLockEnabled::ENABLED);
    if !enabled {
        return Err(malformed("ObjectLockEnabled must be Enabled"));
    }
    let Some(rule) = asked.rule else {
        return Ok(ObjectLock { default: None });
    };
    let default = rule
        .default_retention
        .ok_or_else(|| malformed("a Rule has a DefaultRetention"))?;
    let text = default
        .mode
        .as_ref()
        .map(ObjectLockRetentionMode::as_str)
        .ok_or_else(|| malformed("DefaultRetention has a Mode"))?;
    let mode = mode(text)?;
    let invalid = |what: &str| {
        super::error::custom(
            "InvalidRetentionPeriod",
            http::StatusCode::BAD_REQUEST,
            format!("The retention period must be a positive integer value: {what}"),
        )
    };
    let bounded = |number: i32, most: i32| {
        u32::try_from(number)
            .ok()
            .filter(|_| (1..=most).contains(&number))
    };
    let period = match (default.days, default.years) {
        (Some(days), None) => bounded(days, DAYS_MAX)
            .map(Period::Days)
            .ok_or_else(|| invalid(&format!("{days} days, 1 to {DAYS_MAX} are taken")))?,
        (None, Some(years)) => bounded(years, YEARS_MAX)
            .map(Period::Years)
            .ok_or_else(|| invalid(&format!("{years} years, 1 to {YEARS_MAX} are taken")))?,
        _ => return Err(malformed("DefaultRetention has either Days or Years")),
    };
    Ok(ObjectLock {
        default: Some(DefaultRetention { mode, period }),
    })
}

pub(super) async fn get_configuration(
    door: &Door,
    request: S3Request<GetObjectLockConfigurationInput>,
) -> S3Result<GetObjectLockConfigurationOutput> {
    let bucket = request.input.bucket;
    let found = door.ask(move |store| store.bucket(&bucket)).await?;
    let Some(lock) = found.config.lock else {
        return Err(s3_error!(
            ObjectLockConfigurationNotFoundError,
            "Object Lock configuration does not exist for this bucket"
        ));
    };
    let rule = lock.default.map(|default| {
        let (days, years) = match default.period {
            Period::Days(days) => (i32::try_from(days).ok(), None),
            Period::Years(years) => (None, i32::try_from(years).ok()),
        };
        ObjectLockRule {
            default_retention: Some(dto::DefaultRetention {
                days,
                mode: Some(ObjectLockRetentionMode::from_static(name(default.mode))),
                years,
            }),
        }
    });
    Ok(GetObjectLockConfigurationOutput {
        object_lock_configuration: Some(ObjectLockConfiguration {
            object_lock_enabled: Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED)),
            rule,
        }),
    })
}

pub(super) async fn put_retention(
    door: &Door,
    request: S3Request<PutObjectRetentionInput>,
) -> S3Result<PutObjectRetentionOutput> {
    let who = who(&request.extensions);
    let bypass = actions::is_true(&request.headers, "x-amz-bypass-governance-retention");
    let input = request.input;
    expect_locks(door, &input.bucket).await?;
    let asked = input.retention.unwrap_or_default();
    let retention = match (asked.mode, asked.retain_until_date) {
        (Some(mode), Some(until)) => Some(retention(mode.as_str(), &until)?),
        // An empty element takes the retention away, where that is allowed.
        (None, None) => None,
        _ => {
            return Err(s3_error!(
                MalformedXML,
                "A retention has both Mode and RetainUntilDate"
            ));
        }
    };
    let (bucket, key, version) = (input.bucket, input.key, input.version_id);
    door.ask(move |store| {
        store.object_retain(&who, &bucket, &key, version.as_deref(), retention, bypass)
    })
    .await?;
    Ok(PutObjectRetentionOutput::default())
}

pub(super) async fn get_retention(
    door: &Door,
    request: S3Request<GetObjectRetentionInput>,
) -> S3Result<GetObjectRetentionOutput> {
    let input = request.input;
    expect_locks(door, &input.bucket).await?;
    let object = door
        .version(&input.bucket, &input.key, input.version_id.as_deref())
        .await?;
    let Some(retention) = &object.meta.lock.retention else {
        return Err(unlocked());
    };
    Ok(GetObjectRetentionOutput {
        retention: Some(ObjectLockRetention {
            mode: Some(ObjectLockRetentionMode::from_static(name(retention.mode))),
            retain_until_date: Some(stamp(retention.until_ms)),
        }),
    })
}

fn unlocked() -> S3Error {
    s3_error!(
        NoSuchObjectLockConfiguration,
        "The specified object does not have a ObjectLock configuration"
    )
}

pub(super) async fn put_hold(
    door: &Door,
    request: S3Request<PutObjectLegalHoldInput>,
) -> S3Result<PutObjectLegalHoldOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    expect_locks(door, &input.bucket).await?;
    let status = input.legal_hold.and_then(|hold| hold.status);
    let on = match status.as_ref().map(ObjectLockLegalHoldStatus::as_str) {
        Some(ObjectLockLegalHoldStatus::ON) => true,
        Some(ObjectLockLegalHoldStatus::OFF) => false,
        _ => {
            return Err(s3_error!(
                MalformedXML,
                "The Status of a LegalHold is ON or OFF"
            ));
        }
    };
    let (bucket, key, version) = (input.bucket, input.key, input.version_id);
    door.ask(move |store| store.object_hold(&who, &bucket, &key, version.as_deref(), on))
        .await?;
    Ok(PutObjectLegalHoldOutput::default())
}

pub(super) async fn get_hold(
    door: &Door,
    request: S3Request<GetObjectLegalHoldInput>,
) -> S3Result<GetObjectLegalHoldOutput> {
    let input = request.input;
    expect_locks(door, &input.bucket).await?;
    let object = door
        .version(&input.bucket, &input.key, input.version_id.as_deref())
        .await?;
    let status = if object.meta.lock.legal_hold {
        ObjectLockLegalHoldStatus::ON
    } else {
        ObjectLockLegalHoldStatus::OFF
    };
    Ok(GetObjectLegalHoldOutput {
        legal_hold: Some(ObjectLockLegalHold {
            status: Some(ObjectLockLegalHoldStatus::from_static(status)),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn bucket(locks: bool) -> Bucket {
        let mut bucket: Bucket =
            serde_json::from_value(serde_json::json!({"name": "b", "created_ms": 0})).unwrap();
        bucket.config.lock = locks.then_some(ObjectLock { default: None });
        bucket
    }

    const LATER: &str = "2100-01-01T00:00:00Z";

    #[test]
    fn a_lock_is_asked_for_whole_and_only_where_the_bucket_has_locks() {
        let code = |pairs: &[(&'static str, &str)], locks| {
            of_headers(&headers(pairs), &bucket(locks))
                .map_err(|refused| refused.code().as_str().to_owned())
        };
        assert_eq!(code(&[], false), Ok(Lock::default()));
        let mode = ("x-amz-object-lock-mode", "GOVERNANCE");
        let until = ("x-amz-object-lock-retain-until-date", LATER);
        let kept = code(&[mode, until], true).unwrap();
        assert_eq!(kept.retention.unwrap().until_ms, 4_102_444_800_000);
        assert_eq!(code(&[mode, until], false), Err("InvalidRequest".into()));
        assert_eq!(code(&[mode], true), Err("InvalidArgument".into()));
        assert_eq!(code(&[until], true), Err("InvalidArgument".into()));
        let past = (
            "x-amz-object-lock-retain-until-date",
            "2001-01-01T00:00:00Z",
        );
        assert_eq!(code(&[mode, past], true), Err("InvalidArgument".into()));
        let hold = [("x-amz-object-lock-legal-hold", "on")];
        assert_eq!(code(&hold, true), Err("InvalidArgument".into()));
    }

    #[test]
    fn a_default_retention_has_one_period_of_a_bounded_length() {
        let of = |days, years| {
            configuration(Some(ObjectLockConfiguration {
                object_lock_enabled: Some(ObjectLockEnabled::from_static("Enabled")),
                rule: Some(ObjectLockRule {
                    default_retention: Some(dto::DefaultRetention {
                        days,
                        mode: Some(ObjectLockRetentionMode::from_static("COMPLIANCE")),
                        years,
                    }),
                }),
            }))
            .map_err(|refused| refused.code().as_str().to_owned())
        };
        assert!(of(Some(1), None).is_ok() && of(None, Some(100)).is_ok());
        assert_eq!(of(Some(0), None), Err("InvalidRetentionPeriod".into()));
        assert_eq!(of(None, Some(-1)), Err("InvalidRetentionPeriod".into()));
        assert_eq!(of(Some(1), Some(1)), Err("MalformedXML".into()));
        assert_eq!(of(None, None), Err("MalformedXML".into()));
        assert!(configuration(None).is_err());
    }
}
