//! From a data folder to a node of the Lock service, and from a node that leads to a running driver.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, bail};

use crate::{
    config::LockOptions,
    durable::DataDir,
    lock::{
        driver::{Driver, GroupLog},
        entry::Entry,
        fence::Directories,
        handle::{End, Handle},
        machine::LockMachine,
        tables::{self, StorageError},
    },
    raft::{self, Group, Store},
    types::LeadId,
};

const KIND: &str = "lock";
/// Of the log, in the data folder.
const LOG_FOLDER: &str = "raft";

/// One node, whether it leads or not.
pub(super) struct Node {
    pub group: Arc<Group>,
    pub machine: Arc<LockMachine>,
    store: Arc<Store>,
    directories: Arc<Directories>,
    /// Where it asks to be let in.
    pub join: Vec<String>,
}

/// Opens the folder. The second part keeps other processes out of it.
pub(super) async fn open(
    options: &LockOptions,
    address: SocketAddr,
    directories: Arc<Directories>,
) -> anyhow::Result<(Node, DataDir)> {
    let path = options.common.data.clone();
    let opening = tokio::task::spawn_blocking(move || {
        let data = DataDir::open(&path, KIND)?;
        let file = data.path().join(tables::FILE);
        if let Some(lost) = data.cluster_id().filter(|_| !file.exists()) {
            bail!(
                "the folder belongs to cluster {lost}, but {} is gone: restore it from a backup, or empty the folder, and join anew",
                tables::FILE
            );
        }
        let store = tables::open(data.path()).with_context(|| format!("open {}", file.display()))?;
        let has_state = tables::read_head(&store.begin_read()?)?.is_some();
        anyhow::Ok((data, store, has_state))
    });
    let (data, store, has_state) = opening.await.context("open the data folder")??;
    if let Some(cluster) = data.cluster_id() {
        directories.belong_to(cluster);
    }
    let is_new = data.cluster_id().is_none() && !has_state && !data.path().join(LOG_FOLDER).exists();
    let join = raft::whom_to_join(KIND, &options.group.join, &options.group.peers, is_new).await;
    let machine = Arc::new(LockMachine::new(&store)?);
    let group_options = raft::Options {
        service: KIND,
        folder: data.path().join(LOG_FOLDER),
        node: raft::node_of(data.store_id()),
        me: raft::Node {
            server: options.common.id.to_string(),
            address: options.common.advertised(address),
            external_address: options.common.advertised_external(address),
            rejoined: false,
        },
        joins: !join.is_empty(),
        has_state,
    };
    let group = Group::start(group_options, store.clone(), machine.clone()).await?;
    Ok((Node { group, machine, store, directories, join }, data))
}

/// Why a lead was not taken up.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    /// It may be tried again.
    #[error(transparent)]
    Group(#[from] raft::Error),
    /// No later lead of this node would fare better.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Takes up the lead: from now on no decision of an earlier one counts, and the tables hold all that do.
pub(super) async fn begin(node: &Node, end: End) -> Result<(Driver<GroupLog>, Handle), BeginError> {
    let lead = LeadId::random();
    node.group.propose(Entry::Begin { lead }.encode()).await?;
    let store = node.store.clone();
    let reading = tokio::task::spawn_blocking(move || tables::read_state(&store.begin_read()?));
    let state = reading.await.map_err(|_| raft::Error::Ended)??;
    tracing::info!(revision = %state.revision(), %lead, "taking up the lead");
    let log = GroupLog { group: node.group.clone(), progress: node.machine.progress() };
    Ok(Driver::new(state, Arc::new(log), lead, node.directories.clone(), end))
}
