//! The transmission phase: what is served, what is refused, and who waits for whom.

use super::client::{Client, Reply};
use super::disk::Disk;
use super::{eventually, serve_disk};
use crate::nbd::codec::numbers::{Errno, PAYLOAD_BYTES_MAX, command_flag};
use crate::nbd::codec::reply::Descriptor;
use crate::nbd::codec::request::{Command, Request};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const HOLE_ZERO: u32 = 3;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 + 1).collect()
}

#[test]
fn what_is_written_is_read_with_simple_and_structured_replies() {
    let setup = serve_disk(Disk::new(64 * MIB));
    let mut simple = Client::attach_simple(&setup.path, "a");
    let mut structured = Client::attach(&setup.path, "a");
    for length in [
        1,
        511,
        4096,
        8192,
        70_000,
        300_000,
        5 << 20,
        PAYLOAD_BYTES_MAX as usize,
    ] {
        let bytes = pattern(length);
        assert_eq!(simple.write(1000, &bytes).error, None);
        assert_eq!(simple.read(1000, length as u32), bytes, "{length}");
        assert_eq!(structured.read(1000, length as u32), bytes, "{length}");
    }
    assert_eq!(structured.write(3, b"both write: one process").error, None);
    assert_eq!(simple.read(3, 23), b"both write: one process");
}

#[test]
fn zeroes_and_trims_make_holes_that_reads_and_block_status_show() {
    let setup = serve_disk(Disk::new(8 * MIB));
    let mut client = Client::attach(&setup.path, "a");
    assert_eq!(client.write(0, &pattern(4 << 20)).error, None);
    assert_eq!(
        client
            .ask(Command::WriteZeroes, 0, MIB, MIB as u32, &[])
            .error,
        None
    );
    assert_eq!(
        client
            .ask(Command::Trim, command_flag::FUA, 3 * MIB, MIB as u32, &[])
            .error,
        None
    );
    let flags = command_flag::FAST_ZERO | command_flag::NO_HOLE | command_flag::FUA;
    assert_eq!(
        client.ask(Command::WriteZeroes, flags, 100, 50, &[]).error,
        None
    );

    let reply = client.ask(Command::Read, 0, 0, 4 << 20, &[]);
    assert_eq!(reply.holes, [(MIB, MIB as u32), (3 * MIB, MIB as u32)]);
    assert_eq!(
        reply
            .data
            .iter()
            .map(|(at, data)| (*at, data.len() as u64))
            .collect::<Vec<_>>(),
        [(0, MIB), (2 * MIB, MIB)]
    );
    let whole = client.ask(Command::Read, command_flag::DF, 0, 4 << 20, &[]);
    assert_eq!((whole.data.len(), whole.holes.len()), (1, 0));
    assert_eq!(whole.data[0].1, setup.disk.bytes()[..4 << 20]);

    let run = |length: u64, status| Descriptor {
        length: length as u32,
        status,
    };
    let status = client.ask(Command::BlockStatus, 0, 0, 8 << 20, &[]);
    assert_eq!(
        status.descriptors,
        [
            run(MIB, 0),
            run(MIB, HOLE_ZERO),
            run(MIB, 0),
            run(5 * MIB, HOLE_ZERO)
        ]
    );
    let one = client.ask(Command::BlockStatus, command_flag::REQ_ONE, 4096, 8192, &[]);
    assert_eq!(one.descriptors, [run(8192, 0)]);
    let inner = client.ask(Command::BlockStatus, 0, MIB - 100, 300, &[]);
    assert_eq!(inner.descriptors, [run(100, 0), run(200, HOLE_ZERO)]);
}

#[test]
fn a_block_status_reply_is_bounded_and_can_be_continued() {
    let setup = serve_disk(Disk::new(40 * MIB));
    let mut client = Client::attach(&setup.path, "a");
    for block in (0..10_240).step_by(2) {
        client.send(Command::Write, 0, block, block * 4096, 1, b"x");
        assert_eq!(client.reply(0).error, None);
    }
    let reply = client.ask(Command::BlockStatus, 0, 0, 40 << 20, &[]);
    assert_eq!(reply.descriptors.len(), 4096);
    let rest = client.ask(Command::BlockStatus, 0, 4096 * 4096, 24 << 20, &[]);
    assert_eq!(
        rest.descriptors[0],
        Descriptor {
            length: 4096,
            status: 0
        }
    );
}

