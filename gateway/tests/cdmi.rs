//! The CDMI door against the tables of the standard, 1.1.1 and 2.0.0: one claim a row.
//!
//! Every test starts the real routers, CDMI and S3 over one store, on a free loopback port, and
//! speaks HTTP with them. Rows that share a server are asked in their order. Clients that people use
//! (aws, curl) drive what one door must see of the other; one that is not installed fails the test:
//! `scripts/packages` installs them all.

#![allow(
    clippy::unwrap_used,
    reason = "a test may unwrap: its failure is the message"
)]

#[path = "cdmi/lab.rs"]
mod lab;

#[path = "../../tests/tools/mod.rs"]
mod tools;

#[path = "cdmi/bad_input.rs"]
mod bad_input;
#[path = "cdmi/capabilities.rs"]
mod capabilities;
#[path = "cdmi/containers.rs"]
mod containers;
#[path = "cdmi/doors.rs"]
mod doors;
#[path = "cdmi/objects.rs"]
mod objects;
#[path = "cdmi/placement.rs"]
mod placement;
#[path = "cdmi/plain_http.rs"]
mod plain_http;
#[path = "cdmi/policies.rs"]
mod policies;
#[path = "cdmi/races.rs"]
mod races;
#[path = "cdmi/snapshots.rs"]
mod snapshots;
#[path = "cdmi/transcripts.rs"]
mod transcripts;
#[path = "cdmi/transfers.rs"]
mod transfers;
#[path = "cdmi/versions.rs"]
mod versions;
