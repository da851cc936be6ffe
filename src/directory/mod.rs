//! The Directory: the namespace, the versions, and the one place where a write is committed.
//!
//! It owns what exists at which path, which version of a file is the newest and which blobs make it up, which file
//! servers belong together, and who of them is alive. It promises that what it acknowledged is durable, that every look
//! sees everything acknowledged before, and that of two writes that exclude each other one is refused, here, whatever the
//! clients believe. It never sees a byte of a file.
//!
//! Below is a pure state machine over tables ([`state`]); above it, one proposer with several entries of the group's log
//! under way ([`driver`]), and many readers ([`reader`]). What is only true for the moment, such as leases and what
//! servers say about their disks, is in memory ([`lease`]) and enters the state as a decision: a server is marked down,
//! or up.
//!
//! Absent on purpose: a cache (the tables are in the page cache), and a queue for any watcher (feeds are read from the
//! tables, [`watch`]).

pub mod command;
pub mod error;
pub mod model;
pub mod state;
pub mod view;
pub mod walk;

mod edit;
mod namespace;

mod commit;
mod content;
mod copy;
mod fence;
mod merge;
mod writes;

mod blobs;
mod retention;

mod departures;
mod fleet;
mod group;
mod membership;
mod moves;
mod placement;
mod plan;

mod census;
mod damage;
mod feed;
mod names;

mod records;
mod tables;

mod clock;
pub mod driver;
mod machine;
mod map;
mod metrics;
mod open;
pub mod reader;

pub mod health;
mod hearing;
mod heartbeat;
mod lease;
mod mover;
mod overseer;
mod probe;
mod setbacks;
mod streams;
mod watch;

mod answers;
mod cluster_service;
mod convert;
mod lookups;
mod mutations;
mod report;
mod service;
mod tree;

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::FutureExt;
use tokio::{net::TcpListener, sync::watch as channel, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
};
use tonic_health::ServingStatus;

use self::{
    command::ServerKind, driver::Proposer, machine::Progress, open::Node, probe::Prober, reader::Reader,
    streams::Streams,
};
use crate::{
    cluster::{ClusterMap, Server, ServerState},
    config::DirectoryOptions,
    convert::stamp,
    durable::DataDir,
    pb::{
        self, cluster_server::ClusterServer, directory_server::DirectoryServer, members_server::MembersServer,
        raft_server::RaftServer,
    },
    raft::{self, Gate, Group, LeadOver, Leading, MembersService, RaftService},
    serve::{Readiness, Services},
    status::{Failure, Reason},
    token::LockKey,
    types::{ClusterId, Revision, ServerId, Timestamp},
};

/// A batch of commits with the longest paths fits.
const REQUEST_BYTES_MAX: usize = 8 << 20;

/// How long what was begun under a lead may go on after it was lost.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves until `shutdown`. Blocks nobody meanwhile: health is answered from the beginning, everything else once this node
/// knows its part.
pub async fn run(options: DirectoryOptions, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the address listened on")?;
    let stop = shutdown.child_token();
    let (door, gate) = (Door::default(), Gate::default());
    let mut services = Services::of(&options.common);
    let cluster = Arc::<OnceLock<ClusterId>>::default();
    let directory_service = DirectoryServer::new(service::DirectoryService(door.clone()));
    let cluster_service = ClusterServer::new(cluster_service::ClusterService(door.clone()));
    let raft_service = RaftService::new(gate.clone());
    let directory_service = directory_service.max_decoding_message_size(REQUEST_BYTES_MAX);
    let cluster_service = cluster_service.max_decoding_message_size(REQUEST_BYTES_MAX);
    services.add(InterceptedService::new(directory_service, meant_for(cluster.clone())));
    services.add(InterceptedService::new(cluster_service, meant_for(cluster.clone())));
    services.add(MembersServer::new(MembersService(gate.clone())));
    services.add(RaftServer::new(raft_service).max_decoding_message_size(raft::MESSAGE_BYTES_MAX));
    let readiness = services.readiness().await;
    let metrics = services.metrics().clone();
    let serving = services.serve(listener, stop.clone());
    let served = CancellationToken::new();
    let serving = tokio::spawn({
        // However serving ends, everything else ends too.
        let ends = (stop.clone().drop_guard(), served.clone().drop_guard());
        serving.inspect(move |_| drop(ends))
    });

    let opened = open::open(&options, address).await;
    let worked = match opened {
        Ok((node, data)) => {
            if let Some(known) = data.cluster_id() {
                cluster.get_or_init(|| known);
            }
            gate.open(node.group.clone());
            metrics::register(&metrics, &node, &door);
            let belonging = tokio::spawn(belong(data, node.machine.map(), cluster, stop.clone()));
            let (group, join) = (node.group.clone(), node.join.clone());
            let part = Part { node, door, readiness: readiness.clone(), stop: stop.clone(), served };
            let worked = group.take_part(join, &stop, &part).await;
            stop.cancel();
            // The folder is let go last.
            worked.and(belonging.await.context("belong to a cluster")?)
        }
        Err(error) => Err(error),
    };
    stop.cancel();
    readiness.set(ServingStatus::NotServing).await;
    let served = serving.await.context("serve")?;
    worked.and(served)
}

