//! The file system that the protocol layer works on: buckets as its first level, key prefixes below.
//!
//! The door has authorised what the request names; here the members of collections are, one by one.
//!
//! The protocol layer removes what is in the way before it copies or moves. A move must be one
//! transaction, so during MOVE nothing is removed here before [`shelf::rename`] replaces it, and
//! during COPY an object over an object is replaced by the copy's own commit.

use super::place::Place;
use super::properties;
use super::receiving::{Purpose, Receiving};
use super::session::{Session, Shared};
use super::shelf::{self, Found};
use super::{condition, digest};
use crate::blocking;
use axum::http::{Method, StatusCode};
use blockstore::object::{Object, ReadAt};
use blockstore::{Error, Kind, Store, Subject};
use bytes::{Buf, Bytes};
use dav_server::davpath::DavPath;
use dav_server::fs::{
    DavDirEntry, DavFile, DavMetaData, DavProp, FsError, FsFuture, FsResult, FsStream,
    GuardedFileSystem, OpenOptions, ReadDirMeta,
};
use futures::StreamExt;
use std::fmt;
use std::io::SeekFrom;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes read at a time.
pub(super) const READ_BYTES: usize = 256 << 10;

/// The store as a file system.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) store: Store,
}

impl Files {
    /// A store call on a thread that may block; what goes wrong is kept for the door.
    async fn ask<T: Send + 'static>(
        &self,
        session: &Shared,
        work: impl FnOnce(&Store, &Session) -> blockstore::Result<T> + Send + 'static,
    ) -> FsResult<T> {
        let (store, shared) = (self.store.clone(), Arc::clone(session));
        blocking::run(move || work(&store, &shared))
            .await
            .map_err(|error| session.failed(error))
    }

    async fn receive(
        &self,
        session: &Shared,
        place: Place,
        length: Option<u64>,
    ) -> FsResult<Box<dyn DavFile>> {
        let parent = place.clone();
        self.ask(session, move |store, _| {
            shelf::expect_parent(store, &parent)
        })
        .await?;
        let claims = digest::claimed(&session.headers)
            .map_err(|words| session.failed(Error::new(Kind::Invalid, Subject::Object, words)))?;
        let purpose = Purpose {
            who: session.who(),
            bucket: place.bucket,
            key: place.key,
            headers: condition::kept_headers(&session.headers),
            condition: condition::of(&session.headers),
            claims,
            announced: length,
        };
        let receiving = Receiving::begin(self.store.clone(), &session.incoming, purpose)
            .await
            .map_err(|error| session.failed(error))?;
        Ok(Box::new(Incoming {
            session: Arc::clone(session),
            receiving: Some(receiving),
            object: None,
        }))
    }
}

