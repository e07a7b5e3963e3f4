//! NBD: volumes, snapshots, images and objects as network block devices.
//!
//! [`codec`] is the wire format without I/O. The server under [`serve`] gives each connection a few
//! threads which take turns at its socket, and knows block devices only by what it needs of them
//! (bytes, zeroing, flush, extents); the store's volumes and views are one such thing.

pub mod codec;
mod server;

pub use server::{
    Counters, Error, Exports, Listener, Result, STOP_LIMIT, Server, asks, canonical, serve,
};
