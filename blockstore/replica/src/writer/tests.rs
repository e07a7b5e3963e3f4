//! Claims that a small case shows: bounds, stalls, the ring. Replicas are real, their disks immediate.

use super::*;
use crate::id::Incarnation;
use crate::replica::{self, Durable, Replica, Standing};

struct Case {
    now: Time,
    writer: Writer<u8>,
    replicas: Vec<Replica>,
    cut: Vec<NodeId>,
    effects: Vec<Effect<u8>>,
}

fn small() -> Settings {
    Settings {
        unsynced_entries_max: 8,
        unsynced_bytes_max: 4_000,
        retained_bytes_max: 700,
        ..Settings::default()
    }
}

impl Case {
    fn open(copies: u64) -> Self {
        let now = Time(10_000_000);
        let member = |node| Member {
            node: NodeId(node),
            incarnation: Incarnation(1),
        };
        let replicas = (1..=copies)
            .map(|node| {
                let me = Identity {
                    member: member(node),
                    boot: Boot(1),
                };
                let none = History::default();
                let mut replica = Replica::open(me, &small(), Time(1), Durable::default(), none);
                let known = replica::Event::<u8>::Standing(Standing::Known);
                replica.apply(now, known, &mut Vec::new());
                replica
            })
            .collect();
        let grant = Grant {
            epoch: Epoch(1),
            sets: Sets {
                version: 1,
                sets: vec![(1..=copies).map(member).collect()],
            },
            boots: BTreeMap::new(),
        };
        let mut case = Self {
            now,
            writer: Writer::open(NodeId(1), grant, small(), now),
            replicas,
            cut: Vec::new(),
            effects: Vec::new(),
        };
        case.tell(Event::Tick);
        assert!(case.writer.serving());
        case
    }

    fn tell(&mut self, event: Event<u8>) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut out = Vec::new();
            self.writer.apply(self.now, event, &mut out);
            for effect in out {
                match effect {
                    Effect::Send(to, message) if !self.cut.contains(&to) => {
                        let replica = &mut self.replicas[to.0 as usize - 1];
                        let mut told = vec![replica::Event::From(NodeId(1), message)];
                        while let Some(event) = told.pop() {
                            let mut out = Vec::new();
                            replica.apply(self.now, event, &mut out);
                            for effect in out {
                                match effect {
                                    replica::Effect::Send(_, message) => {
                                        events.push_back(Event::From(to, message));
                                    }
                                    replica::Effect::Save(op, _)
                                    | replica::Effect::Append(op, _)
                                    | replica::Effect::Sync(op) => {
                                        told.push(replica::Event::Done(op));
                                    }
                                    _ => {}
                                }
                            }
                        }
                    }
                    Effect::Send(..) => {}
                    other => self.effects.push(other),
                }
            }
        }
    }

    fn write(&mut self, id: u64) {
        self.tell(Event::Write {
            id,
            count: 1,
            bytes: 100,
            payload: 0,
        });
    }

    fn done(&self, id: u64) -> Option<Result<(), Denied>> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Done(done, outcome) if *done == id => Some(*outcome),
            _ => None,
        })
    }

    fn later(&mut self, micros: u64) {
        self.now = self.now.plus(micros);
        self.tell(Event::Tick);
    }
}

#[test]
fn a_full_ring_refuses_writes_and_loses_none() {
    let mut case = Case::open(3);
    case.cut = vec![NodeId(2), NodeId(3)];
    for id in 1..=12 {
        case.write(id);
    }
    assert!(case.effects.contains(&Effect::Hold));
    assert_eq!(case.done(8), None, "taken, and waits for a quorum");
    assert_eq!(case.done(9), Some(Err(Denied::Full)));
    case.cut.clear();
    case.later(600_000);
    assert_eq!(case.done(8), Some(Ok(())));
    assert!(case.effects.contains(&Effect::Go));
}

#[test]
fn two_copies_stall_when_one_is_away_and_the_writer_says_which() {
    let mut case = Case::open(2);
    case.write(1);
    assert_eq!(case.done(1), Some(Ok(())));
    case.cut = vec![NodeId(2)];
    case.write(2);
    for _ in 0..20 {
        case.later(200_000);
    }
    assert_eq!(case.done(2), None);
    let stalled = |effect: &Effect<u8>| match effect {
        Effect::Stalled(missing) => missing.iter().any(|member| member.node == NodeId(2)),
        _ => false,
    };
    assert!(case.effects.iter().any(stalled));
    case.cut.clear();
    for _ in 0..4 {
        case.later(300_000);
    }
    assert_eq!(case.done(2), Some(Ok(())));
}

#[test]
fn a_slow_replica_is_not_waited_for_and_leaves_the_ring_when_it_is_too_far_behind() {
    let mut case = Case::open(3);
    case.cut = vec![NodeId(3)];
    for id in 1..=40 {
        case.write(id);
        assert_eq!(case.done(id), Some(Ok(())), "two of three have it");
        case.tell(Event::Flush {
            id: 1_000 + id,
            token: Token(Epoch(1)),
        });
        assert_eq!(case.done(1_000 + id), Some(Ok(())));
    }
    case.cut.clear();
    case.later(600_000);
    case.later(600_000);
    let third = case
        .writer
        .followers()
        .nth(2)
        .map(|(_, follower)| follower.link());
    assert!(matches!(third, Some(Link::Copying { .. })), "{third:?}");
}

#[test]
fn the_writer_syncs_by_itself_within_its_time() {
    let mut case = Case::open(3);
    case.write(1);
    let before = case.writer.commit();
    case.later(1_000_001);
    assert!(case.writer.commit() > before);
    assert_eq!(case.writer.commit(), case.writer.end().lsn);
}

#[test]
fn without_a_quorum_there_are_no_reads_after_a_lease() {
    let mut case = Case::open(3);
    assert!(case.writer.leased(case.now));
    case.cut = vec![NodeId(2), NodeId(3)];
    case.later(1_000_001);
    assert!(!case.writer.leased(case.now));
    case.tell(Event::Read {
        id: 1,
        through: Lsn(0),
    });
    assert_eq!(case.done(1), None);
    case.later(3_000_000);
    assert_eq!(case.done(1), Some(Err(Denied::Unleased)));
}
