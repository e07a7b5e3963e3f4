//! The WebDAV door: RFC 4918 (classes 1, 2 and 3) under `/dav`, and third-party copy over HTTP.
//!
//! ```text
//! request ─► door: who (identity) ─► where (place) ─► may they (gate, session)
//!              ├─ PROPFIND ──────────────► propfind ──┐
//!              ├─ COPY with another host ► transfer ──┤
//!              └─ all else ─► dav-server ─► files ────┼─► shelf ─► blockstore
//!                                      └──► locking ──┴─► locks ─► records in the catalog
//! ```
//! The first level is buckets, below are key prefixes; docs/WEBDAV.md tells what clients see. The
//! crate `dav-server` parses headers, judges `If`, and walks collections; PROPFIND is ours, as the
//! crate's leaves out what is not there and shows ETags without their quotes.
//!
//! 1. A path is served as it is written or refused ([`place`]); what it names is authorised first.
//! 2. XML is judged before a parser builds a tree of it ([`xml`]).
//! 3. A body becomes an object in one commit at its end, or not at all ([`receiving`]).
//! 4. What a client may make us hold in memory is bounded: two buffers a body, one page a listing.

mod condition;
mod digest;
mod door;
mod files;
mod gate;
mod identity;
mod if_header;
mod locking;
mod locks;
mod place;
mod properties;
mod propfind;
mod receiving;
mod refusal;
mod session;
mod shelf;
mod transfer;
mod xml;

pub use transfer::{BadHost, Hosts, TransferSettings, TransferTimes};

use access::Access;
use axum::extract::Request;
use blockstore::Store;
use std::convert::Infallible;
use std::sync::Arc;

/// The door under `/dav`: it wants requests with their whole path, so it is chosen by prefix, not
/// nested.
pub fn router(
    store: Store,
    access: Access,
    transfers: TransferSettings,
) -> blockstore::Result<axum::Router> {
    let door = Arc::new(door::Door::open(store, access, transfers)?);
    Ok(
        axum::Router::new().fallback_service(tower::service_fn(move |request: Request| {
            let door = Arc::clone(&door);
            async move { Ok::<_, Infallible>(door.answer(request).await) }
        })),
    )
}
