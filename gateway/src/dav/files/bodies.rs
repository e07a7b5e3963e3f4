//! Bodies on their way in and out, as the protocol layer's files.

use super::super::receiving::Receiving;
use super::super::session::Shared;
use super::super::shelf::Found;
use super::told::Meta;
use crate::blocking;
use blockstore::Error;
use blockstore::object::{Object, ReadAt};
use bytes::{Buf, Bytes};
use dav_server::fs::{DavFile, DavMetaData, FsError, FsFuture};
use std::fmt;
use std::io::SeekFrom;
use std::sync::Arc;

/// A body that PUT sends, or the empty object that LOCK has made.
pub(super) struct Incoming {
    pub(super) session: Shared,
    pub(super) receiving: Option<Receiving>,
    pub(super) object: Option<Object>,
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
pub(super) struct Outgoing {
    pub(super) session: Shared,
    pub(super) object: Object,
    pub(super) body: Arc<dyn ReadAt>,
    pub(super) at: u64,
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