#[test]
fn past_the_end_is_einval_for_reads_and_enospc_for_writes() {
    let setup = serve_disk(Disk::new(MIB));
    let mut client = Client::attach(&setup.path, "a");
    for (offset, length) in [
        (MIB, 1),
        (MIB - 1, 2),
        (u64::MAX, 1),
        (u64::MAX - 4095, 4096),
        (1 << 62, 512),
    ] {
        for (command, errno) in [
            (Command::Read, Errno::Inval),
            (Command::Trim, Errno::Inval),
            (Command::Cache, Errno::Inval),
            (Command::BlockStatus, Errno::Inval),
            (Command::WriteZeroes, Errno::NoSpc),
        ] {
            let reply = client.ask(command, 0, offset, length, &[]);
            assert_eq!(reply.errno(), Some(errno), "{command:?} {offset}");
            assert!(
                reply
                    .error
                    .is_some_and(|(_, message)| message.contains("1048576 bytes"))
            );
        }
        let reply = client.ask(Command::Write, 0, offset, length, &vec![1; length as usize]);
        assert_eq!(reply.errno(), Some(Errno::NoSpc));
    }
    assert_eq!(setup.disk.bytes(), vec![0; MIB as usize]);
    assert_eq!(client.read(MIB - 1, 1), [0]);
}

#[test]
fn requests_of_no_bytes_do_nothing_and_succeed() {
    let setup = serve_disk(Disk::new(MIB));
    for mut client in [
        Client::attach(&setup.path, "a"),
        Client::attach_simple(&setup.path, "a"),
    ] {
        for command in [
            Command::Read,
            Command::Write,
            Command::Trim,
            Command::WriteZeroes,
            Command::Cache,
        ] {
            assert_eq!(client.ask(command, 0, 0, 0, &[]).error, None, "{command:?}");
        }
        assert_eq!(setup.disk.holder(), None);
    }
    assert_eq!(
        Client::attach(&setup.path, "a")
            .ask(Command::BlockStatus, 0, 0, 0, &[])
            .errno(),
        Some(Errno::Inval)
    );
}

#[test]
fn unknown_commands_flags_and_sizes_are_einval_and_the_stream_stays_in_step() {
    let setup = serve_disk(Disk::new(64 * MIB));
    let mut client = Client::attach(&setup.path, "a");
    let too_long = PAYLOAD_BYTES_MAX + 1;
    for (command, flags, length, payload) in [
        (Command::Unknown(8), 0, 4096, 0),
        (Command::Unknown(4711), 0, u32::MAX, 0),
        (Command::Read, command_flag::NO_HOLE, 4096, 0),
        (Command::Read, 1 << 15, 4096, 0),
        (Command::Write, command_flag::DF, 4096, 4096),
        (Command::Cache, command_flag::REQ_ONE, 4096, 0),
        (Command::Trim, command_flag::FAST_ZERO, 4096, 0),
        (Command::Read, 0, too_long, 0),
        (Command::Read, 0, u32::MAX, 0),
        (Command::Write, 0, too_long, too_long as usize),
    ] {
        let reply = client.ask(command, flags, 0, length, &vec![1; payload]);
        assert_eq!(
            reply.errno(),
            Some(Errno::Inval),
            "{command:?} {flags:#x} {length}"
        );
    }
    assert_eq!(client.read(0, 4096), [0; 4096]);
    let mut simple = Client::attach_simple(&setup.path, "a");
    let reply = simple.ask(Command::Read, command_flag::DF, 0, 4096, &[]);
    assert_eq!(reply.errno(), Some(Errno::Inval));
}

#[test]
fn a_write_without_end_and_a_wrong_magic_close_the_connection() {
    let setup = serve_disk(Disk::new(MIB));
    let mut client = Client::attach(&setup.path, "a");
    client.send(Command::Write, 0, 1, 0, u32::MAX, &[]);
    assert!(client.is_closed());
    let mut client = Client::attach(&setup.path, "a");
    client.stream.write_all(&[0x25; 28]).unwrap();
    assert!(client.is_closed());
}

#[test]
fn fua_flushes_before_the_reply_and_flags_are_allowed_where_the_protocol_says() {
    let setup = serve_disk(Disk::new(MIB));
    let mut client = Client::attach(&setup.path, "a");
    let flushes = || setup.disk.flushes.load(Ordering::SeqCst);
    assert_eq!(
        client
            .ask(Command::Write, command_flag::FUA, 0, 4, b"fua!")
            .error,
        None
    );
    assert_eq!(flushes(), 1);
    assert_eq!(client.ask(Command::Flush, 0, 0, 0, &[]).error, None);
    assert_eq!(flushes(), 2);
    // "Existing clients are known to set this bit on other commands."
    for command in [
        Command::Read,
        Command::Cache,
        Command::BlockStatus,
        Command::Flush,
    ] {
        assert_eq!(
            client.ask(command, command_flag::FUA, 0, 4096, &[]).error,
            None,
            "{command:?}"
        );
    }
    assert_eq!(flushes(), 3);
}

