//! Brings the data of one write to the disks as it arrives: into this server's store, and on to the members that a commit
//! will wait for, at the same time.
//!
//! A member that cannot be reached now is not waited for here: it gets the blob from this server's log when it is back, or
//! leaves the in-sync set. One that is slow slows the write down.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{Frame, Intent, copying::Copying};
use crate::{
    fileserver::{
        error::Error,
        in_flight::Attempt,
        node::Node,
        replication::{Memory, Progress, sender::Connection},
        settle,
        store::Staged,
    },
    pb::{self, replicate_request::Message as Request},
    types::{BlobId, CHUNK_LENGTH_MAX, GroupId, Inode, ServerId, Timestamp, Version, crc32c, crc32c_combine},
};

/// A client that sends nothing of a write that it has begun for so long has given it up.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// One blob of the write, as far as it has come.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub blob: BlobId,
    pub length: u64,
    pub checksum: u32,
}

/// A write whose data is being brought to the disks, or is there.
pub struct Staging {
    pub node: Arc<Node>,
    pub intent: Intent,
    pub group: GroupId,
    pub progress: Arc<Progress>,
    /// The Directory's time when the write began.
    pub begin_time: Timestamp,
    /// In file order.
    pub pieces: Vec<Piece>,
    pub length: u64,
    pub checksum: u32,
    /// Blobs that are being made durable here. An error is the end of the write.
    pub seals: JoinSet<Result<(), Error>>,
    attempt: Attempt,
    /// The members that the open blob goes to.
    connections: Vec<Connection>,
    /// Everyone who was sent anything.
    told: BTreeSet<ServerId>,
    is_open: bool,
}

impl Staging {
    pub fn new(node: Arc<Node>, intent: Intent) -> Result<Self, Error> {
        let view = node.map.now();
        let group = view.group_of(&intent.path)?;
        view.led_by(group, &node.me)?;
        let begin_time = node.directory_now();
        if begin_time == Timestamp(0) {
            return Err(Error::NotReady);
        }
        let attempt = node.in_flight.begin(intent.write_id, group, std::time::Instant::now());
        let progress = Arc::new(Progress::new(node.me.clone()));
        Ok(Self {
            node,
            intent,
            group,
            progress,
            begin_time,
            pieces: Vec::new(),
            length: 0,
            checksum: 0,
            seals: JoinSet::new(),
            attempt,
            connections: Vec::new(),
            told: BTreeSet::new(),
            is_open: false,
        })
    }

    /// Takes the data until the write's end, and sees to the copies of what is complete meanwhile.
    pub async fn stage(&mut self, mut frames: mpsc::Receiver<Frame>, copying: &mut Copying) -> Result<(), Error> {
        let superseded = self.attempt.superseded().clone();
        let mut idle_at = Instant::now() + IDLE_TIMEOUT;
        loop {
            let frame = tokio::select! {
                biased;
                () = superseded.cancelled() => return Err(Error::Superseded),
                // Before the data: while frames are always there, refused copies are still tried again.
                changed = copying.changed(self) => {
                    changed?;
                    copying.act(self)?;
                    continue;
                }
                frame = frames.recv() => frame,
                () = sleep_until(idle_at) => return Err(Error::Idle(IDLE_TIMEOUT)),
            };
            idle_at = Instant::now() + IDLE_TIMEOUT;
            match frame {
                None => return Err(Error::EndedEarly),
                Some(Frame::GivenUp(error)) => return Err(error),
                Some(Frame::Data { data, checksum, memory }) => self.data(data, checksum, memory).await?,
                Some(Frame::End { length, checksum }) => return self.end(length, checksum).await,
            }
        }
    }

    async fn end(&mut self, length: u64, checksum: u32) -> Result<(), Error> {
        if length != self.length {
            return Err(Error::WriteLength { said: length, found: self.length });
        }
        if checksum != self.checksum {
            return Err(Error::WriteChecksum);
        }
        self.seal().await;
        self.progress.complete();
        Ok(())
    }

    /// Takes data into the write. A frame that crosses the limit of a blob is split there.
    pub async fn data(&mut self, data: Bytes, checksum: u32, memory: Memory) -> Result<(), Error> {
        if data.len() > CHUNK_LENGTH_MAX {
            return Err(Error::FrameTooLong { length: data.len() });
        }
        if crc32c(&data) != checksum {
            return Err(Error::FrameChecksum);
        }
        self.checksum = crc32c_combine(self.checksum, checksum, data.len() as u64);
        self.length += data.len() as u64;
        let room = self.node.blob_bytes_max - self.open_piece().map_or(0, |piece| piece.length);
        if data.len() as u64 <= room {
            return self.chunk(data, checksum, &memory).await;
        }
        let mut first = data;
        let second = first.split_off(room as usize);
        let (first_checksum, second_checksum) = (crc32c(&first), crc32c(&second));
        self.chunk(first, first_checksum, &memory).await?;
        self.chunk(second, second_checksum, &memory).await
    }

    fn open_piece(&self) -> Option<&Piece> {
        self.pieces.last().filter(|_| self.is_open)
    }

