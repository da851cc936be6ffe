//! Watches that go on by themselves after the connection broke: of the namespace by revision, of a lock by its state.

use std::time::Duration;

use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tonic::Streaming;

use super::{
    Change, Client, Error, LockInfo,
    call::{directory_client, lock_client},
    channels::Purpose,
    convert::{self, required},
};
use crate::{
    pb,
    status::Retry,
    types::{Path, Revision},
};

/// Before a stream that broke is opened again; opening has tries and a deadline of its own.
const REOPEN_DELAY: Duration = Duration::from_millis(100);

/// Where a watch stands: what to ask for, and the stream if there is one.
struct Watch<R, M> {
    client: Client,
    request: R,
    open: Option<Streaming<M>>,
}

impl<R, M> Watch<R, M> {
    fn new(client: &Client, request: R) -> Self {
        Self { client: client.clone(), request, open: None }
    }

    /// The next message of the stream that is open; `None` after a short wait, when it must be opened again.
    ///
    /// Without a deadline: nothing may happen for days. A peer that is gone is noticed by the connection's keep-alive.
    async fn next(&mut self) -> Result<Option<M>, Error> {
        let Some(open) = &mut self.open else { return Ok(None) };
        let error = match open.message().await {
            Ok(Some(message)) => return Ok(Some(message)),
            Ok(None) => Error::unreachable("the watch ended"),
            Err(status) => Error::from(status),
        };
        if matches!(error.reason().retry(), Retry::Never | Retry::Redo) {
            return Err(error);
        }
        tracing::debug!(%error, "watching again");
        self.open = None;
        tokio::time::sleep(REOPEN_DELAY).await;
        Ok(None)
    }
}

impl Client {
    /// What happens at and below a path, from the revision after `after` on; `None`: from now on.
    ///
    /// After a break it goes on where it stopped, without a gap. Ends with [`super::Reason::VersionNotFound`] when the
    /// Directory's feed no longer reaches back that far.
    pub fn watch(&self, path: &Path, after: Option<Revision>) -> BoxStream<'static, Result<Change, Error>> {
        let request = pb::WatchEntriesRequest { path: path.to_string(), after_revision: after.map(|after| after.0) };
        let messages = stream::try_unfold(Watch::new(self, request), |mut watch| async move {
            loop {
                if watch.open.is_none() {
                    let call = |channel, request| async move { directory_client(channel).watch_entries(request).await };
                    let service = watch.client.directory_service();
                    let (deadline, request) = (watch.client.deadline(), watch.request.clone());
                    watch.open = Some(service.call("watch", deadline, Purpose::Watch, request, call).await?);
                }
                let Some(message) = watch.next().await? else { continue };
                let seen = message.header.map(|header| header.revision);
                watch.request.after_revision = watch.request.after_revision.max(seen);
                let changes = stream::iter(message.changes.into_iter().map(convert::change));
                return Ok::<_, Error>(Some((changes, watch)));
            }
        });
        messages.try_flatten().boxed()
    }

    /// A lock now, and again after every change.
    pub fn watch_lock(&self, path: &Path) -> BoxStream<'static, Result<LockInfo, Error>> {
        let request = pb::WatchLockRequest { path: path.to_string() };
        let locks = stream::try_unfold(Watch::new(self, request), |mut watch| async move {
            loop {
                if watch.open.is_none() {
                    let call = |channel, request| async move { lock_client(channel).watch_lock(request).await };
                    let service = watch.client.lock_service();
                    let (deadline, request) = (watch.client.deadline(), watch.request.clone());
                    watch.open = Some(service.call("watch the lock", deadline, Purpose::Watch, request, call).await?);
                }
                let Some(message) = watch.next().await? else { continue };
                let lock = convert::lock_info(required("lock", message.lock)?)?;
                return Ok::<_, Error>(Some((lock, watch)));
            }
        });
        locks.boxed()
    }
}
