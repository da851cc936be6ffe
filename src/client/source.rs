//! What a write sends, frame by frame, and whether it can be sent once more.
//!
//! Bytes in memory and files can always be sent again. A pipe can while all that came out of it is still kept, which is
//! bounded: beyond the bound a failure is final.

use std::io::{Error as IoError, ErrorKind, SeekFrom};

use bytes::{Bytes, BytesMut};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncSeekExt},
    sync::mpsc,
};

/// The measured best size of a data frame.
pub(super) const FRAME_BYTES: usize = 256 << 10;
/// How much of a pipe is kept for another try.
pub(super) const KEPT_BYTES_MAX: usize = 8 << 20;

/// What a [`super::Writer`] hands over.
#[derive(Debug)]
pub(super) enum Pushed {
    Data(Bytes),
    /// All is there. Without it the write is given up.
    End,
}

enum Origin<'a> {
    Memory { data: Bytes, sent: usize },
    File { file: File, start: u64 },
    Reader(Box<dyn AsyncRead + Send + Unpin + 'a>),
    Pushed { pieces: mpsc::Receiver<Pushed>, rest: Bytes },
}

pub(super) struct Source<'a> {
    origin: Origin<'a>,
    /// Of the frame that is being read; here, so that a read that is given up loses nothing.
    partial: BytesMut,
    ended: bool,
    /// The frames a pipe has given, while they fit.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Of those kept, how many this try has sent.
    replayed: usize,
    forgotten: bool,
}

impl<'a> Source<'a> {
    pub(super) fn memory(data: Bytes) -> Self {
        Self::new(Origin::Memory { data, sent: 0 })
    }

    /// From where the file now stands to its end.
    pub(super) async fn file(mut file: File) -> std::io::Result<Self> {
        let start = file.stream_position().await?;
        Ok(Self::new(Origin::File { file, start }))
    }

    pub(super) fn reader(reader: impl AsyncRead + Send + Unpin + 'a) -> Self {
        Self::new(Origin::Reader(Box::new(reader)))
    }

    pub(super) fn pushed(pieces: mpsc::Receiver<Pushed>) -> Self {
        Self::new(Origin::Pushed { pieces, rest: Bytes::new() })
    }

    fn new(origin: Origin<'a>) -> Self {
        let (partial, kept) = (BytesMut::new(), Vec::new());
        Self { origin, partial, ended: false, kept, kept_bytes: 0, replayed: 0, forgotten: false }
    }

    /// The next frame, full but for the last; `None` at the end. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        if let Some(frame) = self.kept.get(self.replayed) {
            self.replayed += 1;
            return Ok(Some(frame.clone()));
        }
        if self.ended {
            return Ok(None);
        }
        let frame = self.read_frame().await?;
        match &frame {
            Some(frame) => self.keep(frame),
            None => self.ended = true,
        }
        Ok(frame)
    }

    async fn read_frame(&mut self) -> std::io::Result<Option<Bytes>> {
        match &mut self.origin {
            Origin::Memory { data, sent } => {
                let end = data.len().min(*sent + FRAME_BYTES);
                let frame = data.slice(*sent..end);
                *sent = end;
                Ok((!frame.is_empty()).then_some(frame))
            }
            Origin::File { file, .. } => fill(file, &mut self.partial).await,
            Origin::Reader(reader) => fill(reader, &mut self.partial).await,
            Origin::Pushed { pieces, rest } => {
                while rest.is_empty() {
                    match pieces.recv().await {
                        Some(Pushed::Data(data)) => *rest = data,
                        Some(Pushed::End) => return Ok(None),
                        None => {
                            return Err(IoError::new(ErrorKind::UnexpectedEof, "the writer was dropped unfinished"));
                        }
                    }
                }
                Ok(Some(rest.split_to(rest.len().min(FRAME_BYTES))))
            }
        }
    }

    fn keep(&mut self, frame: &Bytes) {
        let once = matches!(self.origin, Origin::Reader(_) | Origin::Pushed { .. });
        if !once || self.forgotten {
            return;
        }
        self.kept_bytes += frame.len();
        if self.kept_bytes > KEPT_BYTES_MAX {
            self.forgotten = true;
            self.kept = Vec::new();
            self.replayed = 0;
        } else {
            self.kept.push(frame.clone());
            self.replayed = self.kept.len();
        }
    }

    /// Whether all of it could be sent again.
    pub(super) fn is_repeatable(&self) -> bool {
        !self.forgotten
    }

    /// Whether it can be sent again however much of it has come out.
    pub(super) fn is_always_repeatable(&self) -> bool {
        matches!(self.origin, Origin::Memory { .. } | Origin::File { .. })
    }

    /// Back to the beginning; only for what [`Source::is_repeatable`].
    pub(super) async fn rewind(&mut self) -> std::io::Result<()> {
        match &mut self.origin {
            Origin::Memory { sent, .. } => {
                *sent = 0;
                self.ended = false;
            }
            Origin::File { file, start } => {
                file.seek(SeekFrom::Start(*start)).await?;
                self.partial.clear();
                self.ended = false;
            }
            Origin::Reader(_) | Origin::Pushed { .. } => self.replayed = 0,
        }
        Ok(())
    }
}

