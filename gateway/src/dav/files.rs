//! The file system that the protocol layer works on: buckets as its first level, key prefixes below.
//!
//! The door has authorised what the request names; here the members of collections are, one by one.
//!
//! The protocol layer removes what is in the way before it copies or moves. A move must be one
//! transaction, so during MOVE nothing is removed here before [`shelf::rename`] replaces it, and
//! during COPY an object over an object is replaced by the copy's own commit.

mod bodies;
mod told;

use super::place::Place;
use super::properties;
use super::receiving::{Purpose, Receiving};
use super::session::{Session, Shared};
use super::shelf::{self, Found};
use super::{condition, digest};
use crate::blocking;
use axum::http::{Method, StatusCode};
use blockstore::{Error, Kind, Store, Subject};
use bodies::{Incoming, Outgoing};
use dav_server::davpath::DavPath;
use dav_server::fs::{
    DavDirEntry, DavFile, DavMetaData, DavProp, FsError, FsFuture, FsResult, FsStream,
    GuardedFileSystem, OpenOptions, ReadDirMeta,
};
use futures::StreamExt;
use std::sync::Arc;
use told::{Member, Meta};

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