#[test]
fn a_read_only_export_refuses_writes_with_eperm() {
    let setup = serve_disk(Disk::new(MIB));
    let mut client = Client::attach(&setup.path, "ro");
    assert_eq!(client.write(0, b"no").errno(), Some(Errno::Perm));
    assert_eq!(
        client.ask(Command::Trim, 0, 0, 4096, &[]).errno(),
        Some(Errno::Perm)
    );
    assert_eq!(
        client.ask(Command::WriteZeroes, 0, 0, 4096, &[]).errno(),
        Some(Errno::Perm)
    );
    assert_eq!(client.ask(Command::Flush, 0, 0, 0, &[]).error, None);
    assert_eq!(client.read(0, 16), [0; 16]);
}

#[test]
fn a_resize_is_seen_by_the_next_request() {
    let setup = serve_disk(Disk::new(MIB));
    let mut client = Client::attach(&setup.path, "a");
    assert_eq!(
        client.ask(Command::Read, 0, MIB, 4096, &[]).errno(),
        Some(Errno::Inval)
    );
    setup.disk.resize(2 * MIB);
    assert_eq!(client.read(MIB, 4096), [0; 4096]);
}

#[test]
fn a_slow_flush_holds_up_nobody_else_on_its_connection() {
    let setup = serve_disk(Disk::new(MIB));
    let mut client = Client::attach(&setup.path, "a");
    setup.disk.shut_gate(true);
    client.send(Command::Flush, 0, 1, 0, 0, &[]);
    client.send(Command::Write, command_flag::FUA, 2, 0, 4, b"slow");
    for cookie in 3..40 {
        client.send(Command::Read, 0, cookie, 0, 512, &[]);
    }
    for _ in 3..40 {
        let reply = client.reply(512);
        assert!(reply.cookie >= 3 && reply.error.is_none());
    }
    setup.disk.shut_gate(false);
    let mut last = [client.reply(0).cookie, client.reply(0).cookie];
    last.sort_unstable();
    assert_eq!(last, [1, 2]);
}

#[test]
fn no_gathered_reply_waits_for_what_is_slow_incomplete_or_last() {
    let setup = serve_disk(Disk::new(MIB));
    let reads = |count: u64| -> Vec<u8> {
        let read = |cookie| Request {
            flags: 0,
            command: Command::Read,
            cookie,
            offset: 0,
            length: 4096,
        };
        (0..count)
            .flat_map(|cookie| read(cookie).encode())
            .collect()
    };
    let request = |command| Request {
        flags: 0,
        command,
        cookie: 99,
        offset: 0,
        length: 0,
    };
    setup.disk.shut_gate(true);
    for (last, closes) in [
        (request(Command::Flush).encode().to_vec(), false),
        (request(Command::Flush).encode()[..20].to_vec(), false),
        (request(Command::Disconnect).encode().to_vec(), true),
        (vec![0xAA; Request::BYTES], true),
    ] {
        let mut client = Client::attach(&setup.path, "a");
        let mut bytes = reads(100);
        bytes.extend_from_slice(&last);
        client.stream.write_all(&bytes).unwrap();
        let mut cookies: Vec<u64> = (0..100).map(|_| client.reply(4096).cookie).collect();
        cookies.sort_unstable();
        assert_eq!(cookies, (0..100).collect::<Vec<u64>>());
        assert!(!closes || client.is_closed());
    }
    setup.disk.shut_gate(false);
}

#[test]
fn small_and_large_writes_mixed_in_one_burst_land_where_they_belong() {
    let setup = serve_disk(Disk::new(8 * MIB));
    let mut client = Client::attach(&setup.path, "a");
    let mut expected = vec![0; 8 << 20];
    let mut burst = Vec::new();
    let mut at = 0;
    let lengths = [
        1, 100, 4096, 20_000, 5, 70_000, 16_384, 512, 300_000, 9, 65_536, 4096,
    ];
    for (cookie, length) in lengths.into_iter().enumerate() {
        let payload: Vec<u8> = pattern(length)
            .iter()
            .map(|byte| byte ^ cookie as u8)
            .collect();
        let request = Request {
            flags: 0,
            command: Command::Write,
            cookie: cookie as u64,
            offset: at as u64,
            length: length as u32,
        };
        burst.extend_from_slice(&request.encode());
        burst.extend_from_slice(&payload);
        expected[at..at + length].copy_from_slice(&payload);
        at += length + 10;
    }
    client.stream.write_all(&burst).unwrap();
    lengths
        .iter()
        .for_each(|_| assert_eq!(client.reply(0).error, None));
    assert!(setup.disk.bytes() == expected);
}

