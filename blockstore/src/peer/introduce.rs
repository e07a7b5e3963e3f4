//! The dialler's hello: from an address to a connection that both sides agreed to.
//!
//! Whoever refuses says why before it closes, and both ends tell an event: what is wrong between two
//! nodes can be read on either of them.

use super::connection::{Broken, Reader, Writer, split};
use super::events::EventKind;
use super::frame::{HELLO_BYTES_MAX, Kind, Malformed, Preamble};
use super::hello::Hello;
use super::shared::{Shared, tell_refusal};
use super::trust::{Failed, handshake_failed};
use super::{Lane, Refusal, RefusalCode};
use crate::NodeId;
use tokio::time::timeout;

/// What came back to our hello.
enum Answered {
    Hello(Hello),
    /// It refuses us.
    No(Refusal),
    /// We refuse it.
    Unfit(Refusal),
}

/// Connects to one address of a node and says hello. Also gives the run of the process there.
pub(super) async fn introduce(
    shared: &Shared,
    to: NodeId,
    lane: Lane,
    address: &str,
) -> Result<(Reader, Writer, u64), String> {
    let pace = &shared.options.pace;
    let reached = match shared.way.reach(to, address, pace).await {
        Ok(reached) => reached,
        Err(failed) => {
            tell_failed(shared, to, address, &failed);
            return Err(failed.text);
        }
    };
    let (mut reader, mut writer) = split(reached.stream, lane, HELLO_BYTES_MAX, pace);
    let exchanged = exchange(shared, lane, &mut reader, &mut writer);
    let answered = match timeout(pace.handshake, exchanged).await {
        Err(_) => return Err("no hello in time".to_owned()),
        Ok(Err(failed)) => {
            tell_failed(shared, to, address, &failed);
            return Err(failed.text);
        }
        Ok(Ok(answered)) => answered,
    };
    let judged = match answered {
        Answered::No(refusal) => {
            let (code, text) = (Some(refusal.code), refusal.reason.clone());
            let passing = matches!(refusal.code, RefusalCode::Lane | RefusalCode::Stopping);
            if !passing {
                let kind = EventKind::RefusedThere;
                shared.told.tell(kind, Some(to), address, code, text);
            }
            return Err(format!("it refuses this node: {}", refusal.reason));
        }
        Answered::Unfit(refusal) => Err(refusal),
        Answered::Hello(theirs) => {
            let met = shared.meet(&theirs, reached.named, Some(to));
            met.map(|_| theirs.run)
        }
    };
    match judged {
        Ok(run) => {
            reader.set(lane, shared.limits(lane).body_bytes_max);
            Ok((reader, writer, run))
        }
        Err(refusal) => {
            tell_refusal(shared, Some(reached.named.node), address, &refusal);
            let said = serde_json::to_vec(&refusal).unwrap_or_default();
            let _ = timeout(pace.silence, writer.say(Kind::Refusal, 0, said)).await;
            writer.close().await;
            Err(format!("this node refuses it: {}", refusal.reason))
        }
    }
}

async fn exchange(
    shared: &Shared,
    lane: Lane,
    reader: &mut Reader,
    writer: &mut Writer,
) -> Result<Answered, Failed> {
    let hello = serde_json::to_vec(&shared.hello(lane)).unwrap_or_default();
    let said = async {
        writer.preamble(Preamble::OURS).await?;
        writer.say(Kind::Hello, 0, hello).await
    };
    // If it was not heard, what comes back says why: with TLS 1.3 we learn only now that our own
    // certificate was not liked.
    let _ = said.await;
    let failed = |broken: Broken| match broken {
        Broken::Io(error) => handshake_failed(&error),
        broken => Failed::plain(with_source(&broken)),
    };
    let theirs = reader.preamble().await.map_err(failed)?;
    let first = reader.first().await.map_err(failed)?;
    if first.kind == Kind::Refusal {
        return Ok(Answered::No(read_refusal(&first.body)));
    }
    if Preamble::OURS.agreed(theirs).is_none() {
        return Ok(Answered::Unfit(other_version(theirs)));
    }
    if first.kind != Kind::Welcome {
        let unexpected = Malformed::Unexpected { kind: first.kind };
        return Err(Failed::plain(unexpected.to_string()));
    }
    serde_json::from_slice(&first.body)
        .map(Answered::Hello)
        .map_err(|error| Failed::plain(format!("its hello does not read: {error}")))
}

fn tell_failed(shared: &Shared, to: NodeId, address: &str, failed: &Failed) {
    let Some(code) = failed.code else {
        return;
    };
    let kind = if failed.there {
        EventKind::RefusedThere
    } else {
        EventKind::Refused
    };
    let text = format!("{to} at {address}: {}", failed.text);
    shared.told.tell(kind, Some(to), address, Some(code), text);
}

/// The refusal that the other side sent.
pub(super) fn read_refusal(body: &[u8]) -> Refusal {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let reason = "it refused without a reason that this release reads";
        Refusal::new(RefusalCode::Other, reason)
    })
}

/// The refusal of a release that is too old or too new.
pub(super) fn other_version(theirs: Preamble) -> Refusal {
    let Preamble { newest, oldest } = theirs;
    let ours = Preamble::OURS;
    Refusal::new(
        RefusalCode::Version,
        format!(
            "this node speaks versions {} to {} of the protocol, the other {oldest} to {newest}: run releases that \
             overlap on both",
            ours.oldest, ours.newest
        ),
    )
}

/// An error and its cause, in a line.
pub(super) fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
