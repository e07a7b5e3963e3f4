//! Making, joining and forcing a group, while no server runs on the directory.
//!
//! Each is one synced batch of this node's own rows and its log: a crash leaves the old or the new.

use super::log::Log;
use super::members;
use super::state::{Applied, RecoveryRow, own_rows, read_applied, read_members};
use super::types::{Command, Entry, LogId, Member, Membership, StoredMembership, Vote};
use super::{GroupId, Seat, seat};
use crate::catalog::committer::{Committed, synced};
use crate::catalog::{Catalog, failed, keys, open};
use crate::{Error, Kind, Result, Subject};
use openraft::{CommittedLeaderId, EntryPayload};
use rocksdb::{DB, WriteBatch};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// What is given up when one node's state is made the whole group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Loss {
    /// The node whose state stays.
    pub(crate) node: u64,
    /// Members that are left behind; they must be emptied and join again.
    pub(crate) left_behind: Vec<u64>,
    /// The last entry that is here.
    pub(crate) last_index: u64,
    /// The term it is of: an entry of a later term elsewhere is lost.
    pub(crate) last_term: u64,
    /// Up to here entries were in this node's rows; later ones may never have been answered, and count now.
    pub(crate) applied_index: u64,
    /// The highest term this node knows of; if it is above `last_term`, another node may have led since.
    pub(crate) term: u64,
    /// The generation of the group that this made, or would make.
    pub(crate) generation: u64,
}

impl Loss {
    /// What a person should read before it is done.
    pub(crate) fn told(&self) -> String {
        let mut text = format!(
            "The catalog as node {} has it becomes the whole group, generation {}. Members left behind: {:?}; they \
             must be emptied and join again. Entries up to {} of term {} stay; whatever the others have behind that \
             is lost, and every change they answered with it.",
            self.node, self.generation, self.left_behind, self.last_index, self.last_term
        );
        if self.last_index > self.applied_index {
            text.push_str(&format!(
                " Entries {} to {} were never seen committed here; they count from now on.",
                self.applied_index + 1,
                self.last_index
            ));
        }
        if self.term > self.last_term {
            text.push_str(&format!(
                " This node knows of term {} without an entry of it: another node has led since.",
                self.term
            ));
        }
        text
    }
}

fn offline(directory: &Path) -> Result<(Arc<DB>, Log)> {
    let directory = directory.join("catalog");
    std::fs::create_dir_all(&directory).map_err(|cause| Error::io("make", &directory, cause))?;
    let database = Arc::new(open::database(&directory, true)?);
    let log = Log::new(database.clone(), Arc::new(Committed::new(0)));
    Ok((database, log))
}

fn alone(database: &DB, directory: &Path) -> Result<()> {
    match seat(database)? {
        None => Ok(()),
        Some(seat) => {
            let text = format!(
                "the catalog in {} is node {}'s of the group {} already",
                directory.display(),
                seat.node,
                seat.group.group
            );
            Err(Error::new(Kind::Conflict, Subject::Store, text))
        }
    }
}

fn write(database: &DB, batch: WriteBatch) -> Result<()> {
    database
        .write_opt(batch, &synced())
        .map_err(|cause| failed("write this node's place in the catalog's group", cause))
}

/// Makes the catalog in `directory` version 0 of a new group with this node as its one member. Nothing
/// is copied. Conflict if it is of a group already.
pub(crate) fn found(directory: &Path, member: Member) -> Result<Seat> {
    // By the ordinary way, so that the catalog is whole and its row is as any other.
    let catalog = Catalog::open(directory)?;
    if catalog.format()? != keys::FORMAT_VERSION {
        let text = format!(
            "open the store in {} once with this release, then found the group",
            directory.display()
        );
        return Err(Error::new(Kind::Precondition, Subject::Store, text));
    }
    let own = member.clone();
    // Interrupted and begun again, it takes another id.
    let node = catalog.transact(move |txn| members::invite(txn, own))?;
    catalog.close();
    drop(catalog);
    let (database, log) = offline(directory)?;
    alone(&database, directory)?;
    let at = LogId::new(CommittedLeaderId::new(1, node), 0);
    let seat = Seat {
        group: GroupId {
            group: uuid::Uuid::new_v4(),
            generation: 0,
        },
        node,
        incarnation: member.incarnation.clone(),
    };
    let members = Membership::new(
        vec![BTreeSet::from([node])],
        BTreeMap::from([(node, member)]),
    );
    let applied = Applied {
        at: Some(at),
        ..Applied::default()
    };
    let mut batch = WriteBatch::default();
    batch.put(keys::NODE_GROUP, keys::encode(&seat)?);
    for (key, row) in own_rows(&applied, &StoredMembership::new(Some(at), members))? {
        batch.put(key, row);
    }
    // The log begins behind what is here: who joins gets these rows first.
    log.put_into(&mut batch, Some(&Vote::new(1, node)), &[])?;
    log.purge_into(&mut batch, at)?;
    write(&database, batch)?;
    Ok(seat)
}

