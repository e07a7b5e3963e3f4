//! The handshake: greeting, client flags, options, until an export is chosen (proto.md, "Handshake").
//!
//! 1. It ends within [`HANDSHAKE_LIMIT`], however slowly the client drips.
//! 2. Whatever an option holds, its data is taken off the socket, so that both sides stay in step.
//!    Only a wrong magic, unknown client flags, or data beyond reason end the connection.
//! 3. Exports that are not shown and exports that do not exist look the same.
//! 4. Where TLS is wanted, nothing is told before it but that (proto.md, "FORCEDTLS mode"); what was
//!    negotiated in the clear is forgotten when it begins.

use super::errors::{is_grave, refusal};
use super::export::{Exporter, Listed, Opened, ReadOnly};
use super::guard::Desk;
use super::listener::Exports;
use super::stream::Stream;
use crate::nbd::codec::Malformed;
use crate::nbd::codec::answer::{Answer, ExportInfo, Greeting, PADDING, Refusal};
use crate::nbd::codec::haggle::{
    ClientFlags, ClientOption, ContextQuery, InfoRequest, OptionHeader,
};
use crate::nbd::codec::numbers::{
    OPTION_BYTES_MAX, PAYLOAD_BYTES_MAX, allocation, handshake, info, transmission,
};
use rustls::ServerConfig;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From the first byte to the chosen export.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);
/// Option data we still read away to stay in step; beyond, the client is not in its senses.
const DRAINED_BYTES_MAX: u32 = 16 << 20;
/// Answers are sent when this many bytes have gathered.
const ANSWERS_BYTES: usize = 64 << 10;

/// Block sizes: the protocol's defaults, which we support in full ("Size constraints").
const BLOCK_SIZE: Answer<'static> = Answer::BlockSize {
    minimum: 1,
    preferred: 4096,
    maximum: PAYLOAD_BYTES_MAX,
};

/// The id under which base:allocation is selected.
pub(super) const ALLOCATION_CONTEXT: u32 = 1;

/// How a handshake ended well.
pub(super) struct Agreement {
    pub(super) opened: Opened,
    /// Structured replies.
    pub(super) structured: bool,
    /// base:allocation was selected for this export.
    pub(super) allocation: bool,
}

/// How a handshake ended without an export.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the client ended the handshake")]
    ByClient,
    #[error("the handshake took longer than {} s", HANDSHAKE_LIMIT.as_secs())]
    TooSlow,
    #[error("the client does not speak NBD's fixed newstyle")]
    Malformed(#[from] Malformed),
    #[error("{0} bytes of option data")]
    Excessive(u32),
    #[error("EXPORT_NAME for an export that is not open to the client: {0}")]
    NoExport(String),
    #[error("EXPORT_NAME before TLS, which this listener wants first")]
    InTheClear,
    #[error("TLS could not begin")]
    Tls(#[source] io::Error),
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TooSlow,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::ByClient,
            _ => Self::Io(error),
        }
    }
}

