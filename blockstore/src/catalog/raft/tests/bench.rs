//! How fast: printed, not asserted (`cargo test --release -p blockstore --lib raft::tests::bench -- --nocapture`).

use super::*;
use std::thread;

/// Clients of a load, each waiting for its change before it makes the next.
const CLIENTS: usize = 192;
const SECONDS: f64 = 3.0;

fn per_second(catalogs: &[Catalog]) -> f64 {
    let until = Instant::now() + Duration::from_secs_f64(SECONDS);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let catalog = catalogs[client % catalogs.len()].clone();
            thread::spawn(move || {
                let mut done = 0_u64;
                while Instant::now() < until {
                    put(
                        &catalog,
                        &format!("t/{client}/{}", done % 1000),
                        &"x".repeat(200),
                    )
                    .unwrap();
                    done += 1;
                }
                done
            })
        })
        .collect();
    let done: u64 = clients
        .into_iter()
        .map(|client| client.join().unwrap())
        .sum();
    done as f64 / SECONDS
}

#[test]
fn changes_per_second() {
    let directory = tempfile::tempdir().unwrap();
    let local = Catalog::open(directory.path()).unwrap();
    println!("one node alone: {:.0} changes/s", per_second(&[local]));
    for nodes in [1, 3] {
        let cluster = Cluster::of(nodes);
        let leader = cluster.node(cluster.leader());
        println!(
            "{nodes} nodes, clients at the leader: {:.0} changes/s",
            per_second(&[leader])
        );
        if nodes > 1 {
            let follower = cluster.node(cluster.follower());
            println!(
                "{nodes} nodes, clients at one follower: {:.0} changes/s",
                per_second(&[follower])
            );
            let all: Vec<Catalog> = cluster
                .nodes()
                .into_iter()
                .map(|node| cluster.node(node))
                .collect();
            println!(
                "{nodes} nodes, clients at all: {:.0} changes/s",
                per_second(&all)
            );
        }
        let reader = cluster.node(cluster.follower_or_only());
        let began = Instant::now();
        for _ in 0..200 {
            reader.catch_up().unwrap();
        }
        println!(
            "{nodes} nodes, a read barrier: {:.0} µs",
            began.elapsed().as_micros() as f64 / 200.0
        );
    }
}