impl GuardedFileSystem<Shared> for Files {
    fn open<'a>(
        &'a self,
        path: &'a DavPath,
        options: OpenOptions,
        session: &'a Shared,
    ) -> FsFuture<'a, Box<dyn DavFile>> {
        Box::pin(async move {
            let place = placed(path)?;
            if place.is_root() || place.is_bucket() || place.collection {
                return Err(FsError::Forbidden);
            }
            if options.write && options.truncate {
                return self.receive(session, place, options.size).await;
            }
            if options.write {
                // LOCK of what is not there makes an empty resource (RFC 4918, 7.3).
                let object = self
                    .ask(session, move |store, session| {
                        shelf::expect_parent(store, &place)?;
                        let kind = "application/octet-stream";
                        shelf::put_empty(store, session, &place.bucket, &place.key, kind)
                    })
                    .await?;
                return Ok(Box::new(Incoming {
                    session: Arc::clone(session),
                    receiving: None,
                    object: Some(object),
                }));
            }
            let (object, body) = self
                .ask(session, move |store, session| {
                    session.may_object("s3:GetObject", &place.bucket, &place.key)?;
                    store.object_open(&place.bucket, &place.key)
                })
                .await?;
            Ok(Box::new(Outgoing {
                session: Arc::clone(session),
                object,
                body,
                at: 0,
            }))
        })
    }

    fn read_dir<'a>(
        &'a self,
        path: &'a DavPath,
        _meta: ReadDirMeta,
        session: &'a Shared,
    ) -> FsFuture<'a, FsStream<Box<dyn DavDirEntry>>> {
        Box::pin(async move {
            let place = placed(path)?;
            let removed_whole = match &session.target {
                Some(target) => place.is_within(target),
                None => session.method == Method::DELETE,
            };
            if removed_whole {
                let none: FsStream<Box<dyn DavDirEntry>> = Box::pin(futures::stream::empty());
                return Ok(none);
            }
            let entries = members(self.clone(), Arc::clone(session), place);
            let entries: FsStream<Box<dyn DavDirEntry>> = Box::pin(entries);
            Ok(entries)
        })
    }

    fn metadata<'a>(
        &'a self,
        path: &'a DavPath,
        session: &'a Shared,
    ) -> FsFuture<'a, Box<dyn DavMetaData>> {
        Box::pin(async move {
            let place = placed(path)?;
            let store = self.store.clone();
            let found = blocking::run(move || shelf::look(&store, &place)).await;
            match found {
                Ok(Some(found)) => Ok(Box::new(Meta::of(&found)) as Box<dyn DavMetaData>),
                // To find nothing is an answer, not a failure of the request.
                Ok(None) => Err(FsError::NotFound),
                Err(error) => Err(session.failed(error)),
            }
        })
    }

    fn symlink_metadata<'a>(
        &'a self,
        path: &'a DavPath,
        session: &'a Shared,
    ) -> FsFuture<'a, Box<dyn DavMetaData>> {
        self.metadata(path, session)
    }

    fn create_dir<'a>(&'a self, path: &'a DavPath, session: &'a Shared) -> FsFuture<'a, ()> {
        Box::pin(async move {
            let place = placed(path)?;
            self.ask(session, move |store, session| {
                let place = Place {
                    collection: true,
                    ..place
                };
                match source_of(session, &place) {
                    Some(source) => shelf::copy_marker(store, session, &source, &place),
                    None => shelf::make_collection(store, session, &place),
                }
            })
            .await
        })
    }

    fn remove_dir<'a>(&'a self, path: &'a DavPath, session: &'a Shared) -> FsFuture<'a, ()> {
        Box::pin(async move {
            let place = placed(path)?;
            if session.method.as_str() == "MOVE" {
                return Ok(());
            }
            self.ask(session, move |store, session| {
                shelf::remove_collection(store, session, &place)
            })
            .await
        })
    }

    fn remove_file<'a>(&'a self, path: &'a DavPath, session: &'a Shared) -> FsFuture<'a, ()> {
        Box::pin(async move {
            let place = placed(path)?;
            let replaced = match session.method.as_str() {
                "MOVE" => true,
                "COPY" => session.object.is_some() && session.target.as_ref() == Some(&place),
                _ => false,
            };
            if replaced {
                return Ok(());
            }
            self.ask(session, move |store, session| {
                shelf::remove_object(store, session, &place)
            })
            .await
        })
    }

    fn rename<'a>(
        &'a self,
        from: &'a DavPath,
        to: &'a DavPath,
        session: &'a Shared,
    ) -> FsFuture<'a, ()> {
        Box::pin(async move {
            let (source, target) = (placed(from)?, placed(to)?);
            self.ask(session, move |store, session| {
                shelf::rename(store, session, &source, &target)
            })
            .await
        })
    }

    fn copy<'a>(
        &'a self,
        from: &'a DavPath,
        to: &'a DavPath,
        session: &'a Shared,
    ) -> FsFuture<'a, ()> {
        Box::pin(async move {
            let (source, target) = (placed(from)?, placed(to)?);
            self.ask(session, move |store, session| {
                shelf::copy_object(store, session, &source, &target)
            })
            .await
        })
    }

    fn have_props<'a>(
        &'a self,
        path: &'a DavPath,
        _session: &'a Shared,
    ) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        let root = placed(path).is_ok_and(|place| place.is_root());
        Box::pin(std::future::ready(!root))
    }

    fn patch_props<'a>(
        &'a self,
        path: &'a DavPath,
        patch: Vec<(bool, DavProp)>,
        session: &'a Shared,
    ) -> FsFuture<'a, Vec<(StatusCode, DavProp)>> {
        Box::pin(async move {
            let place = placed(path)?;
            let answer = patch
                .iter()
                .map(|(_, property)| {
                    let named = DavProp {
                        xml: None,
                        ..property.clone()
                    };
                    (StatusCode::OK, named)
                })
                .collect();
            self.ask(session, move |store, session| {
                properties::change(store, session, &place, patch)
            })
            .await?;
            Ok(answer)
        })
    }
}

