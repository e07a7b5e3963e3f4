//! The rules of fencing, lease and opening checked exhaustively for a small case, with the real machines:
//! three replicas, two writers, a write, a flush, a crash that loses what was not synced, a late clock.
//!
//! Links deliver in order, each at its own pace or never; the disks do at once what they are asked, so that what a
//! crash loses is just what nobody asked to sync. (Slow disks, drifting clocks, messages out of order
//! and the rest are the simulation's.)

use replica::history::{History, Run};
use replica::id::{Boot, Epoch, Identity, Incarnation, Lsn, Member, NodeId, Position, Time};
use replica::message::{Body, Entry, Message};
use replica::replica::{Durable, Ended, Replica, Standing};
use replica::sets::Sets;
use replica::settings::Settings;
use replica::writer::{Grant, Token, Writer};
use replica::{replica as copies, writer as writers};
use stateright::{Checker, Model, Property};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

const LEASE_US: u64 = 100;
const REPLICAS: u64 = 3;
const FLUSH: u64 = 2;
/// What the second writer is told it hears at once: only what the first one hears late is of interest.
const SECOND: NodeId = NodeId(101);

fn settings() -> Settings {
    // Nothing is done because time has passed, but for the lease.
    let never = u64::MAX / 4;
    Settings {
        lease_us: LEASE_US,
        drift_ppm: 0,
        heartbeat_us: LEASE_US / 2,
        resend_us: never,
        retry_us: never,
        sync_us: never,
        grace_us: 0,
        patience_us: never,
        stall_us: never,
        ..Settings::default()
    }
}