/// Speaks with a client until it has chosen an export.
pub(super) fn haggle(
    stream: &Stream,
    exporter: &dyn Exporter,
    desk: &Desk<'_>,
    tls: Option<&Arc<ServerConfig>>,
) -> Result<Agreement, Ended> {
    let deadline = Instant::now() + HANDSHAKE_LIMIT;
    let line = Line { stream, deadline };
    line.send(
        &Greeting {
            flags: handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES,
        }
        .encode(),
    )?;
    let mut flags = [0; ClientFlags::BYTES];
    line.receive(&mut flags)?;
    let flags = ClientFlags::decode(flags)?;
    let table = Table {
        exporter,
        desk,
        stream,
    };
    let mut state = State::default();
    let mut data = Vec::new();
    loop {
        let mut header = [0; OptionHeader::BYTES];
        line.receive(&mut header)?;
        let OptionHeader { number, data_bytes } = OptionHeader::decode(&header)?;
        if data_bytes > OPTION_BYTES_MAX {
            line.drain(data_bytes)?;
            let message =
                format!("{data_bytes} bytes of option data, at most {OPTION_BYTES_MAX} are taken");
            line.answer(
                number,
                Answer::Refused {
                    refusal: Refusal::TooBig,
                    message: &message,
                },
            )?;
            continue;
        }
        data.resize(data_bytes as usize, 0);
        line.receive(&mut data)?;
        let option = match ClientOption::decode(number, &data) {
            Ok(option) => option,
            // EXPORT_NAME has no way to report an error.
            Err(malformed) if number == ClientOption::ExportName("").number() => {
                return Err(malformed.into());
            }
            Err(malformed) => {
                let message = malformed.to_string();
                line.answer(
                    number,
                    Answer::Refused {
                        refusal: Refusal::Invalid,
                        message: &message,
                    },
                )?;
                continue;
            }
        };
        if tls.is_some() && !stream.is_encrypted() {
            match option {
                ClientOption::StartTls | ClientOption::Abort => {}
                ClientOption::ExportName(_) => return Err(Ended::InTheClear),
                _ => {
                    let refused = Refused {
                        refusal: Refusal::TlsRequired,
                        message: "TLS comes first here: STARTTLS, as clients do for nbds://".into(),
                    };
                    line.refuse(number, &refused)?;
                    continue;
                }
            }
        }
        match option {
            ClientOption::ExportName(name) => {
                let opened = table
                    .open(name)
                    .map_err(|refused| Ended::NoExport(refused.message))?;
                let export = state.export_info(&opened);
                let mut answer = export.encode().to_vec();
                if !flags.no_zeroes {
                    answer.extend_from_slice(&PADDING);
                }
                line.send(&answer)?;
                return state.agree(opened, name, stream);
            }
            ClientOption::Abort => {
                line.answer(number, Answer::Ack)?;
                return Err(Ended::ByClient);
            }
            ClientOption::List => match table.list() {
                Ok(listed) => line.list(number, &listed)?,
                Err(refused) => line.refuse(number, &refused)?,
            },
            ClientOption::Info(request) => match table.open(request.name) {
                Ok(opened) => line.inform(number, &request, &opened, &state)?,
                Err(refused) => line.refuse(number, &refused)?,
            },
            ClientOption::Go(request) => match table.open(request.name) {
                Ok(opened) => {
                    line.inform(number, &request, &opened, &state)?;
                    return state.agree(opened, request.name, stream);
                }
                Err(refused) => line.refuse(number, &refused)?,
            },
            ClientOption::StructuredReply => {
                state.structured = true;
                line.answer(number, Answer::Ack)?;
            }
            ClientOption::ListMetaContext(query) => line
                .contexts(number, 0, &query, true, &table, &state)
                .map(|_| ())?,
            ClientOption::SetMetaContext(query) => {
                state.contexts_for = None;
                if line.contexts(number, ALLOCATION_CONTEXT, &query, false, &table, &state)? {
                    state.contexts_for = Some(query.name.to_owned());
                }
            }
            ClientOption::StartTls => match tls {
                None => {
                    let refused = Refused {
                        refusal: Refusal::Unsupported,
                        message: "this listener has no TLS".into(),
                    };
                    line.refuse(number, &refused)?;
                }
                Some(_) if stream.is_encrypted() => {
                    let refused = Refused {
                        refusal: Refusal::Invalid,
                        message: "TLS has begun already".into(),
                    };
                    line.refuse(number, &refused)?;
                }
                Some(config) => {
                    line.answer(number, Answer::Ack)?;
                    stream
                        .encrypt(Arc::clone(config), deadline)
                        .map_err(Ended::Tls)?;
                    state = State::default();
                }
            },
            ClientOption::ExtendedHeaders | ClientOption::Unknown(_) => {
                let message = format!("option {number} is not known here");
                line.answer(
                    number,
                    Answer::Refused {
                        refusal: Refusal::Unsupported,
                        message: &message,
                    },
                )?;
            }
        }
    }
}

/// What the client has negotiated so far.
#[derive(Default)]
struct State {
    structured: bool,
    /// The export name base:allocation was selected for.
    contexts_for: Option<String>,
}

impl State {
    fn export_info(&self, opened: &Opened) -> ExportInfo {
        let mut flags = transmission::HAS_FLAGS
            | transmission::SEND_FLUSH
            | transmission::SEND_FUA
            | transmission::SEND_CACHE
            | transmission::CAN_MULTI_CONN;
        if opened.export.read_only() {
            flags |= transmission::READ_ONLY;
        } else {
            flags |= transmission::SEND_TRIM
                | transmission::SEND_WRITE_ZEROES
                | transmission::SEND_FAST_ZERO;
        }
        if self.structured {
            flags |= transmission::SEND_DF;
        }
        ExportInfo {
            length_bytes: opened.export.length_bytes(),
            flags,
        }
    }

    fn agree(self, opened: Opened, name: &str, stream: &Stream) -> Result<Agreement, Ended> {
        stream.set_timeouts(None)?;
        let allocation = self.structured && self.contexts_for.is_some_and(|chosen| chosen == name);
        Ok(Agreement {
            opened,
            structured: self.structured,
            allocation,
        })
    }
}

/// A refusal in words.
struct Refused {
    refusal: Refusal,
    message: String,
}

impl From<blockstore::Error> for Refused {
    fn from(error: blockstore::Error) -> Self {
        if is_grave(error.kind()) {
            tracing::error!(error = error.chain(), "an NBD export cannot be opened");
        }
        Self {
            refusal: refusal(error.kind()),
            message: error.chain(),
        }
    }
}

/// The exports of this listener, for this client.
struct Table<'a> {
    exporter: &'a dyn Exporter,
    desk: &'a Desk<'a>,
    stream: &'a Stream,
}