#[test]
fn sixteen_slow_requests_run_at_once_and_the_rest_waits_its_turn() {
    let setup = serve_disk(Disk::new(MIB));
    let mut client = Client::attach(&setup.path, "a");
    setup.disk.shut_gate(true);
    for cookie in 0..40 {
        client.send(Command::Flush, 0, cookie, 0, 0, &[]);
    }
    std::thread::sleep(Duration::from_millis(100));
    setup.disk.shut_gate(false);
    let mut cookies: Vec<u64> = (0..40).map(|_| client.reply(0).cookie).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (0..40).collect::<Vec<u64>>());
}

#[test]
fn a_client_killed_in_mid_write_leaves_nothing_and_lets_go_of_the_token() {
    let setup = serve_disk(Disk::new(MIB));
    let mut client = Client::attach(&setup.path, "a");
    assert_eq!(client.write(0, b"whole").error, None);
    assert!(
        setup
            .disk
            .holder()
            .is_some_and(|holder| holder.starts_with(&format!("pid {} (", std::process::id())))
    );
    client.send(Command::Write, 0, 9, 0, 65536, &[7; 30_000]);
    drop(client);
    eventually("the token is free", || setup.disk.holder().is_none());
    assert_eq!(&setup.disk.bytes()[..6], b"whole\0");
}

#[test]
fn a_disconnect_finishes_what_is_under_way() {
    let setup = serve_disk(Disk::new(MIB));
    let mut client = Client::attach(&setup.path, "a");
    setup.disk.shut_gate(true);
    client.send(Command::Write, command_flag::FUA, 5, 0, 4, b"done");
    client.send(Command::Disconnect, 0, 6, 0, 0, &[]);
    std::thread::sleep(Duration::from_millis(50));
    setup.disk.shut_gate(false);
    assert_eq!(
        client.reply(0),
        Reply {
            cookie: 5,
            ..Reply::default()
        }
    );
    assert!(client.is_closed());
    assert_eq!(&setup.disk.bytes()[..4], b"done");
}

#[test]
fn stopping_answers_what_is_under_way_and_removes_the_socket() {
    let setup = serve_disk(Disk::new(MIB));
    let mut busy = Client::attach(&setup.path, "a");
    let mut idle = Client::attach(&setup.path, "a");
    setup.disk.shut_gate(true);
    busy.send(Command::Write, command_flag::FUA, 5, 0, 4, b"last");
    eventually("the write is under way", || {
        &setup.disk.bytes()[..4] == b"last"
    });
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| setup.server.stop());
        assert!(idle.is_closed());
        assert!(!setup.path.exists());
        setup.disk.shut_gate(false);
        assert_eq!(busy.reply(0).cookie, 5);
        assert!(busy.is_closed());
        stop.join().unwrap();
    });
    setup.server.stop();
}

#[test]
fn stopping_does_not_wait_for_ever() {
    let setup = serve_disk(Disk::new(MIB));
    let mut stuck = Client::attach(&setup.path, "a");
    setup.disk.shut_gate(true);
    stuck.send(Command::Flush, 0, 5, 0, 0, &[]);
    std::thread::sleep(Duration::from_millis(50));
    let started = Instant::now();
    setup.server.stop();
    let took = started.elapsed();
    assert!(
        took >= super::super::STOP_LIMIT
            && took < super::super::STOP_LIMIT + Duration::from_secs(3)
    );
    assert!(stuck.is_closed());
    setup.disk.shut_gate(false);
}

#[test]
fn connections_are_bounded_and_places_come_free() {
    let setup = serve_disk(Disk::new(MIB));
    let mut clients: Vec<Client> = (0..128).map(|_| Client::attach(&setup.path, "a")).collect();
    assert!(Client::connect_raw(&setup.path).is_closed());
    assert_eq!(clients[127].read(0, 1), [0]);
    clients.truncate(100);
    eventually("places are free", || {
        setup
            .server
            .counters()
            .iter()
            .any(|one| one.connections == 100)
    });
    // A connection is uncounted a moment before its place is free.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(Client::attach(&setup.path, "a").read(0, 1), [0]);
}

