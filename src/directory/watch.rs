//! The two feeds: changes of the namespace, and the cluster map.
//!
//! Neither keeps anything for a slow watcher. The change feed is read from the table of changes, from where the watcher
//! is, whenever there is something newer: a watcher that was away for an hour and one that is level are the same code.
//! Of the cluster map only the newest counts, so a slow watcher misses the ones between.

use std::sync::Arc;

use tokio::time::{Duration, Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    Directory,
    model::Changes,
    streams::{Ended, Sink},
};
use crate::{
    convert, pb,
    status::Failure,
    types::{Path, Revision},
};

/// Changes in one message.
const CHANGES_MAX: usize = 256;
/// A watcher of a quiet path hears this often how far the feed has got, so that it can resume from there.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

type Messages<T> = ReceiverStream<Result<T, Status>>;

/// Changes at and below a path, from a revision on.
pub fn entries(
    directory: &Arc<Directory>,
    request: &pb::WatchEntriesRequest,
) -> Result<Messages<pb::WatchEntriesResponse>, Failure> {
    let path = convert::path("path", &request.path)?;
    let after = request.after_revision.map(Revision);
    let feed = directory.clone();
    directory.streams.start(|sink| feed_changes(feed, path, after, sink))
}

async fn feed_changes(
    directory: Arc<Directory>,
    path: Path,
    after: Option<Revision>,
    sink: Sink<pb::WatchEntriesResponse>,
) -> Result<(), Ended> {
    let message = |through, changes| pb::WatchEntriesResponse { header: directory.header(through), changes };
    let mut progress = directory.progress.clone();
    let mut through = after.unwrap_or_else(|| directory.revision());
    // A feed that does not reach back so far says so before it says that it has begun.
    let mut page = read_changes(&directory, &path, through).await?;
    sink.send(message(through, Vec::new())).await?;
    let (mut told, mut told_at) = (through, Instant::now());
    loop {
        through = page.through;
        let overdue = through > told && told_at.elapsed() >= PROGRESS_INTERVAL;
        if !page.changes.is_empty() || overdue {
            sink.send(message(through, page.changes.into_iter().map(Into::into).collect())).await?;
            (told, told_at) = (through, Instant::now());
        }
        if !page.more {
            let newer = progress.wait_for(|progress| progress.revision > through);
            match timeout(PROGRESS_INTERVAL, newer).await.map(|newer| newer.is_ok()) {
                Ok(true) | Err(_) => {}
                Ok(false) => return Ok(()),
            }
        }
        page = read_changes(&directory, &path, through).await?;
    }
}

async fn read_changes(directory: &Directory, path: &Path, after: Revision) -> Result<Changes, Failure> {
    let path = path.clone();
    Ok(directory.reader.read(move |view| view.changes(after, &path, CHANGES_MAX)).await?)
}

/// The cluster map now, and again after every change.
pub fn cluster_map(directory: &Arc<Directory>) -> Result<Messages<pb::WatchClusterMapResponse>, Failure> {
    let feed = directory.clone();
    directory.streams.start(|sink| feed_maps(feed, sink))
}

async fn feed_maps(directory: Arc<Directory>, sink: Sink<pb::WatchClusterMapResponse>) -> Result<(), Ended> {
    let mut maps = directory.maps.clone();
    loop {
        maps.mark_unchanged();
        let cluster_map = Some((&directory.cluster_map()).into());
        sink.send(pb::WatchClusterMapResponse { header: directory.header_now(), cluster_map }).await?;
        if maps.changed().await.is_err() {
            return Ok(());
        }
    }
}
