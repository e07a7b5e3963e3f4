//! The join: how a node with a token becomes a member.
//!
//! ```text
//! joiner                                              member (its listener, infall-join/1)
//!   TLS: is its CA the token's? (fingerprint)  ──────▶  shows certificate and CA, asks for none
//!   preamble, Request { shown, request, addresses } ──▶ Gate::admit: one transaction spends the
//!                                                       token and makes the member
//!   Reply { node, certificate, trusted, seal, members } ◀── signs the key of the request
//!     or Refusal { code, reason }
//! ```
//!
//! 1. The secret and the seal travel only over TLS whose other end has proved the token's CA.
//! 2. A request whose key it cannot prove to hold is refused before the token is looked at.
//! 3. The private key of the joiner never leaves it. What the request wants to be called is not looked at.

use super::authority::{Authority, failed};
use super::connection::{Broken, Reader, Writer, split};
use super::dial::nobody;
use super::events::EventKind;
use super::frame::{Kind, Malformed, Preamble};
use super::hello::{ClusterId, Incarnation, Refusal, RefusalCode};
use super::identity::{ALPN_JOIN, Passport, client_with, encode_all};
use super::introduce::{other_version, read_refusal, with_source};
use super::shared::Shared;
use super::token::{Shown, Token, is_address};
use super::trust::{Fingerprint, Trust, handshake_failed, read};
use super::{Identity, Lane, Pace, Seal};
use crate::{Error, Kind as Reason, NodeId, Result, Subject};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::future::BoxFuture;
use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PublicKeyData};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::server::TlsStream;

/// A join's question or answer is not larger.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Addresses that a node may have.
const ADDRESSES_MAX: usize = 16;
/// How long the catalog may take to admit a node.
const ADMIT_PATIENCE: Duration = Duration::from_secs(20);

/// Decides over joins: the catalog's side.
pub(crate) trait Gate: Send + Sync {
    /// In one transaction: reads the token's row ([`Shown::id`]), [`TokenRow::spend`](super::TokenRow::spend)s
    /// it, and for a new node makes the member and puts the row. Answers with who it is now.
    /// Without a quorum: [`RefusalCode::Unavailable`].
    fn admit(
        &self,
        shown: Shown,
        joiner: Joiner,
    ) -> BoxFuture<'static, std::result::Result<Admission, Refusal>>;
}

/// Who wants to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joiner {
    /// Its disk: drawn at random for an empty data directory.
    pub(crate) incarnation: Incarnation,
    /// Where it will listen for peers, `host:port`.
    pub(crate) addresses: Vec<String>,
}

/// A join that was granted.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// Who it is.
    pub(crate) node: NodeId,
    /// The cluster's CA as the catalog holds it now.
    pub(crate) authority: Authority,
    /// Everybody else, so that the new node finds them before it has a catalog.
    pub(crate) members: Vec<MemberAddress>,
}

/// Where a member is, as told to a joiner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberAddress {
    /// Which node.
    pub(crate) node: NodeId,
    /// Which disk.
    pub(crate) incarnation: Incarnation,
    /// Its last registered start.
    pub(crate) boot: u64,
    /// Where it listens for peers.
    pub(crate) addresses: Vec<String>,
}

/// What a joiner has become.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    /// To be installed in its data directory ([`Identity::install`]).
    pub(crate) passport: Passport,
    /// Everybody else.
    pub(crate) members: Vec<MemberAddress>,
}

#[derive(Serialize, Deserialize)]
struct Question {
    shown: Shown,
    /// PKCS #10, DER, base64.
    request: String,
    addresses: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Granted {
    node: NodeId,
    /// DER, base64.
    certificate: String,
    trusted: Vec<String>,
    seal: Seal,
    members: Vec<MemberAddress>,
}

// ---- the joiner's side

/// Joins the cluster of the token: asks each of its addresses until one grants or refuses. Blocks,
/// with a thread of its own, at most `patience` for each address. Draw the incarnation once per data
/// directory, and call again with the same `key` (see [`new_key`]) when the answer was lost.
///
/// Denied: the cluster refuses, or what listens there is not the token's cluster. Unavailable: nobody
/// could be reached, or the cluster has no quorum.
pub(crate) fn join(
    token: &Token,
    joiner: &Joiner,
    key: &str,
    patience: Duration,
) -> Result<Joined> {
    let internal = |text: &str| Error::new(Reason::Internal, Subject::Store, text);
    let joined = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| internal("cannot start a thread to join").because(error))?;
            runtime.block_on(ask_all(token, joiner, key, patience))
        });
        asking.join()
    });
    joined.unwrap_or_else(|_| Err(internal("joining broke off: a defect")))
}

/// A private key for a joiner, PEM; to be kept (0600) until the join is through.
pub(crate) fn new_key() -> Result<String> {
    let key = KeyPair::generate().map_err(|cause| failed("make a key", cause))?;
    Ok(key.serialize_pem())
}

