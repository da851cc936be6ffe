//! A copy of the index on the disk, so that a restart need not replay the whole log.
//!
//! Never the truth: one that is missing, damaged, or older than a compaction is left aside, and the log is replayed from
//! its beginning. Written while the store goes on, a page of blobs at a time: it says all that was durable at one place in
//! the log, and perhaps a little of what came later. A replay from that place on puts this right, because every record
//! of the log may be replayed twice. Nothing in it refers to a record at or behind the place.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use prost::Message;

use super::{
    disk::Disk,
    index::{ChunkAt, Index, LogPosition, Open, Published, RecordAt, Scrubbed, Sealed, SegmentUse},
    record::{Body, HEADER_LENGTH, Header},
    segment::{RECORDS_START, Segment},
    shared::Shared,
    types::DamagedRegion,
};
use crate::{
    durable,
    pb::storage::fileserver::{
        CheckpointBlob, CheckpointEnd, CheckpointFrame, CheckpointHead, CheckpointPage, CheckpointPublication,
        CheckpointRegion, CheckpointSeal, CheckpointSegment, RecordPlace, checkpoint_frame::Frame,
    },
    types::{BlobId, GroupId, Inode, Version, WriteId, crc32c},
};

const FILE: &str = "CHECKPOINT";
const UNFINISHED: &str = "CHECKPOINT.new";
const MAGIC: [u8; 12] = *b"dfs:chkp\x01\0\0\0";
/// Blobs in a page: the index is locked for as long as it takes to copy so many.
const PAGE_BLOBS: usize = 1024;
/// No frame is longer: more than a page of the largest blobs takes.
const FRAME_BYTES_MAX: u32 = 1 << 30;

/// Writes a checkpoint of the index as it is. Blocks on the disk.
pub fn write(shared: &Shared) -> io::Result<LogPosition> {
    let unfinished = shared.options.dir.join(UNFINISHED);
    let mut file = BufWriter::new(File::create(&unfinished)?);
    file.write_all(&MAGIC)?;
    // One look: what is open at the place, and the place.
    let (head, opened, synced) = {
        let index = shared.index();
        (head(&index), open_blobs(&index), index.synced)
    };
    put(&mut file, Frame::Head(head))?;
    let mut blob_count = opened.blobs.len() as u64;
    put(&mut file, Frame::Page(opened))?;
    let mut after = None;
    loop {
        let (page, last) = sealed_page(&shared.index(), after, synced.at);
        let Some(last) = last else { break };
        blob_count += page.blobs.len() as u64;
        put(&mut file, Frame::Page(page))?;
        after = Some(last);
    }
    put(&mut file, Frame::End(CheckpointEnd { blob_count }))?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    durable::sync_file(&file)?;
    durable::rename(&unfinished, &path(&shared.options.dir))?;
    Ok(synced)
}

pub fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// The length and the checksum of a frame stand before it.
fn put(file: &mut impl Write, frame: Frame) -> io::Result<()> {
    let bytes = CheckpointFrame { frame: Some(frame) }.encode_to_vec();
    let length = u32::try_from(bytes.len()).ok().filter(|&length| length <= FRAME_BYTES_MAX);
    file.write_all(&length.ok_or(io::ErrorKind::FileTooLarge)?.to_le_bytes())?;
    file.write_all(&crc32c(&bytes).to_le_bytes())?;
    file.write_all(&bytes)
}

fn head(index: &Index) -> CheckpointHead {
    let RecordAt { segment, position } = index.synced.at;
    // Of a segment that has nothing in it yet, there is nothing to know.
    let known = |&(&number, _): &(&u32, &SegmentUse)| number < segment || u64::from(position) > RECORDS_START;
    let segments = index.segments.range(..=segment).filter(known).map(|(&number, it)| CheckpointSegment {
        number,
        salt: it.segment.label.salt,
        end: if number == segment { position.into() } else { it.end },
        tombstone_bytes: it.tombstones,
        damaged: it.damaged,
    });
    let regions = index.losses.iter();
    CheckpointHead {
        segment,
        position,
        batch: index.synced.batch,
        segments: segments.collect(),
        damaged_regions: regions
            .map(|region| CheckpointRegion { segment: region.segment, from: region.from, to: region.to })
            .collect(),
        scrubbed_segment: index.scrubbed.segment,
        scrub_ended_ms: index.scrubbed.ended_ms,
    }
}