/// Members as a stream, a page of the catalog at a time.
fn members(
    files: Files,
    session: Shared,
    place: Place,
) -> impl futures::Stream<Item = FsResult<Box<dyn DavDirEntry>>> + Send {
    type Cursor = Option<Option<String>>;
    let pages = futures::stream::unfold(Some(None) as Cursor, move |cursor| {
        let (files, session, place) = (files.clone(), Arc::clone(&session), place.clone());
        async move {
            let after = cursor?;
            let read = files
                .ask(&session, move |store, session| {
                    page(store, session, &place, after)
                })
                .await;
            Some(match read {
                Ok((entries, next)) => (entries.into_iter().map(Ok).collect(), next.map(Some)),
                Err(error) => (vec![Err(error)], None),
            })
        }
    });
    pages.flat_map(|entries: Vec<FsResult<Box<dyn DavDirEntry>>>| futures::stream::iter(entries))
}

type Page = (Vec<Box<dyn DavDirEntry>>, Option<String>);

fn page(
    store: &Store,
    session: &Session,
    place: &Place,
    after: Option<String>,
) -> blockstore::Result<Page> {
    let mut entries: Vec<Box<dyn DavDirEntry>> = Vec::new();
    let mut push = |name: &str, found: &Found| {
        entries.push(Box::new(Member {
            name: name.to_owned(),
            meta: Meta::of(found),
        }));
    };
    if place.is_root() {
        for bucket in shelf::buckets(store, session)? {
            let name = bucket.name.clone();
            push(&name, &Found::Bucket(bucket));
        }
        return Ok((entries, None));
    }
    let page = shelf::page(store, place, after, shelf::PAGE)?;
    for object in page.objects {
        if let Some(name) = shelf::name_of(place, &object.key) {
            let name = name.to_owned();
            push(&name, &Found::Object(object));
        }
    }
    for prefix in &page.prefixes {
        if let Some(name) = shelf::name_of(place, prefix) {
            push(name, &Found::Collection(None));
        }
    }
    Ok((entries, page.next))
}

/// Where a collection that COPY makes has its marker and its properties from.
fn source_of(session: &Session, made: &Place) -> Option<Place> {
    let target = session.target.as_ref()?;
    if session.method.as_str() != "COPY" || !made.is_within(target) {
        return None;
    }
    let (made, target) = (made.name(), target.name());
    let rest = made.strip_prefix(&target)?;
    let source = format!("/{}{rest}/", session.place.name());
    Place::of_decoded(source.as_bytes())
}

fn placed(path: &DavPath) -> FsResult<Place> {
    Place::of_decoded(path.as_bytes()).ok_or(FsError::NotFound)
}

/// What is told of a resource.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    length: u64,
    modified_ms: Option<u64>,
    created_ms: Option<u64>,
    etag: Option<String>,
    collection: bool,
}

impl Meta {
    pub(super) fn of(found: &Found) -> Self {
        let object = match found {
            Found::Object(object) | Found::Collection(Some(object)) => Some(object),
            Found::Root | Found::Bucket(_) | Found::Collection(None) => None,
        };
        let bucket_ms = match found {
            Found::Bucket(bucket) => Some(bucket.created_ms),
            _ => None,
        };
        let collection = found.is_collection();
        Self {
            length: object
                .filter(|_| !collection)
                .map_or(0, |object| object.length_bytes),
            modified_ms: object.map(|object| object.modified_ms).or(bucket_ms),
            created_ms: object.map(|object| object.created_ms).or(bucket_ms),
            etag: object
                .filter(|_| !collection)
                .map(|object| object.meta.etag.clone()),
            collection,
        }
    }
}

fn time(ms: Option<u64>) -> FsResult<SystemTime> {
    ms.map(|ms| UNIX_EPOCH + Duration::from_millis(ms))
        .ok_or(FsError::NotImplemented)
}

impl DavMetaData for Meta {
    fn len(&self) -> u64 {
        self.length
    }

    fn modified(&self) -> FsResult<SystemTime> {
        time(self.modified_ms)
    }

    fn created(&self) -> FsResult<SystemTime> {
        time(self.created_ms)
    }

    fn is_dir(&self) -> bool {
        self.collection
    }

    fn etag(&self) -> Option<String> {
        self.etag.clone()
    }
}

struct Member {
    name: String,
    meta: Meta,
}

