//! The codec against itself, and against bytes nobody should send.

use super::answer::{Answer, AnswerHeader, ExportInfo, Greeting, Refusal};
use super::haggle::{ClientFlags, ClientOption, ContextQuery, InfoRequest, OptionHeader};
use super::numbers::{Errno, OPTION_BYTES_MAX};
use super::reply::{Chunk, ChunkHeader, Descriptor, SimpleReply, data_header, hole_chunk};
use super::request::{Command, Request};
use super::{Malformed, reply};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    "[^\0]{0,300}"
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(Command::Read),
        Just(Command::Write),
        Just(Command::Disconnect),
        Just(Command::Flush),
        Just(Command::Trim),
        Just(Command::Cache),
        Just(Command::WriteZeroes),
        Just(Command::BlockStatus),
        (8u16..).prop_map(Command::Unknown),
    ]
}

fn errno() -> impl Strategy<Value = Errno> {
    (1u32..120).prop_map(Errno::from_number)
}

/// An option on the wire, decoded by header and data as a server does.
fn reread(bytes: &[u8]) -> (OptionHeader, &[u8]) {
    let (header, data) = bytes.split_first_chunk().expect("a header");
    let header = OptionHeader::decode(header).expect("a good header");
    assert_eq!(header.data_bytes as usize, data.len());
    (header, data)
}

fn option_round_trip(option: &ClientOption<'_>) {
    let mut bytes = Vec::new();
    option.encode(&mut bytes).expect("legal strings");
    let (header, data) = reread(&bytes);
    assert_eq!(
        ClientOption::decode(header.number, data).as_ref(),
        Ok(option)
    );
}

fn answer_round_trip(answer: &Answer<'_>) {
    let mut bytes = Vec::new();
    answer.encode(7, &mut bytes);
    let (header, data) = bytes.split_first_chunk().expect("a header");
    let header = AnswerHeader::decode(header).expect("a good header");
    assert_eq!((header.option, header.data_bytes as usize), (7, data.len()));
    assert_eq!(Answer::decode(header.kind, data).as_ref(), Ok(answer));
}

fn chunk_round_trip(chunk: &Chunk<'_>, cookie: u64, done: bool) {
    let mut bytes = Vec::new();
    chunk.encode(cookie, done, &mut bytes);
    let (header, payload) = bytes.split_first_chunk().expect("a header");
    let header = ChunkHeader::decode(header).expect("a good header");
    assert_eq!(
        (header.cookie, header.payload_bytes as usize),
        (cookie, payload.len())
    );
    assert_eq!(header.done, done || matches!(chunk, Chunk::None));
    assert_eq!(Chunk::decode(header.kind, payload).as_ref(), Ok(chunk));
}

/// Every decoder there is, on the same bytes.
fn decode_as_anything(number: u32, bytes: &[u8]) {
    let _ = ClientOption::decode(number, bytes);
    let _ = Answer::decode(number, bytes);
    let _ = Chunk::decode(number as u16, bytes);
    if let Some(first) = bytes.first_chunk() {
        let _ = ClientFlags::decode(*first);
    }
    if let Some(first) = bytes.first_chunk() {
        let _ = OptionHeader::decode(first);
    }
    if let Some(first) = bytes.first_chunk() {
        let _ = Greeting::decode(first);
    }
    if let Some(first) = bytes.first_chunk() {
        let _ = AnswerHeader::decode(first);
    }
    if let Some(first) = bytes.first_chunk() {
        let _ = Request::decode(first);
    }
    if let Some(first) = bytes.first_chunk() {
        let _ = SimpleReply::decode(first);
    }
    if let Some(first) = bytes.first_chunk() {
        let _ = ChunkHeader::decode(first);
    }
}

