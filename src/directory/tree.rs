//! All entries below a path as a stream, in bounded memory.
//!
//! The walk stays at the revision at which it began, so the stream shows one moment. Between two messages it holds no
//! snapshot, and the next page is read only when the client has taken the one before: who reads slowly costs a task and
//! a page.

use std::sync::Arc;

use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    Directory,
    model::{LookedUp, Page},
    streams::{Ended, Sink},
    walk::Walk,
};
use crate::{
    convert, pb,
    status::Failure,
    types::{AsOf, Path},
};

/// Entries read at a time.
const PAGE_ENTRIES: usize = 128;
/// A message that has grown to as much is sent: clients accept at least 4 MiB, and one entry is far below.
const MESSAGE_BYTES: usize = 256 << 10;

/// What to walk through.
struct Tree {
    path: Path,
    as_of: AsOf,
    recursive: bool,
    with_extents: bool,
}

pub fn stream(
    directory: &Arc<Directory>,
    request: &pb::StreamEntriesRequest,
) -> Result<ReceiverStream<Result<pb::StreamEntriesResponse, Status>>, Failure> {
    let tree = Tree {
        path: convert::path("path", &request.path)?,
        as_of: convert::as_of("as_of", request.as_of.as_ref())?,
        recursive: request.recursive,
        with_extents: request.with_extents,
    };
    let walker = directory.clone();
    directory.streams.start(move |sink| feed(walker, tree, sink))
}

async fn feed(directory: Arc<Directory>, tree: Tree, sink: Sink<pb::StreamEntriesResponse>) -> Result<(), Ended> {
    let begin = directory.reader.read(move |view| {
        let walk = view.walk(&tree.path, tree.as_of, tree.recursive, tree.with_extents)?;
        Ok((view.revision(), walk))
    });
    let (revision, mut walk) = begin.await.map_err(Failure::from)?;
    let mut more = true;
    while more {
        let page;
        (walk, page) = next_page(&directory, walk).await?;
        more = page.more;
        for entries in messages(page.items) {
            sink.send(pb::StreamEntriesResponse { header: directory.header(revision), entries }).await?;
        }
    }
    Ok(())
}

async fn next_page(directory: &Directory, mut walk: Walk) -> Result<(Walk, Page<LookedUp>), Failure> {
    let read = directory.reader.read(move |view| {
        let page = view.walk_on(&mut walk, PAGE_ENTRIES)?;
        Ok((walk, page))
    });
    Ok(read.await?)
}

/// The entries in messages of a bounded size.
fn messages(found: Vec<LookedUp>) -> impl Iterator<Item = Vec<pb::StreamedEntry>> {
    let mut found = found.into_iter();
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut entries = Vec::new();
        while bytes < MESSAGE_BYTES {
            let Some(LookedUp { entry, extents }) = found.next() else { break };
            let extents = extents.iter().map(Into::into).collect();
            let entry = pb::StreamedEntry { entry: Some(entry.into()), extents };
            bytes += entry.encoded_len();
            entries.push(entry);
        }
        (!entries.is_empty()).then_some(entries)
    })
}
