//! Tickets for NBD on TCP, over the JSON API: made, listed, revoked.
//!
//! Whoever may open an export may have a ticket for it. Making one is decided here; each opening with
//! it is decided again, by the listener.

use access::{Access, Caller, Principal, Ticket};
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{delete, post};
use axum::{Extension, Router};
use blockstore::{Kind, Store};
use fuse::nbd;
use gateway::api::{Json, Problem, Reply};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// How long a ticket lives where nothing is said.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Asks for a ticket for a volume.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct VolumeTicketAsk {
    /// Writes are refused.
    pub(crate) read_only: bool,
    /// How long it lives; an hour if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) for_seconds: Option<u64>,
}

/// Asks for a ticket for anything that NBD serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TicketAsk {
    /// `NAME`, `snapshot:NAME`, `image:NAME`, `object:BUCKET/KEY`.
    pub(crate) export: String,
    /// Writes are refused; what is no volume never takes any.
    #[serde(default)]
    pub(crate) read_only: bool,
    /// How long it lives; an hour if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) for_seconds: Option<u64>,
}

/// A ticket, without what makes it one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TicketShown {
    /// Names it; opens nothing.
    pub(crate) id: String,
    /// The export.
    pub(crate) export: String,
    /// Writes are refused.
    pub(crate) read_only: bool,
    /// In whose name it opens.
    pub(crate) owner: String,
    /// Milliseconds since the Unix epoch.
    pub(crate) made_ms: u64,
    /// The same; from then on it opens nothing.
    pub(crate) expires_ms: u64,
}

/// A new ticket. Its text is shown this once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TicketMade {
    /// What it is.
    pub(crate) ticket: TicketShown,
    /// What NBD clients ask for: `NAME@TICKET`.
    pub(crate) name: String,
    /// Where: a host, without port.
    pub(crate) host: String,
    /// Where: the port.
    pub(crate) port: u16,
    /// Whether TLS comes first.
    pub(crate) tls: bool,
}

/// Tickets that have not expired.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TicketList {
    /// The caller's own; the operator's list has all.
    pub(crate) tickets: Vec<TicketShown>,
}

/// What the routes work on.
#[derive(Clone)]
pub(crate) struct Tickets {
    /// Decides, and keeps the tickets.
    pub(crate) access: Access,
    /// Knows what there is.
    pub(crate) store: Store,
    /// Where NBD listens on TCP, if it does.
    pub(crate) address: Option<SocketAddr>,
    /// Whether TLS comes first there.
    pub(crate) tls: bool,
}

/// `POST /volumes/{volume}/tickets`, `GET` and `POST /tickets`, `DELETE /tickets/{ticket}`.
pub(crate) fn router(tickets: Tickets) -> Router {
    Router::new()
        .route("/volumes/{volume}/tickets", post(make_for_volume))
        .route("/tickets", post(make).get(list))
        .route("/tickets/{ticket}", delete(revoke))
        .with_state(tickets)
}

impl Tickets {
    fn make(&self, caller: &Caller, headers: &HeaderMap, ask: &TicketAsk) -> Reply<TicketMade> {
        let Some(address) = self.address else {
            let message = "NBD is not served on TCP, which is what tickets are for: start with --nbd-tcp ADDRESS, or use the unix socket (infall volume url)";
            return Err(Problem::new(Kind::Precondition, "nbd", message));
        };
        let export = nbd::canonical(&self.store, &ask.export)?;
        // What is no volume is read only whatever is asked for.
        let is_volume = !export.contains(':');
        let read_only = ask.read_only || !is_volume;
        let (action, resource) = nbd::asks(&export, read_only);
        self.access.authorize(caller, action, &resource, &[])?;
        let lifetime = ask.for_seconds.map_or(LIFETIME, Duration::from_secs);
        let (ticket, secret) = self
            .access
            .ticket_make(caller, &export, read_only, lifetime)?;
        Ok(TicketMade {
            ticket: shown(ticket),
            name: format!("{export}@{secret}"),
            host: host(address, headers),
            port: address.port(),
            tls: self.tls,
        })
    }
}

