//! Writing: one stream to the primary, frame by frame with checksums, and again with the same write id where that helps.
//!
//! The primary is known from the cluster map. One that does not answer is reported to the Directory, which names another;
//! when the map names another while a write waits, the write moves there at once. The write id is made once for all of
//! that, so whichever try was committed, it was one. Time is counted by progress: a long write may take as long as it
//! moves.

use std::{
    convert::Infallible,
    pin::pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    fs::File,
    io::AsyncRead,
    sync::mpsc::{self, error::SendTimeoutError},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    Client, Error, Receipt,
    call::{attempt, cluster_client},
    channels::Purpose,
    convert,
    map::Target,
    retry::{Tries, jitter},
    source::Source,
};
use crate::{
    convert::{cluster::cluster_map, write_mode_to_pb},
    pb::{self, file_server_client::FileServerClient},
    status::{Reason, Retry},
    types::{GroupId, Inode, Path, Precondition, WriteId, WriteMode, crc32c, crc32c_combine},
};

/// Frames on their way into the connection.
const FRAMES_QUEUED_MAX: usize = 4;
/// For the primary to take a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time in which not one frame is taken, or no answer comes.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// A primary that is waited for as long is reported, in case it hangs.
const DOUBT_AFTER: Duration = Duration::from_secs(1);
const DOUBT_INTERVAL_MAX: Duration = Duration::from_secs(8);
/// For the Directory to decide whether a primary is gone.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How much further than before a try must come to count as progress: more than the connection's windows hold.
const PROGRESS_BYTES: u64 = 16 << 20;

/// What a write is to do, and what must hold for it.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    pub mode: WriteMode,
    /// A write that replaces or patches needs one; else [`Reason::LockRequired`].
    pub precondition: Precondition,
    /// The inode that the path must still name when the write is committed; `None`: any.
    pub base_inode: Option<Inode>,
    pub create_parents: bool,
    /// Permission bits of a file that this write creates; `None`: 0644.
    pub create_mode: Option<u32>,
    /// Names this write: the same id has the same result, for an hour. `None`: a fresh one.
    pub write_id: Option<WriteId>,
}

impl WriteOptions {
    fn new(mode: WriteMode, precondition: Precondition) -> Self {
        Self { mode, precondition, base_inode: None, create_parents: false, create_mode: None, write_id: None }
    }

    /// The data is the whole new content.
    pub fn replace(precondition: Precondition) -> Self {
        Self::new(WriteMode::Replace, precondition)
    }

    /// The data follows the present content, wherever that ends when it is committed.
    pub fn append() -> Self {
        Self::new(WriteMode::Append, Precondition::default())
    }

    /// The data replaces what is at the offset, and may reach past the end.
    pub fn patch(offset: u64, precondition: Precondition) -> Self {
        Self::new(WriteMode::Patch { offset }, precondition)
    }

    /// Missing directories above the file are made with it.
    pub fn create_parents(mut self) -> Self {
        self.create_parents = true;
        self
    }

    pub fn write_id(mut self, write_id: WriteId) -> Self {
        self.write_id = Some(write_id);
        self
    }
}

/// One logical write: the same for all its tries.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) path: Path,
    pub(super) write_id: WriteId,
    options: WriteOptions,
}

impl Write {
    pub(super) fn new(path: &Path, options: WriteOptions) -> Self {
        let write_id = options.write_id.unwrap_or_else(WriteId::random);
        Self { path: path.clone(), write_id, options }
    }

    fn begin(&self) -> pb::WriteBegin {
        let options = &self.options;
        let (mode, offset) = write_mode_to_pb(options.mode);
        pb::WriteBegin {
            path: self.path.to_string(),
            mode: mode.into(),
            offset,
            precondition: (!options.precondition.is_none()).then(|| options.precondition.into()),
            base_inode: options.base_inode.unwrap_or_default().0,
            create_parents: options.create_parents,
            create_mode: options.create_mode.unwrap_or_default(),
        }
    }

    /// The whole write in one message, for data that fits a frame.
    pub(super) fn whole(&self, data: Bytes) -> pb::WriteRequest {
        let mut total = Total::default();
        let data = (!data.is_empty()).then(|| total.frame(data));
        pb::WriteRequest {
            write_id: self.write_id.to_string(),
            begin: Some(self.begin()),
            data,
            end: Some(total.end()),
            cancel: false,
        }
    }

