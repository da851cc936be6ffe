//! From a data folder to a node of the Directory, and from a node that leads to a running Directory.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use super::{
    Directory,
    command::{Command, Registration, ServerKind, Settings},
    driver::{self, Driver, ProposeError},
    lease,
    machine::DirectoryMachine,
    model::Cluster,
    probe::Prober,
    reader::Reader,
    report::Suspects,
    state::Database,
    streams::Streams,
};
use crate::{
    cluster::{Server, ServerState},
    config::DirectoryOptions,
    durable::DataDir,
    raft::{self, Group, NodeId},
    token::LOCK_KEY_LENGTH,
    types::{ClusterId, StoreId},
};

const KIND: &str = "directory";
const DATABASE_FILE: &str = "directory.redb";
/// Of the log, in the data folder.
const LOG_FOLDER: &str = "raft";

/// One node, whether it leads or not.
pub struct Node {
    pub group: Arc<Group>,
    pub machine: Arc<DirectoryMachine>,
    pub counts: driver::Counts,
    database: Arc<Database>,
    /// What the flags say.
    settings: Settings,
    /// It joined a cluster that has its settings already: a failover to it must not change them.
    joins: bool,
    /// Where it asks to be let in.
    pub join: Vec<String>,
    /// This process, as the map shows it.
    server: Server,
}

/// Opens the folder. The second part keeps other processes out of it.
pub async fn open(options: &DirectoryOptions, address: SocketAddr) -> anyhow::Result<(Node, DataDir)> {
    let settings = settings(options)?;
    let path = options.common.data.clone();
    let opening = tokio::task::spawn_blocking(move || {
        let data = DataDir::open(&path, KIND)?;
        let file = data.path().join(DATABASE_FILE);
        let is_there = file.exists();
        if let Some(lost) = data.cluster_id().filter(|_| !is_there) {
            bail!(
                "the folder belongs to cluster {lost}, but its database is gone: restore {DATABASE_FILE} from a backup"
            );
        }
        let database = Database::open(&file).with_context(|| format!("open {}", file.display()))?;
        let has_state = database.view()?.cluster().is_some();
        anyhow::Ok((data, Arc::new(database), has_state))
    });
    let (data, database, has_state) = opening.await.context("open the data folder")??;
    let is_new = data.cluster_id().is_none() && !data.path().join(LOG_FOLDER).exists();
    let join = raft::whom_to_join(KIND, &options.group.join, &options.group.peers, is_new).await;
    let joins = !join.is_empty();
    let machine = Arc::new(DirectoryMachine::new(&database)?);
    let server = this_server(options, address);
    let group_options = raft::Options {
        service: KIND,
        folder: data.path().join(LOG_FOLDER),
        node: raft::node_of(data.store_id()),
        me: raft::Node {
            server: server.server.to_string(),
            address: server.address.clone(),
            external_address: server.external_address.clone(),
            ..Default::default()
        },
        joins,
        has_state,
    };
    let group = Group::start(group_options, database.store().clone(), machine.clone()).await?;
    Ok((Node { group, machine, counts: driver::Counts::default(), database, settings, joins, join, server }, data))
}

/// What begins when a node comes to lead; ends with `lost` or `stop`.
pub struct Lead {
    pub directory: Arc<Directory>,
    pub driver: Driver,
}

