//! Nodes that talk to each other, over real sockets on loopback.

mod hostile;
mod joining;
mod measure;
mod pipes;
mod raw;
mod rotation;
mod strangers;
mod traffic;

use super::{
    Answers, Authority, Body, ClusterId, Event, EventKind, Events, Gate, Identity, Incarnation,
    Lane, Member, Members, Options, Pace, Passport, Peers, RefusalCode, Seal, Transport,
};
use crate::{NodeId, Result};
use bytes::Bytes;
use futures::FutureExt;
use futures::executor::block_on;
use futures::future::BoxFuture;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Nothing here takes so long on a loaded machine.
const LONG: Duration = Duration::from_secs(20);

fn now_ms() -> u64 {
    crate::clock::now_ms()
}

/// A cluster with its CA and its list of members.
struct Cluster {
    authority: Mutex<Authority>,
    seal: Seal,
    roster: Arc<Roster>,
}

#[derive(Default)]
struct Roster(Mutex<HashMap<NodeId, Member>>);

impl Members for Roster {
    fn member(&self, node: NodeId) -> Option<Member> {
        self.0.lock().unwrap().get(&node).cloned()
    }
}

impl Roster {
    fn put(&self, node: NodeId, boot: u64, addresses: Vec<String>) {
        let incarnation = Incarnation(node.0);
        let member = Member {
            addresses,
            incarnation,
            boot,
        };
        self.0.lock().unwrap().insert(node, member);
    }

    fn remove(&self, node: NodeId) {
        self.0.lock().unwrap().remove(&node);
    }
}

/// A node of it.
struct Node {
    transport: Transport,
    identity: Arc<Identity>,
    events: Arc<Noted>,
    heard: HashMap<Lane, Arc<Heard>>,
    address: String,
}

impl Cluster {
    fn new() -> Self {
        let seal = Seal::random();
        let authority = Authority::found(ClusterId::random(), &seal, now_ms()).unwrap();
        Self {
            authority: Mutex::new(authority),
            seal,
            roster: Arc::default(),
        }
    }

    fn authority(&self) -> Authority {
        self.authority.lock().unwrap().clone()
    }

    fn passport(&self, node: u64) -> Passport {
        let (node, incarnation) = (NodeId(node), Incarnation(node));
        Passport::issue(&self.authority(), &self.seal, node, incarnation, now_ms()).unwrap()
    }

    /// A member that runs and listens.
    fn node(&self, node: u64) -> Node {
        self.start(node, 1, quick(), None)
    }

    fn start(&self, node: u64, boot: u64, options: Options, gate: Option<Arc<dyn Gate>>) -> Node {
        let started = Node::start(
            self.passport(node),
            boot,
            Arc::clone(&self.roster) as _,
            options,
            gate,
        );
        let addresses = vec![started.address.clone()];
        self.roster.put(NodeId(node), boot, addresses);
        started
    }
}

/// Times for tests: a second of silence is long on loopback.
fn quick() -> Options {
    Options {
        pace: Pace {
            silence: Duration::from_secs(1),
            handshake: Duration::from_secs(2),
            check_every: Duration::from_millis(100),
            ..Pace::default()
        },
        ..Options::default()
    }
}

impl Node {
    fn start(
        passport: Passport,
        boot: u64,
        members: Arc<dyn Members>,
        options: Options,
        gate: Option<Arc<dyn Gate>>,
    ) -> Self {
        let events = Arc::new(Noted::default());
        let identity = Arc::new(Identity::in_memory(passport).unwrap());
        let transport = Transport::start(
            Arc::clone(&identity),
            boot,
            &["127.0.0.1:0".to_owned()],
            members,
            Arc::clone(&events) as _,
            gate,
            options,
        )
        .unwrap();
        let address = transport.listening()[0].to_string();
        let heard = hang_in(&transport);
        Self {
            transport,
            identity,
            events,
            heard,
            address,
        }
    }

    fn call(&self, to: u64, lane: Lane, body: &[u8]) -> Result<Bytes> {
        self.call_for(to, lane, body, LONG)
    }

    fn call_for(&self, to: u64, lane: Lane, body: &[u8], patience: Duration) -> Result<Bytes> {
        let body = Body::from(body.to_vec());
        block_on(self.transport.call(NodeId(to), lane, body, patience))
    }