async fn fill(reader: &mut (impl AsyncRead + Unpin), partial: &mut BytesMut) -> std::io::Result<Option<Bytes>> {
    partial.reserve(FRAME_BYTES - partial.len());
    while partial.len() < FRAME_BYTES {
        // Never past the frame, whatever the buffer has room for.
        let room = (FRAME_BYTES - partial.len()) as u64;
        if (&mut *reader).take(room).read_buf(partial).await? == 0 {
            break;
        }
    }
    Ok((!partial.is_empty()).then(|| partial.split().freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn drain(source: &mut Source<'_>) -> Vec<Bytes> {
        let mut frames = Vec::new();
        while let Some(frame) = source.next().await.unwrap() {
            frames.push(frame);
        }
        frames
    }

    fn some_bytes(length: usize) -> Bytes {
        (0..length).map(|at| (at / 7) as u8).collect()
    }

    #[tokio::test]
    async fn frames_are_full_but_for_the_last() {
        for length in [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES + 5] {
            let data = some_bytes(length);
            let (sender, pieces) = mpsc::channel(8);
            sender.send(Pushed::Data(data.clone())).await.unwrap();
            sender.send(Pushed::End).await.unwrap();
            let in_memory = drain(&mut Source::memory(data.clone())).await;
            assert_eq!(in_memory.concat(), data);
            assert_eq!(in_memory.len(), length.div_ceil(FRAME_BYTES));
            assert_eq!(drain(&mut Source::reader(&data[..])).await, in_memory);
            assert_eq!(drain(&mut Source::pushed(pieces)).await, in_memory);
        }
    }

    #[tokio::test]
    async fn what_fits_the_bound_can_be_sent_again_from_any_point() {
        let data = some_bytes(2 * FRAME_BYTES + 9);
        for mut source in [Source::memory(data.clone()), Source::reader(&data[..])] {
            for frames in 0..4 {
                for _ in 0..frames {
                    source.next().await.unwrap();
                }
                assert!(source.is_repeatable());
                source.rewind().await.unwrap();
            }
            assert_eq!(drain(&mut source).await.concat(), data);
        }
    }

    #[tokio::test]
    async fn a_file_is_sent_from_where_it_stands_each_time() {
        let data = some_bytes(FRAME_BYTES + 100);
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &data).unwrap();
        std::io::Seek::seek(&mut file, SeekFrom::Start(50)).unwrap();
        let mut source = Source::file(File::from_std(file)).await.unwrap();
        for _ in 0..2 {
            assert_eq!(drain(&mut source).await.concat(), data[50..]);
            source.rewind().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_pipe_beyond_the_bound_is_not_kept_and_loses_nothing() {
        let data = some_bytes(KEPT_BYTES_MAX + 2 * FRAME_BYTES + 1);
        let mut source = Source::reader(&data[..]);
        assert_eq!(drain(&mut source).await.concat(), data);
        assert!(!source.is_repeatable());
        assert!(source.kept.is_empty());
    }

    #[tokio::test]
    async fn a_read_that_is_given_up_loses_nothing() {
        let (mut write, read) = tokio::io::duplex(64);
        let mut source = Source::reader(read);
        tokio::io::AsyncWriteExt::write_all(&mut write, b"first ").await.unwrap();
        assert!(futures::FutureExt::now_or_never(source.next()).is_none());
        tokio::io::AsyncWriteExt::write_all(&mut write, b"second").await.unwrap();
        drop(write);
        assert_eq!(drain(&mut source).await.concat(), b"first second");
    }

    #[tokio::test]
    async fn a_writer_that_vanishes_is_no_end() {
        let (sender, pieces) = mpsc::channel(1);
        drop(sender);
        assert!(Source::pushed(pieces).next().await.is_err());
    }
}