async fn ask_all(token: &Token, joiner: &Joiner, key: &str, patience: Duration) -> Result<Joined> {
    let key = KeyPair::from_pem(key).map_err(|cause| failed("read the joiner's key", cause))?;
    let mut reasons = Vec::new();
    for address in token.addresses() {
        let asked = timeout(patience, ask(token, joiner, &key, address)).await;
        match asked {
            Ok(Ok(joined)) => return Ok(joined),
            Ok(Err(error)) if error.kind() != Reason::Unavailable => return Err(error),
            Ok(Err(error)) => reasons.push(format!("{address}: {}", error.chain())),
            Err(_) => reasons.push(format!(
                "{address}: no answer within {} s",
                patience.as_secs()
            )),
        }
    }
    let text = format!(
        "no member of the cluster {} could let this node in: {}",
        token.cluster,
        reasons.join("; ")
    );
    Err(Error::new(Reason::Unavailable, Subject::Store, text))
}

async fn ask(token: &Token, joiner: &Joiner, key: &KeyPair, address: &str) -> Result<Joined> {
    let unavailable = |text: String| Error::new(Reason::Unavailable, Subject::Store, text);
    let denied = |text: String| Error::new(Reason::Denied, Subject::Store, text);
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|error| unavailable("it cannot be reached".to_owned()).because(error))?;
    let verifier = Arc::new(ByToken {
        cluster: token.cluster,
        authority: token.authority,
        algorithms: rustls::crypto::ring::default_provider().signature_verification_algorithms,
    });
    let config = client_with(verifier, None, ALPN_JOIN).map_err(|cause| {
        Error::new(Reason::Internal, Subject::Store, "TLS cannot be set up").because(cause)
    })?;
    let connector = TlsConnector::from(Arc::new(config));
    let tls = connector.connect(nobody(), tcp).await.map_err(|error| {
        let failed = handshake_failed(&error);
        let text = format!(
            "what listens at {address} was not let near the token: {}",
            failed.text
        );
        match failed.code {
            Some(_) => denied(text),
            None => unavailable(text),
        }
    })?;
    let broke =
        |broken: Broken| unavailable(format!("the join broke off: {}", with_source(&broken)));
    // The pings of a member's connection are missing here; the caller's patience is the bound.
    let pace = Pace {
        silence: ADMIT_PATIENCE * 2,
        ..Pace::default()
    };
    let (mut reader, mut writer) = split(Box::new(tls), Lane::Control, BODY_BYTES_MAX, &pace);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params
        .serialize_request(key)
        .map_err(|cause| failed("write a certificate request", cause))?;
    let question = Question {
        shown: token.shown(joiner.incarnation),
        request: BASE64.encode(request.der()),
        addresses: joiner.addresses.clone(),
    };
    let question = serde_json::to_vec(&question).map_err(|cause| {
        Error::new(
            Reason::Internal,
            Subject::Store,
            "a join cannot be written as JSON",
        )
        .because(cause)
    })?;
    writer.preamble(Preamble::OURS).await.map_err(broke)?;
    writer
        .say(Kind::Request, 1, question)
        .await
        .map_err(broke)?;
    let theirs = reader.preamble().await.map_err(broke)?;
    let answer = reader.first().await.map_err(broke)?;
    let refusal = match answer.kind {
        Kind::Refusal => read_refusal(&answer.body),
        _ if Preamble::OURS.agreed(theirs).is_none() => other_version(theirs),
        Kind::Reply => {
            let granted = serde_json::from_slice(&answer.body).map_err(|cause| {
                unavailable("the answer to the join does not read".to_owned()).because(cause)
            })?;
            return accept(token, joiner, key, granted);
        }
        kind => return Err(broke(Malformed::Unexpected { kind }.into())),
    };
    let text = format!("the cluster refuses this node: {}", refusal.reason);
    Err(match refusal.code {
        RefusalCode::Unavailable | RefusalCode::Stopping => unavailable(text),
        _ => denied(text),
    })
}

/// What was granted must be whole and good before it is installed.
fn accept(token: &Token, joiner: &Joiner, key: &KeyPair, granted: Granted) -> Result<Joined> {
    let passport = Passport::joined(
        token.cluster,
        granted.node,
        joiner.incarnation,
        key,
        granted.certificate,
        granted.trusted,
        granted.seal,
    );
    let identity = Identity::in_memory(passport)?;
    Ok(Joined {
        passport: identity.passport(),
        members: granted.members,
    })
}

