//! A failed answer on the wire: `kind u8 · subject u8 · text`. The asker gets the same kind and
//! subject that the other side's call ended with.

use crate::{Error, Kind, Subject};

/// Longer texts are cut.
const TEXT_BYTES_MAX: usize = 4096;

/// What the other side shall hear.
pub(super) fn encode(error: &Error) -> Vec<u8> {
    let mut text = error.chain();
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    }
    let mut bytes = vec![kind_number(error.kind()), subject_number(error.subject())];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// What the other side said. Numbers of a later release read as internal and as the store.
pub(super) fn decode(bytes: &[u8]) -> Error {
    let (kind, subject, text) = match bytes {
        [kind, subject, text @ ..] => (*kind, *subject, text),
        _ => (u8::MAX, u8::MAX, bytes),
    };
    let kind = KINDS
        .into_iter()
        .find(|known| kind_number(*known) == kind)
        .unwrap_or(Kind::Internal);
    let subject = SUBJECTS
        .into_iter()
        .find(|known| subject_number(*known) == subject)
        .unwrap_or(Subject::Store);
    let text = &text[..text.len().min(TEXT_BYTES_MAX)];
    Error::new(kind, subject, String::from_utf8_lossy(text))
}

const KINDS: [Kind; 11] = [
    Kind::Invalid,
    Kind::NotFound,
    Kind::Conflict,
    Kind::Precondition,
    Kind::Denied,
    Kind::Fenced,
    Kind::Unavailable,
    Kind::NoSpace,
    Kind::Corrupt,
    Kind::Unsupported,
    Kind::Internal,
];

const fn kind_number(kind: Kind) -> u8 {
    match kind {
        Kind::Invalid => 1,
        Kind::NotFound => 2,
        Kind::Conflict => 3,
        Kind::Precondition => 4,
        Kind::Denied => 5,
        Kind::Fenced => 6,
        Kind::Unavailable => 7,
        Kind::NoSpace => 8,
        Kind::Corrupt => 9,
        Kind::Unsupported => 10,
        Kind::Internal => 11,
    }
}

const SUBJECTS: [Subject; 14] = [
    Subject::Store,
    Subject::Bucket,
    Subject::Object,
    Subject::Version,
    Subject::Upload,
    Subject::Part,
    Subject::Range,
    Subject::Volume,
    Subject::Snapshot,
    Subject::Image,
    Subject::Record,
    Subject::Journal,
    Subject::Identity,
    Subject::Project,
];

const fn subject_number(subject: Subject) -> u8 {
    match subject {
        Subject::Store => 1,
        Subject::Bucket => 2,
        Subject::Object => 3,
        Subject::Version => 4,
        Subject::Upload => 5,
        Subject::Part => 6,
        Subject::Range => 7,
        Subject::Volume => 8,
        Subject::Snapshot => 9,
        Subject::Image => 10,
        Subject::Record => 11,
        Subject::Journal => 12,
        Subject::Identity => 13,
        Subject::Project => 14,
    }
}

#[cfg(test)]
mod tests {
    use super::{KINDS, SUBJECTS, TEXT_BYTES_MAX, decode, encode};
    use crate::{Error, Kind, Subject};
    use proptest::prelude::*;

    #[test]
    fn a_failure_keeps_its_kind_and_subject_over_the_wire() {
        for kind in KINDS {
            for subject in SUBJECTS {
                let heard = decode(&encode(&Error::new(kind, subject, "volume \"v1\" is gone")));
                assert_eq!((heard.kind(), heard.subject()), (kind, subject));
                assert_eq!(heard.chain(), "volume \"v1\" is gone");
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = Error::new(Kind::Internal, Subject::Store, "ü".repeat(TEXT_BYTES_MAX));
        assert!(encode(&long).len() <= TEXT_BYTES_MAX + 2);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }
}
