//! The way to the server: JSON over HTTP/1.1, with the key in every request.

use crate::exit::{Exit, Failure, Outcome};
use access::Credentials;
use bytes::Bytes;
use gateway::api::{ErrorBody, ErrorReply, PREFIX};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An answer is a listing at most; more than this is not from an Infall server.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Speaks to one server with one key.
pub(crate) struct Client {
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
    server: String,
    authorization: String,
}

impl Client {
    /// `server` is `http://host:port`.
    pub(crate) fn new(server: &str, credentials: &Credentials) -> Outcome<Self> {
        if !server.starts_with("http://") {
            let message = format!("endpoint {server:?} is not http://host:port");
            return Err(Failure::new(Exit::Usage, "endpoint", message));
        }
        Ok(Self {
            http: hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http(),
            server: server.trim_end_matches('/').to_owned(),
            authorization: format!(
                "Bearer {}:{}",
                credentials.access_key, credentials.secret_key
            ),
        })
    }

    /// Reads.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &Path) -> Outcome<T> {
        self.json(Method::GET, path, None).await
    }

    /// Makes or does.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &Path,
        ask: &impl Serialize,
    ) -> Outcome<T> {
        let body = serde_json::to_vec(ask).map_err(|error| {
            Failure::new(Exit::Internal, "request", "the request is no JSON").because(error)
        })?;
        self.json(Method::POST, path, Some(body)).await
    }

    /// Removes.
    pub(crate) async fn delete(&self, path: &Path) -> Outcome {
        self.send(Method::DELETE, path, None).await.map(drop)
    }

    /// Removes, and reads what went.
    pub(crate) async fn delete_for<T: DeserializeOwned>(&self, path: &Path) -> Outcome<T> {
        self.json(Method::DELETE, path, None).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &Path,
        body: Option<Vec<u8>>,
    ) -> Outcome<T> {
        let answer = self.send(method, path, body).await?;
        serde_json::from_slice(&answer).map_err(|error| {
            let message = format!(
                "{} answered something else than this infall expects",
                self.server
            );
            Failure::new(Exit::Internal, "server", message)
                .because(error)
                .hint("Compare: infall --version on both sides")
        })
    }

    async fn send(&self, method: Method, path: &Path, body: Option<Vec<u8>>) -> Outcome<Bytes> {
        let wrong = |error: &dyn std::fmt::Display| {
            let message = format!("{}{}{} makes no request", self.server, PREFIX, path.0);
            Failure::new(Exit::Usage, "endpoint", message).because(error)
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{PREFIX}{}", self.server, path.0))
            .header(header::AUTHORIZATION, &self.authorization);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(body.unwrap_or_default().into()))
            .map_err(|error| wrong(&error))?;
        let response = self
            .http
            .request(request)
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| self.unreachable(error.as_ref()))?
            .to_bytes();
        if status.is_success() {
            return Ok(answer);
        }
        Err(Failure::from(self.refusal(status, &answer)))
    }

    fn refusal(&self, status: StatusCode, answer: &[u8]) -> ErrorBody {
        let body = serde_json::from_slice(answer).map(|reply: ErrorReply| reply.error);
        let mut body = body.unwrap_or_else(|_| ErrorBody {
            kind: "internal".into(),
            subject: "server".into(),
            message: format!(
                "{} answered {status}, but not as an Infall server does",
                self.server
            ),
            ..ErrorBody::default()
        });
        if status == StatusCode::UNAUTHORIZED {
            body.message = format!("{} does not know this key", self.server);
        }
        body
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let mut cause = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Failure::new(
            Exit::Unavailable,
            "server",
            format!("no server answers at {}", self.server),
        )
        .because(cause)
        .hint("Start it: infall serve")
    }
}

/// A path below the API's prefix, with names made safe for a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path(String);

impl Path {
    /// Segments, each any text.
    pub(crate) fn new<'a>(segments: impl IntoIterator<Item = &'a str>) -> Self {
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            encode(segment, &mut path);
        }
        Self(path)
    }

    /// The same with a query; absent values are left out.
    #[must_use]
    pub(crate) fn query<'a>(
        mut self,
        pairs: impl IntoIterator<Item = (&'a str, Option<String>)>,
    ) -> Self {
        let mut mark = '?';
        for (name, value) in pairs {
            let Some(value) = value else { continue };
            self.0.push(mark);
            encode(name, &mut self.0);
            self.0.push('=');
            encode(&value, &mut self.0);
            mark = '&';
        }
        self
    }
}

/// Percent-encodes all but the unreserved characters (RFC 3986, 2.3).
pub(crate) fn encode(text: &str, out: &mut String) {
    // A segment of dots alone would be resolved away (RFC 3986, 5.2.4).
    let dots = text == "." || text == "..";
    for byte in text.bytes() {
        let plain =
            byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && !dots);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_makes_one_segment_of_a_url() {
        assert_eq!(
            Path::new(["volumes", "a/b c?d#e"]).0,
            "/volumes/a%2Fb%20c%3Fd%23e"
        );
        assert_eq!(Path::new(["volumes", ".."]).0, "/volumes/%2E%2E");
        assert_eq!(
            Path::new(["images", "debian-12.raw"]).0,
            "/images/debian-12.raw"
        );
        let path = Path::new(["events"]).query([
            ("after", Some("7".into())),
            ("max", None),
            ("x", Some("&".into())),
        ]);
        assert_eq!(path.0, "/events?after=7&x=%26");
    }

    #[test]
    fn an_endpoint_that_is_no_http_url_is_a_usage_error() {
        let pair = Credentials {
            access_key: "a".into(),
            secret_key: "b".into(),
        };
        for server in ["127.0.0.1:9000", "https://x", ""] {
            let failure = Client::new(server, &pair).err().unwrap();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.to_string().contains(&format!("{server:?}")));
        }
    }
}
