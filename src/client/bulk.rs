//! Thousands of small files: many writes on one stream, many ranges in one read.
//!
//! A small file costs a message, not a stream: writes to one primary share a pipelined stream, each with its own write id
//! and its own answer. One that gets no answer, or one that says "elsewhere" or "later", is repeated by itself, with the
//! id it has. What is in flight is bounded in bytes and in number.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Client, Entry, Error, Listed, Located, Receipt,
    call::attempt,
    channels::Purpose,
    map::Target,
    ranges::{Arrived, PIECE_BYTES, Piece, RANGES_MAX, Range},
    source::{FRAME_BYTES, Source},
    write::{Total, Write, WriteOptions},
};
use crate::{
    pb::{self, file_server_client::FileServerClient},
    types::{AsOf, GroupId, Path, crc32c},
};

/// Writes in flight of one bulk write; more would only wait at the primaries.
const WRITES_IN_FLIGHT_MAX: usize = 256;
/// Bytes of them.
const BYTES_IN_FLIGHT_MAX: usize = 16 << 20;
/// Calls in flight of one bulk read; each holds up to [`PIECE_BYTES`].
const READS_IN_FLIGHT_MAX: usize = 4;
/// Entries gathered before they are read, to find those that are on the same servers.
const GATHERED_MAX: usize = 1024;
/// Largest file that a bulk read holds in memory.
pub const SMALL_FILE_BYTES_MAX: u64 = 1 << 20;
/// For the primary to take a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time without an answer while writes wait for one.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// One file of a bulk write.
#[derive(Clone, Debug)]
pub struct SmallFile {
    pub path: Path,
    pub options: WriteOptions,
    pub data: Bytes,
}

/// What a stream to one primary is asked: a message, and where its answer goes.
type Job = (pb::WriteRequest, oneshot::Sender<pb::WriteResponse>);

/// The streams of one bulk write, one to each primary.
struct Lanes {
    client: Client,
    open: Mutex<HashMap<String, Lane>>,
    room: Arc<Semaphore>,
}

struct Lane {
    jobs: mpsc::Sender<Job>,
    _task: AbortOnDropHandle<()>,
}

impl Client {
    /// Writes many small files, pipelined; answers each in the order in which they finish.
    ///
    /// Files longer than a frame of 256 KiB are written one by one among them. Take care that `files` does not hold more
    /// in memory than it must: at most 256 are taken ahead.
    pub fn write_many(
        &self,
        files: impl Stream<Item = SmallFile> + Send + 'static,
    ) -> BoxStream<'static, (Path, Result<Receipt, Error>)> {
        let lanes = Arc::new(Lanes {
            client: self.clone(),
            open: Mutex::default(),
            room: Arc::new(Semaphore::new(BYTES_IN_FLIGHT_MAX)),
        });
        let written = files.map(move |file| {
            let lanes = lanes.clone();
            async move {
                let path = file.path.clone();
                (path, lanes.write(file).await)
            }
        });
        written.buffer_unordered(WRITES_IN_FLIGHT_MAX).boxed()
    }

    /// Reads many small files from what a walk with extents told of them; in any order.
    ///
    /// `None` for an entry that is no file, and for one larger than [`SMALL_FILE_BYTES_MAX`]: read that by itself.
    pub fn read_many(
        &self,
        files: impl Stream<Item = Listed> + Send + 'static,
    ) -> BoxStream<'static, (Entry, Result<Option<Bytes>, Error>)> {
        let client = self.clone();
        let read = files.ready_chunks(GATHERED_MAX).map(gather).flat_map(stream::iter);
        let read = read.enumerate().map(move |(number, batch)| {
            let client = client.clone();
            let files: Vec<Entry> = batch.files.iter().map(|listed| listed.entry.clone()).collect();
            // A task each, so that a slow consumer does not make a server look silent.
            let task = AbortOnDropHandle::new(tokio::spawn(async move { client.read_batch(batch, number).await }));
            async move {
                let aborted = |_| Err(Error::new(crate::status::Reason::Internal, "the read was aborted"));
                let read = task.await.unwrap_or_else(|_| files.iter().map(aborted).collect());
                stream::iter(files.into_iter().zip(read).collect::<Vec<_>>())
            }
        });
        read.buffer_unordered(READS_IN_FLIGHT_MAX).flatten().boxed()
    }

    async fn read_batch(&self, batch: Batch, spread: usize) -> Vec<Result<Option<Bytes>, Error>> {
        let Some(piece) = batch.piece else { return self.read_apart(batch.files).await };
        let mut contents: Vec<BytesMut> = batch.files.iter().map(|_| BytesMut::new()).collect();
        let mut arrived = Arrived::new(piece.ranges.clone());
        let arrive = |range: usize, bytes: Bytes| {
            let content = batch.owners.get(range).and_then(|&owner| contents.get_mut(owner));
            if let Some(content) = content {
                content.extend_from_slice(&bytes);
            }
        };
        // Whatever is missing after this is read by itself, and fails by itself.
        let fetched = self.fetch(&piece, &mut arrived, spread, arrive).await;
        if let Err(error) = fetched {
            tracing::debug!(group = %piece.group, %error, "reading file by file");
        }
        let mut results = Vec::with_capacity(contents.len());
        for (listed, content) in batch.files.into_iter().zip(contents) {
            let whole = content.len() as u64 == listed.entry.size && crc32c(&content) == listed.entry.checksum;
            results.push(if whole { Ok(Some(content.freeze())) } else { self.read_alone(listed).await.map(Some) });
        }
        results
    }

    /// What does not lie in one group.
    async fn read_apart(&self, files: Vec<Listed>) -> Vec<Result<Option<Bytes>, Error>> {
        let mut results = Vec::with_capacity(files.len());
        for listed in files {
            results.push(match &listed.entry {
                entry if !entry.is_file() || entry.size > SMALL_FILE_BYTES_MAX => Ok(None),
                entry if entry.size == 0 => Ok(Some(Bytes::new())),
                _ => self.read_alone(listed).await.map(Some),
            });
        }
        results
    }

    /// Of the version that was listed, wherever its bytes are now.
    async fn read_alone(&self, listed: Listed) -> Result<Bytes, Error> {
        let Entry { inode, version, .. } = listed.entry;
        let located: Located = self.lookup_inode(inode, Some(version), AsOf::Now).await?;
        self.read_located(located, 0, None)?.bytes(SMALL_FILE_BYTES_MAX).await
    }
}

