//! Reading: looked up once, fetched ahead in parallel, checked, and given in order.
//!
//! A replica that fails, is silent or has damaged bytes is passed over for the next, from the byte where it stopped; a
//! failure surfaces only when none is left. A blob that is gone from all of them may have been merged or moved since the
//! look-up, so the version is looked up again: its bytes are the same for ever. A read never alters anything.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Client, Entry, Error, Located,
    call::attempt,
    channels::Purpose,
    convert,
    map::Target,
    ranges::{Arrived, PIECE_BYTES, Piece, Pieces},
    retry::{Tries, jitter},
};
use crate::{
    pb::{self, file_server_client::FileServerClient, read_response},
    status::{Failure, Reason},
    types::{AsOf, Extent, Path, Version, crc32c, crc32c_combine},
};

/// Pieces fetched at once: with [`super::ranges::PIECE_BYTES`] each, this bounds the memory of one read.
const PIECES_AHEAD: usize = 4;
/// What one [`Reader`] may hold in memory.
pub const READER_BYTES_MAX: u64 = PIECES_AHEAD as u64 * PIECE_BYTES;
/// For a server to begin to answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time without a byte.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The same while there is another replica to ask.
const SILENCE_WITH_CHOICE_MAX: Duration = Duration::from_secs(3);
/// Look-ups of one piece whose blobs are gone.
const LOOKUPS_MAX: u32 = 3;

/// Which bytes to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// `None`: the newest, or what was the newest at `as_of`.
    pub version: Option<Version>,
    pub as_of: AsOf,
    /// At most the size.
    pub offset: u64,
    /// `None`: to the end; more than there is: the same.
    pub length: Option<u64>,
}

/// The bytes of one version of a file, in order; ends after the first error.
///
/// When the whole version is read, its checksum is compared at the end: the last item is then an error if it differs.
pub struct Reader {
    entry: Entry,
    length: u64,
    bytes: BoxStream<'static, Result<Bytes, Error>>,
}

