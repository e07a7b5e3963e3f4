//! A property: whatever is put, deleted, locked, renamed and snapshotted, in buckets of every kind, the
//! store shows what a plain list of versions by key would, also after it was opened again.

use super::{always, bytes, meta, open, read, reopen, who};
use blockstore::object::{
    BucketChange, BucketConfig, Change, Delete, Named, ObjectLock, Precondition, VersionQuery,
    Versioning,
};
use blockstore::{Kind, Store, Subject};
use proptest::prelude::*;
use std::collections::BTreeMap;

const BUCKETS: [&str; 3] = ["abc", "versions", "locks"];
const KEYS: [&str; 5] = ["d/0", "d/1", "e/0", "e/1", "x"];

#[derive(Clone, Debug)]
enum Step {
    Put(usize, usize, u32),
    /// Hides the object, or removes the n-th version for good.
    Delete(usize, usize, Option<usize>),
    DeleteMany(usize, Vec<(usize, Option<usize>)>),
    Suspend(bool),
    Hold(usize, usize, bool),
    Tag(usize, usize, u8),
    Copy(usize, usize, usize, usize),
    Rename(usize, usize, usize, usize, bool),
    RenameAll(usize, usize, bool),
    Freeze(usize),
    Thaw(usize),
    Collect,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let bucket = || 0..BUCKETS.len();
    let key = || 0..KEYS.len();
    let size = || prop_oneof![0..9000_u32, 8000..100_000_u32];
    let version = || proptest::option::of(0..4_usize);
    prop_oneof![
        8 => (bucket(), key(), size()).prop_map(|(bucket, key, size)| Step::Put(bucket, key, size)),
        5 => (bucket(), key(), version()).prop_map(|(bucket, key, version)| Step::Delete(bucket, key, version)),
        1 => (bucket(), prop::collection::vec((key(), version()), 1..4))
            .prop_map(|(bucket, asks)| Step::DeleteMany(bucket, asks)),
        2 => any::<bool>().prop_map(Step::Suspend),
        2 => (key(), 0..4_usize, any::<bool>()).prop_map(|(key, nth, on)| Step::Hold(key, nth, on)),
        2 => (bucket(), key(), any::<u8>()).prop_map(|(bucket, key, tag)| Step::Tag(bucket, key, tag)),
        2 => (bucket(), key(), bucket(), key()).prop_map(|(a, b, c, d)| Step::Copy(a, b, c, d)),
        4 => (bucket(), key(), bucket(), key(), any::<bool>())
            .prop_map(|(a, b, c, d, overwrite)| Step::Rename(a, b, c, d, overwrite)),
        2 => (bucket(), bucket(), any::<bool>()).prop_map(|(a, b, overwrite)| Step::RenameAll(a, b, overwrite)),
        1 => bucket().prop_map(Step::Freeze),
        1 => bucket().prop_map(Step::Thaw),
        1 => Just(Step::Collect),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Clone, Debug)]
struct Version {
    name: String,
    marker: bool,
    content: Vec<u8>,
    tag: Option<u8>,
    held: bool,
}

#[derive(Clone, Debug, Default)]
struct History {
    /// Newest first.
    versions: Vec<Version>,
    id: u64,
}

#[derive(Default)]
struct Model {
    keys: BTreeMap<(usize, usize), History>,
    suspended: bool,
    frozen: BTreeMap<usize, BTreeMap<usize, Vec<u8>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Unversioned,
    Enabled,
    Suspended,
}

impl Model {
    fn way(&self, bucket: usize) -> Way {
        match bucket {
            0 => Way::Unversioned,
            1 if self.suspended => Way::Suspended,
            _ => Way::Enabled,
        }
    }

    fn current(&self, bucket: usize, key: usize) -> Option<&Version> {
        let newest = self.keys.get(&(bucket, key))?.versions.first()?;
        (!newest.marker).then_some(newest)
    }

    fn put(&mut self, bucket: usize, key: usize, version: Version, id: u64) {
        let way = self.way(bucket);
        let history = self.keys.entry((bucket, key)).or_default();
        if way != Way::Enabled {
            assert_eq!(version.name, "null");
            history.versions.retain(|version| version.name != "null");
        } else {
            assert_ne!(version.name, "null");
        }
        history.versions.insert(0, version);
        history.id = id;
    }

    fn remove(&mut self, bucket: usize, key: usize, name: &str) {
        if let Some(history) = self.keys.get_mut(&(bucket, key)) {
            history.versions.retain(|version| version.name != name);
            if history.versions.is_empty() {
                self.keys.remove(&(bucket, key));
            }
        }
    }

    fn nth(&self, bucket: usize, key: usize, nth: usize) -> Option<&Version> {
        self.keys.get(&(bucket, key))?.versions.get(nth)
    }

