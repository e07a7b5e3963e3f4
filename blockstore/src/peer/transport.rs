//! The transport of a node: its runtime, its listener, its links.

use super::dial::Way;
use super::hello::Hello;
use super::shared::{Parts, Shared};
use super::{
    Answers, Body, Events, Full, Gate, Identity, Lane, LaneFigures, Members, Options, Peers, Why,
    listener,
};
use crate::{Error, Kind, NodeId, Result, Subject};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};

/// Threads that carry all of it.
const THREADS: usize = 2;

/// A node's end of everything said between nodes. Dropping it breaks everything off.
pub(crate) struct Transport {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
    listening: Vec<SocketAddr>,
}

impl Transport {
    /// Listens on `listen` (`host:port`, port 0 for any), and is ready to say things to members.
    /// `boot` is the number of this start, synced before this call; answers are hung in later, by
    /// [`Transport::answer`]. Without a `gate`, joins are refused.
    pub(crate) fn start(
        identity: Arc<Identity>,
        boot: u64,
        listen: &[String],
        members: Arc<dyn Members>,
        events: Arc<dyn Events>,
        gate: Option<Arc<dyn Gate>>,
        options: Options,
    ) -> Result<Self> {
        let passport = identity.passport();
        let ours = Hello {
            cluster: passport.cluster,
            node: passport.node,
            incarnation: passport.incarnation,
            boot,
            run: rand::rng().random(),
            lane: 0,
        };
        let mut sockets = Vec::new();
        for text in listen {
            sockets.extend(bind(text)?);
        }
        let parts = Parts {
            way: Way::Tls(identity),
            ours,
            members,
            events,
            gate,
            options,
        };
        let (shared, runtime) = set_up(parts)?;
        let mut listening = Vec::new();
        let _context = runtime.enter();
        for socket in sockets {
            let failed = |error: std::io::Error| {
                Error::new(Kind::Internal, Subject::Store, "cannot listen for peers").because(error)
            };
            listening.push(socket.local_addr().map_err(failed)?);
            let socket = tokio::net::TcpListener::from_std(socket).map_err(failed)?;
            shared.tasks.spawn_on(
                listener::listen(Arc::clone(&shared), socket),
                &shared.handle,
            );
        }
        drop(_context);
        Ok(Self {
            shared,
            runtime: Some(runtime),
            listening,
        })
    }

    /// Over pipes within the process: the same frames, queues and hellos, without TLS and sockets.
    pub(super) fn in_process(parts: Parts) -> Result<(Self, Arc<Shared>)> {
        let (shared, runtime) = set_up(parts)?;
        let transport = Self {
            shared: Arc::clone(&shared),
            runtime: Some(runtime),
            listening: Vec::new(),
        };
        Ok((transport, shared))
    }

    /// From now on, `answers` hears what comes on this lane. Until then, peers are refused there and
    /// try again. Conflict if somebody answers already.
    pub(crate) fn answer(&self, lane: Lane, answers: Arc<dyn Answers>) -> Result<()> {
        if self.shared.answer(lane, answers) {
            return Ok(());
        }
        let text = format!("somebody answers on the {lane} lane already");
        Err(Error::new(Kind::Conflict, Subject::Store, text))
    }

    /// The addresses listened on, with the ports that were chosen.
    pub(crate) fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Where the transport's tasks run, for drivers that want to run beside them. Nothing on it may
    /// block.
    pub(crate) fn handle(&self) -> Handle {
        self.shared.handle.clone()
    }

    /// What has gone over each lane to and from each node.
    pub(crate) fn figures(&self) -> Vec<LaneFigures> {
        self.shared.figures()
    }

    /// Says good-bye on every connection, and waits at most `patience` until all are closed.
    pub(crate) fn stop(&self, patience: Duration) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        let (told, ended) = std::sync::mpsc::channel::<()>();
        let tasks = self.shared.tasks.clone();
        self.shared.handle.spawn(async move {
            tasks.wait().await;
            let _ = told.send(());
        });
        if ended.recv_timeout(patience).is_err() {
            tracing::warn!("connections to peers were broken off: they did not close in time");
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            // Dropping a runtime waits, which is not allowed in an async context of the caller.
            runtime.shutdown_background();
        }
    }
}

impl Peers for Transport {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        body: Body,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bytes>> {
        match self.shared.link(to, lane) {
            Ok(link) => link.call(&self.shared, body, patience),
            Err(why) => {
                let error = Error::new(Kind::Unavailable, Subject::Store, why);
                std::future::ready(Err(error)).boxed()
            }
        }
    }

    fn send(&self, to: NodeId, lane: Lane, body: Body) -> Result<(), Full> {
        match self.shared.link(to, lane) {
            Ok(link) => link.send(&self.shared, body),
            Err(_) => Err(Full {
                to,
                lane,
                asked: body.len(),
                waiting: 0,
                limit: 0,
                why: Why::NoMember,
            }),
        }
    }
}

fn set_up(parts: Parts) -> Result<(Arc<Shared>, Runtime)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("peer")
        .enable_all()
        .build()
        .map_err(|error| {
            let text = "cannot start the transport's threads";
            Error::new(Kind::Internal, Subject::Store, text).because(error)
        })?;
    let shared = Shared::new(parts, runtime.handle().clone());
    Ok((shared, runtime))
}

fn bind(text: &str) -> Result<Vec<std::net::TcpListener>> {
    let failed = |error: std::io::Error| {
        let text = format!(
            "cannot listen for peers on {text:?}: give host:port that is free on this machine"
        );
        Error::new(Kind::Invalid, Subject::Store, text).because(error)
    };
    let mut sockets = Vec::new();
    for address in text.to_socket_addrs().map_err(failed)? {
        let socket = std::net::TcpListener::bind(address).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        sockets.push(socket);
    }
    Ok(sockets)
}
