//! Garbage, slowness, silence and corruption cost the one who brings them, and nobody else.

use super::raw::{Raw, member, refusal};
use super::{Cluster, LONG, quick};
use crate::NodeId;
use crate::peer::frame::{Frame, HEAD_BYTES, Kind, Preamble};
use crate::peer::{EventKind, Lane, Options, RefusalCode};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[test]
fn garbage_on_the_listener_is_turned_away() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    let mut random = StdRng::seed_from_u64(4);
    for round in 0..40 {
        let mut tcp = TcpStream::connect(&one.address).unwrap();
        tcp.set_read_timeout(Some(LONG)).unwrap();
        let mut bytes = vec![0; random.random_range(1..2000)];
        random.fill_bytes(&mut bytes);
        if round == 0 {
            bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
        }
        let _ = tcp.write_all(&bytes);
        let _ = tcp.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer);
        assert!(answer.len() < 100, "an alert at most");
    }
    let event = one.events.wait(EventKind::Stranger);
    assert!(event.text.contains("TLS"), "{event:?}");
    two.call(1, Lane::Control, b"all is well").unwrap();
}

#[test]
fn garbage_from_a_member_ends_its_connection_and_nothing_else() {
    let cluster = Cluster::new();
    let one = cluster.node(1);
    let two = member(&cluster, 2);
    let hello = Raw::hello(&two, 1, Lane::Replica);
    let mut raw = Raw::connect(&one, &two);
    raw.0
        .write_all(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n")
        .unwrap();
    let mut preamble = [0; crate::peer::frame::PREAMBLE_BYTES];
    raw.0.read_exact(&mut preamble).unwrap();
    let said = refusal(&raw.next().unwrap());
    assert_eq!(said.code, RefusalCode::Malformed);
    // After a good hello, any bytes.
    let mut random = StdRng::seed_from_u64(5);
    for _ in 0..40 {
        let mut raw = Raw::connect(&one, &two);
        let (kind, _) = raw.greet(Preamble::OURS, &hello).unwrap();
        assert_eq!(kind, Kind::Welcome);
        let mut bytes = vec![0; random.random_range(HEAD_BYTES..500)];
        random.fill_bytes(&mut bytes);
        // Half of them look like a frame up to the checksum.
        if random.random() {
            let length = u32::try_from(bytes.len() - HEAD_BYTES).unwrap();
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            bytes[4] = Lane::Replica.number();
            bytes[5] = random.random_range(1..=10);
        } else {
            bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        }
        raw.0.write_all(&bytes).unwrap();
        raw.until_closed();
    }
    one.events.wait(EventKind::Corrupted);
    one.heard(Lane::Replica).look(|state| {
        assert!(state.messages.is_empty() && state.calls == 0);
    });
    let mut raw = Raw::connect(&one, &two);
    raw.greet(Preamble::OURS, &hello).unwrap();
    raw.say(Lane::Replica, Kind::Request, 1, b"and a good one")
        .unwrap();
    assert_eq!(
        raw.next().unwrap(),
        (Kind::Reply, b"and a good one".to_vec())
    );
}

#[test]
fn a_corrupted_message_closes_the_connection_and_is_not_delivered() {
    let cluster = Cluster::new();
    let one = cluster.node(1);
    let two = member(&cluster, 2);
    let mut raw = Raw::connect(&one, &two);
    let hello = Raw::hello(&two, 1, Lane::Replica);
    raw.greet(Preamble::OURS, &hello).unwrap();
    raw.say(Lane::Replica, Kind::Message, 1, b"good").unwrap();
    let frame = Frame::new(
        Lane::Replica,
        Kind::Message,
        2,
        b"good as well".to_vec().into(),
    )
    .unwrap();
    raw.0.write_all(&frame.head).unwrap();
    raw.0.write_all(b"good as hell").unwrap();
    raw.say(Lane::Replica, Kind::Message, 3, b"good again")
        .unwrap();
    raw.until_closed();
    let event = one.events.wait(EventKind::Corrupted);
    assert_eq!(event.node, Some(NodeId(2)));
    assert!(event.text.contains("checksum"), "{event:?}");
    let heard = one.heard(Lane::Replica);
    heard.wait("the connection is given up", |state| {
        state.gone == [NodeId(2)]
    });
    heard.look(|state| {
        let bodies: Vec<_> = state
            .messages
            .iter()
            .map(|(_, body)| body.as_ref())
            .collect();
        assert_eq!(bodies, [b"good"]);
    });
}

#[test]
fn a_frame_of_another_lane_or_a_kind_out_of_place_ends_the_connection() {
    let cluster = Cluster::new();
    let one = cluster.node(1);
    let two = member(&cluster, 2);
    let wrong = [
        (Lane::Bulk, Kind::Message),
        (Lane::Raft, Kind::Reply),
        (Lane::Raft, Kind::Hello),
        (Lane::Raft, Kind::Welcome),
    ];
    for (lane, kind) in wrong {
        let mut raw = Raw::connect(&one, &two);
        let hello = Raw::hello(&two, 1, Lane::Raft);
        raw.greet(Preamble::OURS, &hello).unwrap();
        raw.say(lane, kind, 1, b"?").unwrap();
        raw.until_closed();
    }
    for lane in [Lane::Raft, Lane::Bulk] {
        one.heard(lane)
            .look(|state| assert!(state.messages.is_empty()));
    }
    // The same question twice on one connection.
    let mut raw = Raw::connect(&one, &two);
    raw.greet(Preamble::OURS, &Raw::hello(&two, 1, Lane::Raft))
        .unwrap();
    raw.say(Lane::Raft, Kind::Request, 1, b"never").unwrap();
    one.heard(Lane::Raft)
        .wait("it has come", |state| state.calls == 1);
    raw.say(Lane::Raft, Kind::Request, 1, b"never").unwrap();
    raw.until_closed();
    one.heard(Lane::Raft)
        .wait("what was asked is withdrawn", |state| state.withdrawn == 1);
}

#[test]
fn slow_and_silent_strangers_do_not_lock_members_out() {
    let cluster = Cluster::new();
    let options = Options {
        half_open_max: 8,
        ..quick()
    };
    let one = cluster.start(1, 1, options, None);
    let two = cluster.node(2);
    let strangers: Vec<TcpStream> = (0..60)
        .map(|number| {
            let mut tcp = TcpStream::connect(&one.address).unwrap();
            if number % 2 == 0 {
                // The beginning of a TLS record, and then nothing.
                tcp.write_all(&[22, 3, 1, 2]).unwrap();
            }
            tcp
        })
        .collect();
    let since = Instant::now();
    two.call(1, Lane::Control, b"may I?").unwrap();
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );
    // Each is shown the door after the time for a handshake.
    for mut tcp in strangers {
        tcp.set_read_timeout(Some(LONG)).unwrap();
        let mut byte = [0; 64];
        while let Ok(1..) = tcp.read(&mut byte) {}
    }
    assert!(since.elapsed() < Duration::from_secs(10));
    two.call(1, Lane::Control, b"still?").unwrap();
}

