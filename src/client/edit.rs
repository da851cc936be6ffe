//! Read, change, write: with nothing lost in between.

use std::time::Duration;

use bytes::Bytes;

use super::{Client, Error, ReadOptions, Receipt, Session, SessionOptions, WriteOptions};
use crate::{
    status::{Reason, Retry},
    types::{LockMode, Path, Version},
};

/// A file that is edited is held in memory whole.
const EDIT_BYTES_MAX: u64 = 64 << 20;
/// Rounds when somebody keeps writing without the lock.
const ROUNDS_MAX: u32 = 8;

/// How an edit locks and writes.
#[derive(Clone, Debug, Default)]
pub struct EditOptions {
    pub session: SessionOptions,
    /// How long to wait for the lock; `None`: as long as it takes.
    pub wait: Option<Duration>,
    /// Missing directories above a new file are made with it.
    pub create_parents: bool,
}

impl Client {
    /// Replaces a file's content by what `change` makes of it, under the file's lock and only if it is still the version
    /// that was read: the lock keeps out those who lock, the version everyone else.
    ///
    /// `change` is given the present content and version; version 0, and no bytes, of a file that does not exist. It is
    /// called again, with what is there then, when somebody wrote without the lock in between. Its error ends the edit.
    ///
    /// ```no_run
    /// # async fn example(client: dfs::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let path = "/counter".parse()?;
    /// let receipt = client
    ///     .edit(&path, Default::default(), |content, _version| async move {
    ///         let count: u64 = std::str::from_utf8(&content).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    ///         Ok((count + 1).to_string().into())
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn edit<F, Fut>(&self, path: &Path, options: EditOptions, change: F) -> Result<Receipt, Error>
    where
        F: FnMut(Bytes, Version) -> Fut,
        Fut: Future<Output = Result<Bytes, Error>>,
    {
        let session = self.open_session(options.session.clone()).await?;
        let edited = self.edit_in(&session, path, &options, change).await;
        if edited.as_ref().is_err_and(Error::may_have_taken_effect) {
            // A write that may still be under way must not meet a successor: the lease runs out, and that fences it.
            return edited;
        }
        if let Err(error) = session.close().await {
            tracing::debug!(%path, %error, "the session of an edit is left to expire");
        }
        edited
    }

    async fn edit_in<F, Fut>(
        &self,
        session: &Session,
        path: &Path,
        options: &EditOptions,
        mut change: F,
    ) -> Result<Receipt, Error>
    where
        F: FnMut(Bytes, Version) -> Fut,
        Fut: Future<Output = Result<Bytes, Error>>,
    {
        let guard = session.acquire(path, LockMode::Exclusive, options.wait, |_| {}).await?;
        let mut round = 1;
        loop {
            let (content, version) = self.present(path).await?;
            let changed = change(content, version).await?;
            let mut write = WriteOptions::replace(guard.precondition_at(version)?);
            write.create_parents = options.create_parents;
            match self.write_bytes(path, write, changed).await {
                Err(error) if error.reason().retry() == Retry::Redo && round < ROUNDS_MAX => round += 1,
                written => return written,
            }
        }
    }

    /// The newest content and version; none and 0 of a file that does not exist.
    async fn present(&self, path: &Path) -> Result<(Bytes, Version), Error> {
        match self.read(path, ReadOptions::default()).await {
            Ok(reader) => {
                let version = reader.entry().version;
                Ok((reader.bytes(EDIT_BYTES_MAX).await?, version))
            }
            Err(error) if error.reason() == Reason::EntryNotFound => Ok((Bytes::new(), Version(0))),
            Err(error) => Err(error),
        }
    }
}