    /// The answer to this write, checked against what was sent where the two can be compared.
    pub(super) fn receipt(&self, response: pb::WriteResponse, total: Option<Total>) -> Result<Receipt, Error> {
        let receipt = match convert::required("result", response.result)? {
            pb::write_response::Result::Receipt(receipt) => convert::receipt(receipt)?,
            pb::write_response::Result::Error(error) => return Err(error.into()),
        };
        let whole = total.filter(|_| self.options.mode == WriteMode::Replace);
        if whole.is_some_and(|total| (total.length, total.checksum) != (receipt.size, receipt.checksum)) {
            let other = Error::new(Reason::ChecksumMismatch, "the receipt is for other bytes than were sent");
            // Something was committed.
            return Err(other.in_doubt());
        }
        Ok(receipt)
    }
}

/// What has been sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    length: u64,
    checksum: u32,
}

impl Total {
    pub(super) fn of(data: &[u8]) -> Self {
        Self { length: data.len() as u64, checksum: crc32c(data) }
    }

    fn frame(&mut self, data: Bytes) -> pb::WriteData {
        let checksum = crc32c(&data);
        self.checksum = crc32c_combine(self.checksum, checksum, data.len() as u64);
        self.length += data.len() as u64;
        pb::WriteData { data, checksum }
    }

    fn end(self) -> pb::WriteEnd {
        pb::WriteEnd { length: self.length, checksum: self.checksum }
    }
}

impl Client {
    /// Writes bytes that are in memory.
    pub async fn write_bytes(
        &self,
        path: &Path,
        options: WriteOptions,
        data: impl Into<Bytes>,
    ) -> Result<Receipt, Error> {
        self.run_write(&Write::new(path, options), &mut Source::memory(data.into())).await
    }

    /// Writes a local file from where it stands to its end. After a failure it is read again.
    pub async fn write_file(&self, path: &Path, options: WriteOptions, file: File) -> Result<Receipt, Error> {
        let mut source = Source::file(file).await.map_err(unreadable)?;
        self.run_write(&Write::new(path, options), &mut source).await
    }

    /// Writes what comes out of a pipe. A failure is final once more than 8 MiB have come out: they are not kept.
    pub async fn write(
        &self,
        path: &Path,
        options: WriteOptions,
        reader: impl AsyncRead + Send + Unpin,
    ) -> Result<Receipt, Error> {
        self.run_write(&Write::new(path, options), &mut Source::reader(reader)).await
    }

    pub(super) async fn run_write(&self, write: &Write, source: &mut Source<'_>) -> Result<Receipt, Error> {
        let mut tries = Tries::until(self.deadline());
        let mut furthest = 0;
        loop {
            let mut sent = 0;
            let (error, target) = match self.inner.map.view().primary(&write.path) {
                Ok((group, target)) => match self.try_write(write, source, group, &target, &mut sent).await {
                    Ok(receipt) => return Ok(receipt),
                    Err(error) => (error, Some(target)),
                },
                Err(error) => (error, None),
            };
            if sent >= furthest + PROGRESS_BYTES {
                furthest = sent;
                tries.renew(self.deadline());
            }
            let delay = tries.after(&error, Instant::now(), jitter());
            let error = tries.given_up(error);
            let Some(delay) = delay else { return Err(error) };
            if !source.is_repeatable() {
                return Err(error.during("too much has come out of the source to send it again"));
            }
            source.rewind().await.map_err(unreadable)?;
            tracing::debug!(path = %write.path, write_id = %write.write_id, %error, ?delay, "writing again");
            self.recover(&write.path, &error, target.as_ref(), delay).await;
        }
    }

    /// Waits for a reason to try again: another primary, or the time.
    pub(super) async fn recover(&self, path: &Path, error: &Error, target: Option<&Target>, delay: Duration) {
        let moved = |client: &Self| {
            let primary = client.inner.map.view().primary(path).ok();
            target.is_some() && primary.is_some_and(|(_, primary)| Some(&primary) != target)
        };
        if moved(self) {
            return;
        }
        match target {
            Some(target) if !error.is_answer() => self.report_suspect(target).await,
            // A server without space passes its lead on: the map says to whom.
            _ if error.is_answer() && error.reason().retry() == Retry::Later && error.reason() != Reason::NoSpace => {}
            _ => {
                if let Err(error) = self.refresh_map().await {
                    tracing::debug!(%error, "the cluster map could not be refreshed");
                }
            }
        }
        let another = self.inner.map.view().primary(path).ok().map(|(_, primary)| primary);
        if another.is_none() || another.as_ref() == target {
            tokio::time::sleep(delay).await;
        }
    }

