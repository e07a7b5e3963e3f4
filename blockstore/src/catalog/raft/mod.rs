//! The catalog kept by several nodes together: one Raft group (openraft) whose log holds whole batches.
//!
//! 1. An entry is a batch of rows and its *base*: the version, counted in batches, that it was made over.
//!    It counts if nobody's batch came in between ([`state`]). Safety rests on nothing else.
//! 2. Nodes take *turns*, handed out by the leader ([`turn`]), so that they seldom race; a batch that
//!    lost its turn changes nothing and its callers are told to try again ([`carry`]).
//! 3. Reads are local. Who must see what others have done before calls [`Group::catch_up`] first: it
//!    learns from the leader how far the log was, and waits until the rows here are there.
//! 4. Rows under `node/` are a node's own and in no entry and no snapshot.
//! 5. A node answers only requests of its own group and generation: after a recovery ([`recover()`]) the
//!    members left behind are strangers.
//!
//! ```text
//! committing thread ─ base, carry ─▶ carry ── turn, propose ──▶ leader: turn ─▶ openraft ─▶ log (synced)
//!        ▲                            ▲                                            │ to every member
//!        └──────── answers ───────────┴──── rows, version ◀── state ◀── applied ◀──┘
//! ```
//!
//! openraft is named nowhere but below this folder. It runs on a small runtime of its own; callers block.
#![cfg_attr(
    not(test),
    allow(
        dead_code,
        reason = "a store is opened as a member of a group once nodes find each other"
    )
)]

mod carry;
mod codec;
mod leader;
mod log;
mod members;
mod network;
mod peers;
mod recover;
mod snapshot;
mod state;
#[cfg(test)]
pub(super) mod tests;
mod turn;
mod types;

use super::committer::{Carrier, Committed};
use super::{keys, lock, open};
use crate::{Error, Kind, Result, Subject};
use bytes::Bytes;
use codec::{Refused, Verb, Why};
use network::Lines;
use rocksdb::DB;
use serde::{Deserialize, Serialize};
use state::{Applied, State};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Notify, Semaphore, watch};
use turn::Turns;
use types::Raft;

#[allow(unused_imports, reason = "what the cluster names of it")]
pub(crate) use codec::GroupId;
#[allow(unused_imports, reason = "what the cluster names of it")]
pub(crate) use members::MemberState;
#[allow(unused_imports, reason = "what the cluster names of it")]
pub(crate) use network::{Reply, Wire};
#[allow(unused_imports, reason = "what the cluster names of it")]
pub(crate) use peers::{AtMember, OverPeers};
#[allow(unused_imports, reason = "what the cluster names of it")]
pub(crate) use recover::{Loss, enlist, found, recover};
#[allow(unused_imports, reason = "what the cluster names of it")]
pub(crate) use types::Member;

/// Threads of the runtime that openraft runs on.
const THREADS: usize = 2;
/// Requests of other members under way at once; a member has a handful.
const REQUESTS_MAX: usize = 256;
/// Entries in one message to a follower.
const ENTRIES_MAX: u64 = 64;
/// Until a closing group's tasks have let go of the database.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// This node's place in a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    /// Which group.
    #[serde(flatten)]
    pub(crate) group: GroupId,
    /// This node's id there.
    pub(crate) node: u64,
    /// Of this data directory.
    pub(crate) incarnation: String,
}

/// How a group keeps time and its log.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How often a leader is heard. Also how long a follower may take to sync what it is sent.
    pub(crate) heartbeat: Duration,
    /// Without a leader for a time between these, a member stands for election.
    pub(crate) election: (Duration, Duration),
    /// After so many entries, earlier ones need not be kept.
    pub(crate) snapshot_every: u64,
    /// So many are kept all the same, for members that were away for a short time.
    pub(crate) keep_entries: u64,
    /// How long a change or a reader waits for a leader.
    pub(crate) patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(300),
            election: (Duration::from_millis(1000), Duration::from_millis(2000)),
            snapshot_every: 1000,
            keep_entries: 4000,
            patience: Duration::from_secs(10),
        }
    }
}

/// This node's place in a group, if it has one.
pub(super) fn seat(database: &DB) -> Result<Option<Seat>> {
    open::read(database, keys::NODE_GROUP)
}

