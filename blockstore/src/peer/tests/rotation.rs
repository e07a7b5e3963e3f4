//! The CA is replaced under traffic: nothing is lost, nothing comes twice, and the old CA is out.

use super::raw::Raw;
use super::{Cluster, LONG, Node, now_ms, quick};
use crate::NodeId;
use crate::peer::frame::Preamble;
use crate::peer::{Advance, Authority, EventKind, Identity, Incarnation, Lane, Passport};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// What the lead's hourly round does: every node follows the row, says where it stands, and the row
/// advances.
fn settle(cluster: &Cluster, nodes: &[&Node], pause: Duration) -> Authority {
    let mut authority = cluster.authority().rotate(&cluster.seal, now_ms()).unwrap();
    loop {
        for node in nodes {
            node.identity.follow(&authority, now_ms()).unwrap();
            std::thread::sleep(pause);
        }
        let members: Vec<_> = nodes
            .iter()
            .map(|node| {
                let identity = &node.identity;
                (identity.passport().node, Some(identity.standing()))
            })
            .collect();
        match authority
            .advance(&cluster.seal, &members, now_ms())
            .unwrap()
        {
            Advance::Settled => return authority,
            Advance::Waits(nodes) => panic!("waits for {nodes:?}"),
            Advance::Change(next) => authority = next,
        }
    }
}

#[test]
fn a_ca_is_replaced_under_traffic_and_no_message_or_answer_is_lost() {
    let cluster = Cluster::new();
    let nodes = [cluster.node(1), cluster.node(2), cluster.node(3)];
    let old = Identity::in_memory(cluster.passport(3)).unwrap();
    let done = AtomicBool::new(false);
    let sent = [const { AtomicU64::new(0) }; 3];
    std::thread::scope(|scope| {
        for (at, node) in nodes.iter().enumerate() {
            let to = (at as u64 + 1) % 3 + 1;
            let (done, sent) = (&done, &sent[at]);
            scope.spawn(move || {
                while !done.load(SeqCst) {
                    let number = sent.load(SeqCst);
                    match node.send(to, Lane::Replica, &number.to_le_bytes()) {
                        Ok(()) => sent.store(number + 1, SeqCst),
                        Err(full) => assert_eq!(full.why, crate::peer::Why::Queue),
                    }
                    if number % 64 == 0 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
            scope.spawn(move || {
                while !done.load(SeqCst) {
                    node.call(to, Lane::Raft, b"still there?").unwrap();
                }
            });
        }
        std::thread::sleep(Duration::from_millis(100));
        let all: Vec<&Node> = nodes.iter().collect();
        let authority = settle(&cluster, &all, Duration::from_millis(50));
        *cluster.authority.lock().unwrap() = authority;
        std::thread::sleep(Duration::from_millis(400));
        done.store(true, SeqCst);
    });
    for (at, node) in nodes.iter().enumerate() {
        let from = (at + 2) % 3;
        let count = sent[from].load(SeqCst);
        assert!(count > 100, "{count}");
        let heard = node.heard(Lane::Replica);
        heard.wait("all have come", |state| {
            state.messages.len() as u64 == count
        });
        heard.look(|state| {
            for (number, (_, body)) in state.messages.iter().enumerate() {
                assert_eq!(body[..], (number as u64).to_le_bytes());
            }
            assert!(
                state.gone.is_empty(),
                "nothing was given up: {:?}",
                state.gone
            );
        });
        let figures = node.transport.figures();
        let mine = figures.iter().filter(|figures| figures.connects > 0);
        for lane in mine {
            assert_eq!(lane.losses, 0, "{lane:?}");
            assert!(lane.connects >= 3, "it moved with each change: {lane:?}");
        }
    }
    // Whoever has the old CA's certificate is a stranger now.
    let hello = Raw::hello(&old, 1, Lane::Control);
    let trusts = nodes[0].identity.standing().trusts;
    assert_eq!(trusts.len(), 1);
    let greeted = Raw::connect(&nodes[0], &old).greet(Preamble::OURS, &hello);
    assert!(greeted.is_err());
}

#[test]
fn a_connection_whose_ca_is_not_trusted_any_more_is_closed() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    two.call(1, Lane::Control, b"hello").unwrap();
    // Node 2 was removed from the list of those who are waited for, and keeps its old certificate.
    let authority = settle(&cluster, &[&one], Duration::ZERO);
    *cluster.authority.lock().unwrap() = authority;
    one.heard(Lane::Control)
        .wait("its connection is closed", |state| {
            state.gone.contains(&NodeId(2))
        });
    let since = Instant::now();
    loop {
        let answer = two.call(1, Lane::Control, b"?");
        let told = answer.as_ref().map_err(|error| error.chain());
        if told.is_err_and(|told| told.contains("not signed by this cluster's CA")) {
            break;
        }
        assert!(since.elapsed() < LONG, "{answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(one.call(2, Lane::Control, b"?").is_err());
    one.events.wait(EventKind::Stranger);
}

#[test]
fn a_certificate_is_renewed_without_a_restart() {
    let cluster = Cluster::new();
    let day = 24 * 3_600_000;
    let (node, disk, made) = (NodeId(1), Incarnation(1), now_ms() - 70 * day);
    let authority = cluster.authority();
    let passport = Passport::issue(&authority, &cluster.seal, node, disk, made).unwrap();
    let members = Arc::clone(&cluster.roster) as _;
    let one = Node::start(passport, 1, members, quick(), None);
    cluster.roster.put(node, 1, vec![one.address.clone()]);
    let two = cluster.node(2);
    one.call(2, Lane::Replica, b"hello").unwrap();
    let before = one.identity.standing();
    assert!(one.identity.follow(&authority, now_ms()).unwrap());
    assert!(one.identity.standing().not_after_ms > before.not_after_ms);
    one.call(2, Lane::Replica, b"hello again").unwrap();
    two.call(1, Lane::Replica, b"and back").unwrap();
    let since = Instant::now();
    while one.transport.figures()[0].connects < 2 {
        assert!(
            since.elapsed() < LONG,
            "it does not show its new certificate"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    for node in [&one, &two] {
        node.heard(Lane::Replica)
            .look(|state| assert!(state.gone.is_empty()));
    }
}
