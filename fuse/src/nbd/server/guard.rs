//! Who may open what, by the way a client came in.
//!
//! | listener | who that is | what it may open |
//! |---|---|---|
//! | an instance's disks | its QEMU, by the socket's mode | the listener's exports |
//! | the data directory's socket | the operator, by the socket's mode | everything |
//! | TCP | the owner of the ticket in the export's name, `NAME@TICKET` | that export, as the policies say at that moment |
//!
//! 1. One decision per handshake and name, recorded by [`access`], however often the name is asked for.
//! 2. No message holds a ticket; where a name could, it is not repeated.

use super::listener::Exports;
use super::stream::Peer;
use access::{Access, Caller, Origin, Principal, Resource};
use blockstore::{Error, Kind, Result, Subject};
use std::cell::RefCell;

/// How a listener decides.
#[derive(Clone)]
pub(super) enum Guard {
    /// Whoever can open the socket may open its exports.
    Socket,
    /// Whoever can open the socket is the operator.
    Operator(Access),
    /// Whoever shows a ticket acts for its owner.
    Tickets(Access),
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Socket => "Socket",
            Self::Operator(_) => "Operator",
            Self::Tickets(_) => "Tickets",
        })
    }
}

/// What somebody asks for, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    /// The export, by any of its names.
    pub(super) export: String,
    /// Under which name it holds the writer token.
    pub(super) holder: String,
    /// Writes are refused.
    pub(super) read_only: bool,
    /// In whose name, where a policy is asked.
    principal: Option<Principal>,
}

/// The guard's desk within one handshake.
pub(super) struct Desk<'a> {
    pub(super) guard: &'a Guard,
    pub(super) exports: &'a Exports,
    pub(super) peer: &'a Peer,
    /// The id that the audit shows.
    pub(super) request: String,
    /// What was decided already: the name asked for, and the export it is.
    decided: RefCell<Option<(String, String)>>,
}

impl<'a> Desk<'a> {
    pub(super) fn new(guard: &'a Guard, exports: &'a Exports, peer: &'a Peer) -> Self {
        Self {
            guard,
            exports,
            peer,
            request: uuid::Uuid::new_v4().simple().to_string(),
            decided: RefCell::new(None),
        }
    }

    /// Reads what a client calls `asked`: which export, in whose name.
    pub(super) fn read(&self, asked: &str) -> Result<Pass> {
        match self.guard {
            Guard::Socket => self.by_socket(asked, None),
            Guard::Operator(_) => self.by_socket(asked, Some(Principal::Root)),
            Guard::Tickets(access) => self.by_ticket(access, asked),
        }
    }

    /// Decides whether the export that was found under the name `asked`, and is called `canonical`, is
    /// opened for `pass`. The name that was found counts: one text can name a volume and a snapshot.
    pub(super) fn decide(
        &self,
        asked: &str,
        canonical: &str,
        pass: &Pass,
        secure: bool,
    ) -> Result<()> {
        let (Guard::Operator(access) | Guard::Tickets(access), Some(principal)) =
            (self.guard, &pass.principal)
        else {
            return Ok(());
        };
        let this = (asked.to_owned(), canonical.to_owned());
        if self.decided.borrow().as_ref() == Some(&this) {
            return Ok(());
        }
        let (action, resource) = asks(canonical, pass.read_only);
        let caller = self.caller(principal.clone(), secure);
        access.authorize(&caller, action, &resource, &[])?;
        *self.decided.borrow_mut() = Some(this);
        Ok(())
    }

    /// Whether the client may see what there is.
    pub(super) fn may_list(&self) -> Result<bool> {
        match self.guard {
            Guard::Socket => Ok(true),
            Guard::Operator(access) => {
                let caller = self.caller(Principal::Root, true);
                access.authorize(&caller, "volume:List", &Resource::All, &[])?;
                Ok(true)
            }
            // LIST has no room for a ticket (proto.md, "Option types").
            Guard::Tickets(_) => Ok(false),
        }
    }

    fn by_socket(&self, asked: &str, principal: Option<Principal>) -> Result<Pass> {
        let export = self.exports.resolve(asked).ok_or_else(|| {
            let text = match asked {
                "" => {
                    "there is no default export: name one, `nbdinfo --list` shows them".to_owned()
                }
                _ => format!("no export \"{asked}\": `nbdinfo --list` shows them"),
            };
            Error::new(Kind::NotFound, Subject::Volume, text)
        })?;
        Ok(Pass {
            export: export.to_owned(),
            holder: self.peer.holder.clone(),
            read_only: false,
            principal,
        })
    }

    fn by_ticket(&self, access: &Access, asked: &str) -> Result<Pass> {
        let Some((export, secret)) = asked.rsplit_once('@') else {
            let text = "over TCP the export's name carries a ticket, NAME@TICKET: infall volume attach NAME makes one";
            return Err(Error::new(Kind::Denied, Subject::Identity, text));
        };
        let ticket = access.ticket(export, secret)?;
        Ok(Pass {
            export: export.to_owned(),
            holder: format!("{} (ticket {})", ticket.owner, ticket.id),
            read_only: ticket.read_only,
            principal: Some(ticket.owner),
        })
    }

    fn caller(&self, principal: Principal, secure: bool) -> Caller {
        Caller {
            principal,
            origin: Origin {
                address: self.peer.address,
                secure,
                agent: self.peer.agent.clone(),
            },
            request: self.request.clone(),
        }
    }
}

/// What opening an export asks of a policy, by its canonical name: the action, and on what.
pub fn asks(canonical: &str, read_only: bool) -> (&'static str, Resource<'_>) {
    if let Some(snapshot) = canonical.strip_prefix("snapshot:") {
        return ("snapshot:Read", Resource::Snapshot(snapshot));
    }
    if let Some(image) = canonical.strip_prefix("image:") {
        return ("image:Read", Resource::Image(image));
    }
    if let Some(path) = canonical.strip_prefix("object:") {
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        return ("s3:GetObject", Resource::Object(bucket, key));
    }
    let action = if read_only {
        "volume:AttachReadOnly"
    } else {
        "volume:Attach"
    };
    (action, Resource::Volume(canonical))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_export_asks_for_its_own_action() {
        let asked = |export, read_only| {
            let (action, resource) = asks(export, read_only);
            format!("{action} {resource}")
        };
        assert_eq!(
            asked("root1", false),
            "volume:Attach arn:infall:volume:::root1"
        );
        assert_eq!(
            asked("root1", true),
            "volume:AttachReadOnly arn:infall:volume:::root1"
        );
        assert_eq!(
            asked("snapshot:s", false),
            "snapshot:Read arn:infall:snapshot:::s"
        );
        assert_eq!(asked("image:i", true), "image:Read arn:infall:image:::i");
        assert_eq!(
            asked("object:b/k/l", true),
            "s3:GetObject arn:aws:s3:::b/k/l"
        );
    }
}
