//! The qcow2 header and its extensions (`qcow2.rst`, "Header" and "Header extensions").
//!
//! Every field is checked before anything is read that it points to. What this release cannot show
//! a guest exactly as QEMU would is refused by its name.

use crate::image::run::{Method, Packing};
use crate::object::ReadAt;
use crate::volume::VOLUME_BYTES_MAX;
use crate::{Error, Kind, Result, Subject};

/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

const HEADER_BYTES_V2: u32 = 72;
const HEADER_BYTES_V3: u32 = 104;
/// QEMU's own limits: it opens nothing beyond them.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const L1_BYTES_MAX: u64 = 32 << 20;
const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
const SNAPSHOTS_MAX: u32 = 65536;
const BACKING_NAME_BYTES_MAX: u32 = 1023;
/// Clusters in the file that a reader keeps account of, at a bit each: 64 MiB.
const FILE_CLUSTERS_MAX: u64 = 1 << 29;

mod incompatible {
    pub(super) const DIRTY: u32 = 0;
    pub(super) const CORRUPT: u32 = 1;
    pub(super) const EXTERNAL_DATA: u32 = 2;
    pub(super) const COMPRESSION: u32 = 3;
    pub(super) const EXTENDED_L2: u32 = 4;
}

mod extension {
    pub(super) const END: u32 = 0;
    pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
    pub(super) const ENCRYPTION: u32 = 0x0537_be77;
    pub(super) const EXTERNAL_DATA: u32 = 0x4441_5441;
}

/// A header that was found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// A cluster has `1 << cluster_bits` bytes.
    pub cluster_bits: u32,
    /// Bytes of the disk the guest sees.
    pub size_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Where the active L1 table lies in the file.
    pub l1_offset: u64,
    /// Entries of the L1 table that the size needs.
    pub l1_entries: u64,
    /// Where the refcount table lies in the file. It is not read: only kept out of.
    pub refcount_table_offset: u64,
    /// Its clusters.
    pub refcount_table_clusters: u64,
    /// Whether L2 entries have subclusters (`qcow2.rst`, "Extended L2 Entries").
    pub extended_l2: bool,
    /// How compressed clusters are packed.
    pub method: Method,
    /// What a person should know: a dirty bit, snapshots left out.
    pub notes: Vec<String>,
}

impl Header {
    /// Reads and checks the header of `file`.
    pub fn read(file: &dyn ReadAt) -> Result<Self> {
        let file_bytes = file.length_bytes();
        if file_bytes < u64::from(HEADER_BYTES_V2) {
            return Err(invalid(&format!(
                "the file has {file_bytes} bytes, a qcow2 header has at least {HEADER_BYTES_V2}"
            )));
        }
        let mut fixed = [0; HEADER_BYTES_V2 as usize];
        file.read_at(0, &mut fixed)?;
        let cluster_bits = check_magic(&fixed)?;
        // Everything that belongs to the header lies in the first cluster (2 MiB at most).
        let mut cluster =
            vec![0; usize::try_from(file_bytes.min(1 << cluster_bits)).unwrap_or(usize::MAX)];
        file.read_at(0, &mut cluster)?;
        Parser {
            bytes: &cluster,
            file_bytes,
            cluster_bits,
        }
        .header()
    }

    /// Bytes in a cluster.
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries in an L2 table.
    pub fn l2_entries(&self) -> u64 {
        self.cluster_bytes() / if self.extended_l2 { 16 } else { 8 }
    }

