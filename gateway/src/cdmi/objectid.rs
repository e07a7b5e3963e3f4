//! CDMI object ids (CDMI 1.1.1, 5.10; CDMI 2.0.0, "Object identifiers").
//!
//! ```text
//! byte  0     reserved, zero
//!       1..4  enterprise number, network order
//!       4     reserved, zero
//!       5     length of the whole id in bytes, 9 to 40
//!       6..8  CRC-16 of the whole id with this field zero
//!       8..   opaque: a kind (1 byte), the store (8), what finds the thing again (0 to 16)
//! ```
//! 1. Only the opaque part says which object is meant: an id stays good though the provider's
//!    enterprise number changes.
//! 2. A damaged id is refused as malformed; it never finds another object.

/// Bytes of a whole id at most.
const ID_BYTES_MAX: usize = 40;
/// Bytes before the opaque part.
const HEAD_BYTES: usize = 8;
/// Bytes of the opaque part that say which store it is.
const STORE_BYTES: usize = 8;

/// What an id stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// The root container.
    Root,
    /// A data object, a container with a marker of its own, or a bucket: its number in the catalog.
    Numbered(u64),
    /// What has only a place: a container that is no more than a prefix of keys, or something in a
    /// snapshot. A digest of the place.
    Placed(u128),
    /// A volume, by the number of its map.
    Volume(u64),
    /// A fixed part of the interface: capabilities objects, the container of the volumes.
    Fixed(u16),
}

/// How this server writes and reads ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    /// The provider's enterprise number with IANA.
    pub(super) enterprise: u32,
    /// Tells this store's numbers from those of others.
    pub(super) store: u64,
}

/// Why a text is no object id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// Digits other than hexadecimal ones, or an odd number of them.
    #[error("an object id is written in pairs of hexadecimal digits")]
    Digits,
    /// Too short, too long, or not as long as it says.
    #[error("an object id has 9 to 40 bytes, as many as its sixth byte says")]
    Length,
    /// The checksum is not the one of these bytes.
    #[error("the object id's CRC-16 does not match: a digit is wrong")]
    Checksum,
    /// Well-formed, but not one of this store's.
    #[error("the object id is not one of this store's")]
    Foreign,
}

const ROOT: u8 = 0;
const NUMBERED: u8 = 1;
const PLACED: u8 = 2;
const VOLUME: u8 = 3;
const FIXED: u8 = 4;

impl Subject {
    fn tagged(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Root => (ROOT, Vec::new()),
            Self::Numbered(number) => (NUMBERED, number.to_be_bytes().to_vec()),
            Self::Placed(digest) => (PLACED, digest.to_be_bytes().to_vec()),
            Self::Volume(map) => (VOLUME, map.to_be_bytes().to_vec()),
            Self::Fixed(number) => (FIXED, number.to_be_bytes().to_vec()),
        }
    }

    fn untagged(kind: u8, rest: &[u8]) -> Result<Self, Malformed> {
        let number = || <[u8; 8]>::try_from(rest).map(u64::from_be_bytes);
        let found = match kind {
            ROOT if rest.is_empty() => Ok(Self::Root),
            NUMBERED => number().map(Self::Numbered),
            VOLUME => number().map(Self::Volume),
            PLACED => {
                <[u8; 16]>::try_from(rest).map(|digest| Self::Placed(u128::from_be_bytes(digest)))
            }
            FIXED => <[u8; 2]>::try_from(rest).map(|fixed| Self::Fixed(u16::from_be_bytes(fixed))),
            _ => return Err(Malformed::Foreign),
        };
        found.map_err(|_| Malformed::Foreign)
    }
}

impl Ids {
    /// The id of a subject, as this provider writes it.
    pub(super) fn written(self, subject: &Subject) -> String {
        let (kind, rest) = subject.tagged();
        let length = HEAD_BYTES + 1 + STORE_BYTES + rest.len();
        let mut id = Vec::with_capacity(length);
        id.push(0);
        id.extend_from_slice(&self.enterprise.to_be_bytes()[1..]);
        id.push(0);
        // No subject takes more than 16 bytes, so no id more than 33.
        id.push(u8::try_from(length).unwrap_or(u8::MAX));
        id.extend_from_slice(&[0, 0]);
        id.push(kind);
        id.extend_from_slice(&self.store.to_be_bytes());
        id.extend_from_slice(&rest);
        let sum = crc16(&id);
        id[6..8].copy_from_slice(&sum.to_be_bytes());
        hex::encode_upper(id)
    }

