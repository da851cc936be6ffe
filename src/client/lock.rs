//! Sessions and locks.
//!
//! A session is kept alive by a task of its own on a connection of its own, so that neither data nor a busy program is in
//! its way. Whether it still holds is decided by this client's clock ([`Session::check`]), and a lost session is never
//! opened again silently: what was done under it must be looked at. A lock lasts until it is released or its session
//! ends. Dropping a guard cannot release, since that takes a call: it leaves the lock to the session, and dropping the
//! last handle of a session leaves both to run out with the lease.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Client, Error, LockInfo, QueuePosition,
    call::{Service, TRY_TIMEOUT, attempt, lock_client},
    channels::Purpose,
    convert::{self, required},
    keep_alive::keep_alive,
    lease::{self, Lease},
    retry::{Tries, jitter},
};
use crate::{
    pb::{self, acquire_lock_response::Event},
    status::{Reason, Retry},
    types::{FencingToken, LockMode, Path, Precondition, SessionId, Timestamp, Version},
};

/// Locks asked for at once.
const PAGE_SIZE: u32 = 1000;
/// How a session is opened.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// From 1 s to 10 min.
    pub ttl: Duration,
    /// Who asks, for people: shown to administrators and to waiting clients. At most 255 bytes.
    pub client: String,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(10), client: String::new() }
    }
}

/// A session with the Lock service. Cheap to clone; kept alive until the last clone and the last guard are gone.
#[derive(Clone, Debug)]
pub struct Session {
    inner: Arc<SessionInner>,
}

#[derive(Debug)]
struct SessionInner {
    client: Client,
    id: SessionId,
    ttl: Duration,
    lease: Arc<watch::Sender<Lease>>,
    _keep_alive: AbortOnDropHandle<()>,
}

impl Session {
    pub fn id(&self) -> SessionId {
        self.inner.id
    }

    pub fn ttl(&self) -> Duration {
        self.inner.ttl
    }

    /// How long the lease runs if it is not renewed any more.
    pub fn remaining(&self) -> Duration {
        self.inner.lease.borrow().until().saturating_duration_since(Instant::now())
    }

    /// Fails with [`Reason::SessionExpired`] or [`Reason::SessionNotFound`] when the session is lost; by the clock, at
    /// once, even if this process was stopped in the meantime.
    pub fn check(&self) -> Result<(), Error> {
        self.inner.lease.borrow().check(Instant::now())
    }

    /// Completes when the session is lost, with why.
    pub async fn lost(&self) -> Error {
        let mut lease = self.inner.lease.subscribe();
        loop {
            let (checked, until) = {
                let lease = lease.borrow_and_update();
                (lease.check(Instant::now()), lease.until())
            };
            if let Err(error) = checked {
                return error;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                // The sender lives as long as this session.
                _ = lease.changed() => {}
            }
        }
    }

    /// Waits in the queue for the lock on `path`, at most for `wait`; `None`: as long as the session holds.
    ///
    /// `on_position` is told the place in the queue at once and whenever it changes. A client that is cut off asks again
    /// and keeps its place. Fails with [`Reason::LockHeld`] when the wait is over. A grant that arrives as this future is
    /// dropped stays with the session: release it by [`Client::release_lock`], or close the session.
    pub async fn acquire(
        &self,
        path: &Path,
        mode: LockMode,
        wait: Option<Duration>,
        mut on_position: impl FnMut(QueuePosition),
    ) -> Result<LockGuard, Error> {
        let end = wait.map(|wait| Instant::now() + wait);
        loop {
            // Each time that it was in the queue, its patience with the connection begins anew.
            let mut queued = false;
            let mut tries = Tries::among(self.inner.client.lock_service().known.len(), self.inner.client.deadline());
            let error = loop {
                let asked = self.queue(path, mode, end, |position| {
                    queued = true;
                    on_position(position);
                });
                let error = tokio::select! {
                    grant = asked => match grant {
                        Ok((token, grant_time)) => {
                            return Ok(LockGuard { session: self.clone(), path: path.clone(), mode, token, grant_time });
                        }
                        Err(error) => error,
                    },
                    lost = self.lost() => return Err(lost),
                };
                let Some(delay) = tries.after(&error, Instant::now(), jitter()) else { break error };
                tracing::debug!(%path, %error, ?delay, "queueing again");
                tokio::time::sleep(delay).await;
            };
            // A server that stops says so; the place is still there when it, or another, serves again.
            if !queued || matches!(error.reason().retry(), Retry::Never | Retry::Redo) {
                return Err(error);
            }
        }
    }

