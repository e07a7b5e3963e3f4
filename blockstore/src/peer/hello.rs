//! Who is at the other end, and whether we speak to it: judged here, without I/O.
//!
//! 1. What a hello says is believed only as far as the certificate and the catalog bear it out.
//! 2. Boots only grow: once a later boot of a node was seen, an earlier one is refused.
//! 3. One boot is one process: each process draws a number at its start, and a second number under
//!    the same boot is a copied data directory.

use super::{Lane, Member};
use crate::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Which cluster: given once, when it is founded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ClusterId(Uuid);

impl ClusterId {
    /// A new one.
    pub(crate) fn random() -> Self {
        Self(Uuid::new_v4())
    }

    pub(super) fn of(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, out)
    }
}

impl FromStr for ClusterId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Which disk a node keeps its data on: drawn when the data directory joins, so that a wiped one
/// comes back as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Incarnation(pub(crate) u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

/// What both sides say first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    /// How often this data directory was opened.
    pub(super) boot: u64,
    /// Drawn by the process at its start.
    pub(super) run: u64,
    /// The number of the lane that this connection is for.
    pub(super) lane: u8,
}

/// What a certificate says, after its signature was found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
}

/// The last start of a node that we have spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) incarnation: Incarnation,
    pub(super) boot: u64,
    pub(super) run: u64,
}

/// Why a node is not spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RefusalCode {
    /// It is of another cluster.
    ForeignCluster,
    /// Its certificate names another node than its hello.
    WrongNode,
    /// It has our own node id.
    OwnId,
    /// The catalog knows no such member (it was removed, or ours is behind).
    NotAMember,
    /// The node's disk is another one than the catalog knows.
    OtherIncarnation,
    /// A later start of this node is known.
    OldBoot,
    /// Another process runs under the same boot: a copied data directory.
    Copied,
    /// No version that both speak.
    Version,
    /// The lane is unknown, or nobody answers on it yet.
    Lane,
    /// It did not say who it is, or not in a way that we understand.
    Malformed,
    /// The node is stopping.
    Stopping,
    /// The join token has ended.
    TokenExpired,
    /// The join token counts no further join.
    TokenSpent,
    /// No such join token, or not its secret.
    TokenUnknown,
    /// Not now: no quorum, no leader, not ready yet.
    Unavailable,
    /// A code of a later release.
    #[serde(other)]
    Other,
}

/// A refusal, as it is said to the other side and in the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Refusal {
    /// For programs.
    pub(crate) code: RefusalCode,
    /// For people: what was wrong, with which value, and what to do.
    pub(crate) reason: String,
}

impl Refusal {
    pub(super) fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }
}

