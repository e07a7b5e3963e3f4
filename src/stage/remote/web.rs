//! The HTTP client of all protocols but S3: hyper over rustls, one per side.
//!
//! 1. Credentials go to the server that was named and to no other, redirects included.
//! 2. A redirect never leads from https to http, and at most five follow each other.
//! 3. A server that says nothing for a minute is given up; what it says before a body is bounded
//!    by hyper, and every document read here by its caller.

use super::Chunks;
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::location::{self, Place};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a server may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 5;

/// A body on its way.
type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A client for one server.
pub(crate) struct Web {
    http: Client<HttpsConnector<HttpConnector>, Body>,
    /// `https://host:port`.
    server: String,
    /// On the wire, ends in `/`.
    base: String,
    authorization: Option<HeaderValue>,
    /// The one file that was named, and how, query included.
    exact: Option<(String, String)>,
}

/// What an `Authorization` header is made of.
#[derive(Clone)]
pub(crate) enum Login {
    /// None.
    Nobody,
    /// `Bearer`.
    Bearer(String),
    /// `Basic`.
    Basic(String, String),
}

impl Web {
    /// For the tree `place`, and the one file in it that was named, if one was.
    pub(crate) fn new(
        place: &Place,
        one: Option<&Place>,
        login: &Login,
        tls: rustls::ClientConfig,
    ) -> Outcome<Self> {
        let Place::Web { server, path, .. } = place else {
            return Err(Failure::new(
                Exit::Internal,
                "stage",
                format!("{place} is not on the web"),
            ));
        };
        let authorization = match login {
            Login::Nobody => None,
            Login::Bearer(token) => Some(format!("Bearer {token}")),
            Login::Basic(user, password) => {
                let pair = super::super::checksum::encode(format!("{user}:{password}").as_bytes());
                Some(format!("Basic {pair}"))
            }
        };
        let authorization = match authorization.map(HeaderValue::try_from) {
            Some(Ok(mut value)) => {
                value.set_sensitive(true);
                Some(value)
            }
            Some(Err(_)) => {
                let message =
                    format!("the credentials for {server} hold characters that no header carries");
                return Err(Failure::new(Exit::Usage, "credentials", message));
            }
            None => None,
        };
        let exact = match one {
            Some(Place::Web { path, query, .. }) => {
                let name = path.rsplit('/').next().and_then(location::decode);
                name.map(|name| (name, format!("{path}{query}")))
            }
            _ => None,
        };
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(Duration::from_secs(20)));
        connector.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Ok(Self {
            http: Client::builder(TokioExecutor::new()).build(connector),
            server: server.clone(),
            base: path.clone(),
            authorization,
            exact,
        })
    }

    /// The root's path on the wire, ends in `/`.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// `https://host:port`.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Where a path is on the wire.
    pub(crate) fn at(&self, path: &str) -> String {
        match &self.exact {
            Some((name, exact)) if name == path => exact.clone(),
            _ => format!("{}{}", self.base, location::encode(path)),
        }
    }

    /// Sends without a body.
    pub(crate) async fn ask(
        &self,
        method: &Method,
        at: &str,
        headers: &HeaderMap,
    ) -> Outcome<Response<Incoming>> {
        self.send(method, at, headers, Bytes::new()).await
    }

    /// Sends with a short body, follows redirects.
    pub(crate) async fn send(
        &self,
        method: &Method,
        at: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Outcome<Response<Incoming>> {
        let mut url = format!("{}{at}", self.server);
        for _ in 0..=REDIRECTS_MAX {
            let full: Body = if body.is_empty() {
                Empty::new().map_err(|never| match never {}).boxed_unsync()
            } else {
                Full::new(body.clone())
                    .map_err(|never| match never {})
                    .boxed_unsync()
            };
            let answer = self.once(method, &url, headers, full).await?;
            let redirects = matches!(answer.status().as_u16(), 301 | 302 | 307 | 308);
            let leads = answer
                .headers()
                .get(header::LOCATION)
                .and_then(|to| to.to_str().ok());
            match (redirects, leads) {
                (true, Some(to)) => url = self.redirected(&url, to)?,
                _ => return Ok(answer),
            }
        }
        let message = format!("{}{} leads round in circles", self.server, bare(at));
        Err(Failure::new(Exit::Invalid, "server", message))
    }

    /// Sends a body once; a body that streams cannot be sent again after a redirect.
    pub(crate) async fn upload(
        &self,
        at: &str,
        headers: &HeaderMap,
        body: Chunks,
    ) -> Outcome<Response<Incoming>> {
        // Why a source broke off must not be lost behind what hyper says about it.
        let broke: Arc<std::sync::Mutex<Option<Failure>>> = Arc::default();
        let keep = Arc::clone(&broke);
        let frames = body.map(move |chunk| match chunk {
            Ok(bytes) => Ok(Frame::data(bytes)),
            Err(failure) => {
                let text = failure.to_string();
                *keep
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(failure);
                Err(text.into())
            }
        });
        let body = StreamBody::new(frames).boxed_unsync();
        let answer = self
            .once(&Method::PUT, &format!("{}{at}", self.server), headers, body)
            .await;
        let broke = broke
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        match broke {
            Some(failure) => Err(failure),
            None => answer,
        }
    }

    async fn once(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Outcome<Response<Incoming>> {
        let upload = *method == Method::PUT;
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::new(
                Exit::Usage,
                "url",
                format!("{} makes no request", bare(url)),
            )
            .because(error)
        };
        let uri: Uri = url.parse().map_err(|error| wrong(&error))?;
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("infall/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(value) = self.authorization.as_ref().filter(|_| self.is_ours(url)) {
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, value.clone());
        }
        let sent = self.http.request(request);
        // While a body goes up the server has nothing to say.
        let answer = if upload {
            Ok(sent.await)
        } else {
            timeout(SILENCE_MAX, sent).await
        };
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.unreachable(&super::sdk::deepest(&error))),
            Err(_) => Err(self.unreachable(&"it says nothing")),
        }
    }

    /// Whether a URL is of the server that was named.
    fn is_ours(&self, url: &str) -> bool {
        let rest = url.strip_prefix(&self.server);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    }

    fn redirected(&self, from: &str, to: &str) -> Outcome<String> {
        let server = |url: &str| {
            let behind = url.find("://").map_or(0, |at| at + 3);
            let end = url[behind..]
                .find(['/', '?', '#'])
                .map_or(url.len(), |at| behind + at);
            url[..end].to_owned()
        };
        let next = if to.starts_with("http://") || to.starts_with("https://") {
            to.to_owned()
        } else if to.starts_with("//") {
            format!("{}:{to}", from.split(':').next().unwrap_or("https"))
        } else if to.starts_with('/') {
            format!("{}{to}", server(from))
        } else {
            let bare = bare(from);
            let directory = bare.rfind('/').map_or(bare, |at| &bare[..=at]);
            format!("{directory}{to}")
        };
        if from.starts_with("https://") && !next.starts_with("https://") {
            let message = format!("{} leads from https to {}", bare(from), server(&next));
            return Err(Failure::new(Exit::Denied, "server", message));
        }
        Ok(next)
    }

    fn unreachable(&self, why: &dyn std::fmt::Display) -> Failure {
        let why = why.to_string();
        super::sdk::untrusted(&self.server, &why).unwrap_or_else(|| {
            let message = format!("{} does not answer", self.server);
            Failure::new(Exit::Unavailable, "server", message).because(why)
        })
    }

    /// The answer, or nothing where there is none; every other status that is no success fails.
    pub(crate) fn found(
        &self,
        what: &str,
        answer: Response<Incoming>,
    ) -> Outcome<Option<Response<Incoming>>> {
        match answer.status() {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            status if status.is_success() => Ok(Some(answer)),
            status => Err(self.refused(what, status)),
        }
    }

    /// What a status that is no success means.
    pub(crate) fn refused(&self, what: &str, status: StatusCode) -> Failure {
        let exit = match status.as_u16() {
            401 | 403 | 407 => Exit::Denied,
            404 | 410 => Exit::NotFound,
            409 | 412 | 423 => Exit::Conflict,
            507 | 413 => Exit::NoSpace,
            408 | 425 | 429 => Exit::Unavailable,
            501 | 505 => Exit::Invalid,
            500.. => Exit::Unavailable,
            _ => Exit::Invalid,
        };
        let failure = Failure::new(exit, "server", format!("cannot {what}"))
            .because(format_args!("HTTP status {status}"));
        if exit == Exit::Denied {
            return failure.hint("The key comes from the environment: see infall stage put --help");
        }
        failure
    }

    /// A document, at most so long.
    pub(crate) async fn document(
        &self,
        what: &str,
        answer: Response<Incoming>,
        bytes_max: usize,
    ) -> Outcome<Bytes> {
        let mut chunks = chunks(what.to_owned(), answer.into_body());
        let mut whole = Vec::new();
        while let Some(chunk) = chunks.next().await {
            whole.extend_from_slice(&chunk?);
            if whole.len() > bytes_max {
                let message = format!("cannot {what}: the answer has more than {bytes_max} bytes");
                return Err(Failure::new(Exit::Invalid, "server", message));
            }
        }
        Ok(whole.into())
    }
}

