//! What members say to each other arrives: in order, whole, bounded.

use super::{Cluster, LONG, quick};
use crate::peer::{Body, Lane, Options, Peers, Why};
use crate::{Kind, NodeId, Subject};
use bytes::Bytes;
use futures::executor::block_on;
use std::time::{Duration, Instant};

#[test]
fn questions_are_answered_on_every_lane_and_failures_keep_their_kind() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    for lane in Lane::ALL {
        assert_eq!(one.call(2, lane, b"hello").unwrap(), &b"hello"[..]);
        assert_eq!(two.call(1, lane, b"").unwrap(), &b""[..]);
    }
    let error = one.call(2, Lane::Control, b"missing").unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::NotFound, Subject::Volume)
    );
    assert!(error.chain().contains("\"v1\""));
    let error = one.call(2, Lane::Control, b"panic").unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    let figures = one.transport.figures();
    let control = figures.iter().find(|f| f.lane == Lane::Control).unwrap();
    assert!(control.connected);
    assert_eq!(
        (control.node, control.connects, control.losses),
        (NodeId(2), 1, 0)
    );
    assert!(control.calls_out >= 3 && control.calls_in >= 1 && control.bytes_in > 0);
}

#[test]
fn a_question_that_nobody_answers_ends_in_time_and_is_withdrawn() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    one.call(2, Lane::Read, b"warm").unwrap();
    let since = Instant::now();
    let error = one
        .call_for(2, Lane::Read, b"never", Duration::from_millis(300))
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(since.elapsed() < Duration::from_secs(5));
    two.heard(Lane::Read)
        .wait("it is withdrawn", |state| state.withdrawn == 1);
    // Dropped, it is withdrawn, too.
    let asked = one
        .transport
        .call(NodeId(2), Lane::Read, Body::from(b"never".to_vec()), LONG);
    two.heard(Lane::Read)
        .wait("it has come", |state| state.calls == 3);
    drop(asked);
    two.heard(Lane::Read)
        .wait("it is withdrawn", |state| state.withdrawn == 2);
}