/// Takes up the lead: makes the cluster if there is none, and gives every server a fresh lease.
pub async fn begin(node: &Node, lost: CancellationToken, stop: CancellationToken) -> anyhow::Result<Lead> {
    let driver = Driver::start(node.group.clone(), lost, node.counts.clone());
    let proposer = driver.proposer();
    let is_made = node.database.view()?.cluster().is_some();
    let command = match (is_made, node.joins) {
        (false, _) => Some(bootstrap(node.settings.clone())?),
        (true, false) => Some(Command::ChangeSettings { settings: node.settings.clone() }),
        (true, true) => None,
    };
    if let Some(command) = command {
        let decided = proposer.propose(command).await;
        if let Err(ProposeError::Rejected(rejected)) = decided {
            return Err(rejected).context("the settings do not fit the cluster that the folder holds").context(Unfit);
        }
        decided?;
    }
    proposer.propose(Command::RegisterServer { registration: registration(node.group.node, &node.group.me)? }).await?;
    let view = node.database.view()?;
    let Cluster { cluster, lock_key, .. } = view.cluster().cloned().context("the cluster was made a moment ago")?;
    if !is_made {
        tracing::info!(%cluster, "made a new cluster");
    }
    let servers = view.servers()?.into_iter().map(|record| record.registration);
    let others = servers
        .filter(|known| known.kind != ServerKind::Directory)
        .map(|known| (known.server.clone(), lease::Process::of(&known)));
    let leases = lease::Table::new(others, Instant::now());
    let directory = Directory {
        cluster,
        lock_key,
        server: node.server.clone(),
        group: node.group.clone(),
        proposer,
        reader: Reader::new(node.database.clone(), node.group.clone()),
        progress: node.machine.progress(),
        maps: node.machine.map(),
        leases: Mutex::new(leases),
        prober: Prober::default(),
        suspects: Suspects::default(),
        setbacks: Default::default(),
        planning: Default::default(),
        streams: Streams::new(stop),
    };
    Ok(Lead { directory: Arc::new(directory), driver })
}

/// No later lead of this node would fare better.
#[derive(Debug, thiserror::Error)]
#[error("the options are not those of this cluster")]
pub struct Unfit;

fn bootstrap(settings: Settings) -> anyhow::Result<Command> {
    let mut lock_key = [0; LOCK_KEY_LENGTH];
    getrandom::fill(&mut lock_key).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(Command::Bootstrap { cluster: ClusterId::random(), lock_key, settings })
}

fn settings(options: &DirectoryOptions) -> anyhow::Result<Settings> {
    let (copies, min_in_sync) = (options.copies, options.min_in_sync);
    let initial_fileservers = options.initial_fileservers.unwrap_or(copies);
    if min_in_sync > copies {
        bail!("--min-in-sync {min_in_sync} is more than there are copies ({copies}): nothing could ever be written");
    }
    if initial_fileservers < copies {
        bail!("--initial-fileservers {initial_fileservers} is too few for {copies} copies");
    }
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Ok(Settings {
        group_count: options.groups,
        copies,
        min_in_sync,
        initial_fileservers,
        keep_versions: options.keep_versions,
        keep_for_ms: millis(options.keep_for),
        garbage_grace_ms: millis(options.garbage_grace),
        repair_after_ms: millis(options.repair_after),
    })
}

fn this_server(options: &DirectoryOptions, address: SocketAddr) -> Server {
    Server {
        server: options.common.id.clone(),
        state: ServerState::Up,
        address: options.common.advertised(address),
        external_address: options.common.advertised_external(address),
        zone: String::new(),
        disk_used_bytes: 0,
        disk_total_bytes: 0,
        blob_count: 0,
        last_seen: None,
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        read_only_reason: String::new(),
        stored_bytes: 0,
        draining: false,
        down_since: None,
        group_count: 0,
        lead_count: 0,
    }
}

/// A node of the group as the map lists it, so that clients find all of them.
pub fn registration(node: NodeId, at: &raft::Node) -> anyhow::Result<Registration> {
    let mut store = [0; 16];
    store.iter_mut().zip(node.to_be_bytes()).for_each(|(byte, value)| *byte = value);
    Ok(Registration {
        kind: ServerKind::Directory,
        server: at.server.parse().context("the name of a node")?,
        store: StoreId::from_bytes(store),
        address: at.address.clone(),
        external_address: at.external_address.clone(),
        zone: String::new(),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        lock_service: None,
        incarnations: Vec::new(),
    })
}
