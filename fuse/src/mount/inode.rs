//! What can be in the tree, and the numbers by which the kernel knows it.
//!
//! 1. A number names one [`Node`] for as long as the mount lives; numbers are never used again.
//! 2. A node of content that cannot change (an object's version, a sealed map) is that content,
//!    not its name: an object put anew is another node with another number. So whatever the kernel
//!    caches under a number is right for ever.
//!    A file that is being written is the exception: its number goes from the version it was opened
//!    with to the file that is written, and what the kernel caches of it is never kept.
//! 3. The table holds what the kernel holds: an entry goes when its last lookup is forgotten.

use super::{locked, posix};
use blockstore::object::{Body, Object};
use blockstore::{MapId, SealedMap};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The root directory's number (FUSE, `FUSE_ROOT_ID`).
pub(super) const ROOT: u64 = 1;

/// The directories that are always there, in the order of their numbers.
const FIXED: [(u64, Node); 5] = [
    (ROOT, Node::Root),
    (2, Node::Volumes),
    (3, Node::Snapshots),
    (4, Node::Images),
    (5, Node::Buckets),
];

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Root,
    Volumes,
    Snapshots,
    Images,
    Buckets,
    /// A bucket (`prefix` empty) or what lies under a prefix that ends in `/`.
    Directory {
        bucket: String,
        prefix: String,
    },
    /// A volume; a new one under an old name has another map.
    Volume {
        name: String,
        map: MapId,
    },
    /// A snapshot or an image.
    Sealed {
        sealed: SealedMap,
        created_ms: u64,
    },
    /// One version of an object.
    Object {
        bucket: String,
        key: String,
        version: Version,
    },
    /// An object that is, or was, written through this mount: [`super::bucket_file::BucketFile`].
    /// Its bytes change under its number.
    File {
        id: u64,
    },
}

impl Node {
    /// Whether it is listed rather than read.
    pub(super) fn is_directory(&self) -> bool {
        match self {
            Self::Root | Self::Volumes | Self::Snapshots | Self::Images | Self::Buckets => true,
            Self::Directory { .. } => true,
            Self::Volume { .. } | Self::Sealed { .. } | Self::Object { .. } | Self::File { .. } => {
                false
            }
        }
    }
}

/// What tells an object from a later one under the same key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Version {
    pub(super) length_bytes: u64,
    pub(super) modified_ns: u64,
    pub(super) mode: Option<u32>,
    modified_ms: u64,
    /// When its metadata changed last.
    changed_ms: u64,
    /// As the store names it.
    version: String,
    etag: String,
    /// The first map of the body; `None` for one that lies in the catalog.
    map: Option<SealedMap>,
}

impl Version {
    /// The version that `object` is.
    pub(super) fn of(object: &Object) -> Self {
        let map = match &object.body {
            Body::Inline => None,
            Body::Map(sealed) => Some(*sealed),
            Body::Concat(pieces) => pieces.first().map(|piece| piece.sealed),
        };
        Self {
            length_bytes: object.length_bytes,
            modified_ns: posix::modified_ns(object),
            mode: posix::mode(&object.meta.user),
            modified_ms: object.modified_ms,
            changed_ms: object.changed_ms,
            version: object.version.clone(),
            etag: object.meta.etag.clone(),
            map,
        }
    }
}

/// The table of numbers.
pub(super) struct Inodes {
    table: Mutex<Table>,
}

struct Table {
    nodes: HashMap<u64, Held>,
    numbers: HashMap<Arc<Node>, u64>,
    next: u64,
}

struct Held {
    node: Arc<Node>,
    lookups: u64,
}

impl Inodes {
    /// A table with the fixed directories.
    pub(super) fn new() -> Self {
        let mut table = Table {
            nodes: HashMap::new(),
            numbers: HashMap::new(),
            next: ROOT,
        };
        for (number, node) in FIXED {
            let node = Arc::new(node);
            table.numbers.insert(Arc::clone(&node), number);
            table.nodes.insert(number, Held { node, lookups: 0 });
            table.next = number + 1;
        }
        Self {
            table: Mutex::new(table),
        }
    }