    /// What a delete is to do, said to the store.
    fn ask(&self, bucket: usize, key: usize, nth: Option<usize>) -> Delete {
        Delete {
            key: KEYS[key].into(),
            version: nth.map(|nth| {
                self.nth(bucket, key, nth)
                    .map_or("0123456789abcdef".into(), |version| version.name.clone())
            }),
            ..Delete::default()
        }
    }

    /// And what came of it, compared and noted.
    fn deleted(
        &mut self,
        bucket: usize,
        key: usize,
        ask: &Delete,
        answer: blockstore::Result<blockstore::object::Deleted>,
    ) {
        if let Some(name) = &ask.version {
            let found = self
                .keys
                .get(&(bucket, key))
                .and_then(|history| {
                    history
                        .versions
                        .iter()
                        .find(|version| version.name == *name)
                })
                .cloned();
            match found {
                Some(version) if version.held => {
                    let error = answer.unwrap_err();
                    assert_eq!(
                        (error.kind(), error.subject()),
                        (Kind::Denied, Subject::Version)
                    );
                }
                Some(version) => {
                    let gone = answer.unwrap().gone.unwrap();
                    assert_eq!((gone.version, gone.marker), (version.name, version.marker));
                    self.remove(bucket, key, name);
                }
                None => assert_eq!(answer.unwrap().gone, None),
            }
            return;
        }
        let answer = answer.unwrap();
        if self.way(bucket) == Way::Unversioned {
            assert_eq!(answer.gone.is_some(), self.current(bucket, key).is_some());
            self.remove(bucket, key, "null");
            return;
        }
        let marker = answer.marker.unwrap();
        let had = self.keys.get(&(bucket, key)).map(|history| history.id);
        assert!(had.is_none_or(|id| id == marker.id));
        self.put(
            bucket,
            key,
            Version {
                name: marker.version,
                marker: true,
                content: Vec::new(),
                tag: None,
                held: false,
            },
            marker.id,
        );
    }

    /// Moves the current version as a rename does: hidden or gone there, new here, with the id.
    fn renamed(&mut self, from: (usize, usize), to: (usize, usize), store: &Store) {
        let moved = self.current(from.0, from.1).unwrap().clone();
        let id = self.keys[&from].id;
        if self.way(from.0) == Way::Unversioned {
            self.remove(from.0, from.1, "null");
        } else {
            let marker = store.object_latest(BUCKETS[from.0], KEYS[from.1]).unwrap();
            assert!(marker.marker);
            assert_ne!(marker.id, id);
            self.put(
                from.0,
                from.1,
                Version {
                    name: marker.version,
                    marker: true,
                    content: Vec::new(),
                    tag: None,
                    held: false,
                },
                marker.id,
            );
        }
        let object = store.object_head(BUCKETS[to.0], KEYS[to.1]).unwrap();
        assert_eq!(object.id, id, "a rename keeps the id");
        self.put(
            to.0,
            to.1,
            Version {
                name: object.version,
                held: false,
                ..moved
            },
            id,
        );
    }