/// The group that this node's catalog is kept by.
pub(crate) struct Group {
    shared: Arc<Shared>,
    runtime: Mutex<Option<Runtime>>,
}

struct Shared {
    seat: Seat,
    boot: u64,
    settings: Settings,
    handle: Handle,
    /// Set once openraft runs.
    raft: OnceLock<Raft>,
    state: State,
    applied: watch::Receiver<Applied>,
    lines: Lines,
    /// Turns of the term in which this node leads.
    turns: Mutex<(u64, Turns)>,
    turns_moved: Notify,
    /// Readers that wait for the next round.
    readers: Mutex<Vec<SyncSender<Result<()>>>>,
    readers_came: Notify,
    /// Snapshots on their way here: file by number.
    receiving: Mutex<BTreeMap<u64, leader::Receiving>>,
    transfers: AtomicU64,
    requests: Semaphore,
    stopping: watch::Sender<bool>,
    started: Instant,
}

impl Group {
    /// Starts this node's part of its group. Conflict if it has no place in one.
    pub(super) fn start(
        directory: &Path,
        database: &Arc<DB>,
        committed: &Arc<Committed>,
        boot: u64,
        wire: Arc<dyn Wire>,
        settings: Settings,
    ) -> Result<(Self, Box<dyn Carrier>)> {
        let seat = seat(database)?.ok_or_else(|| {
            let text = format!(
                "the catalog in {} belongs to this node alone: found a group with it first, or join one with an empty directory",
                directory.display()
            );
            Error::new(Kind::Conflict, Subject::Store, text)
        })?;
        let scratch = scratch(directory)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(8)
            .thread_name("catalog-raft")
            .enable_time()
            .build()
            .map_err(|cause| {
                let text = "cannot start the threads of the catalog's group";
                Error::new(Kind::Internal, Subject::Store, text).because(cause)
            })?;
        let state = State::open(database.clone(), committed.clone(), scratch)?;
        let lines = Lines {
            group: seat.group,
            wire,
        };
        let shared = Arc::new(Shared {
            boot,
            settings,
            handle: runtime.handle().clone(),
            raft: OnceLock::new(),
            applied: state.applied(),
            state: state.clone(),
            lines: lines.clone(),
            turns: Mutex::default(),
            turns_moved: Notify::new(),
            readers: Mutex::default(),
            readers_came: Notify::new(),
            receiving: Mutex::default(),
            transfers: AtomicU64::new(0),
            requests: Semaphore::new(REQUESTS_MAX),
            stopping: watch::Sender::new(false),
            started: Instant::now(),
            seat,
        });
        let log = log::Log::new(database.clone(), committed.clone());
        let config = config(&shared.settings)?;
        let node = shared.seat.node;
        let raft = wait(runtime.handle(), async move {
            let raft = Raft::new(node, Arc::new(config), lines, log, state).await;
            raft.map_err(|cause| stopped(&cause))
        })??;
        if alone(&raft, node) {
            // Nobody else could be leading.
            let elect = raft.clone();
            wait(
                runtime.handle(),
                async move { elect.trigger().elect().await },
            )?
            .map_err(|cause| stopped(&cause))?;
        }
        let _ = shared.raft.set(raft);
        runtime.spawn(serve_readers(shared.clone()));
        let carrier = Box::new(carry::Turned::new(shared.clone()));
        let group = Self {
            shared,
            runtime: Mutex::new(Some(runtime)),
        };
        Ok((group, carrier))
    }

    /// This node's place.
    pub(crate) fn seat(&self) -> &Seat {
        &self.shared.seat
    }

    /// Answers another member's request. The future may run anywhere.
    pub(crate) fn answer(&self, from: u64, request: Bytes) -> Reply {
        let shared = self.shared.clone();
        let task = self
            .shared
            .handle
            .spawn(async move { shared.answer(from, request).await });
        Box::pin(async move {
            task.await.map_err(|cause| {
                let text = "the catalog's group is stopping";
                Error::new(Kind::Unavailable, Subject::Store, text).because(cause)
            })
        })
    }

