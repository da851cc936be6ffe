//! Forgetting: the past, old versions, garbage, and what is only remembered for a while.
//!
//! One line divides the past: the horizon. Changes older than `keep_for` are forgotten in their order, each with the rows of
//! history that it ended, and the horizon moves to their revision; from it on, any look at the past is answered whole.
//! All else follows the horizon: a version goes when it is not among the newest and was superseded before the horizon,
//! a deleted file or tree goes when its deletion lies before the horizon. A deleted tree is taken apart row by row from
//! a work list, so a step costs the same whether one file was deleted or a million.
//!
//! Everything is found by queues in the order of time; nothing scans.

use std::time::Duration;

use redb::ReadableTable;

use crate::types::{Inode, Revision, Timestamp, Version};

use super::{
    blobs,
    command::{Outcome, Settings},
    departures,
    error::{Error, StorageError},
    fence,
    model::{ChangeKind, EntryKind, Node, blobs_of},
    state::Effect,
    tables::{Tables, kind_in, kind_out},
};

/// How long the outcome of a write id is remembered: longer than a write may take to be committed.
pub(super) const WRITES_KEPT: Duration = Duration::from_secs(60 * 60);
pub(super) const WRITES_KEPT_MS: u64 = WRITES_KEPT.as_millis() as u64;
/// Versions that one write can queue to be forgotten: more than one only after `keep_versions` was lowered.
const RETIRED_PER_WRITE: usize = 16;

/// Forgets at most so many things of one kind; how many there were.
type Step = fn(&mut Tables, &Settings, usize) -> Result<usize, StorageError>;

const STEPS: [Step; 8] = [
    forget_changes,
    |tables, _, limit| take_apart_dead(tables, limit),
    forget_versions,
    |tables, settings, limit| blobs::collect_garbage(tables, settings.garbage_grace_ms, limit),
    |tables, _, limit| departures::collect_deletions(tables, limit),
    |tables, _, limit| blobs::collect_abandoned(tables, limit),
    |tables, _, limit| forget_writes(tables, limit),
    |tables, _, limit| fence::collect(tables, limit),
];

/// Forgets about `limit` things, shared evenly between the kinds, so that no backlog of one starves the others.
pub(super) fn collect(tables: &mut Tables, limit: u32) -> Result<Effect, Error> {
    let settings = tables.cluster()?.settings.clone();
    let share = (limit as usize / STEPS.len()).max(1);
    let (mut changed, mut more) = (false, false);
    for step in STEPS {
        let count = step(tables, &settings, share)?;
        changed |= count > 0;
        more |= count == share;
    }
    let outcome = Outcome::Collected { more };
    Ok(if changed { Effect::Changed(outcome) } else { Effect::Nothing(outcome) })
}

/// Moves the horizon.
fn forget_changes(tables: &mut Tables, settings: &Settings, limit: usize) -> Result<usize, StorageError> {
    for count in 0..limit {
        let Some(oldest) = tables.changes.table.first()?.map(|(key, _)| key.value()) else { return Ok(count) };
        let Some(record) = tables.changes.get(oldest)? else { return Ok(count) };
        let change = &record.change;
        if tables.time.millis_since(change.time) < settings.keep_for_ms {
            return Ok(count);
        }
        let (revision, _) = oldest;
        if record.ended_inode {
            tables.inode_history.remove((change.inode.0, revision))?;
        }
        if let Some((parent, name)) = &record.ended_entry {
            tables.entry_history.remove((parent.0, name.as_str(), revision))?;
        }
        if change.kind == ChangeKind::Deleted {
            tables.dead.insert(change.inode.0, kind_out(change.entry_kind))?;
        }
        tables.changes.remove(oldest)?;
        tables.state.horizon = Revision(revision);
        tables.state.horizon_time = change.time;
    }
    Ok(limit)
}

