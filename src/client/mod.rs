//! The client library: everything a program needs to use a cluster, and the one way in which `dfs-cli` does.
//!
//! A [`Client`] holds the cluster map, so a write goes straight to the primary of its path, and a read to any replica
//! in sync. Calls try again by themselves inside of [`Options::timeout`] where that can help; every mutation carries a
//! write id that is made once and kept through all tries, so that nothing is ever written twice. All data is checked
//! against its checksums on arrival. Memory is bounded whatever the size of a file.
//!
//! ```no_run
//! use dfs::client::{Client, Options, Path, Precondition, ReadOptions, Version, WriteOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(Options::new(["localhost:7070"])).await?;
//! let path: Path = "/greeting".parse()?;
//!
//! // Nothing overwrites blindly: version 0 means that the file must not exist.
//! let new = Precondition { if_version: Some(Version(0)), ..Precondition::default() };
//! let receipt = client.write_bytes(&path, WriteOptions::replace(new), "hello").await?;
//! println!("version {} is on {} servers", receipt.version, receipt.servers.len());
//!
//! let bytes = client.read(&path, ReadOptions::default()).await?.bytes(1 << 20).await?;
//! assert_eq!(&bytes[..], b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! Deliberately absent: a cache of contents (a read that names no version is the newest one), and any write that does
//! not say what it is based on.

mod administer;
mod bulk;
mod call;
mod channels;
mod cluster;
mod convert;
mod doctor;
mod edit;
mod entries;
mod error;
mod fsck;
mod health;
mod keep_alive;
mod lease;
mod lock;
mod map;
mod members;
mod model;
mod ranges;
mod read;
mod retry;
mod scrub;
mod source;
mod verify;
mod watch;
mod write;
mod writer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::task::AbortOnDropHandle;

pub use self::{
    administer::PlannedMove,
    bulk::{SMALL_FILE_BYTES_MAX, SmallFile},
    cluster::Readiness,
    doctor::{Diagnosis, Reached},
    edit::EditOptions,
    entries::{Copy, CreateDirectory, Delete, Move, Update, WalkOptions},
    error::Error,
    fsck::{Finding, Fsck, FsckEvent, FsckOptions, FsckSummary, Problem},
    health::{HealthPatience, NoHealth, Serving, ask_health},
    lock::{LockGuard, Session, SessionOptions},
    members::{GroupKind, Member},
    model::{
        Change, ChangeKind, ClusterStatus, Entry, EntryKind, FileServerStatus, Health, HealthCheck, Listed, Located,
        LockHolder, LockInfo, LockWaiter, QueuePosition, Receipt, Servers, VersionInfo,
    },
    read::{READER_BYTES_MAX, ReadOptions, Reader},
    scrub::{Scrub, ScrubProgress, ScrubResult},
    verify::{ReplicaReport, Verification},
    write::WriteOptions,
    writer::Writer,
};
pub use crate::{
    cluster::{ClusterMap, Group, Server, ServerState},
    status::{Failure, Reason},
    types::{
        AsOf, BlobId, Epoch, Extent, FencingToken, GroupId, Inode, LockMode, Path, Precondition, Revision, ServerId,
        SessionId, Timestamp, Version, WriteId, WriteMode,
    },
};

use crate::convert::stamp::Stamp;

use self::{
    call::{Service, fetch_map},
    channels::Channels,
    map::{Endpoints, Map},
};

/// How long a call may go on trying, when nothing else is said.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// How long the first contact may take: who mistyped an address should not wait longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the cluster is, and how patient to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port` of the Directory's servers.
    pub directory: Vec<String>,
    /// `host:port` of the Lock service's servers; `None`: as the cluster map says.
    pub lock: Option<Vec<String>>,
    /// How long a call may take, tries included. A call that moves data may take this long without any progress.
    pub timeout: Duration,
}

impl Options {
    pub fn new(directory: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { directory: directory.into_iter().map(Into::into).collect(), lock: None, timeout: TIMEOUT_DEFAULT }
    }
}

/// A connection to one cluster. Cheap to clone; its background task ends with the last clone.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
    /// Of [`Options`], unless [`Client::with_timeout`] said otherwise.
    timeout: Duration,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    channels: Arc<Channels>,
    directory_endpoints: Arc<Endpoints>,
    lock_endpoints: Endpoints,
    map: Map,
    _map_task: AbortOnDropHandle<()>,
}

impl Client {
    /// Finds the cluster; answers once it has its map.
    ///
    /// Fails with [`Reason::Unavailable`] or [`Reason::DeadlineExceeded`] when no Directory answers within
    /// [`Options::timeout`] or 5 s, whichever is shorter.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        if options.directory.is_empty() {
            return Err(Failure::bad_argument("directory", "no address is given").into());
        }
        let channels = Arc::<Channels>::default();
        let directory_endpoints = Arc::<Endpoints>::default();
        let directory =
            Service::directory(&directory_endpoints, options.directory.clone(), &channels, Stamp::default());
        let timeout = options.timeout;
        let deadline = Instant::now() + timeout.min(CONNECT_TIMEOUT);
        let first = fetch_map(&directory, deadline).await?;
        let map = Map::new(first, options.directory.clone().into(), channels.clone());
        let map_task = map.keep_fresh(directory_endpoints.clone());
        let lock_endpoints = Endpoints::default();
        let inner = Inner { options, channels, directory_endpoints, lock_endpoints, map, _map_task: map_task };
        Ok(Self { inner: Arc::new(inner), timeout })
    }

    /// The options that it was connected with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// The same connection for calls that are more, or less, patient.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { inner: self.inner.clone(), timeout }
    }

    /// The cluster map as this client last saw it; it follows every change by itself.
    pub fn cluster_map(&self) -> Arc<ClusterMap> {
        self.inner.map.view().map.clone()
    }

    /// The address by which this client reaches a server: the inside one if it reached the Directory by such.
    pub fn address_of(&self, server: &Server) -> String {
        self.inner.map.view().address(server).to_owned()
    }
}
