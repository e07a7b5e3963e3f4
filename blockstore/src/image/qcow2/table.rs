//! L1 and L2 tables: from guest clusters to places in the file (`qcow2.rst`, "Cluster mapping" and
//! "Extended L2 Entries").
//!
//! 1. Tables are read when the walk comes to them: a stretch of L1 entries and one L2 table at a
//!    time.
//! 2. A cluster of the file is used once: for the header, a table or a guest cluster. A second use is
//!    refused, so a walk ends after at most as many tables as the file has room for, and no small
//!    file shows a large disk by showing the same bytes again and again.
//! 3. A pointer is followed only to a cluster's boundary inside the file. Of the last data cluster
//!    the part that the guest sees must be there.

use super::header::{Header, invalid, u64_at};
use crate::image::run::{Run, RunKind};
use crate::object::ReadAt;
use crate::{Error, Result};
use std::collections::{HashMap, VecDeque};

/// Bits 9 to 55 of an L1 entry or of a standard cluster descriptor.
const OFFSET_BITS: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZEROES: u64 = 1;
const SUBCLUSTERS: u64 = 32;

/// L1 entries read at a time: 64 KiB.
const L1_STRETCH: u64 = 8192;

/// What an L2 entry says of its cluster, before it is held against the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cluster {
    Zero,
    Stored {
        file_offset: u64,
    },
    /// Some of 32 subclusters are stored, the others are zeroes: a bit for each.
    Partly {
        file_offset: u64,
        stored: u32,
    },
    Compressed {
        file_offset: u64,
        length_max: u64,
    },
}

/// The runs of a qcow2 file in guest order, merged. Ends after the first error.
pub struct Runs<'a> {
    file: &'a dyn ReadAt,
    header: &'a Header,
    used: Used,
    l1: Vec<u8>,
    /// Index of the first entry in `l1`.
    l1_first: u64,
    l2: Vec<u8>,
    l2_offset: u64,
    /// The walk has come to here.
    guest_offset: u64,
    /// Parts of a cluster already walked over, in order.
    parts: VecDeque<Run>,
    /// The last run, which the next one may still lengthen.
    open: Option<Run>,
    failed: bool,
}

impl<'a> Runs<'a> {
    pub(super) fn new(file: &'a dyn ReadAt, header: &'a Header) -> Self {
        Self {
            file,
            header,
            used: Used::default(),
            l1: Vec::new(),
            l1_first: 0,
            l2: Vec::new(),
            l2_offset: 0,
            guest_offset: 0,
            parts: VecDeque::new(),
            open: None,
            failed: false,
        }
    }

    fn merged(&mut self) -> Result<Option<Run>> {
        loop {
            let Some(part) = self.part()? else {
                return Ok(self.open.take());
            };
            let Some(open) = &mut self.open else {
                self.open = Some(part);
                continue;
            };
            if !open.merge(&part) {
                return Ok(Some(std::mem::replace(open, part)));
            }
        }
    }

    /// The next part: an L2 table's worth of nothing, a cluster, or a piece of one.
    fn part(&mut self) -> Result<Option<Run>> {
        if let Some(part) = self.parts.pop_front() {
            return Ok(Some(part));
        }
        let header = self.header;
        if self.guest_offset >= header.size_bytes {
            return Ok(None);
        }
        if self.guest_offset == 0 {
            self.use_fixed_clusters()?;
        }
        let at = self.guest_offset;
        if at.is_multiple_of(header.l2_guest_bytes())
            && !self.enter_l2(at / header.l2_guest_bytes())?
        {
            return Ok(Some(self.advance(header.l2_guest_bytes(), RunKind::Zero)));
        }
        let index = (at >> header.cluster_bits) % header.l2_entries();
        let cluster = self.l2_entry(index)?;
        let visible = header.cluster_bytes().min(header.size_bytes - at);
        self.check_place(cluster, visible)
            .map_err(|problem| self.at_l2_entry(index, &problem))?;
        let kind = match cluster {
            Cluster::Zero => RunKind::Zero,
            Cluster::Stored { file_offset } => RunKind::Stored { file_offset },
            Cluster::Compressed {
                file_offset,
                length_max,
            } => {
                // The last sector may be cut: nothing says that the file is a multiple of 512.
                RunKind::Compressed {
                    file_offset,
                    length_max: length_max.min(header.file_bytes - file_offset),
                }
            }
            Cluster::Partly {
                file_offset,
                stored,
            } => {
                self.split(file_offset, stored, visible);
                self.guest_offset += header.cluster_bytes();
                return Ok(self.parts.pop_front());
            }
        };
        Ok(Some(self.advance(header.cluster_bytes(), kind)))
    }

