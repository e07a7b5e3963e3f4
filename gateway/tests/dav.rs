//! The WebDAV door, driven by litmus, rclone, cadaver, davix and curl, and by requests that nobody
//! should send.
//!
//! A client that is not installed fails its test: `scripts/packages` installs them all.

#![allow(
    clippy::unwrap_used,
    reason = "a test may unwrap: its failure is the message"
)]

#[path = "dav/clients.rs"]
mod clients;
#[path = "dav/mutations.rs"]
mod mutations;
#[path = "dav/refusals.rs"]
mod refusals;
#[path = "dav/resources.rs"]
mod resources;
#[path = "dav/rights.rs"]
mod rights;
#[path = "dav/server.rs"]
mod server;
#[path = "dav/transcript.rs"]
mod transcript;
#[path = "dav/transfers.rs"]
mod transfers;
