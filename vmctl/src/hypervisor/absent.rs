//! Stands in for libvirt in a build without the feature `virt`.

use super::{HostFacts, Place, State};
use blockstore::{Error, Kind, Result, Subject};
use std::collections::HashMap;
use std::path::PathBuf;
use uuid::Uuid;

/// No hypervisor.
#[derive(Clone, Debug)]
pub struct Hypervisor;

impl Hypervisor {
    /// The URI is accepted so that one configuration serves both builds.
    pub fn new(_uri: &str) -> Self {
        Self
    }

    /// Unsupported, as everything here.
    pub fn facts(&self) -> Result<HostFacts> {
        Err(absent())
    }

    /// Unsupported.
    pub fn define(&self, _xml: &str) -> Result<Option<String>> {
        Err(absent())
    }

    /// Unsupported.
    pub fn start(&self, _id: Uuid) -> Result<()> {
        Err(absent())
    }

    /// Unsupported.
    pub fn shutdown(&self, _id: Uuid) -> Result<()> {
        Err(absent())
    }

    /// Unsupported.
    pub fn resume(&self, _id: Uuid) -> Result<()> {
        Err(absent())
    }

    /// Unsupported.
    pub fn destroy(&self, _id: Uuid) -> Result<()> {
        Err(absent())
    }

    /// Unsupported.
    pub fn undefine(&self, _id: Uuid) -> Result<()> {
        Err(absent())
    }

    /// Unsupported.
    pub fn state(&self, _id: Uuid) -> Result<State> {
        Err(absent())
    }

    /// Unsupported.
    pub fn states(&self) -> Result<HashMap<Uuid, State>> {
        Err(absent())
    }

    /// Unsupported.
    pub fn terminal(&self, _id: Uuid) -> Result<Option<PathBuf>> {
        Err(absent())
    }

    /// Unsupported.
    pub fn forward(&self, _id: Uuid, _port: u16) -> Result<u16> {
        Err(absent())
    }

    /// Unsupported.
    pub fn forward_end(&self, _id: Uuid, _here: u16) -> Result<()> {
        Err(absent())
    }

    /// Unsupported.
    pub fn place(&self, _id: Uuid) -> Result<Place> {
        Err(absent())
    }
}

fn absent() -> Error {
    Error::new(
        Kind::Unsupported,
        Subject::Record,
        "built without libvirt: this binary runs no instances; build it with the feature virt",
    )
}