/// Makes an empty directory the place of an invited member, which gets all rows when it is added.
pub(crate) fn enlist(directory: &Path, seat: &Seat) -> Result<()> {
    let (database, _) = offline(directory)?;
    alone(&database, directory)?;
    let mut rows = database.raw_iterator();
    rows.seek_to_first();
    while let Some(key) = rows.key() {
        if key != keys::FORMAT && !key.starts_with(keys::NODE) {
            let text = format!(
                "the catalog in {} is not empty (it has the row {}): a node joins with an empty directory",
                directory.display(),
                key.escape_ascii()
            );
            return Err(Error::new(Kind::Conflict, Subject::Store, text));
        }
        rows.next();
    }
    rows.status()
        .map_err(|cause| failed("look through the catalog", cause))?;
    drop(rows);
    let mut batch = WriteBatch::default();
    batch.put(keys::NODE_GROUP, keys::encode(seat)?);
    write(&database, batch)
}

/// Makes this node's state the whole group, unless `only_tell`; says what may be lost by that. Conflict
/// if it is of no group.
///
/// Every entry of its log counts from then on. The group's generation grows by one: the members left
/// behind are strangers to it, and who opens logs raises all epochs when he sees it.
pub(crate) fn recover(directory: &Path, only_tell: bool) -> Result<Loss> {
    let (database, log) = offline(directory)?;
    let seat = seat(&database)?.ok_or_else(|| {
        let text = format!(
            "the catalog in {} is of no group: there is nothing to recover it from",
            directory.display()
        );
        Error::new(Kind::Conflict, Subject::Store, text)
    })?;
    let applied = read_applied(database.as_ref())?;
    let vote = log.vote()?.unwrap_or_default();
    let last = log.last()?.max(applied.at).ok_or_else(|| {
        let text = format!(
            "node {} never got the catalog's rows: recover another one",
            seat.node
        );
        Error::new(Kind::Conflict, Subject::Store, text)
    })?;
    let mut members = read_members(database.as_ref())?.membership().clone();
    for entry in log.entries(0, None, usize::MAX)? {
        if let EntryPayload::Membership(later) = entry.payload {
            members = later;
        }
    }
    let generation = seat.group.generation + 1;
    let term = vote.leader_id().term.max(last.leader_id.term);
    let loss = Loss {
        node: seat.node,
        left_behind: members
            .nodes()
            .map(|(node, _)| *node)
            .filter(|node| *node != seat.node)
            .collect(),
        last_index: last.index,
        last_term: last.leader_id.term,
        applied_index: applied.at.map_or(0, |at| at.index),
        term,
        generation,
    };
    if only_tell {
        return Ok(loss);
    }
    let own = members.get_node(&seat.node).cloned().unwrap_or(Member {
        incarnation: seat.incarnation.clone(),
        address: String::new(),
    });
    let leader = CommittedLeaderId::new(term + 1, seat.node);
    let members = Membership::new(
        vec![BTreeSet::from([seat.node])],
        BTreeMap::from([(seat.node, own)]),
    );
    let entries = [
        Entry {
            log_id: LogId::new(leader, last.index + 1),
            payload: EntryPayload::Membership(members),
        },
        Entry {
            log_id: LogId::new(leader, last.index + 2),
            payload: EntryPayload::Normal(Command::Recover { generation }),
        },
    ];
    let seat = Seat {
        group: GroupId {
            generation,
            ..seat.group
        },
        ..seat
    };
    let mut batch = WriteBatch::default();
    batch.put(keys::NODE_GROUP, keys::encode(&seat)?);
    if log.last()? < applied.at
        && let Some(at) = applied.at
    {
        // A snapshot came in last: the log must not have a hole behind it.
        log.purge_into(&mut batch, at)?;
    }
    log.put_into(&mut batch, Some(&Vote::new(term + 1, seat.node)), &entries)?;
    write(&database, batch)?;
    Ok(loss)
}

impl Catalog {
    /// How often one node's state was made the whole group; 0 for one that never needed it. Whoever grew
    /// epochs under an older one grows them all again.
    pub(crate) fn recovery_generation(&self) -> Result<u64> {
        let row = self.get(keys::RECOVERY)?;
        let row = row.map(|row| keys::decode::<RecoveryRow>(keys::RECOVERY, &row));
        Ok(row.transpose()?.map_or(0, |row| row.generation))
    }
}
