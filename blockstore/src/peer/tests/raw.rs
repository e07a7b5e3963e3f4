//! A peer that does what it likes: TLS as somebody, then any bytes.

use super::{LONG, Node};
use crate::NodeId;
use crate::peer::Lane;
use crate::peer::frame::{Frame, HEAD_BYTES, Head, Kind, PREAMBLE_BYTES, Preamble};
use crate::peer::hello::{Hello, Refusal};
use crate::peer::identity::Identity;
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

pub(super) struct Raw(pub(super) StreamOwned<ClientConnection, TcpStream>);

impl Raw {
    /// Connects to a node with this identity's certificate.
    pub(super) fn connect(node: &Node, identity: &Identity) -> Self {
        let config = Arc::clone(&identity.current().dial);
        Self::with(node, config)
    }

    pub(super) fn with(node: &Node, config: Arc<rustls::ClientConfig>) -> Self {
        let tcp = TcpStream::connect(&node.address).unwrap();
        tcp.set_read_timeout(Some(LONG)).unwrap();
        tcp.set_nodelay(true).unwrap();
        let session = ClientConnection::new(config, crate::peer::dial::nobody()).unwrap();
        Self(StreamOwned::new(session, tcp))
    }

    pub(super) fn hello(identity: &Identity, boot: u64, lane: Lane) -> Hello {
        let passport = identity.passport();
        Hello {
            cluster: passport.cluster,
            node: passport.node,
            incarnation: passport.incarnation,
            boot,
            run: 77,
            lane: lane.number(),
        }
    }

    /// Says hello; gives what came back.
    pub(super) fn greet(
        &mut self,
        preamble: Preamble,
        hello: &Hello,
    ) -> io::Result<(Kind, Vec<u8>)> {
        self.0.write_all(&preamble.encode())?;
        let lane = Lane::of(hello.lane).unwrap_or(Lane::Control);
        self.say(lane, Kind::Hello, 0, &serde_json::to_vec(hello).unwrap())?;
        let mut theirs = [0; PREAMBLE_BYTES];
        self.0.read_exact(&mut theirs)?;
        Preamble::decode(&theirs).map_err(io::Error::other)?;
        self.next()
    }

    pub(super) fn say(&mut self, lane: Lane, kind: Kind, id: u64, body: &[u8]) -> io::Result<()> {
        let frame = Frame::new(lane, kind, id, body.to_vec().into()).unwrap();
        self.0.write_all(&frame.head)?;
        self.0.write_all(body)?;
        self.0.flush()
    }

    /// The next frame that is no ping.
    pub(super) fn next(&mut self) -> io::Result<(Kind, Vec<u8>)> {
        loop {
            let mut head = [0; HEAD_BYTES];
            self.0.read_exact(&mut head)?;
            let head = Head::decode(&head, 1 << 24).map_err(io::Error::other)?;
            let mut body = vec![0; head.body_bytes()];
            self.0.read_exact(&mut body)?;
            head.check(&body).map_err(io::Error::other)?;
            if head.kind != Kind::Ping {
                return Ok((head.kind, body));
            }
        }
    }

    /// Reads until the other side closes.
    pub(super) fn until_closed(&mut self) {
        while self.next().is_ok() {}
    }
}

pub(super) fn refusal(answer: &(Kind, Vec<u8>)) -> Refusal {
    assert_eq!(answer.0, Kind::Refusal);
    serde_json::from_slice(&answer.1).unwrap()
}

/// A member's identity without a node of ours behind it.
pub(super) fn member(cluster: &super::Cluster, node: u64) -> Identity {
    let identity = Identity::in_memory(cluster.passport(node)).unwrap();
    cluster
        .roster
        .put(NodeId(node), 1, vec!["127.0.0.1:1".to_owned()]);
    identity
}
