//! Requests as anybody could send them: with a key in the clear, signed, presigned, or with none.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use md5::Md5;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::time::Duration;

const REGION: &str = "infall";
/// An answer takes longer only if something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody's key.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) secret: String,
}

/// How a request shows whose it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `Authorization: Bearer KEY:SECRET`.
    Bearer,
    /// Signature Version 4 in a header, for a service.
    Signed(&'static str),
    /// The same in the query, for S3.
    Presigned,
    /// A form whose policy is signed: S3's POST of a browser.
    Form,
    /// Not at all.
    Open,
}

/// A request.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) way: Way,
}

impl Ask {
    pub(crate) fn new(way: Way, method: &str, path: &str) -> Self {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let query = query.split('&').filter(|pair| !pair.is_empty());
        Self {
            method: method.to_ascii_uppercase(),
            path: path.to_owned(),
            query: query
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            headers: Vec::new(),
            body: Vec::new(),
            way,
        }
    }

    pub(crate) fn api(method: &str, path: &str) -> Self {
        Self::new(Way::Bearer, method, &format!("/api/v1{path}"))
    }

    pub(crate) fn s3(method: &str, path: &str) -> Self {
        Self::new(Way::Signed("s3"), method, path)
    }

    /// A call of IAM or STS.
    pub(crate) fn call(service: &'static str, action: &str, fields: &[(&str, &str)]) -> Self {
        let version = match service {
            "sts" => "2011-06-15",
            _ => "2010-05-08",
        };
        let mut form = format!("Action={action}&Version={version}");
        for (name, value) in fields {
            let _ = write!(form, "&{name}={}", encoded(value));
        }
        Self::new(Way::Signed(service), "POST", "/")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
    }

