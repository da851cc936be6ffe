//! From a data folder to a running Directory: makes the cluster at the first start, opens it at every other.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use super::{
    Directory, clock,
    command::{Command, Registration, ServerKind, Settings},
    driver::Driver,
    lease,
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
    token::LOCK_KEY_LENGTH,
    types::{ClusterId, StoreId},
};

const KIND: &str = "directory";
const DATABASE_FILE: &str = "directory.redb";

/// Everything that runs.
pub struct Opened {
    pub directory: Arc<Directory>,
    pub driver: Driver,
    /// Keeps other processes out of the folder.
    pub data: DataDir,
}

/// Opens the folder; `stop` ends the streams, and is cancelled if the tables fail later.
pub async fn open(options: &DirectoryOptions, address: SocketAddr, stop: CancellationToken) -> anyhow::Result<Opened> {
    let settings = settings(options)?;
    let path = options.common.data.clone();
    let opening = tokio::task::spawn_blocking(move || {
        let mut data = DataDir::open(&path, KIND)?;
        let file = data.path().join(DATABASE_FILE);
        let database = Database::open(&file).with_context(|| format!("open {}", file.display()))?;
        let cluster = make_or_check(&database, &mut data, settings)?;
        anyhow::Ok((data, Arc::new(database), cluster))
    });
    let (data, database, cluster) = opening.await.context("open the data folder")??;

    let driver = Driver::start(database.clone(), stop.clone())?;
    let server = this_server(options, address);
    driver.proposer().propose(Command::RegisterServer { registration: registration(&server, data.store_id()) }).await?;
    let known = database.view()?.servers()?.into_iter().map(|record| record.registration);
    let others = known.filter(|known| known.kind != ServerKind::Directory).map(|known| (known.server, known.store));
    let leases = lease::Table::new(others, Instant::now());
    let directory = Directory {
        cluster: cluster.cluster,
        lock_key: cluster.lock_key,
        server,
        proposer: driver.proposer(),
        reader: Reader::new(database),
        progress: driver.progress.clone(),
        maps: driver.map.clone(),
        leases: Mutex::new(leases),
        prober: Prober::default(),
        suspects: Suspects::default(),
        streams: Streams::new(stop),
    };
    Ok(Opened { directory: Arc::new(directory), driver, data })
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
    })
}

/// Blocking.
fn make_or_check(database: &Database, data: &mut DataDir, settings: Settings) -> anyhow::Result<Cluster> {
    let known = database.view()?.cluster().cloned();
    let command = match (&known, data.cluster_id()) {
        (Some(_), _) => Command::ChangeSettings { settings },
        (None, Some(lost)) => {
            bail!(
                "the folder belongs to cluster {lost}, but its database is gone: restore {DATABASE_FILE} from a backup"
            )
        }
        (None, None) => {
            let mut lock_key = [0; LOCK_KEY_LENGTH];
            getrandom::fill(&mut lock_key).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
            Command::Bootstrap { cluster: ClusterId::random(), lock_key, settings }
        }
    };
    for applied in database.apply(clock::now(), &[command])? {
        applied.result.context("the settings do not fit the cluster that the folder holds")?;
    }
    let cluster = database.view()?.cluster().cloned().context("the cluster was made a moment ago")?;
    data.set_cluster_id(cluster.cluster)?;
    if known.is_none() {
        tracing::info!(cluster = %cluster.cluster, "made a new cluster");
    }
    Ok(cluster)
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
    }
}

fn registration(server: &Server, store: StoreId) -> Registration {
    Registration {
        kind: ServerKind::Directory,
        server: server.server.clone(),
        store,
        address: server.address.clone(),
        external_address: server.external_address.clone(),
        zone: server.zone.clone(),
        software_version: server.software_version.clone(),
    }
}
