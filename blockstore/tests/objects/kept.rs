//! Object lock: whatever tries, a protected version stays.

use super::{always, bytes, meta, open, part, sound, who};
use blockstore::object::{
    BucketChange, BucketConfig, DefaultRetention, Delete, Lock, ObjectLock, ObjectMeta, Period,
    Retention, RetentionMode, Versioning,
};
use blockstore::{Kind, Store, Subject};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

fn locked(default: Option<DefaultRetention>) -> BucketConfig {
    BucketConfig {
        lock: Some(ObjectLock { default }),
        ..BucketConfig::default()
    }
}

fn put(store: &Store, key: &str, lock: Lock) -> blockstore::Result<blockstore::object::Object> {
    let mut writer = store.object_writer("locks").unwrap();
    writer.write(&bytes(1, 20_000)).unwrap();
    let meta = ObjectMeta { lock, ..meta("e") };
    writer.commit(&who(), key, meta, &always())
}

fn retained(mode: RetentionMode, in_ms: u64) -> Lock {
    Lock {
        retention: Some(Retention {
            mode,
            until_ms: now_ms() + in_ms,
        }),
        legal_hold: false,
    }
}

fn ask(key: &str, version: &str, bypass_governance: bool) -> Delete {
    Delete {
        key: key.into(),
        version: Some(version.into()),
        bypass_governance,
        ..Delete::default()
    }
}

#[test]
fn nothing_removes_a_locked_version_until_its_time_is_over() {
    let (_directory, store) = open();
    store
        .bucket_create_with(&who(), "locks", locked(None))
        .unwrap();
    let compliance = put(&store, "c", retained(RetentionMode::Compliance, 1500)).unwrap();
    let governance = put(&store, "g", retained(RetentionMode::Governance, 60_000)).unwrap();
    let held = put(
        &store,
        "h",
        Lock {
            retention: None,
            legal_hold: true,
        },
    )
    .unwrap();
    let denied = |ask: &Delete| {
        let error = store.object_delete(&who(), "locks", ask).unwrap_err();
        assert_eq!(
            (error.kind(), error.subject()),
            (Kind::Denied, Subject::Version)
        );
    };
    denied(&ask("c", &compliance.version, true));
    denied(&ask("g", &governance.version, false));
    denied(&ask("h", &held.version, true));
    // What hides, replaces or moves away leaves the version where it is.
    let hide = Delete {
        key: "c".into(),
        ..Delete::default()
    };
    store.object_delete(&who(), "locks", &hide).unwrap();
    put(&store, "g", Lock::default()).unwrap();
    store
        .object_rename(&who(), ("locks", "h"), ("abc", "h"), true)
        .unwrap();
    store
        .object_rename(&who(), ("abc", "h"), ("locks", "c"), true)
        .unwrap();
    for (key, object) in [("c", &compliance), ("g", &governance), ("h", &held)] {
        let found = store.object_version("locks", key, &object.version).unwrap();
        assert_eq!(found.meta.lock, object.meta.lock);
    }
    assert_eq!(
        store.bucket_remove(&who(), "locks").unwrap_err().kind(),
        Kind::Conflict
    );
    // Versioning, and the lock itself, stay on.
    let suspend = BucketChange {
        versioning: Some(Versioning::Suspended),
        ..BucketChange::default()
    };
    let error = store
        .bucket_configure(&who(), "locks", &suspend)
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::Conflict, Subject::Bucket)
    );
    store
        .object_delete(&who(), "locks", &ask("g", &governance.version, true))
        .unwrap();
    store
        .object_hold(&who(), "locks", "h", Some(&held.version), false)
        .unwrap();
    store
        .object_delete(&who(), "locks", &ask("h", &held.version, false))
        .unwrap();
    while now_ms() <= compliance.meta.lock.retention.unwrap().until_ms {
        std::thread::sleep(Duration::from_millis(50));
    }
    store
        .object_delete(&who(), "locks", &ask("c", &compliance.version, false))
        .unwrap();
    sound(&store, 2);
}

