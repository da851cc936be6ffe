//! The bytes of a committed version, from this server's own disk or from whoever has them.
//!
//! What a patch replaces and what a merge rewrites is read here. Every chunk is verified against its checksum, and a
//! damaged or missing copy sends the reader to the next server.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tonic::transport::Channel;

use crate::{
    convert,
    fileserver::{error::Error, node::Node},
    pb::{self, file_server_client::FileServerClient, lookup_file_request, read_response},
    serve,
    status::{Failure, Reason},
    types::{Extent, Path, crc32c, crc32c_combine},
};

/// For one chunk of a peer.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(5);

/// Which file.
#[derive(Clone, Debug)]
pub enum File {
    Path(Path),
    Inode(u64),
}

/// One version of a file, and who has its bytes.
pub struct Base {
    pub inode: u64,
    pub version: u64,
    pub path: String,
    pub size: u64,
    pub checksum: u32,
    pub extents: Vec<Extent>,
    /// By group: addresses of the in-sync members.
    addresses: BTreeMap<u32, Vec<String>>,
}

/// The newest version.
pub async fn look_up(node: &Node, file: &File) -> Result<Base, Error> {
    let file = match file {
        File::Path(path) => lookup_file_request::File::Path(path.to_string()),
        File::Inode(inode) => lookup_file_request::File::Inode(*inode),
    };
    let request = pb::LookupFileRequest { file: Some(file), version: 0, as_of: None };
    let answer = node.directory.answer(node.directory.directory()?.lookup_file(request)).await?;
    let entry = convert::required("entry", answer.entry).map_err(Error::Refused)?;
    let servers: BTreeMap<&str, &str> =
        answer.servers.iter().map(|server| (server.server_id.as_str(), server.address.as_str())).collect();
    let of_group = |group: &pb::Group| {
        let others = group.in_sync.iter().filter(|member| *member != node.me.as_str());
        let addresses = others.filter_map(|member| servers.get(member.as_str()).map(|address| (*address).to_owned()));
        (group.group, addresses.collect())
    };
    Ok(Base {
        inode: entry.inode,
        version: entry.version,
        path: entry.path,
        size: entry.size,
        checksum: entry.checksum,
        extents: convert::extents("extents", &answer.extents).map_err(Error::Refused)?,
        addresses: answer.groups.iter().map(of_group).collect(),
    })
}

/// The checksum of `length` bytes from `offset` on.
pub async fn checksum(node: &Node, base: &Base, offset: u64, length: u64) -> Result<u32, Error> {
    let mut checksum = 0;
    let mut reader = Reader::new(node, base, offset, length);
    while let Some(data) = reader.next().await? {
        checksum = crc32c_combine(checksum, crc32c(&data), data.len() as u64);
    }
    Ok(checksum)
}

/// Reads a range of a version, chunk by chunk.
pub struct Reader<'a> {
    node: &'a Node,
    base: &'a Base,
    /// What is still to be read, the last piece first.
    pieces: Vec<Extent>,
    /// The peer that answered last, with its address.
    peer: Option<(String, FileServerClient<Channel>)>,
}

impl<'a> Reader<'a> {
    pub fn new(node: &'a Node, base: &'a Base, offset: u64, length: u64) -> Self {
        let mut pieces = cut(&base.extents, offset, length);
        pieces.reverse();
        Self { node, base, pieces, peer: None }
    }