    /// A run of at most `length` from here on, cut at the end of the disk; the walk goes on behind it.
    fn advance(&mut self, length: u64, kind: RunKind) -> Run {
        let guest_offset = self.guest_offset;
        self.guest_offset += length;
        Run {
            guest_offset,
            length: length.min(self.header.size_bytes - guest_offset),
            kind,
        }
    }

    fn split(&mut self, file_offset: u64, stored: u32, visible: u64) {
        let bytes = self.header.cluster_bytes() / SUBCLUSTERS;
        for index in 0..visible.div_ceil(bytes) {
            let skip = index * bytes;
            let kind = if stored >> index & 1 == 1 {
                RunKind::Stored {
                    file_offset: file_offset + skip,
                }
            } else {
                RunKind::Zero
            };
            self.parts.push_back(Run {
                guest_offset: self.guest_offset + skip,
                length: bytes.min(visible - skip),
                kind,
            });
        }
    }

    fn use_fixed_clusters(&mut self) -> Result<()> {
        let header = self.header;
        let l1_clusters = (header.l1_entries * 8).div_ceil(header.cluster_bytes());
        let fixed = [
            ("the header", 0, 1),
            ("the L1 table", header.l1_offset, l1_clusters),
            (
                "the refcount table",
                header.refcount_table_offset,
                header.refcount_table_clusters,
            ),
        ];
        for (what, offset, clusters) in fixed {
            for cluster in 0..clusters {
                let place = (offset >> header.cluster_bits) + cluster;
                if !self.used.mark(place) {
                    return Err(invalid(&format!(
                        "{what} and another table share the cluster at file offset {:#x}",
                        place << header.cluster_bits
                    )));
                }
            }
        }
        Ok(())
    }

    /// Reads the L2 table under L1 entry `index`; false if there is none.
    fn enter_l2(&mut self, index: u64) -> Result<bool> {
        let header = self.header;
        let entry = self.l1_entry(index)?;
        let at = header.l1_offset + index * 8;
        let offset = decode_l1(entry)
            .and_then(|offset| match offset {
                Some(offset) => self
                    .check_cluster(offset, header.cluster_bytes())
                    .map(|()| Some(offset)),
                None => Ok(None),
            })
            .map_err(|problem| {
                invalid(&format!(
                    "L1 entry {index} (file offset {at:#x}) is {entry:#018x}: {problem}"
                ))
            })?;
        let Some(offset) = offset else {
            return Ok(false);
        };
        self.l2.resize(
            usize::try_from(header.cluster_bytes()).unwrap_or(usize::MAX),
            0,
        );
        self.l2_offset = offset;
        self.file.read_at(offset, &mut self.l2)?;
        Ok(true)
    }

    fn l1_entry(&mut self, index: u64) -> Result<u64> {
        let header = self.header;
        let held = (self.l1.len() / 8) as u64;
        if index < self.l1_first || index >= self.l1_first + held {
            let entries = L1_STRETCH.min(header.l1_entries - index);
            self.l1
                .resize(usize::try_from(entries * 8).unwrap_or(usize::MAX), 0);
            self.l1_first = index;
            self.file
                .read_at(header.l1_offset + index * 8, &mut self.l1)?;
        }
        Ok(entry_at(&self.l1, index - self.l1_first))
    }

    fn l2_entry(&self, index: u64) -> Result<Cluster> {
        let decoded = if self.header.extended_l2 {
            decode_extended(
                entry_at(&self.l2, 2 * index),
                entry_at(&self.l2, 2 * index + 1),
                self.header.cluster_bits,
            )
        } else {
            decode_l2(
                entry_at(&self.l2, index),
                self.header.cluster_bits,
                self.header.version,
            )
        };
        decoded.map_err(|problem| self.at_l2_entry(index, &problem))
    }

    fn check_place(&mut self, cluster: Cluster, visible: u64) -> Result<(), String> {
        match cluster {
            Cluster::Zero => Ok(()),
            Cluster::Stored { file_offset } => self.check_cluster(file_offset, visible),
            Cluster::Partly {
                file_offset,
                stored,
            } => {
                let last = u64::from(32 - stored.leading_zeros());
                let needed = visible.min(last * (self.header.cluster_bytes() / SUBCLUSTERS));
                self.check_cluster(file_offset, needed)
            }
            Cluster::Compressed { file_offset, .. } if file_offset < self.header.file_bytes => {
                Ok(())
            }
            Cluster::Compressed { file_offset, .. } => Err(format!(
                "the compressed cluster at {file_offset:#x} lies behind the file's end at {:#x}. Is the upload complete?",
                self.header.file_bytes
            )),
        }
    }

