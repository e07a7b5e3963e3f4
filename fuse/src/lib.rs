//! Attachment: the NBD server and the FUSE mount.

pub mod mount;
pub mod nbd;
