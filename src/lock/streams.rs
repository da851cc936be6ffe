//! The calls that go on: renewals, waiting for a lock, watching one.
//!
//! None of them is a task. Each is polled by the call it answers, so that a client that goes takes everything of its call along.

use std::{pin::Pin, time::Duration};

use futures::{Stream, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Status, Streaming};

use crate::{
    convert::session_id,
    lock::{
        command::Grant,
        convert::{self, lock_info},
        error::Error,
        fan_out::Claim,
        handle::{Handle, Progress, Wait},
        metrics::Waiting,
        service::Headers,
        state::TTL_MS_MAX,
    },
    pb,
    status::{Failure, Reason},
    types::{Path, Revision},
};

pub(super) type EventStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Longer than the longest lease: a stream that renews nothing for so long has nothing to renew.
const SILENCE_MAX: Duration = Duration::from_millis(TTL_MS_MAX + 10_000);
/// A wait that is longer is a wait for ever.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// One renewal a message, each answered once it counts; ends with the first that fails.
pub(super) fn keep_alive(
    incoming: Streaming<pb::KeepAliveRequest>,
    handle: Handle,
    headers: Headers,
) -> EventStream<pb::KeepAliveResponse> {
    let renewals = stream::try_unfold((incoming, handle, headers), |mut parts| async move {
        let (incoming, handle, headers) = &mut parts;
        let request = tokio::select! {
            over = handle.over() => return Err(Status::from(over)),
            request = timeout(SILENCE_MAX, incoming.message()) => match request {
                Ok(request) => request?,
                Err(_) => return Err(Failure::new(Reason::DeadlineExceeded, "nothing was renewed for too long").into()),
            },
        };
        let Some(request) = request else { return Ok(None) };
        let session = session_id("session_id", &request.session_id)?;
        let ttl = handle.renew(session).await?;
        let response = pb::KeepAliveResponse {
            header: headers.header(),
            session_id: session.to_string(),
            ttl_ms: ttl.as_millis() as u64,
        };
        Ok(Some((response, parts)))
    });
    Box::pin(renewals)
}

/// Positions, then the grant; an error when the wait ends without one.
pub(super) fn acquire(
    (wait, waiting): (Wait, Waiting),
    claim: Claim,
    limit: Option<Duration>,
    handle: Handle,
    headers: Headers,
) -> EventStream<pb::AcquireLockResponse> {
    let deadline = limit.filter(|limit| *limit < WAIT_MAX).map(|limit| Instant::now() + limit);
    let acquiring = Acquiring { wait, waiting, claim, deadline, handle, headers, begun: false };
    Box::pin(stream::unfold(Some(acquiring), |acquiring| async move {
        let mut acquiring = acquiring?;
        let response = acquiring.next().await;
        let goes_on = matches!(&response, Ok(response) if is_position(response));
        Some((response.map_err(Status::from), goes_on.then_some(acquiring)))
    }))
}

fn is_position(response: &pb::AcquireLockResponse) -> bool {
    matches!(response.event, Some(pb::acquire_lock_response::Event::Position(_)))
}

struct Acquiring {
    wait: Wait,
    waiting: Waiting,
    claim: Claim,
    /// `None`: until the session ends.
    deadline: Option<Instant>,
    handle: Handle,
    headers: Headers,
    /// Whether the client knows where it stands.
    begun: bool,
}

impl Acquiring {
    async fn next(&mut self) -> Result<pb::AcquireLockResponse, Error> {
        let progress = if self.begun { self.news().await? } else { self.wait.progress.borrow_and_update().clone() };
        self.begun = true;
        if matches!(progress, Progress::Granted(_)) {
            self.wait.set_delivered();
            self.waiting.granted();
        }
        let event = convert::progress(&self.claim.1, progress)?;
        Ok(pb::AcquireLockResponse { header: self.headers.header(), event: Some(event) })
    }

    async fn news(&mut self) -> Result<Progress, Error> {
        let deadline = self.deadline;
        let over = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = self.wait.progress.changed() => match changed {
                Ok(()) => Ok(self.wait.progress.borrow_and_update().clone()),
                Err(_) => Err(self.handle.refusal()),
            },
            over = self.handle.over() => Err(over),
            () = over => self.give_up().await.map(Progress::Granted),
        }
    }

    /// The time to wait is over.
    async fn give_up(&self) -> Result<Grant, Error> {
        let (session, path) = self.claim.clone();
        match self.wait.ticket {
            Some(ticket) => self.handle.give_up(session, path, ticket).await,
            None => Err(Error::WaitGivenUp { path }),
        }
    }
}

/// The lock as it is, then again after each change; what changes faster than the client reads is told once.
pub(super) fn watch(
    changes: watch::Receiver<Revision>,
    path: Path,
    handle: Handle,
    headers: Headers,
) -> EventStream<pb::WatchLockResponse> {
    let sightings = stream::try_unfold((changes, false), move |(mut changes, begun)| {
        let (path, handle, headers) = (path.clone(), handle.clone(), headers.clone());
        async move {
            if begun {
                tokio::select! {
                    over = handle.over() => return Err(Status::from(over)),
                    changed = changes.changed() => changed.map_err(|_| handle.refusal())?,
                }
            }
            changes.mark_unchanged();
            let lock = Some(lock_info(handle.view(path).await?));
            Ok(Some((pb::WatchLockResponse { header: headers.header(), lock }, (changes, true))))
        }
    });
    Box::pin(sightings)
}