    /// Asks until it is answered: a link that is down is tried again.
    fn call_until(&self, to: u64, lane: Lane, body: &[u8]) -> Bytes {
        let since = Instant::now();
        loop {
            match self.call(to, lane, body) {
                Ok(answer) => return answer,
                Err(error) if since.elapsed() > LONG => panic!("{error:?}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn send(&self, to: u64, lane: Lane, body: &[u8]) -> Result<(), super::Full> {
        let body = Body::from(body.to_vec());
        self.transport.send(NodeId(to), lane, body)
    }

    fn heard(&self, lane: Lane) -> &Heard {
        &self.heard[&lane]
    }
}

fn hang_in(transport: &Transport) -> HashMap<Lane, Arc<Heard>> {
    let hang = |lane| {
        let heard = Arc::new(Heard::default());
        let answers = Arc::new(Ear(Arc::clone(&heard)));
        transport.answer(lane, answers).unwrap();
        (lane, heard)
    };
    Lane::ALL.map(hang).into_iter().collect()
}

/// Answers with the question, notes what comes.
struct Heard {
    state: Mutex<HeardState>,
    changed: Condvar,
    /// One permit per message that may be taken.
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct HeardState {
    messages: Vec<(NodeId, Bytes)>,
    gone: Vec<NodeId>,
    ready: Vec<NodeId>,
    calls: usize,
    withdrawn: usize,
    stuck: bool,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            room: Arc::new(Semaphore::new(0)),
        }
    }
}

impl Heard {
    fn change(&self, change: impl FnOnce(&mut HeardState)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn look<T>(&self, look: impl FnOnce(&HeardState) -> T) -> T {
        look(&self.state.lock().unwrap())
    }

    #[track_caller]
    fn wait(&self, what: &str, until: impl Fn(&HeardState) -> bool) {
        let state = self.state.lock().unwrap();
        let (state, waited) = self
            .changed
            .wait_timeout_while(state, LONG, |state| !until(state))
            .unwrap();
        drop(state);
        assert!(!waited.timed_out(), "waited in vain until {what}");
    }
}

/// Counts calls that were withdrawn.
struct Asked(Option<Arc<Heard>>);

impl Asked {
    fn answered(&mut self) {
        self.0 = None;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(heard) = self.0.take() {
            heard.change(|state| state.withdrawn += 1);
        }
    }
}

/// How a transport hears it.
struct Ear(Arc<Heard>);

impl Answers for Ear {
    fn call(&self, from: NodeId, body: Bytes) -> BoxFuture<'static, Result<Bytes>> {
        self.0.change(|state| state.calls += 1);
        let mut asked = Asked(Some(Arc::clone(&self.0)));
        async move {
            match body.as_ref() {
                b"never" => std::future::pending::<()>().await,
                b"panic" => panic!("asked to, by {from}"),
                b"missing" => {
                    asked.answered();
                    let text = "volume \"v1\" is not there";
                    return Err(crate::Error::new(
                        crate::Kind::NotFound,
                        crate::Subject::Volume,
                        text,
                    ));
                }
                _ => {}
            }
            asked.answered();
            Ok(body)
        }
        .boxed()
    }

    fn message(&self, from: NodeId, body: Bytes) {
        self.0.change(|state| state.messages.push((from, body)));
    }

    fn room(&self, _: NodeId) -> Option<BoxFuture<'static, ()>> {
        if !self.0.look(|state| state.stuck) {
            return None;
        }
        let room = Arc::clone(&self.0.room);
        Some(
            async move {
                room.acquire().await.unwrap().forget();
            }
            .boxed(),
        )
    }

    fn gone(&self, node: NodeId) {
        self.0.change(|state| state.gone.push(node));
    }

    fn ready(&self, node: NodeId) {
        self.0.change(|state| state.ready.push(node));
    }
}

/// Keeps events.
#[derive(Default)]
struct Noted {
    events: Mutex<Vec<Event>>,
    changed: Condvar,
}

impl Events for Noted {
    fn happened(&self, event: Event) {
        self.events.lock().unwrap().push(event);
        self.changed.notify_all();
    }
}

impl Noted {
    #[track_caller]
    fn wait(&self, kind: EventKind) -> Event {
        self.wait_until(|event| event.kind == kind)
    }

    #[track_caller]
    fn wait_until(&self, fits: impl Fn(&Event) -> bool) -> Event {
        let events = self.events.lock().unwrap();
        let missing = |events: &mut Vec<Event>| !events.iter().any(&fits);
        let (events, waited) = self
            .changed
            .wait_timeout_while(events, LONG, missing)
            .unwrap();
        assert!(!waited.timed_out(), "no such event, but {events:?}");
        let found = events.iter().find(|event| fits(event));
        found.unwrap().clone()
    }

    #[track_caller]
    fn wait_for(&self, kind: EventKind, code: RefusalCode) -> Event {
        self.wait_until(|event| event.kind == kind && event.code == Some(code))
    }
}