proptest! {
    #[test]
    fn requests_survive_the_wire(
        flags: u16, command in command(), cookie: u64, offset: u64, length: u32,
    ) {
        let request = Request { flags, command, cookie, offset, length };
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
    }

    #[test]
    fn options_survive_the_wire(
        export in name(), wanted in prop::collection::vec(any::<u16>(), 0..20),
        queries in prop::collection::vec(name(), 0..5), unknown in 12u32..,
    ) {
        let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
        let request = InfoRequest { name: &export, wanted };
        let query = ContextQuery { name: &export, queries };
        for option in [
            ClientOption::ExportName(&export),
            ClientOption::Abort,
            ClientOption::List,
            ClientOption::StartTls,
            ClientOption::Info(request.clone()),
            ClientOption::Go(request),
            ClientOption::StructuredReply,
            ClientOption::ListMetaContext(query.clone()),
            ClientOption::SetMetaContext(query),
            ClientOption::ExtendedHeaders,
            ClientOption::Unknown(unknown),
        ] {
            option_round_trip(&option);
        }
    }

    #[test]
    fn answers_survive_the_wire(
        name in name(), text in name(), length_bytes: u64, flags: u16, id: u32, sizes: [u32; 3],
        other in 4u16..,
    ) {
        for answer in [
            Answer::Ack,
            Answer::Server { name: &name, description: &text },
            Answer::Export(ExportInfo { length_bytes, flags }),
            Answer::Name(&name),
            Answer::Description(&text),
            Answer::BlockSize { minimum: sizes[0], preferred: sizes[1], maximum: sizes[2] },
            Answer::OtherInfo(other),
            Answer::MetaContext { id, name: &name },
            Answer::Refused { refusal: Refusal::TooBig, message: &text },
            Answer::Refused { refusal: Refusal::Unsupported, message: &text },
        ] {
            answer_round_trip(&answer);
        }
        let info = ExportInfo { length_bytes, flags };
        prop_assert_eq!(ExportInfo::decode(&info.encode()), Ok(info));
        let greeting = Greeting { flags };
        prop_assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
    }

    #[test]
    fn replies_survive_the_wire(
        cookie: u64, done: bool, offset: u64, length in 1u32.., errno in errno(), message in name(),
        data in prop::collection::vec(any::<u8>(), 1..200), context: u32,
        runs in prop::collection::vec((1u32.., any::<u32>()), 1..20),
    ) {
        let descriptors = runs.into_iter().map(|(length, status)| Descriptor { length, status }).collect();
        for chunk in [
            Chunk::None,
            Chunk::OffsetData { offset, data: &data },
            Chunk::OffsetHole { offset, length },
            Chunk::BlockStatus { context, descriptors },
            Chunk::Error { errno, message: &message },
            Chunk::ErrorOffset { errno, message: &message, offset },
        ] {
            chunk_round_trip(&chunk, cookie, done);
        }
        for error in [None, Some(errno)] {
            let simple = SimpleReply { cookie, error };
            prop_assert_eq!(SimpleReply::decode(&simple.encode()), Ok(simple));
        }
    }

    #[test]
    fn headers_made_in_place_equal_the_encoders(
        cookie: u64, done: bool, offset: u64, length in 1u32..,
        data in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        let mut whole = Vec::new();
        Chunk::OffsetData { offset, data: &data }.encode(cookie, done, &mut whole);
        let mut pieces = data_header(cookie, offset, data.len() as u32, done).to_vec();
        prop_assert_eq!(pieces.len(), reply::DATA_HEADER_BYTES);
        pieces.extend_from_slice(&data);
        prop_assert_eq!(pieces, whole);

        let mut whole = Vec::new();
        Chunk::OffsetHole { offset, length }.encode(cookie, done, &mut whole);
        prop_assert_eq!(hole_chunk(cookie, offset, length, done).to_vec(), whole);
    }

    #[test]
    fn random_bytes_never_panic(
        number in prop_oneof![0u32..16, any::<u32>(), 0x8000_0000u32..0x8000_0010],
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        decode_as_anything(number, &bytes);
    }

    #[test]
    fn mutated_messages_never_panic(
        export in name(), queries in prop::collection::vec(name(), 0..5),
        wanted in prop::collection::vec(any::<u16>(), 0..20),
        pokes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut: prop::sample::Index,
    ) {
        let queries = queries.iter().map(String::as_str).collect();
        let mut messages = vec![Vec::new(); 4];
        ClientOption::Go(InfoRequest { name: &export, wanted }).encode(&mut messages[0]).expect("legal");
        ClientOption::SetMetaContext(ContextQuery { name: &export, queries }).encode(&mut messages[1]).expect("legal");
        Answer::Server { name: &export, description: &export }.encode(3, &mut messages[2]);
        Chunk::ErrorOffset { errno: Errno::Io, message: &export, offset: 9 }.encode(1, true, &mut messages[3]);
        for mut message in messages {
            for (place, value) in &pokes {
                let place = place.index(message.len());
                message[place] = *value;
            }
            message.truncate(cut.index(message.len()) + 1);
            for skipped in [0, 16, 20] {
                for number in 0..12 {
                    decode_as_anything(number, message.get(skipped..).unwrap_or_default());
                    decode_as_anything(number | 0x8000, message.get(skipped..).unwrap_or_default());
                }
            }
        }
    }
}