/// What one call reads: files of one group; or, without a piece, what does not lie in one group.
#[derive(Debug)]
struct Batch {
    files: Vec<Listed>,
    /// For each range of the piece, the file it belongs to.
    owners: Vec<usize>,
    piece: Option<Piece>,
}

/// Sorts entries by the group that holds them, into calls that stay inside of the bounds.
fn gather(listed: Vec<Listed>) -> Vec<Batch> {
    let mut filling: HashMap<GroupId, Batch> = HashMap::new();
    let mut full = Vec::new();
    let mut apart = Batch { files: Vec::new(), owners: Vec::new(), piece: None };
    for file in listed {
        let group = file.extents.first().map(|extent| extent.group);
        let small = file.entry.is_file()
            && file.entry.size <= SMALL_FILE_BYTES_MAX
            && file.extents.len() <= RANGES_MAX
            && file.extents.iter().all(|extent| Some(extent.group) == group);
        let Some(group) = group.filter(|_| small) else {
            apart.files.push(file);
            continue;
        };
        let begun = || Batch {
            files: Vec::new(),
            owners: Vec::new(),
            piece: Some(Piece { group, ranges: Vec::new(), length: 0 }),
        };
        let batch = filling.entry(group).or_insert_with(begun);
        let over = batch.piece.as_ref().is_some_and(|piece| {
            piece.length + file.entry.size > PIECE_BYTES || piece.ranges.len() + file.extents.len() > RANGES_MAX
        });
        if over {
            full.push(std::mem::replace(batch, begun()));
        }
        batch.add(file);
    }
    full.extend(filling.into_values());
    full.extend((!apart.files.is_empty()).then_some(apart));
    full
}

impl Batch {
    fn add(&mut self, file: Listed) {
        if let Some(piece) = &mut self.piece {
            for extent in &file.extents {
                let range = Range { blob: extent.blob, offset: extent.blob_offset, length: extent.length };
                piece.ranges.push(range);
                piece.length += extent.length;
                self.owners.push(self.files.len());
            }
        }
        self.files.push(file);
    }
}

impl Lanes {
    async fn write(&self, file: SmallFile) -> Result<Receipt, Error> {
        let write = Write::new(&file.path, file.options);
        if file.data.len() <= FRAME_BYTES {
            // Counted with what a message costs beside its data, so that empty files are bounded too.
            let bytes = (file.data.len() + 1024) as u32;
            let _room = self.room.acquire_many(bytes).await;
            let Some(response) = self.pipelined(&write, file.data.clone()).await else {
                let repeated = self.client.run_write(&write, &mut Source::memory(file.data)).await;
                return repeated.map_err(Error::in_doubt);
            };
            match write.receipt(response, Some(Total::of(&file.data))) {
                Err(error) if error.may_be_tried_again() => {
                    tracing::debug!(path = %file.path, %error, "writing by itself");
                    let repeated = self.client.run_write(&write, &mut Source::memory(file.data)).await;
                    return repeated.map_err(|last| if error.is_in_doubt() { last.in_doubt() } else { last });
                }
                done => return done,
            }
        }
        self.client.run_write(&write, &mut Source::memory(file.data)).await
    }

    /// The answer to one try on the stream to the primary; `None` if there is none.
    async fn pipelined(&self, write: &Write, data: Bytes) -> Option<pb::WriteResponse> {
        let map = &self.client.inner.map;
        let (group, target) = map.view().primary(&write.path).ok()?;
        let server = target.server.clone();
        let (answer, answered) = oneshot::channel();
        let jobs = {
            let mut open = self.open.lock().await;
            open.retain(|_, lane| !lane.jobs.is_closed());
            let lane = open.entry(target.address.clone());
            lane.or_insert_with(|| Lane::open(&self.client, target)).jobs.clone()
        };
        let answered = async {
            jobs.send((write.whole(data), answer)).await.ok()?;
            answered.await.ok()
        };
        tokio::select! {
            answered = answered => answered,
            // The old primary may hang, and never answer.
            () = map.primary_moved(group, &server) => None,
        }
    }
}

