//! What the catalog keeps of an instance: the intent. What it does is libvirt's to say.

use crate::domain::{Accelerator, Disk, DiskSource};
use crate::hypervisor::State;
use crate::spec::{DataVolume, InstanceSpec, Network};
use blockstore::object::Copied;
use blockstore::{Entry, Error, Kind, Result, Store, Subject, Who};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use uuid::Uuid;

const RECORD_KIND: &str = "instance";

/// An instance as listings show it. User data stays out: it holds secrets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// Its identity, with libvirt and with cloud-init.
    pub uuid: Uuid,
    /// What it does, as libvirt says.
    pub state: State,
    /// Set where making it was cut short (the server ended in the middle): remove it, make it anew.
    #[serde(default)]
    pub incomplete: bool,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// How it was last executed.
    pub accelerator: Option<Accelerator>,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The image its root disk is a clone of.
    pub image: Option<String>,
    /// The volume it boots from.
    pub root_volume: Option<String>,
    /// Or the file it boots from.
    pub boot_file: Option<PathBuf>,
    /// Further disks, `vdb` and on.
    pub volumes: Vec<DataVolume>,
    /// Its network.
    pub network: Network,
    /// What cloning the root disk shared and wrote.
    pub copied: Option<Copied>,
    /// Where its serial console is logged, on the host.
    pub console_log: PathBuf,
    /// The project that owns it.
    #[serde(default = "root_project")]
    pub project: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) uuid: Uuid,
    pub(crate) created_ms: u64,
    pub(crate) spec: InstanceSpec,
    /// As resolved when it was made: a name that was a snapshot then does not become a volume.
    pub(crate) disks: Vec<Disk>,
    /// False until everything of it is made.
    pub(crate) complete: bool,
    /// Whether the root volume was made for it, and so goes with it.
    pub(crate) root_made: bool,
    pub(crate) copied: Option<Copied>,
    /// The machine type it was first defined with; a guest keeps it over upgrades of QEMU.
    pub(crate) machine: Option<String>,
    pub(crate) accelerator: Option<Accelerator>,
    /// The project that owns it.
    #[serde(default = "root_project")]
    pub(crate) project: String,
}

fn root_project() -> String {
    "root".into()
}

impl Record {
    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Names of the NBD exports it needs, the root disk's first.
    pub(crate) fn exports(&self) -> Vec<String> {
        let names = self.disks.iter().filter_map(|disk| match &disk.source {
            DiskSource::Export(name) => Some(name.clone()),
            DiskSource::File(_) => None,
        });
        names.collect()
    }

    pub(crate) fn shown(&self, state: State, console_log: PathBuf) -> Instance {
        let spec = &self.spec;
        Instance {
            name: spec.name.clone(),
            uuid: self.uuid,
            state,
            incomplete: !self.complete,
            created_ms: self.created_ms,
            accelerator: self.accelerator,
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            image: spec.image.clone(),
            root_volume: spec.root_volume(),
            boot_file: spec.boot_file.clone(),
            volumes: spec.volumes.clone(),
            network: spec.network.clone(),
            copied: self.copied.clone(),
            console_log,
            project: self.project.clone(),
        }
    }

    /// [`Kind::Conflict`] if there is one of that name.
    pub(crate) fn create(&self, store: &Store, who: &Who) -> Result<()> {
        store
            .record_create(who, RECORD_KIND, self.name(), &self.json()?, None)
            .map_err(|error| match error.kind() {
                Kind::Conflict => Error::new(
                    Kind::Conflict,
                    Subject::Record,
                    format!(
                        "there is an instance {:?} already; choose another name, or remove it",
                        self.name()
                    ),
                ),
                _ => error,
            })
    }

    pub(crate) fn put(&self, store: &Store, who: &Who, entry: Option<Entry>) -> Result<()> {
        store.record_put(who, RECORD_KIND, self.name(), &self.json()?, entry)
    }

    pub(crate) fn remove(&self, store: &Store, who: &Who, entry: Option<Entry>) -> Result<()> {
        store.record_remove(who, RECORD_KIND, self.name(), entry)
    }

    /// [`Kind::NotFound`] if there is none.
    pub(crate) fn get(store: &Store, name: &str) -> Result<Self> {
        match store.record_get(RECORD_KIND, name)? {
            Some(value) => parse(name, value),
            None => {
                let context = format!("no instance {name:?}; list them: infall vm ls");
                Err(Error::new(Kind::NotFound, Subject::Record, context))
            }
        }
    }

    pub(crate) fn list(store: &Store) -> Result<Vec<Self>> {
        let all = store.record_list(RECORD_KIND)?;
        all.into_iter()
            .map(|(name, value)| parse(&name, value))
            .collect()
    }

    fn json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|error| {
            let context = format!("the record of instance {:?} has no JSON", self.name());
            Error::new(Kind::Internal, Subject::Record, context).because(error)
        })
    }
}

fn parse(name: &str, value: serde_json::Value) -> Result<Record> {
    serde_json::from_value(value).map_err(|error| {
        let context = format!("the record of instance {name:?} does not read");
        Error::new(Kind::Corrupt, Subject::Record, context).because(error)
    })
}