    /// Tells the Directory that a server did not answer; its decision comes back as a map.
    async fn report_suspect(&self, target: &Target) {
        let request = pb::ReportSuspectRequest { suspect_id: target.server.to_string(), ..Default::default() };
        let reported = async {
            let call = |channel, request| async move { cluster_client(channel).report_suspect(request).await };
            let (directory, deadline) = (self.directory_service(), Instant::now() + REPORT_TIMEOUT);
            let answer = directory.call("report a suspect", deadline, Purpose::Control, request, call).await?;
            let map = convert::required("cluster_map", answer.cluster_map)?;
            self.inner.map.offer(cluster_map(&map).map_err(convert::unread)?)?;
            Ok::<_, Error>(())
        };
        if let Err(error) = reported.await {
            tracing::debug!(server = %target.server, %error, "the suspect could not be reported");
        }
    }

    /// Reports a primary that is waited for, again and again: should it hang, the Directory names another.
    pub(super) async fn doubt(&self, target: &Target) -> Infallible {
        let mut wait = DOUBT_AFTER;
        loop {
            tokio::time::sleep(wait).await;
            self.report_suspect(target).await;
            wait = (wait * 2).min(DOUBT_INTERVAL_MAX);
        }
    }

    /// One try, at one primary. `sent` tells how far it came.
    async fn try_write(
        &self,
        write: &Write,
        source: &mut Source<'_>,
        group: GroupId,
        target: &Target,
        sent: &mut u64,
    ) -> Result<Receipt, Error> {
        let silence = SILENCE_MAX.min(self.timeout);
        let (requests, receiver) = mpsc::channel(FRAMES_QUEUED_MAX);
        let client = FileServerClient::new(self.inner.channels.get(&target.address, Purpose::Bulk)?);
        let mut answer = pin!(answer(client, receiver, write.write_id));
        // The stream opens with its first message and may be answered before its last, so the two go side by side.
        let always_repeatable = source.is_always_repeatable();
        let (total, repeatable) = tokio::select! {
            response = &mut answer => return write.receipt(response?, None),
            all = send(write, source, requests, silence, sent) => all?,
            () = self.inner.map.primary_moved(group, &target.server), if always_repeatable => return Err(moved()),
            never = self.doubt(target) => match never {},
        };
        let response = tokio::select! {
            response = tokio::time::timeout(silence, answer) => {
                response.map_err(|_| Error::silence(silence, "wait for the receipt"))??
            }
            () = self.inner.map.primary_moved(group, &target.server), if repeatable => return Err(moved()),
            never = self.doubt(target) => match never {},
        };
        write.receipt(response, Some(total))
    }
}

fn moved() -> Error {
    Error::new(Reason::NotLeader, "the group has another primary now").in_doubt()
}

/// Opens the stream and waits for what it says about this write.
async fn answer(
    mut client: FileServerClient<Channel>,
    requests: mpsc::Receiver<pb::WriteRequest>,
    write_id: WriteId,
) -> Result<pb::WriteResponse, Error> {
    let requests = ReceiverStream::new(requests);
    let call = |requests| async move { client.write(requests).await };
    let mut responses = attempt("open the write", OPEN_TIMEOUT, requests, call).await?;
    let write_id = write_id.to_string();
    while let Some(response) = responses.message().await? {
        if response.write_id == write_id {
            return Ok(response);
        }
    }
    Err(Error::unreachable("the primary ended the write without an answer"))
}

/// Sends all of the source; answers what that was, and whether it could be sent again.
async fn send(
    write: &Write,
    source: &mut Source<'_>,
    requests: mpsc::Sender<pb::WriteRequest>,
    silence: Duration,
    sent: &mut u64,
) -> Result<(Total, bool), Error> {
    let mut total = Total::default();
    let mut begin = Some(write.begin());
    let mut frame = source.next().await.map_err(unreadable)?;
    loop {
        let following = match &frame {
            Some(_) => source.next().await.map_err(unreadable)?,
            None => None,
        };
        let data = frame.map(|frame| total.frame(frame));
        let end = following.is_none().then(|| total.end());
        let last = end.is_some();
        let request =
            pb::WriteRequest { write_id: write.write_id.to_string(), begin: begin.take(), data, end, cancel: false };
        match requests.send_timeout(request, silence).await {
            Ok(()) => *sent = total.length,
            Err(SendTimeoutError::Timeout(_)) => return Err(Error::silence(silence, "send a frame")),
            // The stream is over, and what it answers says why.
            Err(SendTimeoutError::Closed(_)) => std::future::pending().await,
        }
        if last {
            return Ok((total, source.is_repeatable()));
        }
        frame = following;
    }
}

