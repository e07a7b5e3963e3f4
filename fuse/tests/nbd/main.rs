//! The NBD server over a real store, through the clients people use.
//!
//! It needs on the PATH: nbdinfo, nbdcopy, nbdkit, qemu-img, qemu-io, fio. A missing one is a failure.

// A test may unwrap, and so may what serves it (clippy.toml covers the test functions alone).
#![allow(clippy::unwrap_used)]

mod clients;
mod exports;
mod faults;
mod lab;
mod raw;
mod tcp;
