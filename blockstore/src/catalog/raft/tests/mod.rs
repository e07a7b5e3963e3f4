//! Claims about the group, with several nodes in one process: real databases, a network in memory.

mod bench;
mod faults;
mod group;
mod install;
mod membership;
mod suite;

use super::*;
use crate::catalog::Catalog;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The network in memory. What is cut off is lost in silence, as on a real one.
#[derive(Default)]
pub(crate) struct Board {
    up: Mutex<BTreeMap<u64, Catalog>>,
    /// From and to.
    cut: Mutex<BTreeSet<(u64, u64)>>,
}

/// A node's end of it.
pub(crate) struct Port {
    board: Arc<Board>,
    node: u64,
}

impl Wire for Port {
    fn call(&self, to: u64, request: Bytes, _: Duration) -> Reply {
        let (board, from) = (self.board.clone(), self.node);
        Box::pin(async move {
            if board.is_cut(from, to) {
                return std::future::pending().await;
            }
            let catalog = lock(&board.up).get(&to).cloned();
            let answer = match catalog.as_ref().and_then(Catalog::group) {
                Some(group) => group.answer(from, request),
                None => {
                    let text = format!("nobody listens at node {to}");
                    return Err(Error::new(Kind::Unavailable, Subject::Store, text));
                }
            };
            drop(catalog);
            let answer = answer.await;
            if board.is_cut(to, from) {
                return std::future::pending().await;
            }
            answer
        })
    }
}

impl Board {
    fn is_cut(&self, from: u64, to: u64) -> bool {
        lock(&self.cut).contains(&(from, to))
    }

    /// Cuts a node off from all others, both ways.
    fn isolate(&self, node: u64) {
        let mut cut = lock(&self.cut);
        for other in 0..32 {
            cut.insert((node, other));
            cut.insert((other, node));
        }
    }

    fn heal(&self) {
        lock(&self.cut).clear();
    }
}

/// Nodes with their directories.
pub(crate) struct Cluster {
    board: Arc<Board>,
    settings: Settings,
    directories: BTreeMap<u64, tempfile::TempDir>,
}

fn incarnation() -> Member {
    Member {
        incarnation: uuid::Uuid::new_v4().to_string(),
        address: String::new(),
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        patience: Duration::from_secs(20),
        ..Settings::default()
    }
}

impl Cluster {
    /// A new group of that many nodes.
    pub(crate) fn of(nodes: usize) -> Self {
        Self::with(nodes, settings())
    }

    fn with(nodes: usize, settings: Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let seat = found(directory.path(), incarnation()).unwrap();
        let mut cluster = Self {
            board: Arc::default(),
            settings,
            directories: BTreeMap::from([(seat.node, directory)]),
        };
        cluster.start(seat.node);
        for _ in 1..nodes {
            let node = cluster.enlist();
            cluster
                .any()
                .member_add(node, Duration::from_secs(60))
                .unwrap();
        }
        cluster
    }

    /// Invites a node and starts it, without adding it.
    fn enlist(&mut self) -> u64 {
        let member = incarnation();
        let host = self.any();
        let node = host.member_invite(member.clone()).unwrap();
        let seat = Seat {
            group: host.group().unwrap().seat().group,
            node,
            incarnation: member.incarnation,
        };
        let directory = tempfile::tempdir().unwrap();
        enlist(directory.path(), &seat).unwrap();
        self.directories.insert(node, directory);
        self.start(node);
        node
    }

    fn path(&self, node: u64) -> PathBuf {
        self.directories[&node].path().into()
    }

    pub(crate) fn start(&mut self, node: u64) -> Catalog {
        let port = Port {
            board: self.board.clone(),
            node,
        };
        let catalog =
            Catalog::open_member(&self.path(node), Arc::new(port), &self.settings).unwrap();
        lock(&self.board.up).insert(node, catalog.clone());
        catalog
    }

    fn stop(&mut self, node: u64) {
        let catalog = lock(&self.board.up).remove(&node).unwrap();
        catalog.close();
    }

    pub(crate) fn node(&self, node: u64) -> Catalog {
        lock(&self.board.up)[&node].clone()
    }

    pub(crate) fn nodes(&self) -> Vec<u64> {
        lock(&self.board.up).keys().copied().collect()
    }

    fn any(&self) -> Catalog {
        self.node(self.nodes()[0])
    }

    /// The node that most others believe to lead, once there is one.
    fn leader(&self) -> u64 {
        for _ in 0..600 {
            for node in self.nodes() {
                let catalog = self.node(node);
                if catalog.group().unwrap().leader() == Some(node) && catalog.catch_up().is_ok() {
                    return node;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no leader within 30 s");
    }

    /// A node that does not lead, if there is one.
    fn follower_or_only(&self) -> u64 {
        let leader = self.leader();
        let other = self.nodes().into_iter().find(|node| *node != leader);
        other.unwrap_or(leader)
    }

    fn follower(&self) -> u64 {
        let leader = self.leader();
        self.nodes()
            .into_iter()
            .find(|node| *node != leader)
            .unwrap()
    }
}

/// The catalog of a group of one member.
pub(crate) fn alone(directory: &Path) -> Catalog {
    let seat = found(directory, incarnation()).unwrap();
    let port = Port {
        board: Arc::default(),
        node: seat.node,
    };
    Catalog::open_member(directory, Arc::new(port), &settings()).unwrap()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes() {
            self.stop(node);
        }
    }
}

pub(crate) fn put(catalog: &Catalog, key: &str, value: &str) -> Result<()> {
    let (key, value) = (key.to_owned(), value.to_owned());
    catalog.transact(move |txn| {
        txn.put(key.as_bytes(), value.into_bytes());
        Ok(())
    })
}

/// What the node shows after it caught up.
pub(crate) fn get(catalog: &Catalog, key: &str) -> Result<Option<String>> {
    catalog.catch_up()?;
    let row = catalog.get(key.as_bytes())?;
    Ok(row.map(|row| String::from_utf8(row).unwrap()))
}

/// Adds one to a counter; returns its new value.
pub(crate) fn count(catalog: &Catalog, key: &str) -> Result<u64> {
    let key = key.to_owned();
    catalog.transact(move |txn| {
        let now = txn
            .get(key.as_bytes())?
            .map_or(0, |row| String::from_utf8(row).unwrap().parse().unwrap());
        txn.put(key.as_bytes(), (now + 1).to_string().into_bytes());
        Ok(now + 1)
    })
}

pub(crate) fn counted(catalog: &Catalog, key: &str) -> Result<u64> {
    Ok(get(catalog, key)?.map_or(0, |row| row.parse().unwrap()))
}

/// All rows that are not a node's own.
pub(crate) fn rows(catalog: &Catalog) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    catalog
        .scan(b"", b"", &mut |key, value| {
            if !key.starts_with(keys::NODE) {
                rows.insert(key.to_vec(), value.to_vec());
            }
            Ok(true)
        })
        .unwrap();
    rows
}
