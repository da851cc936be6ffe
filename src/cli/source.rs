//! Where the bytes of a write come from: the command line, a file, a pipe, or lines typed in the shell.

use std::{
    fs::File,
    io::{IsTerminal, Seek},
    os::fd::AsFd,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use super::{
    context::Context,
    error::{Error, Result},
    progress::Bar,
};
use crate::{
    client::{Client, Receipt, WriteOptions},
    types::Path as RemotePath,
};

/// How often the bar of a file's transfer is moved.
const FOLLOW: Duration = Duration::from_millis(200);

/// Where the data comes from, as flags.
#[derive(Debug, Default, clap::Args)]
pub struct SourceArguments {
    /// This file of this machine; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    from: Option<PathBuf>,
    /// This text, and nothing after it
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

/// The data, as far as it is known before the lock is held.
pub enum Source {
    Bytes(Bytes),
    /// Can be read again from where it stands, so a failed attempt is repeated whatever its length.
    File {
        file: File,
        length: u64,
    },
    /// Read once, to its end.
    Pipe(Box<dyn AsyncRead + Send + Unpin>),
    /// Lines of the shell, typed when the lock is held.
    Typed,
}

impl SourceArguments {
    pub fn open(&self, context: &mut Context) -> Result<Source> {
        if let Some(text) = &self.text {
            return Ok(Source::Bytes(Bytes::from(text.clone())));
        }
        match self.from.as_deref() {
            None if context.lines.is_some() => Ok(Source::Typed),
            Some(path) if path != Path::new("-") => open_file(path),
            Some(_) if context.lines.is_some() => Ok(Source::Typed),
            None | Some(_) => {
                if std::io::stdin().is_terminal() {
                    context.output.say("type the content; Ctrl-D ends it")?;
                }
                standard_input()
            }
        }
    }
}

fn open_file(path: &Path) -> Result<Source> {
    let file = File::open(path).map_err(Error::local_file(path))?;
    let metadata = file.metadata().map_err(Error::local_file(path))?;
    if metadata.is_dir() {
        return Err(Error::Usage(format!("{} is a directory; `put -r` copies trees", path.display())));
    }
    // Of a named pipe or a device there is only one reading.
    if metadata.is_file() {
        Ok(Source::File { file, length: metadata.len() })
    } else {
        Ok(Source::Pipe(Box::new(tokio::fs::File::from_std(file))))
    }
}

/// A file that was redirected is as good as one that was named.
fn standard_input() -> Result<Source> {
    let pipe = || Source::Pipe(Box::new(tokio::io::stdin()));
    let what = "standard input";
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(pipe());
    }
    let mut file = File::from(stdin.as_fd().try_clone_to_owned().map_err(Error::local(what))?);
    let metadata = file.metadata().map_err(Error::local(what))?;
    if !metadata.is_file() {
        return Ok(pipe());
    }
    let position = file.stream_position().map_err(Error::local(what))?;
    Ok(Source::File { file, length: metadata.len().saturating_sub(position) })
}

impl Source {
    /// How many bytes there are, if that is known before they are read.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::File { length, .. } => Some(*length),
            Self::Pipe(_) | Self::Typed => None,
        }
    }

    /// Sends it all as one write.
    pub async fn send(self, client: &Client, path: &RemotePath, options: WriteOptions, bar: &Bar) -> Result<Receipt> {
        match self {
            Self::Bytes(bytes) => Ok(client.write_bytes(path, options, bytes).await?),
            Self::File { file, .. } => send_file(client, path, options, file, bar).await,
            Self::Pipe(pipe) => Ok(client.write(path, options, Counted { pipe, bar }).await?),
            Self::Typed => Err(Error::Here("there is nobody to type".to_owned())),
        }
    }
}

/// The bar follows the position of the open file, which its clones share: a repeated attempt moves it back.
async fn send_file(
    client: &Client,
    path: &RemotePath,
    options: WriteOptions,
    file: File,
    bar: &Bar,
) -> Result<Receipt> {
    let mut position = file.try_clone().map_err(Error::local("the file to write"))?;
    let begin = position.stream_position().map_err(Error::local("the file to write"))?;
    let write = client.write_file(path, options, tokio::fs::File::from_std(file));
    tokio::pin!(write);
    let mut follow = tokio::time::interval(FOLLOW);
    loop {
        tokio::select! {
            receipt = &mut write => return Ok(receipt?),
            _ = follow.tick() => {
                if let Ok(now) = position.stream_position() {
                    bar.set(now.saturating_sub(begin));
                }
            }
        }
    }
}

/// Moves the bar by what is read.
struct Counted<'a> {
    pipe: Box<dyn AsyncRead + Send + Unpin>,
    bar: &'a Bar,
}

impl AsyncRead for Counted<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(task, buffer))?;
        self.bar.advance((buffer.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}