#[test]
fn a_count_larger_than_the_message_allocates_by_the_message() {
    let mut data = 0u32.to_be_bytes().to_vec();
    data.extend_from_slice(&u32::MAX.to_be_bytes());
    data.extend_from_slice(&[0; 8]);
    assert_eq!(
        ClientOption::decode(10, &data),
        Err(Malformed::Short {
            field: "length of a query"
        })
    );
    let mut data = 0u32.to_be_bytes().to_vec();
    data.extend_from_slice(&u16::MAX.to_be_bytes());
    assert_eq!(
        ClientOption::decode(7, &data),
        Err(Malformed::Short {
            field: "information requests"
        })
    );
}

#[test]
fn unknown_client_flags_are_refused() {
    assert!(
        ClientFlags::decode([0, 0, 0, 3])
            .is_ok_and(|flags| flags.fixed_newstyle && flags.no_zeroes)
    );
    assert!(ClientFlags::decode([0, 0, 0, 4]).is_err());
    assert!(ClientFlags::decode([0x80, 0, 0, 1]).is_err());
    for bits in 0..4 {
        assert_eq!(
            ClientFlags::decode([0, 0, 0, bits]).map(ClientFlags::encode),
            Ok([0, 0, 0, bits])
        );
    }
}

#[test]
fn names_over_4096_bytes_or_with_nul_or_not_utf8_are_refused() {
    let long = "x".repeat(4097);
    assert_eq!(
        ClientOption::decode(1, long.as_bytes()),
        Err(Malformed::Text {
            field: "export name"
        })
    );
    assert!(ClientOption::decode(1, &long.as_bytes()[1..]).is_ok());
    assert!(ClientOption::decode(1, b"a\0b").is_err());
    assert!(ClientOption::decode(1, b"\xff\xfe").is_err());
    assert!(
        ClientOption::ExportName(&long)
            .encode(&mut Vec::new())
            .is_err()
    );
}

#[test]
fn options_that_take_no_data_refuse_it_but_abort_ignores_it() {
    for number in [3, 5, 8, 11] {
        assert_eq!(
            ClientOption::decode(number, b"x"),
            Err(Malformed::Long { extra_bytes: 1 })
        );
    }
    assert_eq!(ClientOption::decode(2, b"x"), Ok(ClientOption::Abort));
    assert_eq!(
        ClientOption::decode(4711, b"x"),
        Ok(ClientOption::Unknown(4711))
    );
}

#[test]
fn messages_are_cut_at_a_character_and_at_a_nul() {
    let long = "ä".repeat(3000);
    let mut bytes = Vec::new();
    Chunk::Error {
        errno: Errno::Io,
        message: &long,
    }
    .encode(1, true, &mut bytes);
    match Chunk::decode((1 << 15) + 1, &bytes[ChunkHeader::BYTES..]) {
        Ok(Chunk::Error { message, .. }) => assert_eq!(message, &long[..4096]),
        other => panic!("{other:?}"),
    }
    let mut bytes = Vec::new();
    Answer::Refused {
        refusal: Refusal::Policy,
        message: "a\0b",
    }
    .encode(1, &mut bytes);
    assert!(bytes.ends_with(b"a"));
    const { assert!(OPTION_BYTES_MAX as usize >= 4096 + 6) };
}
