//! Hosts and instances through libvirt.
//!
//! [`Machines`] runs instances: it clones a root volume, makes the seed, has the disks served on a
//! socket, and hands libvirt a domain. Every call blocks its thread; [`api`] crosses over for
//! callers on an async runtime.

pub mod api;
mod console;
pub mod cpio;
mod disks;
pub mod domain;
pub mod hypervisor;
mod instance;
pub mod probe;
mod reach;
mod record;
pub mod seed;
mod spec;
mod ssh;
mod tunnel;

pub use console::Console;
pub use instance::{
    Addresses, Candidate, DiskBytes, Explanation, Host, Machines, Resumed, Sockets,
};
pub use record::Instance;
pub use spec::{DataVolume, InstanceSpec, Network, Root};
pub use ssh::{LIFETIME as SSH_LIFETIME, SshAsk, SshCertificate};
pub use tunnel::PROTOCOL as TUNNEL_PROTOCOL;
