//! TCP: tickets in names, and TLS before everything.

use crate::lab::{Lab, MIB, attempt, noise, run, text, who};
use access::identity::{Holder, HolderSort};
use access::{Access, Caller, Credentials, Origin, Principal};
use fuse::nbd::codec::answer::{Answer, AnswerHeader, Greeting, Refusal};
use fuse::nbd::codec::haggle::{ClientFlags, ClientOption, InfoRequest, OptionHeader};
use fuse::nbd::{Listener, Server, serve};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// The lab's store on TCP, too.
struct Tcp {
    server: Server,
    access: Access,
}

impl Tcp {
    fn new(lab: &Lab, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let access = Access::open(lab.store.clone(), Credentials::generate()).unwrap();
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), access.clone(), tls).unwrap();
        let server = serve(lab.store.clone(), listener).unwrap();
        Self { server, access }
    }

    /// `NAME@TICKET`.
    fn ticket(&self, export: &str, read_only: bool) -> String {
        let caller = Caller::root("test");
        let (_, secret) = self
            .access
            .ticket_make(&caller, export, read_only, HOUR)
            .unwrap();
        format!("{export}@{secret}")
    }

    fn uri(&self, name: &str) -> String {
        format!("nbd://{}/{name}", self.server.local_addr().unwrap())
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.local_addr().unwrap()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }
}

/// A certificate for localhost, and who trusts it.
fn certificate() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let chain = vec![made.cert.der().clone()];
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = || Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

fn greet(stream: &mut (impl Read + Write)) {
    stream.read_exact(&mut [0; Greeting::BYTES]).unwrap();
    let flags = ClientFlags {
        fixed_newstyle: true,
        no_zeroes: true,
    };
    stream.write_all(&flags.encode()).unwrap();
}

/// An option and the last answer to it: nothing, or the refusal.
fn ask(
    stream: &mut (impl Read + Write),
    option: &ClientOption<'_>,
) -> Result<(), (Refusal, String)> {
    let mut bytes = Vec::new();
    option.encode(&mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
    answer(stream)
}

fn answer(stream: &mut (impl Read + Write)) -> Result<(), (Refusal, String)> {
    loop {
        let mut header = [0; AnswerHeader::BYTES];
        stream.read_exact(&mut header).unwrap();
        let header = AnswerHeader::decode(&header).unwrap();
        let mut data = vec![0; header.data_bytes as usize];
        stream.read_exact(&mut data).unwrap();
        match Answer::decode(header.kind, &data).unwrap() {
            Answer::Ack => return Ok(()),
            Answer::Refused { refusal, message } => return Err((refusal, message.into())),
            _ => {}
        }
    }
}

fn go(name: &str) -> ClientOption<'_> {
    ClientOption::Go(InfoRequest {
        name,
        wanted: vec![],
    })
}

#[test]
fn tcp_serves_the_same_bytes_to_whoever_has_a_ticket() {
    let lab = Lab::new();
    lab.volume("v", 16 * MIB);
    let tcp = Tcp::new(&lab, None);
    let uri = tcp.uri(&tcp.ticket("v", false));
    let (source, target) = (lab.beside("source"), lab.beside("target"));
    let bytes = noise(9, 16 << 20);
    std::fs::write(&source, &bytes).unwrap();
    run(
        "nbdcopy",
        &["--connections=4", "--flush", text(&source), &uri],
    );
    run(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "raw", &uri, text(&target)],
    );
    assert!(std::fs::read(&target).unwrap() == bytes);
    tcp.server.stop();
    assert!(!attempt("nbdinfo", &[&uri]).status.success());
}

#[test]
fn without_a_ticket_the_answer_is_policy_and_a_list_is_empty() {
    let lab = Lab::new();
    lab.volume("v", MIB);
    let tcp = Tcp::new(&lab, None);
    let mut stream = tcp.connect();
    greet(&mut stream);
    assert_eq!(ask(&mut stream, &ClientOption::List), Ok(()));
    let ticket = tcp.ticket("v", false);
    let wrong = ticket.replace("v@", "w@");
    for name in ["v", "w", "", "v@", "@", "v@x", wrong.as_str()] {
        let (refusal, message) = ask(&mut stream, &go(name)).unwrap_err();
        assert_eq!(refusal, Refusal::Policy, "{name}: {message}");
        assert!(message.contains("infall volume attach"), "{message}");
        let secret = ticket.rsplit_once('@').unwrap().1;
        assert!(!message.contains(secret), "{message}");
    }
    // In the clear there is no TLS to begin, and the same connection still opens with its ticket.
    let (refusal, _) = ask(&mut stream, &ClientOption::StartTls).unwrap_err();
    assert_eq!(refusal, Refusal::Unsupported);
    assert_eq!(ask(&mut stream, &go(&ticket)), Ok(()));
}