    /// Guest bytes under one L2 table.
    pub fn l2_guest_bytes(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// How to unpack its compressed clusters.
    pub fn packing(&self) -> Packing {
        Packing {
            method: self.method,
            cluster_bytes: self.cluster_bytes(),
        }
    }
}

fn check_magic(fixed: &[u8]) -> Result<u32> {
    if fixed[..4] != MAGIC {
        return Err(invalid(&format!(
            "the file begins with {}, a qcow2 file with {}",
            hex::encode(&fixed[..4]),
            hex::encode(MAGIC)
        )));
    }
    let cluster_bits = u32_at(fixed, 20);
    match u32_at(fixed, 4) {
        2 | 3 => {}
        1 => {
            return Err(unsupported(
                "this is a qcow file of version 1: convert it with `qemu-img convert -O qcow2`",
            ));
        }
        other => {
            return Err(unsupported(&format!(
                "qcow2 version {other}: this release reads 2 and 3"
            )));
        }
    }
    if !CLUSTER_BITS.contains(&cluster_bits) {
        return Err(invalid(&format!(
            "cluster_bits is {cluster_bits}: it lies between {} and {}",
            CLUSTER_BITS.start(),
            CLUSTER_BITS.end()
        )));
    }
    Ok(cluster_bits)
}

/// The first cluster, and what is needed to judge it.
struct Parser<'a> {
    bytes: &'a [u8],
    file_bytes: u64,
    cluster_bits: u32,
}

/// What the extensions say.
#[derive(Default)]
struct Extensions {
    feature_names: Vec<(u8, u8, String)>,
    external_data: Option<String>,
    encryption: bool,
}

