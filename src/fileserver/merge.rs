//! Merges the many small extents that appends and patches leave into one blob, in the background.
//!
//! A version's list of extents is bounded; long before the bound a run of extents is read back, written as one blob to
//! every in-sync member, and put in their place at the Directory, if its checksum is that of what it replaces: neither bytes
//! nor version change. Which run is taken is [`choose`]'s: small extents first, so that a file that grows by small appends is
//! not rewritten whole each time.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::{
    error::Error,
    gather::{self, Base, File, Reader},
    node::Node,
    write::{
        Intent,
        copying::{Copying, Patience},
        staging::Staging,
    },
};
use crate::{
    pb,
    status::{Failure, Reason},
    types::{CHUNK_LENGTH_MAX, Epoch, Extent, Inode, Path, Precondition, Version, WriteId, WriteMode, crc32c},
};

/// With more extents than this a file is worth merging.
pub const EXTENTS_BEFORE_MERGE: u32 = 64;
/// Extents below this are merged first.
const SMALL_BYTES: u64 = 8 << 20;
/// A run of small extents is worth the work from this many on.
const SMALL_RUN_MIN: usize = 16;
/// A run of any extents is.
const ANY_RUN_MIN: usize = 8;
/// Files that wait to be merged; one that is not taken now is offered again by its next write.
const QUEUE_MAX: usize = 256;

/// A handle; clones are the same.
#[derive(Clone)]
pub struct Merges {
    queue: mpsc::Sender<u64>,
}

impl Merges {
    pub fn new() -> (Self, mpsc::Receiver<u64>) {
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        (Self { queue }, queued)
    }

    /// The file has many extents.
    pub fn offer(&self, inode: u64) {
        if self.queue.try_send(inode).is_err() {
            tracing::debug!(inode, "merge put off");
        }
    }
}

/// Merges what is offered, one file at a time, until the shutdown.
pub async fn run(node: Arc<Node>, mut queued: mpsc::Receiver<u64>) {
    let mut inodes = Vec::new();
    loop {
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            count = queued.recv_many(&mut inodes, QUEUE_MAX) => if count == 0 { return },
        }
        for inode in inodes.drain(..).collect::<BTreeSet<u64>>() {
            let merged = tokio::select! {
                () = node.shutdown.cancelled() => return,
                merged = merge_file(&node, File::Inode(inode)) => merged,
            };
            match merged {
                Ok(done) => tracing::debug!(inode, done, "merge"),
                // Its next write offers it again.
                Err(error) => tracing::info!(inode, %error, "extents not merged"),
            }
        }
    }
}

/// Merges one run of a file's extents. `false`: there is nothing to merge, or it is another primary's.
pub async fn merge_file(node: &Arc<Node>, file: File) -> Result<bool, Error> {
    let base = gather::look_up(node, &file).await?;
    let Some(run) = choose(&base.extents, node.blob_bytes_max) else { return Ok(false) };
    let Ok(path) = base.path.parse::<Path>() else { return Ok(false) };
    let intent = Intent {
        write_id: WriteId::random(),
        path,
        mode: WriteMode::Append,
        precondition: Precondition::default(),
        base_inode: None,
        create_parents: false,
        create_mode: 0,
    };
    let mut staging = match Staging::new(node.clone(), intent) {
        Err(Error::NotPrimary { .. }) => return Ok(false),
        other => other?,
    };
    match rewrite(&mut staging, &base, run).await {
        Outcome::Merged => {
            let owned: Vec<String> = staging.pieces.iter().map(|piece| piece.blob.to_string()).collect();
            staging.publish((Inode(base.inode), Version(base.version)), &owned).await;
            Ok(true)
        }
        Outcome::Unknown(error) => {
            staging.leave();
            Err(error)
        }
        Outcome::Failed(error) => {
            staging.discard().await;
            Err(error)
        }
    }
}

enum Outcome {
    Merged,
    Failed(Error),
    Unknown(Error),
}

async fn rewrite(staging: &mut Staging, base: &Base, run: Range<usize>) -> Outcome {
    if let Err(error) = copy(staging, base, &run).await {
        return Outcome::Failed(error);
    }
    let mut copying = Copying::new(&staging.node);
    let mut patience = Patience::from_now();
    loop {
        let epoch = match copying.durable(staging, &mut patience).await {
            Ok((_, epoch)) => epoch,
            Err(error) => return Outcome::Failed(error),
        };
        match replace(staging, base, &run, epoch).await {
            Ok(()) => return Outcome::Merged,
            Err(Error::Refused(failure)) if failure.reason == Reason::StaleEpoch => {
                let current = failure.metadata.get("current").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
                staging.progress.refused_stale(Epoch(current));
                staging.node.try_refresh_map().await;
            }
            Err(error) => return outcome_of(error),
        }
    }
}

/// What a failed call says about the merge: the Directory's refusals change nothing, anything else may have happened.
fn outcome_of(error: Error) -> Outcome {
    let failure = Failure::from(error);
    let refused = matches!(
        failure.reason,
        Reason::VersionMismatch | Reason::EntryNotFound | Reason::WriteExpired | Reason::BadArgument
    );
    let error = Error::Refused(failure);
    if refused { Outcome::Failed(error) } else { Outcome::Unknown(error) }
}

