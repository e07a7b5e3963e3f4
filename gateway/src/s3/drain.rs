//! The rest of a body that nobody wants.
//!
//! A connection that closes while its client still writes is reset, and with it goes the reply: the
//! client sees a broken pipe where it should read "NoSuchBucket". So what a refused request has left
//! is read and forgotten, within bounds, beside the reply. Not where the client waits for "100
//! Continue": to read would be to ask for the body.

use bytes::Bytes;
use futures::StreamExt;
use http::HeaderMap;
use http::header::EXPECT;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Bytes that are read and forgotten at most.
const BYTES_MAX: usize = 16 << 20;
/// For so long at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// A client that has stopped writing for so long is reading.
const SILENCE: Duration = Duration::from_millis(500);

/// A request's body that is read to its end even where it is dropped before.
pub(crate) struct Drained {
    inner: axum::body::Body,
    /// Nothing is left, or nothing may be asked for.
    done: bool,
}

impl Drained {
    pub(crate) fn new(headers: &HeaderMap, inner: axum::body::Body) -> Self {
        let done = headers.contains_key(EXPECT) || inner.is_end_stream();
        Self { inner, done }
    }
}

impl Body for Drained {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.done = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        if self.done || self.inner.is_end_stream() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let mut rest = std::mem::take(&mut self.inner).into_data_stream();
        runtime.spawn(tokio::time::timeout(PATIENCE, async move {
            let mut left = BYTES_MAX;
            while let Ok(Some(Ok(bytes))) = tokio::time::timeout(SILENCE, rest.next()).await {
                left = left.saturating_sub(bytes.len());
                if left == 0 {
                    break;
                }
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// How many of 64 mebibytes are read after a look at the first `taken`.
    async fn read(headers: &HeaderMap, taken: usize) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let pieces = futures::stream::iter(0..64).map(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Bytes::from(vec![0; 1 << 20]))
        });
        let mut body = Drained::new(headers, axum::body::Body::from_stream(pieces));
        for _ in 0..taken {
            let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            next.await.unwrap().unwrap();
        }
        drop(body);
        tokio::time::sleep(Duration::from_millis(200)).await;
        count.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn what_is_left_is_read_within_bounds() {
        assert_eq!(read(&HeaderMap::new(), 2).await, 18);
    }

    #[tokio::test]
    async fn a_client_that_waits_to_be_asked_is_not_asked() {
        let expects = HeaderMap::from_iter([(EXPECT, "100-continue".parse().unwrap())]);
        assert_eq!(read(&expects, 0).await, 0);
    }
}
