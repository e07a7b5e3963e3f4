//! The wire's frames, without I/O: how one is written down, and how one is told from garbage.
//!
//! ```text
//! a connection, each way:   preamble, then frames
//! preamble   0 "INFPEER\n" · 8 newest version spoken u16 · 10 oldest version spoken u16
//! frame      0 length of the body u32 · 4 lane u8 · 5 kind u8 · 6 id u64
//!            14 CRC-32 of bytes 0..14 and of the body u32 · 18 body            (little endian)
//! ```
//!
//! 1. No input makes a decoder panic or allocate: lengths are checked against the lane's limit first.
//! 2. The preamble, the frame's head, and the kinds `hello`, `welcome` and `refusal` stay as they are
//!    in every version, so that nodes of different releases can refuse each other in words.

use super::{Body, Lane};
use bytes::Bytes;

/// The version that this release speaks best.
pub(super) const NEWEST: u16 = 1;
/// The oldest version that this release speaks still.
pub(super) const OLDEST: u16 = 1;
/// Bytes of a preamble.
pub(super) const PREAMBLE_BYTES: usize = 12;
/// Bytes of a frame before its body.
pub(super) const HEAD_BYTES: usize = 18;
/// A hello, a welcome or a refusal is not larger.
pub(super) const HELLO_BYTES_MAX: usize = 4096;

const MAGIC: &[u8; 8] = b"INFPEER\n";
const CHECKED_HEAD_BYTES: usize = 14;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A question; its id is the asker's, and new.
    Request,
    /// The answer to the question of that id.
    Reply,
    /// Needs no answer; its id counts the connection's messages.
    Message,
    /// The question of that id is withdrawn.
    Cancel,
    /// Nothing, to show that somebody is there.
    Ping,
    /// The question of that id failed: kind, subject, text.
    Failure,
    /// Who is calling: the first frame of the node that dialled.
    Hello,
    /// Who answers: the first frame back.
    Welcome,
    /// No, and why. Nothing follows.
    Refusal,
    /// Nothing follows; everything before has been said. Answered by the same.
    Goodbye,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Request,
        Self::Reply,
        Self::Message,
        Self::Cancel,
        Self::Ping,
        Self::Failure,
        Self::Hello,
        Self::Welcome,
        Self::Refusal,
        Self::Goodbye,
    ];

    const fn number(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
            Self::Message => 3,
            Self::Cancel => 4,
            Self::Ping => 5,
            Self::Failure => 6,
            Self::Hello => 7,
            Self::Welcome => 8,
            Self::Refusal => 9,
            Self::Goodbye => 10,
        }
    }

    fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number.checked_sub(1)?)).copied()
    }
}

/// Bytes that are no frame of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the first bytes are {found:02x?}, not those of an Infall node")]
    Magic { found: [u8; 8] },
    #[error("it says that it speaks versions {oldest} to {newest}, which is no range")]
    Versions { oldest: u16, newest: u16 },
    #[error("a frame has the unknown kind {0}")]
    Kind(u8),
    #[error("a frame has the unknown lane {0}")]
    Lane(u8),
    #[error("a {kind:?} frame came on lane {found}, this connection is for {expected}")]
    OtherLane {
        kind: Kind,
        found: Lane,
        expected: Lane,
    },
    #[error("a {kind:?} frame was not to come now")]
    Unexpected { kind: Kind },
    #[error("a frame announces {length} bytes, at most {limit} are allowed here")]
    TooLong { length: u32, limit: usize },
    #[error(
        "a frame of {length} bytes has the checksum {found:08x}, its bytes have {computed:08x}"
    )]
    Checksum {
        length: u32,
        found: u32,
        computed: u32,
    },
}

/// Which versions the other side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preamble {
    pub(super) newest: u16,
    pub(super) oldest: u16,
}

impl Preamble {
    /// What this release says.
    pub(super) const OURS: Self = Self {
        newest: NEWEST,
        oldest: OLDEST,
    };

