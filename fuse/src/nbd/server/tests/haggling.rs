//! The handshake, well and badly behaved.

use super::client::{Client, Told};
use super::disk::Disk;
use super::{Exports, serve_disk, serve_disk_as};
use crate::nbd::codec::answer::{ExportInfo, Refusal};
use crate::nbd::codec::haggle::{
    ClientFlags, ClientOption, ContextQuery, InfoRequest, OptionHeader,
};
use crate::nbd::codec::numbers::{allocation, info, transmission};
use crate::nbd::codec::request::Command;
use std::io::{Read, Write};

fn wanting<'a>(name: &'a str, wanted: &[u16]) -> InfoRequest<'a> {
    InfoRequest {
        name,
        wanted: wanted.to_vec(),
    }
}

fn flags_of(told: &[Told]) -> u16 {
    match told {
        [Told::Export(ExportInfo { flags, .. }), ..] => *flags,
        other => panic!("{other:?}"),
    }
}

#[test]
fn info_and_go_tell_size_flags_name_description_and_block_sizes() {
    let setup = serve_disk(Disk::new(10 << 20));
    let mut client = Client::connect(&setup.path);
    let all = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE, 99];
    let told = client
        .option(&ClientOption::Info(wanting("a", &all)))
        .unwrap();
    let flags = flags_of(&told);
    assert_eq!(
        told,
        [
            Told::Export(ExportInfo {
                length_bytes: 10 << 20,
                flags
            }),
            Told::Text("a".into()),
            Told::Text("disk a".into()),
            Told::BlockSize(1, 4096, 32 << 20),
        ]
    );
    for flag in [
        transmission::HAS_FLAGS,
        transmission::SEND_FLUSH,
        transmission::SEND_FUA,
        transmission::SEND_TRIM,
        transmission::SEND_WRITE_ZEROES,
        transmission::SEND_FAST_ZERO,
        transmission::SEND_CACHE,
        transmission::CAN_MULTI_CONN,
    ] {
        assert_ne!(flags & flag, 0, "{flag:#x}");
    }
    assert_eq!(flags & (transmission::READ_ONLY | transmission::SEND_DF), 0);
    client.option(&ClientOption::StructuredReply).unwrap();
    let told = client
        .option(&ClientOption::Go(wanting("ro", &[])))
        .unwrap();
    assert_ne!(flags_of(&told) & transmission::READ_ONLY, 0);
    assert_ne!(flags_of(&told) & transmission::SEND_DF, 0);
    assert_eq!(
        flags_of(&told) & (transmission::SEND_TRIM | transmission::SEND_WRITE_ZEROES),
        0
    );
    assert_eq!(client.ask(Command::Flush, 0, 0, 0, &[]).error, None);
}

#[test]
fn export_name_starts_at_once_with_zeroes_only_where_wanted() {
    let setup = serve_disk(Disk::new(1 << 20));
    for (no_zeroes, expected) in [(true, 10), (false, 134)] {
        let mut client = Client::connect_raw(&setup.path);
        client.stream.read_exact(&mut [0; 18]).unwrap();
        client
            .stream
            .write_all(
                &ClientFlags {
                    fixed_newstyle: false,
                    no_zeroes,
                }
                .encode(),
            )
            .unwrap();
        let mut option = Vec::new();
        ClientOption::ExportName("a").encode(&mut option).unwrap();
        client.stream.write_all(&option).unwrap();
        let mut answer = vec![0; expected];
        client.stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..8], (1u64 << 20).to_be_bytes());
        assert!(answer[10..].iter().all(|byte| *byte == 0));
        assert_eq!(client.write(0, b"x").error, None);
    }
}

#[test]
fn export_name_of_a_missing_export_closes() {
    let setup = serve_disk(Disk::new(1 << 20));
    let mut client = Client::connect(&setup.path);
    let mut option = Vec::new();
    ClientOption::ExportName("b").encode(&mut option).unwrap();
    client.stream.write_all(&option).unwrap();
    assert!(client.is_closed());
}

#[test]
fn unknown_options_are_refused_and_both_sides_stay_in_step() {
    let setup = serve_disk(Disk::new(1 << 20));
    let mut client = Client::connect(&setup.path);
    for (number, bytes, refusal) in [
        (4711, 0, Refusal::Unsupported),
        (4711, 1000, Refusal::Unsupported),
        (4, 8, Refusal::Unsupported),
        (5, 0, Refusal::Unsupported),
        (11, 0, Refusal::Unsupported),
        (3, 4, Refusal::Invalid),
        (8, 1, Refusal::Invalid),
        (7, 3, Refusal::Invalid),
        (10, 3, Refusal::Invalid),
        (6, 70_000, Refusal::TooBig),
        (4711, 1 << 20, Refusal::TooBig),
    ] {
        client
            .stream
            .write_all(
                &OptionHeader {
                    number,
                    data_bytes: bytes,
                }
                .encode(),
            )
            .unwrap();
        client
            .stream
            .write_all(&vec![0xFF; bytes as usize])
            .unwrap();
        let answered = client.answers(number);
        assert_eq!(
            answered.as_ref().map_err(|(found, _)| *found),
            Err(refusal),
            "{number}: {answered:?}"
        );
        assert!(answered.is_err_and(|(_, message)| !message.is_empty()));
    }
    client.go("a").unwrap();
    assert_eq!(client.write(0, b"in step").error, None);
    assert_eq!(client.read(0, 7), b"in step");
}

