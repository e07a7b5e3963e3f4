//! What holds when nodes stop, lag and are cut off.

use super::group::{Seen, check};
use super::*;
use std::sync::atomic::AtomicBool;
use std::thread;

/// Counts on every node until told to stop; returns what was seen and how many ended unknown.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<(Vec<Seen>, u64)>>,
}

impl Load {
    fn on(cluster: &Cluster, nodes: &[u64]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = nodes
            .iter()
            .flat_map(|node| [*node, *node])
            .map(|node| {
                let (catalog, stop) = (cluster.node(node), stop.clone());
                thread::spawn(move || {
                    let (mut history, mut unknown) = (Vec::new(), 0);
                    while !stop.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        match count(&catalog, "t/count") {
                            Ok(value) => history.push(Seen {
                                began,
                                ended: Instant::now(),
                                value,
                                counts: true,
                            }),
                            Err(cause) => {
                                assert_eq!(cause.kind(), Kind::Unavailable, "{cause:?}");
                                unknown +=
                                    u64::from(!cause.to_string().contains("nothing was changed"));
                                thread::sleep(Duration::from_millis(5));
                            }
                        }
                    }
                    (history, unknown)
                })
            })
            .collect();
        Self { stop, threads }
    }

    fn end(self) -> (Vec<Seen>, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = (Vec::new(), 0);
        for thread in self.threads {
            let (history, unknown) = thread.join().unwrap();
            all.0.extend(history);
            all.1 += unknown;
        }
        all
    }
}

/// Every answered addition is in the counter once; of those with an unknown end each is in it or not.
fn none_lost_none_doubled(cluster: &Cluster, on: u64, history: &mut [Seen], unknown: u64) {
    check(history);
    let last = counted(&cluster.node(on), "t/count").unwrap();
    let answered = history.len() as u64;
    assert!(last >= answered, "{answered} were answered, {last} count");
    assert!(
        last <= answered + unknown,
        "{answered} were answered, {unknown} unknown, {last} count"
    );
}

#[test]
fn when_the_leader_stops_under_load_changes_go_on_within_seconds_and_none_is_lost_or_doubled() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let others: Vec<u64> = cluster
        .nodes()
        .into_iter()
        .filter(|node| *node != leader)
        .collect();
    let load = Load::on(&cluster, &cluster.nodes());
    thread::sleep(Duration::from_secs(1));
    let stopped = Instant::now();
    cluster.stop(leader);
    let before = loop {
        if let Ok(value) = count(&cluster.node(others[0]), "t/other") {
            break value;
        }
    };
    let gap = stopped.elapsed();
    println!(
        "changes went on {} ms after the leader stopped",
        gap.as_millis()
    );
    assert!(gap < Duration::from_secs(20), "{gap:?}");
    assert_eq!(before, 1);
    thread::sleep(Duration::from_millis(500));
    let (mut history, unknown) = load.end();
    none_lost_none_doubled(&cluster, others[1], &mut history, unknown);
    // It comes back and catches up by the log.
    let back = cluster.start(leader);
    put(&cluster.node(others[0]), "t/after", "x").unwrap();
    assert_eq!(get(&back, "t/after").unwrap().as_deref(), Some("x"));
    assert_eq!(rows(&back), rows(&cluster.node(others[0])));
}

#[test]
fn a_node_that_was_away_catches_up_by_the_log_or_by_a_snapshot() {
    let settings = Settings {
        snapshot_every: 20,
        keep_entries: 40,
        ..settings()
    };
    let mut cluster = Cluster::with(3, settings);
    let away = cluster.follower();
    for (changes, by_snapshot) in [(10, false), (200, true)] {
        cluster.stop(away);
        let host = cluster.any();
        for n in 0..changes {
            put(&host, &format!("t/{}", n % 50), &n.to_string()).unwrap();
        }
        // A row that is deleted in the meantime must not come back by a snapshot.
        put(&host, "t/gone", "x").unwrap();
        host.transact(|txn| {
            txn.delete(b"t/gone");
            Ok(())
        })
        .unwrap();
        let back = cluster.start(away);
        back.catch_up().unwrap();
        host.catch_up().unwrap();
        assert_eq!(rows(&back), rows(&host));
        let log = log::Log::new(back.database().unwrap(), Arc::new(Committed::new(0)));
        // Behind a snapshot the log may be empty.
        let first = log
            .entries(0, None, 1)
            .unwrap()
            .first()
            .map_or(u64::MAX, |entry| entry.log_id.index);
        let applied = back
            .group()
            .unwrap()
            .shared
            .applied
            .borrow()
            .at
            .unwrap()
            .index;
        println!("{changes} changes: log from {first}, rows at {applied}");
        if by_snapshot {
            assert!(
                applied.saturating_sub(first) < 200,
                "it got the log, not a snapshot"
            );
        }
        put(&back, "t/back", "x").unwrap();
        assert_eq!(get(&host, "t/back").unwrap().as_deref(), Some("x"));
    }
}

