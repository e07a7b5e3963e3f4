//! aws-chunked framing, walked before the signature layer unpacks it.
//!
//! The layer below collects each chunk in memory before it verifies and yields it, takes any
//! declared size, and takes the end of the bytes at a chunk's edge for the end of the body. So:
//!
//! 1. A signed chunk over [`SIGNED_CHUNK_BYTES_MAX`] is refused at its size line.
//! 2. An unsigned chunk of any size (SDKs send the whole body as one) is cut anew at the edges of
//!    the pieces it arrives in: nothing is signed there that a cut could break.
//! 3. A body is whole only once its chunk of size zero was seen.
//!
//! ```text
//! <hex size>[;chunk-signature=<hex>]\r\n <bytes> \r\n … 0[;chunk-signature=<hex>]\r\n [trailers] \r\n
//! ```
//! ("Signature calculations … Transferring payload in multiple chunks", Amazon S3 API reference)

use bytes::Bytes;
use std::collections::VecDeque;

/// Bytes in a signed chunk at most; each is held in memory until its signature is checked.
pub(super) const SIGNED_CHUNK_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a size line at most, with its signature.
const SIZE_LINE_BYTES_MAX: usize = 256;
/// Hex digits of a size at most: enough for 64 bits.
const SIZE_DIGITS_MAX: usize = 16;

/// Walks one body's framing.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    line: Vec<u8>,
    cut_anew: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Data {
        left: u64,
    },
    /// How many bytes of the `\r\n` behind the data were seen.
    DataEnd {
        seen: usize,
    },
    /// Behind the last chunk.
    Trailers,
}

/// What is wrong with a framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misframed {
    /// A signed chunk of so many bytes.
    TooLarge(u64),
    /// Not the framing that was announced.
    Malformed(&'static str),
    /// The bytes ended before the last chunk.
    Truncated,
}

impl Framing {
    /// `signed`: each chunk carries its signature and must go on as it is.
    pub(super) fn new(signed: bool) -> Self {
        Self {
            state: State::Size,
            line: Vec::new(),
            cut_anew: !signed,
        }
    }

    /// Takes the next bytes; what is to go on is appended to `onward`.
    pub(super) fn push(
        &mut self,
        bytes: &Bytes,
        onward: &mut VecDeque<Bytes>,
    ) -> Result<(), Misframed> {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            match self.state {
                State::Size => {
                    let (taken, whole) = match rest.iter().position(|&byte| byte == b'\n') {
                        Some(end) => (rest.split_to(end + 1), true),
                        None => (rest.split_to(rest.len()), false),
                    };
                    if self.line.len() + taken.len() > SIZE_LINE_BYTES_MAX {
                        return Err(Misframed::Malformed("a chunk's size line is too long"));
                    }
                    self.line.extend_from_slice(&taken);
                    if whole {
                        self.size_line(onward)?;
                    }
                }
                State::Data { left } => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let data = rest.split_to(take);
                    if self.cut_anew {
                        onward.push_back(format!("{take:x}\r\n").into());
                        onward.push_back(data);
                        onward.push_back(Bytes::from_static(b"\r\n"));
                    } else {
                        onward.push_back(data);
                    }
                    let left = left - take as u64;
                    self.state = if left == 0 {
                        State::DataEnd { seen: 0 }
                    } else {
                        State::Data { left }
                    };
                }
                State::DataEnd { seen } => {
                    let byte = rest.split_to(1);
                    if byte[0] != b"\r\n"[seen] {
                        return Err(Misframed::Malformed(
                            "a chunk is longer than its size line says",
                        ));
                    }
                    if !self.cut_anew {
                        onward.push_back(byte);
                    }
                    self.state = if seen == 0 {
                        State::DataEnd { seen: 1 }
                    } else {
                        State::Size
                    };
                }
                State::Trailers => onward.push_back(rest.split_to(rest.len())),
            }
        }
        Ok(())
    }

    /// Whether the bytes may end here.
    pub(super) fn finish(&self) -> Result<(), Misframed> {
        if self.state == State::Trailers {
            Ok(())
        } else {
            Err(Misframed::Truncated)
        }
    }

    fn size_line(&mut self, onward: &mut VecDeque<Bytes>) -> Result<(), Misframed> {
        let line = std::mem::take(&mut self.line);
        let size = parse_size(&line)?;
        if size > SIGNED_CHUNK_BYTES_MAX && !self.cut_anew {
            return Err(Misframed::TooLarge(size));
        }
        if size == 0 {
            self.state = State::Trailers;
            onward.push_back(if self.cut_anew {
                Bytes::from_static(b"0\r\n")
            } else {
                line.into()
            });
        } else {
            self.state = State::Data { left: size };
            if !self.cut_anew {
                onward.push_back(line.into());
            }
        }
        Ok(())
    }
}

