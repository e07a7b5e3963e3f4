//! Usage is what is there, and quotas are kept to.

use super::{MIB, always, bytes, meta, open, part, reopen, sound, who};
use blockstore::object::{BucketChange, Delete, Quota, Usage, Versioning};
use blockstore::volume::Origin;
use blockstore::{Error, Kind, Store, Subject, Who};
use serde_json::json;

fn blue() -> Who {
    Who {
        project: "blue".into(),
        ..who()
    }
}

fn with_quota(quota: &serde_json::Value) -> (tempfile::TempDir, Store) {
    let (directory, store) = open();
    let project = json!({"name": "blue", "quota": quota});
    store
        .record_put(&who(), "project", "blue", &project, None)
        .unwrap();
    store.bucket_create(&blue(), "blue").unwrap();
    (directory, store)
}

fn put(store: &Store, key: &str, count: usize) -> Result<(), Error> {
    let mut writer = store.object_writer("blue")?;
    writer.write(&bytes(1, count))?;
    writer.commit(&who(), key, meta("e"), &always())?;
    Ok(())
}

fn over<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
    let error = outcome.unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::NoSpace, Subject::Project)
    );
    error.to_string()
}

#[test]
fn bytes_beyond_the_quota_are_refused_whatever_brings_them() {
    let (_directory, store) = with_quota(&json!({"bytes": 100_000}));
    put(&store, "k", 60_000).unwrap();
    let text = over(put(&store, "l", 50_000));
    assert!(
        text.contains("100000 bytes") && text.contains("60000") && text.contains("110000"),
        "{text}"
    );
    // Before a byte is written, if the length is known.
    over(store.quota_admit("blue", 40_001));
    over(store.quota_admit_bucket("blue", 40_001));
    store.quota_admit("blue", 40_000).unwrap();
    store.quota_admit("root", u64::MAX).unwrap();
    // And in the middle of a body, if not.
    let mut writer = store.object_writer("blue").unwrap();
    let before = store.stats().unwrap().written_client_bytes;
    over((0..1000).try_for_each(|_| writer.write(&bytes(2, MIB))));
    assert!(store.stats().unwrap().written_client_bytes - before <= MIB as u64);
    drop(writer);
    let copy = |target: &str| {
        store.object_copy(
            &who(),
            ("blue", "k"),
            ("blue", target),
            None,
            &always(),
            &always(),
        )
    };
    over(copy("m"));
    over(store.bucket_snapshot_create(&who(), "blue", "", "s"));
    super::put(&store, "rich", &bytes(3, 50_000));
    over(store.object_rename(&who(), ("abc", "rich"), ("blue", "n"), false));
    let upload = store.upload_create(&who(), "blue", "up", meta("")).unwrap();
    let named = part(&store, &upload, 1, &bytes(4, 40_000));
    let mut writer = store.object_writer("blue").unwrap();
    over(writer.write(&[0; 1]));
    // The parts become the object: nothing is added.
    store
        .upload_complete(&who(), &upload, &[named], meta("e-1"), &always())
        .unwrap();
    assert_eq!(store.usage("blue").unwrap().bytes, 100_000);
    // Giving back is never refused, and makes room.
    let ask = Delete {
        key: "k".into(),
        ..Delete::default()
    };
    store.object_delete(&who(), "blue", &ask).unwrap();
    put(&store, "l", 60_000).unwrap();
    sound(&store, 3);
}

