//! The store's volumes, snapshots, images and objects as exports.
//!
//! | export name | what | writable |
//! |---|---|---|
//! | `NAME` | the volume NAME | yes |
//! | `snapshot:NAME-or-id`, or a bare `snap-…` id | a snapshot | no |
//! | `image:NAME-or-id` | an image | no |
//! | `object:BUCKET/KEY` | an object's bytes | no |
//!
//! The writer token of a volume is asked for at a connection's first write and kept until the
//! connection ends. Connections of one holder share it, which is what makes multi-conn safe.

use super::export::{Export, Exporter, Listed, Opened};
use blockstore::object::ReadAt;
use blockstore::volume::Extent;
use blockstore::{Error, Kind, Result, SealedMap, Store, Subject, Volume, Writer};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a first write waits for the token. A client that has just closed may not have been
/// noticed yet, and a migrated guest starts at its target a moment before its source lets go.
const TOKEN_PATIENCE: Duration = Duration::from_secs(1);
const TOKEN_RETRY: Duration = Duration::from_millis(10);

impl Exporter for Store {
    fn list(&self) -> Result<Vec<Listed>> {
        let volumes = self.volumes()?.into_iter().map(|volume| Listed {
            description: match &volume.origin {
                Some(origin) => format!("volume, made from {origin}"),
                None => "volume".to_owned(),
            },
            name: volume.name,
        });
        let snapshots = self.snapshots()?.into_iter().map(|snapshot| Listed {
            name: format!("snapshot:{}", snapshot.name),
            description: format!("snapshot of volume {}, read only", snapshot.volume),
        });
        let images = self.images()?.into_iter().map(|image| Listed {
            name: format!("image:{}", image.names.first().unwrap_or(&image.id)),
            description: format!(
                "image made from {} ({}), read only",
                image.source, image.format
            ),
        });
        Ok(volumes.chain(snapshots).chain(images).collect())
    }

    fn open(&self, name: &str, holder: &str) -> Result<Opened> {
        if let Some(snapshot) = name.strip_prefix("snapshot:") {
            return open_snapshot(self, snapshot);
        }
        if let Some(image) = name.strip_prefix("image:") {
            let image = self.image(image)?;
            let canonical = format!("image:{}", image.names.first().unwrap_or(&image.id));
            let description = format!(
                "image made from {} ({}), read only",
                image.source, image.format
            );
            return open_sealed(self, image.sealed, canonical, description);
        }
        if let Some(path) = name.strip_prefix("object:") {
            return open_object(self, path);
        }
        if name.starts_with("snap-") {
            // Only an id goes bare: a snapshot's name may equal a volume's.
            match self.snapshot(name) {
                Ok(snapshot) if snapshot.id == name => return open_snapshot(self, name),
                Ok(_) => {}
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let volume = self.volume_open(name)?;
        Ok(Opened {
            listed: Listed {
                name: name.to_owned(),
                description: "volume".to_owned(),
            },
            export: Box::new(VolumeExport::new(volume, holder.to_owned())),
        })
    }
}

fn open_snapshot(store: &Store, name: &str) -> Result<Opened> {
    let snapshot = store.snapshot(name)?;
    let description = format!("snapshot of volume {}, read only", snapshot.volume);
    open_sealed(
        store,
        snapshot.sealed,
        format!("snapshot:{}", snapshot.name),
        description,
    )
}

fn open_sealed(
    store: &Store,
    sealed: SealedMap,
    name: String,
    description: String,
) -> Result<Opened> {
    let view = store.sealed_open(sealed)?;
    Ok(Opened {
        listed: Listed { name, description },
        export: Box::new(ViewExport(Arc::new(view))),
    })
}

fn open_object(store: &Store, path: &str) -> Result<Opened> {
    let Some((bucket, key)) = path.split_once('/') else {
        let what = format!("\"object:{path}\" names no object: write object:BUCKET/KEY");
        return Err(Error::new(Kind::Invalid, Subject::Object, what));
    };
    let (object, bytes) = store.object_open(bucket, key)?;
    let description = format!("object s3://{}/{}, read only", object.bucket, object.key);
    Ok(Opened {
        listed: Listed {
            name: format!("object:{path}"),
            description,
        },
        export: Box::new(ViewExport(bytes)),
    })
}

/// A volume, for one connection.
struct VolumeExport {
    volume: Volume,
    holder: String,
    writer: OnceLock<Writer>,
    /// When the token was last refused. Held while waiting for it, so that one thread asks.
    refused_at: Mutex<Option<Instant>>,
}

impl VolumeExport {
    fn new(volume: Volume, holder: String) -> Self {
        Self {
            volume,
            holder,
            writer: OnceLock::new(),
            refused_at: Mutex::new(None),
        }
    }

    fn writer(&self) -> Result<&Writer> {
        if let Some(writer) = self.writer.get() {
            return Ok(writer);
        }
        let mut refused_at = self
            .refused_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Whoever was refused a moment ago does not wait again: a client without the token shall see
        // its errors at once, not one each second.
        let patience = match *refused_at {
            Some(at) if at.elapsed() < TOKEN_PATIENCE => Duration::ZERO,
            _ => TOKEN_PATIENCE,
        };
        let asked_at = Instant::now();
        loop {
            if let Some(writer) = self.writer.get() {
                return Ok(writer);
            }
            match self.volume.writer(&self.holder) {
                Ok(writer) => return Ok(self.writer.get_or_init(|| writer)),
                Err(error) if error.kind() == Kind::Conflict && asked_at.elapsed() < patience => {
                    std::thread::sleep(TOKEN_RETRY);
                }
                Err(error) => {
                    *refused_at = Some(Instant::now());
                    return Err(error);
                }
            }
        }
    }
}

impl Export for VolumeExport {
    fn length_bytes(&self) -> u64 {
        self.volume.length_bytes()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn ready_to_write(&self) -> bool {
        self.writer.get().is_some()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.volume.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.writer()?.write_at(offset, bytes)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<()> {
        self.writer()?.zero(offset, length)
    }

    fn flush(&self) -> Result<()> {
        // No token is asked for: an earlier connection of this client may have written and gone.
        self.volume.flush()
    }

    fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> {
        self.volume.extents(offset, length, max)
    }
}

/// Anything that is only read: a snapshot, an image, an object.
struct ViewExport(Arc<dyn ReadAt>);

impl Export for ViewExport {
    fn length_bytes(&self) -> u64 {
        self.0.length_bytes()
    }

    fn read_only(&self) -> bool {
        true
    }

    fn ready_to_write(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> Result<()> {
        Err(read_only())
    }

    fn zero(&self, _offset: u64, _length: u64) -> Result<()> {
        Err(read_only())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> {
        self.0.extents(offset, length, max)
    }
}

fn read_only() -> Error {
    Error::new(
        Kind::Denied,
        Subject::Range,
        "snapshots, images and objects are read only: clone one to a volume to write",
    )
}