    /// One try at the lock; asks the next server if this one does not answer.
    async fn queue(
        &self,
        path: &Path,
        mode: LockMode,
        end: Option<Instant>,
        mut on_position: impl FnMut(QueuePosition),
    ) -> Result<(FencingToken, Timestamp), Error> {
        self.check()?;
        let client = &self.inner.client;
        let service = client.lock_service();
        let Some(address) = service.endpoints.current(&service.known) else {
            return Err(Error::unreachable("no server of the Lock service is known"));
        };
        let wait = end.map(|end| end.saturating_duration_since(Instant::now()));
        let request = pb::AcquireLockRequest {
            session_id: self.inner.id.to_string(),
            path: path.to_string(),
            mode: convert::lock_mode_to_pb(mode).into(),
            wait_ms: wait.map(|wait| wait.as_millis() as u64),
        };
        let asked = async {
            let mut client = lock_client(service.channels.get(&address, Purpose::Watch)?);
            let call = |request| async move { client.acquire_lock(request).await };
            let mut events = attempt("acquire the lock", service.try_timeout, request, call).await?;
            // As long as it takes: the server counts the wait, and the session bounds it here.
            while let Some(message) = events.message().await? {
                match required("event", message.event)? {
                    Event::Position(position) => on_position(convert::queue_position(position)),
                    Event::Grant(grant) => {
                        return Ok((FencingToken(grant.fencing_token), convert::grant_time(&grant)?));
                    }
                }
            }
            Err(Error::unreachable("the queue ended without a grant"))
        };
        let result = asked.await;
        if let Err(error) = &result {
            service.endpoints.heed(&address, error, &service.known);
        }
        result
    }

    /// Ends the session and releases its locks cleanly.
    pub async fn close(self) -> Result<(), Error> {
        self.inner.client.close_session(self.inner.id).await?;
        self.inner.lease.send_modify(|lease| lease.lose(Error::new(Reason::SessionNotFound, "the session was closed")));
        Ok(())
    }
}

/// A lock that was granted.
///
/// [`LockGuard::release`] gives it back. Dropped without, the lock stays with the session until that is closed or
/// expires: a destructor cannot wait for the Lock service.
#[derive(Debug)]
#[must_use = "a lock that is not released stays with its session"]
pub struct LockGuard {
    session: Session,
    path: Path,
    mode: LockMode,
    token: FencingToken,
    grant_time: Timestamp,
}

impl LockGuard {
    pub fn session(&self) -> &Session {
        &self.session
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn mode(&self) -> LockMode {
        self.mode
    }

    pub fn token(&self) -> FencingToken {
        self.token
    }

    pub fn grant_time(&self) -> Timestamp {
        self.grant_time
    }

    /// What a write under this lock carries; fails when the lease is lost, so that it is known before the write.
    ///
    /// When the write then fails with [`Error::may_have_taken_effect`], drop the guard and its session rather than release:
    /// see [`LockGuard::release`].
    pub fn precondition(&self) -> Result<Precondition, Error> {
        self.session.check()?;
        Ok(Precondition { fencing_token: Some(self.token), if_version: None })
    }

    /// As [`LockGuard::precondition`], and the file must still have the version that the write is based on.
    pub fn precondition_at(&self, version: Version) -> Result<Precondition, Error> {
        Ok(Precondition { if_version: Some(version), ..self.precondition()? })
    }

    /// Gives the lock back. [`Reason::NotLockHolder`] or [`Reason::SessionExpired`] says that it was lost before.
    ///
    /// Not after a write whose end is unknown ([`Error::may_have_taken_effect`]): a release does not fence, so that write
    /// could still be committed under the successor's eyes. Dropped instead, with all handles of its session, the lock
    /// passes on when the lease runs out, and that fences. The same holds for [`Session::close`].
    pub async fn release(self) -> Result<(), Error> {
        self.session.inner.client.release_lock(self.session.id(), &self.path, Some(self.token)).await
    }
}

/// After an unanswered try, the answer `gone` says that there is nothing left to give back: that try did it, or the lease
/// ended meanwhile. Either way the caller has what it asked for.
fn given_back(result: Result<(), Error>, gone: Reason) -> Result<(), Error> {
    result.or_else(|error| if error.is_in_doubt() && error.reason() == gone { Ok(()) } else { Err(error) })
}

impl Client {
    /// Opens a session and keeps it alive until it is closed or dropped.
    pub async fn open_session(&self, options: SessionOptions) -> Result<Session, Error> {
        let id = SessionId::random();
        let began = Instant::now();
        let sent_after_ms = AtomicU64::new(0);
        let request = pb::OpenSessionRequest {
            session_id: id.to_string(),
            ttl_ms: options.ttl.as_millis() as u64,
            client: options.client,
        };
        let call = |channel, request| {
            // Opening it again renews it: the lease counts from the try that is answered.
            sent_after_ms.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
            async move { lock_client(channel).open_session(request).await }
        };
        let answer = self.lock("open the session", request, call).await?;
        let ttl = lease::length(answer.ttl_ms)?;
        let sent = began + Duration::from_millis(sent_after_ms.into_inner());
        let lease = Lease::new(sent, ttl);
        lease.check(Instant::now())?;
        let lease = Arc::new(watch::Sender::new(lease));
        let task = tokio::spawn(keep_alive(self.clone(), id, ttl, lease.clone()));
        let inner = SessionInner { client: self.clone(), id, ttl, lease, _keep_alive: AbortOnDropHandle::new(task) };
        Ok(Session { inner: Arc::new(inner) })
    }