#[test]
fn a_leader_that_is_cut_off_changes_nothing_and_the_others_go_on() {
    let settings = Settings {
        patience: Duration::from_secs(8),
        ..settings()
    };
    let cluster = Cluster::with(3, settings);
    put(&cluster.any(), "t/a", "before").unwrap();
    let cut = cluster.leader();
    let others: Vec<u64> = cluster
        .nodes()
        .into_iter()
        .filter(|node| *node != cut)
        .collect();
    let load = Load::on(&cluster, &cluster.nodes());
    thread::sleep(Duration::from_millis(300));
    cluster.board.isolate(cut);
    // What the cut off one is asked now must not count, and it must not read what may be old.
    let minority = {
        let catalog = cluster.node(cut);
        thread::spawn(move || (put(&catalog, "t/a", "minority"), get(&catalog, "t/a")))
    };
    let changed = loop {
        match put(&cluster.node(others[0]), "t/a", "majority") {
            Ok(()) => break Instant::now(),
            Err(cause) => assert_eq!(cause.kind(), Kind::Unavailable),
        }
    };
    assert_eq!(
        get(&cluster.node(others[1]), "t/a").unwrap().as_deref(),
        Some("majority")
    );
    let (wrote, read) = minority.join().unwrap();
    assert_eq!(wrote.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(read.unwrap_err().kind(), Kind::Unavailable);
    assert!(changed.elapsed() < Duration::from_secs(60));
    cluster.board.heal();
    let back = loop {
        if let Ok(value) = get(&cluster.node(cut), "t/a") {
            break value;
        }
    };
    assert_eq!(
        back.as_deref(),
        Some("majority"),
        "what the minority was refused came back"
    );
    let (mut history, unknown) = load.end();
    none_lost_none_doubled(&cluster, cut, &mut history, unknown);
}

#[test]
fn a_holder_of_the_turn_that_is_cut_off_keeps_the_others_for_a_moment_only() {
    let cluster = Cluster::of(3);
    let holder = cluster.follower();
    let (held, wait_held) = sync_channel(0);
    let (go, wait_go) = sync_channel::<()>(0);
    let change = {
        let catalog = cluster.node(holder);
        thread::spawn(move || {
            catalog.transact(move |txn| {
                txn.put(b"t/a", b"late".to_vec());
                held.send(()).unwrap();
                wait_go.recv().unwrap();
                Ok(())
            })
        })
    };
    wait_held.recv().unwrap();
    // At work, it keeps the turn for as long as it says so.
    let other = cluster.node(cluster.leader());
    let waiting = thread::spawn(move || put(&other, "t/a", "first"));
    thread::sleep(Duration::from_millis(600));
    assert!(!waiting.is_finished());
    cluster.board.isolate(holder);
    waiting.join().unwrap().unwrap();
    cluster.board.heal();
    go.send(()).unwrap();
    let late = change.join().unwrap().unwrap_err();
    assert!(late.to_string().contains("nothing was changed"), "{late}");
    assert_eq!(
        get(&cluster.node(holder), "t/a").unwrap().as_deref(),
        Some("first")
    );
}

#[test]
fn all_nodes_stopped_at_once_come_back_with_every_answered_change() {
    let mut cluster = Cluster::of(3);
    let load = Load::on(&cluster, &cluster.nodes());
    thread::sleep(Duration::from_millis(500));
    let nodes = cluster.nodes();
    for node in &nodes {
        cluster.stop(*node);
    }
    let (mut history, unknown) = load.end();
    for node in &nodes {
        cluster.start(*node);
    }
    let leader = cluster.leader();
    none_lost_none_doubled(&cluster, leader, &mut history, unknown);
    // The leader may change once more; then nothing was changed.
    let again = loop {
        match count(&cluster.any(), "t/again") {
            Ok(value) => break value,
            Err(cause) => assert!(cause.to_string().contains("nothing was changed"), "{cause}"),
        }
    };
    assert_eq!(again, 1);
}
