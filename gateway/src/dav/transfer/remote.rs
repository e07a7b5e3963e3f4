//! The other server of a third-party copy: one connection a request, to an address that was judged.
//!
//! 1. Names are resolved here, once; the address that [`Hosts`] let through is the one connected to.
//! 2. Redirects are followed by hand, each judged as the first URL was; what the client gave for the
//!    first host (its `Authorization`) is not told to another one.
//! 3. Whoever drops a reply ends its connection.

use super::TransferSettings;
use super::hosts::{Hosts, shown};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::Url;

/// How long a connection, and then the reply's head, may take.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;

/// What is sent.
pub(super) type Sent = UnsyncBoxBody<Bytes, std::io::Error>;
/// Makes the body anew: a redirect wants it again.
pub(super) type Source<'a> = dyn Fn() -> Sent + Send + Sync + 'a;

/// A client for other servers.
#[derive(Clone)]
pub(super) struct Remote {
    hosts: Hosts,
    tls: TlsConnector,
    /// How long the other side may be silent.
    silence_max: Duration,
}

/// What the other server said; the connection ends with it.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Incoming,
    pub(super) url: Url,
    _connection: Connection,
}

struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Remote {
    /// Trusts the certificates in the settings (PEM), or those of the system.
    pub(super) fn new(settings: TransferSettings) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match settings.authorities.as_deref() {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate
                        .map_err(|error| format!("a certificate is damaged: {error}"))?;
                    roots
                        .add(certificate)
                        .map_err(|error| format!("a certificate is no authority: {error}"))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                let (_, damaged) = roots.add_parsable_certificates(found.certs);
                tracing::debug!(
                    trusted = roots.len(),
                    damaged,
                    "the system's authorities for third-party copies"
                );
            }
        }
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            hosts: settings.hosts,
            tls: TlsConnector::from(Arc::new(config)),
            silence_max: settings.times.silence_max,
        })
    }

    /// What the other side says, if it says anything; the text is for whom it was silent.
    pub(super) async fn heard<T>(
        &self,
        what: impl Future<Output = T>,
        silent: impl FnOnce(u64) -> String,
    ) -> Result<T, String> {
        let heard = tokio::time::timeout(self.silence_max, what).await;
        heard.map_err(|_| silent(self.silence_max.as_secs()))
    }

    /// Whether a URL may be spoken to at all, before anything is tried.
    pub(super) fn check(&self, url: &Url) -> Result<(), String> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("{} is neither http nor https", shown(url)));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "a URL with a password is not used: send TransferHeaderAuthorization".to_owned(),
            );
        }
        self.hosts.check_url(url)
    }

    /// One request, over its redirects.
    pub(super) async fn ask(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: &Source<'_>,
    ) -> Result<Answer, String> {
        let mut url = url.clone();
        let first = url.origin();
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = headers.clone();
            if url.origin() != first {
                headers.remove(header::AUTHORIZATION);
                headers.remove(header::COOKIE);
            }
            let answer = self.once(method, url.clone(), headers, body()).await?;
            if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer
                .headers
                .get(header::LOCATION)
                .and_then(|location| location.to_str().ok())
                .and_then(|location| url.join(location).ok())
                .ok_or_else(|| format!("{} redirects to nowhere", shown(&url)))?;
            if url.scheme() == "https" && location.scheme() != "https" {
                return Err(format!(
                    "{} redirects from https to {}, which is not followed",
                    shown(&url),
                    shown(&location)
                ));
            }
            self.check(&location)
                .map_err(|why| format!("{} redirects elsewhere: {why}", shown(&url)))?;
            url = location;
        }
        Err(format!(
            "more than {REDIRECTS_MAX} redirects, the last to {}",
            shown(&url)
        ))
    }

    /// Ends a request of ours in which nothing moves any more.
    pub(super) async fn moving(
        &self,
        request: impl Future<Output = Result<Answer, String>>,
        moved: &AtomicU64,
        url: &Url,
    ) -> Result<Answer, String> {
        let look = self.silence_max / 12;
        tokio::pin!(request);
        let (mut last, mut still) = (u64::MAX, Duration::ZERO);
        loop {
            if let Ok(done) = tokio::time::timeout(look, &mut request).await {
                return done;
            }
            let now = moved.load(Ordering::Relaxed);
            still = if now == last {
                still + look
            } else {
                Duration::ZERO
            };
            last = now;
            if still >= self.silence_max {
                let seconds = self.silence_max.as_secs();
                return Err(format!("{} took nothing for {seconds} s", shown(url)));
            }
        }
    }

    async fn once(
        &self,
        method: &Method,
        url: Url,
        headers: HeaderMap,
        body: Sent,
    ) -> Result<Answer, String> {
        let connecting = self.connect(&url);
        let connected = tokio::time::timeout(CONNECT_MAX, connecting).await;
        let connected = connected.map_err(|_| {
            let seconds = CONNECT_MAX.as_secs();
            format!("{} was not reached within {seconds} s", shown(&url))
        })?;
        let io = TokioIo::new(connected?);
        let broken = |error: &dyn std::fmt::Display| format!("{}: {error}", shown(&url));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(|error| broken(&error))?;
        let running = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection of a third-party copy ended");
            }
        });
        let connection = Connection(running.abort_handle());
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .body(body)
            .map_err(|error| broken(&error))?;
        *request.headers_mut() = headers;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        let host = HeaderValue::from_str(&host).map_err(|error| broken(&error))?;
        request.headers_mut().insert(header::HOST, host);
        let agent = concat!("infall/", env!("CARGO_PKG_VERSION"));
        request
            .headers_mut()
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(agent));
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| broken(&error))?;
        let (parts, body) = response.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
            url,
            _connection: connection,
        })
    }

    async fn connect(&self, url: &Url) -> Result<Box<dyn Wire>, String> {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(format!("{} names no host", shown(url)));
        };
        let bare = host.trim_matches(['[', ']']);
        let addresses = tokio::net::lookup_host((bare, port))
            .await
            .map_err(|error| format!("{bare} cannot be resolved: {error}"))?;
        let mut last = format!("{bare} has no address");
        for address in addresses {
            if let Err(why) = self.hosts.check_address(address.ip(), port) {
                last = format!("{bare}: {why}");
                continue;
            }
            let stream = match TcpStream::connect(address).await {
                Ok(stream) => stream,
                Err(error) => {
                    last = format!("{bare} ({address}): {error}");
                    continue;
                }
            };
            // If this fails the connection is only slower.
            let _ = stream.set_nodelay(true);
            if url.scheme() == "http" {
                return Ok(Box::new(stream));
            }
            let name = ServerName::try_from(bare.to_owned())
                .map_err(|error| format!("{bare} is no name for TLS: {error}"))?;
            let stream = self
                .tls
                .connect(name, stream)
                .await
                .map_err(|error| format!("{bare}: {error}"))?;
            return Ok(Box::new(stream));
        }
        Err(last)
    }
}

/// A connection, with TLS or without.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// No body.
pub(super) fn nothing() -> Sent {
    http_body_util::Empty::new()
        .map_err(|never| match never {})
        .boxed_unsync()
}
