//! A running pair of doors, and rows that ask them.

use access::{Access, Credentials};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use blockstore::{Options, Store};
use gateway::cdmi::Settings;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::runtime::Runtime;
use tower::ServiceExt;

pub(crate) const OBJECT: &str = "application/cdmi-object";
pub(crate) const CONTAINER: &str = "application/cdmi-container";
pub(crate) const CAPABILITY: &str = "application/cdmi-capability";
pub(crate) const VERSION: &str = "x-cdmi-specification-version";

/// Running doors.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) credentials: Credentials,
    pub(crate) store: Store,
    pub(crate) access: Access,
    client: Client<HttpConnector, Full<Bytes>>,
    // Ends the server's tasks before the store's directory goes.
    runtime: Runtime,
    _directory: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::of(Settings::default())
    }

    pub(crate) fn of(settings: Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Options::default()).unwrap();
        let credentials = Credentials::generate();
        let access = Access::open(store.clone(), credentials.clone()).unwrap();
        let runtime = Runtime::new().unwrap();
        let _guard = runtime.enter();
        let cdmi = gateway::cdmi::router(store.clone(), access.clone(), settings);
        let s3 = gateway::s3_service(
            store.clone(),
            access.clone(),
            "eu-central-1",
            gateway::Domains::default(),
        );
        let doors = Router::new().fallback_service(tower::service_fn(move |request: Request| {
            let path = request.uri().path();
            let door = if path == "/cdmi" || path.starts_with("/cdmi/") {
                cdmi.clone()
            } else {
                s3.clone()
            };
            async move { Ok::<_, Infallible>(door.oneshot(request).await.unwrap()) }
        }));
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, doors).await });
        drop(_guard);
        Self {
            address,
            credentials,
            store,
            access,
            client: Client::builder(TokioExecutor::new()).build_http(),
            runtime,
            _directory: directory,
        }
    }

    /// `Authorization: Bearer` of the operator.
    pub(crate) fn bearer(&self) -> String {
        format!(
            "Bearer {}:{}",
            self.credentials.access_key, self.credentials.secret_key
        )
    }

    /// Asks and hears the answer whole.
    pub(crate) fn ask(&self, row: &Row) -> Answer {
        let mut request = axum::http::Request::builder()
            .method(row.method.clone())
            .uri(format!("http://{}{}", self.address, row.path));
        for (name, value) in &row.headers {
            request = request.header(name.as_str(), value.as_str());
        }
        if row.authenticated {
            request = request.header(header::AUTHORIZATION, self.bearer());
        }
        let request = request
            .body(Full::new(Bytes::from(row.body.clone())))
            .unwrap();
        self.runtime.block_on(async {
            let response = self.client.request(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = Body::new(body).collect().await.unwrap().to_bytes();
            Answer {
                status: parts.status,
                headers: parts.headers,
                body: body.to_vec(),
            }
        })
    }

    /// Asks every row in its order and tells all that were answered otherwise.
    pub(crate) fn walk(&self, rows: Vec<Row>) {
        let count = rows.len();
        let mut wrong = Vec::new();
        for row in rows {
            match row.judge(&self.ask(&row)) {
                Ok(()) => println!("ok: {}", row.claim),
                Err(why) => wrong.push(format!(
                    "{} ({} {}): {why}",
                    row.claim, row.method, row.path
                )),
            }
        }
        assert!(
            wrong.is_empty(),
            "{} of {count} claims do not hold:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
    }

    /// Asks one row, which must be answered as it says.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "rows are written down where they are asked"
    )]
    pub(crate) fn expect(&self, row: Row) -> Answer {
        let answer = self.ask(&row);
        if let Err(why) = row.judge(&answer) {
            panic!("{} ({} {}): {why}", row.claim, row.method, row.path);
        }
        answer
    }

    /// The object id at a path.
    pub(crate) fn id(&self, path: &str) -> String {
        let media = if path.ends_with('/') {
            CONTAINER
        } else {
            OBJECT
        };
        let row = get("has an id", &format!("{path}?objectID")).accept(media);
        self.expect(row).json()["objectID"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|bad| {
            panic!("{bad}: {}", String::from_utf8_lossy(&self.body));
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// One claim: what is asked, and what must be answered.
#[derive(Clone)]
pub(crate) struct Row {
    claim: String,
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    authenticated: bool,
    status: u16,
    shown: Option<Value>,
    exactly: Option<Vec<u8>>,
    with: Vec<(String, String)>,
}

fn row(method: Method, claim: &str, path: &str) -> Row {
    Row {
        claim: claim.to_owned(),
        method,
        path: path.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        authenticated: true,
        status: 200,
        shown: None,
        exactly: None,
        with: Vec::new(),
    }
}

pub(crate) fn get(claim: &str, path: &str) -> Row {
    row(Method::GET, claim, path)
}

pub(crate) fn head(claim: &str, path: &str) -> Row {
    row(Method::HEAD, claim, path)
}

pub(crate) fn put(claim: &str, path: &str) -> Row {
    row(Method::PUT, claim, path)
}

pub(crate) fn patch(claim: &str, path: &str) -> Row {
    row(Method::PATCH, claim, path)
}

pub(crate) fn post(claim: &str, path: &str) -> Row {
    row(Method::POST, claim, path)
}

pub(crate) fn delete(claim: &str, path: &str) -> Row {
    row(Method::DELETE, claim, path)
}

pub(crate) fn other(method: &str, claim: &str, path: &str) -> Row {
    row(method.parse().unwrap(), claim, path)
}

impl Row {
    /// A header of the request.
    pub(crate) fn says(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn accept(self, media: &str) -> Self {
        self.says("accept", media)
    }

    /// A CDMI body of this media type.
    pub(crate) fn json(mut self, media: &str, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.says("content-type", media)
    }

    /// A body as it is.
    pub(crate) fn bytes(mut self, media: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.says("content-type", media)
    }

    /// Nobody says who asks.
    pub(crate) fn anonymous(mut self) -> Self {
        self.authenticated = false;
        self
    }

    pub(crate) fn is(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The answer's JSON holds this: null stands for "not there", "…" for any string.
    pub(crate) fn shows(mut self, shown: Value) -> Self {
        self.shown = Some(shown);
        self
    }

    /// The answer's body is this.
    pub(crate) fn holds(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.exactly = Some(bytes.into());
        self
    }

    /// The answer carries this header; "…" for any value, "" for "not there".
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.with.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn judge(&self, answer: &Answer) -> Result<(), String> {
        let told = || {
            let text = String::from_utf8_lossy(&answer.body);
            text.chars().take(300).collect::<String>()
        };
        if answer.status.as_u16() != self.status {
            return Err(format!(
                "{} instead of {}: {}",
                answer.status,
                self.status,
                told()
            ));
        }
        for (name, value) in &self.with {
            let found = answer.header(name);
            let fits = match (value.as_str(), found) {
                ("", found) => found.is_none(),
                ("…", found) => found.is_some(),
                (value, found) => found == Some(value),
            };
            if !fits {
                return Err(format!("{name}: {found:?} instead of {value:?}"));
            }
        }
        if let Some(exactly) = &self.exactly
            && *exactly != answer.body
        {
            return Err(format!("the body is {:?}", told()));
        }
        if let Some(shown) = &self.shown {
            let found: Value = serde_json::from_slice(&answer.body)
                .map_err(|bad| format!("{bad} in {}", told()))?;
            holds("", shown, &found)?;
        }
        Ok(())
    }
}

/// Whether `found` holds `shown`.
pub(crate) fn holds(at: &str, shown: &Value, found: &Value) -> Result<(), String> {
    match (shown, found) {
        (Value::Object(shown), Value::Object(found)) => {
            for (name, shown) in shown {
                let at = format!("{at}/{name}");
                match (shown, found.get(name)) {
                    (Value::Null, None) => {}
                    (shown, Some(found)) => holds(&at, shown, found)?,
                    (shown, None) => return Err(format!("{at} is missing, wanted {shown}")),
                }
            }
            Ok(())
        }
        (Value::Array(shown), Value::Array(found)) if shown.len() == found.len() => shown
            .iter()
            .zip(found)
            .enumerate()
            .try_for_each(|(number, (shown, found))| {
                holds(&format!("{at}/{number}"), shown, found)
            }),
        (Value::String(any), Value::String(_)) if any == "…" => Ok(()),
        (shown, found) if shown == found => Ok(()),
        (shown, found) => Err(format!("{at} is {found}, wanted {shown}")),
    }
}