    /// The number of `node`, with one more lookup to be forgotten.
    pub(super) fn hold(&self, node: &Node) -> u64 {
        let mut table = locked(&self.table);
        let number = match table.numbers.get(node) {
            Some(&number) => number,
            None => table.add(node.clone()),
        };
        if let Some(held) = table.nodes.get_mut(&number) {
            held.lookups += 1;
        }
        number
    }

    /// The number of `node` if the kernel knows it.
    pub(super) fn number(&self, node: &Node) -> Option<u64> {
        locked(&self.table).numbers.get(node).copied()
    }

    /// What `number` names.
    pub(super) fn node(&self, number: u64) -> Option<Arc<Node>> {
        locked(&self.table)
            .nodes
            .get(&number)
            .map(|held| Arc::clone(&held.node))
    }

    /// `number` names `node` from now on, if it is held and still names `before`. A number that
    /// names `node` already is left to those who have it.
    pub(super) fn rebind(&self, number: u64, before: &Node, node: Node) -> bool {
        let mut table = locked(&self.table);
        let node = Arc::new(node);
        let Some(held) = table.nodes.get_mut(&number) else {
            return false;
        };
        if *held.node != *before {
            return false;
        }
        held.node = Arc::clone(&node);
        if table.numbers.get(before) == Some(&number) {
            table.numbers.remove(before);
        }
        table.numbers.insert(node, number);
        true
    }

    /// Nodes that the kernel knows, with their numbers.
    pub(super) fn all(&self) -> Vec<(u64, Arc<Node>)> {
        let table = locked(&self.table);
        let nodes = table.nodes.iter();
        nodes
            .map(|(number, held)| (*number, Arc::clone(&held.node)))
            .collect()
    }

    /// Takes back `lookups` of `number`; the node, if it goes with them.
    pub(super) fn forget(&self, number: u64, lookups: u64) -> Option<Arc<Node>> {
        let mut table = locked(&self.table);
        let held = table.nodes.get_mut(&number)?;
        held.lookups = held.lookups.saturating_sub(lookups);
        let fixed = FIXED.iter().any(|(fixed, _)| *fixed == number);
        if held.lookups > 0 || fixed {
            return None;
        }
        let gone = table.nodes.remove(&number)?.node;
        // A renamed node may have left the name to another.
        if table.numbers.get(&gone) == Some(&number) {
            table.numbers.remove(&gone);
        }
        Some(gone)
    }
}

impl Table {
    fn add(&mut self, node: Node) -> u64 {
        let number = self.next;
        self.next += 1;
        let node = Arc::new(node);
        self.numbers.insert(Arc::clone(&node), number);
        self.nodes.insert(number, Held { node, lookups: 0 });
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(prefix: &str) -> Node {
        Node::Directory {
            bucket: "b".into(),
            prefix: prefix.into(),
        }
    }

    #[test]
    fn a_number_goes_with_its_last_lookup_and_never_returns() {
        let inodes = Inodes::new();
        let first = inodes.hold(&directory("a/"));
        assert_eq!(inodes.hold(&directory("a/")), first);
        inodes.forget(first, 1);
        assert_eq!(inodes.node(first).as_deref(), Some(&directory("a/")));
        inodes.forget(first, 1);
        assert_eq!(inodes.node(first), None);
        assert_eq!(inodes.number(&directory("a/")), None);
        assert!(inodes.hold(&directory("a/")) > first);
    }

    #[test]
    fn the_fixed_directories_stay_whatever_is_forgotten() {
        let inodes = Inodes::new();
        for (number, node) in FIXED {
            assert_eq!(inodes.hold(&node), number);
            inodes.forget(number, 99);
            assert_eq!(inodes.node(number).as_deref(), Some(&node));
        }
    }

    #[test]
    fn an_object_put_anew_is_another_node() {
        let version = |modified_ms| {
            Version::of(&Object {
                modified_ms,
                ..Object::default()
            })
        };
        let object = |modified_ms| Node::Object {
            bucket: "b".into(),
            key: "k".into(),
            version: version(modified_ms),
        };
        let inodes = Inodes::new();
        assert_ne!(inodes.hold(&object(1)), inodes.hold(&object(2)));
    }
}
