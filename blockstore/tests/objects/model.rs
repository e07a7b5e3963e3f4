//! A property: whatever is done, the store shows what a map from keys to bytes would.

use super::{MIB, always, bytes, get, meta, open, part, put, read, reopen, sound, who};
use blockstore::object::ListQuery;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Put {
        key: u8,
        size: u32,
        seed: u8,
    },
    Copy {
        source: u8,
        target: u8,
    },
    Remove {
        key: u8,
    },
    Upload {
        key: u8,
        parts: Vec<(bool, u32)>,
        complete: bool,
    },
    Collect,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let size = || prop_oneof![0..9000_u32, 8000..300_000_u32];
    let key = || 0..5_u8;
    prop_oneof![
        4 => (key(), size(), any::<u8>()).prop_map(|(key, size, seed)| Step::Put { key, size, seed }),
        3 => (key(), key()).prop_map(|(source, target)| Step::Copy { source, target }),
        2 => key().prop_map(|key| Step::Remove { key }),
        2 => (key(), prop::collection::vec((any::<bool>(), 0..100_000_u32), 1..3), any::<bool>())
            .prop_map(|(key, parts, complete)| Step::Upload { key, parts, complete }),
        1 => Just(Step::Collect),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn objects_agree_with_a_map_of_bytes(steps in prop::collection::vec(step(), 1..30)) {
        let (directory, mut store) = open();
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put { key, size, seed } => {
                    let content = bytes(u64::from(seed), size as usize);
                    put(&store, &key.to_string(), &content);
                    model.insert(key.to_string(), content);
                }
                Step::Copy { source, target } => {
                    let (source, target) = (source.to_string(), target.to_string());
                    let copied = store.object_copy(&who(), ("abc", &source), ("abc", &target), None, &always(), &always());
                    prop_assert_eq!(copied.is_ok(), model.contains_key(&source));
                    if let Some(content) = model.get(&source).cloned() {
                        model.insert(target, content);
                    }
                }
                Step::Remove { key } => {
                    let removed = store.object_remove(&who(), "abc", &key.to_string(), &always()).unwrap();
                    prop_assert_eq!(removed.is_some(), model.remove(&key.to_string()).is_some());
                }
                Step::Upload { key, parts, complete } => {
                    let key = key.to_string();
                    let upload = store.upload_create(&who(), "abc", &key, meta("")).unwrap();
                    let mut whole = Vec::new();
                    let mut named = Vec::new();
                    let last = parts.len() - 1;
                    for (at, (copied, size)) in parts.into_iter().enumerate() {
                        let number = at as u32 + 1;
                        match model.get(&key).filter(|content| copied && at == last && !content.is_empty()) {
                            Some(content) => {
                                // From an offset that may or may not lie on a block.
                                let from = (size as usize * 1024) % content.len();
                                let range = (from as u64, (content.len() - from) as u64);
                                let content = &content[from..];
                                store.upload_part_copy(&who(), &upload, number, ("abc", &key), Some(range), &mut |reader| {
                                    assert!(read(reader) == content);
                                    Ok(("copied".into(), BTreeMap::new()))
                                }).unwrap();
                                named.push((number, "copied".into()));
                                whole.extend_from_slice(content);
                            }
                            None => {
                                let size = if at == last { size as usize } else { 5 * MIB + size as usize };
                                let content = bytes(n as u64, size);
                                named.push(part(&store, &upload, number, &content));
                                whole.extend_from_slice(&content);
                            }
                        }
                    }
                    if complete {
                        store.upload_complete(&who(), &upload, &named, meta("e-n"), &always()).unwrap();
                        model.insert(key, whole);
                    } else {
                        store.upload_abort(&who(), &upload).unwrap();
                    }
                }
                Step::Collect => { store.collect().unwrap(); }
                Step::Reopen => {
                    store = reopen(&directory, store);
                }
            }
        }
        let query = ListQuery { max: 100, ..ListQuery::default() };
        let listed: Vec<_> = store.object_list("abc", &query).unwrap().objects.into_iter().map(|object| object.key).collect();
        prop_assert_eq!(listed, model.keys().cloned().collect::<Vec<_>>());
        store.collect().unwrap();
        for (key, content) in &model {
            prop_assert!(get(&store, key) == *content, "{}", key);
        }
        for key in model.keys() {
            store.object_remove(&who(), "abc", key, &always()).unwrap();
        }
        sound(&store, 0);
        prop_assert_eq!(store.stats().unwrap().live_bytes, 0);
        let seqs: Vec<_> = store.journal_after(0, usize::MAX).unwrap().into_iter().map(|event| event.seq).collect();
        prop_assert_eq!(seqs.clone(), (1..=seqs.len() as u64).collect::<Vec<_>>());
    }
}