    /// Takes the cluster at `offset`, of which `needed` bytes must be in the file.
    fn check_cluster(&mut self, offset: u64, needed: u64) -> Result<(), String> {
        let header = self.header;
        if !offset.is_multiple_of(header.cluster_bytes()) {
            return Err(format!(
                "file offset {offset:#x} is not a multiple of the cluster size {:#x}",
                header.cluster_bytes()
            ));
        }
        if offset
            .checked_add(needed)
            .is_none_or(|end| end > header.file_bytes)
        {
            return Err(format!(
                "{needed} bytes at {offset:#x} reach over the file's end at {:#x}. Is the upload complete?",
                header.file_bytes
            ));
        }
        if !self.used.mark(offset >> header.cluster_bits) {
            return Err(format!("the cluster at {offset:#x} is in use already"));
        }
        Ok(())
    }

    fn at_l2_entry(&self, index: u64, problem: &str) -> Error {
        let (entry_bytes, words) = if self.header.extended_l2 {
            (16, 2)
        } else {
            (8, 1)
        };
        let at = self.l2_offset + index * entry_bytes;
        let value: Vec<String> = (0..words)
            .map(|word| format!("{:#018x}", entry_at(&self.l2, index * words + word)))
            .collect();
        invalid(&format!(
            "L2 entry {index} (file offset {at:#x}, guest offset {:#x}) is {}: {problem}",
            self.guest_offset,
            value.join(" ")
        ))
    }
}

impl Iterator for Runs<'_> {
    type Item = Result<Run>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.merged().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

fn entry_at(table: &[u8], index: u64) -> u64 {
    u64_at(table, usize::try_from(index * 8).unwrap_or(usize::MAX))
}

fn decode_l1(entry: u64) -> Result<Option<u64>, String> {
    let reserved = entry & !(OFFSET_BITS | COPIED);
    if reserved != 0 {
        return Err(format!("the reserved bits {reserved:#x} are set"));
    }
    Ok(Some(entry & OFFSET_BITS).filter(|offset| *offset != 0))
}

fn decode_l2(entry: u64, cluster_bits: u32, version: u32) -> Result<Cluster, String> {
    if entry & COMPRESSED != 0 {
        return decode_compressed(entry, cluster_bits);
    }
    let reserved = entry & !(OFFSET_BITS | COPIED | READS_AS_ZEROES);
    if reserved != 0 {
        return Err(format!("the reserved bits {reserved:#x} are set"));
    }
    if entry & READS_AS_ZEROES != 0 {
        if version < 3 {
            return Err("it reads as zeroes, which version 2 does not know".into());
        }
        return Ok(Cluster::Zero);
    }
    match entry & OFFSET_BITS {
        0 if entry & COPIED != 0 => Err("it is in use, but has no place in the file".into()),
        0 => Ok(Cluster::Zero),
        file_offset => Ok(Cluster::Stored { file_offset }),
    }
}

fn decode_extended(entry: u64, bitmap: u64, cluster_bits: u32) -> Result<Cluster, String> {
    if entry & COMPRESSED != 0 {
        return decode_compressed(entry, cluster_bits);
    }
    let reserved = entry & !(OFFSET_BITS | COPIED);
    if reserved != 0 {
        return Err(format!("the reserved bits {reserved:#x} are set"));
    }
    let [stored, zeroes] = [bitmap, bitmap >> 32].map(|half| (half & u64::from(u32::MAX)) as u32);
    if stored & zeroes != 0 {
        return Err(format!(
            "the subclusters {:#010x} are both stored and zeroes",
            stored & zeroes
        ));
    }
    match (entry & OFFSET_BITS, stored) {
        (0, 0) | (_, 0) => Ok(Cluster::Zero),
        (0, _) => Err("subclusters are stored, but it has no place in the file".into()),
        (file_offset, u32::MAX) => Ok(Cluster::Stored { file_offset }),
        (file_offset, stored) => Ok(Cluster::Partly {
            file_offset,
            stored,
        }),
    }
}