/// Believes the server whose CA is the one of the token.
#[derive(Debug)]
struct ByToken {
    cluster: ClusterId,
    authority: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ByToken {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let ours = between
            .iter()
            .find(|ca| read(ca).is_some_and(|ca| ca.fingerprint == self.authority));
        let Some(ours) = ours else {
            let text = format!(
                "its CA is not the token's ({}): it is another cluster, or the CA was replaced since; make a new \
                 token: infall cluster add",
                self.authority
            );
            let cause: Arc<dyn std::error::Error + Send + Sync> = Arc::from(Box::from(text));
            let wrong = CertificateError::Other(OtherError(cause));
            return Err(rustls::Error::InvalidCertificate(wrong));
        };
        let trust = Trust::new(Some(self.cluster), [&ours.clone().into_owned()])?;
        let examined = trust.examine(certificate, &[], now);
        examined.map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::InvalidCertificate(
            CertificateError::BadSignature,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

// ---- the member's side

/// Serves one joiner, within a bounded time.
pub(super) async fn serve(
    shared: &Shared,
    tls: Box<TlsStream<BufReader<TcpStream>>>,
    address: &str,
) {
    let pace = &shared.options.pace;
    let (mut reader, mut writer) = split(tls, Lane::Control, BODY_BYTES_MAX, pace);
    let Ok(heard) = timeout(pace.handshake, hear(&mut reader, &mut writer)).await else {
        return;
    };
    let answer = match heard {
        Ok(question) => timeout(ADMIT_PATIENCE, grant(shared, question, address))
            .await
            .unwrap_or_else(|_| {
                let reason = "the catalog did not answer in time: it has no quorum now, try again";
                Err(Refusal::new(RefusalCode::Unavailable, reason))
            }),
        Err(Some(refusal)) => Err(refusal),
        Err(None) => return,
    };
    let (kind, body) = match answer {
        Ok(granted) => (Kind::Reply, granted),
        Err(refusal) => {
            let (code, text) = (Some(refusal.code), refusal.reason.clone());
            let kind = EventKind::JoinRefused;
            shared.told.tell(kind, None, address, code, text);
            (
                Kind::Refusal,
                serde_json::to_vec(&refusal).unwrap_or_default(),
            )
        }
    };
    let said = async {
        writer.say(kind, 1, body).await?;
        writer.close().await;
        Ok::<_, Broken>(())
    };
    let _ = timeout(pace.handshake, said).await;
}

/// The question; an error without a refusal: nobody is there to be told.
async fn hear(
    reader: &mut Reader,
    writer: &mut Writer,
) -> std::result::Result<Question, Option<Refusal>> {
    let malformed = |reason: String| Some(Refusal::new(RefusalCode::Malformed, reason));
    let heard = async {
        writer.preamble(Preamble::OURS).await?;
        let theirs = reader.preamble().await?;
        Ok::<_, Broken>((theirs, reader.first().await?))
    };
    let (theirs, first) = match heard.await {
        Ok(heard) => heard,
        Err(broken @ Broken::Malformed(_)) => return Err(malformed(with_source(&broken))),
        Err(_) => return Err(None),
    };
    if Preamble::OURS.agreed(theirs).is_none() {
        return Err(Some(other_version(theirs)));
    }
    if first.kind != Kind::Request {
        return Err(malformed(
            Malformed::Unexpected { kind: first.kind }.to_string(),
        ));
    }
    serde_json::from_slice(&first.body)
        .map_err(|error| malformed(format!("the join does not read: {error}")))
}

async fn grant(
    shared: &Shared,
    question: Question,
    address: &str,
) -> std::result::Result<Vec<u8>, Refusal> {
    let malformed = |reason: &str| Refusal::new(RefusalCode::Malformed, reason);
    let broken = |error: &Error| {
        tracing::error!(%error, "a join could not be granted");
        let reason = "this node cannot grant joins now, see its log; ask another one";
        Refusal::new(RefusalCode::Unavailable, reason)
    };
    let (Some(gate), Some(identity)) = (&shared.gate, shared.way.identity()) else {
        let reason = "this node lets nobody join; ask another one";
        return Err(Refusal::new(RefusalCode::Unavailable, reason));
    };
    let addresses = &question.addresses;
    if !(1..=ADDRESSES_MAX).contains(&addresses.len())
        || !addresses.iter().all(|address| is_address(address))
    {
        return Err(malformed(
            "a joining node tells 1 to 16 addresses host:port that members reach it by",
        ));
    }
    let request = BASE64
        .decode(&question.request)
        .map_err(|_| malformed("the certificate request is not base64"))?;
    let der = CertificateSigningRequestDer::from(request.as_slice());
    let key = CertificateSigningRequestParams::from_der(&der)
        .map_err(|_| malformed("the certificate request does not read, or its signature is wrong"))?
        .public_key;
    let mut shown = question.shown;
    shown.key_sha256 = hex::encode(Sha256::digest(key.der_bytes()));
    let joiner = Joiner {
        incarnation: shown.incarnation,
        addresses: question.addresses,
    };
    let admission = gate.admit(shown, joiner).await?;
    let now_ms = crate::clock::now_ms();
    let seal = identity.passport().seal;
    let authority = &admission.authority;
    let certificate = authority
        .sign_request(&seal, &request, admission.node, now_ms)
        .map_err(|error| broken(&error))?;
    let bundle = authority.bundle().map_err(|error| broken(&error))?;
    let granted = Granted {
        node: admission.node,
        certificate: BASE64.encode(certificate),
        trusted: encode_all(&bundle),
        seal,
        members: admission.members,
    };
    let text = format!("{} joined from {address}", admission.node);
    let kind = EventKind::Joined;
    shared
        .told
        .tell(kind, Some(admission.node), address, None, text);
    serde_json::to_vec(&granted).map_err(|_| malformed("the answer cannot be written"))
}
