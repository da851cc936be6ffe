//! The heartbeat stream: a server's lease in one direction, the Directory's directives in the other.
//!
//! A beat renews the lease, brings what the server says about itself, and confirms deletions. It is answered with the
//! Directory's time, with the cluster map when that has changed since the last answer, and with blobs to delete. A new
//! map does not wait for the next beat.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tonic::Streaming;

use super::{
    Directory,
    command::Command,
    convert,
    lease::{Beat, LEASE, Stats},
    streams::{Ended, Sink},
};
use crate::{
    convert::{server_id, store_id},
    pb,
    status::{Failure, Reason},
    types::{BlobId, ServerId, StoreId},
};

/// Blobs that one answer tells to delete.
const DELETIONS_MAX: usize = 1000;
/// Deletions that were told and not confirmed are told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// A server's end of the lease while its stream is open.
struct Connection {
    directory: Arc<Directory>,
    server: ServerId,
    store: StoreId,
    /// When deletions were last told and are not confirmed yet.
    told: Option<Instant>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.directory.leases().disconnected(&self.server, self.store);
        tracing::debug!(server = %self.server, "a heartbeat stream has ended");
    }
}

/// Serves one stream until the server leaves it, or falls silent for a lease.
pub async fn serve(
    directory: Arc<Directory>,
    mut beats: Streaming<pb::HeartbeatRequest>,
    sink: Sink<pb::HeartbeatResponse>,
) -> Result<(), Ended> {
    let Some(first) = next(&mut beats).await? else { return Ok(()) };
    let mut maps = directory.maps.clone();
    let mut connection = Connection::open(directory.clone(), &first)?;
    let mut beat = Some(first);
    let mut map_is_new = true;
    loop {
        let deletions = match &beat {
            Some(beat) => connection.beat(beat).await?,
            None => Vec::new(),
        };
        // Marked as seen before it is read: a map that comes between is sent twice rather than never.
        let cluster_map = (map_is_new || maps.has_changed().unwrap_or(false)).then(|| {
            maps.mark_unchanged();
            directory.cluster_map()
        });
        sink.send(pb::HeartbeatResponse {
            header: directory.header_now(),
            directory_time: Some(directory.time().into()),
            cluster_map: cluster_map.as_ref().map(Into::into),
            delete_blobs: deletions.iter().map(BlobId::to_string).collect(),
        })
        .await?;
        tokio::select! {
            next = next(&mut beats) => {
                beat = Some(match next? {
                    Some(next) => next,
                    None => return Ok(()),
                });
                map_is_new = false;
            }
            changed = maps.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                beat = None;
                map_is_new = true;
            }
        }
    }
}

/// The next beat; `None` when the server has left or its connection is broken.
async fn next(beats: &mut Streaming<pb::HeartbeatRequest>) -> Result<Option<pb::HeartbeatRequest>, Ended> {
    match tokio::time::timeout(LEASE, beats.message()).await {
        Ok(Ok(beat)) => Ok(beat),
        Ok(Err(_)) => Ok(None),
        Err(_) => Err(Failure::new(Reason::DeadlineExceeded, "no heartbeat for the time of a lease").into()),
    }
}

impl Connection {
    fn open(directory: Arc<Directory>, first: &pb::HeartbeatRequest) -> Result<Self, Failure> {
        let server = server_id("server_id", &first.server_id)?;
        let store = store_id("store_id", &first.store_id)?;
        directory.leases().connected(&server, store);
        Ok(Self { directory, server, store, told: None })
    }

    /// Counts a beat, and says which blobs to delete.
    async fn beat(&mut self, beat: &pb::HeartbeatRequest) -> Result<Vec<BlobId>, Failure> {
        if beat.server_id != self.server.as_str() {
            return Err(Failure::bad_argument("server_id", "one stream is one server's"));
        }
        self.renew(beat).await?;
        if let Some(confirmed) = convert::confirm_deleted(&self.server, &beat.deleted_blobs)? {
            self.directory.proposer.propose(confirmed).await?;
            self.told = None;
        }
        self.deletions().await
    }

    /// The lease; and if it had run out, everybody is told that the server is back.
    async fn renew(&self, beat: &pb::HeartbeatRequest) -> Result<(), Failure> {
        let stats = Stats {
            disk_used_bytes: beat.disk_used_bytes,
            disk_total_bytes: beat.disk_total_bytes,
            blob_count: beat.blob_count,
            read_only_reason: convert::remark(&beat.read_only_reason),
        };
        let seen = self.directory.time();
        match self.directory.leases().heard(&self.server, self.store, stats, seen, Instant::now()) {
            Beat::Counted => {}
            Beat::NotRegistered => {
                let text = format_args!("{} has not registered with this data folder", self.server);
                return Err(Failure::new(Reason::ServerNotFound, text).with("server", &self.server));
            }
        }
        if self.directory.is_down(&self.server) {
            self.directory.proposer.propose(Command::MarkUp { server: self.server.clone() }).await?;
            tracing::info!(server = %self.server, "a server that was down is heard of again");
        }
        Ok(())
    }

    async fn deletions(&mut self) -> Result<Vec<BlobId>, Failure> {
        if self.told.is_some_and(|told| told.elapsed() < TELL_AGAIN) {
            return Ok(Vec::new());
        }
        let server = self.server.clone();
        let blobs = self.directory.reader.read(move |view| Ok(view.blobs_to_delete(&server, DELETIONS_MAX)?)).await?;
        self.told = (!blobs.is_empty()).then(Instant::now);
        Ok(blobs)
    }
}