    pub(super) fn encode(self) -> [u8; PREAMBLE_BYTES] {
        let mut bytes = [0; PREAMBLE_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&self.newest.to_le_bytes());
        bytes[10..].copy_from_slice(&self.oldest.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; PREAMBLE_BYTES]) -> Result<Self, Malformed> {
        let [m0, m1, m2, m3, m4, m5, m6, m7, n0, n1, o0, o1] = *bytes;
        let found = [m0, m1, m2, m3, m4, m5, m6, m7];
        if found != *MAGIC {
            return Err(Malformed::Magic { found });
        }
        let (newest, oldest) = (u16::from_le_bytes([n0, n1]), u16::from_le_bytes([o0, o1]));
        if oldest > newest {
            return Err(Malformed::Versions { oldest, newest });
        }
        Ok(Self { newest, oldest })
    }

    /// The newest version that both speak.
    pub(super) fn agreed(self, other: Self) -> Option<u16> {
        let version = self.newest.min(other.newest);
        (version >= self.oldest && version >= other.oldest).then_some(version)
    }
}

/// A frame's first bytes, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: u32,
    pub(super) lane: Lane,
    pub(super) kind: Kind,
    pub(super) id: u64,
    checksum: u32,
}

impl Head {
    /// Reads a head; `limit` is the longest body that is welcome.
    pub(super) fn decode(bytes: &[u8; HEAD_BYTES], limit: usize) -> Result<Self, Malformed> {
        let [
            l0,
            l1,
            l2,
            l3,
            lane,
            kind,
            i0,
            i1,
            i2,
            i3,
            i4,
            i5,
            i6,
            i7,
            c0,
            c1,
            c2,
            c3,
        ] = *bytes;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let kind = Kind::of(kind).ok_or(Malformed::Kind(kind))?;
        let lane = Lane::of(lane).ok_or(Malformed::Lane(lane))?;
        if usize::try_from(length).is_ok_and(|length| length > limit) {
            return Err(Malformed::TooLong { length, limit });
        }
        Ok(Self {
            length,
            lane,
            kind,
            id: u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            checksum: u32::from_le_bytes([c0, c1, c2, c3]),
        })
    }

    /// Bytes of the body to come.
    pub(super) fn body_bytes(&self) -> usize {
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }

    /// Whether this body is what was sent with this head.
    pub(super) fn check(&self, body: &[u8]) -> Result<(), Malformed> {
        let first = first_bytes(self.length, self.lane, self.kind, self.id);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&first);
        hasher.update(body);
        let computed = hasher.finalize();
        if computed == self.checksum && body.len() == self.body_bytes() {
            return Ok(());
        }
        Err(Malformed::Checksum {
            length: self.length,
            found: self.checksum,
            computed,
        })
    }
}

/// A frame to be sent: its head is written down, its body is as the caller gave it.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) head: [u8; HEAD_BYTES],
    pub(super) body: Body,
}

impl Frame {
    /// Takes the checksum. `None`: longer than a frame can say.
    pub(super) fn new(lane: Lane, kind: Kind, id: u64, body: Body) -> Option<Self> {
        let first = first_bytes(u32::try_from(body.len()).ok()?, lane, kind, id);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&first);
        for slice in body.slices() {
            hasher.update(slice);
        }
        let mut head = [0; HEAD_BYTES];
        head[..CHECKED_HEAD_BYTES].copy_from_slice(&first);
        head[CHECKED_HEAD_BYTES..].copy_from_slice(&hasher.finalize().to_le_bytes());
        Some(Self {
            kind,
            id,
            head,
            body,
        })
    }

    /// A frame without a body.
    pub(super) fn empty(lane: Lane, kind: Kind, id: u64) -> Self {
        let first = first_bytes(0, lane, kind, id);
        let mut head = [0; HEAD_BYTES];
        head[..CHECKED_HEAD_BYTES].copy_from_slice(&first);
        head[CHECKED_HEAD_BYTES..].copy_from_slice(&crc32fast::hash(&first).to_le_bytes());
        Self {
            kind,
            id,
            head,
            body: Body::default(),
        }
    }

    /// Bytes on the wire.
    pub(super) fn len(&self) -> usize {
        HEAD_BYTES + self.body.len()
    }
}

/// A frame that came.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) body: Bytes,
}

