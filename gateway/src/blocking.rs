//! The one place where a request crosses from the async runtime to a thread that may block.
//!
//! Store calls do file I/O and sync; on a runtime thread they would hold up every other request.

use blockstore::{Error, Kind, Subject};

/// Runs `work` on a thread that may block. The request's log span goes with it. A panic there is
/// a defect of ours and comes back as an internal error instead of a dropped connection.
pub(crate) async fn run<T, E, F>(work: F) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(failure) => Err(E::from(
            Error::new(
                Kind::Internal,
                Subject::Store,
                "a store call did not come back",
            )
            .because(failure),
        )),
    }
}