#[test]
fn order_holds_on_a_lane_under_load_and_a_busy_lane_does_not_hold_up_another() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    const COUNT: u32 = 20_000;
    std::thread::scope(|scope| {
        for lane in [Lane::Replica, Lane::Bulk] {
            let one = &one;
            scope.spawn(move || {
                for number in 0..COUNT {
                    let header = number.to_le_bytes().to_vec();
                    let payload = vec![Bytes::from(vec![7; (number % 3000) as usize])];
                    let body = Body::new(header, payload);
                    let since = Instant::now();
                    while let Err(full) = one.transport.send(NodeId(2), lane, body.clone()) {
                        assert!(since.elapsed() < LONG, "{full}");
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
        }
        for _ in 0..50 {
            one.call(2, Lane::Control, b"still there").unwrap();
        }
    });
    for lane in [Lane::Replica, Lane::Bulk] {
        let all = |state: &super::HeardState| state.messages.len() == COUNT as usize;
        two.heard(lane).wait("all have come", all);
        two.heard(lane).look(|state| {
            for (number, (from, body)) in state.messages.iter().enumerate() {
                assert_eq!(*from, NodeId(1));
                assert_eq!(body[..4], u32::try_from(number).unwrap().to_le_bytes());
                assert_eq!(body.len(), 4 + number % 3000);
            }
            assert!(state.gone.is_empty());
        });
    }
}

#[test]
fn the_largest_frames_travel_and_larger_ones_are_refused_at_home() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    let limit = Options::default().lanes[usize::from(Lane::Replica.number())].body_bytes_max;
    let block = Bytes::from((0..=255).cycle().take(1 << 20).collect::<Vec<u8>>());
    let body = Body::new(Bytes::new(), vec![block.clone(); limit >> 20]);
    one.transport
        .send(NodeId(2), Lane::Replica, body.clone())
        .unwrap();
    two.heard(Lane::Replica)
        .wait("it has come", |state| state.messages.len() == 1);
    two.heard(Lane::Replica).look(|state| {
        let (_, body) = &state.messages[0];
        assert_eq!(body.len(), limit);
        assert!(body.chunks(1 << 20).all(|chunk| chunk == block));
    });
    let answer = block_on(one.transport.call(NodeId(2), Lane::Replica, body, LONG)).unwrap();
    assert_eq!(answer.len(), limit);
    let larger = Body::new(vec![0], vec![block; limit >> 20]);
    let refused = one
        .transport
        .send(NodeId(2), Lane::Replica, larger.clone())
        .unwrap_err();
    assert_eq!(refused.why, Why::TooLarge);
    let refused = block_on(one.transport.call(NodeId(2), Lane::Replica, larger, LONG));
    assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn a_stuck_receiver_bounds_the_senders_memory_and_is_not_taken_for_dead() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    let heard = two.heard(Lane::Replica);
    heard.change(|state| state.stuck = true);
    let body = Body::new(Bytes::new(), vec![Bytes::from(vec![1; 256 << 10])]);
    let limit = Options::default().lanes[usize::from(Lane::Replica.number())].queue_bytes_max;
    let send = || one.transport.send(NodeId(2), Lane::Replica, body.clone());
    let since = Instant::now();
    let mut sent = 0;
    // Until nothing moves any more: what TLS and the sockets hold is full, too.
    let mut refused_since = Instant::now();
    while refused_since.elapsed() < Duration::from_millis(1500) {
        match send() {
            Ok(()) => {
                sent += 1;
                refused_since = Instant::now();
            }
            Err(full) => {
                assert_eq!(full.why, Why::Queue);
                assert!(full.waiting <= limit, "{full}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(since.elapsed() < LONG * 2, "it never fills");
    }
    let in_sockets = 32 << 20;
    assert!(
        sent * (256 << 10) < limit + in_sockets,
        "{sent} messages were taken"
    );
    // Longer than the silence that tells a dead peer, and the connection stands.
    let figures = |lane| {
        let all = one.transport.figures();
        all.into_iter().find(|f| f.lane == lane).unwrap()
    };
    let replica = figures(Lane::Replica);
    assert_eq!((replica.losses, replica.connected), (0, true));
    assert!(replica.refused_full > 0 && replica.queue_bytes as usize <= limit);
    // The other lanes go on.
    one.call(2, Lane::Control, b"and you?").unwrap();
    let ready = one.heard(Lane::Replica).look(|state| state.ready.len());
    heard.room.add_permits(1_000_000);
    heard.wait("all have come", |state| state.messages.len() == sent);
    one.heard(Lane::Replica)
        .wait("the sender is told", |state| state.ready.len() > ready);
    send().unwrap();
    heard.wait("one more has come", |state| {
        state.messages.len() == sent + 1
    });
    assert_eq!(figures(Lane::Replica).losses, 0);
}

#[test]
fn calls_wait_for_room_and_no_longer_than_their_patience() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    two.heard(Lane::Read).change(|state| state.stuck = true);
    let body = Body::new(Bytes::new(), vec![Bytes::from(vec![1; 4 << 20])]);
    let ask = || {
        let patience = Duration::from_millis(700);
        one.transport
            .call(NodeId(2), Lane::Read, body.clone(), patience)
    };
    let asked: Vec<_> = (0..30).map(|_| ask()).collect();
    let since = Instant::now();
    for error in block_on(futures::future::join_all(asked)) {
        assert_eq!(error.unwrap_err().kind(), Kind::Unavailable);
    }
    assert!(since.elapsed() < Duration::from_secs(10));
    let limit = Options::default().lanes[usize::from(Lane::Read.number())].queue_bytes_max;
    let figures = one.transport.figures();
    let read = figures.iter().find(|f| f.lane == Lane::Read).unwrap();
    assert!(
        read.queue_bytes_max as usize <= limit + (1 << 20),
        "{read:?}"
    );
    two.heard(Lane::Read).room.add_permits(1000);
    two.heard(Lane::Read).change(|state| state.stuck = false);
    let answered = block_on(one.transport.call(NodeId(2), Lane::Read, body, LONG));
    assert_eq!(answered.unwrap().len(), 4 << 20);
}

#[test]
fn a_node_that_stops_says_so_and_one_that_starts_again_is_found() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    one.call(2, Lane::Replica, b"hello").unwrap();
    two.call(1, Lane::Replica, b"hello").unwrap();
    let since = Instant::now();
    two.transport.stop(LONG);
    assert!(since.elapsed() < Duration::from_secs(5));
    drop(two);
    one.heard(Lane::Replica)
        .wait("both ends are gone", |state| {
            state.gone.iter().filter(|node| **node == NodeId(2)).count() >= 2
        });
    let error = one.call_for(2, Lane::Replica, b"?", LONG).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let refused = one.send(2, Lane::Replica, b"?").unwrap_err();
    assert_eq!(refused.why, Why::Unreachable);
    let two = cluster.start(2, 2, quick(), None);
    one.call_until(2, Lane::Replica, b"again");
    one.heard(Lane::Replica)
        .wait("it is ready", |state| state.ready.len() >= 2);
    one.send(2, Lane::Replica, b"message").unwrap();
    two.heard(Lane::Replica)
        .wait("it has come", |state| state.messages.len() == 1);
}

#[test]
fn nobody_is_called_who_is_no_member_and_a_removed_one_is_let_go() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    let error = one.call(9, Lane::Control, b"?").unwrap_err();
    assert!(error.chain().contains("node-9 is no member"), "{error:?}");
    assert_eq!(
        one.send(9, Lane::Raft, b"?").unwrap_err().why,
        Why::NoMember
    );
    assert!(one.call(1, Lane::Control, b"?").is_err(), "itself");
    one.call(2, Lane::Raft, b"hello").unwrap();
    two.call(1, Lane::Raft, b"hello").unwrap();
    cluster.roster.remove(NodeId(2));
    one.heard(Lane::Raft)
        .wait("it is gone", |state| state.gone.contains(&NodeId(2)));
    let since = Instant::now();
    while !one
        .call(2, Lane::Raft, b"?")
        .is_err_and(|error| error.chain().contains("no member"))
    {
        assert!(since.elapsed() < LONG, "it is called still");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_works_within_another_runtime_and_without_one() {
    let cluster = Cluster::new();
    let two = cluster.node(2);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    // No timer and no sockets in this one, and a transport is started and dropped inside.
    runtime.block_on(async {
        let one = cluster.node(1);
        let ask = |body: &[u8], patience| {
            let body = Body::from(body.to_vec());
            one.transport.call(NodeId(2), Lane::Raft, body, patience)
        };
        assert_eq!(ask(b"hello", LONG).await.unwrap(), &b"hello"[..]);
        let short = Duration::from_millis(50);
        assert!(ask(b"never", short).await.is_err());
    });
    drop(two);
}

#[test]
fn stopping_under_load_ends_in_time() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    one.call(2, Lane::Replica, b"warm").unwrap();
    two.call(1, Lane::Replica, b"warm").unwrap();
    std::thread::scope(|scope| {
        let sends = scope.spawn(|| {
            let body = Body::new(Bytes::new(), vec![Bytes::from(vec![1; 64 << 10])]);
            let since = Instant::now();
            loop {
                match one.transport.send(NodeId(2), Lane::Replica, body.clone()) {
                    Err(full) if full.why != Why::Queue => return,
                    _ => assert!(since.elapsed() < LONG),
                }
            }
        });
        std::thread::sleep(Duration::from_millis(200));
        let since = Instant::now();
        one.transport.stop(LONG);
        assert!(
            since.elapsed() < Duration::from_secs(6),
            "{:?}",
            since.elapsed()
        );
        sends.join().unwrap();
    });
    let replica = two.heard(Lane::Replica);
    replica.wait("it is gone", |state| state.gone.contains(&NodeId(1)));
}
