//! The Directory's part of its group: what entries of the log do to the tables, and what everybody on this node sees of it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use redb::WriteTransaction;
use tokio::sync::watch;

use super::{
    error::{Error, StorageError},
    map, records,
    state::{Database, apply_batches, prepare},
    tables,
    view::View,
};
use crate::{
    cluster::ClusterMap,
    raft::{self, Answer, Machine, Store, StoreError},
    types::{ClusterId, Revision, Timestamp},
};

/// The newest applied state, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub revision: Revision,
    /// Of the last command; the Directory's time never goes back behind it.
    pub time: Timestamp,
}

/// Applies, and publishes before anybody is answered.
pub struct DirectoryMachine {
    progress: watch::Sender<Progress>,
    /// Version 0 and no cluster before there is one.
    map: watch::Sender<Arc<ClusterMap>>,
}

impl DirectoryMachine {
    pub fn new(database: &Database) -> Result<Self, Error> {
        let nothing = ClusterMap {
            map_version: 0,
            cluster: ClusterId::from_bytes([0; 16]),
            group_count: 0,
            groups: BTreeMap::new(),
            servers: BTreeMap::new(),
            lock_servers: Vec::new(),
            directory_servers: Vec::new(),
            copies: 0,
            min_in_sync: 0,
        };
        let progress = Progress { revision: Revision(0), time: Timestamp(0) };
        let machine = Self { progress: watch::Sender::new(progress), map: watch::Sender::new(Arc::new(nothing)) };
        machine.publish(&database.view()?)?;
        Ok(machine)
    }

    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub fn map(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.map.subscribe()
    }

    fn publish(&self, view: &View) -> Result<(), Error> {
        let map_version = self.map.borrow().map_version;
        if view.cluster().is_some() && view.map_version() != map_version {
            self.map.send_replace(Arc::new(map::load(view)?));
        }
        let newest = Progress { revision: view.revision(), time: view.time() };
        self.progress.send_if_modified(|progress| std::mem::replace(progress, newest) != newest);
        Ok(())
    }
}

fn failed(error: impl Into<Error>) -> StoreError {
    StoreError::Service(Box::new(error.into()))
}

impl Machine for DirectoryMachine {
    fn tables(&self) -> raft::Tables {
        tables::ALL
    }

    fn prepare(&self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        prepare(transaction).map_err(failed)
    }

    fn apply(&self, transaction: &WriteTransaction, proposals: &[Bytes]) -> Result<Vec<Answer>, StoreError> {
        let unreadable = |records::Damage(what)| failed(StorageError::Damaged { table: "log", what });
        let batches = proposals.iter().map(|proposal| records::batch_in(proposal)).collect::<Result<Vec<_>, _>>();
        let applied = apply_batches(transaction, &batches.map_err(unreadable)?).map_err(failed)?;
        Ok(applied.into_iter().map(|applied| Box::new(applied) as Answer).collect())
    }

    fn applied(&self, store: &Store) -> Result<(), StoreError> {
        let view = View::new(store.begin_read()?).map_err(failed)?;
        self.publish(&view).map_err(failed)
    }
}