async fn make_for_volume(
    State(tickets): State<Tickets>,
    Extension(caller): Extension<Caller>,
    UrlPath(volume): UrlPath<String>,
    headers: HeaderMap,
    Json(ask): Json<VolumeTicketAsk>,
) -> Reply<(StatusCode, Json<TicketMade>)> {
    let ask = TicketAsk {
        export: volume,
        read_only: ask.read_only,
        for_seconds: ask.for_seconds,
    };
    if ask.export.contains(':') {
        return Err(Problem::missing("volume", &ask.export, [""; 0]));
    }
    blocking(move || tickets.make(&caller, &headers, &ask))
        .await
        .map(|made| (StatusCode::CREATED, Json(made)))
}

async fn make(
    State(tickets): State<Tickets>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Json(ask): Json<TicketAsk>,
) -> Reply<(StatusCode, Json<TicketMade>)> {
    blocking(move || tickets.make(&caller, &headers, &ask))
        .await
        .map(|made| (StatusCode::CREATED, Json(made)))
}

async fn list(
    State(tickets): State<Tickets>,
    Extension(caller): Extension<Caller>,
) -> Reply<Json<TicketList>> {
    let mut all = blocking(move || {
        let mut all = tickets.access.tickets()?;
        all.retain(|ticket| may_see(&caller, ticket));
        Ok(all)
    })
    .await?;
    all.sort_by_key(|ticket| ticket.made_ms);
    Ok(Json(TicketList {
        tickets: all.into_iter().map(shown).collect(),
    }))
}

async fn revoke(
    State(tickets): State<Tickets>,
    Extension(caller): Extension<Caller>,
    UrlPath(id): UrlPath<String>,
) -> Reply<StatusCode> {
    blocking(move || {
        let all = tickets.access.tickets()?;
        let mut own = all.iter().filter(|ticket| may_see(&caller, ticket));
        // Somebody else's is as good as none.
        if !own.any(|ticket| ticket.id == id) {
            return Err(Problem::missing("ticket", &id, [""; 0]));
        }
        Ok(tickets.access.ticket_revoke(&caller, &id).map(drop)?)
    })
    .await
    .map(|()| StatusCode::NO_CONTENT)
}

fn may_see(caller: &Caller, ticket: &Ticket) -> bool {
    caller.principal == Principal::Root || caller.principal == ticket.owner
}

fn shown(ticket: Ticket) -> TicketShown {
    TicketShown {
        id: ticket.id,
        export: ticket.export,
        read_only: ticket.read_only,
        owner: ticket.owner.to_string(),
        made_ms: ticket.made_ms,
        expires_ms: ticket.expires_ms,
    }
}

/// Where NBD is reached: at its own address, or, if that is all of the machine's, by the name that the
/// client has for this machine.
fn host(address: SocketAddr, headers: &HeaderMap) -> String {
    let ip = address.ip();
    if !ip.is_unspecified() {
        return match ip {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        };
    }
    let named = headers.get(header::HOST).and_then(|value| {
        value
            .to_str()
            .ok()?
            .parse::<axum::http::uri::Authority>()
            .ok()
    });
    named.map_or_else(|| "localhost".to_owned(), |named| named.host().to_owned())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Reply<T> + Send + 'static) -> Reply<T> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .unwrap_or_else(|error| {
            let problem = Problem::new(Kind::Internal, "ticket", "a ticket call did not come back");
            Err(problem.because(error.to_string()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_says_where_the_client_can_go() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "store.example.org:9000".parse().unwrap());
        let said = |address: &str| host(address.parse().unwrap(), &headers);
        assert_eq!(said("0.0.0.0:10809"), "store.example.org");
        assert_eq!(said("10.0.0.7:10809"), "10.0.0.7");
        assert_eq!(said("[::1]:10809"), "[::1]");
        assert_eq!(
            host("[::]:1".parse().unwrap(), &HeaderMap::new()),
            "localhost"
        );
    }
}
