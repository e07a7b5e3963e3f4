//! The disks of a spec, looked up in the store: exports and files.

use crate::domain::{Disk, DiskSource};
use crate::record::Record;
use crate::spec::{DataVolume, InstanceSpec, Root};
use blockstore::{Error, Kind, Result, Store, Subject};
use std::path::Path;

/// The disks of a spec, looked up; [`Kind::Conflict`] where another writes what this one is to write.
pub(crate) fn resolve(store: &Store, spec: &InstanceSpec, others: &[Record]) -> Result<Vec<Disk>> {
    let export = |name: String, writable| Disk {
        source: DiskSource::Export(name),
        writable,
    };
    let root = match spec.root()? {
        Root::Image(image) => {
            store.image(image)?;
            export(format!("{}-root", spec.name), true)
        }
        Root::Volume(volume) => {
            check_free(store, volume, others)?;
            export(volume.into(), true)
        }
        Root::File(path) => {
            if !std::fs::metadata(path)
                .map_err(|error| missing(path, error))?
                .is_file()
            {
                let context = format!(
                    "{} is not a regular file; boot_file names a raw image",
                    path.display()
                );
                return Err(Error::new(Kind::Invalid, Subject::Record, context));
            }
            Disk {
                source: DiskSource::File(path.into()),
                writable: true,
            }
        }
    };
    for path in [&spec.kernel, &spec.initrd].into_iter().flatten() {
        std::fs::metadata(path).map_err(|error| missing(path, error))?;
    }
    let mut disks = vec![root];
    for volume in &spec.volumes {
        let disk = match volume {
            DataVolume::Object { bucket, key } => {
                store.object_head(bucket, key)?;
                export(format!("object:{bucket}/{key}"), false)
            }
            DataVolume::Named { name, writable } => resolve_named(store, name, *writable, others)?,
        };
        if disks.iter().any(|other| other.source == disk.source) {
            let context = format!(
                "data volume {volume} is attached already, as the root disk or by another name"
            );
            return Err(Error::new(Kind::Invalid, Subject::Record, context));
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn resolve_named(store: &Store, name: &str, writable: bool, others: &[Record]) -> Result<Disk> {
    let source = match store.volume_info(name) {
        Ok(_) => {
            if writable {
                check_free(store, name, others)?;
            }
            DiskSource::Export(name.into())
        }
        Err(error) if error.kind() == Kind::NotFound => {
            match store.snapshot(name) {
                Err(other) if other.kind() == Kind::NotFound => {
                    let context =
                        format!("no volume and no snapshot {name:?}; list them: infall volume ls");
                    return Err(Error::new(Kind::NotFound, Subject::Volume, context));
                }
                found => found?,
            };
            if writable {
                let context = format!(
                    "snapshot {name:?} cannot be written; clone a volume from it, or attach it :ro"
                );
                return Err(Error::new(Kind::Invalid, Subject::Snapshot, context));
            }
            DiskSource::Export(format!("snapshot:{name}"))
        }
        Err(error) => return Err(error),
    };
    Ok(Disk { source, writable })
}

/// The store's writer token would stop the second writer too, but as an I/O error inside QEMU.
fn check_free(store: &Store, volume: &str, others: &[Record]) -> Result<()> {
    let conflict = |by: &str| {
        let context = format!(
            "volume {volume:?} is written by {by}; stop that first, or clone a snapshot of it"
        );
        Err(Error::new(Kind::Conflict, Subject::Volume, context))
    };
    let info = store.volume_info(volume)?;
    if let Some(holder) = info.writer {
        return conflict(&holder);
    }
    let source = DiskSource::Export(volume.into());
    let other = others.iter().find(|other| {
        other
            .disks
            .iter()
            .any(|disk| disk.writable && disk.source == source)
    });
    match other {
        Some(other) => conflict(&format!("instance {:?}", other.name())),
        None => Ok(()),
    }
}

fn missing(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            Kind::NotFound,
            Subject::Record,
            format!("there is no file {}", path.display()),
        ),
        _ => Error::io("look at", path, error),
    }
}
