//! The second half of a write: has the Directory commit it once its copies are durable, and knows what may be thrown away
//! when that fails.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout_at};

use super::{
    copying::{Copying, Patience},
    staging::Staging,
};
use crate::{
    convert,
    fileserver::{committer::NotCommitted, error::Error, gather, in_sync::Group, merge, patch::Patch},
    pb,
    status::{Failure, Reason},
    types::{Epoch, ServerId, WriteMode},
};

const COMMIT_RETRY: Duration = Duration::from_millis(100);
/// A commit is prepared again when the file changed meanwhile; more often than this only under a writer that ignores locks.
const REDOS_MAX: u32 = 5;

/// How a write ended.
pub enum Ended {
    Committed {
        receipt: pb::WriteReceipt,
        committed: pb::Committed,
    },
    /// It was not committed from here and cannot be: the blobs may go.
    Failed(Error),
    /// The Directory was asked, and what it did is not known.
    Unknown,
}

pub async fn finish(staging: &mut Staging, copying: Copying) -> Ended {
    let mut finish = Finish { staging, copying, patience: Patience::from_now(), uncertain: false, redos: 0 };
    match finish.run().await {
        Ok((receipt, committed)) => Ended::Committed { receipt, committed },
        Err(_) if finish.uncertain => Ended::Unknown,
        Err(error) => Ended::Failed(error),
    }
}

struct Finish<'a> {
    staging: &'a mut Staging,
    copying: Copying,
    patience: Patience,
    /// A commit was asked for and not answered.
    uncertain: bool,
    redos: u32,
}

type Done = (pb::WriteReceipt, pb::Committed);

impl Finish<'_> {
    async fn run(&mut self) -> Result<Done, Error> {
        let start = Instant::now();
        let mut is_first = true;
        loop {
            let (view, epoch) = self.copying.durable(self.staging, &mut self.patience).await?;
            if std::mem::take(&mut is_first) {
                self.staging.node.counts.replicate.since(start);
            }
            let group = view.group(self.staging.group).ok_or(Error::NotReady)?;
            if let Some(done) = self.commit(group, epoch).await? {
                return Ok(done);
            }
        }
    }

    /// `None`: not committed, and it may be tried again.
    async fn commit(&mut self, group: &Group, epoch: Epoch) -> Result<Option<Done>, Error> {
        // Where a patch cannot be prepared the commit is asked for all the same, on top of no version: a write id that was
        // committed before has its receipt whatever has become of the file since, and any other is refused.
        let (patched, unprepared) = match self.patched().await {
            Ok(patched) => (patched, None),
            Err(error) => (None, Some(error)),
        };
        let commit = self.request(epoch, patched);
        let asked = timeout_at(self.patience.deadline, self.staging.node.committer.commit(commit)).await;
        match asked {
            Ok(Ok(committed)) => {
                self.after_commit(&committed);
                Ok(Some((self.receipt(group, epoch, &committed), committed)))
            }
            Ok(Err(NotCommitted::Refused(failure))) => match unprepared {
                Some(error) if failure.reason != Reason::StaleEpoch => Err(error),
                _ => self.refused(failure, patched.is_some()).await.map(|()| None),
            },
            Ok(Err(NotCommitted::Unknown(failure))) => {
                tracing::debug!(%failure, "commit not answered, asking again");
                self.uncertain = true;
                sleep(COMMIT_RETRY).await;
                self.staging.progress.not_committed();
                Ok(None)
            }
            Err(_) => {
                self.uncertain = true;
                Err(Error::OutcomeUnknown)
            }
        }
    }

    async fn refused(&mut self, failure: Failure, is_patch: bool) -> Result<(), Error> {
        let client_named_version = self.staging.intent.precondition.if_version.is_some();
        match failure.reason {
            Reason::StaleEpoch => {
                let current = failure.metadata.get("current").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
                self.staging.progress.refused_stale(Epoch(current));
                self.staging.node.try_refresh_map().await;
                Ok(())
            }
            Reason::VersionMismatch if is_patch && !client_named_version && self.redos < REDOS_MAX => {
                self.redos += 1;
                self.staging.progress.not_committed();
                Ok(())
            }
            Reason::TooLarge if self.redos < REDOS_MAX => {
                // Too many extents: they are merged first.
                self.redos += 1;
                let path = &self.staging.intent.path;
                if !merge::merge_file(&self.staging.node, gather::File::Path(path.clone())).await? {
                    return Err(Error::Refused(failure));
                }
                self.staging.progress.not_committed();
                Ok(())
            }
            _ => Err(Error::Refused(failure)),
        }
    }

    /// For a patch: the version it goes on top of, and the checksum of the result.
    async fn patched(&self) -> Result<Option<(u64, u32)>, Error> {
        let WriteMode::Patch { offset } = self.staging.intent.mode else { return Ok(None) };
        let path = &self.staging.intent.path;
        let base = gather::look_up(&self.staging.node, &gather::File::Path(path.clone())).await?;
        if offset > base.size {
            return Err(Error::PastTheEnd { path: path.clone(), offset, size: base.size });
        }
        let patch = Patch { offset, length: self.staging.length, checksum: self.staging.checksum };
        let replaced = gather::checksum(&self.staging.node, &base, offset, patch.overlap(base.size)).await?;
        Ok(Some((base.version, patch.apply(base.size, base.checksum, replaced))))
    }

    fn request(&self, epoch: Epoch, patched: Option<(u64, u32)>) -> pb::WriteCommit {
        let staging = &self.staging;
        let (mode, offset) = convert::write_mode_to_pb(staging.intent.mode);
        let (patch_base_version, patched_checksum) = patched.unwrap_or_default();
        let pieces = staging.pieces.iter();
        pb::WriteCommit {
            write_id: staging.intent.write_id.to_string(),
            group: staging.group.0,
            epoch: epoch.0,
            path: staging.intent.path.to_string(),
            mode: mode.into(),
            offset,
            pieces: pieces.map(|piece| pb::BlobPiece { blob: piece.blob.to_string(), length: piece.length }).collect(),
            checksum: staging.checksum,
            precondition: Some(staging.intent.precondition.into()),
            base_inode: staging.intent.base_inode.map_or(0, |inode| inode.0),
            patch_base_version,
            patched_checksum,
            begin_time: Some(staging.begin_time.into()),
            create_parents: staging.intent.create_parents,
            create_mode: staging.intent.create_mode,
        }
    }

    fn after_commit(&self, committed: &pb::Committed) {
        if committed.extent_count > merge::EXTENTS_BEFORE_MERGE {
            self.staging.node.merges.offer(committed.inode);
        }
    }

    /// Epoch and servers are those of the commit, which may have been asked for long ago, elsewhere. Only one that an earlier
    /// version of the Directory recorded does not say; then the members in sync now are named, for they have all that is
    /// committed.
    fn receipt(&self, group: &Group, epoch: Epoch, committed: &pb::Committed) -> pb::WriteReceipt {
        let (epoch, servers) = match committed.servers.as_slice() {
            [] => (epoch.0, group.in_sync.iter().map(ServerId::to_string).collect()),
            servers => (committed.epoch, servers.to_vec()),
        };
        pb::WriteReceipt {
            path: self.staging.intent.path.to_string(),
            inode: committed.inode,
            version: committed.version,
            revision: committed.revision,
            size: committed.size,
            checksum: committed.checksum,
            offset: committed.offset,
            commit_time: committed.commit_time,
            group: self.staging.group.0,
            epoch,
            servers,
        }
    }
}