#[test]
fn a_panic_in_the_store_closes_the_connection_and_only_that_one() {
    let setup = serve_disk(Disk::new(MIB));
    let mut hit = Client::attach(&setup.path, "a");
    let mut spared = Client::attach(&setup.path, "a");
    assert_eq!(hit.write(0, b"x").error, None);
    setup.disk.panics.store(true, Ordering::SeqCst);
    hit.send(Command::Read, 0, 1, 0, 4096, &[]);
    assert!(hit.is_closed());
    setup.disk.panics.store(false, Ordering::SeqCst);
    assert_eq!(spared.read(0, 1), b"x");
    drop(spared);
    eventually("the token is free", || setup.disk.holder().is_none());
}

#[test]
fn counters_tell_what_was_served() {
    let setup = serve_disk(Disk::new(MIB));
    let mut client = Client::attach(&setup.path, "a");
    client.write(0, &[1; 1000]);
    client.read(0, 300);
    client.read(0, 200);
    client.ask(Command::Trim, 0, 0, 4096, &[]);
    client.ask(Command::Flush, 0, 0, 0, &[]);
    client.ask(Command::Read, 0, MIB, 1, &[]);
    let counters = setup.server.counters();
    assert_eq!(counters.len(), 1);
    let of = &counters[0];
    assert_eq!((of.export.as_str(), of.connections), ("a", 1));
    assert_eq!(
        (of.reads, of.read_bytes, of.writes, of.written_bytes),
        (2, 500, 1, 1000)
    );
    assert_eq!(
        (of.zeroes, of.zeroed_bytes, of.flushes, of.errors),
        (1, 4096, 1, 1)
    );
}

/// One request of a client that knows no bounds.
fn any_request() -> impl Strategy<Value = (u16, u16, u64, u32)> {
    let offset = prop_oneof![0..2 * MIB, any::<u64>()];
    let length = prop_oneof![0u32..100_000, any::<u32>()];
    let flags = prop_oneof![Just(0u16), 0u16..32, any::<u16>()];
    (0u16..10, flags, offset, length)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Every request is answered once, with its own cookie, whatever it asks; or the connection ends.
    #[test]
    fn any_request_gets_one_answer(requests in prop::collection::vec(any_request(), 1..30)) {
        let setup = serve_disk(Disk::new(MIB));
        let mut client = Client::attach(&setup.path, "a");
        let mut lengths = BTreeMap::new();
        for (cookie, (command, flags, offset, length)) in requests.into_iter().enumerate() {
            let cookie = cookie as u64;
            let mut bytes = Request { flags, command: Command::Flush, cookie, offset, length }.encode();
            bytes[6..8].copy_from_slice(&command.to_be_bytes());
            let request = Request::decode(&bytes).unwrap();
            if request.command == Command::Disconnect || request.payload_bytes() > 200_000 {
                continue;
            }
            client.stream.write_all(&bytes).unwrap();
            client.stream.write_all(&pattern(request.payload_bytes() as usize)).unwrap();
            lengths.insert(cookie, length as usize);
            if lengths.len() % 4 == 0 {
                let reply = client.reply(0);
                prop_assert!(lengths.remove(&reply.cookie).is_some());
            }
        }
        while !lengths.is_empty() {
            let reply = client.reply(0);
            prop_assert!(lengths.remove(&reply.cookie).is_some());
        }
        client.send(Command::Disconnect, 0, 0, 0, 0, &[]);
        prop_assert!(client.is_closed());
    }

    /// After any bytes at all, the next client is served.
    #[test]
    fn any_bytes_leave_the_server_whole(
        bytes in prop::collection::vec(any::<u8>(), 0..2000), attached: bool, magic: bool,
    ) {
        let setup = serve_disk(Disk::new(MIB));
        let mut client = if attached { Client::attach(&setup.path, "a") } else { Client::connect(&setup.path) };
        if magic {
            let start = if attached { &[0x25, 0x60, 0x95, 0x13][..] } else { b"IHAVEOPT" };
            client.stream.write_all(start).unwrap();
        }
        // The server may close before it has read everything.
        let _ = client.stream.write_all(&bytes);
        drop(client);
        prop_assert_eq!(Client::attach(&setup.path, "a").read(0, 10).len(), 10);
    }
}