fn member(node: u64) -> Member {
    Member {
        node: NodeId(node),
        incarnation: Incarnation(1),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Disk {
    replica: Replica,
    boot: u64,
    saved: Durable,
    durable: Vec<Entry<u8>>,
    visible: Vec<Entry<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u64,
    disks: Vec<Disk>,
    writers: Vec<Writer<u8>>,
    /// What is on its way on each link, in order; what is cut off is never delivered.
    network: BTreeMap<(NodeId, NodeId), VecDeque<Message<u8>>>,
    asked: u8,
    crashes: u8,
    advances: u8,
    /// Everything below was flushed by the first writer.
    flushed: Option<Lsn>,
    flushing: Lsn,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Deliver(NodeId, NodeId),
    Open,
    Write,
    Flush,
    Crash(usize),
    Advance,
}

#[derive(Clone)]
struct Small {
    /// 0: nothing is asked of the first writer, 1: a write, 2: a flush, too.
    asks: u8,
    crashes: u8,
    advances: u8,
}

fn history(log: &[Entry<u8>]) -> History {
    let runs = log.iter().filter_map(|entry| match entry.body {
        Body::Start(start) => Some(Run {
            epoch: entry.epoch,
            start: entry.lsn,
            poison: start.poison,
        }),
        Body::Data(_) => None,
    });
    let end = log.last().map_or(Lsn(0), Entry::end);
    History::new(runs.collect(), end).expect("a log is a history")
}

impl Disk {
    fn open(node: u64, boot: u64, saved: Durable, log: Vec<Entry<u8>>, now: Time) -> Self {
        let me = Identity {
            member: member(node),
            boot: Boot(boot),
        };
        let mut replica = Replica::open(me, &settings(), now, saved, history(&log));
        let mut out = Vec::<copies::Effect<u8>>::new();
        replica.apply(now, copies::Event::Standing(Standing::Known), &mut out);
        assert!(out.is_empty());
        Self {
            replica,
            boot,
            saved,
            durable: log.clone(),
            visible: log,
        }
    }

    /// Applies an event and what the disk has to do for it; returns what is sent.
    fn apply(&mut self, now: Time, event: copies::Event<u8>) -> Vec<(NodeId, Message<u8>)> {
        let mut sent = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut out = Vec::new();
            self.replica.apply(now, event, &mut out);
            for effect in out {
                match effect {
                    copies::Effect::Send(to, message) => sent.push((to, message)),
                    copies::Effect::Save(op, durable) => {
                        self.saved = durable;
                        events.push(copies::Event::Done(op));
                    }
                    copies::Effect::Append(op, entries) => {
                        self.visible.extend(entries);
                        events.push(copies::Event::Done(op));
                    }
                    copies::Effect::Cut(op, position) => {
                        self.visible.retain(|entry| entry.end() <= position.lsn);
                        events.push(copies::Event::Done(op));
                    }
                    copies::Effect::Sync(op) => {
                        self.durable.clone_from(&self.visible);
                        events.push(copies::Event::Done(op));
                    }
                    copies::Effect::Read {
                        to,
                        epoch,
                        from,
                        upto,
                        ..
                    } => {
                        let tail = self.visible.iter();
                        let entries = tail
                            .filter(|entry| entry.lsn >= from.lsn && entry.end() <= upto.lsn)
                            .cloned()
                            .collect();
                        events.push(copies::Event::Read {
                            to,
                            epoch,
                            from,
                            entries,
                        });
                    }
                    copies::Effect::Copy { .. }
                    | copies::Effect::Swap(..)
                    | copies::Effect::DropCopy(_) => {}
                }
            }
        }
        sent
    }
}

impl State {
    fn time(&self) -> Time {
        Time(self.now)
    }

    fn deliver(&mut self, from: NodeId, to: NodeId) {
        let Some(link) = self.network.get_mut(&(from, to)) else {
            return;
        };
        let message = link.pop_front();
        if link.is_empty() {
            self.network.remove(&(from, to));
        }
        let Some(message) = message else {
            return;
        };
        if to.0 >= 100 {
            let event = writers::Event::From(from, message);
            return self.tell_writer(to.0 as usize - 100, event);
        }
        let now = self.time();
        let sent = self.disks[to.0 as usize - 1].apply(now, copies::Event::From(from, message));
        for (back, message) in sent {
            if back == SECOND {
                self.tell_writer(1, writers::Event::From(to, message));
            } else {
                self.send(to, back, message);
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message<u8>) {
        let link = self.network.entry((from, to)).or_default();
        link.push_back(message);
    }

    /// The writer of the first epoch is on node 1, the other on node 2.
    fn tell_writer(&mut self, at: usize, event: writers::Event<u8>) {
        let mut out = Vec::new();
        let now = self.time();
        self.writers[at].apply(now, event, &mut out);
        for effect in out {
            match effect {
                writers::Effect::Send(to, message) => {
                    let from = NodeId(100 + at as u64);
                    self.send(from, to, message);
                }
                writers::Effect::Done(FLUSH, Ok(())) => self.flushed = Some(self.flushing),
                _ => {}
            }
        }
    }

    fn open(&mut self, epoch: u32) {
        let grant = Grant {
            epoch: Epoch(epoch),
            sets: Sets {
                version: 1,
                sets: vec![(1..=REPLICAS).map(member).collect()],
            },
            boots: BTreeMap::new(),
        };
        let writer = Writer::open(NodeId(u64::from(epoch)), grant, settings(), self.time());
        self.writers.push(writer);
        self.tell_writer(epoch as usize - 1, writers::Event::Tick);
    }
}

impl Model for Small {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // A lease wait after the beginning of all is of no interest.
        let now = 10 * LEASE_US;
        let disk = |node| Disk::open(node, 1, Durable::default(), Vec::new(), Time(1));
        let mut state = State {
            now,
            disks: (1..=REPLICAS).map(disk).collect(),
            writers: Vec::new(),
            network: BTreeMap::new(),
            asked: 0,
            crashes: 0,
            advances: 0,
            flushed: None,
            flushing: Lsn(0),
        };
        state.open(1);
        // The first writer opens undisturbed: its quorums are as good as any.
        for _ in 0..20 {
            let links: Vec<_> = state.network.keys().copied().collect();
            for (from, to) in links {
                state.deliver(from, to);
            }
        }
        assert!(state.writers[0].serving());
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (from, to) in state.network.keys() {
            actions.push(Action::Deliver(*from, *to));
        }
        if state.writers.len() == 1 {
            actions.push(Action::Open);
        }
        if state.asked < self.asks {
            let next = [Action::Write, Action::Flush][usize::from(state.asked)].clone();
            actions.push(next);
        }
        if state.crashes < self.crashes {
            actions.extend((0..REPLICAS as usize).map(Action::Crash));
        }
        if state.advances < self.advances {
            actions.push(Action::Advance);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Deliver(from, to) => state.deliver(from, to),
            Action::Open => state.open(2),
            Action::Write => {
                state.asked = 1;
                let write = writers::Event::Write {
                    id: 1,
                    count: 1,
                    bytes: 1,
                    payload: 7,
                };
                state.tell_writer(0, write);
            }
            Action::Flush => {
                state.asked = 2;
                state.flushing = state.writers[0].answered();
                let token = Token(Epoch(1));
                state.tell_writer(0, writers::Event::Flush { id: FLUSH, token });
            }
            Action::Crash(at) => {
                state.crashes += 1;
                let now = state.time();
                let disk = &state.disks[at];
                let saved = disk.saved.after(Ended::Abruptly);
                let log = disk.durable.clone();
                state.disks[at] = Disk::open(at as u64 + 1, disk.boot + 1, saved, log, now);
            }
            Action::Advance => {
                state.advances += 1;
                state.now += LEASE_US / 2 + 1;
                for at in 0..state.writers.len() {
                    state.tell_writer(at, writers::Event::Tick);
                }
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what was committed stays", |_, state: &State| {
                over(state, |first, second| {
                    let commit = first.commit();
                    !decided(second) || commit.0 <= 1 || kept(second, commit)
                })
            }),
            Property::always("what was answered stays", |_, state: &State| {
                over(state, |first, second| {
                    let poisoned = second.poison() >= Epoch(1);
                    !decided(second) || poisoned || kept(second, first.answered())
                })
            }),
            Property::always("what was flushed stays", |_, state: &State| {
                over(state, |_, second| {
                    !decided(second) || state.flushed.is_none_or(|end| kept(second, end))
                })
            }),
            Property::always("who was replaced does not read", |_, state: &State| {
                over(state, |first, second| {
                    !second.serving() || !first.leased(state.time())
                })
            }),
            Property::sometimes("the second keeps the write", |_, state: &State| {
                over_two(state, |second| {
                    decided(second) && second.chosen().lsn == Lsn(2)
                })
            }),
            Property::sometimes("the second cannot be sure", |_, state: &State| {
                over_two(state, |second| {
                    decided(second) && second.poison() == Epoch(1)
                })
            }),
            Property::sometimes("the second serves", |_, state: &State| {
                over_two(state, Writer::serving)
            }),
            Property::sometimes("a flush succeeds", |_, state: &State| {
                state.flushed == Some(Lsn(2))
            }),
            Property::sometimes("the second waits for the lease", |_, state: &State| {
                over_two(state, |second| decided(second) && !second.serving())
            }),
        ]
    }
}

fn over(state: &State, rule: impl Fn(&Writer<u8>, &Writer<u8>) -> bool) -> bool {
    state.writers.len() < 2 || rule(&state.writers[0], &state.writers[1])
}

/// What is the log is decided: Start is synced on a quorum. To serve, it waits for the lease only.
fn decided(second: &Writer<u8>) -> bool {
    second.commit() > second.chosen().lsn
}

fn over_two(state: &State, rule: impl Fn(&Writer<u8>) -> bool) -> bool {
    state.writers.get(1).is_some_and(rule)
}

/// The second writer's log holds the first one's up to `end`.
fn kept(second: &Writer<u8>, end: Lsn) -> bool {
    let held = Position {
        epoch: Epoch(1),
        lsn: end,
    };
    second.chosen() >= held
}

#[test]
fn the_rules_of_fencing_lease_and_opening_hold_in_every_order() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let case = |asks, crashes, advances| Small {
        asks,
        crashes,
        advances,
    };
    // The last is larger than what a gate may take: it is looked at for as long as it may.
    let cases = [case(0, 0, 2), case(1, 1, 0), case(2, 0, 0), case(2, 1, 0)];
    let mut reached = BTreeSet::new();
    for case in cases {
        let Small {
            asks,
            crashes,
            advances,
        } = case;
        let begun = Instant::now();
        let limit = Duration::from_secs(12);
        let checked = case
            .checker()
            .threads(threads)
            .timeout(limit)
            .spawn_bfs()
            .join();
        let complete = begun.elapsed() < limit;
        println!(
            "MODEL asks {asks} crashes {crashes} advances {advances}: {} states in {:.0?}, {}",
            checked.unique_state_count(),
            begun.elapsed(),
            if complete { "all" } else { "cut off" }
        );
        for name in [
            "a flush succeeds",
            "the second keeps the write",
            "the second cannot be sure",
            "the second waits for the lease",
            "the second serves",
        ] {
            if checked.discovery(name).is_some() {
                reached.insert(name);
            }
        }
        for name in [
            "what was committed stays",
            "what was answered stays",
            "what was flushed stays",
            "who was replaced does not read",
        ] {
            checked.assert_no_discovery(name);
        }
    }
    // The rules were put to the test: all that they are about came to pass.
    assert_eq!(reached.len(), 5, "only {reached:?}");
}
