//! Claims about the catalog.

use super::*;
use crate::{Entry, Who};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

fn open() -> (tempfile::TempDir, Catalog) {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(directory.path()).unwrap();
    (directory, catalog)
}

/// One node's alone, and the one member of a group: what holds of the first holds of the second.
fn both() -> [(tempfile::TempDir, Catalog); 2] {
    let directory = tempfile::tempdir().unwrap();
    let member = raft::tests::alone(directory.path());
    [open(), (directory, member)]
}

fn put(catalog: &Catalog, key: &'static [u8], value: &'static [u8]) -> Result<()> {
    catalog.transact(move |txn| {
        txn.put(key, value.to_vec());
        Ok(())
    })
}

fn all(catalog: &Catalog, prefix: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    catalog
        .scan(prefix, prefix, &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            Ok(true)
        })
        .unwrap();
    rows
}

fn row(parent: Option<SealedMap>) -> MapRow {
    MapRow {
        log: LogId(1),
        parent,
        length_bytes: 4096,
        borrows: Vec::new(),
        created_ms: 1,
    }
}

fn sealed(map: u64, lsn: u64) -> SealedMap {
    SealedMap {
        map: MapId(map),
        lsn: Lsn(lsn),
        length_bytes: 4096,
    }
}

/// Ids reserved one behind the other are one range.
fn only(ranges: &[Range<u64>]) -> Range<u64> {
    assert_eq!(ranges.len(), 1, "{ranges:?}");
    ranges[0].clone()
}

fn journal_seqs(catalog: &Catalog) -> Vec<u64> {
    all(catalog, keys::JOURNAL)
        .keys()
        .map(|key| keys::number_behind(keys::JOURNAL, key).unwrap())
        .collect()
}