    async fn chunk(&mut self, data: Bytes, checksum: u32, memory: &Memory) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        if !self.is_open {
            self.open_blob().await?;
        }
        let Some(piece) = self.pieces.last_mut() else { return Err(Error::NotBegun) };
        let (blob, offset, length) = (piece.blob, piece.length, data.len() as u64);
        piece.checksum = crc32c_combine(piece.checksum, checksum, length);
        piece.length += length;
        let is_full = piece.length == self.node.blob_bytes_max;

        let message = pb::ReplicateChunk { blob: blob.to_string(), offset, data: data.clone(), checksum };
        let sends = self
            .connections
            .iter()
            .map(|connection| connection.send(Request::Chunk(message.clone()), Some(memory.clone())));
        let (appended, _lost) = tokio::join!(self.node.store.append(blob, offset, data, checksum), join_all(sends));
        appended?;
        if is_full {
            self.seal().await;
        }
        Ok(())
    }

    /// Begins a blob here, and at the members that a commit would wait for now.
    async fn open_blob(&mut self) -> Result<(), Error> {
        let view = self.node.map.now();
        let group = view.led_by(self.group, &self.node.me)?;
        let blob = BlobId::random();
        self.attempt.hold(blob);
        self.node.store.begin(self.group, self.intent.write_id, blob)?;
        self.pieces.push(Piece { blob, length: 0, checksum: 0 });
        self.is_open = true;
        self.progress.add(blob);
        self.progress.sending(blob, self.node.me.clone());

        let begin = pb::ReplicateBegin {
            group: self.group.0,
            epoch: group.epoch.0,
            write_id: self.intent.write_id.to_string(),
            blob: blob.to_string(),
            ask: false,
        };
        self.connections.clear();
        for member in group.required().filter(|member| **member != self.node.me) {
            let Some(connection) = self.node.peers.connection(member, self.intent.write_id) else { continue };
            self.progress.sending(blob, member.clone());
            if connection.follow(blob, &self.progress, None) {
                self.told.insert(member.clone());
                connection.send(Request::Begin(begin.clone()), None).await;
                self.connections.push(connection);
            } else {
                self.progress.lost(blob, member);
            }
        }
        Ok(())
    }

    /// The open blob is complete: has it made durable everywhere. The next chunk opens another.
    pub async fn seal(&mut self) {
        let Some(piece) = self.open_piece().copied() else { return };
        self.is_open = false;
        let seal = pb::ReplicateSeal { blob: piece.blob.to_string(), length: piece.length, checksum: piece.checksum };
        for connection in &self.connections {
            connection.send(Request::Seal(seal.clone()), None).await;
        }
        let (node, progress) = (self.node.clone(), self.progress.clone());
        self.seals.spawn(async move {
            node.store.seal(piece.blob, piece.length, piece.checksum).await?;
            progress.durable(piece.blob, node.me.clone());
            Ok(())
        });
    }

    /// Another member is sent a blob of this write.
    pub fn tells(&mut self, member: ServerId) {
        self.told.insert(member);
    }

    /// Records the version at the blobs that belong to it, here and at the members; the others are discarded.
    pub async fn publish(self, (inode, version): (Inode, Version), owned: &[String]) {
        let path = self.intent.path.to_string();
        for piece in &self.pieces {
            let blob = piece.blob.to_string();
            if !owned.contains(&blob) {
                self.discard_one(piece.blob).await;
                continue;
            }
            let publish = pb::ReplicatePublish {
                blob,
                write_id: self.intent.write_id.to_string(),
                inode: inode.0,
                version: version.0,
                path: path.clone(),
            };
            self.tell_all(piece.blob, &Request::Publish(publish)).await;
            if let Err(error) = self.node.store.publish(piece.blob, inode, version).await {
                tracing::warn!(blob = %piece.blob, %error, "version of a blob not recorded; settling will");
            }
        }
    }

    /// Throws the blobs away, here and at the members; those that do not hear of it now learn it from the Directory.
    pub async fn discard(mut self) {
        self.seals.shutdown().await;
        for piece in &self.pieces {
            self.discard_one(piece.blob).await;
        }
        if self.progress.was_interrupted() && !self.pieces.is_empty() {
            let (group, write_id) = (self.group, self.intent.write_id);
            let blobs: Vec<Staged> =
                self.pieces.iter().map(|piece| Staged { group, write_id, blob: piece.blob }).collect();
            settle::abandon(&self.node, &blobs).await;
        }
    }

    /// Neither publishes nor discards: settling will find out.
    pub fn leave(self) {
        for piece in &self.pieces {
            for connection in self.told_connections() {
                connection.unfollow(piece.blob);
            }
        }
    }

    async fn discard_one(&self, blob: BlobId) {
        self.tell_all(blob, &Request::Discard(pb::ReplicateDiscard { blob: blob.to_string() })).await;
        self.node.discard(blob).await;
    }

    async fn tell_all(&self, blob: BlobId, message: &Request) {
        for connection in self.told_connections() {
            connection.unfollow(blob);
            connection.send(message.clone(), None).await;
        }
    }

    fn told_connections(&self) -> impl Iterator<Item = Connection> {
        self.told.iter().filter_map(|member| self.node.peers.connection(member, self.intent.write_id))
    }
}
