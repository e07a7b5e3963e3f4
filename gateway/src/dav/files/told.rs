//! What the protocol layer is told of resources.

use super::super::shelf::Found;
use dav_server::fs::{DavDirEntry, DavMetaData, FsError, FsFuture, FsResult};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// One of the members of a collection.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) meta: Meta,
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