#[test]
fn changes_of_many_threads_all_commit_and_some_fail_without_a_trace() {
    let (directory, catalog) = open();
    let failed = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..16_u64)
        .map(|thread| {
            let (catalog, failed) = (catalog.clone(), failed.clone());
            thread::spawn(move || {
                for n in 0..50_u64 {
                    let fails = (thread + n) % 5 == 0;
                    let outcome = catalog.transact(move |txn| {
                        // A read-modify-write that would lose counts if changes raced.
                        let count = txn
                            .get(b"t/count")?
                            .map_or(0, |value| value[0] as u64 + 256 * value[1] as u64);
                        txn.put(
                            b"t/count",
                            vec![((count + 1) % 256) as u8, ((count + 1) / 256) as u8],
                        );
                        txn.put(format!("t/row/{thread}/{n}").as_bytes(), vec![1]);
                        let seq = txn.journal(
                            &Who::server(),
                            Entry::new("test.event", format!("{thread}/{n}")),
                        )?;
                        match (fails, n % 2) {
                            (true, 0) => {
                                Err(Error::new(Kind::Conflict, Subject::Store, "on purpose"))
                            }
                            (true, _) => panic!("on purpose"),
                            (false, _) => Ok(seq),
                        }
                    });
                    match outcome {
                        Ok(_) => assert!(!fails),
                        Err(error) => {
                            assert!(fails);
                            assert!(matches!(error.kind(), Kind::Conflict | Kind::Internal));
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let good = 16 * 50 - failed.load(Ordering::Relaxed);
    let check = |catalog: &Catalog| {
        let count = catalog.get(b"t/count").unwrap().unwrap();
        assert_eq!(count[0] as u64 + 256 * count[1] as u64, good);
        assert_eq!(catalog.count(b"t/row/").unwrap(), good);
        assert_eq!(journal_seqs(catalog), (1..=good).collect::<Vec<_>>());
    };
    check(&catalog);
    catalog.close();
    let catalog = Catalog::open(directory.path()).unwrap();
    check(&catalog);
    let seq = catalog
        .transact(|txn| txn.journal(&Who::server(), Entry::new("test.event", "x")))
        .unwrap();
    assert_eq!(seq, good + 1);
}

#[test]
fn waiting_changes_share_a_sync() {
    for (_directory, catalog) in both() {
        let (began, wait_began) = sync_channel(0);
        let (go, wait_go) = sync_channel::<()>(0);
        let held = {
            let catalog = catalog.clone();
            thread::spawn(move || {
                catalog.transact(move |_| {
                    began.send(()).unwrap();
                    wait_go.recv().unwrap();
                    Ok(())
                })
            })
        };
        wait_began.recv().unwrap();
        // While the first change is held, others line up; each sees what those before it in the group put.
        let threads: Vec<_> = (0..64_u8)
            .map(|n| {
                let catalog = catalog.clone();
                thread::spawn(move || {
                    catalog.transact(move |txn| {
                        let before = txn.scan_prefix(b"t/", usize::MAX)?.len();
                        txn.put(&[b't', b'/', n], vec![1]);
                        Ok(before)
                    })
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(catalog.count(b"t/").unwrap(), 0);
        go.send(()).unwrap();
        held.join().unwrap().unwrap();
        let saw: BTreeSet<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap().unwrap())
            .collect();
        assert_eq!(saw, (0..64).collect());
    }
}

#[test]
fn a_change_reads_its_own_puts_over_the_batch_over_the_database() {
    for (_directory, catalog) in both() {
        for key in [&b"t/a"[..], b"t/c", b"t/e", b"t/g", b"u"] {
            put(&catalog, key, b"old").unwrap();
        }
        catalog
            .transact(|txn| {
                txn.put(b"t/b", b"new".to_vec());
                txn.put(b"t/c", b"new".to_vec());
                txn.delete(b"t/e");
                txn.delete(b"t/f");
                txn.put(b"t/z", b"new".to_vec());
                assert_eq!(txn.get(b"t/c")?.as_deref(), Some(&b"new"[..]));
                assert_eq!(txn.get(b"t/e")?, None);
                let rows = txn.scan_prefix(b"t/", usize::MAX)?;
                let shown: Vec<_> = rows.iter().map(|(key, value)| (key[2], value[0])).collect();
                assert_eq!(
                    shown,
                    [
                        (b'a', b'o'),
                        (b'b', b'n'),
                        (b'c', b'n'),
                        (b'g', b'o'),
                        (b'z', b'n')
                    ]
                );
                assert_eq!(txn.scan_prefix(b"t/", 2)?.len(), 2);
                Ok(())
            })
            .unwrap();
        assert_eq!(all(&catalog, b"t/").len(), 5);
    }
}

#[test]
fn after_a_failed_batch_changes_are_refused_until_the_catalog_is_opened_again() {
    for (text, kind) in [
        (
            "IO error: While fdatasync: Input/output error",
            Kind::Unavailable,
        ),
        (
            "IO error: No space left on device: While appending to file",
            Kind::NoSpace,
        ),
    ] {
        let (directory, catalog) = open();
        put(&catalog, b"t/a", b"1").unwrap();
        catalog.fail_next_batch(text);
        assert_eq!(put(&catalog, b"t/b", b"1").unwrap_err().kind(), kind);
        let error = put(&catalog, b"t/c", b"1").unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(
            error.to_string().contains(text) && error.to_string().contains("restart"),
            "{error}"
        );
        assert!(catalog.refusing().is_some());
        // Reading goes on, and shows only what was promised.
        assert_eq!(all(&catalog, b"t/").len(), 1);
        catalog.close();
        assert_eq!(catalog.get(b"t/a").unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(put(&catalog, b"t/b", b"1").unwrap_err().kind(), kind);
        let catalog = Catalog::open(directory.path()).unwrap();
        put(&catalog, b"t/c", b"1").unwrap();
        assert_eq!(all(&catalog, b"t/").len(), 2);
    }
}

#[test]
fn a_change_cannot_begin_another() {
    for (_directory, catalog) in both() {
        let inner = catalog.clone();
        let error = catalog
            .transact(move |_| inner.transact(|_| Ok(())))
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
    }
}

#[test]
fn a_second_opening_is_a_conflict_and_closing_ends_it() {
    let (directory, catalog) = open();
    assert_eq!(
        Catalog::open(directory.path()).err().unwrap().kind(),
        Kind::Conflict
    );
    catalog.close();
    assert_eq!(
        put(&catalog, b"t/a", b"1").unwrap_err().kind(),
        Kind::Unavailable
    );
    drop(Catalog::open(directory.path()).unwrap());
    drop(Catalog::open(directory.path()).unwrap());
}

#[test]
fn a_newer_or_foreign_database_is_refused_and_left_alone() {
    let (directory, catalog) = open();
    catalog
        .transact(|txn| {
            txn.put(keys::FORMAT, br#"{"v":4,"new":"thing"}"#.to_vec());
            Ok(())
        })
        .unwrap();
    catalog.close();
    for _ in 0..2 {
        let error = Catalog::open(directory.path()).err().unwrap();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.chain().contains("version 4"), "{}", error.chain());
    }
    let (directory, catalog) = open();
    catalog
        .transact(|txn| {
            txn.delete(keys::FORMAT);
            Ok(())
        })
        .unwrap();
    put(&catalog, b"other", b"x").unwrap();
    catalog.close();
    assert_eq!(
        Catalog::open(directory.path()).err().unwrap().kind(),
        Kind::Corrupt
    );
}

#[test]
fn rows_are_json_with_a_version() {
    let encoded = keys::encode(&row(Some(sealed(3, 4)))).unwrap();
    let shown = r#"{"v":1,"log":1,"parent":{"map":3,"lsn":4,"length_bytes":4096},"length_bytes":4096,"created_ms":1}"#;
    assert_eq!(String::from_utf8(encoded.clone()).unwrap(), shown);
    assert_eq!(
        keys::decode::<MapRow>(b"k", &encoded).unwrap(),
        row(Some(sealed(3, 4)))
    );
    let newer = shown.replace("\"v\":1", "\"v\":2");
    assert_eq!(
        keys::decode::<MapRow>(b"k", newer.as_bytes())
            .unwrap_err()
            .kind(),
        Kind::Unsupported
    );
    assert_eq!(
        keys::decode::<MapRow>(b"k", b"{\"v\":1}")
            .unwrap_err()
            .kind(),
        Kind::Corrupt
    );
    assert_eq!(
        keys::decode::<MapRow>(b"k", b"\xff").unwrap_err().kind(),
        Kind::Corrupt
    );
    assert_eq!(
        keys::decode::<MapRow>(b"k", br#"{"log":1}"#)
            .unwrap_err()
            .kind(),
        Kind::Corrupt
    );
}

#[test]
fn map_ids_are_never_given_twice() {
    let (directory, catalog) = open();
    assert!(catalog.unfinished().unwrap().is_empty());
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let catalog = catalog.clone();
            thread::spawn(move || {
                let mut ids = Vec::new();
                for n in 0..100 {
                    let count = 1 + (thread + n) % 3;
                    let first = catalog.map_ids(count).unwrap().0;
                    ids.extend(first..first + count);
                }
                ids
            })
        })
        .collect();
    let ids: Vec<u64> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
    let last = ids.iter().max().copied().unwrap();
    catalog.close();

    // The next run looks at all ids that may have been given out, and gives others.
    let catalog = Catalog::open(directory.path()).unwrap();
    let unfinished = only(&catalog.unfinished().unwrap());
    assert!(unfinished.start == 1 && unfinished.end > last);
    let first = catalog.map_ids(1000).unwrap().0;
    assert_eq!(first, unfinished.end);
    catalog.close();
    // It was not settled, so nothing is forgotten.
    let catalog = Catalog::open(directory.path()).unwrap();
    let unfinished = only(&catalog.unfinished().unwrap());
    assert!(unfinished.start == 1 && unfinished.end >= first + 1000);
    catalog.settle().unwrap();
    assert!(catalog.unfinished().unwrap().is_empty());
    catalog.map_ids(1).unwrap();
    catalog.close();
    let catalog = Catalog::open(directory.path()).unwrap();
    assert_eq!(
        only(&catalog.unfinished().unwrap()),
        unfinished.end..unfinished.end + 256
    );
}

#[test]
fn the_last_unpin_of_a_cut_makes_its_map_loose() {
    for (_directory, catalog) in both() {
        catalog
            .transact(|txn| {
                txn.put_map(MapId(7), &row(None))?;
                txn.pin(MapId(7), Lsn(5), "object:a/b#1")?;
                txn.pin(MapId(7), Lsn(5), "object:a/b#2")?;
                txn.pin(MapId(7), Lsn(6), "snapshot:s")?;
                txn.pin(MapId(7), HEAD, "volume:v")
            })
            .unwrap();
        assert_eq!(
            catalog.cuts(MapId(7)).unwrap(),
            BTreeSet::from([Lsn(5), Lsn(6), HEAD])
        );
        let unpin = |lsn, holder: &'static str| {
            catalog
                .transact(move |txn| txn.unpin(MapId(7), lsn, holder))
                .unwrap();
        };
        unpin(Lsn(5), "object:a/b#1");
        assert!(catalog.loose().unwrap().is_empty());
        assert!(catalog.has_pin(MapId(7), Lsn(5)).unwrap());
        unpin(Lsn(5), "object:a/b#2");
        assert_eq!(catalog.loose().unwrap(), [MapId(7)]);
        assert!(!catalog.has_pin(MapId(7), Lsn(5)).unwrap());

        // A sweep that saw other cuts than there are now has to be done again.
        let saw = BTreeSet::from([Lsn(5), Lsn(6), HEAD]);
        assert!(
            !catalog
                .transact(move |txn| txn.swept(MapId(7), &saw))
                .unwrap()
        );
        let saw = BTreeSet::from([Lsn(6), HEAD]);
        assert!(
            catalog
                .transact(move |txn| txn.swept(MapId(7), &saw))
                .unwrap()
        );
        assert!(catalog.loose().unwrap().is_empty());
        assert!(catalog.map(MapId(7)).unwrap().is_some());
        unpin(Lsn(6), "snapshot:s");
        unpin(HEAD, "volume:v");
        assert!(
            catalog
                .transact(|txn| txn.swept(MapId(7), &BTreeSet::new()))
                .unwrap()
        );
        assert!(catalog.map(MapId(7)).unwrap().is_none() && catalog.loose().unwrap().is_empty());
        let error = catalog
            .transact(|txn| txn.pin(MapId(7), Lsn(1), "object:x"))
            .unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    }
}

#[test]
fn pins_made_and_ended_in_one_batch_count_together() {
    for (_directory, catalog) in both() {
        catalog
            .transact(|txn| {
                txn.put_map(MapId(1), &row(None))?;
                txn.pin(MapId(1), Lsn(1), "old")
            })
            .unwrap();
        // Replaced by itself: the new pin is there before the old one ends.
        catalog
            .transact(|txn| {
                txn.pin(MapId(1), Lsn(1), "new")?;
                txn.unpin(MapId(1), Lsn(1), "old")
            })
            .unwrap();
        assert!(catalog.loose().unwrap().is_empty());
        // A pin that this very change took back does not hold.
        catalog
            .transact(|txn| {
                txn.pin(MapId(1), Lsn(1), "newer")?;
                txn.unpin(MapId(1), Lsn(1), "newer")?;
                txn.unpin(MapId(1), Lsn(1), "new")
            })
            .unwrap();
        assert_eq!(catalog.loose().unwrap(), [MapId(1)]);
    }
}

#[test]
fn a_map_holds_its_parent_and_borrows_while_it_has_a_row() {
    for (_directory, catalog) in both() {
        catalog
            .transact(|txn| {
                for map in [1, 2, 3] {
                    txn.put_map(MapId(map), &row(None))?;
                    txn.pin(MapId(map), Lsn(9), "image:i")?;
                }
                let child = MapRow {
                    borrows: vec![sealed(2, 9), sealed(1, 9)],
                    ..row(Some(sealed(1, 9)))
                };
                txn.put_map(MapId(4), &child)?;
                txn.pin(MapId(4), HEAD, "volume:v")?;
                for map in [1, 2, 3] {
                    txn.unpin(MapId(map), Lsn(9), "image:i")?;
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(catalog.loose().unwrap(), [MapId(3)]);
        // Folded: what it no longer names is let go, what it still names stays.
        catalog
            .transact(|txn| txn.put_map(MapId(4), &row(Some(sealed(1, 9)))))
            .unwrap();
        assert_eq!(catalog.loose().unwrap(), [MapId(2), MapId(3)]);
        catalog
            .transact(|txn| {
                txn.unpin(MapId(4), HEAD, "volume:v")?;
                txn.swept(MapId(4), &BTreeSet::new()).map(|_| ())
            })
            .unwrap();
        assert_eq!(catalog.loose().unwrap(), [MapId(1), MapId(2), MapId(3)]);
        let error = catalog
            .transact(|txn| txn.put_map(MapId(5), &row(Some(sealed(99, 1)))))
            .unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(catalog.map(MapId(5)).unwrap().is_none());
    }
}

#[test]
fn a_release_of_format_1_refuses_a_catalog_that_keeps_more() {
    for (_directory, catalog) in both() {
        assert_eq!(catalog.format().unwrap(), keys::FORMAT_VERSION);
        let row = catalog.get(keys::FORMAT).unwrap().unwrap();
        // As that release read this row, and every other.
        let error = keys::decode::<serde_json::Value>(keys::FORMAT, &row).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
    }
}

#[test]
fn keys_of_versions_lead_back_and_sort_by_key_then_newest_first() {
    let names = ["a", "a\0", "a\0\0", "a\0b", "a/b", "ab", "é", "\u{10ffff}"];
    let mut stored = Vec::new();
    for name in names {
        for seq in [9, 3, 1] {
            let at = keys::version("abc", name, seq);
            assert_eq!(
                keys::parse_version("abc", &at).unwrap(),
                (name.to_owned(), seq)
            );
            assert!(at.starts_with(&keys::versions_of("abc", name)));
            assert!(at.starts_with(&keys::versions_below("abc", &name[..0])));
            stored.push(at);
        }
    }
    let mut sorted = stored.clone();
    sorted.sort();
    assert_eq!(stored, sorted);
    let below: Vec<_> = stored
        .iter()
        .filter(|at| at.starts_with(&keys::versions_below("abc", "a\0")))
        .collect();
    assert_eq!(below.len(), 9);
    for bad in [
        &b"ov/abc/k"[..],
        b"ov/abc/k\x00\x001234567",
        b"ov/abc/k\x00x\x00\x0012345678",
    ] {
        assert_eq!(
            keys::parse_version("abc", bad).unwrap_err().kind(),
            Kind::Corrupt
        );
    }
}

#[test]
fn a_frozen_look_sees_one_moment() {
    for (_directory, catalog) in both() {
        put(&catalog, b"t/a", b"1").unwrap();
        let writer = catalog.clone();
        let seen = catalog
            .frozen(|rows| {
                put(&writer, b"t/a", b"2").unwrap();
                put(&writer, b"t/b", b"2").unwrap();
                let mut seen = Vec::new();
                rows.walk(b"t/", b"t/", &mut |key, value| {
                    seen.push((key.to_vec(), value.to_vec()));
                    Ok(Step::Next)
                })?;
                assert_eq!(rows.row(b"t/a")?.as_deref(), Some(&b"1"[..]));
                assert_eq!(rows.row(b"t/b")?, None);
                Ok(seen)
            })
            .unwrap();
        assert_eq!(seen, [(b"t/a".to_vec(), b"1".to_vec())]);
    }
}
