//! The catalog as a register: it grants each epoch once, records sets by comparing, knows disks and runs.

use crate::id::{Boot, Epoch, Incarnation, Member, NodeId};
use crate::sets::Sets;
use crate::writer::Grant;
use std::collections::BTreeMap;

pub(super) struct Catalog {
    pub(super) epoch: Epoch,
    pub(super) sets: Sets,
    known: BTreeMap<NodeId, (Incarnation, u64, u64)>,
    /// Not reachable before.
    pub(super) away_until: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Ask {
    Grant,
    Sets(Epoch, Sets),
    Register {
        incarnation: Incarnation,
        boot: u64,
        nonce: u64,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Tell {
    Granted(Grant),
    Sets(Epoch, Sets),
    Registered(bool, u64),
}

impl Catalog {
    pub(super) fn new(set: Vec<Member>) -> Self {
        Self {
            epoch: Epoch(0),
            sets: Sets {
                version: 1,
                sets: vec![set],
            },
            known: BTreeMap::new(),
            away_until: 0,
        }
    }

    pub(super) fn ask(&mut self, node: NodeId, ask: &Ask) -> Tell {
        match ask {
            Ask::Grant => {
                self.epoch.0 += 1;
                Tell::Granted(Grant {
                    epoch: self.epoch,
                    sets: self.sets.clone(),
                    boots: self
                        .known
                        .iter()
                        .map(|(node, (incarnation, boot, _))| {
                            let (node, incarnation) = (*node, *incarnation);
                            (Member { node, incarnation }, Boot(*boot))
                        })
                        .collect(),
                })
            }
            Ask::Sets(epoch, sets) => {
                if *epoch == self.epoch && sets.version == self.sets.version + 1 {
                    self.sets = sets.clone();
                }
                Tell::Sets(self.epoch, self.sets.clone())
            }
            Ask::Register {
                incarnation,
                boot,
                nonce,
            } => {
                let (known, last, holder) = *self.known.entry(node).or_default();
                let fresh = *incarnation > known;
                let next = *incarnation == known && *boot == last + 1;
                let again = *incarnation == known && *boot == last && *nonce == holder;
                if fresh || next {
                    self.known.insert(node, (*incarnation, *boot, *nonce));
                }
                Tell::Registered(fresh || next || again, *nonce)
            }
        }
    }
}
