//! The heartbeat stream: a server's lease in one direction, the Directory's directives in the other.
//!
//! A beat renews the lease, brings what the server says about itself, and confirms deletions. It is answered with the
//! Directory's time, with the cluster map when that has changed since the last answer, and with blobs to delete. A new
//! map does not wait for the next beat.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tonic::Streaming;

use super::{
    Directory,
    command::Command,
    convert,
    hearing::Hearing,
    lease::{Beat, LEASE, Process, Stats, StoreState},
    streams::{Ended, Sink},
};
use crate::{
    convert::{incarnation, server_id, store_id},
    pb,
    status::{Failure, Reason},
    types::{BlobId, Epoch, GroupId, ServerId},
};

/// Blobs that one answer tells to delete.
const DELETIONS_MAX: usize = 1000;
/// Deletions that were told and not confirmed are told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Why others are to lead the groups of a server that hears nothing of the Directory.
const DEAF: &str = "it hears nothing of the Directory, which hears it: look at the network between them";

/// Serves one stream until the server leaves it, or falls silent for a lease.
///
/// Beats are counted as they come, whatever the answers wait for: a slow disk here says nothing about the server.
pub async fn serve(
    directory: Arc<Directory>,
    mut beats: Streaming<pb::HeartbeatRequest>,
    sink: Sink<pb::HeartbeatResponse>,
) -> Result<(), Ended> {
    let Some(first) = next(&mut beats).await? else { return Ok(()) };
    let connection = Connection::open(directory, &first)?;
    connection.count(&first)?;
    tokio::select! {
        ended = connection.listen(beats) => ended,
        ended = connection.answer(sink) => ended,
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

/// What a server is to do.
#[derive(Default)]
struct Directives {
    delete_blobs: Vec<BlobId>,
    /// With the epochs at which it left.
    left_groups: Vec<(GroupId, Epoch)>,
}

/// A server's end of the lease while its stream is open.
struct Connection {
    directory: Arc<Directory>,
    server: ServerId,
    process: Process,
    /// Deletions that beats have brought and that are not confirmed yet.
    deleted: Mutex<Vec<BlobId>>,
    /// As `deleted`: groups of which the server holds nothing any more.
    emptied: Mutex<Vec<(GroupId, Epoch)>>,
    hearing: Mutex<Hearing>,
    /// A beat that is not answered yet.
    beaten: Notify,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.directory.leases().disconnected(&self.server, self.process);
        // A process that is killed lets go of its connections, and nothing listens at its address any more.
        if !self.directory.leases().is_replaced(&self.server, self.process.store)
            && !self.directory.is_down(&self.server)
        {
            self.directory.suspects.add(self.server.clone());
        }
        tracing::debug!(server = %self.server, "a heartbeat stream has ended");
    }
}

impl Connection {
    fn open(directory: Arc<Directory>, first: &pb::HeartbeatRequest) -> Result<Self, Failure> {
        let server = server_id("server_id", &first.server_id)?;
        let store = store_id("store_id", &first.store_id)?;
        let incarnation = match first.incarnation.as_str() {
            "" => None,
            text => Some(incarnation("incarnation", text)?),
        };
        let process = Process { store, incarnation };
        directory.leases().connected(&server, process);
        Ok(Self {
            directory,
            server,
            process,
            deleted: Mutex::default(),
            emptied: Mutex::default(),
            hearing: Mutex::default(),
            beaten: Notify::new(),
        })
    }

    async fn listen(&self, mut beats: Streaming<pb::HeartbeatRequest>) -> Result<(), Ended> {
        while let Some(beat) = next(&mut beats).await? {
            self.count(&beat)?;
            self.beaten.notify_one();
        }
        Ok(())
    }

    /// Renews the lease, and keeps what the beat brings for the next answer.
    fn count(&self, beat: &pb::HeartbeatRequest) -> Result<(), Failure> {
        if beat.server_id != self.server.as_str() {
            return Err(Failure::bad_argument("server_id", "one stream is one server's"));
        }
        let blobs = convert::deleted_blobs(&beat.deleted_blobs)?;
        let is_deaf = {
            let mut hearing = self.hearing();
            hearing.beat(beat.heard_answers);
            hearing.is_deaf()
        };
        let read_only_reason = match beat.read_only_reason.as_str() {
            "" if is_deaf => DEAF.to_owned(),
            reason => convert::remark(reason),
        };
        let stats = Stats {
            disk_used_bytes: beat.disk_used_bytes,
            disk_total_bytes: beat.disk_total_bytes,
            blob_count: beat.blob_count,
            stored_bytes: beat.stored_bytes,
            read_only_reason,
            uploading: convert::uploading_groups(&beat.uploading_groups)?,
            leads: beat.leads,
            store: convert::store_report(beat.store_report.as_ref())?,
        };
        let emptied = convert::reported_groups(&beat.emptied_groups)?;
        let seen = self.directory.time();
        match self.directory.leases().heard(&self.server, self.process, stats, seen, Instant::now()) {
            Beat::Counted => {}
            Beat::NotRegistered => {
                let text = format_args!("{} has not registered with this data folder and process", self.server);
                return Err(Failure::new(Reason::ServerNotFound, text).with("server", &self.server));
            }
        }
        let mut deleted = self.deleted();
        // What is too much now is told and confirmed again later.
        if deleted.len() + blobs.len() <= convert::BLOBS_MAX {
            deleted.extend(blobs);
        }
        // The newest beat says all that was not confirmed before.
        if !emptied.is_empty() {
            *self.emptied.lock().unwrap_or_else(PoisonError::into_inner) = emptied;
        }
        Ok(())
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deleted(&self) -> MutexGuard<'_, Vec<BlobId>> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers beats, and tells of a new map at once.
    async fn answer(&self, sink: Sink<pb::HeartbeatResponse>) -> Result<(), Ended> {
        let directory = &self.directory;
        let mut maps = directory.maps.clone();
        // The first beat came before this.
        let (mut beaten, mut map_is_new) = (true, true);
        let mut told = None;
        loop {
            let directives = match self.settle(beaten, &mut told).await {
                Ok(directives) => directives,
                // It was removed: it hears why when it registers.
                Err(failure) if matches!(failure.reason, Reason::ServerNotFound | Reason::ServerRemoved) => {
                    directory.leases().forget(&self.server);
                    return Err(failure.into());
                }
                Err(failure) => {
                    tracing::warn!(server = %self.server, %failure, "a heartbeat is answered without directives");
                    Directives::default()
                }
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
                delete_blobs: directives.delete_blobs.iter().map(BlobId::to_string).collect(),
                left_groups: directives.left_groups.into_iter().map(convert::group_epoch).collect(),
            })
            .await?;
            self.hearing().answered();
            (beaten, map_is_new) = tokio::select! {
                () = self.beaten.notified() => (true, false),
                changed = maps.changed() => match changed {
                    Ok(()) => (false, true),
                    Err(_) => return Ok(()),
                },
            };
        }
    }

    /// What the state does not say yet of whether the server's store takes writes.
    fn news_of_store(&self) -> Option<Command> {
        let server = self.server.clone();
        let was_writable = self.directory.find_server(&server)?.read_only_reason.is_empty();
        match self.directory.leases().store_state(&server, Instant::now())? {
            StoreState::ReadOnly { reason } if was_writable => {
                tracing::warn!(%server, reason, "a server's store takes no writes: others are to lead its groups");
                Some(Command::MarkReadOnly { server, reason })
            }
            StoreState::TakesWrites if !was_writable => {
                tracing::info!(%server, "a server's store takes writes again");
                Some(Command::MarkWritable { server })
            }
            StoreState::ReadOnly { .. } | StoreState::TakesWrites => None,
        }
    }

    /// Makes what was heard part of the state, and says what to delete. Only a beat shows that a server which is
    /// down is back: the news that it is down does not. `told` is when deletions were last told that are not confirmed
    /// yet. What fails is done with a later beat.
    async fn settle(&self, beaten: bool, told: &mut Option<Instant>) -> Result<Directives, Failure> {
        let (proposer, server) = (&self.directory.proposer, &self.server);
        if beaten && self.directory.is_down(server) {
            proposer.propose(Command::MarkUp { server: server.clone() }).await?;
            tracing::info!(%server, "a server that was down is heard of again");
        }
        if beaten && let Some(news) = self.news_of_store() {
            proposer.propose(news).await?;
        }
        let blobs = std::mem::take(&mut *self.deleted());
        if !blobs.is_empty() {
            proposer.propose(Command::ConfirmDeleted { server: server.clone(), blobs }).await?;
            *told = None;
        }
        let emptied = std::mem::take(&mut *self.emptied.lock().unwrap_or_else(PoisonError::into_inner));
        if !emptied.is_empty() {
            proposer.propose(Command::ConfirmEmptied { server: server.clone(), groups: emptied }).await?;
        }
        let limit = if told.is_some_and(|told| told.elapsed() < TELL_AGAIN) { 0 } else { DELETIONS_MAX };
        let server = server.clone();
        let directives = self.directory.reader.read(move |view| {
            let delete_blobs = view.blobs_to_delete(&server, limit)?;
            Ok(Directives { delete_blobs, left_groups: view.departures_of(&server)? })
        });
        let directives = directives.await?;
        if limit > 0 {
            *told = (!directives.delete_blobs.is_empty()).then(Instant::now);
        }
        Ok(directives)
    }
}
