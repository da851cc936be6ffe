//! Which blobs the retained versions need, and what becomes of the others.
//!
//! A version counts once for each blob that it refers to. A blob that no version refers to is garbage: after a time of
//! grace, so that readers who looked up just before can finish, each member of its group is told to delete it, and when all
//! have, it is forgotten. A blob that was staged and never committed is not known here at all: the file server that has
//! it asks, and from then on it can never be committed.

use redb::ReadableTable;

use crate::types::{BlobId, GroupId, Inode, ServerId, Timestamp, Version};

use super::{
    command::{Outcome, Settled},
    error::{Error, Rejected, StorageError},
    model::Blob,
    state::Effect,
    tables::{self, Tables, read_stored},
    view::View,
};

/// How long it is remembered that a blob was given up: longer than a write may take to be committed.
pub(super) const ABANDONED_KEPT_MS: u64 = 60 * 60_000;

fn key(blob: BlobId) -> u128 {
    blob.0.as_u128()
}

fn known(tables: &Tables, blob: BlobId) -> Result<Blob, StorageError> {
    let missing = StorageError::Damaged { table: "blobs", what: "a blob that a version refers to is missing" };
    tables.blobs.get(key(blob))?.ok_or(missing)
}

/// Whether a blob may be committed: never seen before, and not given up.
pub(super) fn check_new(tables: &Tables, blob: BlobId) -> Result<(), Error> {
    if tables.blobs.get(key(blob))?.is_some() {
        return Err(Rejected::BadBlob { blob }.into());
    }
    if tables.abandoned.get(key(blob))?.is_some() {
        return Err(Rejected::WriteExpired.into());
    }
    Ok(())
}

/// A blob that a version about to be put refers to.
pub(super) fn admit(
    tables: &mut Tables,
    group: GroupId,
    blob: BlobId,
    length: u64,
    owner: (Inode, Version),
) -> Result<(), StorageError> {
    let (inode, version) = owner;
    tables.blobs.put(key(blob), &Blob { group, length, references: 0, inode, version, holders: 0 })
}

/// One more version refers to the blob.
pub(super) fn reference(tables: &mut Tables, blob: BlobId) -> Result<(), StorageError> {
    let mut row = known(tables, blob)?;
    if row.references == 0 {
        tables.state.blob_count += 1;
    }
    row.references += 1;
    tables.blobs.put(key(blob), &row)
}

/// One version fewer refers to the blob.
pub(super) fn release(tables: &mut Tables, blob: BlobId) -> Result<(), StorageError> {
    let mut row = known(tables, blob)?;
    let unbalanced =
        StorageError::Damaged { table: "blobs", what: "more versions let go of a blob than referred to it" };
    row.references = row.references.checked_sub(1).ok_or(unbalanced)?;
    tables.blobs.put(key(blob), &row)?;
    if row.references == 0 {
        tables.state.blob_count = tables.state.blob_count.saturating_sub(1);
        tables.state.garbage_blob_count += 1;
        tables.garbage.insert((tables.time.0, key(blob)), ())?;
    }
    Ok(())
}

/// What became of a staged blob; if nothing, nothing ever will.
pub(super) fn settle(tables: &mut Tables, blob: BlobId) -> Result<Effect, Error> {
    let known = tables.blobs.get(key(blob))?;
    if let Some(settled) = fate(known, || Ok(tables.abandoned.get(key(blob))?.is_some()))? {
        return Ok(Effect::Nothing(Outcome::Settled(settled)));
    }
    tables.abandoned.insert(key(blob), tables.time.0)?;
    tables.abandoned_times.insert((tables.time.0, key(blob)), ())?;
    Ok(Effect::Changed(Outcome::Settled(Settled::Abandoned)))
}