/// Writes the run's bytes as one blob, here and at the members.
async fn copy(staging: &mut Staging, base: &Base, run: &Range<usize>) -> Result<(), Error> {
    let node = staging.node.clone();
    let length_of = |extents: &[Extent]| extents.iter().map(|extent| extent.length).sum::<u64>();
    let offset = length_of(base.extents.get(..run.start).unwrap_or_default());
    let length = length_of(base.extents.get(run.clone()).unwrap_or_default());
    let mut reader = Reader::new(&node, base, offset, length);
    let mut gathered = BytesMut::new();
    while let Some(data) = reader.next().await? {
        if gathered.len() + data.len() > CHUNK_LENGTH_MAX {
            add(staging, gathered.split().freeze()).await?;
        }
        gathered.extend_from_slice(&data);
    }
    add(staging, gathered.freeze()).await?;
    staging.seal().await;
    staging.progress.complete();
    // The switch comes only after this: the new blob says what the file, or else what the old extents say when read again.
    let expected = match length == base.size {
        true => base.checksum,
        false => gather::checksum(&node, base, offset, length).await?,
    };
    if (staging.length, staging.checksum) == (length, expected) { Ok(()) } else { Err(Error::WriteChecksum) }
}

async fn add(staging: &mut Staging, data: Bytes) -> Result<(), Error> {
    let memory = staging.node.budget.for_write(data.len()).await;
    let checksum = crc32c(&data);
    staging.data(data, checksum, memory).await
}

async fn replace(staging: &Staging, base: &Base, run: &Range<usize>, epoch: Epoch) -> Result<(), Error> {
    let node = &staging.node;
    let merged = staging.pieces.first().ok_or(Error::WriteLength { said: 1, found: 0 })?;
    let request = pb::MergeExtentsRequest {
        server_id: node.me.to_string(),
        group: staging.group.0,
        epoch: epoch.0,
        inode: base.inode,
        extents: base.extents.get(run.clone()).unwrap_or_default().iter().map(pb::Extent::from).collect(),
        merged: Some(pb::BlobPiece { blob: merged.blob.to_string(), length: merged.length }),
        begin_time: Some(staging.begin_time.into()),
        skip: run.start as u32,
    };
    node.directory.answer(node.directory.directory()?.merge_extents(request)).await.map(|_| ())
}

/// The run of extents to merge: the longest of small ones if it is worth the work, else the longest of any that fit a blob
/// of `blob_max` bytes.
pub fn choose(extents: &[Extent], blob_max: u64) -> Option<Range<usize>> {
    let small = longest_run(extents, SMALL_BYTES, blob_max);
    if small.len() >= SMALL_RUN_MIN {
        return Some(small);
    }
    Some(longest_run(extents, blob_max, blob_max)).filter(|run| run.len() >= ANY_RUN_MIN)
}

/// The longest run of extents of at most `extent_max` bytes each that fits one blob; the first of several.
fn longest_run(extents: &[Extent], extent_max: u64, blob_max: u64) -> Range<usize> {
    let (mut longest, mut start, mut bytes) = (0..0, 0, 0);
    for (index, extent) in extents.iter().enumerate() {
        if extent.length > extent_max {
            (start, bytes) = (index + 1, 0);
            continue;
        }
        bytes += extent.length;
        while bytes > blob_max {
            bytes -= extents.get(start).map_or(bytes, |first| first.length);
            start += 1;
        }
        if index + 1 - start > longest.len() {
            longest = start..index + 1;
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BLOB_LENGTH_MAX, BlobId, GroupId};

    fn some_extents(lengths: &[u64]) -> Vec<Extent> {
        let extent = |length: &u64| Extent {
            group: GroupId(0),
            blob: BlobId::from_bytes([1; 16]),
            blob_offset: 0,
            length: *length,
        };
        lengths.iter().map(extent).collect()
    }

    #[test]
    fn small_extents_behind_a_large_one_are_merged_without_it() {
        let mut lengths = vec![BLOB_LENGTH_MAX, 10 << 20];
        lengths.extend([100; 64]);
        assert_eq!(choose(&some_extents(&lengths), BLOB_LENGTH_MAX), Some(2..66));
    }

    #[test]
    fn when_few_are_small_larger_ones_are_merged_up_to_a_blob() {
        let lengths = [10 << 20; 70];
        assert_eq!(choose(&some_extents(&lengths), BLOB_LENGTH_MAX), Some(0..25));
    }

    #[test]
    fn what_cannot_get_better_is_left_alone() {
        assert_eq!(choose(&[], BLOB_LENGTH_MAX), None);
        assert_eq!(choose(&some_extents(&[BLOB_LENGTH_MAX; 70]), BLOB_LENGTH_MAX), None);
        assert_eq!(choose(&some_extents(&[1, 2, 3]), BLOB_LENGTH_MAX), None);
    }
}
