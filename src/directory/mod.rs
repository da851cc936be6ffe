//! The Directory: the namespace, the versions, and the one place where a write is committed.
//!
//! It owns what exists at which path, which version of a file is the newest and which blobs make it up, which file
//! servers belong together, and who of them is alive. It promises that what it acknowledged is durable, that every look
//! sees everything acknowledged before, and that of two writes that exclude each other one is refused, here, whatever the
//! clients believe. It never sees a byte of a file.
//!
//! Below is a pure state machine over tables ([`state`]); above it, one proposer on its own thread ([`driver`]) and many
//! readers ([`reader`]). What is only true for the moment, such as leases and what servers say about their disks, is in
//! memory ([`lease`]) and enters the state as a decision: a server is marked down, or up.
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

mod group;
mod membership;
mod placement;

mod census;
mod feed;
mod names;

mod records;
mod tables;

mod clock;
pub mod driver;
mod map;
mod open;
pub mod reader;

pub mod health;
mod heartbeat;
mod lease;
mod overseer;
mod probe;
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

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::Context;
use futures::FutureExt;
use tokio::{net::TcpListener, sync::watch as channel, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;

use self::{
    command::ServerKind,
    driver::{Progress, Proposer},
    probe::Prober,
    reader::Reader,
    streams::Streams,
};
use crate::{
    cluster::{ClusterMap, Server, ServerState},
    config::DirectoryOptions,
    pb::{self, cluster_server::ClusterServer, directory_server::DirectoryServer},
    serve::Services,
    status::{Failure, Reason},
    token::LockKey,
    types::{ClusterId, Revision, ServerId, Timestamp},
};

/// A batch of commits with the longest paths fits.
const REQUEST_BYTES_MAX: usize = 8 << 20;

/// Serves until `shutdown`. Blocks nobody meanwhile: health is answered from the beginning, everything else once the
/// state is open.
pub async fn run(options: DirectoryOptions, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the address listened on")?;
    let stop = shutdown.child_token();
    let door = Door::default();
    let mut services = Services::new();
    let directory_service = service::DirectoryService(door.clone());
    let cluster_service = cluster_service::ClusterService(door.clone());
    services.add(DirectoryServer::new(directory_service).max_decoding_message_size(REQUEST_BYTES_MAX));
    services.add(ClusterServer::new(cluster_service).max_decoding_message_size(REQUEST_BYTES_MAX));
    let readiness = services.readiness().await;
    let serving = services.serve(listener, stop.clone());
    let serving = tokio::spawn({
        // However serving ends, everything else ends too.
        let stop = stop.clone().drop_guard();
        serving.inspect(move |_| drop(stop))
    });

    let opened = open::open(&options, address, stop.clone()).await;
    let worked = match &opened {
        Ok(opened) => {
            door.open(opened.directory.clone());
            readiness.set(ServingStatus::Serving).await;
            tracing::info!(server = %opened.directory.server.server, cluster = %opened.directory.cluster, "serving");
            work(opened.directory.clone(), &stop).await
        }
        Err(_) => Ok(()),
    };
    stop.cancel();
    readiness.set(ServingStatus::NotServing).await;
    // Calls under way may still propose: the driver ends after them, and the folder is let go last.
    let served = serving.await.context("serve")?;
    let open::Opened { driver, data, .. } = opened?;
    let stopped = driver.stop().await;
    drop(data);
    stopped.and(served).and(worked)
}

/// What goes on until `stop`, beside answering calls.
async fn work(directory: Arc<Directory>, stop: &CancellationToken) -> anyhow::Result<()> {
    let mut chores = JoinSet::new();
    chores.spawn(overseer::judge_leases(directory.clone()));
    chores.spawn(overseer::look_after_suspects(directory.clone()));
    chores.spawn(overseer::collect(directory.clone()));
    chores.spawn(overseer::spread_primaries(directory.clone()));
    let worked = tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(ended) = chores.join_next() => ended.context("a task that goes on for ever has panicked"),
    };
    stop.cancel();
    chores.shutdown().await;
    directory.streams.ended().await;
    worked
}

/// The running Directory, as the handlers see it.
pub struct Directory {
    cluster: ClusterId,
    lock_key: LockKey,
    /// This process, as the map shows it.
    server: Server,
    proposer: Proposer,
    reader: Reader,
    progress: channel::Receiver<Progress>,
    maps: channel::Receiver<Arc<ClusterMap>>,
    leases: Mutex<lease::Table>,
    prober: Prober,
    suspects: report::Suspects,
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

    fn header(&self, revision: Revision) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id: self.cluster.to_string(),
            server_id: self.server.server.to_string(),
            revision: revision.0,
            term: 0,
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

/// Where the handlers find the Directory once its state is open.
#[derive(Clone, Default)]
struct Door(Arc<OnceLock<Arc<Directory>>>);

impl Door {
    fn open(&self, directory: Arc<Directory>) {
        assert!(self.0.set(directory).is_ok(), "a process opens its state once");
    }

    fn enter(&self) -> Result<&Arc<Directory>, Failure> {
        self.0.get().ok_or_else(|| Failure::new(Reason::Unavailable, "the Directory is starting"))
    }
}

#[cfg(test)]
mod tests;