/// What is known of a staged blob; nothing while it may still be committed.
///
/// One that the members are deleting is to go too: a member that had deleted it may have fetched it anew from one that had
/// not. In its time of grace it is still read, and stays.
fn fate(
    known: Option<Blob>,
    is_abandoned: impl FnOnce() -> Result<bool, StorageError>,
) -> Result<Option<Settled>, StorageError> {
    match known {
        Some(Blob { references: 0, holders: 1.., .. }) => Ok(Some(Settled::Abandoned)),
        Some(Blob { inode, version, .. }) => Ok(Some(Settled::Committed { inode, version })),
        None => Ok(is_abandoned()?.then_some(Settled::Abandoned)),
    }
}

impl View {
    /// What became of a staged blob, for someone who cannot say that its write is over: `None` when it may still be committed.
    pub fn fate_of(&self, blob: BlobId) -> Result<Option<Settled>, StorageError> {
        let known = read_stored(&self.transaction, &tables::BLOBS)?.get(key(blob))?;
        fate(known, || Ok(self.transaction.open_table(tables::ABANDONED)?.get(key(blob))?.is_some()))
    }
}

/// A member has deleted these blobs for good; when all have, they are forgotten.
pub(super) fn confirm_deleted(tables: &mut Tables, server: &ServerId, blobs: &[BlobId]) -> Result<Effect, Error> {
    let changed = settle_deletions(tables, server, blobs)?;
    Ok(if changed { Effect::Changed(Outcome::Done) } else { Effect::Nothing(Outcome::Done) })
}

/// Nobody waits any longer for the server to delete these. Whether anybody did.
pub(super) fn settle_deletions(tables: &mut Tables, server: &ServerId, blobs: &[BlobId]) -> Result<bool, StorageError> {
    let mut changed = false;
    for &blob in blobs {
        if tables.deletions.remove((server.as_str(), key(blob)))?.is_none() {
            continue;
        }
        changed = true;
        let Some(mut row) = tables.blobs.get(key(blob))? else { continue };
        row.holders = row.holders.saturating_sub(1);
        if row.holders == 0 {
            forget(tables, blob)?;
        } else {
            tables.blobs.put(key(blob), &row)?;
        }
    }
    Ok(changed)
}

fn forget(tables: &mut Tables, blob: BlobId) -> Result<(), StorageError> {
    tables.blobs.remove(key(blob))?;
    tables.state.garbage_blob_count = tables.state.garbage_blob_count.saturating_sub(1);
    Ok(())
}

/// Has at most `limit` blobs whose grace is over deleted on the members of their groups. How many there were.
pub(super) fn collect_garbage(tables: &mut Tables, grace_ms: u64, limit: usize) -> Result<usize, StorageError> {
    for count in 0..limit {
        let oldest = tables.garbage.first()?.map(|(key, _)| key.value());
        let Some((since, id)) = oldest else { return Ok(count) };
        if tables.time.millis_since(Timestamp(since)) < grace_ms {
            return Ok(count);
        }
        tables.garbage.remove((since, id))?;
        let blob = BlobId(uuid::Uuid::from_u128(id));
        let mut row = known(tables, blob)?;
        let members = tables.groups.get(row.group.0)?.map(|group| group.members).unwrap_or_default();
        for member in &members {
            tables.deletions.insert((member.as_str(), id), ())?;
        }
        row.holders = members.len() as u32;
        if members.is_empty() {
            forget(tables, blob)?;
        } else {
            tables.blobs.put(id, &row)?;
        }
    }
    Ok(limit)
}

/// Forgets at most `limit` given up blobs, long after they could have been committed. How many there were.
pub(super) fn collect_abandoned(tables: &mut Tables, limit: usize) -> Result<usize, StorageError> {
    for count in 0..limit {
        let oldest = tables.abandoned_times.first()?.map(|(key, _)| key.value());
        let Some((since, id)) = oldest else { return Ok(count) };
        if tables.time.millis_since(Timestamp(since)) < ABANDONED_KEPT_MS {
            return Ok(count);
        }
        tables.abandoned_times.remove((since, id))?;
        tables.abandoned.remove(id)?;
    }
    Ok(limit)
}