#[test]
fn what_a_body_replaces_makes_room_for_it() {
    let (_directory, store) = with_quota(&json!({"bytes": 100_000}));
    put(&store, "k", 60_000).unwrap();
    store.quota_admit_object("blue", "k", 100_000).unwrap();
    over(store.quota_admit_object("blue", "k", 100_001));
    over(store.quota_admit_object("blue", "l", 40_001));
    let replace = |count| {
        let mut writer = store.object_writer_for("blue", "k")?;
        bytes(2, count)
            .chunks(7_000)
            .try_for_each(|some| writer.write(some))?;
        writer.commit(&who(), "k", meta("e"), &always())
    };
    replace(100_000).unwrap();
    over(replace(100_001));
    // A project over a quota that was lowered may still make its objects smaller.
    let project = json!({"name": "blue", "quota": {"bytes": 10}});
    store
        .record_put(&who(), "project", "blue", &project, None)
        .unwrap();
    over(replace(100_001));
    replace(90_000).unwrap();
    // Where versions are kept nothing makes way, and where they are suspended only the version null.
    let project = json!({"name": "blue", "quota": {"bytes": 100_000}});
    store
        .record_put(&who(), "project", "blue", &project, None)
        .unwrap();
    let versioning = |versioning| {
        let change = BucketChange {
            versioning: Some(versioning),
            ..BucketChange::default()
        };
        store.bucket_configure(&who(), "blue", &change).unwrap();
    };
    versioning(Versioning::Enabled);
    over(replace(10_001));
    replace(5_000).unwrap();
    versioning(Versioning::Suspended);
    over(replace(95_001));
    replace(95_000).unwrap();
    assert_eq!(store.usage("blue").unwrap().bytes, 100_000);
    sound(&store, 1);
}

#[test]
fn objects_and_volumes_have_quotas_of_their_own() {
    let (_directory, store) = with_quota(&json!({"objects": 2, "volumes": 1, "vms": 7}));
    assert_eq!(
        store.quota("blue").unwrap(),
        Quota {
            bytes: None,
            objects: Some(2),
            volumes: Some(1),
            vms: Some(7)
        }
    );
    put(&store, "a", 1).unwrap();
    put(&store, "b", 1).unwrap();
    over(put(&store, "c", 0));
    // Replacing adds none; a bucket of another project does not count.
    put(&store, "a", 2).unwrap();
    super::put(&store, "c", b"");
    let volume = |name: &str| store.volume_create(&blue(), name, Some(MIB as u64), &Origin::Empty);
    assert_eq!(volume("one").unwrap().0.project, "blue");
    over(volume("two"));
    store
        .volume_create(&who(), "two", Some(MIB as u64), &Origin::Empty)
        .unwrap();
    store.volume_remove(&blue(), "one").unwrap();
    volume("three").unwrap();
    let error = store
        .record_put(
            &who(),
            "project",
            "blue",
            &json!({"quota": {"bytes": "many"}}),
            None,
        )
        .and_then(|()| store.quota("blue"))
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
}

#[test]
fn usage_is_kept_by_bucket_and_project_and_stats_need_no_walk() {
    let (directory, store) = with_quota(&json!(null));
    put(&store, "a", 10_000).unwrap();
    put(&store, "a", 20_000).unwrap();
    put(&store, "b", 5).unwrap();
    let upload = store.upload_create(&who(), "blue", "up", meta("")).unwrap();
    part(&store, &upload, 1, &bytes(1, 3000));
    part(&store, &upload, 1, &bytes(1, 4000));
    super::put(&store, "k", &bytes(1, 700));
    store
        .volume_create(&blue(), "v", Some(MIB as u64), &Origin::Empty)
        .unwrap();
    store
        .volume_resize(&blue(), "v", 2 * MIB as u64, false)
        .unwrap();
    let store = reopen(&directory, store);
    let expected = Usage {
        bytes: 24_005,
        objects: 2,
        versions: 2,
        buckets: 1,
        volumes: 1,
        volume_bytes: 2 * MIB as u64,
    };
    assert_eq!(store.usage("blue").unwrap(), expected);
    assert_eq!(store.usages().unwrap()["blue"], expected);
    assert_eq!(store.bucket_usage("blue").unwrap().bytes, 24_005);
    let stats = store.stats().unwrap();
    assert_eq!(
        (
            stats.objects,
            stats.buckets,
            stats.volumes,
            stats.shown_bytes
        ),
        (3, 2, 1, 24_705 + 2 * MIB as u64)
    );
    store.upload_abort(&who(), &upload).unwrap();
    assert_eq!(store.usage("blue").unwrap().bytes, 20_005);
    let report = store.check(false).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}