fn open_blobs(index: &Index) -> CheckpointPage {
    let durable = |chunk: &&ChunkAt| chunk.at < index.synced.at;
    let blobs = index.open.iter().map(|(blob, open)| CheckpointBlob {
        blob: blob.as_bytes().to_vec().into(),
        write_id: open.write_id.as_bytes().to_vec().into(),
        group: open.group.0,
        chunks: open.chunks.iter().filter(durable).flat_map(numbers).collect(),
        ..CheckpointBlob::default()
    });
    CheckpointPage { blobs: blobs.filter(|blob| !blob.chunks.is_empty()).collect() }
}

/// The next blobs, and the last one that was looked at.
fn sealed_page(
    index: &Index,
    after: Option<(GroupId, BlobId)>,
    synced: RecordAt,
) -> (CheckpointPage, Option<(GroupId, BlobId)>) {
    let (mut blobs, mut last) = (Vec::new(), None);
    for (blob, sealed) in index.page_sealed(after, PAGE_BLOBS) {
        last = Some((sealed.group, blob));
        // One that was sealed after the place will be sealed again by the replay.
        if sealed.seal_at.is_some_and(|at| at >= synced) || sealed.chunks.iter().any(|chunk| chunk.at >= synced) {
            continue;
        }
        let published = sealed.published.filter(|published| published.at < synced);
        blobs.push(CheckpointBlob {
            blob: blob.as_bytes().to_vec().into(),
            write_id: sealed.write_id.as_bytes().to_vec().into(),
            group: sealed.group.0,
            seal: Some(CheckpointSeal {
                length: sealed.length,
                checksum: sealed.checksum,
                place: sealed.seal_at.map(place),
            }),
            publication: published.map(|published| CheckpointPublication {
                inode: published.inode.0,
                version: published.version.0,
                place: Some(place(published.at)),
            }),
            oldest_segment: sealed.oldest_segment,
            chunks: sealed.chunks.iter().flat_map(numbers).collect(),
            damaged: index.damaged_of(blob).flat_map(|(offset, length)| [offset, length]).collect(),
        });
    }
    (CheckpointPage { blobs }, last)
}

fn numbers(chunk: &ChunkAt) -> [u32; 4] {
    [chunk.at.segment, chunk.at.position, chunk.offset, chunk.length]
}

fn place(at: RecordAt) -> RecordPlace {
    RecordPlace { segment: at.segment, position: at.position }
}

/// The index of the checkpoint in `dir`, if there is one that fits the segments `numbers` that are there.
///
/// Whatever is wrong with it costs no more than the time of a replay.
pub fn load(dir: &Path, disk: &dyn Disk, numbers: &[u32]) -> Option<Index> {
    let file = match File::open(path(dir)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, "cannot read the checkpoint: the whole log is replayed");
            return None;
        }
    };
    match read(dir, disk, numbers, file) {
        Ok(index) => Some(index),
        Err(error) => {
            tracing::warn!(%error, "the checkpoint does not fit: the whole log is replayed");
            None
        }
    }
}

