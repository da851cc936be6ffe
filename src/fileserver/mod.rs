//! The file server: keeps blobs on its disk, and sees to it that a write is on every in-sync disk before it is committed.
//!
//! What it promises: a write that is acknowledged was on stable storage on every required member when the Directory
//! committed it; a write that is not leaves nothing visible and, in the end, nothing on any disk; damaged bytes are never
//! served. What it deliberately does not know: names, versions and locks. The Directory decides, and is asked.
//!
//! The cores decide and do no I/O: [`in_sync`] says when a write may be committed, [`replica`] what this server accepts
//! from a primary, [`patch`] what the checksum of a patched file is. Around them, in reading order: [`write`] is a client's
//! write, [`committer`] asks for commits, [`replication`] moves blobs between servers, [`read`] serves them, [`settle`],
//! [`merge`], [`repair`] and [`leave`] clean up, [`heartbeat`] keeps the lease, and [`map`] is what all of them know of the cluster.

pub mod in_sync;
pub mod patch;
pub mod replica;

pub mod service;
pub mod write;

pub mod committer;
pub mod replication;

pub mod gather;
pub mod leave;
pub mod losses;
pub mod mend;
pub mod merge;
pub mod read;
pub mod repair;
pub mod scrub;
pub mod settle;

pub mod directory_link;
pub mod doubt;
pub mod heartbeat;
pub mod in_flight;
pub mod incarnation;
pub mod map;
pub mod metrics;
pub mod node;
pub mod pace;
pub mod suspicion;

pub mod error;
pub mod store;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::ServingStatus;

use self::{
    committer::Committer,
    directory_link::DirectoryLink,
    doubt::Doubt,
    heartbeat::Presence,
    in_flight::InFlight,
    leave::Departures,
    map::Map,
    merge::Merges,
    node::{Budget, Node},
    pace::Pace,
    replica::Replica,
    replication::{catch_up, sender::Peers},
    store::{Store, StoreOptions},
    suspicion::Suspicion,
};
use crate::{
    config::FileServerOptions,
    durable::DataDir,
    pb::{self, file_server_server::FileServerServer},
    serve::{Readiness, Services},
    types::{ClusterId, Incarnation},
};

/// In the data folder.
const STORE_DIR: &str = "blobs";
/// How long tasks may take to end after a shutdown; a write that waits for its commit is among them.
const END_TIMEOUT: Duration = Duration::from_secs(4);

