//! Conditional requests: If-Match and its kin (RFC 9110, section 13).
//!
//! Conditions on reading are judged here, against the object that is read. Conditions on writing
//! go down to the store, which judges them in the committing batch.

use super::stamp;
use blockstore::object::{Object, Precondition};
use s3s::dto::{ETagCondition, Timestamp, TimestampFormat};
use s3s::{S3Result, s3_error};

/// Conditions on the object that a request reads.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

/// What a condition says of an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Holds,
    /// The reader has it already.
    NotModified,
    /// This header's condition does not hold.
    Failed(&'static str),
}

impl Conditions {
    /// In the order of RFC 9110, 13.2.2.
    pub(super) fn judge(&self, object: &Object) -> Verdict {
        let modified = stamp(object.modified_ms / 1000 * 1000);
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(wanted), _) if !matches(wanted, &object.meta.etag) => {
                return Verdict::Failed("If-Match");
            }
            (None, Some(since)) if modified > *since => {
                return Verdict::Failed("If-Unmodified-Since");
            }
            _ => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(known), _) if matches(known, &object.meta.etag) => Verdict::NotModified,
            (None, Some(since)) if modified <= *since => Verdict::NotModified,
            _ => Verdict::Holds,
        }
    }

    /// The same on a copy's source, where there is no "not modified".
    pub(super) fn judge_source(&self, object: &Object) -> S3Result<()> {
        let header = match self.judge(object) {
            Verdict::Holds => return Ok(()),
            Verdict::NotModified if self.if_none_match.is_some() => {
                "x-amz-copy-source-if-none-match"
            }
            Verdict::NotModified => "x-amz-copy-source-if-modified-since",
            Verdict::Failed("If-Match") => "x-amz-copy-source-if-match",
            Verdict::Failed(_) => "x-amz-copy-source-if-unmodified-since",
        };
        Err(s3_error!(
            PreconditionFailed,
            "At least one of the pre-conditions you specified did not hold: {header}"
        ))
    }
}

/// The condition on what a write replaces.
pub(super) fn of_write(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Precondition> {
    let text = |condition: &ETagCondition| match condition {
        ETagCondition::Any => "*".to_owned(),
        ETagCondition::ETag(etag) => etag.value().to_owned(),
    };
    Ok(Precondition {
        if_match: if_match.map(text).into_iter().collect(),
        if_none_match: if_none_match.map(text).into_iter().collect(),
        ..Precondition::default()
    })
}

/// A time of a condition as the store compares it.
pub(super) fn milliseconds(time: &Timestamp) -> u64 {
    let mut text = Vec::new();
    let written = time.format(TimestampFormat::EpochSeconds, &mut text);
    let seconds = written
        .ok()
        .and_then(|()| String::from_utf8(text).ok())
        .and_then(|text| text.parse::<f64>().ok());
    // From a float the conversion saturates at both ends.
    seconds.map_or(0, |seconds| (seconds * 1000.0).round() as u64)
}

/// A size of a condition; no object has a negative one, nor the largest.
pub(super) fn size(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn matches(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.value() == etag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockstore::object::ObjectMeta;
    use s3s::dto::ETag;

    fn object() -> Object {
        Object {
            bucket: "b".into(),
            key: "k".into(),
            length_bytes: 1,
            modified_ms: 1_700_000_000_750,
            meta: ObjectMeta {
                etag: "abc".into(),
                ..ObjectMeta::default()
            },
            ..Object::default()
        }
    }

    fn etag(value: &str) -> Option<ETagCondition> {
        Some(ETagCondition::ETag(ETag::Strong(value.into())))
    }

    fn seconds(offset: i64) -> Option<Timestamp> {
        Some(stamp((1_700_000_000 + offset).unsigned_abs() * 1000))
    }

    #[test]
    fn etags_decide_before_dates() {
        let judge = |conditions: Conditions| conditions.judge(&object());
        let none = Conditions::default;
        assert_eq!(judge(none()), Verdict::Holds);
        assert_eq!(
            judge(Conditions {
                if_match: etag("abc"),
                ..none()
            }),
            Verdict::Holds
        );
        assert_eq!(
            judge(Conditions {
                if_match: etag("x"),
                ..none()
            }),
            Verdict::Failed("If-Match")
        );
        assert_eq!(
            judge(Conditions {
                if_match: etag("abc"),
                if_unmodified_since: seconds(-9),
                ..none()
            }),
            Verdict::Holds
        );
        assert_eq!(
            judge(Conditions {
                if_none_match: etag("abc"),
                ..none()
            }),
            Verdict::NotModified
        );
        assert_eq!(
            judge(Conditions {
                if_none_match: Some(ETagCondition::Any),
                ..none()
            }),
            Verdict::NotModified
        );
        assert_eq!(
            judge(Conditions {
                if_none_match: etag("x"),
                if_modified_since: seconds(9),
                ..none()
            }),
            Verdict::Holds
        );
    }

    #[test]
    fn dates_compare_by_the_second_that_last_modified_shows() {
        let judge = |conditions: Conditions| conditions.judge(&object());
        let none = Conditions::default;
        let since = |offset| Conditions {
            if_modified_since: seconds(offset),
            ..none()
        };
        assert_eq!(judge(since(-1)), Verdict::Holds);
        assert_eq!(judge(since(0)), Verdict::NotModified);
        let until = |offset| Conditions {
            if_unmodified_since: seconds(offset),
            ..none()
        };
        assert_eq!(judge(until(0)), Verdict::Holds);
        assert_eq!(judge(until(-1)), Verdict::Failed("If-Unmodified-Since"));
    }

    #[test]
    fn a_copy_fails_where_a_read_would_say_not_modified() {
        let conditions = Conditions {
            if_none_match: etag("abc"),
            ..Conditions::default()
        };
        let refused = conditions.judge_source(&object()).unwrap_err();
        assert_eq!(refused.code().as_str(), "PreconditionFailed");
        assert!(
            refused
                .message()
                .unwrap()
                .contains("x-amz-copy-source-if-none-match")
        );
    }

    #[test]
    fn a_write_can_ask_for_nothing_there_and_for_nothing_like_it() {
        let any = of_write(None, Some(&ETagCondition::Any)).unwrap();
        assert_eq!(any.if_none_match, ["*"]);
        let unlike = of_write(None, etag("abc").as_ref()).unwrap();
        assert_eq!(unlike.if_none_match, ["abc"]);
        assert_eq!(
            of_write(etag("abc").as_ref(), None).unwrap().if_match,
            ["abc"]
        );
    }
}
