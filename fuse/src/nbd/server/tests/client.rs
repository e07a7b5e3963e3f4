//! A client that speaks the codec's other direction, and can also misbehave.

use crate::nbd::codec::answer::{Answer, AnswerHeader, ExportInfo, Greeting, Refusal};
use crate::nbd::codec::haggle::{ClientFlags, ClientOption, ContextQuery, InfoRequest};
use crate::nbd::codec::numbers::{CHUNK_MAGIC, Errno, allocation};
use crate::nbd::codec::reply::{Chunk, ChunkHeader, Descriptor, SimpleReply};
use crate::nbd::codec::request::{Command, Request};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(super) struct Client {
    pub(super) stream: UnixStream,
    structured: bool,
}

/// The whole reply to one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) cookie: u64,
    pub(super) error: Option<(Errno, String)>,
    /// Data and holes as they came: offset, bytes.
    pub(super) data: Vec<(u64, Vec<u8>)>,
    pub(super) holes: Vec<(u64, u32)>,
    pub(super) descriptors: Vec<Descriptor>,
}

/// What an option was answered with: a count of answers, or the refusal.
pub(super) type Answered = Result<Vec<Told>, (Refusal, String)>;

/// An answer's contents, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Server(String, String),
    Export(ExportInfo),
    Text(String),
    BlockSize(u32, u32, u32),
    Context(u32, String),
}

impl Client {
    /// Connected, flags exchanged.
    pub(super) fn connect(path: &Path) -> Self {
        let mut client = Self::connect_raw(path);
        let mut greeting = [0; Greeting::BYTES];
        client.stream.read_exact(&mut greeting).unwrap();
        assert_eq!(Greeting::decode(&greeting), Ok(Greeting { flags: 3 }));
        let flags = ClientFlags {
            fixed_newstyle: true,
            no_zeroes: true,
        };
        client.stream.write_all(&flags.encode()).unwrap();
        client
    }

    pub(super) fn connect_raw(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self {
            stream,
            structured: false,
        }
    }

    /// In transmission on `name`, with structured replies and base:allocation.
    pub(super) fn attach(path: &Path, name: &str) -> Self {
        let mut client = Self::connect(path);
        client.option(&ClientOption::StructuredReply).unwrap();
        let query = ContextQuery {
            name,
            queries: vec![allocation::NAME],
        };
        assert_eq!(
            client
                .option(&ClientOption::SetMetaContext(query))
                .unwrap()
                .len(),
            1
        );
        client.go(name).unwrap();
        client.structured()
    }

    /// In transmission on `name` with simple replies.
    pub(super) fn attach_simple(path: &Path, name: &str) -> Self {
        let mut client = Self::connect(path);
        client.go(name).unwrap();
        client
    }

    /// The same client, aware that structured replies were negotiated.
    pub(super) fn structured(self) -> Self {
        Self {
            structured: true,
            ..self
        }
    }

    pub(super) fn go(&mut self, name: &str) -> Answered {
        self.option(&ClientOption::Go(InfoRequest {
            name,
            wanted: vec![],
        }))
    }

    pub(super) fn option(&mut self, option: &ClientOption<'_>) -> Answered {
        let mut bytes = Vec::new();
        option.encode(&mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
        self.answers(option.number())
    }

    /// Answers up to the last one.
    pub(super) fn answers(&mut self, option: u32) -> Answered {
        let mut told = Vec::new();
        loop {
            let mut header = [0; AnswerHeader::BYTES];
            self.stream.read_exact(&mut header).unwrap();
            let header = AnswerHeader::decode(&header).unwrap();
            assert_eq!(header.option, option);
            let mut data = vec![0; header.data_bytes as usize];
            self.stream.read_exact(&mut data).unwrap();
            told.push(match Answer::decode(header.kind, &data).unwrap() {
                Answer::Ack => return Ok(told),
                Answer::Refused { refusal, message } => return Err((refusal, message.into())),
                Answer::Server { name, description } => {
                    Told::Server(name.into(), description.into())
                }
                Answer::Export(info) => Told::Export(info),
                Answer::Name(text) | Answer::Description(text) => Told::Text(text.into()),
                Answer::BlockSize {
                    minimum,
                    preferred,
                    maximum,
                } => Told::BlockSize(minimum, preferred, maximum),
                Answer::MetaContext { id, name } => Told::Context(id, name.into()),
                Answer::OtherInfo(kind) => panic!("information of type {kind}"),
            });
        }
    }

    /// Sends a request without waiting for its reply.
    pub(super) fn send(
        &mut self,
        command: Command,
        flags: u16,
        cookie: u64,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) {
        let mut bytes = Request {
            flags,
            command,
            cookie,
            offset,
            length,
        }
        .encode()
        .to_vec();
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes).unwrap();
    }