#[test]
fn garbage_ends_the_connection_and_only_that_one() {
    let setup = serve_disk(Disk::new(1 << 20));
    let good = Client::attach(&setup.path, "a");
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 64],
        &[0xFF; 64],
        b"\x00\x00\x00\x03not an option, by far",
    ] {
        let mut client = Client::connect_raw(&setup.path);
        client.stream.write_all(garbage).unwrap();
        assert!(client.is_closed(), "{garbage:?}");
    }
    // An option whose data would never end.
    let mut client = Client::connect(&setup.path);
    client
        .stream
        .write_all(
            &OptionHeader {
                number: 7,
                data_bytes: u32::MAX,
            }
            .encode(),
        )
        .unwrap();
    assert!(client.is_closed());
    let mut good = good;
    assert_eq!(good.read(0, 4), [0; 4]);
}

#[test]
fn abort_is_acknowledged() {
    let setup = serve_disk(Disk::new(1 << 20));
    let mut client = Client::connect(&setup.path);
    assert_eq!(client.option(&ClientOption::Abort), Ok(vec![]));
    assert!(client.is_closed());
}

#[test]
fn a_list_shows_what_the_listener_shows() {
    let setup = serve_disk(Disk::new(1 << 20));
    let listed = Client::connect(&setup.path)
        .option(&ClientOption::List)
        .unwrap();
    let entry = |name: &str| Told::Server(name.into(), format!("disk {name}"));
    assert_eq!(listed, [entry("a"), entry("ro")]);

    let setup = serve_disk_as(
        Disk::new(1 << 20),
        Exports::Only(vec!["ro".into(), "gone".into()]),
    );
    let mut client = Client::connect(&setup.path);
    assert_eq!(client.option(&ClientOption::List).unwrap(), [entry("ro")]);
    // Hidden and missing look the same.
    let hidden = client.go("a").unwrap_err();
    let missing = client.go("b").unwrap_err();
    assert_eq!(
        (hidden.0, missing.0),
        (Refusal::UnknownExport, Refusal::UnknownExport)
    );
    assert_eq!(hidden.1.replace("\"a\"", "\"b\""), missing.1);
}

#[test]
fn the_empty_name_is_the_only_export_or_none() {
    let setup = serve_disk_as(Disk::new(1 << 20), Exports::Only(vec!["a".into()]));
    let mut client = Client::connect(&setup.path);
    let told = client
        .option(&ClientOption::Go(wanting("", &[info::NAME])))
        .unwrap();
    assert_eq!(told[1], Told::Text("a".into()));
    let setup = serve_disk(Disk::new(1 << 20));
    let refused = Client::connect(&setup.path).go("").unwrap_err();
    assert_eq!(refused.0, Refusal::UnknownExport);
}

#[test]
fn contexts_are_listed_by_wildcard_and_set_by_name() {
    let setup = serve_disk(Disk::new(1 << 20));
    let mut client = Client::connect(&setup.path);
    let query = |queries: &[&'static str]| ContextQuery {
        name: "a",
        queries: queries.to_vec(),
    };
    let early = client.option(&ClientOption::SetMetaContext(query(&[allocation::NAME])));
    assert_eq!(early.unwrap_err().0, Refusal::Invalid);
    client.option(&ClientOption::StructuredReply).unwrap();
    for (queries, listed, set) in [
        (&[][..], 1, 0),
        (&["base:"], 1, 0),
        (&["base:allocation"], 1, 1),
        (&["base:other"], 0, 0),
        (&["qemu:dirty-bitmap:b0", "x-y:", "base:allocation"], 1, 1),
        (&["qemu:"], 0, 0),
    ] {
        let told = client
            .option(&ClientOption::ListMetaContext(query(queries)))
            .unwrap();
        assert_eq!(told.len(), listed, "{queries:?}");
        let told = client
            .option(&ClientOption::SetMetaContext(query(queries)))
            .unwrap();
        assert_eq!(told.len(), set, "{queries:?}");
    }
    let unknown = ContextQuery {
        name: "b",
        queries: vec![],
    };
    assert_eq!(
        client
            .option(&ClientOption::ListMetaContext(unknown))
            .unwrap_err()
            .0,
        Refusal::UnknownExport
    );
}

#[test]
fn block_status_needs_a_context_chosen_for_this_export_by_the_last_choice() {
    let setup = serve_disk(Disk::new(1 << 20));
    let set = |client: &mut Client, name: &str, query: &'static str| {
        client
            .option(&ClientOption::SetMetaContext(ContextQuery {
                name,
                queries: vec![query],
            }))
            .unwrap();
    };
    for (choices, works) in [
        (&[("a", "base:allocation")][..], true),
        (&[("ro", "base:allocation")], false),
        (&[("a", "base:allocation"), ("a", "base:nothing")], false),
        (&[("ro", "base:allocation"), ("a", "base:allocation")], true),
        (&[], false),
    ] {
        let mut client = Client::connect(&setup.path);
        client.option(&ClientOption::StructuredReply).unwrap();
        for (name, query) in choices {
            set(&mut client, name, query);
        }
        client.go("a").unwrap();
        let mut client = client.structured();
        let reply = client.ask(Command::BlockStatus, 0, 0, 4096, &[]);
        assert_eq!(reply.error.is_none(), works, "{choices:?}: {reply:?}");
    }
}
