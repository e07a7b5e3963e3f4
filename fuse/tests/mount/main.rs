//! The FUSE mount through the kernel: its promises (`src/mount/mod.rs`), each with real programs.
//!
//! It needs /dev/fuse and, on the PATH: dd, fallocate, cp, python3, qemu-img, qemu-io, mkfs.ext4, e2fsck,
//! debugfs, fio, fusermount3. A missing one is a failure.

// clippy.toml lets #[test] functions unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

mod buckets;
mod files;
mod lab;
mod life;
mod model;
mod programs;
mod rights;
mod volumes;
mod workloads;