/// A body as it comes; one that pauses for too long has broken off.
pub(crate) fn chunks(what: String, body: Incoming) -> Chunks {
    let broke = move |why: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Unavailable,
            "server",
            format!("cannot {what}: it broke off"),
        )
        .because(why)
    };
    stream::unfold(Some((body, broke)), |state| async {
        let (mut body, broke) = state?;
        loop {
            return match timeout(SILENCE_MAX, body.frame()).await {
                Err(_) => Some((Err(broke(&"it says nothing")), None)),
                Ok(None) => None,
                Ok(Some(Err(error))) => Some((Err(broke(&super::sdk::deepest(&error))), None)),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => Some((Ok(bytes), Some((body, broke)))),
                    Err(_) => continue,
                },
            };
        }
    })
    .boxed()
}

/// A URL without what may be a secret.
fn bare(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// One header of an answer, as text.
pub(crate) fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Headers of a request.
pub(crate) fn headers<const N: usize>(pairs: [(HeaderName, &str); N]) -> HeaderMap {
    let pair = |(name, value): (HeaderName, &str)| {
        HeaderValue::from_str(value).ok().map(|value| (name, value))
    };
    pairs.into_iter().filter_map(pair).collect()
}

/// Milliseconds of an HTTP date (RFC 9110, 5.6.7).
pub(crate) fn http_date(text: &str) -> Option<i64> {
    let parsed = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(parsed.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web(place: &str) -> Web {
        let place: Place = place.parse().unwrap();
        Web::new(
            &place,
            None,
            &Login::Bearer("t".into()),
            crate::client::trust(None, false).unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn credentials_stay_with_the_server_that_was_named() {
        let web = web("https://h:1/x/");
        assert!(web.is_ours("https://h:1/y") && web.is_ours("https://h:1?y"));
        for other in [
            "https://h:11/y",
            "http://h:1/y",
            "https://h/y",
            "https://h:1.evil/y",
        ] {
            assert!(!web.is_ours(other), "{other}");
        }
    }

    #[test]
    fn a_redirect_never_gives_up_tls() {
        let web = web("https://h/");
        assert_eq!(
            web.redirected("https://h/a/b?q", "c").unwrap(),
            "https://h/a/c"
        );
        assert_eq!(
            web.redirected("https://h/a/b", "/c").unwrap(),
            "https://h/c"
        );
        assert_eq!(
            web.redirected("https://h/a", "//g/c").unwrap(),
            "https://g/c"
        );
        assert_eq!(
            web.redirected("https://h/a", "https://g/c").unwrap(),
            "https://g/c"
        );
        assert_eq!(
            web.redirected("https://h/a", "http://g/c")
                .unwrap_err()
                .exit(),
            Exit::Denied
        );
    }

    #[test]
    fn dates_of_http_are_read() {
        assert_eq!(
            http_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777_000)
        );
        assert_eq!(http_date("yesterday"), None);
    }
}
