//! Who keeps the catalog: adding, removing and replacing members, by the leader, with checks.
//!
//! 1. The catalog hands out node ids from a row; an id is never given to a second directory.
//! 2. A new member gets everything before it votes.
//! 3. A member is not removed when those who stay could not change anything then.
//!
//! ```text
//! invited (a row) ─▶ learner ── has the log ─▶ voter ── removed ─▶ gone (the row says so for ever)
//! ```

use super::codec::{Refused, Verb, Why, from_json, to_json};
use super::types::{Member, Membership, Raft};
use super::{GroupId, Shared};
use crate::catalog::open::IdsRow;
use crate::catalog::{Catalog, Txn, keys};
use crate::{Error, Kind, Result, Subject};
use openraft::ChangeMembers;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a member is waited for that says who it is.
const INTRODUCTION_PATIENCE: Duration = Duration::from_secs(2);
/// So many entries behind the leader, a learner may vote.
const BEHIND_MAX: u64 = 64;
/// How often a removed member's row is written while the leader changes.
const BURY_TRIES: u32 = 5;
/// How often a learner's progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Who has, or had, a node id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberRow {
    #[serde(flatten)]
    pub(crate) member: Member,
    /// It was removed; nobody gets its id again.
    #[serde(default)]
    pub(crate) gone: bool,
}

/// A member as the group sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberState {
    /// Its id.
    pub(crate) node: u64,
    /// Who it is.
    pub(crate) member: Member,
    /// Whether it votes; otherwise it only gets the log.
    pub(crate) votes: bool,
}

/// What a node says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Introduction {
    group: GroupId,
    node: u64,
    incarnation: String,
    boot: u64,
}

/// A step of a change of the members.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Change {
    Learn { node: u64, member: Member },
    Promote { node: u64, replaces: Option<u64> },
    Remove { node: u64 },
}

/// What the leader says to one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Progress {
    Done,
    /// The learner lacks so many entries.
    Behind(u64),
}

impl Catalog {
    /// Hands out a node id for a new member of that incarnation. It may be asked twice.
    pub(crate) fn member_invite(&self, member: Member) -> Result<u64> {
        self.transact(move |txn| {
            for (key, row) in txn.scan_prefix(keys::MEMBERS, usize::MAX)? {
                let row: MemberRow = keys::decode(&key, &row)?;
                if row.member.incarnation == member.incarnation && !row.gone {
                    return keys::number_behind(keys::MEMBERS, &key);
                }
            }
            invite(txn, member)
        })
    }

    /// Makes an invited node a voter, once it runs and has all rows; waits so long for that.
    pub(crate) fn member_add(&self, node: u64, patience: Duration) -> Result<()> {
        self.member_join(node, None, patience)
    }

    /// As [`Self::member_add`], and in the same step `old` is one no more.
    pub(crate) fn member_replace(&self, old: u64, node: u64, patience: Duration) -> Result<()> {
        self.member_join(node, Some(old), patience)?;
        self.bury(old)
    }