/// Whether the node that says `hello` and showed a certificate saying `named` is the one that the
/// catalog and our memory know. `ours` is our own hello; `dialled` is whom we called, if we did.
pub(super) fn judge(
    hello: &Hello,
    named: Named,
    ours: &Hello,
    dialled: Option<NodeId>,
    member: Option<&Member>,
    seen: Option<Seen>,
) -> Result<Lane, Refusal> {
    let refuse = |code, reason: String| Err(Refusal::new(code, reason));
    for cluster in [named.cluster, hello.cluster] {
        if cluster != ours.cluster {
            return refuse(
                RefusalCode::ForeignCluster,
                format!(
                    "it is of the cluster {cluster}, this is {}: check the address",
                    ours.cluster
                ),
            );
        }
    }
    if hello.node != named.node {
        return refuse(
            RefusalCode::WrongNode,
            format!(
                "it says that it is {}, its certificate is {}'s",
                hello.node, named.node
            ),
        );
    }
    if let Some(dialled) = dialled.filter(|dialled| *dialled != hello.node) {
        return refuse(
            RefusalCode::WrongNode,
            format!(
                "{} answers at the address of {dialled}: check the addresses in `infall cluster status`",
                hello.node
            ),
        );
    }
    if hello.node == ours.node {
        return refuse(
            RefusalCode::OwnId,
            format!(
                "it calls itself {}, which is this node: a data directory was copied, or an address leads \
                 back to the node itself; run each data directory once",
                hello.node
            ),
        );
    }
    let Some(member) = member else {
        return refuse(
            RefusalCode::NotAMember,
            format!(
                "{} is no member of the cluster: it was removed, or the catalog here is behind; to come \
                 back it joins with a new token and an empty data directory",
                hello.node
            ),
        );
    };
    if hello.incarnation != member.incarnation {
        return refuse(
            RefusalCode::OtherIncarnation,
            format!(
                "{} comes with the disk {}, the cluster knows it with {}: remove the node and let the new \
                 disk join as another one",
                hello.node, hello.incarnation, member.incarnation
            ),
        );
    }
    let known = seen.filter(|seen| seen.incarnation == hello.incarnation);
    let boot_known = known.map_or(member.boot, |seen| seen.boot.max(member.boot));
    if hello.boot < boot_known {
        return refuse(
            RefusalCode::OldBoot,
            format!(
                "{} comes with its start number {}, start number {boot_known} is known: an old process still \
                 runs, or the data directory was copied or rolled back; stop this one",
                hello.node, hello.boot
            ),
        );
    }
    if known.is_some_and(|seen| seen.boot == hello.boot && seen.run != hello.run) {
        return refuse(
            RefusalCode::Copied,
            format!(
                "two processes run as {} with start number {}: the data directory was copied; stop one of \
                 them, and let it join with an empty data directory",
                hello.node, hello.boot
            ),
        );
    }
    Lane::of(hello.lane).ok_or_else(|| {
        Refusal::new(
            RefusalCode::Lane,
            format!("lane {} is unknown to this release", hello.lane),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{ClusterId, Hello, Incarnation, Named, RefusalCode, Seen, judge};
    use crate::NodeId;
    use crate::peer::{Lane, Member};

    struct Case {
        hello: Hello,
        named: Named,
        ours: Hello,
        dialled: Option<NodeId>,
        member: Option<Member>,
        seen: Option<Seen>,
    }

    impl Case {
        fn good() -> Self {
            let cluster = ClusterId::random();
            let hello = |node, boot, run| Hello {
                cluster,
                node: NodeId(node),
                incarnation: Incarnation(node * 100),
                boot,
                run,
                lane: Lane::Replica.number(),
            };
            Self {
                hello: hello(2, 7, 70),
                named: Named {
                    cluster,
                    node: NodeId(2),
                },
                ours: hello(1, 3, 30),
                dialled: None,
                member: Some(Member {
                    addresses: Vec::new(),
                    incarnation: Incarnation(200),
                    boot: 7,
                }),
                seen: Some(Seen {
                    incarnation: Incarnation(200),
                    boot: 7,
                    run: 70,
                }),
            }
        }

        fn judged(&self) -> Result<Lane, RefusalCode> {
            judge(
                &self.hello,
                self.named,
                &self.ours,
                self.dialled,
                self.member.as_ref(),
                self.seen,
            )
            .map_err(|refusal| refusal.code)
        }
    }

    #[test]
    fn a_member_is_let_in_and_may_be_at_a_later_boot_than_the_catalog_knows() {
        let mut case = Case::good();
        assert_eq!(case.judged(), Ok(Lane::Replica));
        (case.hello.boot, case.hello.run) = (8, 80);
        assert_eq!(case.judged(), Ok(Lane::Replica));
        case.seen = None;
        assert_eq!(case.judged(), Ok(Lane::Replica));
    }

    #[test]
    fn whoever_is_not_what_it_says_is_refused() {
        type Change = fn(&mut Case);
        let cases: [(Change, RefusalCode); 12] = [
            (
                |case| case.hello.cluster = ClusterId::random(),
                RefusalCode::ForeignCluster,
            ),
            (
                |case| case.named.cluster = ClusterId::random(),
                RefusalCode::ForeignCluster,
            ),
            (|case| case.named.node = NodeId(3), RefusalCode::WrongNode),
            (
                |case| case.dialled = Some(NodeId(3)),
                RefusalCode::WrongNode,
            ),
            (
                |case| (case.hello.node, case.named.node) = (NodeId(1), NodeId(1)),
                RefusalCode::OwnId,
            ),
            (|case| case.member = None, RefusalCode::NotAMember),
            (
                |case| case.hello.incarnation = Incarnation(201),
                RefusalCode::OtherIncarnation,
            ),
            (|case| case.hello.boot = 6, RefusalCode::OldBoot),
            (
                |case| (case.hello.boot, case.seen) = (6, None),
                RefusalCode::OldBoot,
            ),
            (
                |case| {
                    case.seen = Some(Seen {
                        incarnation: Incarnation(200),
                        boot: 8,
                        run: 80,
                    });
                },
                RefusalCode::OldBoot,
            ),
            (|case| case.hello.run = 71, RefusalCode::Copied),
            (|case| case.hello.lane = 9, RefusalCode::Lane),
        ];
        for (number, (change, code)) in cases.into_iter().enumerate() {
            let mut case = Case::good();
            change(&mut case);
            assert_eq!(case.judged(), Err(code), "case {number}");
        }
    }

    #[test]
    fn a_code_of_a_later_release_still_reads() {
        let heard: super::Refusal =
            serde_json::from_str(r#"{"code":"too-tired","reason":"later"}"#).unwrap();
        assert_eq!(heard.code, RefusalCode::Other);
    }
}
