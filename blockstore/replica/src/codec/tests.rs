//! Round trips of every kind, and bytes from anywhere.

use super::{CodecError, VERSION, decode, encode};
use crate::history::{History, Run};
use crate::id::{Boot, Epoch, Identity, Incarnation, LogId, Lsn, Member, NodeId, Position};
use crate::message::{Ack, Append, Body, Entry, LeaseLeft, Message, Promised, Refusal, Start};
use proptest::prelude::*;

fn whole(log: LogId, message: &Message<Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(log, message, &mut bytes);
    for payload in message.payloads() {
        bytes.extend_from_slice(payload);
    }
    bytes
}

fn member() -> impl Strategy<Value = Member> {
    (any::<u64>(), any::<u64>()).prop_map(|(node, incarnation)| Member {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
    })
}

fn identity() -> impl Strategy<Value = Identity> {
    (member(), any::<u64>()).prop_map(|(member, boot)| Identity {
        member,
        boot: Boot(boot),
    })
}

fn position() -> impl Strategy<Value = Position> {
    (any::<u32>(), any::<u64>()).prop_map(|(epoch, lsn)| Position {
        epoch: Epoch(epoch),
        lsn: Lsn(lsn),
    })
}

fn entries() -> impl Strategy<Value = Vec<Entry<Vec<u8>>>> {
    let body = prop_oneof![
        (position(), any::<u32>()).prop_map(|(previous, poison)| Body::Start(Start {
            previous,
            poison: Epoch(poison),
        })),
        proptest::collection::vec(any::<u8>(), 0..50).prop_map(Body::Data),
    ];
    let entry =
        (any::<u32>(), any::<u64>(), any::<u32>(), body).prop_map(|(epoch, lsn, count, body)| {
            Entry {
                epoch: Epoch(epoch),
                lsn: Lsn(lsn),
                count,
                bytes: match &body {
                    Body::Data(payload) => payload.len() as u32,
                    Body::Start(_) => 0,
                },
                body,
            }
        });
    proptest::collection::vec(entry, 0..8)
}

fn history() -> impl Strategy<Value = History> {
    proptest::collection::vec((1u32..5, 1u64..9), 0..6).prop_map(|steps| {
        let (mut epoch, mut lsn, mut runs) = (0, 0, Vec::new());
        for (up, length) in steps {
            epoch += up;
            runs.push(Run {
                epoch: Epoch(epoch),
                start: Lsn(lsn),
                poison: Epoch(epoch - 1),
            });
            lsn += length;
        }
        History::new(runs, Lsn(lsn)).unwrap()
    })
}

fn message() -> impl Strategy<Value = Message<Vec<u8>>> {
    let id = || (identity(), any::<u32>().prop_map(Epoch), any::<u64>());
    let promised = (
        id(),
        history(),
        any::<bool>(),
        any::<bool>(),
        any::<u64>(),
        position(),
    );
    let append = (
        id(),
        position(),
        entries(),
        any::<[u64; 4]>(),
        any::<bool>(),
    );
    prop_oneof![
        (member(), any::<u32>(), any::<u64>()).prop_map(|(to, epoch, round)| Message::Promise {
            to,
            epoch: Epoch(epoch),
            round,
        }),
        promised.prop_map(|((who, epoch, round), history, lost, gap, left_us, at)| {
            let end = history.end().lsn;
            Message::Promised(Box::new(Promised {
                who,
                epoch,
                round,
                history,
                synced: end,
                commit: Lsn(end.0 / 2),
                floor: at.lsn,
                lost,
                gap,
                lease: LeaseLeft {
                    round: (at.epoch, round),
                    left_us,
                },
                released: (at.epoch, left_us),
            }))
        }),
        (id(), 0..7usize).prop_map(|((who, epoch, promised), why)| Message::Refused {
            who,
            epoch,
            promised: Epoch(promised as u32),
            why: super::REFUSALS[why].0,
        }),
        append.prop_map(|((to, epoch, session), prev, entries, numbers, distrust)| {
            Message::Append(Append {
                to,
                epoch,
                session,
                prev,
                entries,
                commit: Lsn(numbers[0]),
                sync: Lsn(numbers[1]),
                lease: numbers[2],
                regain: Lsn(numbers[3]),
                distrust,
            })
        }),
        (id(), any::<[u64; 3]>(), any::<bool>()).prop_map(
            |((who, epoch, session), numbers, behind)| Message::Ack(Ack {
                who,
                epoch,
                session,
                written: Lsn(numbers[0]),
                synced: Lsn(numbers[1]),
                lease: numbers[2],
                behind,
            })
        ),
        (any::<u32>(), any::<u64>()).prop_map(|(epoch, round)| Message::Release {
            epoch: Epoch(epoch),
            round,
        }),
        (id(), position(), position()).prop_map(|((to, epoch, bytes_max), from, upto)| {
            Message::Fetch {
                to,
                epoch,
                from,
                upto,
                bytes_max,
            }
        }),
        (id(), position(), entries()).prop_map(|((who, epoch, _), from, entries)| {
            Message::Fetched {
                who,
                epoch,
                from,
                entries,
            }
        }),
        (id(), position(), history()).prop_map(|((to, epoch, session), from, history)| {
            Message::Copy {
                to,
                epoch,
                session,
                from,
                upto: history.end(),
                source: NodeId(session),
                runs: history.runs().to_vec(),
            }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_message_comes_back_as_it_was_sent(log in any::<u64>(), message in message()) {
        let bytes = whole(LogId(log), &message);
        let (back_log, back) = decode(&bytes).unwrap();
        let back = back.map(|place| bytes[place].to_vec());
        prop_assert_eq!(back_log, LogId(log));
        prop_assert_eq!(back, message);
    }

    #[test]
    fn a_cut_or_longer_message_is_refused(message in message(), at in any::<prop::sample::Index>()) {
        let mut bytes = whole(LogId(1), &message);
        prop_assert!(decode(&bytes[..at.index(bytes.len())]).is_err());
        bytes.push(0);
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn damaged_bytes_never_panic(
        message in message(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = whole(LogId(1), &message);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn bytes_from_anywhere_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        if bytes.len() > 1 {
            bytes[0] = VERSION;
            bytes[1] %= 10;
            let _ = decode(&bytes);
        }
    }
}

#[test]
fn another_version_is_named() {
    let message: Message<Vec<u8>> = Message::Refused {
        who: Identity::default(),
        epoch: Epoch(1),
        promised: Epoch(2),
        why: Refusal::Stale,
    };
    let mut bytes = whole(LogId(1), &message);
    bytes[0] = 9;
    assert_eq!(decode(&bytes), Err(CodecError::Version(9)));
}

#[test]
fn a_length_that_the_bytes_do_not_warrant_is_refused_before_anything_is_allocated() {
    let message: Message<Vec<u8>> = Message::Fetched {
        who: Identity::default(),
        epoch: Epoch(1),
        from: Position::ZERO,
        entries: Vec::new(),
    };
    let mut bytes = whole(LogId(1), &message);
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode(&bytes), Err(CodecError::Malformed("a length")));
}
