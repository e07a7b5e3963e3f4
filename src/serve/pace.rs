//! Slow clients: how long one may keep what others wait for.
//!
//! 1. Only waiting for the client costs: for bytes of a body that the server is ready to take, or for
//!    room in a socket that the server is ready to fill. Idle connections and long work do not.
//! 2. Bytes earn time, waiting spends it. Whoever is below [`BYTES_PER_SECOND`] for longer than the
//!    patience there is, is cut off.
//! 3. Patience is long while few are waited for, and short in a crowd: then slow clients hold the
//!    places that everybody needs.

use axum::BoxError;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A client that keeps this up is never cut off.
const BYTES_PER_SECOND: u32 = 8 << 10;
/// Waiting beyond what was earned, while few are waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same in a crowd.
const PATIENCE_IN_A_CROWD: Duration = Duration::from_secs(2);
/// From here on it is a crowd: half as many as have a place among the bodies under way.
const CROWD: usize = 32;
/// Time is saved up to here.
const SAVED_MAX: Duration = Duration::from_secs(30);
/// How often somebody who waits looks whether it has become a crowd.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How many clients are waited for now, in one direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crowd(Arc<AtomicUsize>);

impl Crowd {
    fn patience(&self) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            few if few < CROWD => PATIENCE,
            _ => PATIENCE_IN_A_CROWD,
        }
    }
}

/// One client's account, in one direction.
struct Pace {
    crowd: Crowd,
    /// Earned and not spent.
    saved: Duration,
    /// Spent without having been earned.
    owed: Duration,
    /// Since when it is waited for.
    since: Option<Instant>,
    look: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    fn new(crowd: Crowd) -> Self {
        Self {
            crowd,
            saved: Duration::ZERO,
            owed: Duration::ZERO,
            since: None,
            look: None,
        }
    }

    /// It went on, by so many bytes.
    fn moved(&mut self, bytes: usize) {
        if let Some(since) = self.stop_waiting() {
            let waited = since.elapsed();
            self.owed += waited.saturating_sub(self.saved);
            self.saved = self.saved.saturating_sub(waited);
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = Duration::from_secs(1) * bytes / BYTES_PER_SECOND;
        self.saved = (self.saved + earned.saturating_sub(self.owed)).min(SAVED_MAX);
        self.owed = self.owed.saturating_sub(earned);
    }

    /// It has to be waited for; ready when that takes too long.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let since = *self.since.get_or_insert_with(|| {
            self.crowd.0.fetch_add(1, Ordering::Relaxed);
            now
        });
        loop {
            let spent = self.owed + since.elapsed().saturating_sub(self.saved);
            if spent > self.crowd.patience() {
                return Poll::Ready(());
            }
            let next = Instant::now() + LOOK_EVERY;
            let look = self
                .look
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            if look.is_elapsed() {
                look.as_mut().reset(next);
            }
            ready!(look.as_mut().poll(context));
        }
    }

    fn stop_waiting(&mut self) -> Option<Instant> {
        let since = self.since.take();
        if since.is_some() {
            self.crowd.0.fetch_sub(1, Ordering::Relaxed);
        }
        since
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
#[error("the client is too slow: less than {} KiB/s for too long", BYTES_PER_SECOND >> 10)]
pub(crate) struct TooSlow;

/// A request's body whose client must keep up.
pub(crate) struct PacedBody {
    inner: Incoming,
    pace: Pace,
}

impl PacedBody {
    pub(crate) fn new(inner: Incoming, crowd: Crowd) -> Self {
        Self {
            inner,
            pace: Pace::new(crowd),
        }
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(next) => {
                let frame = next.as_ref().and_then(|next| next.as_ref().ok());
                let bytes = frame.and_then(Frame::data_ref).map_or(0, Bytes::len);
                self.pace.moved(bytes);
                Poll::Ready(next.map(|next| next.map_err(BoxError::from)))
            }
            Poll::Pending => {
                ready!(self.pace.poll_patience(context));
                tracing::debug!("a request's body came too slowly");
                Poll::Ready(Some(Err(TooSlow.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A connection whose client must take what is sent to it.
pub(crate) struct PacedStream<S> {
    inner: S,
    pace: Pace,
}

impl<S> PacedStream<S> {
    pub(crate) fn new(inner: S, crowd: Crowd) -> Self {
        Self {
            inner,
            pace: Pace::new(crowd),
        }
    }

    fn keep_pace(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(count)) => self.pace.moved(count),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                ready!(self.pace.poll_patience(context));
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, TooSlow)));
            }
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.keep_pace(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.keep_pace(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long `pace` is waited for before it is over.
    async fn patience_of(pace: &mut Pace) -> Duration {
        let began = Instant::now();
        std::future::poll_fn(|context| pace.poll_patience(context)).await;
        began.elapsed()
    }

    /// Waits for `time`, then takes `bytes`; whether it was not cut off.
    async fn step(pace: &mut Pace, time: Duration, bytes: usize) -> bool {
        let waited = std::future::poll_fn(|context| pace.poll_patience(context));
        let kept = tokio::time::timeout(time, waited).await.is_err();
        pace.moved(bytes);
        kept
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_buy_time() {
        let mut pace = Pace::new(Crowd::default());
        let began = Instant::now();
        while step(&mut pace, Duration::from_secs(1), 1).await {}
        assert!(began.elapsed() < PATIENCE + Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_keeps_up_is_never_cut_off_even_in_a_crowd() {
        let crowd = Crowd::default();
        crowd.0.store(2 * CROWD, Ordering::Relaxed);
        let mut pace = Pace::new(crowd.clone());
        for _ in 0..1000 {
            assert!(step(&mut pace, Duration::from_secs(1), 9 << 10).await);
        }
        let mut slow = Pace::new(crowd);
        assert!(patience_of(&mut slow).await < PATIENCE_IN_A_CROWD + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_that_gathers_later_counts_for_those_who_wait_already() {
        let crowd = Crowd::default();
        let mut pace = Pace::new(crowd.clone());
        assert!(step(&mut pace, Duration::from_secs(5), 0).await);
        crowd.0.fetch_add(CROWD, Ordering::Relaxed);
        assert!(patience_of(&mut pace).await < Duration::from_secs(1));
        drop(pace);
        assert_eq!(crowd.0.load(Ordering::Relaxed), CROWD);
    }
}
