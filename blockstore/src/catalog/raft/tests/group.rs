//! What holds while all nodes are up.

use super::super::types::{Batch, BatchId, Command, Outcome, Rows};
use super::*;
use crate::catalog::txn::Overlay;
use crate::{Entry, Who};
use std::thread;

/// One operation on a counter, as a client saw it.
pub(super) struct Seen {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// The value after it.
    pub(super) value: u64,
    pub(super) counts: bool,
}

/// A counter's history is linearizable exactly when no two additions gave one value, and no operation
/// that began after another one ended shows less than it (an addition: not more than it).
pub(super) fn check(history: &mut [Seen]) {
    let mut values = BTreeSet::new();
    for seen in history.iter().filter(|seen| seen.counts) {
        assert!(values.insert(seen.value), "{} was given twice", seen.value);
    }
    history.sort_by_key(|seen| seen.began);
    let mut ends: Vec<&Seen> = history.iter().collect();
    ends.sort_by_key(|seen| seen.ended);
    let mut ended = ends.into_iter().peekable();
    let mut floor = 0;
    for seen in history.iter() {
        while let Some(before) = ended.next_if(|before| before.ended < seen.began) {
            floor = floor.max(before.value);
        }
        let least = floor + u64::from(seen.counts);
        assert!(
            seen.value >= least,
            "{} was seen after {floor} had been",
            seen.value
        );
    }
}

#[test]
fn a_history_that_is_not_linearizable_is_caught() {
    let at = Instant::now();
    let seen = |began, ended, value, counts| Seen {
        began: at + Duration::from_millis(began),
        ended: at + Duration::from_millis(ended),
        value,
        counts,
    };
    check(&mut [
        seen(0, 10, 1, true),
        seen(5, 6, 0, false),
        seen(11, 12, 1, false),
    ]);
    for bad in [
        vec![seen(0, 10, 1, true), seen(11, 12, 0, false)],
        vec![seen(0, 10, 1, true), seen(0, 12, 1, true)],
        vec![seen(0, 10, 2, true), seen(11, 12, 1, true)],
    ] {
        let mut bad = bad;
        assert!(
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&mut bad))).is_err()
        );
    }
}

#[test]
fn changes_and_reads_from_every_node_are_linearizable() {
    for nodes in [3, 5] {
        let cluster = Cluster::of(nodes);
        let threads: Vec<_> = cluster
            .nodes()
            .into_iter()
            .flat_map(|node| (0..4).map(move |thread| (node, thread)))
            .map(|(node, thread)| {
                let catalog = cluster.node(node);
                thread::spawn(move || {
                    let mut history = Vec::new();
                    for n in 0..40 {
                        let began = Instant::now();
                        let counts = (n + thread) % 2 == 0;
                        let value = if counts {
                            count(&catalog, "t/count")
                        } else {
                            counted(&catalog, "t/count")
                        };
                        history.push(Seen {
                            began,
                            ended: Instant::now(),
                            value: value.unwrap(),
                            counts,
                        });
                    }
                    history
                })
            })
            .collect();
        let mut history: Vec<Seen> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        check(&mut history);
        let counts = history.iter().filter(|seen| seen.counts).count() as u64;
        let last = cluster.nodes().last().copied().unwrap();
        assert_eq!(counted(&cluster.node(last), "t/count").unwrap(), counts);
        let shown = rows(&cluster.node(last));
        for node in cluster.nodes() {
            cluster.node(node).catch_up().unwrap();
            assert_eq!(rows(&cluster.node(node)), shown);
        }
    }
}

#[test]
fn a_write_answered_on_one_node_is_read_on_every_other() {
    let cluster = Cluster::of(3);
    for n in 0..60_u64 {
        let nodes = cluster.nodes();
        let writer = cluster.node(nodes[n as usize % 3]);
        put(&writer, "t/a", &n.to_string()).unwrap();
        for node in nodes {
            assert_eq!(
                get(&cluster.node(node), "t/a").unwrap(),
                Some(n.to_string())
            );
        }
    }
}

#[test]
fn journal_numbers_are_one_order_and_readers_wake_on_every_node() {
    let cluster = Cluster::of(3);
    let before = cluster
        .any()
        .journal_last(u64::MAX, Duration::ZERO)
        .unwrap();
    let threads: Vec<_> = cluster
        .nodes()
        .into_iter()
        .map(|node| {
            let catalog = cluster.node(node);
            thread::spawn(move || {
                (0..30)
                    .map(|n| {
                        let entry = Entry::new("test.event", n.to_string());
                        catalog
                            .transact(|txn| txn.journal(&Who::server(), entry))
                            .unwrap()
                    })
                    .collect::<Vec<u64>>()
            })
        })
        .collect();
    // Each reader waits for the last event, which its own node or another one makes.
    let readers: Vec<_> = cluster
        .nodes()
        .into_iter()
        .map(|node| {
            let catalog = cluster.node(node);
            thread::spawn(move || {
                catalog
                    .journal_last(before + 89, Duration::from_secs(60))
                    .unwrap()
            })
        })
        .collect();
    let given: Vec<Vec<u64>> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    assert!(given.iter().all(|given| given.is_sorted()));
    let mut all: Vec<u64> = given.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (before + 1..=before + 90).collect::<Vec<_>>());
    for reader in readers {
        assert_eq!(reader.join().unwrap(), before + 90);
    }
}

