//! What a message costs on loopback with TLS on. Prints figures; fails only on absurd ones. Run it
//! alone for figures that mean something:
//! `cargo test --release -p blockstore --lib peer::tests::measure -- --nocapture`

use super::{Cluster, HeardState, LONG};
use crate::NodeId;
use crate::peer::{Body, Lane, Options, Peers, Switchboard};
use bytes::Bytes;
use futures::executor::block_on;
use std::time::{Duration, Instant};

const ROUNDS: usize = 1500;
const STREAM: usize = 256;
const SMALL: usize = 10_000;

fn round_trips(peers: &dyn Peers) -> (Duration, Duration) {
    let payload = Bytes::from(vec![3; 4096]);
    let ask = || {
        let body = Body::new(vec![0; 64], vec![payload.clone()]);
        let since = Instant::now();
        block_on(peers.call(NodeId(2), Lane::Replica, body, LONG)).unwrap();
        since.elapsed()
    };
    let _warm: Duration = (0..100).map(|_| ask()).sum();
    let mut times: Vec<_> = (0..ROUNDS).map(|_| ask()).collect();
    times.sort();
    (times[ROUNDS / 2], times[ROUNDS * 99 / 100])
}

/// MB/s of `count` messages with a payload of `bytes` each.
fn stream(peers: &dyn Peers, heard: &super::Heard, bytes: usize, count: usize) -> f64 {
    let body = Body::new(vec![0; 64], vec![Bytes::from(vec![3; bytes])]);
    let before = heard.look(|state| state.messages.len());
    let since = Instant::now();
    for number in 0..count {
        while peers.send(NodeId(2), Lane::Replica, body.clone()).is_err() {
            std::thread::yield_now();
        }
        if number % 64 == 0 {
            // Not kept: memory is not what is measured.
            heard.change(|state| state.messages.iter_mut().for_each(|(_, body)| body.clear()));
        }
    }
    let all = |state: &HeardState| state.messages.len() == before + count;
    heard.wait("all have come", all);
    (count * bytes) as f64 / 1e6 / since.elapsed().as_secs_f64()
}

fn measure(name: &str, peers: &dyn Peers, heard: &super::Heard) {
    let (p50, p99) = round_trips(peers);
    let large = stream(peers, heard, 1 << 20, STREAM);
    let small = stream(peers, heard, 4096, SMALL);
    println!(
        "{name}: 4 KiB there and back p50 {p50:?}, p99 {p99:?}; messages of 1 MiB {large:.0} MB/s, of 4 KiB {small:.0} MB/s"
    );
    assert!(p50 < Duration::from_millis(100) && large > 5.0 && small > 1.0);
}

#[test]
fn a_round_trip_and_a_stream_cost_what_is_printed() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    one.call(2, Lane::Replica, b"warm").unwrap();
    let heard = two.heard(Lane::Replica);
    measure("TLS on loopback", &one.transport, heard);

    let board = Switchboard::new();
    let one = board.plug(NodeId(1), Options::default()).unwrap();
    let two = board.plug(NodeId(2), Options::default()).unwrap();
    let heard = super::hang_in(&two);
    measure("pipes in the process", &one, &heard[&Lane::Replica]);
}
