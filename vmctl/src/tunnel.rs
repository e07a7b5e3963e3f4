//! Bytes both ways between a client of the API and a guest, over an upgraded HTTP connection
//! (RFC 9110, 7.8).
//!
//! ```text
//! GET … Upgrade: infall-bytes ─▶ 101 ─▶ client ◀──bytes──▶ terminal, or sshd
//! ```
//! 1. Nothing is answered by 101 before the guest's side stands.
//! 2. Where one side ends, the other is ended.
//! 3. Whoever loses the grant loses the connection within [`LOOK`].

use crate::instance::Pass;
use access::{Access, Caller, Resource};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use blockstore::{Error, Result};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;

/// What a client asks to be upgraded to.
pub const PROTOCOL: &str = "infall-bytes";
/// How often it is looked whether the client may still.
const LOOK: Duration = Duration::from_secs(15);

/// Who uses a tunnel, and by what grant.
pub(crate) struct User {
    pub(crate) access: Access,
    pub(crate) caller: Caller,
    pub(crate) action: &'static str,
    pub(crate) instance: String,
}

/// Whether a request asks for our upgrade.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    let asked = headers.get(header::UPGRADE);
    asked.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()))
}

/// Answers 101, and moves bytes once the client has changed over.
pub(crate) fn begin(
    upgrade: OnUpgrade,
    guest: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    pass: Pass,
    user: Option<User>,
) -> Response {
    let span = tracing::Span::current();
    let moving = async move {
        let _pass = pass;
        let client = match upgrade.await {
            Ok(client) => TokioIo::new(client),
            Err(error) => return tracing::debug!(%error, "a client did not change over"),
        };
        tokio::select! {
            ended = exchange(client, guest) => match ended {
                Ok(()) => tracing::debug!("a tunnel ended"),
                // A terminal whose guest is gone says EIO.
                Err(error) => tracing::debug!(%error, "a tunnel broke off"),
            },
            () = revoked(user) => tracing::info!("a tunnel is cut: its user may no longer"),
        }
    };
    tokio::spawn(tracing::Instrument::instrument(moving, span));
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(PROTOCOL)),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Until either side ends.
async fn exchange(
    client: impl AsyncRead + AsyncWrite,
    guest: impl AsyncRead + AsyncWrite,
) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);
    tokio::select! {
        moved = tokio::io::copy(&mut from_client, &mut to_guest) => moved.map(drop),
        moved = tokio::io::copy(&mut from_guest, &mut to_client) => moved.map(drop),
    }
}

/// Once the grant is gone; never without one.
async fn revoked(user: Option<User>) {
    let Some(user) = user else {
        return std::future::pending().await;
    };
    let user = std::sync::Arc::new(user);
    loop {
        tokio::time::sleep(LOOK).await;
        let asked = std::sync::Arc::clone(&user);
        let may = tokio::task::spawn_blocking(move || {
            let resource = Resource::Instance(&asked.instance);
            asked.access.visible(&asked.caller, asked.action, &resource)
        });
        if !may.await.unwrap_or(false) {
            return;
        }
    }
}

/// A terminal of this host to read and write without a thread that waits for it.
pub(crate) fn terminal(path: &Path) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
    // Not ours to be controlled by: the hang-up of a guest's terminal would end the server.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let failed = |error| Error::io("open the terminal", path, error);
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let output = File::from(opened.map_err(|error| failed(error.into()))?);
    let input = output.try_clone().map_err(failed)?;
    let output = pipe::Receiver::from_file_unchecked(output).map_err(failed)?;
    let input = pipe::Sender::from_file_unchecked(input).map_err(failed)?;
    Ok(tokio::io::join(output, input))
}
