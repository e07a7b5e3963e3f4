//! Push: `COPY` with a `Destination` on another server. An object's bytes are PUT there.

use super::super::digest::{self, Algorithm, Hashing, Values};
use super::super::gate;
use super::super::refusal::Refusal;
use super::super::session::Session;
use super::hosts::shown;
use super::pull::WANTED;
use super::remote::{Answer, Remote, Sent, nothing};
use super::{Terms, Transfers};
use crate::blocking;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use blockstore::object::{Object, ReadAt};
use blockstore::{Entry, Error, Store, Who};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes read at a time.
const STEP: u64 = 1 << 20;

impl Transfers {
    /// Answers `COPY` with a `Destination` elsewhere.
    pub(in super::super) async fn push(
        &self,
        session: Session,
        url: &str,
    ) -> Result<Response, Refusal> {
        let store = self.store.clone();
        let (session, object, body) = blocking::run(move || {
            Ok::<_, Error>(
                gate::admit_push(&store, &session).map(|(object, body)| (session, object, body)),
            )
        })
        .await??;
        let terms = self.terms(&session, url)?;
        let pushing = Pushing {
            store: self.store.clone(),
            remote: self.remote.clone(),
            who: session.who(),
            object,
            body,
            terms,
        };
        self.watched(move |moved| pushing.run(moved))
    }
}

struct Pushing {
    store: Store,
    remote: Remote,
    who: Who,
    object: Object,
    body: Arc<dyn ReadAt>,
    terms: Terms,
}

impl Pushing {
    async fn run(self, moved: Arc<AtomicU64>) -> Result<String, String> {
        if !self.terms.overwrite {
            let head = self.head(HeaderMap::new()).await?;
            if head.status.is_success() {
                return Err(format!(
                    "{} exists already and Overwrite is F",
                    shown(&head.url)
                ));
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_LENGTH,
            HeaderValue::from(self.object.length_bytes),
        );
        let kind = self.object.meta.headers.get("content-type");
        if let Some(kind) = kind.and_then(|kind| HeaderValue::from_str(kind).ok()) {
            headers.insert(header::CONTENT_TYPE, kind);
        }
        if !self.terms.overwrite {
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let hashing = Arc::new(Mutex::new(Hashing::new(false)));
        let sent = || self.sent(&hashing, &moved);
        let put = self.ask(&Method::PUT, headers, &sent);
        let answer = self.remote.moving(put, &moved, &self.terms.url).await?;
        if !matches!(answer.status.as_u16(), 200 | 201 | 204) {
            return Err(format!("{} answers {}", shown(&answer.url), answer.status));
        }
        let ours = {
            let mut hashing = hashing.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *hashing, Hashing::new(false))
                .finish()
                .0
        };
        let checked = self.verify(ours).await?;
        let told = format!(
            "Created {}, {} bytes, {checked}",
            shown(&answer.url),
            self.object.length_bytes
        );
        self.record(&told).await;
        Ok(told)
    }

    async fn ask(
        &self,
        method: &Method,
        own: HeaderMap,
        body: &super::remote::Source<'_>,
    ) -> Result<Answer, String> {
        let mut headers = self.terms.headers.clone();
        headers.extend(own);
        self.remote
            .ask(method, &self.terms.url, &headers, body)
            .await
    }

    async fn head(&self, headers: HeaderMap) -> Result<Answer, String> {
        let asked = self.ask(&Method::HEAD, headers, &nothing);
        let url = &self.terms.url;
        let silent = |seconds| format!("{} did not answer within {seconds} s", shown(url));
        self.remote.heard(asked, silent).await?
    }

    /// The bytes from their beginning; they are hashed and counted as they go.
    fn sent(&self, hashing: &Arc<Mutex<Hashing>>, moved: &Arc<AtomicU64>) -> Sent {
        let fresh = Hashing::new(false);
        *hashing.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        moved.store(0, Ordering::Relaxed);
        let (body, hashing, moved) = (
            Arc::clone(&self.body),
            Arc::clone(hashing),
            Arc::clone(moved),
        );
        let length = self.object.length_bytes;
        let pieces = futures::stream::unfold(0, move |at: u64| {
            let (body, hashing, moved) =
                (Arc::clone(&body), Arc::clone(&hashing), Arc::clone(&moved));
            async move {
                if at >= length {
                    return None;
                }
                let count = STEP.min(length - at);
                let read = blocking::run(move || {
                    let mut buffer = vec![0; usize::try_from(count).unwrap_or(0)];
                    body.read_at(at, &mut buffer)?;
                    let mut hashing = hashing.lock().unwrap_or_else(PoisonError::into_inner);
                    hashing.update(&buffer);
                    Ok::<_, Error>(Bytes::from(buffer))
                });
                let piece = read.await.map_err(std::io::Error::other);
                moved.fetch_add(count, Ordering::Relaxed);
                Some((piece, at + count))
            }
        });
        StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
    }

    /// Compares what arrived with what was sent, by the other server's word.
    async fn verify(&self, ours: Values) -> Result<String, String> {
        if self.terms.verify == Some(false) {
            return Ok("no checksum was compared".to_owned());
        }
        let mut headers = HeaderMap::new();
        headers.insert("want-digest", HeaderValue::from_static(WANTED));
        let theirs = match self.head(headers).await {
            Ok(head) if head.status.is_success() => {
                // What was not computed on the way cannot be compared.
                let mut theirs = digest::claimed(&head.headers)?;
                theirs.retain(|algorithm, _| ours.contains_key(algorithm));
                theirs
            }
            Ok(_) | Err(_) => Values::new(),
        };
        if theirs.is_empty() {
            return match self.terms.verify {
                Some(true) => Err(format!(
                    "{} tells no checksum and RequireChecksumVerification is true; what was sent \
                     there stays",
                    shown(&self.terms.url)
                )),
                _ => Ok("no checksum was compared".to_owned()),
            };
        }
        digest::verify(&theirs, &ours)?;
        let names: Vec<&str> = theirs.keys().map(|one: &Algorithm| one.name()).collect();
        Ok(format!("{} agrees", names.join(", ")))
    }

    async fn record(&self, told: &str) {
        let subject = format!("{}/{}", self.object.bucket, self.object.key);
        let entry = Entry::new("transfer.pushed", subject)
            .bytes("sent", self.object.length_bytes)
            .detail(told);
        let (store, who) = (self.store.clone(), self.who.clone());
        if let Err(error) = blocking::run(move || store.journal_append(&who, entry)).await {
            let error: Error = error;
            tracing::error!(
                "a third-party copy is not in the journal: {}",
                error.chain()
            );
        }
    }
}
