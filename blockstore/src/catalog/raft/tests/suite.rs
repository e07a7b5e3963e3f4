//! openraft's own claims about storage, of ours.

use super::super::log::Log;
use super::super::state::State;
use super::super::types::{StorageError, Types};
use crate::catalog::committer::Committed;
use crate::catalog::open;
use openraft::testing::{StoreBuilder, Suite};
use std::sync::Arc;

struct Builder;

impl StoreBuilder<Types, Log, State, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, State), StorageError> {
        let directory = tempfile::tempdir().unwrap();
        let database = Arc::new(open::database(&directory.path().join("catalog"), true).unwrap());
        let committed = Arc::new(Committed::new(0));
        let log = Log::new(database.clone(), committed.clone());
        let state = State::open(database, committed, directory.path().into()).unwrap();
        Ok((directory, log, state))
    }
}

#[test]
fn our_storage_keeps_what_openraft_asks_of_it() {
    Suite::test_all(Builder).unwrap();
}
