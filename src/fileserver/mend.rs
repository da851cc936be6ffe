//! Mends one blob: piece by piece from whoever has each piece, so that copies that are damaged in different places make one whole.
//!
//! The pieces together must have the blob's checksum, or nothing is replaced.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tonic::transport::Channel;

use super::{
    error::Error,
    gather, leave,
    node::Node,
    read,
    repair::{Peer, peers},
    replication::fetch::Fetcher,
    store::BlobRecord,
};
use crate::{
    pb::file_server_client::FileServerClient,
    status::{Failure, Reason},
    types::{BlobId, CHUNK_LENGTH_MAX, Extent, GroupId, crc32c},
};

/// How long a caller waits for its turn, and how often it looks.
const TURN_PATIENCE: Duration = Duration::from_secs(60);
const TURN_INTERVAL: Duration = Duration::from_millis(50);

/// What became of a blob.
#[derive(Debug)]
pub enum Mended {
    /// It was fetched or put together.
    Repaired,
    /// It is whole, and was.
    Whole,
    /// Every member was asked, and none has it whole, nor have all of them together.
    Lost,
    /// No member has ever heard of it.
    Unknown,
}

/// Makes a blob of one of this server's groups whole here. Fails where a member that may know more cannot be asked, and where
/// somebody else is bringing the blob.
pub async fn mend(node: &Arc<Node>, group: GroupId, blob: BlobId) -> Result<Mended, Error> {
    if is_whole(node, blob) {
        return Ok(Mended::Whole);
    }
    let peers = peers(node, group);
    let known = node.store.blob(blob).filter(|record| record.sealed);
    let mut sources = Sources::new(group, blob, &peers);
    for peer in &mut sources.peers {
        peer.give_whole(node, blob).await;
        if is_whole(node, blob) {
            return Ok(Mended::Repaired);
        }
    }
    match known {
        Some(record) => sources.assemble(node, &record).await,
        None => match sources.unavailable() {
            Some(error) => Err(error),
            None if sources.peers.iter().any(|peer| peer.has_damaged) => Ok(Mended::Lost),
            None => Ok(Mended::Unknown),
        },
    }
}

fn is_whole(node: &Node, blob: BlobId) -> bool {
    node.store.blob(blob).is_some_and(|record| record.sealed && !record.damaged)
}

/// The other members, and how each has answered.
struct Sources {
    group: GroupId,
    blob: BlobId,
    peers: Vec<Source>,
}

struct Source {
    client: Option<FileServerClient<Channel>>,
    /// Why it could not be asked.
    failed: Option<Error>,
    has_damaged: bool,
}

/// Whether the answer is that the server has no such copy, rather than none at all.
fn is_refusal(error: &Error) -> bool {
    let reasons = [Reason::ChecksumMismatch, Reason::VersionNotFound, Reason::OffsetOutOfRange];
    matches!(error, Error::Refused(failure) if reasons.contains(&failure.reason))
}

impl Source {
    fn note(&mut self, error: Error) {
        if !is_refusal(&error) {
            self.failed = Some(error);
        }
    }

    async fn give_whole(&mut self, node: &Arc<Node>, blob: BlobId) {
        let Some(client) = &mut self.client else { return };
        match Fetcher::new(node.clone()).fetch(client, &[blob]).await {
            Ok(unfetched) => {
                for (_, failure) in unfetched.refused {
                    self.has_damaged |= failure.reason == Reason::ChecksumMismatch;
                    self.note(Error::Refused(failure));
                }
            }
            Err(error) => self.note(error),
        }
    }
}

impl Sources {
    fn new(group: GroupId, blob: BlobId, peers: &[Peer]) -> Self {
        let source = |peer: &Peer| {
            let client = peer.client();
            Source { failed: client.is_none().then_some(Error::NotReady), client, has_damaged: false }
        };
        Self { group, blob, peers: peers.iter().map(source).collect() }
    }

    /// Why not all of them could be asked.
    fn unavailable(&mut self) -> Option<Error> {
        self.peers.iter_mut().find_map(|peer| peer.failed.take())
    }

    async fn assemble(&mut self, node: &Arc<Node>, record: &BlobRecord) -> Result<Mended, Error> {
        let fetcher = Fetcher::new(node.clone());
        let Some(incoming) = fetcher.begin(self.blob, read::info(record))? else { return Err(Error::NotReady) };
        let mut offset = 0;
        while offset < record.length {
            let data = match own(node, self.blob, offset).await {
                Some(data) => data,
                None => match self.piece(offset, record.length - offset).await {
                    Some(data) => data,
                    None => return self.unavailable().map_or(Ok(Mended::Lost), Err),
                },
            };
            let (length, checksum) = (data.len() as u64, crc32c(&data));
            node.store.append(self.blob, offset, data, checksum).await?;
            offset += length;
        }
        match fetcher.finish(incoming).await {
            Ok(()) if is_whole(node, self.blob) => Ok(Mended::Repaired),
            Ok(()) => Err(Error::NotReady),
            Err(error) => Err(error),
        }
    }

    /// Some bytes from the offset on, from the first member that has them.
    async fn piece(&mut self, offset: u64, length: u64) -> Option<Bytes> {
        let length = length.min(CHUNK_LENGTH_MAX as u64);
        let piece = Extent { group: self.group, blob: self.blob, blob_offset: offset, length };
        for peer in &mut self.peers {
            let Some(client) = &mut peer.client else { continue };
            match gather::read_some(client, &piece).await {
                Ok(data) => return Some(data),
                Err(error) => peer.note(error),
            }
        }
        None
    }
}

/// From the offset to the end of the chunk, where this server's own copy is good.
async fn own(node: &Node, blob: BlobId, offset: u64) -> Option<Bytes> {
    let chunk = node.store.read_chunk(blob, offset).await.ok()?;
    let begin = usize::try_from(offset.checked_sub(chunk.offset)?).ok()?;
    (begin < chunk.data.len()).then(|| chunk.data.slice(begin..))
}

/// Waits while others bring blobs of the group here.
async fn turn(node: &Node, group: GroupId) -> Result<leave::Turn<'_>, Failure> {
    let deadline = Instant::now() + TURN_PATIENCE;
    loop {
        if let Some(turn) = node.departures.take_turn(group) {
            return Ok(turn);
        }
        if Instant::now() >= deadline {
            let text = format!("blobs of group {group} are being brought here already");
            return Err(Failure::new(Reason::Unavailable, text));
        }
        tokio::time::sleep(TURN_INTERVAL).await;
    }
}

/// What `FileServer.RepairBlobs` answers of one blob.
pub async fn answer(node: &Arc<Node>, group: GroupId, blob: BlobId) -> Result<bool, Failure> {
    let _turn = turn(node, group).await?;
    // Of a group that this server left, nothing is brought back.
    if !leave::is_member(node, group) {
        let text = format_args!("{} is no member of group {group}", node.me);
        return Err(Failure::bad_argument("blobs.group", text));
    }
    match mend(node, group, blob).await? {
        Mended::Repaired => Ok(true),
        Mended::Whole => Ok(false),
        Mended::Lost => {
            let text = format!("no member of group {group} has blob {blob} whole: it is lost");
            Err(Failure::new(Reason::ChecksumMismatch, text))
        }
        Mended::Unknown => {
            Err(Failure::new(Reason::VersionNotFound, format!("no member of group {group} has blob {blob}")))
        }
    }
}