#[test]
fn other_versions_are_refused_politely_by_both_ways() {
    let cluster = Cluster::new();
    let one = cluster.node(1);
    let two = member(&cluster, 2);
    let later = Preamble {
        newest: 9,
        oldest: 7,
    };
    let mut raw = Raw::connect(&one, &two);
    let hello = Raw::hello(&two, 1, Lane::Control);
    let said = refusal(&raw.greet(later, &hello).unwrap());
    assert_eq!(said.code, RefusalCode::Version);
    assert!(said.reason.contains("7 to 9"), "{said}");
    assert_eq!(
        one.events.wait(EventKind::Refused).code,
        Some(RefusalCode::Version)
    );
    // A later release answers, which does not know that it should refuse.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    cluster.roster.put(NodeId(2), 1, vec![address]);
    let config = Arc::clone(&two.current().serve_peers);
    let server = std::thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        let session = rustls::ServerConnection::new(config).unwrap();
        let mut tls = rustls::StreamOwned::new(session, tcp);
        let welcome = Frame::new(Lane::Control, Kind::Welcome, 0, b"{}".to_vec().into()).unwrap();
        tls.write_all(&later.encode()).unwrap();
        tls.write_all(&welcome.head).unwrap();
        tls.write_all(b"{}").unwrap();
        tls.flush().unwrap();
        let mut rest = Vec::new();
        let _ = tls.read_to_end(&mut rest);
        rest
    });
    let error = one.call(2, Lane::Control, b"?").unwrap_err();
    assert!(error.chain().contains("speaks versions"), "{error:?}");
    let said = server.join().unwrap();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("\"code\":\"version\""), "{said}");
}

/// Passes bytes on between a dialler and a node, until it is frozen: then both ends hear nothing.
struct Wire {
    address: String,
    frozen: Arc<AtomicBool>,
}

impl Wire {
    fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let frozen = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&frozen);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(&target).unwrap());
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let flag = Arc::clone(&flag);
                    std::thread::spawn(move || {
                        let mut bytes = [0; 4096];
                        while let Ok(read @ 1..) = from.read(&mut bytes) {
                            while flag.load(SeqCst) {
                                std::thread::sleep(Duration::from_millis(5));
                            }
                            if to.write_all(&bytes[..read]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        Self { address, frozen }
    }
}

#[test]
fn a_peer_that_falls_silent_is_noticed_by_both_sides() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1), cluster.node(2));
    let wire = Wire::to(two.address.clone());
    cluster.roster.put(NodeId(2), 1, vec![wire.address.clone()]);
    one.call(2, Lane::Replica, b"hello").unwrap();
    // Idle for longer than the silence that tells: pings keep it.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(one.transport.figures()[0].losses, 0);
    wire.frozen.store(true, SeqCst);
    let since = Instant::now();
    let error = one.call(2, Lane::Replica, b"?").unwrap_err();
    assert!(error.chain().contains("nothing was heard"), "{error:?}");
    let noticed = since.elapsed();
    assert!(noticed < Duration::from_millis(2500), "{noticed:?}");
    let gone = |state: &super::HeardState| !state.gone.is_empty();
    one.heard(Lane::Replica).wait("the caller knows", gone);
    two.heard(Lane::Replica).wait("the called one knows", gone);
    wire.frozen.store(false, SeqCst);
    one.call_until(2, Lane::Replica, b"back");
}

#[test]
fn a_half_open_connection_is_given_up() {
    let cluster = Cluster::new();
    let one = cluster.node(1);
    let two = member(&cluster, 2);
    let mut raw = Raw::connect(&one, &two);
    raw.greet(Preamble::OURS, &Raw::hello(&two, 1, Lane::Bulk))
        .unwrap();
    let since = Instant::now();
    // It says nothing more, as if the power had gone.
    one.heard(Lane::Bulk)
        .wait("it is gone", |state| state.gone == [NodeId(2)]);
    assert!(since.elapsed() < Duration::from_secs(4));
    // And one that stops in the middle of its hello.
    let mut raw = Raw::connect(&one, &two);
    raw.0.write_all(&Preamble::OURS.encode()).unwrap();
    raw.0.flush().unwrap();
    raw.until_closed();
    assert!(since.elapsed() < LONG);
}
