//! The way to another node: TLS over TCP, or a pipe within the process.

use super::Identity;
use super::connection::Stream;
use super::hello::Named;
use super::identity::ALPN_PEER;
use super::local::Switchboard;
use super::options::Pace;
use super::trust::{Failed, Fingerprint, handshake_failed};
use crate::NodeId;
use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName, UnixTime};
use std::io;
use std::sync::Arc;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// TLS reads 4 KiB at a time; the socket is read in pieces of this.
const READ_BYTES: usize = 64 << 10;

/// How nodes are reached.
#[derive(Clone)]
pub(super) enum Way {
    /// Over the network.
    Tls(Arc<Identity>),
    /// Within the process, as this node.
    Pipes(Switchboard, NodeId),
}

/// A connection whose other end has proved who it is.
pub(super) struct Reached {
    pub(super) stream: Box<dyn Stream>,
    pub(super) named: Named,
    /// The CA that signed its certificate, and when that expires, in seconds; none without TLS.
    pub(super) shown: Option<(Fingerprint, u64)>,
}

impl Way {
    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Self::Tls(identity) => Some(identity),
            Self::Pipes(..) => None,
        }
    }

    /// Connects to one address of a node.
    pub(super) async fn reach(
        &self,
        to: NodeId,
        address: &str,
        pace: &Pace,
    ) -> Result<Reached, Failed> {
        let plain = Failed::plain;
        match self {
            Self::Tls(identity) => {
                let tcp = timeout(pace.connect, TcpStream::connect(address))
                    .await
                    .map_err(|_| {
                        plain(format!(
                            "no connection within {} ms",
                            pace.connect.as_millis()
                        ))
                    })?
                    .map_err(|error| plain(error.to_string()))?;
                timeout(pace.handshake, secure(identity, tcp))
                    .await
                    .map_err(|_| {
                        let waited = pace.handshake.as_millis();
                        plain(format!("no TLS handshake within {waited} ms"))
                    })?
            }
            Self::Pipes(board, from) => board.connect(*from, to).map_err(plain),
        }
    }
}

async fn secure(identity: &Identity, tcp: TcpStream) -> Result<Reached, Failed> {
    let current = identity.current();
    tcp.set_nodelay(true)
        .map_err(|error| Failed::plain(error.to_string()))?;
    let tls = TlsConnector::from(Arc::clone(&current.dial))
        .connect(nobody(), BufReader::with_capacity(READ_BYTES, tcp))
        .await
        .map_err(|error| handshake_failed(&error))?;
    let (_, session) = tls.get_ref();
    if session.alpn_protocol() != Some(ALPN_PEER) {
        let text = "what listens there does not speak infall-peer/1";
        return Err(Failed::plain(text.to_owned()));
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let (own, between) = chain
        .split_first()
        .ok_or_else(|| Failed::plain("what listens there showed no certificate".to_owned()))?;
    let examined = current
        .trust
        .examine(own, between, UnixTime::now())
        .map_err(|error| handshake_failed(&io::Error::other(error)))?;
    Ok(Reached {
        stream: Box::new(tls),
        named: examined.named,
        shown: Some((examined.issuer, examined.not_after_s)),
    })
}

/// Names of hosts prove nothing here (`trust`, 2), and none is sent.
pub(super) fn nobody() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}

/// The server's end of the same.
pub(super) fn buffered(tcp: TcpStream) -> io::Result<BufReader<TcpStream>> {
    tcp.set_nodelay(true)?;
    Ok(BufReader::with_capacity(READ_BYTES, tcp))
}