/// What was locked, also after a panic of another task: every critical section here leaves its data whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a file server until the shutdown.
pub async fn run(options: FileServerOptions, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    let bound = listener.local_addr().context("address listened on")?;
    let (folder, store, incarnations) = open(&options).await?;
    let shutdown = shutdown.child_token();
    let (node, background) = assemble(&options, &folder, store, incarnations, &shutdown)?;
    let presence = Presence {
        address: options.common.advertised(bound),
        external_address: options.common.advertised_external(bound),
        zone: options.zone.clone(),
        cluster: folder.cluster_id(),
    };

    let mut services = Services::of(&options.common);
    services.add(FileServerServer::new(service::Service { node: node.clone() }));
    metrics::register(services.metrics(), &node);
    let readiness = services.readiness().await;
    let folder = Arc::new(Mutex::new(folder));
    let served = tokio::select! {
        served = services.serve(listener, shutdown.clone()) => served,
        failed = join(&node, &folder, presence, background, &readiness) => failed.map(|never| match never {}),
    };

    shutdown.cancel();
    readiness.set(ServingStatus::NotServing).await;
    node.tasks.close();
    if tokio::time::timeout(END_TIMEOUT, node.tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    node.store.close().await;
    match node.deposed.get() {
        Some(failure) => Err(failure.clone().into()),
        None => served,
    }
}

/// Makes this server one of its cluster, and starts what runs beside the calls. Goes on until dropped, or fails.
async fn join(
    node: &Arc<Node>,
    folder: &Arc<Mutex<DataDir>>,
    presence: Presence,
    background: Background,
    readiness: &Readiness,
) -> anyhow::Result<Infallible> {
    let registered = heartbeat::register(node, &presence).await?;
    let header = registered.header.as_ref().context("the Directory answers without a header")?;
    let cluster: ClusterId = header.cluster_id.parse().context("cluster id of the Directory")?;
    let folder = folder.clone();
    let keep = move || {
        let mut folder = locked(&folder);
        if let Err(error) = incarnation::registered(folder.path()) {
            tracing::warn!(%error, "the oldest processes of the data folder cannot be forgotten");
        }
        folder.set_cluster_id(cluster)
    };
    tokio::task::spawn_blocking(keep).await??;
    node.directory.belong_to(cluster);
    background.start(node, Presence { cluster: Some(cluster), ..presence }, registered);
    readiness.set(ServingStatus::Serving).await;
    tracing::info!(server = %node.me, %cluster, "file server is ready");
    std::future::pending().await
}

/// Opens the data folder and its store, and begins an incarnation, away from the async threads: replaying a log takes its time.
async fn open(options: &FileServerOptions) -> anyhow::Result<(DataDir, Store, Vec<Incarnation>)> {
    let data = options.common.data.clone();
    let (segment_bytes, reserve_bytes, scrub_bytes_per_second) =
        (options.segment_bytes, options.reserve_bytes, options.scrub_rate);
    let opened = tokio::task::spawn_blocking(move || {
        let folder = DataDir::open(&data, "fileserver")?;
        let (store, recovered) = Store::open(StoreOptions {
            dir: folder.path().join(STORE_DIR),
            segment_bytes,
            reserve_bytes,
            scrub_bytes_per_second,
        })?;
        tracing::info!(?recovered, "store opened");
        let incarnations = incarnation::begin(folder.path())?;
        anyhow::Ok((folder, store, incarnations))
    });
    opened.await?.with_context(|| format!("open the data folder {}", options.common.data.display()))
}

/// What runs beside the calls, once the server has registered.
struct Background {
    peers: Peers,
    commits: committer::Caller,
    suspicions: suspicion::Reporter,
    merges: mpsc::Receiver<u64>,
}

fn assemble(
    options: &FileServerOptions,
    folder: &DataDir,
    store: Store,
    incarnations: Vec<Incarnation>,
    shutdown: &CancellationToken,
) -> anyhow::Result<(Arc<Node>, Background)> {
    let me = options.common.id.clone();
    let map = Map::default();
    let directory = DirectoryLink::new(&options.directory, folder.cluster_id()).context("--directory")?;
    let (suspicion, suspicions) = Suspicion::new(me.clone(), map.clone(), directory.clone());
    let (committer, commits) = Committer::new(me.clone(), directory.clone());
    let (merges, offered) = Merges::new();
    let peers = Peers::new(me.clone(), map.clone(), suspicion.clone());
    let node = Node {
        me: me.clone(),
        store_id: folder.store_id(),
        incarnations,
        deposed: Default::default(),
        doubt: Doubt::new(store.clone()),
        store,
        map,
        directory,
        peers: peers.clone(),
        suspicion,
        replica: Mutex::new(Replica::new(me, options.staged_ttl)),
        in_flight: InFlight::default(),
        departures: Departures::default(),
        repair_pace: Pace::new(options.repair_rate << 20),
        committer,
        merges,
        staged_ttl: options.staged_ttl,
        blob_bytes_max: options.blob_bytes,
        directory_time: Default::default(),
        tasks: TaskTracker::new(),
        shutdown: shutdown.clone(),
        budget: Budget::default(),
        settle_rounds: Default::default(),
        sources: Default::default(),
        counts: Default::default(),
        losses: Default::default(),
        scrub_rate: options.scrub_rate,
    };
    Ok((Arc::new(node), Background { peers, commits, suspicions, merges: offered }))
}

impl Background {
    fn start(self, node: &Arc<Node>, presence: Presence, registered: pb::RegisterServerResponse) {
        let (tasks, shutdown) = (&node.tasks, &node.shutdown);
        tasks.spawn(heartbeat::run(node.clone(), presence, registered));
        tasks.spawn(self.peers.run(tasks.clone(), shutdown.clone()));
        tasks.spawn(self.commits.run(shutdown.clone()));
        tasks.spawn(self.suspicions.run(shutdown.clone()));
        tasks.spawn(catch_up::run(node.clone()));
        tasks.spawn(settle::run(node.clone()));
        tasks.spawn(repair::run(node.clone()));
        tasks.spawn(merge::run(node.clone(), self.merges));
    }
}
