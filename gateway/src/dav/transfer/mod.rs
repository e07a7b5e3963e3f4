//! Third-party copy over HTTP: one server fetches from, or sends to, another one while the client
//! only watches (the WLCG's "HTTP Third Party Copy", as XRootD, dCache, StoRM and davix speak it).
//!
//! ```text
//! COPY /dav/b/k   Source: https://other/x        pull: other ──bytes──► us
//! COPY /dav/b/k   Destination: https://other/x   push: us ──bytes──► other
//!
//! 202 Accepted, chunked:      Perf Marker
//!                             \tTimestamp: 1700000000
//!                             \tStripe Index: 0
//!                             \tStripe Bytes Transferred: 1048576
//!                             \tTotal Stripe Count: 1
//!                             End
//!                             success: Created          (or failure: why)
//! ```
//! 1. Other servers are reached only if the operator lists them ([`hosts`]).
//! 2. What could be refused is refused before 202, by its status; what happens later is told in the
//!    last line.
//! 3. Nothing is committed before the bytes are whole and their checksum, where there is one, holds.
//! 4. A copy ends when its client goes away, when nothing moves for as long as [`TransferTimes`]
//!    says, and after the time that it may take in all.

mod hosts;
mod pull;
mod push;
mod remote;

pub use hosts::{BadHost, Hosts};

use super::receiving::OBJECT_BYTES_MAX;
use super::refusal::Refusal;
use super::session::Session;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use blockstore::{Error, Kind, Store, Subject};
use bytes::Bytes;
use remote::Remote;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, mpsc};
use url::Url;

/// Copies under way at the same time.
const COPIES_MAX: usize = 32;
/// How often the client hears how far it is.
const MARKER_EVERY: Duration = Duration::from_secs(5);
/// Headers for the other server.
const TRANSFER_HEADERS_MAX: usize = 32;

/// How long a third-party copy is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferTimes {
    /// The other server says nothing and takes nothing: a minute.
    pub silence_max: Duration,
    /// One copy in all: twelve hours.
    pub lasts_max: Duration,
}

impl Default for TransferTimes {
    fn default() -> Self {
        Self {
            silence_max: Duration::from_secs(60),
            lasts_max: Duration::from_secs(12 * 3600),
        }
    }
}

/// What the operator says about third-party copies.
#[derive(Clone, Debug, Default)]
pub struct TransferSettings {
    /// Whom this server may be told to speak to.
    pub hosts: Hosts,
    /// Certificates (PEM) of the authorities to trust for https; the system's without.
    pub authorities: Option<Vec<u8>>,
    /// When one ends by itself.
    pub times: TransferTimes,
}

/// Third-party copies.
pub(super) struct Transfers {
    store: Store,
    remote: Remote,
    lasts_max: Duration,
    turns: Arc<Semaphore>,
    incoming: Arc<Semaphore>,
}

/// What a client says of a copy.
struct Terms {
    url: Url,
    /// For the other server.
    headers: HeaderMap,
    /// Whether what is at the target may be replaced.
    overwrite: bool,
    /// Whether a checksum must have been compared; `None`: if there is one.
    verify: Option<bool>,
}

impl Transfers {
    /// Invalid for certificates that are none.
    pub(super) fn new(
        store: Store,
        settings: TransferSettings,
        incoming: Arc<Semaphore>,
    ) -> blockstore::Result<Self> {
        let lasts_max = settings.times.lasts_max;
        let remote = Remote::new(settings).map_err(|why| {
            Error::new(Kind::Invalid, Subject::Store, format!("dav.tpc_ca: {why}"))
        })?;
        Ok(Self {
            store,
            remote,
            lasts_max,
            turns: Arc::new(Semaphore::new(COPIES_MAX)),
            incoming,
        })
    }

    fn terms(&self, session: &Session, url: &str) -> Result<Terms, Refusal> {
        let refused = |words: String| Refusal::new(StatusCode::BAD_REQUEST, words);
        let headers = &session.headers;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        // davix and gfal write dav:// and davs:// for what is http and https on the wire.
        let url = match url.split_once("://") {
            Some(("dav", rest)) => format!("http://{rest}"),
            Some(("davs", rest)) => format!("https://{rest}"),
            _ => url.to_owned(),
        };
        let url = Url::parse(&url)
            .map_err(|error| refused(format!("the other server's URL cannot be read: {error}")))?;
        self.remote
            .check(&url)
            .map_err(|why| Refusal::new(StatusCode::FORBIDDEN, why))?;
        if let Some(credential) = text("credential")
            && !credential.eq_ignore_ascii_case("none")
        {
            return Err(refused(format!(
                "Credential: {credential:?} is not served, only none: send what the other server \
                 wants as TransferHeader…"
            )));
        }
        let verify = match text("requirechecksumverification") {
            None => None,
            Some(value) if value.eq_ignore_ascii_case("true") => Some(true),
            Some(value) if value.eq_ignore_ascii_case("false") => Some(false),
            Some(value) => {
                return Err(refused(format!(
                    "RequireChecksumVerification is true or false, not {value:?}"
                )));
            }
        };
        Ok(Terms {
            url,
            headers: transfer_headers(headers).map_err(refused)?,
            overwrite: text("overwrite") != Some("F"),
            verify,
        })
    }

