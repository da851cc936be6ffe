//! Between the wire and the Lock service's words.

use std::time::Duration;

use crate::{
    convert,
    lock::{
        command::Grant,
        error::Error,
        handle::{Progress, Sighting},
    },
    pb,
    status::Failure,
    types::{FencingToken, LockMode, Path, Timestamp},
};

/// A session's lease when it does not say: a client that vanishes blocks others for this long.
const TTL_MS_DEFAULT: u64 = 10_000;
const PAGE_SIZE_MAX: usize = 1000;

/// 0 is the default.
pub(super) fn ttl_ms(ttl_ms: u64) -> u64 {
    if ttl_ms == 0 { TTL_MS_DEFAULT } else { ttl_ms }
}

pub(super) fn mode(field: &str, mode: i32) -> Result<LockMode, Failure> {
    match pb::LockMode::try_from(mode) {
        Ok(pb::LockMode::Exclusive) => Ok(LockMode::Exclusive),
        Ok(pb::LockMode::Shared) => Ok(LockMode::Shared),
        Ok(pb::LockMode::Unspecified) => Err(Failure::bad_argument(field, "is missing")),
        Err(_) => Err(Failure::bad_argument(field, format_args!("there is no lock mode {mode}"))),
    }
}

fn mode_to_pb(mode: LockMode) -> i32 {
    match mode {
        LockMode::Exclusive => pb::LockMode::Exclusive.into(),
        LockMode::Shared => pb::LockMode::Shared.into(),
    }
}

/// 0 is none.
pub(super) fn token(token: u64) -> Option<FencingToken> {
    (token != 0).then_some(FencingToken(token))
}

/// 0 is as many as a page may have.
pub(super) fn page_size(page_size: u32) -> usize {
    if page_size == 0 { PAGE_SIZE_MAX } else { (page_size as usize).min(PAGE_SIZE_MAX) }
}

/// The last path of the page before; opaque to clients.
pub(super) fn page_token(token: &str) -> Result<Option<Path>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    token.parse().map(Some).map_err(|_| Error::BadPageToken)
}

/// How a wait stands, as an event of the stream; an end without a grant is an error.
pub(super) fn progress(path: &Path, progress: Progress) -> Result<pb::acquire_lock_response::Event, Error> {
    match progress {
        Progress::Waiting { position, waiters, holder } => {
            Ok(pb::acquire_lock_response::Event::Position(pb::QueuePosition { position, waiters, holder }))
        }
        Progress::Granted(grant) => Ok(granted(path, grant)),
        Progress::Ended(error) => Err(error),
    }
}

pub(super) fn granted(path: &Path, grant: Grant) -> pb::acquire_lock_response::Event {
    pb::acquire_lock_response::Event::Grant(pb::LockGrant {
        path: path.to_string(),
        mode: mode_to_pb(grant.mode),
        fencing_token: grant.token.0,
        grant_time: Some(grant.time.into()),
    })
}

pub(super) fn lock_info(sighting: Sighting) -> pb::LockInfo {
    let Sighting { view, leases, time } = sighting;
    let age = |since: Timestamp| time.millis_since(since);
    let holders = view.holders.into_iter().zip(leases).map(|(holder, lease): (_, Duration)| pb::LockHolder {
        session_id: holder.session.to_string(),
        client: holder.client,
        mode: mode_to_pb(holder.grant.mode),
        fencing_token: holder.grant.token.0,
        grant_time: Some(holder.grant.time.into()),
        held_ms: age(holder.grant.time),
        lease_remaining_ms: lease.as_millis() as u64,
    });
    let waiters = view.waiters.into_iter().enumerate().map(|(index, waiter)| pb::LockWaiter {
        session_id: waiter.session.to_string(),
        client: waiter.client,
        mode: mode_to_pb(waiter.mode),
        position: index as u32 + 1,
        waiting_ms: age(waiter.since),
    });
    pb::LockInfo {
        path: view.path.to_string(),
        holders: holders.collect(),
        waiters: waiters.collect(),
        pending_fence: view.fence.map_or(0, |token| token.0),
        holder_count: view.holder_count as u32,
        waiter_count: view.waiter_count as u32,
    }
}

/// The session an acquire or a release is for.
pub(super) fn session_and_path(session: &str, path: &str) -> Result<(crate::types::SessionId, Path), Failure> {
    Ok((convert::session_id("session_id", session)?, convert::path("path", path)?))
}