#[test]
fn map_ids_are_given_once_in_the_whole_group_and_each_node_looks_after_its_own() {
    let mut cluster = Cluster::of(3);
    let threads: Vec<_> = cluster
        .nodes()
        .into_iter()
        .map(|node| {
            let catalog = cluster.node(node);
            thread::spawn(move || {
                let mut ids = Vec::new();
                for n in 0..300 {
                    let many = 1 + n % 3;
                    let first = catalog.map_ids(many).unwrap().0;
                    ids.extend(first..first + many);
                }
                (node, ids)
            })
        })
        .collect();
    let given: Vec<(u64, Vec<u64>)> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let distinct: BTreeSet<u64> = given
        .iter()
        .flat_map(|(_, ids)| ids.iter().copied())
        .collect();
    assert_eq!(
        distinct.len(),
        given.iter().map(|(_, ids)| ids.len()).sum::<usize>()
    );
    let (node, own) = given.last().unwrap();
    cluster.stop(*node);
    let unfinished = cluster.start(*node).unfinished().unwrap();
    let looked_after = |id: &u64| unfinished.iter().any(|range| range.contains(id));
    assert!(own.iter().all(looked_after));
    for (other, ids) in &given {
        assert!(other == node || !ids.iter().any(looked_after));
    }
}

#[test]
fn a_batch_that_lost_the_race_changes_nothing_and_its_callers_are_told() {
    let cluster = Cluster::of(3);
    put(&cluster.any(), "t/a", "1").unwrap();
    for loser in cluster.nodes() {
        let catalog = cluster.node(loser);
        let (held, wait_held) = sync_channel(0);
        let (go, wait_go) = sync_channel::<()>(0);
        let change = {
            let catalog = catalog.clone();
            thread::spawn(move || {
                catalog.transact(move |txn| {
                    txn.put(b"t/lost", b"x".to_vec());
                    held.send(()).unwrap();
                    wait_go.recv().unwrap();
                    Ok(())
                })
            })
        };
        wait_held.recv().unwrap();
        // Past all turns, another batch takes the base.
        let leader = cluster.node(cluster.leader());
        let shared = leader.group().unwrap().shared.clone();
        let version = shared.applied.borrow().version;
        let raft = shared.raft().unwrap().clone();
        let batch = |number| Batch {
            base: version,
            id: BatchId {
                node: 99,
                boot: 1,
                number: number + 10 * loser,
            },
            rows: Rows::encode(&Overlay::from([(b"t/a".to_vec(), Some(b"2".to_vec()))])).unwrap(),
        };
        for (number, expected) in [(1, Outcome::Won), (2, Outcome::Lost)] {
            let (raft, batch) = (raft.clone(), batch(number));
            let written = wait(&shared.handle, async move {
                raft.client_write(Command::Batch(batch)).await.unwrap().data
            });
            assert_eq!(written.unwrap(), expected);
        }
        go.send(()).unwrap();
        let lost = change.join().unwrap().unwrap_err();
        assert_eq!(lost.kind(), Kind::Unavailable);
        assert!(lost.to_string().contains("nothing was changed"), "{lost}");
        for node in cluster.nodes() {
            assert_eq!(get(&cluster.node(node), "t/lost").unwrap(), None);
        }
        put(&catalog, "t/a", "3").unwrap();
    }
}

#[test]
fn a_change_that_put_nothing_is_not_answered_over_rows_that_were_stale() {
    let cluster = Cluster::of(3);
    put(&cluster.any(), "t/a", "1").unwrap();
    let stale = cluster.follower();
    let catalog = cluster.node(stale);
    let (held, wait_held) = sync_channel(0);
    let (go, wait_go) = sync_channel::<()>(0);
    let change = {
        let catalog = catalog.clone();
        thread::spawn(move || {
            catalog.transact(move |txn| {
                held.send(()).unwrap();
                wait_go.recv().unwrap();
                txn.get(b"t/a")
            })
        })
    };
    wait_held.recv().unwrap();
    let leader = cluster.node(cluster.leader());
    let shared = leader.group().unwrap().shared.clone();
    let batch = Batch {
        base: shared.applied.borrow().version,
        id: BatchId {
            node: 99,
            boot: 1,
            number: 1,
        },
        rows: Rows::encode(&Overlay::from([(b"t/a".to_vec(), Some(b"2".to_vec()))])).unwrap(),
    };
    let raft = shared.raft().unwrap().clone();
    wait(&shared.handle, async move {
        raft.client_write(Command::Batch(batch)).await.unwrap();
    })
    .unwrap();
    go.send(()).unwrap();
    assert_eq!(
        change.join().unwrap().unwrap_err().kind(),
        Kind::Unavailable
    );
    assert_eq!(get(&catalog, "t/a").unwrap().as_deref(), Some("2"));
    // With nobody in between it is answered, its refusal too.
    let refused =
        catalog.transact(|_| Err::<(), _>(Error::new(Kind::Precondition, Subject::Store, "no")));
    assert_eq!(refused.unwrap_err().kind(), Kind::Precondition);
}

#[test]
fn changes_large_and_many_share_batches_without_being_mixed_up() {
    let cluster = Cluster::of(3);
    let threads: Vec<_> = (0..24)
        .map(|n: usize| {
            let nodes = cluster.nodes();
            let catalog = cluster.node(nodes[n % 3]);
            thread::spawn(move || {
                let body = "x".repeat(700_000 + n);
                put(&catalog, &format!("t/{n}"), &body).unwrap();
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    for n in 0..24 {
        let nodes = cluster.nodes();
        let row = get(&cluster.node(nodes[(n + 1) % 3]), &format!("t/{n}")).unwrap();
        assert_eq!(row.map(|row| row.len()), Some(700_000 + n));
    }
}