    fn member_join(&self, node: u64, replaces: Option<u64>, patience: Duration) -> Result<()> {
        let row = self.member_row(node)?;
        if row.gone {
            let text = format!(
                "node {node} was removed, and its id is never used again: let it join with a new one"
            );
            return Err(Error::new(Kind::Conflict, Subject::Store, text));
        }
        let deadline = Instant::now() + patience;
        let learn = Change::Learn {
            node,
            member: row.member,
        };
        self.change(&learn, deadline)?;
        let promote = Change::Promote { node, replaces };
        let mut behind = None;
        while let Progress::Behind(entries) = self.change(&promote, deadline)? {
            if Instant::now() >= deadline {
                let text = format!(
                    "node {node} still lacks {entries} entries of the catalog's log: it goes on getting them; add it again later"
                );
                return Err(Error::new(Kind::Unavailable, Subject::Store, text));
            }
            if behind != Some(entries) {
                tracing::info!(
                    node,
                    entries,
                    "a new member of the catalog's group catches up"
                );
                behind = Some(entries);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Removes a member for ever. Conflict if those who stay would have no quorum.
    pub(crate) fn member_remove(&self, node: u64, patience: Duration) -> Result<()> {
        self.member_row(node)?;
        self.change(&Change::Remove { node }, Instant::now() + patience)?;
        self.bury(node)
    }

    /// The members as the last entry here says.
    pub(crate) fn members(&self) -> Result<Vec<MemberState>> {
        let shared = self.shared()?;
        let members = shared.state.members();
        let voters: BTreeSet<u64> = members.membership().voter_ids().collect();
        Ok(members
            .nodes()
            .map(|(node, member)| MemberState {
                node: *node,
                member: member.clone(),
                votes: voters.contains(node),
            })
            .collect())
    }

    fn shared(&self) -> Result<&Arc<Shared>> {
        let group = self.group().ok_or_else(|| {
            let text = "this catalog is this node's alone: found a cluster first";
            Error::new(Kind::Conflict, Subject::Store, text)
        })?;
        Ok(&group.shared)
    }

    fn member_row(&self, node: u64) -> Result<MemberRow> {
        self.shared()?;
        self.catch_up()?;
        let key = keys::member(node);
        match self.get(&key)? {
            Some(row) => keys::decode(&key, &row),
            None => {
                let text = format!(
                    "no node ever had the id {node}: invite it first, or look at the members"
                );
                Err(Error::new(Kind::NotFound, Subject::Store, text))
            }
        }
    }

    fn change(&self, change: &Change, deadline: Instant) -> Result<Progress> {
        let shared = self.shared()?.clone();
        let body = to_json(change)?;
        let asking = shared.clone();
        super::wait(&shared.handle, async move {
            let (_, reply) = asking.ask_leader(Verb::Change, &body, deadline).await?;
            from_json("a change of the members", &reply)
        })?
    }

    fn bury(&self, node: u64) -> Result<()> {
        let mut tries = 1;
        loop {
            let buried = self.transact(move |txn| bury(txn, node));
            match buried {
                // The leader itself may just have gone. Done twice is done once.
                Err(cause) if cause.kind() == Kind::Unavailable && tries < BURY_TRIES => tries += 1,
                buried => return buried,
            }
        }
    }
}

/// Its id is given to nobody any more.
fn bury(txn: &mut Txn<'_>, node: u64) -> Result<()> {
    let key = keys::member(node);
    let Some(row) = txn.get(&key)? else {
        return Ok(());
    };
    let mut row: MemberRow = keys::decode(&key, &row)?;
    row.gone = true;
    txn.put(&key, keys::encode(&row)?);
    Ok(())
}

/// Gives the next node id away.
pub(super) fn invite(txn: &mut Txn<'_>, member: Member) -> Result<u64> {
    let row = txn.get(keys::MEMBER_IDS)?;
    let row = row.map(|row| keys::decode::<IdsRow>(keys::MEMBER_IDS, &row));
    let node = row.transpose()?.map_or(1, |row| row.next);
    txn.put(keys::MEMBER_IDS, keys::encode(&IdsRow { next: node + 1 })?);
    let row = MemberRow {
        member,
        gone: false,
    };
    txn.put(&keys::member(node), keys::encode(&row)?);
    Ok(node)
}

fn conflict(text: impl Into<String>) -> Refused {
    Refused::new(Why::Conflict, text)
}

fn failed(cause: &impl std::fmt::Display) -> Refused {
    Refused::new(Why::Busy, format!("the members were not changed: {cause}"))
}

impl Shared {
    pub(super) fn introduction(&self) -> Introduction {
        Introduction {
            group: self.seat.group,
            node: self.seat.node,
            incarnation: self.seat.incarnation.clone(),
            boot: self.boot,
        }
    }

    async fn meet(self: &Arc<Self>, node: u64) -> Result<Introduction> {
        if node == self.seat.node {
            return Ok(self.introduction());
        }
        self.lines
            .demand(node, Verb::Introduce, b"", INTRODUCTION_PATIENCE)
            .await
    }

    pub(super) async fn serve_change(self: &Arc<Self>, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let change: Change = from_json("a change of the members", body)?;
        let raft = self.raft()?.clone();
        self.serve_read_index().await?;
        let progress = match change {
            Change::Learn { node, member } => self.learn(&raft, node, member).await?,
            Change::Promote { node, replaces } => self.promote(&raft, node, replaces).await?,
            Change::Remove { node } => self.remove(&raft, node).await?,
        };
        Ok(to_json(&progress)?)
    }

    async fn learn(
        self: &Arc<Self>,
        raft: &Raft,
        node: u64,
        member: Member,
    ) -> Result<Progress, Refused> {
        let members = members_of(raft);
        if let Some(known) = members.get_node(&node) {
            if known.incarnation == member.incarnation {
                return Ok(Progress::Done);
            }
            return Err(conflict(format!(
                "node {node} is a member already, from another directory ({}, not {}): two nodes with one id \
                 cannot be; empty the copy and let it join with an id of its own",
                known.incarnation, member.incarnation
            )));
        }
        let met = self.meet(node).await.map_err(|cause| {
            Refused::new(
                Why::Busy,
                format!("node {node} cannot be reached: {}", cause.chain()),
            )
        })?;
        if met.node != node || met.incarnation != member.incarnation {
            return Err(conflict(format!(
                "who answers as node {node} is node {} from the directory {}, not from {}: two nodes with one id \
                 cannot be; stop the wrong one",
                met.node, met.incarnation, member.incarnation
            )));
        }
        raft.add_learner(node, member, false)
            .await
            .map_err(|cause| failed(&cause))?;
        Ok(Progress::Done)
    }

    async fn promote(
        self: &Arc<Self>,
        raft: &Raft,
        node: u64,
        replaces: Option<u64>,
    ) -> Result<Progress, Refused> {
        let members = members_of(raft);
        let mut voters: BTreeSet<u64> = members.voter_ids().collect();
        if members.get_node(&node).is_none() {
            return Err(conflict(format!(
                "node {node} is no learner of the catalog's group yet"
            )));
        }
        if voters.contains(&node) && replaces.is_none_or(|old| !voters.contains(&old)) {
            return Ok(Progress::Done);
        }
        let metrics = raft.metrics().borrow().clone();
        let last = metrics.last_log_index.unwrap_or(0);
        let has = metrics
            .replication
            .and_then(|progress| progress.get(&node).copied().flatten())
            .map_or(0, |at| at.index);
        let behind = last.saturating_sub(has);
        if node != self.seat.node && (behind > BEHIND_MAX || has == 0) {
            return Ok(Progress::Behind(behind.max(1)));
        }
        voters.insert(node);
        if let Some(old) = replaces {
            voters.remove(&old);
        }
        self.check_quorum(&voters).await?;
        raft.change_membership(voters, false)
            .await
            .map_err(|cause| failed(&cause))?;
        Ok(Progress::Done)
    }

    async fn remove(self: &Arc<Self>, raft: &Raft, node: u64) -> Result<Progress, Refused> {
        let members = members_of(raft);
        if members.get_node(&node).is_none() {
            return Ok(Progress::Done);
        }
        let mut voters: BTreeSet<u64> = members.voter_ids().collect();
        if !voters.remove(&node) {
            raft.change_membership(ChangeMembers::RemoveNodes([node].into()), false)
                .await
                .map_err(|cause| failed(&cause))?;
            return Ok(Progress::Done);
        }
        if voters.is_empty() {
            return Err(conflict(format!(
                "node {node} holds the last copy of the catalog: add another member before it is removed"
            )));
        }
        self.check_quorum(&voters).await?;
        raft.change_membership(voters, false)
            .await
            .map_err(|cause| failed(&cause))?;
        Ok(Progress::Done)
    }

    /// Whether most of those voters answer now, each as the node it should be.
    async fn check_quorum(self: &Arc<Self>, voters: &BTreeSet<u64>) -> Result<(), Refused> {
        let mut asked = BTreeMap::new();
        for node in voters.iter().copied() {
            let shared = self.clone();
            asked.insert(
                node,
                tokio::spawn(async move { shared.meet(node).await.map(|met| met.node) }),
            );
        }
        let mut silent = Vec::new();
        for (node, answer) in asked {
            if !matches!(answer.await, Ok(Ok(met)) if met == node) {
                silent.push(node);
            }
        }
        if (voters.len() - silent.len()) * 2 > voters.len() {
            return Ok(());
        }
        Err(conflict(format!(
            "of the members that would stay, {voters:?}, {silent:?} do not answer: no change of the catalog could \
             get a quorum; bring them up or add others first"
        )))
    }
}

fn members_of(raft: &Raft) -> Membership {
    raft.metrics()
        .borrow()
        .membership_config
        .membership()
        .clone()
}