impl Reader {
    /// The version that is read.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Bytes that will come in all.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// All of it at once; [`Reason::TooLarge`] if that is more than `limit` bytes.
    pub async fn bytes(mut self, limit: u64) -> Result<Bytes, Error> {
        if self.length > limit {
            return Err(Error::new(Reason::TooLarge, format_args!("{} bytes are more than {limit}", self.length)));
        }
        let mut all = BytesMut::with_capacity(self.length as usize);
        while let Some(bytes) = self.bytes.try_next().await? {
            if all.is_empty() && bytes.len() as u64 == self.length {
                // The usual small file: no copy. What is left of the stream is the comparison of the whole.
                self.bytes.try_next().await?;
                return Ok(bytes);
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.bytes.poll_next_unpin(context)
    }
}

impl Client {
    /// Reads a file. The look-up is done when this returns; the bytes come as the stream is polled.
    pub async fn read(&self, path: &Path, options: ReadOptions) -> Result<Reader, Error> {
        let located = self.lookup(path, options.version, options.as_of).await?;
        self.read_located(located, options.offset, options.length)
    }

    /// Reads from what has been looked up before.
    pub fn read_located(&self, located: Located, offset: u64, length: Option<u64>) -> Result<Reader, Error> {
        let Located { entry, extents, .. } = located;
        let Some(available) = entry.size.checked_sub(offset) else {
            let message = format_args!("offset {offset} lies past the end at {}", entry.size).to_string();
            return Err(Failure::new(Reason::OffsetOutOfRange, message).with("size", entry.size).into());
        };
        let length = length.map_or(available, |length| length.min(available));
        let whole = (offset == 0 && length == entry.size).then_some(entry.checksum);
        let (client, file) = (self.clone(), Arc::new(entry.clone()));
        let mut position = offset;
        let pieces = Pieces::new(extents.into(), offset, length).enumerate().map(move |(number, piece)| {
            let begin = position;
            position += piece.length;
            let (client, file) = (client.clone(), file.clone());
            // A task each, so that a slow consumer does not make a server look silent.
            AbortOnDropHandle::new(tokio::spawn(async move { client.fetch_span(&file, begin, piece, number).await }))
        });
        let fetched = stream::iter(pieces)
            .buffered(PIECES_AHEAD)
            .map(|done| done.unwrap_or_else(|_| Err(Error::new(Reason::Internal, "the read was aborted"))))
            .map_ok(|chunks| stream::iter(chunks.into_iter().map(Ok)))
            .try_flatten();
        Ok(Reader { entry, length, bytes: checked(fetched.boxed(), whole) })
    }

    /// One piece of a file, that begins at `begin` of it; looked up again if its blobs are gone.
    async fn fetch_span(&self, file: &Entry, begin: u64, piece: Piece, spread: usize) -> Result<Vec<Bytes>, Error> {
        let end = begin + piece.length;
        let mut chunks = Vec::new();
        let mut pieces = vec![piece];
        let mut lookups = 0;
        let mut position = begin;
        while let Some(piece) = pieces.pop() {
            let mut arrived = Arrived::new(piece.ranges.clone());
            let fetched = self.fetch(&piece, &mut arrived, spread, |_, bytes| chunks.push(bytes)).await;
            position += arrived.total();
            match fetched {
                Ok(()) => {}
                Err(error) if error.reason() == Reason::VersionNotFound && lookups < LOOKUPS_MAX => {
                    lookups += 1;
                    tracing::debug!(path = %file.path, %error, "looking the file up again");
                    // Its group may have moved to other servers.
                    if let Err(error) = self.refresh_map().await {
                        tracing::debug!(%error, "the cluster map could not be refreshed");
                    }
                    let located = self.lookup_inode(file.inode, Some(file.version), AsOf::Now).await?;
                    if located.entry.size != file.size {
                        return Err(Error::malformed("a version has changed its size"));
                    }
                    pieces = rest(located.extents, position, end);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(chunks)
    }

    /// Reads ranges from one replica after the other until all is there; `arrive` gets each range's bytes in order.
    ///
    /// Fails with [`Reason::VersionNotFound`] if every replica says that a blob is gone, [`Reason::ChecksumMismatch`] if
    /// none has undamaged bytes, and [`Reason::NoLiveReplica`] otherwise.
    pub(super) async fn fetch(
        &self,
        piece: &Piece,
        arrived: &mut Arrived,
        spread: usize,
        mut arrive: impl FnMut(usize, Bytes),
    ) -> Result<(), Error> {
        let mut tries = Tries::until(self.deadline());
        loop {
            let replicas = self.inner.map.view().replicas(piece.group, spread);
            let mut failed = Failed::default();
            let before = arrived.total();
            for (number, target) in replicas.iter().enumerate() {
                let choice = number + 1 < replicas.len();
                match self.fetch_from(target, arrived, choice, &mut arrive).await {
                    Ok(()) => return Ok(()),
                    Err(error) => failed.add(target, error),
                }
            }
            let error = failed.sum_up(piece);
            if error.reason() == Reason::VersionNotFound {
                return Err(error);
            }
            if arrived.total() > before {
                tries.renew(self.deadline());
            }
            let Some(delay) = tries.after(&error, Instant::now(), jitter()) else { return Err(error) };
            tracing::debug!(group = %piece.group, %error, ?delay, "reading again");
            tokio::time::sleep(delay).await;
            if let Err(error) = self.refresh_map().await {
                tracing::debug!(%error, "the cluster map could not be refreshed");
            }
        }
    }

    async fn fetch_from(
        &self,
        target: &Target,
        arrived: &mut Arrived,
        choice: bool,
        arrive: &mut impl FnMut(usize, Bytes),
    ) -> Result<(), Error> {
        let silence = if choice { SILENCE_WITH_CHOICE_MAX } else { SILENCE_MAX }.min(self.timeout);
        let mut client = FileServerClient::new(self.inner.channels.get(&target.address, Purpose::Bulk)?);
        let call = |request| async move { client.read(request).await };
        let mut responses = attempt("read", OPEN_TIMEOUT.min(silence), arrived.ask(), call).await?;
        while !arrived.is_complete() {
            let next = tokio::time::timeout(silence, responses.message()).await;
            let response = next.map_err(|_| Error::silence(silence, "read"))??;
            let Some(pb::ReadResponse { range_index, result }) = response else {
                return Err(Error::malformed("the read ended early"));
            };
            match convert::required("result", result)? {
                read_response::Result::Chunk(chunk) => {
                    let (index, bytes) = arrived.take(range_index, chunk)?;
                    arrive(index, bytes);
                }
                read_response::Result::Error(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The pieces of a part of a file, the next one last.
fn rest(extents: Vec<Extent>, position: u64, end: u64) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Pieces::new(extents.into(), position, end - position).collect();
    pieces.reverse();
    pieces
}

/// What one round over the replicas came to.
#[derive(Debug, Default)]
struct Failed {
    gone: usize,
    damaged: usize,
    unreachable: usize,
    told: Vec<String>,
}

impl Failed {
    fn add(&mut self, target: &Target, error: Error) {
        tracing::debug!(server = %target.server, %error, "a replica failed");
        match error.reason() {
            Reason::VersionNotFound => self.gone += 1,
            Reason::ChecksumMismatch => self.damaged += 1,
            _ => self.unreachable += 1,
        }
        self.told.push(format!("{}: {error}", target.server));
    }

    fn sum_up(self, piece: &Piece) -> Error {
        let told = self.told.join("; ");
        let group = piece.group;
        let reason = match self {
            Self { unreachable: 0, damaged: 0, gone: 1.., .. } => Reason::VersionNotFound,
            Self { unreachable: 0, damaged: 1.., .. } => Reason::ChecksumMismatch,
            _ => Reason::NoLiveReplica,
        };
        Failure::new(reason, format_args!("no replica of group {group} gives the data ({told})"))
            .with("group", group)
            .into()
    }
}

/// The same bytes up to the first error, which is at the end if all of them together are not what was written.
fn checked(
    bytes: BoxStream<'static, Result<Bytes, Error>>,
    whole: Option<u32>,
) -> BoxStream<'static, Result<Bytes, Error>> {
    let state = Some((bytes, 0_u32));
    stream::try_unfold(state, move |state| async move {
        let Some((mut bytes, checksum)) = state else { return Ok(None) };
        match bytes.try_next().await? {
            Some(next) => {
                let checksum = crc32c_combine(checksum, crc32c(&next), next.len() as u64);
                Ok(Some((next, Some((bytes, checksum)))))
            }
            None if whole.is_none_or(|expected| expected == checksum) => Ok(None),
            None => Err(Error::new(Reason::ChecksumMismatch, "the whole is not what was written")),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::GroupId;

    fn a_stream(parts: &[&'static [u8]]) -> BoxStream<'static, Result<Bytes, Error>> {
        stream::iter(parts.iter().map(|part| Ok(Bytes::from_static(part))).collect::<Vec<_>>()).boxed()
    }

    #[tokio::test]
    async fn the_whole_is_compared_at_the_end() {
        let good: Vec<_> = checked(a_stream(&[b"ab", b"c"]), Some(crc32c(b"abc"))).try_collect().await.unwrap();
        assert_eq!(good, [&b"ab"[..], b"c"]);
        let mut bad = checked(a_stream(&[b"ab", b"c"]), Some(crc32c(b"abd")));
        assert!(bad.try_next().await.unwrap().is_some());
        assert!(bad.try_next().await.unwrap().is_some());
        assert_eq!(bad.try_next().await.unwrap_err().reason(), Reason::ChecksumMismatch);
        let part: Vec<_> = checked(a_stream(&[b"ab"]), None).try_collect().await.unwrap();
        assert_eq!(part, [&b"ab"[..]]);
        assert!(checked(a_stream(&[]), Some(0)).try_next().await.unwrap().is_none());
    }

    #[test]
    fn a_round_is_summed_up_by_its_worst_certainty() {
        let piece = Piece { group: GroupId(3), ranges: Vec::new(), length: 0 };
        let target = Target { server: "a".parse().unwrap(), address: String::new() };
        let sum = |reasons: &[Reason]| {
            let mut failed = Failed::default();
            reasons.iter().for_each(|&reason| failed.add(&target, Error::new(reason, "")));
            failed.sum_up(&piece).reason()
        };
        use Reason::{ChecksumMismatch, NoLiveReplica, Unavailable, VersionNotFound};
        assert_eq!(sum(&[VersionNotFound, VersionNotFound]), VersionNotFound);
        assert_eq!(sum(&[VersionNotFound, ChecksumMismatch]), ChecksumMismatch);
        assert_eq!(sum(&[ChecksumMismatch, ChecksumMismatch]), ChecksumMismatch);
        // One that cannot be asked may have good bytes.
        assert_eq!(sum(&[ChecksumMismatch, Unavailable]), NoLiveReplica);
        assert_eq!(sum(&[VersionNotFound, Unavailable]), NoLiveReplica);
        assert_eq!(sum(&[]), NoLiveReplica);
    }

    #[test]
    fn what_is_left_after_a_second_look_up_comes_in_order() {
        let extent = |group, length| Extent {
            group: GroupId(group),
            blob: crate::types::BlobId::from_bytes([group as u8; 16]),
            blob_offset: 0,
            length,
        };
        let mut pieces = rest(vec![extent(0, 10), extent(1, 10)], 5, 20);
        assert_eq!(pieces.pop().map(|piece| (piece.group, piece.length)), Some((GroupId(0), 5)));
        assert_eq!(pieces.pop().map(|piece| (piece.group, piece.length)), Some((GroupId(1), 10)));
        assert!(pieces.is_empty());
    }
}