/// Refuses calls that name another cluster than this node's, leader or not.
fn meant_for(cluster: Arc<OnceLock<ClusterId>>) -> impl Interceptor + Clone {
    move |request: Request<()>| match cluster.get() {
        Some(ours) => stamp::check(request.metadata(), *ours).map(|()| request).map_err(Status::from),
        None => Ok(request),
    }
}

/// Binds the folder to its cluster as soon as that is known; keeps it until `stop`.
async fn belong(
    mut data: DataDir,
    mut maps: channel::Receiver<Arc<ClusterMap>>,
    known: Arc<OnceLock<ClusterId>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // However this ends, nothing goes on without the folder.
    let _stop = stop.clone().drop_guard();
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        map = maps.wait_for(|map| map.map_version > 0) => {
            let cluster = map.map(|map| map.cluster).context("what is applied is no longer published")?;
            // Once in a life, and nobody waits for it: the sync may block this thread.
            data.set_cluster_id(cluster)?;
            known.get_or_init(|| cluster);
        }
    }
    stop.cancelled().await;
    Ok(())
}

/// This node's part in its group, as it changes.
struct Part {
    node: Node,
    door: Door,
    readiness: Readiness,
    stop: CancellationToken,
    /// No call is under way any more.
    served: CancellationToken,
}

impl Leading for Part {
    async fn follow(&self, leader: Option<raft::Node>) {
        let status = if leader.is_some() { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.door.lead_elsewhere(leader);
        self.readiness.set(status).await;
    }

    async fn lead(&self, term: u64) -> anyhow::Result<LeadOver> {
        let lost = CancellationToken::new();
        let streams = self.stop.child_token();
        // Before the first command of this lead.
        let newest = self.node.machine.progress().borrow().time;
        let watch = clock::Watch::new(newest, Instant::now(), retention::WRITES_KEPT);
        let begun = tokio::select! {
            begun = open::begin(&self.node, lost.clone(), streams) => begun,
            () = self.node.group.leads_no_more(term) => return Ok(LeadOver::Lost),
        };
        let open::Lead { directory, driver } = match begun {
            Ok(lead) => lead,
            Err(error) if error.is::<open::Unfit>() => return Err(error),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the lead was not taken up");
                tokio::time::sleep(PAUSE).await;
                return Ok(LeadOver::Lost);
            }
        };
        self.door.open(directory.clone());
        self.readiness.set(ServingStatus::Serving).await;
        tracing::info!(server = %directory.server.server, cluster = %directory.cluster, term, "leading");
        let mut chores = JoinSet::new();
        chores.spawn(overseer::judge_leases(directory.clone()));
        chores.spawn(overseer::look_after_suspects(directory.clone()));
        chores.spawn(overseer::collect(directory.clone(), watch));
        chores.spawn(overseer::spread_primaries(directory.clone()));
        chores.spawn(overseer::list_nodes(directory.clone()));
        chores.spawn(mover::run(directory.clone()));
        let ended = tokio::select! {
            () = self.stop.cancelled() => Ok(LeadOver::Stopped),
            () = self.node.group.leads_no_more(term) => Ok(LeadOver::Lost),
            Some(ended) = chores.join_next() => {
                ended.context("a task that goes on for ever has panicked").map(|()| LeadOver::Stopped)
            }
        };
        chores.shutdown().await;
        if let Ok(LeadOver::Lost) = ended {
            self.door.lead_elsewhere(None);
            directory.streams.end(raft::Error::NotLeader { leader: None }.into());
            lost.cancel();
            // Their clients are told; who does not listen is cut off by what they wait for.
            let _unheard = tokio::time::timeout(LAST_WORDS, directory.streams.ended()).await;
            return ended;
        }
        self.stop.cancel();
        directory.streams.ended().await;
        // Calls under way may still propose.
        self.served.cancelled().await;
        driver.stop().await.and(ended)
    }
}

