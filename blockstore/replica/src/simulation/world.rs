//! Nodes, disks, network and clocks of one seed, and what carries effects between them.

use super::catalog::{Ask, Catalog, Tell};
use super::disk::{Disk, history};
use super::guest::Guest;
use super::truth::{BLOCK_BYTES, Block, Truth};
use crate::codec::{decode, encode};
use crate::id::{Boot, Identity, LogId, Lsn, Member, NodeId, Position, Time};
use crate::message::Message;
use crate::replica::{self, Ended, Op, Replica, Standing};
use crate::settings::Settings;
use crate::writer::{self, Writer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

pub(super) type Wire = Message<Block>;

/// How this seed's world behaves.
pub(super) struct Habits {
    pub(super) drop: f64,
    pub(super) double: f64,
    pub(super) delay_us: u64,
    pub(super) straggle: f64,
    /// Messages go through their bytes.
    pub(super) coded: bool,
    pub(super) chaos_us: u64,
    pub(super) end_us: u64,
}

pub(super) enum Happening {
    Deliver(NodeId, NodeId, Wire),
    Disk(NodeId, u64, Op),
    Read(NodeId, u64, replica::Effect<Block>),
    CopyBuilt(NodeId, u64, Position, NodeId),
    Wake(NodeId, u64),
    Ask(NodeId, u64, Ask),
    Tell(NodeId, u64, Tell),
    Register(NodeId, u64),
    Start(NodeId),
    Guest,
    Shown(NodeId, u64, u64, Lsn),
    Chaos,
}

pub(super) struct Process {
    pub(super) run: u64,
    pub(super) replica: Replica,
    pub(super) writer: Option<Writer<Block>>,
    pub(super) registers: BTreeMap<usize, (u64, Lsn)>,
    pub(super) known: bool,
    pub(super) wake: u64,
    pub(super) writes_done_at: u64,
    pub(super) saves_done_at: u64,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) disk: Disk,
    pub(super) process: Option<Process>,
    pub(super) paused_until: u64,
    pub(super) slow: u64,
    pub(super) ended: Ended,
    pub(super) old_disks: Vec<Disk>,
    /// The catalog doesn't know this disk and run any more.
    pub(super) disowned: bool,
    pub(super) rotten: bool,
    /// Emptied or put back; whether the catalog knows it is yet to be seen.
    pub(super) wiped: bool,
    pub(super) fail_next: bool,
    clock_rate: f64,
    clock_offset: u64,
}

impl Node {
    pub(super) fn member(&self) -> Member {
        Member {
            node: self.id,
            incarnation: self.disk.incarnation,
        }
    }

    pub(super) fn local(&self, now: u64) -> Time {
        Time(self.clock_offset + (now as f64 * self.clock_rate) as u64)
    }

    pub(super) fn global(&self, time: Time) -> u64 {
        if time.0 == u64::MAX {
            return u64::MAX;
        }
        (time.0.saturating_sub(self.clock_offset) as f64 / self.clock_rate) as u64 + 1
    }
}

pub(super) struct World {
    pub(super) random: StdRng,
    pub(super) settings: Settings,
    pub(super) habits: Habits,
    pub(super) now: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) catalog: Catalog,
    pub(super) truth: Truth,
    pub(super) guest: Guest,
    pub(super) events: u64,
    pub(super) calm: bool,
    /// One-way cuts: from, to, until.
    pub(super) cuts: Vec<(NodeId, NodeId, u64)>,
    pub(super) target: Option<Vec<Member>>,
    pub(super) stats: Stats,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    runs: u64,
    trace: bool,
}

/// How often what the seeds are for came to pass.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) openings: u64,
    pub(super) unclean: u64,
    pub(super) flushes: u64,
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) poisoned: u64,
    pub(super) copies: u64,
    pub(super) changes: u64,
    pub(super) fenced: u64,
    pub(super) crashes: u64,
    pub(super) losses: u64,
    pub(super) releases: u64,
}