    /// Waits until everything is seen here that any node changed before this call. Callers share rounds.
    pub(crate) fn catch_up(&self) -> Result<()> {
        self.shared.catch_up()
    }

    /// The node that leads, as far as this one knows.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.shared.metrics()?.current_leader
    }

    /// Ends what waits for the group.
    pub(super) fn stop(&self) {
        self.shared.stopping.send_replace(true);
        self.shared.turns_moved.notify_waiters();
    }

    /// Stops openraft and lets go of the database.
    pub(super) fn close(&self) {
        self.stop();
        let Some(runtime) = lock(&self.runtime).take() else {
            return;
        };
        if let Some(raft) = self.shared.raft.get().cloned() {
            let _ = wait(runtime.handle(), async move {
                tokio::time::timeout(CLOSE_PATIENCE, raft.shutdown()).await
            });
        }
        // A runtime may not be dropped where its kind of caller must not block.
        let ended = std::thread::Builder::new()
            .name("catalog-close".into())
            .spawn(move || runtime.shutdown_timeout(CLOSE_PATIENCE));
        if let Ok(ended) = ended {
            let _ = ended.join();
        }
    }
}

fn config(settings: &Settings) -> Result<openraft::Config> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let config = openraft::Config {
        cluster_name: "catalog".into(),
        heartbeat_interval: ms(settings.heartbeat),
        election_timeout_min: ms(settings.election.0),
        election_timeout_max: ms(settings.election.1),
        max_payload_entries: ENTRIES_MAX,
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(settings.snapshot_every),
        max_in_snapshot_log_to_keep: settings.keep_entries,
        // A member that lags no further than the log is kept gets the log.
        replication_lag_threshold: settings.keep_entries + settings.snapshot_every,
        purge_batch_size: 64,
        ..openraft::Config::default()
    };
    config.validate().map_err(|cause| {
        let text = "the times of the catalog's group do not fit together";
        Error::new(Kind::Invalid, Subject::Store, text).because(cause)
    })
}

/// An empty folder beside the database for files on their way.
fn scratch(directory: &Path) -> Result<std::path::PathBuf> {
    let scratch = directory.with_file_name("incoming");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).map_err(|cause| Error::io("remove", &scratch, cause))?;
    }
    std::fs::create_dir_all(&scratch).map_err(|cause| Error::io("make", &scratch, cause))?;
    Ok(scratch)
}

fn alone(raft: &Raft, node: u64) -> bool {
    let metrics = raft.metrics().borrow().clone();
    metrics
        .membership_config
        .membership()
        .voter_ids()
        .eq([node])
}