    /// Reads an id of this store, whatever enterprise number it carries, in digits of either case.
    pub(super) fn read(self, text: &str) -> Result<Subject, Malformed> {
        if text.len() > 2 * ID_BYTES_MAX {
            return Err(Malformed::Length);
        }
        let mut id = hex::decode(text).map_err(|_| Malformed::Digits)?;
        if id.len() <= HEAD_BYTES || usize::from(id[5]) != id.len() {
            return Err(Malformed::Length);
        }
        let told = u16::from_be_bytes([id[6], id[7]]);
        id[6..8].copy_from_slice(&[0, 0]);
        if crc16(&id) != told {
            return Err(Malformed::Checksum);
        }
        let opaque = &id[HEAD_BYTES..];
        if id[0] != 0 || id[4] != 0 || opaque.len() <= STORE_BYTES {
            return Err(Malformed::Foreign);
        }
        let (head, rest) = opaque.split_at(1 + STORE_BYTES);
        if head[1..] != self.store.to_be_bytes() {
            return Err(Malformed::Foreign);
        }
        Subject::untagged(head[0], rest)
    }
}

/// CRC-16 with polynomial 0x8005, reflected, initially zero: the one whose check is 0xBB3D.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |mut sum, byte| {
        sum ^= u16::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 {
                (sum >> 1) ^ 0xA001
            } else {
                sum >> 1
            };
        }
        sum
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: Ids = Ids {
        enterprise: 0x7ED9,
        store: 0x0123_4567_89AB_CDEF,
    };

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(crc16(b"123456789"), 0xBB3D);
        // Ids that the standard's examples show: well-formed, and not ours.
        for example in [
            "00007ED900104E1D14771DC67C27BF8B",
            "00007E7F0010BD1CB8FF1823CF05BEE4",
            "00007E7F00102E230ED82694DAA975D2",
            "0000706D0010B84FAD185C425D8B537E",
        ] {
            assert_eq!(OURS.read(example), Err(Malformed::Foreign), "{example}");
        }
    }

    #[test]
    fn an_id_carries_its_enterprise_number_length_and_checksum() {
        let id = OURS.written(&Subject::Numbered(7));
        assert_eq!(id.len(), 50);
        assert!(id.starts_with("00007ED90019"), "{id}");
        assert_eq!(OURS.read(&id), Ok(Subject::Numbered(7)));
        assert_eq!(OURS.read(&id.to_lowercase()), Ok(Subject::Numbered(7)));
        // Another enterprise number changes the id, not what it finds; another store is another.
        let renumbered = Ids {
            enterprise: 1,
            ..OURS
        };
        assert_ne!(renumbered.written(&Subject::Numbered(7)), id);
        assert_eq!(renumbered.read(&id), Ok(Subject::Numbered(7)));
        let elsewhere = Ids { store: 1, ..OURS };
        assert_eq!(elsewhere.read(&id), Err(Malformed::Foreign));
    }

    #[test]
    fn what_is_no_id_is_refused_with_the_reason() {
        let good = OURS.written(&Subject::Root);
        for (text, why) in [
            ("", Malformed::Length),
            ("0", Malformed::Digits),
            ("zz", Malformed::Digits),
            ("ä", Malformed::Digits),
            ("0000", Malformed::Length),
            (&good[..good.len() - 2], Malformed::Length),
            (&format!("{good}00"), Malformed::Length),
            (&"0".repeat(82), Malformed::Length),
            (&good.replace("7ED9", "7ED8"), Malformed::Checksum),
        ] {
            assert_eq!(OURS.read(text), Err(why), "{text}");
        }
    }

    fn subjects() -> impl Strategy<Value = Subject> {
        prop_oneof![
            Just(Subject::Root),
            any::<u64>().prop_map(Subject::Numbered),
            any::<u128>().prop_map(Subject::Placed),
            any::<u64>().prop_map(Subject::Volume),
            any::<u16>().prop_map(Subject::Fixed),
        ]
    }

    proptest! {
        #[test]
        fn every_subject_comes_back_from_its_id(
            subject in subjects(), enterprise in 0_u32..1 << 24, store in any::<u64>(),
        ) {
            let ids = Ids { enterprise, store };
            let id = ids.written(&subject);
            prop_assert!(id.len() <= 2 * ID_BYTES_MAX);
            prop_assert_eq!(ids.read(&id), Ok(subject));
        }

        #[test]
        fn one_wrong_digit_never_finds_another_object(
            subject in subjects(), place in 0_usize..66, digit in 0_u32..16,
        ) {
            let id = OURS.written(&subject);
            let place = place % id.len();
            let mut digits: Vec<char> = id.chars().collect();
            digits[place] = std::char::from_digit(digit, 16).unwrap().to_ascii_uppercase();
            let changed: String = digits.into_iter().collect();
            if changed != id {
                prop_assert!(OURS.read(&changed).is_err());
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,100}") {
            let _ = OURS.read(&text);
        }

        #[test]
        fn any_bytes_with_a_good_frame_are_read_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 9..40),
        ) {
            bytes[5] = u8::try_from(bytes.len()).unwrap();
            bytes[6..8].copy_from_slice(&[0, 0]);
            let sum = crc16(&bytes);
            bytes[6..8].copy_from_slice(&sum.to_be_bytes());
            if let Ok(subject) = OURS.read(&hex::encode(&bytes)) {
                let enterprise = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]);
                let again = Ids { enterprise, ..OURS }.written(&subject);
                prop_assert_eq!(again, hex::encode_upper(&bytes));
            }
        }
    }
}