    pub(crate) fn way(mut self, way: Way) -> Self {
        self.way = way;
        self
    }

    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// A body with its MD5, as S3 wants it of some.
    pub(crate) fn digested(self, body: &str) -> Self {
        let digest = BASE64.encode(Md5::digest(body));
        self.header("content-md5", &digest).body(body)
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json")
            .body(body.to_string())
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// What stands between a tag and its end.
    pub(crate) fn tag(&self, name: &str) -> String {
        let (_, rest) = self.body.split_once(&format!("<{name}>")).unwrap();
        rest.split_once('<').unwrap().0.to_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Sends requests, one after another.
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    pool: Pool<HttpConnector, Full<Bytes>>,
    host: String,
}

impl Client {
    pub(crate) fn new(host: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            runtime,
            pool: Pool::builder(TokioExecutor::new()).build_http(),
            host: host.to_owned(),
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn send(&self, key: &Key, ask: &Ask, agent: &str) -> Answer {
        let mut ask = ask.clone();
        match ask.way {
            Way::Open => {}
            Way::Bearer => {
                let shown = format!("Bearer {}:{}", key.id, key.secret);
                ask = ask.header("authorization", &shown);
            }
            Way::Signed(service) => ask = self.signed(key, ask, service),
            Way::Presigned => ask = self.presigned(key, ask),
            Way::Form => ask = form(key, &ask),
        }
        let uri = match ask.query.is_empty() {
            true => format!("http://{}{}", self.host, ask.path),
            false => format!(
                "http://{}{}?{}",
                self.host,
                ask.path,
                shown_query(&ask.query)
            ),
        };
        let mut request = hyper::Request::builder()
            .method(ask.method.as_str())
            .uri(uri)
            .header("user-agent", agent);
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(ask.body.into())).unwrap();
        let shown = format!("{} {}", ask.method, ask.path);
        self.runtime.block_on(async {
            let answered = tokio::time::timeout(PATIENCE, self.pool.request(request));
            let response = answered
                .await
                .unwrap_or_else(|_| panic!("{shown} took too long"));
            let response = response.unwrap_or_else(|error| panic!("{shown}: {error}"));
            let (head, body) = response.into_parts();
            // What changed over has no body that ends.
            let body = match head.status.as_u16() {
                101 => Bytes::new(),
                _ => body.collect().await.unwrap().to_bytes(),
            };
            let headers = head.headers.iter();
            Answer {
                status: head.status.as_u16(),
                headers: headers
                    .map(|(name, value)| {
                        (
                            name.to_string(),
                            value.to_str().unwrap_or_default().to_owned(),
                        )
                    })
                    .collect(),
                body: String::from_utf8_lossy(&body).into_owned(),
            }
        })
    }

    fn signed(&self, key: &Key, ask: Ask, service: &str) -> Ask {
        let stamp = stamp();
        let digest = hex(&Sha256::digest(&ask.body));
        let ask = ask
            .header("x-amz-date", &stamp)
            .header("x-amz-content-sha256", &digest);
        let (names, canonical) = self.canonical(&ask, &digest);
        let (scope, signature) = sign(key, &stamp, service, &canonical);
        let shown = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            key.id
        );
        ask.header("authorization", &shown)
    }

    fn presigned(&self, key: &Key, ask: Ask) -> Ask {
        let stamp = stamp();
        let credential = format!("{}/{}/{REGION}/s3/aws4_request", key.id, &stamp[..8]);
        let ask = ask
            .query("X-Amz-Algorithm", "AWS4-HMAC-SHA256")
            .query("X-Amz-Credential", &credential)
            .query("X-Amz-Date", &stamp)
            .query("X-Amz-Expires", "60")
            .query("X-Amz-SignedHeaders", "host");
        let (_, canonical) = self.canonical(&ask, "UNSIGNED-PAYLOAD");
        let (_, signature) = sign(key, &stamp, "s3", &canonical);
        ask.query("X-Amz-Signature", &signature)
    }

    /// "Create a canonical request", IAM user guide: the names of the signed headers, and the text.
    fn canonical(&self, ask: &Ask, digest: &str) -> (String, String) {
        let mut headers = vec![("host".to_owned(), self.host.clone())];
        headers.extend(ask.headers.iter().cloned());
        headers.sort();
        let mut names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        names.dedup();
        let names = names.join(";");
        let mut query = ask.query.clone();
        query.sort();
        let mut text = format!("{}\n{}\n{}\n", ask.method, ask.path, joined(&query));
        for (name, value) in &headers {
            let _ = writeln!(text, "{name}:{value}");
        }
        let _ = write!(text, "\n{names}\n{digest}");
        (names, text)
    }
}

/// The scope and the signature.
fn sign(key: &Key, stamp: &str, service: &str, canonical: &str) -> (String, String) {
    let scope = format!("{}/{REGION}/{service}/aws4_request", &stamp[..8]);
    let digest = hex(&Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}");
    (scope.clone(), hex(&mac(&derived(key, &scope), &text)))
}

fn derived(key: &Key, scope: &str) -> Vec<u8> {
    let secret = format!("AWS4{}", key.secret).into_bytes();
    scope.split('/').fold(secret, |key, word| mac(&key, word))
}

/// "Browser-based uploads using POST": the fields before the file, with a policy that allows them. The
/// key is the path's; the headers become fields.
fn form(key: &Key, ask: &Ask) -> Ask {
    let (bucket, name) = ask.path[1..].split_once('/').unwrap();
    let stamp = stamp();
    let scope = format!("{}/{REGION}/s3/aws4_request", &stamp[..8]);
    let mut fields = vec![
        ("key".to_owned(), name.to_owned()),
        ("x-amz-algorithm".to_owned(), "AWS4-HMAC-SHA256".to_owned()),
        ("x-amz-credential".to_owned(), format!("{}/{scope}", key.id)),
        ("x-amz-date".to_owned(), stamp),
    ];
    fields.extend(ask.headers.iter().cloned());
    let mut conditions = vec![serde_json::json!({"bucket": bucket})];
    conditions.extend(
        fields
            .iter()
            .map(|(name, value)| serde_json::json!({name.as_str(): value})),
    );
    let policy =
        serde_json::json!({"expiration": "2099-01-01T00:00:00.000Z", "conditions": conditions});
    let policy = BASE64.encode(policy.to_string());
    let signature = hex(&mac(&derived(key, &scope), &policy));
    fields.push(("policy".to_owned(), policy));
    fields.push(("x-amz-signature".to_owned(), signature));
    fields.push((
        "file".to_owned(),
        String::from_utf8_lossy(&ask.body).into_owned(),
    ));
    let mut body = String::new();
    for (name, value) in fields {
        let _ = write!(
            body,
            "--edge\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
    }
    body.push_str("--edge--\r\n");
    Ask::new(Way::Open, "POST", &format!("/{bucket}"))
        .header("content-type", "multipart/form-data; boundary=edge")
        .body(body)
}

fn stamp() -> String {
    jiff::Timestamp::now()
        .strftime("%Y%m%dT%H%M%SZ")
        .to_string()
}

/// As it is sent: a name without a value stands alone, and CDMI's colons stay.
fn shown_query(query: &[(String, String)]) -> String {
    let pairs = query.iter().map(|(name, value)| match value.as_str() {
        "" => name.clone(),
        value => format!("{}={}", encoded(name), encoded(value)),
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// As it is signed.
fn joined(query: &[(String, String)]) -> String {
    let pairs = query
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// RFC 3986, 2.3: all but the unreserved.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
