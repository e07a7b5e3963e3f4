//! A connection spoken by hand, for what no client does: the codec's other direction.

use crate::lab::Lab;
use fuse::nbd::codec::answer::{Answer, AnswerHeader, Greeting};
use fuse::nbd::codec::haggle::{ClientFlags, ClientOption, InfoRequest};
use fuse::nbd::codec::numbers::Errno;
use fuse::nbd::codec::reply::{Chunk, ChunkHeader, SimpleReply};
use fuse::nbd::codec::request::{Command, Request};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
}

impl Raw {
    /// In transmission on `export`, with structured replies.
    pub(crate) fn attach(lab: &Lab, export: &str) -> Self {
        let mut stream = UnixStream::connect(lab.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.read_exact(&mut [0; Greeting::BYTES]).unwrap();
        stream
            .write_all(
                &ClientFlags {
                    fixed_newstyle: true,
                    no_zeroes: true,
                }
                .encode(),
            )
            .unwrap();
        for option in [
            ClientOption::StructuredReply,
            ClientOption::Go(InfoRequest {
                name: export,
                wanted: vec![],
            }),
        ] {
            let mut bytes = Vec::new();
            option.encode(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
            loop {
                let mut header = [0; AnswerHeader::BYTES];
                stream.read_exact(&mut header).unwrap();
                let header = AnswerHeader::decode(&header).unwrap();
                let mut data = vec![0; header.data_bytes as usize];
                stream.read_exact(&mut data).unwrap();
                match Answer::decode(header.kind, &data).unwrap() {
                    Answer::Ack => break,
                    Answer::Refused { message, .. } => panic!("{option:?}: {message}"),
                    _ => {}
                }
            }
        }
        Self { stream }
    }

    pub(crate) fn send(&mut self, command: Command, offset: u64, length: u32, payload: &[u8]) {
        let request = Request {
            flags: 0,
            command,
            cookie: 1,
            offset,
            length,
        };
        self.stream.write_all(&request.encode()).unwrap();
        self.stream.write_all(payload).unwrap();
    }

    /// A request that is answered without data: what went wrong, if anything.
    pub(crate) fn ask(
        &mut self,
        command: Command,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> Option<(Errno, String)> {
        self.send(command, offset, length, payload);
        // Successes are simple replies, errors are chunks; a simple reply is the shorter.
        let mut simple = [0; SimpleReply::BYTES];
        self.stream.read_exact(&mut simple).unwrap();
        if let Ok(reply) = SimpleReply::decode(&simple) {
            return reply.error.map(|errno| (errno, String::new()));
        }
        let mut header = [0; ChunkHeader::BYTES];
        header[..simple.len()].copy_from_slice(&simple);
        self.stream.read_exact(&mut header[simple.len()..]).unwrap();
        let header = ChunkHeader::decode(&header).unwrap();
        let mut payload = vec![0; header.payload_bytes as usize];
        self.stream.read_exact(&mut payload).unwrap();
        match Chunk::decode(header.kind, &payload).unwrap() {
            Chunk::Error { errno, message } => Some((errno, message.to_owned())),
            Chunk::OffsetData { .. } | Chunk::OffsetHole { .. } | Chunk::None => None,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn write(&mut self, offset: u64, payload: &[u8]) -> Option<(Errno, String)> {
        self.ask(Command::Write, offset, payload.len() as u32, payload)
    }

    /// Whether the server closes the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
