//! Attachment: the NBD server and the FUSE mount
