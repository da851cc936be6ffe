//! What the parts of one file server share.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    committer::Committer,
    directory_link::DirectoryLink,
    doubt::Doubt,
    error::Error,
    in_flight::InFlight,
    leave::Departures,
    locked,
    losses::Losses,
    map::Map,
    merge::Merges,
    metrics::Counts,
    pace::Pace,
    replica::{Replica, SourceId},
    replication::{Memory, sender::Peers},
    store::Store,
    suspicion::Suspicion,
};
use crate::{
    convert, pb,
    status::Failure,
    types::{BlobId, CHUNK_LENGTH_MAX, GroupId, Incarnation, ServerId, StoreId, Timestamp},
};

/// For all frames that are on their way through this server to disks and replicas.
const WRITE_BYTES_MAX: usize = 64 << 20;
/// Streams that send chunks to readers: each has a few chunks in memory for as long as its reader does not take them.
const READ_STREAMS_MAX: usize = 256;
/// The same for peers. Apart from the others, so that readers who do not read keep no member from becoming level.
const PEER_STREAMS_MAX: usize = 64;

/// Callers that have blobs mended at a time.
const REPAIRS_MAX: usize = 4;

/// The memory of the process that data on its way may take.
pub struct Budget {
    writes: Arc<Semaphore>,
    pub read_streams: Arc<Semaphore>,
    pub peer_streams: Arc<Semaphore>,
    /// Scrubs that were asked for.
    pub scrubs: Arc<Semaphore>,
    /// Callers that have blobs mended.
    pub repairs: Arc<Semaphore>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            writes: Arc::new(Semaphore::new(WRITE_BYTES_MAX)),
            read_streams: Arc::new(Semaphore::new(READ_STREAMS_MAX)),
            peer_streams: Arc::new(Semaphore::new(PEER_STREAMS_MAX)),
            scrubs: Arc::new(Semaphore::new(1)),
            repairs: Arc::new(Semaphore::new(REPAIRS_MAX)),
        }
    }
}

impl Budget {
    /// Whether writes take more than half of their share.
    pub fn writes_are_busy(&self) -> bool {
        self.writes.available_permits() < WRITE_BYTES_MAX / 2
    }

    /// Waits for room for a frame that is written or replicated.
    pub async fn for_write(&self, bytes: usize) -> Memory {
        take(&self.writes, bytes).await
    }
}

async fn take(share: &Arc<Semaphore>, bytes: usize) -> Memory {
    let permits = bytes.clamp(1, CHUNK_LENGTH_MAX) as u32;
    // Nothing closes the semaphore; were it closed, there would be no bound to keep.
    Arc::new(share.clone().acquire_many_owned(permits).await.ok())
}

pub struct Node {
    pub me: ServerId,
    pub store_id: StoreId,
    /// This process's, and those of its data folder before it; newest first.
    pub incarnations: Vec<Incarnation>,
    /// Why this process must end: another has gone on under its id.
    pub deposed: OnceLock<Failure>,
    pub store: Store,
    pub doubt: Doubt,
    pub map: Map,
    pub directory: DirectoryLink,
    pub peers: Peers,
    pub suspicion: Suspicion,
    pub replica: Mutex<Replica>,
    pub in_flight: InFlight,
    pub departures: Departures,
    /// For what arrives here because a group moves.
    pub repair_pace: Pace,
    pub committer: Committer,
    pub merges: Merges,
    pub staged_ttl: Duration,
    /// A write that is longer becomes several blobs. At least a chunk.
    pub blob_bytes_max: u64,
    /// The Directory's time in milliseconds, as last heard; never goes back.
    pub directory_time: AtomicU64,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
    pub budget: Budget,
    /// Rounds of settling that have ended well.
    pub settle_rounds: AtomicU64,
    pub sources: AtomicU64,
    pub counts: Counts,
    pub losses: Losses,
    /// No faster than this a scrub reads that nobody has said the rate of, in bytes per second.
    pub scrub_rate: u64,
}

impl Node {
    /// A name for something that brings blobs to this server.
    pub fn next_source(&self) -> SourceId {
        SourceId(self.sources.fetch_add(1, Ordering::Relaxed))
    }

    pub fn heard_time(&self, time: Timestamp) {
        self.directory_time.fetch_max(time.0, Ordering::Relaxed);
    }

    pub fn directory_now(&self) -> Timestamp {
        Timestamp(self.directory_time.load(Ordering::Relaxed))
    }

    /// Holds back what is fetched of a group that this server is only arriving in: the group has its copies elsewhere. A member
    /// that comes back is needed, and is not held back.
    pub async fn pace_arrival(&self, group: GroupId, bytes: usize) {
        let arriving = {
            let view = self.map.now();
            view.groups_of(&self.me).any(|of| of.group == group && of.is_arriving(&self.me))
        };
        if arriving {
            self.repair_pace.take(bytes as u64, || self.budget.writes_are_busy()).await;
        }
    }

    /// Throws a staged blob away. What cannot be thrown away now is settled later.
    pub async fn discard(&self, blob: BlobId) {
        if let Err(error) = self.store.discard(blob).await {
            tracing::warn!(%blob, %error, "staged blob cannot be discarded");
        }
    }

    /// What brought blobs to this server has ended: what it left unfinished goes.
    ///
    /// The holds stay locked until it is gone, so that none of it is a newer source's beginning of the same blob.
    pub fn close_source(&self, source: SourceId) {
        let mut replica = locked(&self.replica);
        for blob in replica.close(source, Instant::now()) {
            self.store.discard_open(blob);
        }
    }

    /// A blob is not taken from this source: what has arrived of it goes, unless it is whole or about to be.
    pub fn refuse_blob(&self, source: SourceId, blob: BlobId) {
        let mut replica = locked(&self.replica);
        if replica.refuse(source, blob) {
            self.store.discard_open(blob);
        }
    }

    /// Asks the Directory for the cluster map now, for someone who looks at the map again anyway.
    pub async fn try_refresh_map(&self) {
        if let Err(error) = self.refresh_map().await {
            tracing::debug!(%error, "cluster map not refreshed");
        }
    }

    /// Asks the Directory for the cluster map now.
    pub async fn refresh_map(&self) -> Result<(), Error> {
        let mut directory = self.directory.directory()?;
        let answer = self.directory.answer(directory.get_cluster_map(pb::GetClusterMapRequest {})).await?;
        let map = convert::required("cluster_map", answer.cluster_map).map_err(Error::Refused)?;
        self.hear_map(&map)
    }

    /// Takes a cluster map, and where the Directory's nodes are.
    pub fn hear_map(&self, map: &pb::ClusterMap) -> Result<(), Error> {
        let map = convert::cluster::cluster_map(map).map_err(Error::Refused)?;
        self.directory.learn(&map);
        self.map.offer(map);
        Ok(())
    }
}
