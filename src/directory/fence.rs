//! Fencing tokens: whether one was granted for a path, and whether a newer one has been seen.
//!
//! The Lock service seals tokens with a key that it shares with us alone, so that a token proves its grant by itself. What a
//! path has seen last is its fence: a commit raises it, and so does the Lock service before it passes on a lock whose
//! holder expired or was broken. From then on the old holder can commit nothing, whatever it believes.
//!
//! Fences are forgotten after a week, into one floor for all paths: a path without a fence of its own refuses what is below
//! the floor, so forgetting never lets an old token in again.

use redb::ReadableTable;

use crate::{
    token,
    types::{FencingToken, LockMode, Path, Timestamp},
};

use super::{
    command::Outcome,
    error::{Error, Rejected, StorageError},
    model::{Fence, State},
    state::Effect,
    tables::Tables,
};

/// A lock held for longer than this without a write may have to be taken again.
pub(super) const FENCE_KEPT_MS: u64 = 7 * 24 * 3_600_000;

/// The fence of a path, if it has one of its own.
fn fence(tables: &Tables, path: &str) -> Result<Option<Fence>, StorageError> {
    let row = tables.fences.get(path)?;
    Ok(row.map(|row| row.value()).map(|(token, time)| Fence { token, time: Timestamp(time) }))
}

/// A token that is given must be that of an exclusive lock on this path, and no newer one may have been seen.
pub(super) fn check(tables: &Tables, path: &Path, given: Option<FencingToken>) -> Result<(), Error> {
    let Some(given) = given else { return Ok(()) };
    if !token::verify(&tables.cluster()?.lock_key, given, path, LockMode::Exclusive) {
        return Err(Rejected::FencingTokenForged { path: path.clone(), given }.into());
    }
    let current = fence(tables, path.as_str())?.map_or(tables.state.fence_floor, |fence| fence.token);
    if given.0 < current {
        return Err(Rejected::FencingTokenStale { path: path.clone(), given, current: FencingToken(current) }.into());
    }
    Ok(())
}

/// From here on the path refuses tokens older than this one. Whether that is news.
pub(super) fn raise(tables: &mut Tables, path: &Path, given: Option<FencingToken>) -> Result<bool, StorageError> {
    let Some(given) = given else { return Ok(false) };
    let known = fence(tables, path.as_str())?;
    if given.0 <= known.map_or(tables.state.fence_floor, |fence| fence.token) {
        return Ok(false);
    }
    let newest = newest(&tables.state, &tables.fences)?;
    tables.state.newest_token = Some(newest.max(given.0));
    tables.fences.insert(path.as_str(), (given.0, tables.time.0))?;
    // The queue has one row per path, under the time at which the fence was first raised or last found too young.
    if known.is_none() {
        tables.fence_times.insert((tables.time.0, path.as_str()), ())?;
    }
    Ok(true)
}

/// The newest token that was seen for any path; 0 if none was. Looks at every fence where that was not kept yet.
pub(super) fn newest(
    state: &State,
    fences: &impl ReadableTable<&'static str, (u64, u64)>,
) -> Result<u64, StorageError> {
    if let Some(newest) = state.newest_token {
        return Ok(newest);
    }
    let mut newest = state.fence_floor;
    for row in fences.iter()? {
        newest = newest.max(row?.1.value().0);
    }
    Ok(newest)
}

/// For the Lock service: it has granted this token, and the holder before it is gone.
pub(super) fn raise_by_lock_service(tables: &mut Tables, path: &Path, given: FencingToken) -> Result<Effect, Error> {
    if !token::verify(&tables.cluster()?.lock_key, given, path, LockMode::Exclusive)
        && !token::verify(&tables.cluster()?.lock_key, given, path, LockMode::Shared)
    {
        return Err(Rejected::FencingTokenForged { path: path.clone(), given }.into());
    }
    let raised = raise(tables, path, Some(given))?;
    Ok(if raised { Effect::Changed(Outcome::Done) } else { Effect::Nothing(Outcome::Done) })
}

/// Forgets at most `limit` fences that have not been raised for a week.
pub(super) fn collect(tables: &mut Tables, limit: usize) -> Result<usize, StorageError> {
    for count in 0..limit {
        let Some((queued, path)) = oldest(tables)? else { return Ok(count) };
        if tables.time.millis_since(queued) < FENCE_KEPT_MS {
            return Ok(count);
        }
        tables.fence_times.remove((queued.0, path.as_str()))?;
        let Some(fence) = fence(tables, &path)? else { continue };
        if tables.time.millis_since(fence.time) < FENCE_KEPT_MS {
            tables.fence_times.insert((fence.time.0, path.as_str()), ())?;
        } else {
            tables.fences.remove(path.as_str())?;
            tables.state.fence_floor = tables.state.fence_floor.max(fence.token);
        }
    }
    Ok(limit)
}

/// The head of the queue.
fn oldest(tables: &Tables) -> Result<Option<(Timestamp, String)>, StorageError> {
    let first = tables.fence_times.first()?;
    Ok(first.map(|(key, _)| {
        let (time, path) = key.value();
        (Timestamp(time), path.to_owned())
    }))
}
