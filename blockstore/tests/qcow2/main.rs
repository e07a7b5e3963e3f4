//! Images: the qcow2 reader beside QEMU's own, and images in a store.
//!
//! `qemu-img` and `qemu-io` (Debian: qemu-utils) make the files and say what a guest sees of them.

#![allow(clippy::unwrap_used)]

mod hostile;
mod qemu;
mod refused;
mod same;
mod stored;