impl Table<'_> {
    fn open(&self, asked: &str) -> Result<Opened, Refused> {
        let pass = self.desk.read(asked)?;
        let mut opened = self.exporter.open(&pass.export, &pass.holder)?;
        self.desk
            .decide(asked, &opened.listed.name, &pass, self.stream.is_secure())?;
        if pass.read_only && !opened.export.read_only() {
            opened.export = Box::new(ReadOnly(opened.export));
        }
        Ok(opened)
    }

    fn list(&self) -> Result<Vec<Listed>, Refused> {
        if !self.desk.may_list()? {
            return Ok(Vec::new());
        }
        match self.desk.exports {
            Exports::All => Ok(self.exporter.list()?),
            // Opening is the only way to ask for one name; what is gone is left out.
            Exports::Only(names) => Ok(names
                .iter()
                .filter_map(|name| {
                    Some(Listed {
                        name: name.clone(),
                        ..self.open(name).ok()?.listed
                    })
                })
                .collect()),
        }
    }
}

/// The socket within the handshake: whole messages, until the deadline.
struct Line<'a> {
    stream: &'a Stream,
    deadline: Instant,
}

impl Line<'_> {
    fn limit(&self) -> Result<(), Ended> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Ended::TooSlow);
        }
        Ok(self.stream.set_timeouts(Some(left))?)
    }

    fn receive(&self, mut buffer: &mut [u8]) -> Result<(), Ended> {
        while !buffer.is_empty() {
            self.limit()?;
            match self.stream.receive(buffer)? {
                0 => return Err(Ended::ByClient),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }

    fn drain(&self, bytes: u32) -> Result<(), Ended> {
        if bytes > DRAINED_BYTES_MAX {
            return Err(Ended::Excessive(bytes));
        }
        let mut left = bytes as usize;
        let mut scratch = [0; 4096];
        while left > 0 {
            let part = left.min(scratch.len());
            self.receive(&mut scratch[..part])?;
            left -= part;
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Ended> {
        self.limit()?;
        Ok(self.stream.send(bytes)?)
    }

    fn answer(&self, option: u32, answer: Answer<'_>) -> Result<(), Ended> {
        let mut bytes = Vec::new();
        answer.encode(option, &mut bytes);
        self.send(&bytes)
    }

    fn refuse(&self, option: u32, refused: &Refused) -> Result<(), Ended> {
        self.answer(
            option,
            Answer::Refused {
                refusal: refused.refusal,
                message: &refused.message,
            },
        )
    }

    fn list(&self, option: u32, listed: &[Listed]) -> Result<(), Ended> {
        let mut bytes = Vec::new();
        for export in listed {
            Answer::Server {
                name: &export.name,
                description: &export.description,
            }
            .encode(option, &mut bytes);
            if bytes.len() >= ANSWERS_BYTES {
                self.send(&bytes)?;
                bytes.clear();
            }
        }
        Answer::Ack.encode(option, &mut bytes);
        self.send(&bytes)
    }

    fn inform(
        &self,
        option: u32,
        request: &InfoRequest<'_>,
        opened: &Opened,
        state: &State,
    ) -> Result<(), Ended> {
        let mut bytes = Vec::new();
        Answer::Export(state.export_info(opened)).encode(option, &mut bytes);
        if request.wants(info::NAME) {
            Answer::Name(&opened.listed.name).encode(option, &mut bytes);
        }
        if request.wants(info::DESCRIPTION) {
            Answer::Description(&opened.listed.description).encode(option, &mut bytes);
        }
        if request.wants(info::BLOCK_SIZE) {
            BLOCK_SIZE.encode(option, &mut bytes);
        }
        Answer::Ack.encode(option, &mut bytes);
        self.send(&bytes)
    }

    /// Answers a context option, and tells whether base:allocation is in the answer. No queries mean
    /// everything to LIST and nothing to SET; the wildcard counts only for LIST ("Metadata querying").
    fn contexts(
        &self,
        option: u32,
        id: u32,
        query: &ContextQuery<'_>,
        listing: bool,
        table: &Table<'_>,
        state: &State,
    ) -> Result<bool, Ended> {
        if !state.structured {
            let message =
                "metadata contexts need structured replies: negotiate STRUCTURED_REPLY first";
            self.answer(
                option,
                Answer::Refused {
                    refusal: Refusal::Invalid,
                    message,
                },
            )?;
            return Ok(false);
        }
        if let Err(refused) = table.open(query.name) {
            self.refuse(option, &refused)?;
            return Ok(false);
        }
        let found = query.queries.contains(&allocation::NAME)
            || listing
                && (query.queries.is_empty() || query.queries.contains(&allocation::WILDCARD));
        let mut bytes = Vec::new();
        if found {
            Answer::MetaContext {
                id,
                name: allocation::NAME,
            }
            .encode(option, &mut bytes);
        }
        Answer::Ack.encode(option, &mut bytes);
        self.send(&bytes)?;
        Ok(found)
    }
}