    fn compare(&self, store: &Store) {
        for (bucket, name) in BUCKETS.iter().enumerate() {
            let mut listed: BTreeMap<String, Vec<(String, bool, u64, bool)>> = BTreeMap::new();
            let mut query = VersionQuery {
                max: 3,
                ..VersionQuery::default()
            };
            loop {
                let page = store.object_versions(name, &query).unwrap();
                for object in page.versions {
                    listed.entry(object.key).or_default().push((
                        object.version,
                        object.marker,
                        object.length_bytes,
                        object.latest,
                    ));
                }
                match page.next {
                    Some((key, version)) => {
                        query.key_marker = Some(key);
                        query.version_marker = version;
                    }
                    None => break,
                }
            }
            let expected: BTreeMap<String, Vec<(String, bool, u64, bool)>> = self
                .keys
                .iter()
                .filter(|((of, _), _)| *of == bucket)
                .map(|((_, key), history)| {
                    let versions = history.versions.iter().enumerate().map(|(nth, version)| {
                        (
                            version.name.clone(),
                            version.marker,
                            version.content.len() as u64,
                            nth == 0,
                        )
                    });
                    (KEYS[*key].to_owned(), versions.collect())
                })
                .collect();
            assert_eq!(listed, expected, "{name}");
            let mut wanted = (0, 0, 0);
            for (key, text) in KEYS.iter().enumerate() {
                let head = store.object_head(name, text);
                match self.current(bucket, key) {
                    None => assert_eq!(head.unwrap_err().kind(), Kind::NotFound),
                    Some(version) => {
                        let (object, reader) = store.object_open(name, text).unwrap();
                        assert!(read(&*reader) == version.content);
                        assert_eq!(object.version, version.name);
                        assert_eq!(
                            object.meta.tags.get("n").cloned(),
                            version.tag.map(|tag| tag.to_string())
                        );
                        assert_eq!(object.meta.lock.legal_hold, version.held);
                        wanted.1 += 1;
                    }
                }
                let Some(history) = self.keys.get(&(bucket, key)) else {
                    assert!(store.object_latest(name, text).is_err());
                    continue;
                };
                assert_eq!(
                    store.object_by_id(history.id).unwrap(),
                    Named::Object {
                        bucket: (*name).into(),
                        key: (*text).into()
                    }
                );
                for version in &history.versions {
                    wanted.0 += version.content.len() as u64;
                    wanted.2 += 1;
                    if !version.marker {
                        let (_, reader) = store
                            .object_version_open(name, text, &version.name)
                            .unwrap();
                        assert!(read(&*reader) == version.content);
                    }
                }
            }
            if let Some(frozen) = self.frozen.get(&bucket) {
                for (key, content) in frozen {
                    let (_, reader) = store.snapshot_object_open(name, "s", KEYS[*key]).unwrap();
                    assert!(read(&*reader) == *content);
                    wanted.0 += content.len() as u64;
                }
            }
            let usage = store.bucket_usage(name).unwrap();
            assert_eq!(
                (usage.bytes, usage.objects, usage.versions),
                wanted,
                "{name}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn histories_agree_with_a_list_of_versions(steps in prop::collection::vec(step(), 1..60)) {
        let (directory, mut store) = open();
        let enabled = BucketConfig { versioning: Versioning::Enabled, ..BucketConfig::default() };
        store.bucket_create_with(&who(), BUCKETS[1], enabled).unwrap();
        let locked = BucketConfig { lock: Some(ObjectLock::default()), ..BucketConfig::default() };
        store.bucket_create_with(&who(), BUCKETS[2], locked).unwrap();
        let mut model = Model::default();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put(bucket, key, size) => {
                    let content = bytes(n as u64, size as usize);
                    let mut writer = store.object_writer(BUCKETS[bucket]).unwrap();
                    writer.write(&content).unwrap();
                    let object = writer.commit(&who(), KEYS[key], meta("e"), &always()).unwrap();
                    let known = model.keys.get(&(bucket, key)).map(|history| history.id);
                    prop_assert!(known.is_none_or(|id| id == object.id));
                    let version = Version { name: object.version, marker: false, content, tag: None, held: false };
                    model.put(bucket, key, version, object.id);
                }
                Step::Delete(bucket, key, nth) => {
                    let ask = model.ask(bucket, key, nth);
                    let answer = store.object_delete(&who(), BUCKETS[bucket], &ask);
                    model.deleted(bucket, key, &ask, answer);
                }
                Step::DeleteMany(bucket, asked) => {
                    let asks: Vec<Delete> = asked.iter().map(|(key, nth)| model.ask(bucket, *key, *nth)).collect();
                    let answers = store.objects_delete(&who(), BUCKETS[bucket], &asks).unwrap();
                    for (((key, _), ask), answer) in asked.iter().zip(&asks).zip(answers) {
                        model.deleted(bucket, *key, ask, answer);
                    }
                }
                Step::Suspend(suspended) => {
                    let versioning = if suspended { Versioning::Suspended } else { Versioning::Enabled };
                    let change = BucketChange { versioning: Some(versioning), ..BucketChange::default() };
                    store.bucket_configure(&who(), BUCKETS[1], &change).unwrap();
                    let refused = store.bucket_configure(&who(), BUCKETS[2], &change);
                    prop_assert_eq!(refused.is_err(), suspended);
                    model.suspended = suspended;
                }
                Step::Hold(key, nth, on) => {
                    let Some(history) = model.keys.get_mut(&(2, key)) else { continue };
                    let Some(version) = history.versions.get_mut(nth) else { continue };
                    let held = store.object_hold(&who(), BUCKETS[2], KEYS[key], Some(&version.name), on);
                    prop_assert_eq!(held.is_ok(), !version.marker);
                    version.held = on && !version.marker;
                }
                Step::Tag(bucket, key, tag) => {
                    let tags = BTreeMap::from([("n".to_owned(), tag.to_string())]);
                    let change = Change { tags: Some(tags), ..Change::default() };
                    let changed = store.object_change(&who(), BUCKETS[bucket], KEYS[key], None, &change, &always());
                    prop_assert_eq!(changed.is_ok(), model.current(bucket, key).is_some());
                    if changed.is_ok() {
                        model.keys.get_mut(&(bucket, key)).unwrap().versions[0].tag = Some(tag);
                    }
                }
                Step::Copy(from, key, to, target) => {
                    let copied = store.object_copy(
                        &who(), (BUCKETS[from], KEYS[key]), (BUCKETS[to], KEYS[target]), None, &always(), &always());
                    prop_assert_eq!(copied.is_ok(), model.current(from, key).is_some());
                    if let Ok((object, _)) = copied {
                        let version = Version { name: object.version, held: false, ..model.current(from, key).unwrap().clone() };
                        model.put(to, target, version, object.id);
                    }
                }
                Step::Rename(from, key, to, target, overwrite) => {
                    let same = (from, key) == (to, target);
                    let possible = model.current(from, key).is_some()
                        && (same || overwrite || model.current(to, target).is_none());
                    let renamed = store.object_rename(
                        &who(), (BUCKETS[from], KEYS[key]), (BUCKETS[to], KEYS[target]), overwrite);
                    prop_assert_eq!(renamed.is_ok(), possible);
                    if possible && !same {
                        model.renamed((from, key), (to, target), &store);
                    }
                }
                Step::RenameAll(from, to, overwrite) => {
                    let sources: Vec<usize> = (0..2).filter(|key| model.current(from, *key).is_some()).collect();
                    let targets: Vec<usize> = (2..4).filter(|key| model.current(to, *key).is_some()).collect();
                    let renamed = store.prefix_rename(&who(), (BUCKETS[from], "d/"), (BUCKETS[to], "e/"), overwrite);
                    let possible = !sources.is_empty() && (overwrite || targets.is_empty());
                    prop_assert_eq!(renamed.is_ok(), possible);
                    if !possible { continue }
                    for key in targets {
                        // What the target held is deleted as its bucket does that; the names of those
                        // markers are the only thing not known beforehand.
                        let name = store
                            .object_versions(BUCKETS[to], &VersionQuery { prefix: KEYS[key].into(), max: 9, ..VersionQuery::default() })
                            .unwrap()
                            .versions
                            .into_iter()
                            .find(|object| object.marker && model.keys[&(to, key)].versions.iter().all(|known| known.name != object.version || known.name == "null"));
                        if model.way(to) == Way::Unversioned {
                            model.remove(to, key, "null");
                        } else if let Some(marker) = name {
                            let version = Version { name: marker.version, marker: true, content: Vec::new(), tag: None, held: false };
                            let id = model.keys[&(to, key)].id;
                            model.put(to, key, version, id);
                        } else if model.way(to) == Way::Suspended {
                            // The marker `null` was itself replaced by what was renamed.
                            model.keys.get_mut(&(to, key)).unwrap().versions.retain(|version| version.name != "null");
                        }
                    }
                    for key in sources {
                        model.renamed((from, key), (to, key + 2), &store);
                    }
                }
                Step::Freeze(bucket) => {
                    let frozen = store.bucket_snapshot_create(&who(), BUCKETS[bucket], "", "s");
                    prop_assert_eq!(frozen.is_ok(), !model.frozen.contains_key(&bucket));
                    if frozen.is_ok() {
                        let shown = (0..KEYS.len())
                            .filter_map(|key| Some((key, model.current(bucket, key)?.content.clone())))
                            .collect();
                        model.frozen.insert(bucket, shown);
                    }
                }
                Step::Thaw(bucket) => {
                    let thawed = store.bucket_snapshot_remove(&who(), BUCKETS[bucket], "s");
                    prop_assert_eq!(thawed.is_ok(), model.frozen.remove(&bucket).is_some());
                }
                Step::Collect => { store.collect().unwrap(); }
                Step::Reopen => store = reopen(&directory, store),
            }
            model.compare(&store);
        }
        let report = store.check(true).unwrap();
        prop_assert!(report.problems.is_empty(), "{:?}", report.problems);
        for (bucket, name) in BUCKETS.iter().enumerate() {
            if model.frozen.contains_key(&bucket) {
                store.bucket_snapshot_remove(&who(), name, "s").unwrap();
            }
            for ((of, key), history) in &model.keys {
                for version in history.versions.iter().filter(|_| *of == bucket) {
                    if version.held {
                        store.object_hold(&who(), name, KEYS[*key], Some(&version.name), false).unwrap();
                    }
                    let ask = Delete { key: KEYS[*key].into(), version: Some(version.name.clone()), condition: Precondition::default(), bypass_governance: false };
                    store.object_delete(&who(), name, &ask).unwrap();
                }
            }
            store.bucket_remove(&who(), name).unwrap();
        }
        super::sound(&store, 0);
        prop_assert_eq!(store.stats().unwrap().live_bytes, 0);
        prop_assert_eq!(store.usage("root").unwrap(), blockstore::object::Usage::default());
    }
}