#[test]
fn a_retention_is_shortened_by_nobody_or_only_under_the_bypass() {
    let (_directory, store) = open();
    store
        .bucket_create_with(&who(), "locks", locked(None))
        .unwrap();
    put(&store, "k", retained(RetentionMode::Governance, 60_000)).unwrap();
    let retain = |retention: Option<Retention>, bypass| {
        store
            .object_retain(&who(), "locks", "k", None, retention, bypass)
            .map(|object| object.meta.lock.retention)
            .map_err(|error| (error.kind(), error.subject()))
    };
    let of = |mode, in_ms| retained(mode, in_ms).retention;
    let shorter = of(RetentionMode::Governance, 30_000);
    let denied = Err((Kind::Denied, Subject::Version));
    assert_eq!(retain(shorter, false), denied);
    assert_eq!(retain(shorter, true), Ok(shorter));
    let longer = of(RetentionMode::Compliance, 90_000);
    // To a mode from which there is no way back neither.
    assert_eq!(retain(longer, false), denied);
    assert_eq!(retain(longer, true), Ok(longer));
    assert_eq!(retain(shorter, true), denied);
    assert_eq!(retain(None, true), denied);
    assert_eq!(
        retain(
            Some(Retention {
                mode: RetentionMode::Governance,
                until_ms: 1
            }),
            true
        ),
        Err((Kind::Invalid, Subject::Object))
    );
}

#[test]
fn a_bucket_s_default_reaches_every_new_version_whatever_made_it() {
    let (_directory, store) = open();
    let default = DefaultRetention {
        mode: RetentionMode::Governance,
        period: Period::Days(2),
    };
    store
        .bucket_create_with(&who(), "locks", locked(Some(default)))
        .unwrap();
    put(&store, "put", Lock::default()).unwrap();
    super::put(&store, "source", b"x");
    store
        .object_copy(
            &who(),
            ("abc", "source"),
            ("locks", "copy"),
            None,
            &always(),
            &always(),
        )
        .unwrap();
    store
        .object_rename(&who(), ("abc", "source"), ("locks", "renamed"), false)
        .unwrap();
    let upload = store
        .upload_create(&who(), "locks", "upload", meta(""))
        .unwrap();
    let named = part(&store, &upload, 1, b"1234567");
    store
        .upload_complete(&who(), &upload, &[named], meta("e-1"), &always())
        .unwrap();
    for key in ["put", "copy", "renamed", "upload"] {
        let object = store.object_head("locks", key).unwrap();
        let retention = object.meta.lock.retention.unwrap();
        let days = (retention.until_ms - object.modified_ms + 1000) / (24 * 60 * 60 * 1000);
        assert_eq!(
            (retention.mode, days),
            (RetentionMode::Governance, 2),
            "{key}"
        );
    }
    // One that brings its own keeps it.
    let own = retained(RetentionMode::Compliance, 60_000);
    assert_eq!(put(&store, "own", own).unwrap().meta.lock, own);
}

#[test]
fn locks_are_refused_where_there_is_no_object_lock() {
    let (_directory, store) = open();
    store.bucket_create(&who(), "locks").unwrap();
    let error = put(&store, "k", retained(RetentionMode::Governance, 9000)).unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::Invalid, Subject::Bucket)
    );
    put(&store, "k", Lock::default()).unwrap();
    let error = store
        .object_hold(&who(), "locks", "k", None, true)
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::Invalid, Subject::Bucket)
    );
    let change = |versioning, lock| BucketChange {
        versioning,
        lock,
        ownership: None,
    };
    let lock = Some(ObjectLock::default());
    let refused = store.bucket_configure(&who(), "locks", &change(None, lock));
    assert_eq!(refused.unwrap_err().kind(), Kind::Conflict);
    // Turned on later, it reaches what comes then.
    store
        .bucket_configure(&who(), "locks", &change(Some(Versioning::Enabled), lock))
        .unwrap();
    store.object_hold(&who(), "locks", "k", None, true).unwrap();
    let endless = Some(ObjectLock {
        default: Some(DefaultRetention {
            mode: RetentionMode::Compliance,
            period: Period::Years(0),
        }),
    });
    let refused = store.bucket_configure(&who(), "locks", &change(None, endless));
    assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
}
