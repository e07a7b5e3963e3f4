//! Tells image formats apart by their first bytes. A name's ending says nothing.
//!
//! Whatever is not known as something else is raw: there is nothing to tell a raw disk by. A guest can
//! therefore write another format's beginning to its own disk; it gains nothing by it, for no format
//! here leads out of its file.

use crate::image::qcow2;
use crate::object::ReadAt;
use crate::{Error, Kind, Result, Subject};

/// Formats an image can be made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The bytes of the disk themselves.
    Raw,
    /// qcow2, version 2 or 3.
    Qcow2,
}

impl Format {
    /// Its name in listings, and QEMU's.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

/// A format known well enough to refuse it.
struct Foreign {
    name: &'static str,
    at: u64,
    magic: &'static [u8],
    /// What makes something usable of it.
    hint: Hint,
}

enum Hint {
    Convert(&'static str),
    Unpack(&'static str),
}

const CONVERT_VMDK: Hint = Hint::Convert("vmdk");
const FOREIGN: [Foreign; 17] = [
    Foreign {
        name: "QED",
        at: 0,
        magic: b"QED\0",
        hint: Hint::Convert("qed"),
    },
    Foreign {
        name: "VMDK",
        at: 0,
        magic: b"KDMV",
        hint: CONVERT_VMDK,
    },
    Foreign {
        name: "VMDK",
        at: 0,
        magic: b"COWD",
        hint: CONVERT_VMDK,
    },
    Foreign {
        name: "VMDK",
        at: 0,
        magic: b"# Disk DescriptorFile",
        hint: CONVERT_VMDK,
    },
    Foreign {
        name: "VDI",
        at: 64,
        magic: &[0x7f, 0x10, 0xda, 0xbe],
        hint: Hint::Convert("vdi"),
    },
    Foreign {
        name: "VHDX",
        at: 0,
        magic: b"vhdxfile",
        hint: Hint::Convert("vhdx"),
    },
    Foreign {
        name: "VHD",
        at: 0,
        magic: b"conectix",
        hint: Hint::Convert("vpc"),
    },
    Foreign {
        name: "Parallels",
        at: 0,
        magic: b"WithoutFreeSpace",
        hint: Hint::Convert("parallels"),
    },
    Foreign {
        name: "Parallels",
        at: 0,
        magic: b"WithouFreSpacExt",
        hint: Hint::Convert("parallels"),
    },
    Foreign {
        name: "gzip",
        at: 0,
        magic: &[0x1f, 0x8b, 0x08],
        hint: Hint::Unpack("gunzip"),
    },
    Foreign {
        name: "xz",
        at: 0,
        magic: b"\xfd7zXZ\0",
        hint: Hint::Unpack("unxz"),
    },
    Foreign {
        name: "zip",
        at: 0,
        magic: b"PK\x03\x04",
        hint: Hint::Unpack("unzip"),
    },
    Foreign {
        name: "zstd",
        at: 0,
        magic: &[0x28, 0xb5, 0x2f, 0xfd],
        hint: Hint::Unpack("unzstd"),
    },
    Foreign {
        name: "bzip2",
        at: 0,
        magic: b"BZh",
        hint: Hint::Unpack("bunzip2"),
    },
    Foreign {
        name: "lz4",
        at: 0,
        magic: &[0x04, 0x22, 0x4d, 0x18],
        hint: Hint::Unpack("unlz4"),
    },
    Foreign {
        name: "7-Zip",
        at: 0,
        magic: b"7z\xbc\xaf\x27\x1c",
        hint: Hint::Unpack("7z x"),
    },
    Foreign {
        name: "tar (an OVA is one)",
        at: 257,
        magic: b"ustar",
        hint: Hint::Unpack("tar xf"),
    },
];

/// The bytes looked at.
const BEGINNING_BYTES: u64 = 512;

/// What `file` is; [`Kind::Unsupported`] with the format's name and a way out for one that is known
/// but not read.
pub fn detect(file: &dyn ReadAt) -> Result<Format> {
    let length = file.length_bytes();
    let mut beginning = vec![0; usize::try_from(length.min(BEGINNING_BYTES)).unwrap_or(usize::MAX)];
    file.read_at(0, &mut beginning)?;
    if beginning.starts_with(&qcow2::MAGIC) {
        return Ok(Format::Qcow2);
    }
    let starts_with = |foreign: &&Foreign| {
        beginning
            .get(usize::try_from(foreign.at).unwrap_or(usize::MAX)..)
            .is_some_and(|rest| rest.starts_with(foreign.magic))
    };
    if let Some(foreign) = FOREIGN.iter().find(starts_with) {
        return Err(refused(foreign));
    }
    // A VHD of fixed size is a raw disk with a footer, which the guest would see.
    if length > BEGINNING_BYTES {
        let mut cookie = [0; 8];
        file.read_at(length - 512, &mut cookie)?;
        if cookie == *b"conectix" {
            return Err(refused(&Foreign {
                name: "VHD",
                at: length - 512,
                magic: b"conectix",
                hint: Hint::Convert("vpc"),
            }));
        }
    }
    Ok(Format::Raw)
}

fn refused(foreign: &Foreign) -> Error {
    let Foreign {
        name,
        at,
        magic,
        hint,
    } = foreign;
    let advice = match hint {
        Hint::Convert(format) => {
            format!("convert it with `qemu-img convert -f {format} -O qcow2` and upload the result")
        }
        Hint::Unpack(command) => {
            format!(
                "unpack it with `{command}` and upload what is inside (raw or qcow2; for anything else `qemu-img convert -O qcow2`)"
            )
        }
    };
    Error::new(
        Kind::Unsupported,
        Subject::Image,
        format!(
            "this is {name} (bytes {} at offset {at}), images are made from raw and qcow2: {advice}",
            hex::encode(magic)
        ),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{FOREIGN, Format, detect};
    use crate::Kind;
    use crate::image::run::tests::Bytes;

    #[test]
    fn foreign_formats_are_refused_by_name_with_a_way_out() {
        for foreign in &FOREIGN {
            let mut bytes = vec![0; 4096];
            let at = usize::try_from(foreign.at).unwrap();
            bytes[at..at + foreign.magic.len()].copy_from_slice(foreign.magic);
            let error = detect(&Bytes(bytes)).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            let text = error.to_string();
            assert!(
                text.contains(foreign.name)
                    && text.contains("qemu-img convert")
                    && text.contains("-O qcow2"),
                "{text}"
            );
        }
        let mut fixed_vhd = vec![0; 8192 + 512];
        fixed_vhd[8192..8200].copy_from_slice(b"conectix");
        assert!(
            detect(&Bytes(fixed_vhd))
                .unwrap_err()
                .to_string()
                .contains("VHD")
        );
    }

    #[test]
    fn anything_else_is_raw_or_qcow2() {
        assert_eq!(detect(&Bytes(Vec::new())).unwrap(), Format::Raw);
        assert_eq!(detect(&Bytes(b"QFI".to_vec())).unwrap(), Format::Raw);
        assert_eq!(detect(&Bytes(vec![0; 4096])).unwrap(), Format::Raw);
        assert_eq!(
            detect(&Bytes(b"QFI\xfb and more".to_vec())).unwrap(),
            Format::Qcow2
        );
    }
}
