//! Reads qcow2 files, versions 2 and 3 (QEMU `docs/interop/qcow2.rst`).
//!
//! A pure reader: it takes a file as anything that can be read at an offset, and says in guest order
//! where the bytes of the disk lie in it. It writes nothing and follows no name into the file system.
//!
//! 1. What it accepts it shows as QEMU shows it; what it cannot is refused by name (backing file,
//!    external data file, encryption, unknown features).
//! 2. Nothing in a file makes it panic, loop, or hold more than a few clusters and a bit for each
//!    cluster of the file.
//! 3. Reference counts are not read: a reader does not need them, so a file that was not closed
//!    cleanly (dirty) is readable. Internal snapshots are left out; both are said in the notes.

mod header;
mod table;
mod unpack;

pub use header::{Header, MAGIC};
pub use table::Runs;
pub use unpack::{UnpackError, Unpacker};

use crate::Result;
use crate::image::run::ImageFile;
use crate::object::ReadAt;

/// A qcow2 file with a good header.
pub struct Qcow2<'a> {
    file: &'a dyn ReadAt,
    header: Header,
}

impl<'a> Qcow2<'a> {
    /// Reads and checks the header.
    pub fn open(file: &'a dyn ReadAt) -> Result<Self> {
        Ok(Self {
            file,
            header: Header::read(file)?,
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The runs of the disk, found as the iterator goes.
    pub fn runs(&self) -> Runs<'_> {
        Runs::new(self.file, &self.header)
    }

    /// For reading the runs' bytes.
    pub fn image_file(&self) -> ImageFile<'a> {
        ImageFile {
            file: self.file,
            packing: Some(self.header.packing()),
        }
    }
}