#[test]
fn before_tls_only_tls_is_spoken_of() {
    let lab = Lab::new();
    lab.volume("v", MIB);
    let (server, client) = certificate();
    let tcp = Tcp::new(&lab, Some(server));
    let ticket = tcp.ticket("v", false);
    let mut stream = tcp.connect();
    greet(&mut stream);
    for option in [
        ClientOption::List,
        ClientOption::StructuredReply,
        go(&ticket),
        go("none"),
        ClientOption::Unknown(77),
    ] {
        let (refusal, _) = ask(&mut stream, &option).unwrap_err();
        assert_eq!(refusal, Refusal::TlsRequired, "{option:?}");
    }
    // STARTTLS has no data (proto.md, "Option types").
    let header = OptionHeader {
        number: ClientOption::StartTls.number(),
        data_bytes: 1,
    };
    stream.write_all(&header.encode()).unwrap();
    stream.write_all(b"x").unwrap();
    assert_eq!(answer(&mut stream).unwrap_err().0, Refusal::Invalid);
    assert_eq!(ask(&mut stream, &ClientOption::StartTls), Ok(()));
    let name = ServerName::try_from("localhost").unwrap();
    let tls = rustls::ClientConnection::new(client, name).unwrap();
    let mut stream = rustls::StreamOwned::new(tls, stream);
    // No second greeting: options go on, inside.
    let (refusal, _) = ask(&mut stream, &ClientOption::StartTls).unwrap_err();
    assert_eq!(refusal, Refusal::Invalid);
    assert_eq!(ask(&mut stream, &ClientOption::StructuredReply), Ok(()));
    assert_eq!(ask(&mut stream, &go(&ticket)), Ok(()));
}

#[test]
fn an_export_name_in_the_clear_ends_the_connection() {
    let lab = Lab::new();
    lab.volume("v", MIB);
    let tcp = Tcp::new(&lab, Some(certificate().0));
    let mut stream = tcp.connect();
    greet(&mut stream);
    let mut bytes = Vec::new();
    let ticket = tcp.ticket("v", false);
    ClientOption::ExportName(&ticket)
        .encode(&mut bytes)
        .unwrap();
    stream.write_all(&bytes).unwrap();
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(
        rest.is_empty()
            && !matches!(ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    );
}

/// Options that somebody on the way adds behind STARTTLS in the clear must not count as the client's.
#[test]
fn what_comes_in_the_clear_behind_starttls_is_not_obeyed() {
    let lab = Lab::new();
    lab.volume("v", MIB);
    let tcp = Tcp::new(&lab, Some(certificate().0));
    let mut stream = tcp.connect();
    greet(&mut stream);
    let mut bytes = Vec::new();
    ClientOption::StartTls.encode(&mut bytes).unwrap();
    let ticket = tcp.ticket("v", false);
    go(&ticket).encode(&mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
    assert_eq!(answer(&mut stream), Ok(()));
    // What follows is an alert of TLS at most, and then the end.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest[0] == 21, "{rest:02x?}");
    assert_eq!(lab.store.volume_open("v").unwrap().holder(), None);
}

#[test]
fn a_client_that_never_shakes_hands_does_not_stay() {
    let lab = Lab::new();
    let tcp = Tcp::new(&lab, Some(certificate().0));
    let mut stream = tcp.connect();
    greet(&mut stream);
    assert_eq!(ask(&mut stream, &ClientOption::StartTls), Ok(()));
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(!matches!(ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
    // And the server takes the next one.
    greet(&mut tcp.connect());
}

#[test]
fn the_sockets_of_this_machine_have_no_tls() {
    let lab = Lab::new();
    let mut stream = std::os::unix::net::UnixStream::connect(lab.socket()).unwrap();
    greet(&mut stream);
    let (refusal, _) = ask(&mut stream, &ClientOption::StartTls).unwrap_err();
    assert_eq!(refusal, Refusal::Unsupported);
}

#[test]
fn a_ticket_opens_no_more_than_its_owner_may_at_that_moment_and_each_opening_is_on_record() {
    let lab = Lab::new();
    lab.volume("v", MIB);
    lab.volume("w", MIB);
    let tcp = Tcp::new(&lab, None);
    let (who, access) = (who(), &tcp.access);
    access
        .user_create(&who, "root", "alice", "/", false)
        .unwrap();
    let alice = Holder {
        sort: HolderSort::User,
        project: "root",
        name: "alice",
    };
    // The address counts, too: it is that of the connection.
    let policy = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
        "Action": "volume:Attach*", "Resource": "arn:infall:volume:::v",
        "Condition": {"IpAddress": {"aws:SourceIp": "127.0.0.1/32"}}}]}"#;
    access.inline_put(&who, alice, "attach", policy).unwrap();
    let caller = Caller {
        principal: Principal::User {
            name: "alice".into(),
            project: "root".into(),
        },
        origin: Origin::default(),
        request: "test".into(),
    };
    let made = |export: &str| {
        let (_, secret) = access.ticket_make(&caller, export, false, HOUR).unwrap();
        format!("{export}@{secret}")
    };
    // A ticket adds no right: alice has none to w.
    let (v, w) = (made("v"), made("w"));
    let open = |name: &str| {
        let mut stream = tcp.connect();
        greet(&mut stream);
        ask(&mut stream, &go(name))
    };
    assert_eq!(open(&v), Ok(()));
    assert_eq!(open(&w).unwrap_err().0, Refusal::Policy);
    access.inline_remove(&who, alice, "attach").unwrap();
    let (refusal, message) = open(&v).unwrap_err();
    assert_eq!(refusal, Refusal::Policy);
    assert!(message.contains("volume:Attach"), "{message}");
    access.flush().unwrap();
    let events = lab.store.journal_after(0, 1000).unwrap();
    let decided: Vec<_> = events
        .iter()
        .filter(|event| {
            event.actor == "user/alice" && format!("{event:?}").contains("volume:Attach")
        })
        .collect();
    assert_eq!(decided.len(), 3, "one for each opening: {decided:#?}");
}