impl DavDirEntry for Member {
    fn name(&self) -> Vec<u8> {
        self.name.clone().into_bytes()
    }

    fn metadata(&self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let meta: Box<dyn DavMetaData> = Box::new(self.meta.clone());
        Box::pin(std::future::ready(Ok(meta)))
    }
}

/// A body that PUT sends, or the empty object that LOCK has made.
struct Incoming {
    session: Shared,
    receiving: Option<Receiving>,
    object: Option<Object>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Incoming")
    }
}

impl DavFile for Incoming {
    fn metadata(&mut self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let found = self.object.clone().map(Found::Object);
        let meta = found.map(|found| Box::new(Meta::of(&found)) as Box<dyn DavMetaData>);
        Box::pin(std::future::ready(meta.ok_or(FsError::NotImplemented)))
    }

    fn write_buf(&mut self, mut buf: Box<dyn Buf + Send>) -> FsFuture<'_, ()> {
        let bytes = buf.copy_to_bytes(buf.remaining());
        self.write_bytes(bytes)
    }

    fn write_bytes(&mut self, buf: Bytes) -> FsFuture<'_, ()> {
        Box::pin(async move {
            let Some(receiving) = &mut self.receiving else {
                return Err(FsError::NotImplemented);
            };
            receiving
                .take_in(buf)
                .await
                .map_err(|error| self.session.failed(error))
        })
    }

    fn read_bytes(&mut self, _count: usize) -> FsFuture<'_, Bytes> {
        Box::pin(std::future::ready(Err(FsError::NotImplemented)))
    }

    fn seek(&mut self, _position: SeekFrom) -> FsFuture<'_, u64> {
        Box::pin(std::future::ready(Err(FsError::NotImplemented)))
    }

    fn flush(&mut self) -> FsFuture<'_, ()> {
        Box::pin(async move {
            let Some(receiving) = self.receiving.take() else {
                return Ok(());
            };
            let (object, _) = receiving
                .commit()
                .await
                .map_err(|error| self.session.failed(error))?;
            self.object = Some(object);
            Ok(())
        })
    }
}

/// An object that GET reads.
struct Outgoing {
    session: Shared,
    object: Object,
    body: Arc<dyn ReadAt>,
    at: u64,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Outgoing({}/{})", self.object.bucket, self.object.key)
    }
}

impl DavFile for Outgoing {
    fn metadata(&mut self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let meta: Box<dyn DavMetaData> = Box::new(Meta::of(&Found::Object(self.object.clone())));
        Box::pin(std::future::ready(Ok(meta)))
    }

    fn write_buf(&mut self, _buf: Box<dyn Buf + Send>) -> FsFuture<'_, ()> {
        Box::pin(std::future::ready(Err(FsError::NotImplemented)))
    }

    fn write_bytes(&mut self, _buf: Bytes) -> FsFuture<'_, ()> {
        Box::pin(std::future::ready(Err(FsError::NotImplemented)))
    }

    fn read_bytes(&mut self, count: usize) -> FsFuture<'_, Bytes> {
        Box::pin(async move {
            let left = self.body.length_bytes().saturating_sub(self.at);
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(count);
            let (body, at) = (Arc::clone(&self.body), self.at);
            let read = blocking::run(move || {
                let mut buffer = vec![0; count];
                body.read_at(at, &mut buffer)?;
                Ok(Bytes::from(buffer))
            });
            let bytes = read.await.map_err(|error: Error| {
                // The status line may be long gone: this is the only place to tell.
                tracing::error!("a reply was broken off: {}", error.chain());
                self.session.failed(error)
            })?;
            // Short bytes would be filled up with zeroes above us.
            if bytes.is_empty() && count > 0 {
                return Err(FsError::GeneralFailure);
            }
            self.at += bytes.len() as u64;
            Ok(bytes)
        })
    }

    fn seek(&mut self, position: SeekFrom) -> FsFuture<'_, u64> {
        let length = self.body.length_bytes();
        let to = match position {
            SeekFrom::Start(to) => Some(to),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => length.checked_add_signed(by),
        };
        let done = match to.filter(|to| *to <= length) {
            Some(to) => {
                self.at = to;
                Ok(to)
            }
            None => Err(FsError::GeneralFailure),
        };
        Box::pin(std::future::ready(done))
    }

    fn flush(&mut self) -> FsFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