impl Stats {
    pub(super) fn add(&mut self, other: &Self) {
        self.openings += other.openings;
        self.unclean += other.unclean;
        self.flushes += other.flushes;
        self.reads += other.reads;
        self.writes += other.writes;
        self.poisoned += other.poisoned;
        self.copies += other.copies;
        self.changes += other.changes;
        self.fenced += other.fenced;
        self.crashes += other.crashes;
        self.losses += other.losses;
        self.releases += other.releases;
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        lease_us: 100_000,
        drift_ppm: 50_000,
        heartbeat_us: 25_000,
        resend_us: 60_000,
        retry_us: 40_000,
        sync_us: 100_000,
        sync_bytes: 1_500,
        grace_us: 150_000,
        patience_us: 200_000,
        stall_us: 400_000,
        unsynced_bytes_max: 4_000,
        unsynced_entries_max: 30,
        retained_bytes_max: 1_500,
        window_bytes: 1_200,
        message_bytes: 400,
        waiting_max: 64,
    }
}

/// What arrives after a message went through its bytes.
fn recode(message: &Wire) -> Wire {
    let log = LogId(7);
    let mut bytes = Vec::new();
    encode(log, message, &mut bytes);
    for block in message.payloads() {
        let mut payload = [0; BLOCK_BYTES];
        payload[..8].copy_from_slice(&(block.register as u64).to_le_bytes());
        payload[8..16].copy_from_slice(&block.value.to_le_bytes());
        bytes.extend_from_slice(&payload);
    }
    let (whose, decoded) = decode(&bytes).expect("what was encoded is a message");
    assert_eq!(whose, log);
    let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("a payload"));
    let decoded = decoded.map(|place| Block {
        register: number(place.start) as usize,
        value: number(place.start + 8),
    });
    assert_eq!(decoded, *message, "a message comes back as it was sent");
    decoded
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let copies = [1, 2, 3, 3, 3, 3, 5][random.random_range(0..7)];
        let count = copies + random.random_range(1..=2);
        let drift = settings().drift_ppm as f64 / 1e6;
        let nodes: Vec<Node> = (1..=count as u64)
            .map(|id| Node {
                id: NodeId(id),
                disk: Disk::new(1),
                process: None,
                paused_until: 0,
                slow: 1,
                ended: Ended::Whole,
                old_disks: Vec::new(),
                disowned: false,
                rotten: false,
                wiped: false,
                fail_next: false,
                clock_rate: 1.0 + drift * random.random_range(-1.0..1.0),
                clock_offset: random.random_range(1..1_000_000_000),
            })
            .collect();
        let set = nodes[..copies].iter().map(Node::member).collect();
        let habits = Habits {
            drop: [0.0, 0.0, 0.01, 0.1][random.random_range(0..4)],
            double: [0.0, 0.02, 0.1][random.random_range(0..3)],
            delay_us: [200, 1_000, 5_000, 15_000][random.random_range(0..4)],
            straggle: [0.0, 0.02, 0.1][random.random_range(0..3)],
            coded: random.random_bool(0.25),
            chaos_us: [30_000, 80_000, 200_000][random.random_range(0..3)],
            end_us: 4_000_000,
        };
        let mut world = Self {
            random,
            settings: settings(),
            habits,
            now: 0,
            nodes,
            catalog: Catalog::new(set),
            truth: Truth::default(),
            guest: Guest::default(),
            events: 0,
            calm: false,
            cuts: Vec::new(),
            target: None,
            stats: Stats::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            runs: 0,
            trace: std::env::var_os("INFALL_SIM_TRACE").is_some(),
        };
        for at in 0..world.nodes.len() {
            let id = world.nodes[at].id;
            world.later(0, Happening::Start(id));
        }
        world.later(20_000, Happening::Guest);
        world.later(50_000, Happening::Chaos);
        world
    }

    pub(super) fn trace(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>9} {}", self.now, what());
        }
    }

    pub(super) fn later(&mut self, delay: u64, happening: Happening) {
        self.sequence += 1;
        self.queue
            .insert((self.now + delay, self.sequence), happening);
    }

    pub(super) fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize - 1]
    }

    pub(super) fn process(&mut self, id: NodeId) -> Option<&mut Process> {
        self.node(id).process.as_mut()
    }

    /// One event; whether there was one before `until`.
    pub(super) fn step(&mut self, until: u64) -> bool {
        let Some(entry) = self.queue.first_entry() else {
            return false;
        };
        let (time, sequence) = *entry.key();
        if time > until {
            self.now = until;
            return false;
        }
        let happening = entry.remove();
        self.now = time;
        self.events += 1;
        self.happen(sequence, happening);
        true
    }

    /// Whether a paused process has to wait for this; then it is put off.
    fn asleep(&mut self, id: NodeId) -> Option<u64> {
        let until = self.node(id).paused_until;
        (until > self.now).then(|| until - self.now)
    }

    fn happen(&mut self, sequence: u64, happening: Happening) {
        let whose = match &happening {
            Happening::Deliver(_, to, _) => Some(*to),
            Happening::Disk(id, ..)
            | Happening::Wake(id, _)
            | Happening::Tell(id, ..)
            | Happening::Shown(id, ..)
            | Happening::CopyBuilt(id, ..)
            | Happening::Read(id, ..) => Some(*id),
            _ => None,
        };
        if let Some(wait) = whose.and_then(|id| self.asleep(id)) {
            // In its old place among those that wait for the same.
            self.queue.insert((self.now + wait, sequence), happening);
            return;
        }
        match happening {
            Happening::Deliver(from, to, message) => self.deliver(from, to, message),
            Happening::Disk(id, run, op) => self.disk_done(id, run, op),
            Happening::Read(id, run, read) => self.read_entries(id, run, &read),
            Happening::CopyBuilt(id, run, upto, source) => self.copy_built(id, run, upto, source),
            Happening::Wake(id, run) => {
                if self.runs_as(id, run) {
                    if let Some(process) = self.process(id) {
                        process.wake = u64::MAX;
                    }
                    self.tell_writer(id, writer::Event::Tick);
                }
            }
            Happening::Ask(id, run, ask) => {
                if self.catalog.away_until <= self.now {
                    let tell = self.catalog.ask(id, &ask);
                    let delay = self.random.random_range(100..5_000);
                    self.later(delay, Happening::Tell(id, run, tell));
                }
            }
            Happening::Tell(id, run, tell) => {
                if self.runs_as(id, run) {
                    self.told(id, tell);
                }
            }
            Happening::Register(id, run) => self.register(id, run),
            Happening::Start(id) => self.start(id),
            Happening::Guest => self.guest_step(),
            Happening::Shown(id, run, request, through) => {
                if self.runs_as(id, run) {
                    let id_of = request;
                    self.tell_writer(id, writer::Event::Read { id: id_of, through });
                }
            }
            Happening::Chaos => self.chaos(),
        }
    }

    pub(super) fn runs_as(&mut self, id: NodeId, run: u64) -> bool {
        self.process(id).is_some_and(|process| process.run == run)
    }

    // Processes

    fn start(&mut self, id: NodeId) {
        let now = self.now;
        if self.node(id).process.is_some() {
            return;
        }
        self.runs += 1;
        let (run, settings) = (self.runs, self.settings.clone());
        let nonce = self.random.random();
        let node = self.node(id);
        let ended = std::mem::replace(&mut node.ended, Ended::Abruptly);
        let (boot, _) = *node
            .disk
            .asking
            .get_or_insert((node.disk.registered + 1, nonce));
        let me = Identity {
            member: node.member(),
            boot: Boot(boot),
        };
        let log = history(node.disk.synced());
        // As a driver does: what may be lost is noted before the log is cut and served.
        node.disk.saved = node.disk.saved.after(ended);
        let replica = Replica::open(me, &settings, node.local(now), node.disk.saved, log);
        node.process = Some(Process {
            run,
            replica,
            writer: None,
            registers: BTreeMap::new(),
            known: false,
            wake: u64::MAX,
            writes_done_at: 0,
            saves_done_at: 0,
        });
        self.trace(|| format!("{id} starts as {me:?} {ended:?}"));
        self.register(id, run);
    }

    fn register(&mut self, id: NodeId, run: u64) {
        if !self.runs_as(id, run) {
            return;
        }
        let node = self.node(id);
        let Some((boot, nonce)) = node.disk.asking else {
            return;
        };
        if node.disowned {
            return;
        }
        let incarnation = node.disk.incarnation;
        let ask = Ask::Register {
            incarnation,
            boot,
            nonce,
        };
        self.ask(id, ask);
        self.later(50_000, Happening::Register(id, run));
    }

    pub(super) fn ask(&mut self, id: NodeId, ask: Ask) {
        let Some(run) = self.process(id).map(|process| process.run) else {
            return;
        };
        let delay = self.random.random_range(100..5_000);
        self.later(delay, Happening::Ask(id, run, ask));
    }

    fn told(&mut self, id: NodeId, tell: Tell) {
        match tell {
            Tell::Registered(known, nonce) => {
                let node = self.node(id);
                let Some((boot, asked)) = node.disk.asking else {
                    return;
                };
                if asked != nonce {
                    return;
                }
                if known {
                    node.disk.registered = boot;
                    node.disk.asking = None;
                } else {
                    node.disowned = true;
                }
                if let Some(process) = node.process.as_mut() {
                    process.known = known;
                }
                let standing = if known {
                    Standing::Known
                } else {
                    Standing::Unknown
                };
                self.tell_replica(id, replica::Event::Standing(standing));
            }
            Tell::Granted(grant) => {
                let (now, settings) = (self.now, self.settings.clone());
                let node = self.node(id);
                let local = node.local(now);
                if let Some(process) = node.process.as_mut() {
                    let newer = process
                        .writer
                        .as_ref()
                        .is_none_or(|writer| writer.epoch() < grant.epoch);
                    if newer {
                        process.writer = Some(Writer::open(id, grant.clone(), settings, local));
                        process.registers.clear();
                        self.trace(|| format!("{id} opens {grant:?}"));
                        self.tell_writer(id, writer::Event::Tick);
                    }
                }
            }
            Tell::Sets(epoch, sets) => {
                let mine = self.writer_epoch(id);
                if mine == epoch {
                    self.tell_writer(id, writer::Event::Sets(sets));
                } else if mine < epoch && (self.calm || self.random.random_bool(0.3)) {
                    // A grant that nobody opened with is in the way of changes.
                    self.ask(id, Ask::Grant);
                }
            }
        }
    }

    /// The process ends; with the power unless `whole`.
    pub(super) fn crash(&mut self, id: NodeId, whole: bool) {
        if self.node(id).process.is_none() {
            return;
        }
        self.stats.crashes += 1;
        let mut random = self.random.clone();
        let node = self.node(id);
        node.process = None;
        node.disk.crash(whole, &mut random);
        node.ended = if node.rotten && !node.disk.saved.gap {
            Ended::Damaged
        } else if whole {
            Ended::Whole
        } else {
            Ended::Abruptly
        };
        self.random = random;
        self.trace(|| format!("{id} crashes, whole {whole}"));
        self.guest_lost(id);
        for other in 0..self.nodes.len() {
            let other = self.nodes[other].id;
            if self.random.random_bool(0.5) {
                self.tell_writer(other, writer::Event::Gone(id));
            }
        }
    }

    // Network

    pub(super) fn send(&mut self, from: NodeId, to: NodeId, message: &Wire) {
        let (now, calm) = (self.now, self.calm);
        self.cuts.retain(|(_, _, until)| *until > now);
        if self.cuts.iter().any(|(a, b, _)| (*a, *b) == (from, to)) {
            return;
        }
        let local = from == to;
        if !calm && !local && self.random.random_bool(self.habits.drop) {
            return;
        }
        let recoded = self.habits.coded.then(|| recode(message));
        let message = recoded.as_ref().unwrap_or(message);
        let twice = !local && self.random.random_bool(self.habits.double);
        for _ in 0..=usize::from(twice) {
            let mut delay = if local {
                10
            } else {
                self.random.random_range(50..=self.habits.delay_us)
            };
            if !local && self.random.random_bool(self.habits.straggle) {
                delay *= self.random.random_range(2..40);
            }
            self.later(delay, Happening::Deliver(from, to, message.clone()));
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, message: Wire) {
        self.trace(|| format!("{from} → {to} {message:?}"));
        match message {
            Message::Promised(_)
            | Message::Refused { .. }
            | Message::Ack(_)
            | Message::Fetched { .. } => {
                self.tell_writer(to, writer::Event::From(from, message));
            }
            _ => self.tell_replica(to, replica::Event::From(from, message)),
        }
    }
}