/// Before a lead that could not be taken up is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// The running Directory, as the handlers see it.
pub struct Directory {
    cluster: ClusterId,
    lock_key: LockKey,
    /// This process, as the map shows it.
    server: Server,
    group: Arc<Group>,
    proposer: Proposer,
    reader: Reader,
    progress: channel::Receiver<Progress>,
    maps: channel::Receiver<Arc<ClusterMap>>,
    leases: Mutex<lease::Table>,
    prober: Prober,
    suspects: report::Suspects,
    setbacks: Mutex<setbacks::Setbacks>,
    /// Had while moves are planned and begun.
    planning: tokio::sync::Mutex<()>,
    streams: Streams,
}

impl Directory {
    /// The newest durable revision.
    fn revision(&self) -> Revision {
        self.progress.borrow().revision
    }

    /// The Directory's time: never behind that of the newest command.
    fn time(&self) -> Timestamp {
        clock::now().max(self.progress.borrow().time)
    }

    /// Never held across an await.
    fn leases(&self) -> MutexGuard<'_, lease::Table> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never held across an await.
    fn setbacks(&self) -> MutexGuard<'_, setbacks::Setbacks> {
        self.setbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn header(&self, revision: Revision) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id: self.cluster.to_string(),
            server_id: self.server.server.to_string(),
            revision: revision.0,
            term: self.group.term(),
        })
    }

    /// The header of an answer that is not about one revision.
    fn header_now(&self) -> Option<pb::ResponseHeader> {
        self.header(self.revision())
    }

    /// The newest map, with what the servers last said about themselves.
    fn cluster_map(&self) -> ClusterMap {
        let mut map = ClusterMap::clone(&self.maps.borrow());
        let leases = self.leases();
        for server in map.servers.values_mut().chain(&mut map.lock_servers) {
            leases.describe(server);
        }
        for server in &mut map.directory_servers {
            if server.server == self.server.server {
                *server = Server { last_seen: Some(self.time()), ..self.server.clone() };
            }
        }
        map
    }

    /// A file server or Lock server that has registered. Each id belongs to one server, of whichever kind.
    fn find_server(&self, server: &ServerId) -> Option<Server> {
        let map = self.maps.borrow();
        let of_lock = || map.lock_servers.iter().find(|known| known.server == *server);
        map.servers.get(server).or_else(of_lock).cloned()
    }

    /// Whether the server is marked down, or not known at all.
    fn is_down(&self, server: &ServerId) -> bool {
        self.find_server(server).is_none_or(|known| known.state == ServerState::Down)
    }

    /// Whether the id belongs to a server of another kind.
    fn is_of_other_kind(&self, server: &ServerId, kind: ServerKind) -> bool {
        let map = self.maps.borrow();
        let listed = |servers: &[Server]| servers.iter().any(|known| known.server == *server);
        let found = [
            (ServerKind::FileServer, map.servers.contains_key(server)),
            (ServerKind::Lock, listed(&map.lock_servers)),
            (ServerKind::Directory, listed(&map.directory_servers)),
        ];
        found.iter().any(|(other, known)| *known && *other != kind)
    }
}

/// Where the handlers find the Directory while this node leads.
#[derive(Clone, Default)]
struct Door(Arc<Mutex<Behind>>);

#[derive(Default)]
enum Behind {
    #[default]
    Starting,
    Here(Arc<Directory>),
    Elsewhere(Option<raft::Node>),
}

impl Door {
    fn set(&self, behind: Behind) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = behind;
    }

    fn open(&self, directory: Arc<Directory>) {
        self.set(Behind::Here(directory));
    }

    fn lead_elsewhere(&self, leader: Option<raft::Node>) {
        self.set(Behind::Elsewhere(leader));
    }

    fn enter(&self) -> Result<Arc<Directory>, Failure> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Behind::Here(directory) => Ok(directory.clone()),
            Behind::Elsewhere(leader) => Err(raft::Error::NotLeader { leader: leader.clone() }.into()),
            Behind::Starting => Err(Failure::new(Reason::Unavailable, "the Directory is starting")),
        }
    }
}

#[cfg(test)]
mod tests;