fn decode_compressed(entry: u64, cluster_bits: u32) -> Result<Cluster, String> {
    if entry & COPIED != 0 {
        return Err(
            "it is compressed and marked as in use once, which only standard clusters are".into(),
        );
    }
    let offset_bits = 70 - cluster_bits;
    let file_offset = entry & ((1 << offset_bits) - 1);
    let sectors = 1 + (entry >> offset_bits & ((1 << (cluster_bits - 8)) - 1));
    if file_offset >> 56 != 0 {
        return Err(format!(
            "the compressed cluster's offset {file_offset:#x} has more than 56 bits"
        ));
    }
    Ok(Cluster::Compressed {
        file_offset,
        length_max: sectors * 512 - file_offset % 512,
    })
}

/// Which clusters of the file are in use: a bit for each, in pages made when first needed.
#[derive(Default)]
struct Used {
    pages: HashMap<u64, Box<[u64; Used::WORDS]>>,
}

impl Used {
    const WORDS: usize = 64;

    /// False if it was marked before.
    fn mark(&mut self, cluster: u64) -> bool {
        let bits = 64 * Self::WORDS as u64;
        let page = self
            .pages
            .entry(cluster / bits)
            .or_insert_with(|| Box::new([0; Self::WORDS]));
        let at = usize::try_from(cluster % bits).unwrap_or(usize::MAX);
        let (word, bit) = (&mut page[at / 64], 1 << (at % 64));
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Cluster, Used, decode_compressed, decode_extended, decode_l1, decode_l2};

    #[test]
    fn l1_entries_are_decoded_and_reserved_bits_refused() {
        assert_eq!(decode_l1(0), Ok(None));
        assert_eq!(decode_l1(0x8000_0000_0004_0000), Ok(Some(0x4_0000)));
        assert!(decode_l1(0x4_0001).unwrap_err().contains("0x1"));
        assert!(decode_l1(1 << 56 | 0x4_0000).is_err());
    }

    #[test]
    fn standard_descriptors_are_decoded() {
        assert_eq!(decode_l2(0, 16, 3), Ok(Cluster::Zero));
        assert_eq!(
            decode_l2(0x8000_0000_0005_0000, 16, 2),
            Ok(Cluster::Stored {
                file_offset: 0x5_0000
            })
        );
        assert_eq!(decode_l2(0x8000_0000_0005_0001, 16, 3), Ok(Cluster::Zero));
        assert!(decode_l2(0x5_0001, 16, 2).is_err());
        assert!(decode_l2(0x5_0002, 16, 3).is_err());
        assert!(decode_l2(1 << 63, 16, 3).is_err());
    }

    #[test]
    fn compressed_descriptors_are_decoded_for_the_smallest_and_the_largest_clusters() {
        // 512-byte clusters: 61 offset bits and 1 sector bit; 2 MiB ones: 49 and 13.
        let small = decode_compressed(1 << 62 | 1 << 61 | 0x1234, 9);
        assert_eq!(
            small,
            Ok(Cluster::Compressed {
                file_offset: 0x1234,
                length_max: 2 * 512 - 0x34
            })
        );
        let large = decode_compressed(1 << 62 | 8191 << 49 | 0x200, 21);
        assert_eq!(
            large,
            Ok(Cluster::Compressed {
                file_offset: 0x200,
                length_max: 4 << 20
            })
        );
        assert!(decode_compressed(1 << 62 | 1 << 57, 9).is_err());
        assert!(decode_compressed(1 << 63 | 1 << 62 | 0x1234, 16).is_err());
    }

    #[test]
    fn extended_descriptors_are_decoded() {
        let at = 0x8000_0000_0010_0000;
        assert_eq!(
            decode_extended(at, 0xffff_ffff, 16),
            Ok(Cluster::Stored {
                file_offset: 0x10_0000
            })
        );
        assert_eq!(
            decode_extended(at, 0xffff_ffff << 32, 16),
            Ok(Cluster::Zero)
        );
        assert_eq!(
            decode_extended(at, 2 << 32 | 1, 16),
            Ok(Cluster::Partly {
                file_offset: 0x10_0000,
                stored: 1
            })
        );
        assert!(decode_extended(at, 1 << 32 | 1, 16).is_err());
        assert!(decode_extended(0, 1, 16).is_err());
        assert!(decode_extended(at | 1, 1, 16).is_err());
    }

    #[test]
    fn a_cluster_is_marked_once() {
        let mut used = Used::default();
        for cluster in [0, 1, 63, 64, 4095, 4096, 1 << 40] {
            assert!(used.mark(cluster));
            assert!(!used.mark(cluster));
        }
    }
}
