//! Which bytes a GET or HEAD asks for: a range, a part, or all.

use s3s::dto::Range;
use s3s::{S3Error, S3Result, s3_error};
use std::ops;

/// The asked bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) bytes: ops::Range<u64>,
    /// Whether this is less than was stored, or asked for as if it were (206).
    pub(super) content_range: Option<String>,
}

/// `parts` are the sizes of the parts that the object was completed from; empty for one piece.
pub(super) fn slice(
    length_bytes: u64,
    parts: &[u64],
    range: Option<&Range>,
    part_number: Option<i32>,
) -> S3Result<Slice> {
    let bytes = match (range, part_number) {
        (None, None) => {
            return Ok(Slice {
                bytes: 0..length_bytes,
                content_range: None,
            });
        }
        (Some(_), Some(_)) => {
            return Err(s3_error!(
                InvalidRequest,
                "Cannot specify both Range header and partNumber query parameter"
            ));
        }
        (Some(range), None) => {
            of_range(length_bytes, range).ok_or_else(|| unsatisfiable(length_bytes))?
        }
        (None, Some(number)) => of_part(length_bytes, parts, number)?,
    };
    if bytes.is_empty() {
        // Part 1 of an empty object: RFC 9110 has no Content-Range for it.
        return Ok(Slice {
            bytes,
            content_range: None,
        });
    }
    let content_range = format!("bytes {}-{}/{length_bytes}", bytes.start, bytes.end - 1);
    Ok(Slice {
        bytes,
        content_range: Some(content_range),
    })
}

/// `bytes=<first>-<last>` of a part copy, both ends given, within the source.
pub(super) fn of_copy(length_bytes: u64, text: &str) -> S3Result<ops::Range<u64>> {
    match Range::parse(text) {
        Ok(Range::Int {
            first,
            last: Some(last),
        }) if last < length_bytes => Ok(first..last + 1),
        Ok(Range::Int { last: Some(_), .. }) => Err(unsatisfiable(length_bytes)),
        _ => Err(s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first \
             and last are the zero-based offsets of the first and last bytes to copy: it is {text:?}"
        )),
    }
}

fn of_range(length_bytes: u64, range: &Range) -> Option<ops::Range<u64>> {
    match *range {
        Range::Int { first, last } => {
            let end = last.map_or(length_bytes, |last| {
                length_bytes.min(last.saturating_add(1))
            });
            (first < end).then_some(first..end)
        }
        Range::Suffix { length } => {
            let length = length.min(length_bytes);
            (length > 0).then_some(length_bytes - length..length_bytes)
        }
    }
}

fn of_part(length_bytes: u64, parts: &[u64], number: i32) -> S3Result<ops::Range<u64>> {
    let index = usize::try_from(number)
        .ok()
        .and_then(|number| number.checked_sub(1));
    match (index, parts) {
        (Some(0), []) => Ok(0..length_bytes),
        (Some(index), parts) if index < parts.len() => {
            let start: u64 = parts[..index].iter().sum();
            Ok(start..start + parts[index])
        }
        _ => Err(super::error::custom(
            "InvalidPartNumber",
            http::StatusCode::RANGE_NOT_SATISFIABLE,
            format!(
                "The requested partnumber is not satisfiable: {number} of {}",
                parts.len().max(1)
            ),
        )),
    }
}

fn unsatisfiable(length_bytes: u64) -> S3Error {
    let mut error = s3_error!(
        InvalidRange,
        "The requested range is not satisfiable: there are {length_bytes} bytes"
    );
    if let Ok(value) = http::HeaderValue::try_from(format!("bytes */{length_bytes}")) {
        error.set_headers(http::HeaderMap::from_iter([(
            http::header::CONTENT_RANGE,
            value,
        )]));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(length: u64, range: &str) -> Result<(u64, u64), String> {
        let range = Range::parse(range).unwrap();
        slice(length, &[], Some(&range), None)
            .map(|slice| (slice.bytes.start, slice.bytes.end))
            .map_err(|refused| refused.code().as_str().to_owned())
    }

    #[test]
    fn ranges_are_cut_at_the_end_and_refused_behind_it() {
        assert_eq!(asked(10, "bytes=0-0"), Ok((0, 1)));
        assert_eq!(asked(10, "bytes=3-5"), Ok((3, 6)));
        assert_eq!(asked(10, "bytes=3-"), Ok((3, 10)));
        assert_eq!(asked(10, "bytes=9-99"), Ok((9, 10)));
        assert_eq!(asked(10, "bytes=-4"), Ok((6, 10)));
        assert_eq!(asked(10, "bytes=-40"), Ok((0, 10)));
        assert_eq!(asked(10, "bytes=0-9223372036854775807"), Ok((0, 10)));
        for bad in [
            "bytes=10-",
            "bytes=10-11",
            "bytes=-0",
            "bytes=9223372036854775807-",
        ] {
            assert_eq!(asked(10, bad), Err("InvalidRange".into()), "{bad}");
        }
        for bad in ["bytes=0-0", "bytes=0-", "bytes=-1"] {
            assert_eq!(
                asked(0, bad),
                Err("InvalidRange".into()),
                "{bad} of nothing"
            );
        }
    }

    #[test]
    fn an_unsatisfiable_range_tells_the_length() {
        let refused = slice(10, &[], Some(&Range::parse("bytes=10-").unwrap()), None).unwrap_err();
        assert_eq!(refused.headers().unwrap()["content-range"], "bytes */10");
    }

    #[test]
    fn parts_are_found_by_their_number() {
        let part = |number| slice(12, &[5, 5, 2], None, Some(number));
        assert_eq!(part(1).unwrap().bytes, 0..5);
        assert_eq!(part(3).unwrap().bytes, 10..12);
        assert_eq!(part(3).unwrap().content_range.unwrap(), "bytes 10-11/12");
        for number in [0, 4, -1, i32::MIN, i32::MAX] {
            assert_eq!(
                part(number).unwrap_err().code().as_str(),
                "InvalidPartNumber"
            );
        }
        assert_eq!(slice(12, &[], None, Some(1)).unwrap().bytes, 0..12);
        assert_eq!(slice(0, &[], None, Some(1)).unwrap().content_range, None);
        assert!(slice(12, &[], Some(&Range::Suffix { length: 1 }), Some(1)).is_err());
    }

    #[test]
    fn a_copied_range_names_both_ends_within_the_source() {
        assert_eq!(of_copy(10, "bytes=0-9").unwrap(), 0..10);
        assert_eq!(
            of_copy(10, "bytes=0-10").unwrap_err().code().as_str(),
            "InvalidRange"
        );
        for bad in ["bytes=0-", "bytes=-3", "0-3", "bytes=5-3", "bytes=a-b", ""] {
            assert_eq!(
                of_copy(10, bad).unwrap_err().code().as_str(),
                "InvalidArgument",
                "{bad}"
            );
        }
    }
}