    /// The next bytes, at most a chunk; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(piece) = self.pieces.pop() else { return Ok(None) };
        let data = match self.own(&piece).await {
            Some(data) => data,
            None => self.of_a_peer(&piece).await?,
        };
        let read = data.len() as u64;
        if read < piece.length {
            self.pieces.push(Extent { blob_offset: piece.blob_offset + read, length: piece.length - read, ..piece });
        }
        Ok(Some(data))
    }

    async fn own(&self, piece: &Extent) -> Option<Bytes> {
        self.node.store.blob(piece.blob).filter(|record| record.sealed)?;
        match self.node.store.read_chunk(piece.blob, piece.blob_offset).await {
            Ok(chunk) => {
                let begin = usize::try_from(piece.blob_offset.checked_sub(chunk.offset)?).ok()?;
                let end = chunk.data.len().min(begin.saturating_add(usize::try_from(piece.length).ok()?));
                (begin < end).then(|| chunk.data.slice(begin..end))
            }
            Err(error) => {
                tracing::warn!(blob = %piece.blob, %error, "own copy cannot be read, asking a peer");
                None
            }
        }
    }

    async fn of_a_peer(&mut self, piece: &Extent) -> Result<Bytes, Error> {
        let mut last = "no in-sync member is known".to_owned();
        let known = self.base.addresses.get(&piece.group.0).into_iter().flatten();
        let again = self.peer.take();
        let again_address = again.as_ref().map(|(address, _)| address.clone());
        let addresses = again_address.iter().chain(known.filter(|address| Some(*address) != again_address.as_ref()));
        for address in addresses {
            let mut client = match &again {
                Some((known, client)) if known == address => client.clone(),
                _ => FileServerClient::new(serve::channel(address).map_err(|_| Error::NotReady)?),
            };
            match read_some(&mut client, piece).await {
                Ok(data) => {
                    self.peer = Some((address.clone(), client));
                    return Ok(data);
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(Error::NowhereToRead { blob: piece.blob, last })
    }
}

/// The first chunk of the piece.
pub async fn read_some(client: &mut FileServerClient<Channel>, piece: &Extent) -> Result<Bytes, Error> {
    // No more than one chunk is asked for: the pieces that follow may be nearer elsewhere.
    let length = piece.length.min(crate::types::CHUNK_LENGTH_MAX as u64);
    let range = pb::BlobRange { blob: piece.blob.to_string(), offset: piece.blob_offset, length };
    let read = async {
        let mut chunks = client.read(pb::ReadRequest { ranges: vec![range] }).await?.into_inner();
        match chunks.message().await?.and_then(|response| response.result) {
            Some(read_response::Result::Chunk(chunk)) => Ok(chunk),
            Some(read_response::Result::Error(error)) => Err(Error::Refused(Failure::from(error))),
            None => Err(Error::EndedEarly),
        }
    };
    let chunk = tokio::time::timeout(CHUNK_TIMEOUT, read).await.map_err(|_| Error::Idle(CHUNK_TIMEOUT))??;
    let fits = chunk.offset == piece.blob_offset && (1..=length).contains(&(chunk.data.len() as u64));
    if !fits || crc32c(&chunk.data) != chunk.checksum {
        return Err(Error::Refused(Failure::new(Reason::ChecksumMismatch, "a peer sent other bytes than asked for")));
    }
    Ok(chunk.data)
}

/// The extents of a range of a version.
fn cut(extents: &[Extent], offset: u64, length: u64) -> Vec<Extent> {
    let (mut skip, mut left) = (offset, length);
    let mut pieces = Vec::new();
    for extent in extents {
        if left == 0 {
            break;
        }
        if skip >= extent.length {
            skip -= extent.length;
            continue;
        }
        let taken = left.min(extent.length - skip);
        pieces.push(Extent { blob_offset: extent.blob_offset + skip, length: taken, ..*extent });
        left -= taken;
        skip = 0;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BlobId, GroupId};

    fn an_extent(blob: u8, blob_offset: u64, length: u64) -> Extent {
        Extent { group: GroupId(0), blob: BlobId::from_bytes([blob; 16]), blob_offset, length }
    }

    #[test]
    fn a_range_is_cut_out_of_the_extents() {
        let extents = [an_extent(1, 100, 10), an_extent(2, 0, 5), an_extent(3, 7, 20)];
        assert_eq!(cut(&extents, 0, 35), extents);
        assert_eq!(cut(&extents, 4, 3), [an_extent(1, 104, 3)]);
        assert_eq!(cut(&extents, 8, 10), [an_extent(1, 108, 2), an_extent(2, 0, 5), an_extent(3, 7, 3)]);
        assert_eq!(cut(&extents, 10, 5), [an_extent(2, 0, 5)]);
        assert_eq!(cut(&extents, 0, 0), []);
    }
}