fn parse_size(line: &[u8]) -> Result<u64, Misframed> {
    let malformed = Misframed::Malformed("a chunk's size line is not a hex number");
    let Some(line) = line.strip_suffix(b"\r\n") else {
        return Err(malformed);
    };
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    if digits.is_empty() || digits.len() > SIZE_DIGITS_MAX {
        return Err(malformed);
    }
    let mut size = 0_u64;
    for &digit in digits {
        let Some(value) = char::from(digit).to_digit(16) else {
            return Err(malformed);
        };
        size = size << 4 | u64::from(value);
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes `body` in pieces of `step` bytes; what went on, joined.
    fn walk(signed: bool, body: &[u8], step: usize) -> Result<Vec<u8>, Misframed> {
        let mut framing = Framing::new(signed);
        let mut onward = VecDeque::new();
        for piece in body.chunks(step) {
            framing.push(&Bytes::copy_from_slice(piece), &mut onward)?;
        }
        framing.finish()?;
        Ok(onward.iter().flatten().copied().collect())
    }

    /// The bytes inside a framing, and its trailers.
    fn unpack(mut framed: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut data = Vec::new();
        loop {
            let end = framed.iter().position(|&byte| byte == b'\n').unwrap();
            let size = usize::try_from(parse_size(&framed[..=end]).unwrap()).unwrap();
            framed = &framed[end + 1..];
            if size == 0 {
                return (data, framed.to_vec());
            }
            data.extend_from_slice(&framed[..size]);
            assert_eq!(&framed[size..size + 2], b"\r\n");
            framed = &framed[size + 2..];
        }
    }

    #[test]
    fn a_signed_body_goes_on_byte_for_byte_however_it_arrives() {
        let body = b"5;chunk-signature=ab\r\nhello\r\n1;chunk-signature=cd\r\n!\r\n0;chunk-signature=ef\r\n\r\n";
        for step in 1..body.len() {
            assert_eq!(walk(true, body, step).unwrap(), body);
        }
    }

    #[test]
    fn an_unsigned_body_is_cut_anew_and_says_the_same() {
        let body = b"B\r\nhello world\r\n3\r\nfoo\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
        for step in 1..body.len() {
            let (data, trailers) = unpack(&walk(false, body, step).unwrap());
            assert_eq!(data, b"hello worldfoo");
            assert_eq!(trailers, b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n");
        }
    }

    #[test]
    fn a_body_cut_short_anywhere_before_its_last_chunk_is_not_whole() {
        let body = b"5\r\nhello\r\n0\r\n";
        for end in 0..body.len() {
            for signed in [false, true] {
                assert_eq!(
                    walk(signed, &body[..end], 3),
                    Err(Misframed::Truncated),
                    "at {end}"
                );
            }
        }
        assert!(walk(true, body, 3).is_ok());
    }

    #[test]
    fn a_signed_chunk_over_the_cap_is_refused_at_its_size_line() {
        let over = format!("{:x};chunk-signature=ab\r\n", SIGNED_CHUNK_BYTES_MAX + 1);
        assert_eq!(
            walk(true, over.as_bytes(), 4),
            Err(Misframed::TooLarge(SIGNED_CHUNK_BYTES_MAX + 1))
        );
        // Unsigned, the same size only means that more is to come.
        assert_eq!(walk(false, over.as_bytes(), 4), Err(Misframed::Truncated));
    }

    #[test]
    fn a_huge_declared_size_costs_nothing() {
        assert_eq!(
            walk(false, b"ffffffffffffffff\r\nabc", 5),
            Err(Misframed::Truncated)
        );
        assert!(matches!(
            walk(false, b"10000000000000000\r\n", 5),
            Err(Misframed::Malformed(_))
        ));
    }

    #[test]
    fn garbage_is_refused_and_never_panics() {
        for body in [
            &b"\r\n"[..],
            b"\n",
            b"zz\r\n",
            b"-1\r\n",
            b"5\nhello",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\rX",
            b";chunk-signature=ab\r\n",
            &[0xff; 300],
        ] {
            for step in [1, 2, 300] {
                for signed in [false, true] {
                    assert!(
                        matches!(walk(signed, body, step), Err(Misframed::Malformed(_))),
                        "{body:?}"
                    );
                }
            }
        }
    }
}
