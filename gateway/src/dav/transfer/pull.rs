//! Pull: `COPY` with `Source`. The bytes of the other server become an object here.

use super::super::digest::{self, Algorithm, Values};
use super::super::gate;
use super::super::locks::Locks;
use super::super::receiving::{Purpose, Receiving};
use super::super::refusal::Refusal;
use super::super::session::Session;
use super::hosts::shown;
use super::remote::{Answer, Remote, nothing};
use super::{Terms, Transfers, announced};
use crate::blocking;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use blockstore::object::Precondition;
use blockstore::{Entry, Store, Who};
use http_body_util::BodyExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// What is asked of the other server: what it has, most likely first.
pub(super) const WANTED: &str = "adler32;q=1, md5;q=0.8, sha-256;q=0.5";

impl Transfers {
    /// Answers `COPY` with `Source`.
    pub(in super::super) async fn pull(
        &self,
        session: Session,
        locks: Locks,
        both: bool,
    ) -> Result<Response, Refusal> {
        if both {
            let words = "a copy has a Source or a Destination, not both";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, words));
        }
        let store = self.store.clone();
        let session = blocking::run(move || {
            Ok::<_, blockstore::Error>(gate::admit_pull(&store, &locks, &session).map(|()| session))
        })
        .await??;
        let source = session.headers.get("source");
        let source = source
            .and_then(|source| source.to_str().ok())
            .unwrap_or_default();
        let terms = self.terms(&session, source)?;
        let pulling = Pulling {
            store: self.store.clone(),
            remote: self.remote.clone(),
            incoming: Arc::clone(&self.incoming),
            who: session.who(),
            bucket: session.place.bucket,
            key: session.place.key,
            terms,
        };
        self.watched(move |moved| pulling.run(moved))
    }
}

struct Pulling {
    store: Store,
    remote: Remote,
    incoming: Arc<Semaphore>,
    who: Who,
    bucket: String,
    key: String,
    terms: Terms,
}

impl Pulling {
    async fn run(self, moved: Arc<AtomicU64>) -> Result<String, String> {
        let mut answer = self.ask(&Method::GET).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("{} answers {}", shown(&answer.url), answer.status));
        }
        let length = announced(&answer.headers)?;
        let claims = self.claims(&answer).await?;
        let mut headers = BTreeMap::new();
        if let Some(kind) = answer.headers.get("content-type")
            && let Ok(kind) = kind.to_str()
        {
            headers.insert("content-type".to_owned(), kind.to_owned());
        }
        let condition = Precondition {
            if_none_match: if self.terms.overwrite {
                Vec::new()
            } else {
                vec!["*".into()]
            },
            ..Precondition::default()
        };
        let purpose = Purpose {
            who: self.who.clone(),
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            headers,
            condition,
            claims: claims.clone(),
            announced: length,
        };
        let ours = |error: blockstore::Error| error.to_string();
        let mut receiving = Receiving::begin(self.store.clone(), &self.incoming, purpose)
            .await
            .map_err(ours)?;
        loop {
            let url = &answer.url;
            let silent = |seconds| {
                format!(
                    "{} sent nothing for {seconds} s; nothing was stored",
                    shown(url)
                )
            };
            let frame = self.remote.heard(answer.body.frame(), silent).await?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| {
                format!(
                    "{} broke off: {error}; nothing was stored",
                    shown(&answer.url)
                )
            })?;
            if let Ok(bytes) = frame.into_data() {
                let count = bytes.len() as u64;
                receiving.take_in(bytes).await.map_err(ours)?;
                moved.fetch_add(count, Ordering::Relaxed);
            }
        }
        let (object, _) = receiving.commit().await.map_err(ours)?;
        let told = self.told(&answer, object.length_bytes, &claims);
        self.record(&told, object.length_bytes).await;
        Ok(told)
    }

    async fn ask(&self, method: &Method) -> Result<Answer, String> {
        let mut headers: HeaderMap = self.terms.headers.clone();
        headers.insert("want-digest", HeaderValue::from_static(WANTED));
        let asked = self.remote.ask(method, &self.terms.url, &headers, &nothing);
        let url = &self.terms.url;
        let silent = |seconds| format!("{} did not answer within {seconds} s", shown(url));
        self.remote.heard(asked, silent).await?
    }

    /// What the bytes must hash to, as the other server tells it.
    async fn claims(&self, answer: &Answer) -> Result<Values, String> {
        if self.terms.verify == Some(false) {
            return Ok(Values::new());
        }
        let claims = digest::claimed(&answer.headers)?;
        if !claims.is_empty() {
            return Ok(claims);
        }
        // XRootD and dCache tell a digest to HEAD only.
        if let Ok(head) = self.ask(&Method::HEAD).await
            && head.status.is_success()
        {
            let claims = digest::claimed(&head.headers)?;
            if !claims.is_empty() {
                return Ok(claims);
            }
        }
        if self.terms.verify == Some(true) {
            return Err(format!(
                "{} tells no checksum and RequireChecksumVerification is true; nothing was stored",
                shown(&answer.url)
            ));
        }
        Ok(Values::new())
    }

    fn told(&self, answer: &Answer, bytes: u64, claims: &Values) -> String {
        let checked: Vec<&str> = claims.keys().map(|one: &Algorithm| one.name()).collect();
        let checked = if checked.is_empty() {
            "no checksum was compared".to_owned()
        } else {
            format!("{} agrees", checked.join(", "))
        };
        format!(
            "Created {}/{} from {}, {bytes} bytes, {checked}",
            self.bucket,
            self.key,
            shown(&answer.url)
        )
    }

    async fn record(&self, told: &str, bytes: u64) {
        let entry = Entry::new("transfer.pulled", format!("{}/{}", self.bucket, self.key))
            .bytes("received", bytes)
            .detail(told);
        let (store, who) = (self.store.clone(), self.who.clone());
        if let Err(error) = blocking::run(move || store.journal_append(&who, entry)).await {
            let error: blockstore::Error = error;
            tracing::error!(
                "a third-party copy is not in the journal: {}",
                error.chain()
            );
        }
    }
}