fn stopped(cause: &(impl std::error::Error + 'static)) -> Error {
    let text = format!(
        "the catalog's group stopped on this node ({cause}): look at its disk and restart the server"
    );
    Error::new(Kind::Unavailable, Subject::Store, text)
}

/// Runs a future on the runtime and waits for it, from any thread.
fn wait<T: Send + 'static>(
    handle: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T> {
    let (done, answer) = sync_channel(1);
    handle.spawn(async move {
        let _ = done.send(future.await);
    });
    answer.recv().map_err(|_| super::closed())
}

impl Shared {
    fn raft(&self) -> Result<&Raft> {
        self.raft.get().ok_or_else(super::closed)
    }

    fn metrics(&self) -> Option<openraft::RaftMetrics<u64, Member>> {
        Some(self.raft.get()?.metrics().borrow().clone())
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// A number for a snapshot on its way here, new in this run.
    fn next_transfer(&self) -> u64 {
        self.transfers.fetch_add(1, Ordering::Relaxed)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Until the future is done, the time is up, or the catalog is closed.
    async fn until<T>(
        &self,
        deadline: Instant,
        what: &str,
        future: impl Future<Output = T>,
    ) -> Result<T> {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            done = future => Ok(done),
            () = tokio::time::sleep_until(deadline.into()) => {
                Err(Error::new(Kind::Unavailable, Subject::Store, what))
            }
            _ = stopping.wait_for(|stopping| *stopping) => Err(super::closed()),
        }
    }

    /// Until the rows here are as far as that.
    async fn wait_applied(
        &self,
        deadline: Instant,
        far: impl FnMut(&Applied) -> bool,
    ) -> Result<()> {
        let mut applied = self.applied.clone();
        let what =
            "this node lags behind the catalog's group; try again, or look at its network and disk";
        self.until(deadline, what, async {
            applied.wait_for(far).await.map(|_| ())
        })
        .await?
        .map_err(|_| super::closed())
    }

    /// Asks a node, which may be this one.
    async fn ask_node(
        self: &Arc<Self>,
        to: u64,
        verb: Verb,
        body: &[u8],
        patience: Duration,
    ) -> Result<Result<Bytes, Refused>> {
        if to != self.seat.node {
            return self.lines.ask(to, verb, body, patience).await;
        }
        let served = self.serve(to, verb, Bytes::copy_from_slice(body));
        let what = "the catalog's group has no quorum; try again when most of its nodes are up";
        let served = self.until(Instant::now() + patience, what, served).await?;
        Ok(served.map(Bytes::from))
    }

    /// Asks whoever leads, until it answers; also says who that was.
    async fn ask_leader(
        self: &Arc<Self>,
        verb: Verb,
        body: &[u8],
        deadline: Instant,
    ) -> Result<(u64, Bytes)> {
        let mut last = "no node leads the catalog's group".to_owned();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_stopping() {
                let text = format!(
                    "the catalog takes no changes and cannot be read up to date ({last}): \
                     see that most of the group's nodes are up and reach each other, then try again"
                );
                return Err(Error::new(Kind::Unavailable, Subject::Store, text));
            }
            let leader = match self.metrics() {
                Some(metrics) => {
                    if let Err(cause) = metrics.running_state {
                        return Err(stopped(&cause));
                    }
                    metrics.current_leader
                }
                None => None,
            };
            if let Some(leader) = leader {
                let patience = left.min(self.settings.heartbeat * 8);
                match self.ask_node(leader, verb, body, patience).await {
                    Ok(Ok(reply)) => return Ok((leader, reply)),
                    Ok(Err(refused)) if matches!(refused.why, Why::NotLeader | Why::Busy) => {
                        last = refused.text;
                    }
                    Ok(Err(refused)) => return Err(refused.error()),
                    Err(cause) => last = cause.chain(),
                }
            }
            // Until this node hears of another leader; or the same one thinks better of it.
            let pause = (Instant::now() + Duration::from_millis(20)).min(deadline);
            if let Ok(raft) = self.raft() {
                let mut metrics = raft.metrics();
                let changed = metrics.wait_for(|metrics| {
                    metrics.current_leader != leader && metrics.current_leader.is_some()
                });
                let _ = tokio::time::timeout_at(pause.into(), changed).await;
            }
        }
    }

    fn catch_up(&self) -> Result<()> {
        let (reader, answer) = sync_channel(1);
        lock(&self.readers).push(reader);
        self.readers_came.notify_one();
        // A round has a bound of its own, and this one may have to wait for the one before it.
        answer
            .recv_timeout(self.settings.patience * 3)
            .map_err(|_| {
                let text = "the catalog cannot be read up to date: no node leads its group";
                Error::new(Kind::Unavailable, Subject::Store, text)
            })?
    }

    /// The log's place up to which everything is seen by whoever asks now.
    async fn read_index(self: &Arc<Self>, deadline: Instant) -> Result<u64> {
        let (_, reply) = self.ask_leader(Verb::ReadIndex, b"", deadline).await?;
        codec::from_json("a read index", &reply)
    }
}

/// One round after the other; each answers all who came before it began.
async fn serve_readers(shared: Arc<Shared>) {
    loop {
        shared.readers_came.notified().await;
        let readers = std::mem::take(&mut *lock(&shared.readers));
        if readers.is_empty() {
            continue;
        }
        let deadline = Instant::now() + shared.settings.patience;
        let round = async {
            let index = shared.read_index(deadline).await?;
            shared
                .wait_applied(deadline, |applied| {
                    applied.at.is_some_and(|at| at.index >= index)
                })
                .await
        };
        let outcome = round.await;
        for reader in readers {
            let outcome = match &outcome {
                Ok(()) => Ok(()),
                Err(cause) => Err(Error::new(cause.kind(), cause.subject(), cause.chain())),
            };
            let _ = reader.send(outcome);
        }
    }
}