    /// Ends any session, such as one that another process opened, and releases its locks cleanly.
    pub async fn close_session(&self, session: SessionId) -> Result<(), Error> {
        let request = pb::CloseSessionRequest { session_id: session.to_string() };
        let call = |channel, request| async move { lock_client(channel).close_session(request).await };
        given_back(self.lock("close the session", request, call).await.map(drop), Reason::SessionNotFound)
    }

    /// Releases what a session has on a path, its place in the queue included. `None`: whatever the grant's token is.
    pub async fn release_lock(
        &self,
        session: SessionId,
        path: &Path,
        token: Option<FencingToken>,
    ) -> Result<(), Error> {
        let request = pb::ReleaseLockRequest {
            session_id: session.to_string(),
            path: path.to_string(),
            fencing_token: token.unwrap_or_default().0,
        };
        let call = |channel, request| async move { lock_client(channel).release_lock(request).await };
        given_back(self.lock("release the lock", request, call).await.map(drop), Reason::NotLockHolder)
    }

    /// Who holds the lock on a path, and who waits for it.
    pub async fn lock_info(&self, path: &Path) -> Result<LockInfo, Error> {
        let request = pb::GetLockRequest { path: path.to_string() };
        let call = |channel, request| async move { lock_client(channel).get_lock(request).await };
        let answer = self.lock("get the lock", request, call).await?;
        convert::lock_info(required("lock", answer.lock)?)
    }

    /// The locks held or waited for at or below a path, in the order of their paths.
    pub fn locks(&self, path: &Path) -> BoxStream<'static, Result<LockInfo, Error>> {
        let client = self.clone();
        let first = pb::ListLocksRequest { path: path.to_string(), page_size: PAGE_SIZE, page_token: String::new() };
        let pages = stream::try_unfold(Some(first), move |next| {
            let client = client.clone();
            async move {
                let Some(mut request) = next else { return Ok::<_, Error>(None) };
                let call = |channel, request| async move { lock_client(channel).list_locks(request).await };
                let answer = client.lock("list the locks", request.clone(), call).await?;
                request.page_token = answer.next_page_token;
                let more = (!request.page_token.is_empty()).then_some(request);
                Ok(Some((stream::iter(answer.locks.into_iter().map(convert::lock_info)), more)))
            }
        });
        pages.try_flatten().boxed()
    }

    /// For administrators: takes a lock from its holders. `None`: whoever they are. Answers the token that they are now
    /// older than; from then on nothing they write is committed.
    ///
    /// [`Reason::NotLockHolder`] that [`Error::may_have_taken_effect`] comes after a try without an answer: that one may have
    /// broken it, or the holder has released it meanwhile.
    pub async fn break_lock(&self, path: &Path, token: Option<FencingToken>) -> Result<FencingToken, Error> {
        // Named, so that a second try cannot break whoever was granted the lock after the first.
        let token = match token {
            Some(token) => Some(token),
            None => match self.lock_info(path).await?.holders.as_slice() {
                [holder] => Some(holder.token),
                _ => None,
            },
        };
        let request = pb::BreakLockRequest { path: path.to_string(), fencing_token: token.unwrap_or_default().0 };
        let call = |channel, request| async move { lock_client(channel).break_lock(request).await };
        // It waits for the Directory on top.
        let service = Service { try_timeout: TRY_TIMEOUT, ..self.lock_service() };
        let answer = service.call("break the lock", self.deadline(), Purpose::Control, request, call).await?;
        Ok(FencingToken(answer.fencing_token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody_holds_it() -> Error {
        Error::new(Reason::NotLockHolder, "nobody holds it")
    }

    #[test]
    fn what_an_unanswered_try_may_have_given_back_is_given_back() {
        assert!(given_back(Err(nobody_holds_it().in_doubt()), Reason::NotLockHolder).is_ok());
    }

    #[test]
    fn an_answered_try_has_given_nothing_back() {
        let released = given_back(Err(nobody_holds_it()), Reason::NotLockHolder);
        assert_eq!(released.map_err(|error| error.reason()), Err(Reason::NotLockHolder));
    }
}