    /// Runs a copy and lets the client watch.
    fn watched<F>(&self, work: impl FnOnce(Arc<AtomicU64>) -> F) -> Result<Response, Refusal>
    where
        F: Future<Output = Result<String, String>> + Send + 'static,
    {
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            let words = format!("{COPIES_MAX} copies are under way: try again later");
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, words));
        };
        let moved = Arc::new(AtomicU64::new(0));
        let work = work(Arc::clone(&moved));
        let (lines, told) = mpsc::channel::<Bytes>(4);
        let lasts_max = self.lasts_max;
        let work = async move {
            let ended = tokio::time::timeout(lasts_max, work).await;
            ended.unwrap_or_else(|_| Err(format!("not done within {} s", lasts_max.as_secs())))
        };
        let span = tracing::Span::current();
        tokio::spawn(tracing::Instrument::instrument(
            async move {
                let _turn = turn;
                let gone = lines.clone();
                let telling = tell(lines, moved, work);
                tokio::select! {
                    () = telling => {}
                    // Dropping the work ends its connection and forgets its bytes.
                    () = gone.closed() => tracing::info!("the client of a copy went away; it ends"),
                }
            },
            span,
        ));
        let body = futures::stream::unfold(told, |mut told| async move {
            let line = told.recv().await?;
            Some((Ok::<_, std::io::Error>(line), told))
        });
        let mut response = Response::new(Body::from_stream(body));
        *response.status_mut() = StatusCode::ACCEPTED;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/perf-marker-stream"),
        );
        Ok(response)
    }
}

/// Markers while the work lasts, one at its end, and the last line.
async fn tell<F>(lines: mpsc::Sender<Bytes>, moved: Arc<AtomicU64>, work: F)
where
    F: Future<Output = Result<String, String>>,
{
    tokio::pin!(work);
    let ended = loop {
        match tokio::time::timeout(MARKER_EVERY, &mut work).await {
            Ok(ended) => break ended,
            Err(_) => {
                // A client that does not read must not hold up its copy: it misses a marker.
                let _ = lines.try_send(marker(&moved));
            }
        }
    };
    let last = match ended {
        Ok(words) => format!("success: {}\n", one_line(&words)),
        Err(words) => format!("failure: {}\n", one_line(&words)),
    };
    if lines.send(marker(&moved)).await.is_ok() {
        let _ = lines.send(Bytes::from(last)).await;
    }
}

fn marker(moved: &AtomicU64) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    let bytes = moved.load(Ordering::Relaxed);
    Bytes::from(format!(
        "Perf Marker\n\tTimestamp: {seconds}\n\tStripe Index: 0\n\tStripe Bytes Transferred: \
         {bytes}\n\tTotal Stripe Count: 1\nEnd\n"
    ))
}

fn one_line(words: &str) -> String {
    words.replace(['\r', '\n'], " ")
}

/// `TransferHeaderX: y` is `X: y` for the other server.
fn transfer_headers(headers: &HeaderMap) -> Result<HeaderMap, String> {
    const PREFIX: &str = "transferheader";
    /// These belong to the connection or to what we send.
    const OURS: [&str; 9] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "range",
    ];
    let mut sent = HeaderMap::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        let bad = || format!("TransferHeader{name} is no header that can be sent on");
        let name: HeaderName = name.parse().map_err(|_| bad())?;
        if OURS.contains(&name.as_str()) {
            return Err(bad());
        }
        sent.append(name, value.clone());
        if sent.len() > TRANSFER_HEADERS_MAX {
            return Err(format!(
                "more than {TRANSFER_HEADERS_MAX} TransferHeader… headers"
            ));
        }
    }
    Ok(sent)
}

/// A length that the other server announces.
fn announced(headers: &HeaderMap) -> Result<Option<u64>, String> {
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length = length.to_str().ok().and_then(|text| text.parse().ok());
    match length {
        Some(length) if length <= OBJECT_BYTES_MAX => Ok(Some(length)),
        Some(length) => Err(format!("{length} bytes are more than an object holds")),
        None => Err("the other server's Content-Length is no number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn transfer_headers_lose_their_prefix_and_nothing_else_goes_out() {
        let sent = transfer_headers(&headers(&[
            ("transferheaderauthorization", "Bearer abc"),
            ("transferheaderx-thing", "1"),
            ("authorization", "Basic our-own"),
            ("cookie", "c"),
        ]))
        .unwrap();
        assert_eq!(
            sent,
            headers(&[("authorization", "Bearer abc"), ("x-thing", "1")])
        );
        for bad in [
            "transferheaderhost",
            "transferheadercontent-length",
            "transferheader",
        ] {
            assert!(transfer_headers(&headers(&[(bad, "1")])).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn the_last_line_says_how_it_went() {
        let (lines, mut told) = mpsc::channel(8);
        let moved = Arc::new(AtomicU64::new(7));
        tell(lines, moved, async { Err("a\nb".to_owned()) }).await;
        let mut text = String::new();
        while let Some(line) = told.recv().await {
            text.push_str(std::str::from_utf8(&line).unwrap());
        }
        assert!(text.starts_with("Perf Marker\n\tTimestamp: "), "{text}");
        assert!(text.contains("\n\tStripe Bytes Transferred: 7\n"), "{text}");
        assert!(text.ends_with("\nEnd\nfailure: a b\n"), "{text}");
    }
}