fn first_bytes(length: u32, lane: Lane, kind: Kind, id: u64) -> [u8; CHECKED_HEAD_BYTES] {
    let mut bytes = [0; CHECKED_HEAD_BYTES];
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4] = lane.number();
    bytes[5] = kind.number();
    bytes[6..].copy_from_slice(&id.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Frame, HEAD_BYTES, Head, Kind, Malformed, PREAMBLE_BYTES, Preamble};
    use crate::peer::{Body, Lane};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn joined(body: &Body) -> Vec<u8> {
        body.slices().flat_map(|slice| slice.to_vec()).collect()
    }

    fn any_body() -> impl Strategy<Value = Body> {
        let slice = || proptest::collection::vec(any::<u8>(), 0..300);
        (slice(), proptest::collection::vec(slice(), 0..4)).prop_map(|(header, payload)| {
            Body::new(header, payload.into_iter().map(Bytes::from).collect())
        })
    }

    proptest! {
        #[test]
        fn a_frame_reads_as_it_was_written(
            lane in 0_usize..5, kind in 0_usize..10, id: u64, body in any_body()
        ) {
            let frame = Frame::new(Lane::ALL[lane], Kind::ALL[kind], id, body.clone()).unwrap();
            let bytes = joined(&body);
            let head = Head::decode(&frame.head, 4096).unwrap();
            prop_assert_eq!(head.kind, Kind::ALL[kind]);
            prop_assert_eq!(head.lane, Lane::ALL[lane]);
            prop_assert_eq!(head.id, id);
            prop_assert_eq!(head.body_bytes(), bytes.len());
            prop_assert_eq!(frame.len(), HEAD_BYTES + bytes.len());
            prop_assert!(head.check(&bytes).is_ok());
        }

        #[test]
        fn no_flipped_bit_goes_unnoticed(id: u64, body in any_body(), at: proptest::sample::Index, bit in 0_u8..8) {
            let frame = Frame::new(Lane::Replica, Kind::Message, id, body.clone()).unwrap();
            let mut bytes = frame.head.to_vec();
            bytes.extend(joined(&body));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let head: [u8; HEAD_BYTES] = bytes[..HEAD_BYTES].try_into().unwrap();
            let body = &bytes[HEAD_BYTES..];
            let accepted = Head::decode(&head, 1 << 20).is_ok_and(|head| head.check(body).is_ok());
            prop_assert!(!accepted);
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(
            head: [u8; HEAD_BYTES], limit: usize, preamble: [u8; PREAMBLE_BYTES],
            body in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            if let Ok(head) = Head::decode(&head, limit) {
                prop_assert!(head.body_bytes() <= limit);
                let _ = head.check(&body);
            }
            if let Ok(found) = Preamble::decode(&preamble) {
                prop_assert_eq!(found.encode(), preamble);
            }
        }

        #[test]
        fn both_sides_agree_on_a_version(a: (u16, u16), b: (u16, u16)) {
            let preamble = |(x, y): (u16, u16)| Preamble { newest: x.max(y), oldest: x.min(y) };
            let (a, b) = (preamble(a), preamble(b));
            prop_assert_eq!(a.agreed(b), b.agreed(a));
            if let Some(version) = a.agreed(b) {
                prop_assert!((a.oldest..=a.newest).contains(&version));
                prop_assert!((b.oldest..=b.newest).contains(&version));
            }
        }
    }

    #[test]
    fn garbage_is_told_apart_by_its_first_bytes() {
        let garbage = *b"GET / HTTP/1";
        assert!(matches!(
            Preamble::decode(&garbage),
            Err(Malformed::Magic { .. })
        ));
        assert_eq!(
            Preamble::decode(&Preamble::OURS.encode()),
            Ok(Preamble::OURS)
        );
    }

    #[test]
    fn a_frame_longer_than_its_lane_allows_is_refused_before_it_is_read() {
        let frame = Frame::new(Lane::Control, Kind::Request, 1, vec![0; 100].into()).unwrap();
        let refused = Head::decode(&frame.head, 99);
        assert_eq!(
            refused,
            Err(Malformed::TooLong {
                length: 100,
                limit: 99
            })
        );
    }
}