    /// One request and its reply.
    pub(super) fn ask(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> Reply {
        self.send(command, flags, 77, offset, length, payload);
        let reads = if command == Command::Read {
            length as usize
        } else {
            0
        };
        let reply = self.reply(reads);
        assert_eq!(reply.cookie, 77);
        reply
    }

    pub(super) fn write(&mut self, offset: u64, payload: &[u8]) -> Reply {
        self.ask(Command::Write, 0, offset, payload.len() as u32, payload)
    }

    /// The bytes of a successful read, put together from its chunks.
    pub(super) fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        let reply = self.ask(Command::Read, 0, offset, length, &[]);
        assert_eq!(reply.error, None);
        reply.assemble(offset, length)
    }

    /// The next whole reply; `read_bytes` is what a simple reply to it would carry.
    pub(super) fn reply(&mut self, read_bytes: usize) -> Reply {
        let mut reply = Reply::default();
        loop {
            let mut magic = [0; 4];
            self.stream.read_exact(&mut magic).unwrap();
            if u32::from_be_bytes(magic) != CHUNK_MAGIC {
                let mut header = [0; SimpleReply::BYTES];
                header[..4].copy_from_slice(&magic);
                self.stream.read_exact(&mut header[4..]).unwrap();
                let simple = SimpleReply::decode(&header).unwrap();
                reply.cookie = simple.cookie;
                reply.error = simple.error.map(|errno| (errno, String::new()));
                if reply.error.is_none() && !self.structured {
                    let mut data = vec![0; read_bytes];
                    self.stream.read_exact(&mut data).unwrap();
                    reply.data.push((0, data));
                }
                return reply;
            }
            assert!(self.structured, "a chunk without structured replies");
            let mut header = [0; ChunkHeader::BYTES];
            header[..4].copy_from_slice(&magic);
            self.stream.read_exact(&mut header[4..]).unwrap();
            let header = ChunkHeader::decode(&header).unwrap();
            let mut payload = vec![0; header.payload_bytes as usize];
            self.stream.read_exact(&mut payload).unwrap();
            reply.cookie = header.cookie;
            match Chunk::decode(header.kind, &payload).unwrap() {
                Chunk::None => {}
                Chunk::OffsetData { offset, data } => reply.data.push((offset, data.to_vec())),
                Chunk::OffsetHole { offset, length } => reply.holes.push((offset, length)),
                Chunk::BlockStatus { descriptors, .. } => reply.descriptors = descriptors,
                Chunk::Error { errno, message } | Chunk::ErrorOffset { errno, message, .. } => {
                    reply.error = Some((errno, message.into()));
                }
            }
            if header.done {
                return reply;
            }
        }
    }

    /// Whether the server has closed the connection (it must do so soon).
    pub(super) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

impl Reply {
    pub(super) fn errno(&self) -> Option<Errno> {
        self.error.as_ref().map(|(errno, _)| *errno)
    }

    fn assemble(&self, offset: u64, length: u32) -> Vec<u8> {
        if let [(0, data)] = self.data.as_slice()
            && data.len() == length as usize
        {
            return data.clone();
        }
        let mut bytes = vec![0xEE; length as usize];
        let mut covered = 0;
        for (at, data) in &self.data {
            let at = (at - offset) as usize;
            bytes[at..at + data.len()].copy_from_slice(data);
            covered += data.len();
        }
        for (at, hole) in &self.holes {
            let at = (at - offset) as usize;
            bytes[at..at + *hole as usize].fill(0);
            covered += *hole as usize;
        }
        assert_eq!(covered, length as usize, "chunks that cover the read once");
        bytes
    }
}