impl Lane {
    fn open(client: &Client, target: Target) -> Self {
        let (jobs, receiver) = mpsc::channel(WRITES_IN_FLIGHT_MAX);
        let client = client.clone();
        let task = tokio::spawn(async move {
            let address = &target.address;
            let pumped = tokio::select! {
                pumped = pump(&client, address, receiver) => pumped,
                never = client.doubt(&target) => match never {},
            };
            if let Err(error) = pumped {
                tracing::debug!(%address, %error, "a stream of writes ended");
            }
        });
        Self { jobs, _task: AbortOnDropHandle::new(task) }
    }
}

/// Sends jobs and hands out their answers until the stream fails; who has no answer then learns that it has none.
async fn pump(client: &Client, address: &str, mut jobs: mpsc::Receiver<Job>) -> Result<(), Error> {
    let silence = SILENCE_MAX.min(client.timeout);
    let mut waiting: HashMap<String, oneshot::Sender<pb::WriteResponse>> = HashMap::new();
    let (requests, receiver) = mpsc::channel(WRITES_IN_FLIGHT_MAX);
    let mut stub = FileServerClient::new(client.inner.channels.get(address, Purpose::Bulk)?);
    let Some((request, answer)) = jobs.recv().await else { return Ok(()) };
    waiting.insert(request.write_id.clone(), answer);
    let queued = |_| Error::unreachable("the stream of writes does not move");
    requests.try_send(request).map_err(queued)?;
    let call = |requests| async move { stub.write(requests).await };
    let mut responses = attempt("open the writes", OPEN_TIMEOUT, ReceiverStream::new(receiver), call).await?;
    loop {
        let quiet = tokio::time::sleep(silence);
        tokio::select! {
            job = jobs.recv(), if waiting.len() < WRITES_IN_FLIGHT_MAX => {
                let Some((request, answer)) = job else { return Ok(()) };
                waiting.insert(request.write_id.clone(), answer);
                requests.try_send(request).map_err(queued)?;
            }
            response = responses.message() => {
                let Some(response) = response? else { return Ok(()) };
                if let Some(answer) = waiting.remove(&response.write_id) {
                    // Who asked may have gone.
                    drop(answer.send(response));
                }
            }
            () = quiet, if !waiting.is_empty() => return Err(Error::silence(silence, "write many")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::EntryKind,
        types::{BlobId, Extent, Inode, Revision, Timestamp, Version},
    };

    fn a_listed(kind: EntryKind, extents: &[(u32, u64)]) -> Listed {
        let extents: Vec<Extent> = extents
            .iter()
            .map(|&(group, length)| Extent { group: GroupId(group), blob: BlobId::random(), blob_offset: 0, length })
            .collect();
        let entry = Entry {
            inode: Inode(2),
            path: Path::root(),
            kind,
            size: extents.iter().map(|extent| extent.length).sum(),
            version: Version(1),
            checksum: 0,
            revision: Revision(1),
            create_time: Timestamp(0),
            modify_time: Timestamp(0),
            mode: 0o644,
            owner: String::new(),
            owning_group: String::new(),
            extended_attributes: Default::default(),
            target: String::new(),
        };
        Listed { entry, extents }
    }

    #[test]
    fn files_are_gathered_by_group_inside_of_the_bounds() {
        let small = |group| a_listed(EntryKind::File, &[(group, SMALL_FILE_BYTES_MAX)]);
        let batches = gather(vec![small(0), small(1), small(0), small(0), small(0), small(0)]);
        let mut shapes: Vec<(u32, usize)> = batches
            .iter()
            .filter_map(|batch| batch.piece.as_ref().map(|piece| (piece.group.0, batch.files.len())))
            .collect();
        shapes.sort_unstable();
        assert_eq!(shapes, [(0, 1), (0, 4), (1, 1)]);
        assert!(batches.iter().filter_map(|batch| batch.piece.as_ref()).all(|piece| piece.length <= PIECE_BYTES));
    }

    #[test]
    fn what_is_not_read_in_bulk_is_still_told() {
        let apart = [
            a_listed(EntryKind::Directory, &[]),
            a_listed(EntryKind::File, &[(0, SMALL_FILE_BYTES_MAX + 1)]),
            a_listed(EntryKind::File, &[(0, 1), (1, 1)]),
        ];
        let batches = gather(apart.to_vec());
        assert_eq!(batches.len(), 1);
        assert!(batches[0].piece.is_none());
        assert_eq!(batches[0].files, apart);
    }

    #[test]
    fn each_range_knows_its_file() {
        let batches = gather(vec![a_listed(EntryKind::File, &[(0, 1), (0, 2)]), a_listed(EntryKind::File, &[(0, 3)])]);
        assert_eq!(batches[0].owners, [0, 0, 1]);
        assert_eq!(batches[0].piece.as_ref().map(|piece| piece.length), Some(6));
    }
}