fn read(dir: &Path, disk: &dyn Disk, numbers: &[u32], file: File) -> io::Result<Index> {
    let mut file = BufReader::new(file);
    let mut magic = MAGIC;
    file.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(bad("another format"));
    }
    let Frame::Head(head) = take(&mut file)? else { return Err(bad("no head")) };
    let scrubbed = Scrubbed { segment: head.scrubbed_segment, ended_ms: head.scrub_ended_ms };
    let mut index = Index::default();
    index.scrubbed = scrubbed;
    adopt_segments(&mut index, &head, dir, disk, numbers)?;
    let mut blob_count = 0;
    loop {
        match take(&mut file)? {
            Frame::Page(page) => {
                blob_count += page.blobs.len() as u64;
                for blob in page.blobs {
                    adopt(&mut index, disk, &blob).ok_or_else(|| bad("a blob that cannot be"))?;
                }
            }
            Frame::End(end) if end.blob_count == blob_count => return Ok(index),
            Frame::End(_) | Frame::Head(_) => return Err(bad("not all of it")),
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn take(file: &mut impl Read) -> io::Result<Frame> {
    let (mut length, mut checksum) = ([0; 4], [0; 4]);
    file.read_exact(&mut length)?;
    file.read_exact(&mut checksum)?;
    let length = u32::from_le_bytes(length);
    if length > FRAME_BYTES_MAX {
        return Err(bad("a frame too long"));
    }
    let mut bytes = Vec::new();
    file.take(length.into()).read_to_end(&mut bytes)?;
    if bytes.len() != length as usize || crc32c(&bytes) != u32::from_le_bytes(checksum) {
        return Err(bad("a damaged frame"));
    }
    let frame = CheckpointFrame::decode(bytes.as_slice()).map_err(|error| bad(&error.to_string()))?;
    frame.frame.ok_or_else(|| bad("an unknown frame"))
}

/// The segments that the checkpoint speaks of must be the very files that are there.
fn adopt_segments(
    index: &mut Index,
    head: &CheckpointHead,
    dir: &Path,
    disk: &dyn Disk,
    numbers: &[u32],
) -> io::Result<()> {
    let meant: BTreeMap<u32, &CheckpointSegment> = head.segments.iter().map(|it| (it.number, it)).collect();
    let is_empty = u64::from(head.position) <= RECORDS_START;
    let should_know = |number: u32| number < head.segment || (number == head.segment && !is_empty);
    if numbers.iter().any(|&number| should_know(number) && !meant.contains_key(&number)) {
        return Err(bad("it does not know a segment that is there"));
    }
    for (&number, it) in &meant {
        let segment = Segment::open(disk, dir, number)?.filter(|segment| segment.label.salt == it.salt);
        let segment = segment.ok_or_else(|| bad("it speaks of a segment that is no longer there"))?;
        if fs::metadata(&segment.path)?.len() < it.end {
            return Err(bad("it speaks of records that are no longer there"));
        }
        index.add_segment(Arc::new(segment), it.end);
        if let Some(segment) = index.segments.get_mut(&number) {
            (segment.tombstones, segment.damaged) = (it.tombstone_bytes, it.damaged);
        }
    }
    for region in &head.damaged_regions {
        index.losses.note(DamagedRegion { segment: region.segment, from: region.from, to: region.to });
    }
    let at = RecordAt { segment: head.segment, position: head.position };
    index.synced = LogPosition { at, batch: head.batch };
    Ok(())
}

fn adopt(index: &mut Index, disk: &dyn Disk, it: &CheckpointBlob) -> Option<()> {
    let blob = BlobId::from_bytes(it.blob.as_ref().try_into().ok()?);
    let write_id = WriteId::from_bytes(it.write_id.as_ref().try_into().ok()?);
    let group = GroupId(it.group);
    let (chunks, rest) = it.chunks.as_chunks::<4>();
    let (damaged, left) = it.damaged.as_chunks::<2>();
    if !rest.is_empty() || !left.is_empty() {
        return None;
    }
    let chunks = chunks.iter().map(|&[segment, position, offset, length]| ChunkAt {
        at: RecordAt { segment, position },
        offset,
        length,
    });
    let Some(seal) = &it.seal else {
        return adopt_open(index, disk, blob, Open::new(0, group, write_id), chunks);
    };
    let place = |place: &RecordPlace| RecordAt { segment: place.segment, position: place.position };
    let published = match &it.publication {
        Some(publication) => Some(Published {
            inode: Inode(publication.inode),
            version: Version(publication.version),
            at: place(publication.place.as_ref()?),
        }),
        None => None,
    };
    let sealed = Sealed {
        group,
        write_id,
        length: seal.length,
        checksum: seal.checksum,
        seal_at: seal.place.as_ref().map(place),
        published,
        oldest_segment: it.oldest_segment,
        chunks: chunks.collect(),
    };
    index.restore(blob, sealed, damaged.iter().map(|&[offset, length]| (offset, length)), Instant::now());
    Some(())
}

/// An open blob goes on where its chunks end. How far that is, and their checksum, is what their records say: a checkpoint
/// that contradicts the log does not fit.
fn adopt_open(
    index: &mut Index,
    disk: &dyn Disk,
    blob: BlobId,
    mut open: Open,
    chunks: impl Iterator<Item = ChunkAt>,
) -> Option<()> {
    let chunks: Vec<ChunkAt> = chunks.collect();
    for chunk in &chunks {
        let Header { blob: of, body: Body::Chunk { offset, length, checksum }, .. } = header(index, disk, chunk.at)?
        else {
            return None;
        };
        if (of, offset, length.get()) != (blob, chunk.offset, chunk.length) {
            return None;
        }
        open.accept(length.get(), checksum);
    }
    index.begin(blob, open);
    chunks.into_iter().for_each(|chunk| index.add_chunk(blob, chunk));
    Some(())
}

fn header(index: &Index, disk: &dyn Disk, at: RecordAt) -> Option<Header> {
    let segment = &index.segments.get(&at.segment)?.segment;
    let mut bytes = [0; HEADER_LENGTH];
    let read = disk.read(&segment.file, at.position.into(), &mut bytes).ok()?;
    (read == HEADER_LENGTH).then(|| Header::decode(&bytes, segment.label.salt, at.position.into())).flatten()
}
