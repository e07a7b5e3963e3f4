//! The way to the server: JSON over HTTP/1.1, with the key in every request.

use crate::exit::{Exit, Failure, Outcome};
use access::Credentials;
use bytes::Bytes;
use gateway::api::{ErrorBody, ErrorReply, PREFIX};
use http_body_util::{BodyExt, Full, Limited};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, StatusCode, header};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An answer is a listing at most; more than this is not from an Infall server.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Sends short requests, over TLS or not.
pub(crate) type Http =
    hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// HTTP/1.1, with this trust where it is over TLS.
pub(crate) fn http(tls: rustls::ClientConfig) -> Http {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .build();
    hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector)
}

/// Speaks to one server with one key.
pub(crate) struct Client {
    http: Http,
    server: String,
    authorization: String,
}

impl Client {
    /// `server` is `http://host:port` or `https://host:port`; `ca` holds the only certificates that
    /// are trusted, PEM. Without it, those that the system trusts are.
    pub(crate) fn new(
        server: &str,
        credentials: &Credentials,
        ca: Option<&std::path::Path>,
    ) -> Outcome<Self> {
        let tls = match server.split_once("://") {
            Some(("http", _)) => trust(None, false)?,
            Some(("https", _)) => trust(ca, true)?,
            _ => {
                let message =
                    format!("endpoint {server:?} is not http://host:port or https://host:port");
                return Err(Failure::new(Exit::Usage, "endpoint", message));
            }
        };
        Ok(Self {
            http: http(tls),
            server: server.trim_end_matches('/').to_owned(),
            authorization: format!("Bearer {}", credentials.bearer()),
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

    /// Makes it so.
    pub(crate) async fn put(&self, path: &Path, ask: &impl Serialize) -> Outcome {
        let body = serde_json::to_vec(ask).map_err(|error| {
            Failure::new(Exit::Internal, "request", "the request is no JSON").because(error)
        })?;
        self.send(Method::PUT, path, Some(body)).await.map(drop)
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

    /// Changes a connection over to bytes both ways (RFC 9110, 7.8), once the server has agreed.
    pub(crate) async fn tunnel(&self, path: &Path) -> Outcome<TokioIo<Upgraded>> {
        let request = Request::get(format!("{}{PREFIX}{}", self.server, path.0))
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, vmctl::TUNNEL_PROTOCOL)
            .body(Full::default())
            .map_err(|error| {
                let message = format!("{}{}{} makes no request", self.server, PREFIX, path.0);
                Failure::new(Exit::Usage, "endpoint", message).because(error)
            })?;
        let response = self.http.request(request).await;
        let response = response.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = hyper::upgrade::on(response).await;
            return upgraded
                .map(TokioIo::new)
                .map_err(|error| self.unreachable(&error));
        }
        let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| self.unreachable(error.as_ref()))?;
        Err(Failure::from(self.refusal(status, &answer.to_bytes())))
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
        if is_of_tls(cause) {
            let message = format!("the certificate of {} is not trusted", self.server);
            return Failure::new(Exit::Denied, "server", message)
                .because(cause)
                .hint("Name the CA that signed it: --ca FILE, or INFALL_CA");
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

/// What a server's certificate is held against. Nothing is read where no certificate will be shown.
pub(crate) fn trust(ca: Option<&std::path::Path>, wanted: bool) -> Outcome<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    match ca {
        Some(file) => {
            let unfit = |error: &dyn std::fmt::Display| {
                let message = format!("{} holds no certificate to trust", file.display());
                Failure::new(Exit::Usage, "tls", message)
                    .because(error)
                    .hint("Name a PEM file: --ca FILE, or INFALL_CA")
            };
            let found = CertificateDer::pem_file_iter(file).map_err(|error| unfit(&error))?;
            for certificate in found {
                let certificate = certificate.map_err(|error| unfit(&error))?;
                roots.add(certificate).map_err(|error| unfit(&error))?;
            }
            if roots.is_empty() {
                return Err(unfit(&"there is none in it"));
            }
        }
        None if wanted => {
            // What cannot be read is missed when a certificate is not trusted; that says enough.
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
        None => {}
    }
    trusting(roots)
}

/// The same for certificates at hand, PEM.
pub(crate) fn trust_pem(pem: &str) -> Outcome<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let unfit = |error: &dyn std::fmt::Display| {
            Failure::new(Exit::Usage, "tls", "a certificate cannot be read").because(error)
        };
        let certificate = certificate.map_err(|error| unfit(&error))?;
        roots.add(certificate).map_err(|error| unfit(&error))?;
    }
    trusting(roots)
}

fn trusting(roots: rustls::RootCertStore) -> Outcome<rustls::ClientConfig> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            Failure::new(Exit::Internal, "tls", "no TLS version is left").because(error)
        })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Whether TLS is what went wrong. An I/O error does not count what it carries among its sources.
fn is_of_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let carried = error.downcast_ref::<std::io::Error>();
    match carried.and_then(std::io::Error::get_ref) {
        Some(carried) => is_of_tls(carried),
        None => error.is::<rustls::Error>(),
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
            session_token: None,
        };
        for server in ["127.0.0.1:9000", "ftp://x", ""] {
            let failure = Client::new(server, &pair, None).err().unwrap();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.to_string().contains(&format!("{server:?}")));
        }
    }
}