impl Parser<'_> {
    fn header(&self) -> Result<Header> {
        let version = u32_at(self.bytes, 4);
        let header_bytes = self.header_bytes(version)?;
        let backing_offset = u64_at(self.bytes, 8);
        let extensions = self.extensions(header_bytes, backing_offset)?;
        let features = if version >= 3 {
            u64_at(self.bytes, 72)
        } else {
            0
        };
        self.check_features(features, &extensions)?;
        self.check_encryption(&extensions)?;
        self.check_backing(backing_offset)?;
        let method = self.method(header_bytes, features)?;
        let extended_l2 = bit(features, incompatible::EXTENDED_L2);
        if extended_l2 && self.cluster_bits < 14 {
            return Err(invalid(&format!(
                "cluster_bits is {}: extended L2 entries need at least 14",
                self.cluster_bits
            )));
        }
        if version >= 3 && u32_at(self.bytes, 96) > 6 {
            return Err(invalid(&format!(
                "refcount_order is {}: it is at most 6",
                u32_at(self.bytes, 96)
            )));
        }
        let (refcount_table_offset, refcount_table_clusters) = self.refcount_table()?;
        let mut header = Header {
            version,
            cluster_bits: self.cluster_bits,
            size_bytes: u64_at(self.bytes, 24),
            file_bytes: self.file_bytes,
            l1_offset: u64_at(self.bytes, 40),
            l1_entries: 0,
            refcount_table_offset,
            refcount_table_clusters,
            extended_l2,
            method,
            notes: self.notes(features)?,
        };
        header.l1_entries = self.l1_entries(&header)?;
        Ok(header)
    }

    fn header_bytes(&self, version: u32) -> Result<u32> {
        if version == 2 {
            return Ok(HEADER_BYTES_V2);
        }
        if self.bytes.len() < HEADER_BYTES_V3 as usize {
            return Err(invalid(&format!(
                "the file has {} bytes, a qcow2 v3 header has at least {HEADER_BYTES_V3}",
                self.bytes.len()
            )));
        }
        let header_bytes = u32_at(self.bytes, 100);
        if header_bytes < HEADER_BYTES_V3
            || !header_bytes.is_multiple_of(8)
            || header_bytes as usize > self.bytes.len()
        {
            return Err(invalid(&format!(
                "header_length is {header_bytes}: it is a multiple of 8 from {HEADER_BYTES_V3} to the first cluster's end at {}",
                self.bytes.len()
            )));
        }
        Ok(header_bytes)
    }

    fn extensions(&self, header_bytes: u32, backing_offset: u64) -> Result<Extensions> {
        let mut found = Extensions::default();
        let end = match usize::try_from(backing_offset) {
            Ok(offset) if offset != 0 => offset.min(self.bytes.len()),
            _ => self.bytes.len(),
        };
        let mut at = header_bytes as usize;
        while at + 8 <= end {
            let (kind, length) = (u32_at(self.bytes, at), u32_at(self.bytes, at + 4) as usize);
            if kind == extension::END {
                break;
            }
            let Some(data) = self.bytes[at + 8..end].get(..length) else {
                return Err(invalid(&format!(
                    "the header extension {kind:#010x} at file offset {at} has {length} bytes: it reaches over its area's end at {end}"
                )));
            };
            match kind {
                extension::FEATURE_NAMES => {
                    found.feature_names = data
                        .chunks_exact(48)
                        .map(|row| (row[0], row[1], text(&row[2..])))
                        .collect();
                }
                extension::EXTERNAL_DATA => found.external_data = Some(text(data)),
                extension::ENCRYPTION => found.encryption = true,
                _ => {}
            }
            at += 8 + length.next_multiple_of(8);
        }
        Ok(found)
    }

    fn check_features(&self, features: u64, extensions: &Extensions) -> Result<()> {
        let known = 1 << incompatible::DIRTY
            | 1 << incompatible::COMPRESSION
            | 1 << incompatible::EXTENDED_L2;
        let refused = features & !known;
        if refused == 0 {
            return Ok(());
        }
        match refused.trailing_zeros() {
            incompatible::CORRUPT => Err(invalid(
                "the file is marked corrupt (incompatible feature bit 1): repair it with `qemu-img check -r all`, or convert a sound copy",
            )),
            incompatible::EXTERNAL_DATA => {
                let name = extensions
                    .external_data
                    .as_deref()
                    .map_or("without a stated name".into(), |name| format!("{name:?}"));
                Err(unsupported(&format!(
                    "its data lies in an external data file ({name}): make one file of both with `qemu-img convert -O qcow2`"
                )))
            }
            bit => {
                let named = extensions
                    .feature_names
                    .iter()
                    .find(|(kind, at, _)| *kind == 0 && u32::from(*at) == bit);
                let name = named.map_or("which the file does not name".into(), |(_, _, name)| {
                    format!("{name:?}")
                });
                Err(unsupported(&format!(
                    "it needs incompatible feature bit {bit} ({name}), unknown to this release: convert it with `qemu-img convert -O qcow2`"
                )))
            }
        }
    }

    fn check_encryption(&self, extensions: &Extensions) -> Result<()> {
        let name = match u32_at(self.bytes, 32) {
            0 if extensions.encryption => {
                return Err(invalid(
                    "it has a full disk encryption header, but crypt_method is 0",
                ));
            }
            0 => return Ok(()),
            1 => "AES".to_owned(),
            2 => "LUKS".to_owned(),
            other => format!("method {other}"),
        };
        Err(unsupported(&format!(
            "it is encrypted ({name}): decrypt it with `qemu-img convert -O qcow2` and upload the result"
        )))
    }

    fn check_backing(&self, offset: u64) -> Result<()> {
        let length = u32_at(self.bytes, 16);
        if offset == 0 || length == 0 {
            return Ok(());
        }
        if length > BACKING_NAME_BYTES_MAX {
            return Err(invalid(&format!(
                "the backing file's name has {length} bytes: at most {BACKING_NAME_BYTES_MAX} are allowed"
            )));
        }
        let name = usize::try_from(offset)
            .ok()
            .and_then(|start| self.bytes.get(start..start.checked_add(length as usize)?))
            .ok_or_else(|| {
                invalid(&format!("the backing file's name ({length} bytes at file offset {offset}) lies outside the first cluster"))
            })?;
        Err(unsupported(&format!(
            "it has the backing file {:?}: make one file of both with `qemu-img convert -O qcow2`",
            text(name)
        )))
    }

    fn method(&self, header_bytes: u32, features: u64) -> Result<Method> {
        let present = header_bytes > HEADER_BYTES_V3;
        let value = if present {
            self.bytes[HEADER_BYTES_V3 as usize]
        } else {
            0
        };
        match (bit(features, incompatible::COMPRESSION), value) {
            (false, 0) => Ok(Method::Deflate),
            (true, 1) => Ok(Method::Zstd),
            (true, 0) => Err(invalid(
                "the compression type bit is set, but compression_type is 0 or missing",
            )),
            (false, other) => Err(invalid(&format!(
                "compression_type is {other}, but the compression type bit is not set"
            ))),
            (true, other) => Err(unsupported(&format!(
                "compression_type {other}: this release reads 0 (zlib) and 1 (zstd); convert it with `qemu-img convert -O qcow2`"
            ))),
        }
    }

    fn refcount_table(&self) -> Result<(u64, u64)> {
        let (offset, clusters) = (u64_at(self.bytes, 48), u64::from(u32_at(self.bytes, 56)));
        let length = clusters << self.cluster_bits;
        if length == 0 || length > REFCOUNT_TABLE_BYTES_MAX {
            return Err(invalid(&format!(
                "the refcount table has {clusters} clusters, {length} bytes: it has from 1 byte to {REFCOUNT_TABLE_BYTES_MAX}"
            )));
        }
        self.check_table("the refcount table", offset, length)?;
        Ok((offset, clusters))
    }

    fn notes(&self, features: u64) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        if bit(features, incompatible::DIRTY) {
            notes.push("it was not closed cleanly (dirty bit): read as its L1 and L2 tables stand, reference counts are not needed".into());
        }
        let (snapshots, offset) = (u32_at(self.bytes, 60), u64_at(self.bytes, 64));
        if snapshots > SNAPSHOTS_MAX {
            return Err(invalid(&format!(
                "it declares {snapshots} internal snapshots: at most {SNAPSHOTS_MAX} are allowed"
            )));
        }
        if snapshots > 0 {
            self.check_table("the snapshot table", offset, 1)?;
            notes.push(format!(
                "{snapshots} internal snapshots left out: only the active state is shown"
            ));
        }
        Ok(notes)
    }

    fn l1_entries(&self, header: &Header) -> Result<u64> {
        let size = header.size_bytes;
        if size > VOLUME_BYTES_MAX {
            return Err(unsupported(&format!(
                "it declares a disk of {size} bytes: images go up to {VOLUME_BYTES_MAX} (64 TiB)"
            )));
        }
        if !size.is_multiple_of(512) {
            return Err(invalid(&format!(
                "it declares a disk of {size} bytes, which is not a multiple of 512"
            )));
        }
        let file_clusters = self.file_bytes.div_ceil(header.cluster_bytes());
        if file_clusters > FILE_CLUSTERS_MAX {
            return Err(unsupported(&format!(
                "the file has {file_clusters} clusters of {} bytes: at most {FILE_CLUSTERS_MAX} are read; convert it with `qemu-img convert -O qcow2 -o cluster_size=64k`",
                header.cluster_bytes()
            )));
        }
        let declared = u64::from(u32_at(self.bytes, 36));
        let needed = size.div_ceil(header.l2_guest_bytes());
        if declared < needed {
            return Err(invalid(&format!(
                "the L1 table has {declared} entries: a disk of {size} bytes with clusters of {} needs {needed}",
                header.cluster_bytes()
            )));
        }
        if declared * 8 > L1_BYTES_MAX {
            return Err(invalid(&format!(
                "the L1 table has {declared} entries: at most {} are allowed",
                L1_BYTES_MAX / 8
            )));
        }
        if declared > 0 {
            self.check_table("the L1 table", header.l1_offset, declared * 8)?;
        }
        Ok(needed)
    }

    /// A table begins at a cluster's boundary behind the header and ends inside the file.
    fn check_table(&self, what: &str, offset: u64, length: u64) -> Result<()> {
        let cluster_bytes = 1_u64 << self.cluster_bits;
        if offset == 0 || !offset.is_multiple_of(cluster_bytes) {
            return Err(invalid(&format!(
                "{what} is said to lie at file offset {offset:#x}: not the beginning of a cluster behind the header"
            )));
        }
        if offset
            .checked_add(length)
            .is_none_or(|end| end > self.file_bytes)
        {
            return Err(invalid(&format!(
                "{what} is said to lie at file offset {offset:#x} with {length} bytes: the file ends at {:#x}. Is the upload complete?",
                self.file_bytes
            )));
        }
        Ok(())
    }
}

pub(super) fn invalid(what: &str) -> Error {
    Error::new(
        Kind::Invalid,
        Subject::Image,
        format!("malformed qcow2: {what}"),
    )
}

pub(super) fn unsupported(what: &str) -> Error {
    Error::new(
        Kind::Unsupported,
        Subject::Image,
        format!("qcow2 not supported: {what}"),
    )
}

fn bit(features: u64, at: u32) -> bool {
    features >> at & 1 == 1
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8]
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}