/// The local side cannot be read: nobody's fault but its own, and no retry helps.
fn unreadable(error: std::io::Error) -> Error {
    Error::new(Reason::Internal, format_args!("read what is to be written: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::source::FRAME_BYTES, status::Failure, types::Version};

    fn a_write(options: WriteOptions) -> Write {
        Write::new(&"/a".parse().unwrap(), options)
    }

    fn some_receipt(write: &Write, size: u64, checksum: u32) -> pb::WriteResponse {
        let receipt = pb::WriteReceipt { path: "/a".into(), version: 1, size, checksum, ..Default::default() };
        let result = Some(pb::write_response::Result::Receipt(receipt));
        pb::WriteResponse { write_id: write.write_id.to_string(), result }
    }

    async fn sent_requests(data: &[u8]) -> Vec<pb::WriteRequest> {
        let write = a_write(WriteOptions::append());
        let (requests, mut receiver) = mpsc::channel(64);
        let mut sent = 0;
        let silence = Duration::from_secs(1);
        let mut source = Source::memory(Bytes::copy_from_slice(data));
        let (total, repeatable) = send(&write, &mut source, requests, silence, &mut sent).await.unwrap();
        assert!(repeatable);
        assert_eq!(total, Total { length: data.len() as u64, checksum: crc32c(data) });
        let mut all = Vec::new();
        while let Some(request) = receiver.recv().await {
            all.push(request);
        }
        all
    }

    #[tokio::test]
    async fn what_fits_a_frame_is_one_message_and_the_same_as_in_bulk() {
        let whole = sent_requests(b"abc").await;
        assert_eq!(whole.len(), 1);
        let write = a_write(WriteOptions::append());
        let bulk = write.whole(Bytes::from_static(b"abc"));
        assert_eq!((&whole[0].data, &whole[0].end, &whole[0].begin), (&bulk.data, &bulk.end, &bulk.begin));
        let empty = sent_requests(b"").await;
        assert_eq!((empty.len(), &empty[0].data), (1, &None));
        assert_eq!(empty[0].end, Some(pb::WriteEnd { length: 0, checksum: 0 }));
    }

    #[tokio::test]
    async fn a_long_write_begins_once_and_ends_once() {
        let data = vec![7; 3 * FRAME_BYTES];
        let requests = sent_requests(&data).await;
        assert_eq!(requests.len(), 3);
        assert_eq!(requests.iter().filter(|request| request.begin.is_some()).count(), 1);
        assert!(requests[0].begin.is_some() && requests[2].end.is_some());
        assert_eq!(requests.iter().filter(|request| request.end.is_some()).count(), 1);
    }

    #[test]
    fn a_write_keeps_its_id_and_another_has_another() {
        let id = WriteId::random();
        assert_eq!(a_write(WriteOptions::append().write_id(id)).write_id, id);
        assert_ne!(a_write(WriteOptions::append()).write_id, a_write(WriteOptions::append()).write_id);
    }

    #[test]
    fn a_receipt_for_other_bytes_is_refused() {
        let write = a_write(WriteOptions::replace(Precondition::default()));
        let total = Some(Total { length: 3, checksum: 9 });
        assert_eq!(write.receipt(some_receipt(&write, 3, 9), total).unwrap().version, Version(1));
        let other = write.receipt(some_receipt(&write, 3, 8), total).unwrap_err();
        assert_eq!(other.reason(), Reason::ChecksumMismatch);
        // The whole after an append is not what was sent.
        let append = a_write(WriteOptions::append());
        assert!(append.receipt(some_receipt(&append, 30, 8), total).is_ok());
    }

    #[test]
    fn a_refused_write_says_why() {
        let write = a_write(WriteOptions::append());
        let refused = pb::ErrorStatus::from(Failure::new(Reason::FencingTokenStale, "").with("current", 7));
        let result = Some(pb::write_response::Result::Error(refused));
        let error = write.receipt(pb::WriteResponse { write_id: String::new(), result }, None).unwrap_err();
        assert_eq!((error.reason(), error.metadata("current")), (Reason::FencingTokenStale, Some("7")));
    }
}