/// Takes apart what was deleted before the horizon: a row a step.
fn take_apart_dead(tables: &mut Tables, limit: usize) -> Result<usize, StorageError> {
    for count in 0..limit {
        let Some((inode, kind)) = tables.dead.first()?.map(|(key, kind)| (key.value(), kind.value())) else {
            return Ok(count);
        };
        let kind = kind_in(kind).ok_or(StorageError::Damaged { table: "dead", what: "an inode has no kind" })?;
        let any_left = match kind {
            EntryKind::File => forget_a_version(tables, inode)?,
            EntryKind::Directory => pass_on_a_child(tables, inode)?,
        };
        if !any_left {
            tables.inodes.remove(inode)?;
            tables.totals.remove(inode)?;
            tables.dead.remove(inode)?;
        }
    }
    Ok(limit)
}

/// Forgets one version of a dead file. Whether there was one.
fn forget_a_version(tables: &mut Tables, inode: u64) -> Result<bool, StorageError> {
    let first = tables.versions.table.range((inode, 0)..=(inode, u64::MAX))?.next().transpose()?;
    let Some((_, version)) = first.map(|(key, _)| key.value()) else { return Ok(false) };
    drop_version(tables, inode, version)?;
    Ok(true)
}

/// Puts one child of a dead directory on the list of the dead. Whether there was one.
fn pass_on_a_child(tables: &mut Tables, directory: u64) -> Result<bool, StorageError> {
    let first = tables.entries.range((directory, "")..)?.next().transpose()?;
    let first = first.map(|(key, link)| {
        let (parent, name) = key.value();
        (parent, name.to_owned(), link.value())
    });
    let Some((_, name, (inode, _, kind))) = first.filter(|(parent, ..)| *parent == directory) else {
        return Ok(false);
    };
    tables.entries.remove((directory, name.as_str()))?;
    tables.dead.insert(inode, kind)?;
    Ok(true)
}

fn drop_version(tables: &mut Tables, inode: u64, version: u64) -> Result<(), StorageError> {
    let Some(row) = tables.versions.get((inode, version))? else { return Ok(()) };
    tables.versions.remove((inode, version))?;
    for blob in blobs_of(&row.extents) {
        blobs::release(tables, blob)?;
    }
    Ok(())
}

/// Queues the versions of a file that its new version, `node.version`, has pushed out of the newest.
pub(super) fn retire(tables: &mut Tables, inode: Inode, node: &mut Node) -> Result<(), StorageError> {
    let keep = tables.cluster.as_ref().map_or(u64::MAX, |cluster| cluster.settings.keep_versions);
    for _ in 0..RETIRED_PER_WRITE {
        let version = node.retired_below;
        if version.0.saturating_add(keep) > node.version.0 {
            break;
        }
        // It was superseded by the next one; that is still there, being newer.
        if let Some(next) = tables.versions.get((inode.0, version.0 + 1))? {
            tables.retired.insert((next.revision.0, inode.0, version.0), ())?;
        }
        node.retired_below = Version(version.0 + 1);
    }
    Ok(())
}

fn forget_versions(tables: &mut Tables, settings: &Settings, limit: usize) -> Result<usize, StorageError> {
    for count in 0..limit {
        let Some((superseded, inode, version)) = tables.retired.first()?.map(|(key, _)| key.value()) else {
            return Ok(count);
        };
        if Revision(superseded) > tables.state.horizon {
            return Ok(count);
        }
        tables.retired.remove((superseded, inode, version))?;
        let newest = tables.versions.table.range((inode, 0)..=(inode, u64::MAX))?.next_back().transpose()?;
        let newest = newest.map_or(version, |(key, _)| key.value().1);
        if version.saturating_add(settings.keep_versions) <= newest {
            drop_version(tables, inode, version)?;
        } else if let Some(mut node) = tables.inodes.get(inode)? {
            // More are kept than when it was queued: it is queued again when it falls out of those.
            node.retired_below = node.retired_below.min(Version(version));
            tables.inodes.put(inode, &node)?;
        }
    }
    Ok(limit)
}

fn forget_writes(tables: &mut Tables, limit: usize) -> Result<usize, StorageError> {
    for count in 0..limit {
        let Some((time, write_id)) = tables.write_times.first()?.map(|(key, _)| key.value()) else {
            return Ok(count);
        };
        if tables.time.millis_since(Timestamp(time)) < WRITES_KEPT_MS {
            return Ok(count);
        }
        tables.write_times.remove((time, write_id))?;
        tables.writes.remove(write_id)?;
    }
    Ok(limit)
}
