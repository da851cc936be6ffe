//! Servers that are no members of a group any more: what they may still hold, and what was still to be deleted there.
//!
//! Every change of a group goes through [`put_group`], which notes who has left. The note is what lets the server delete
//! its copies, and it stays until the server has said that it holds none of them any more. As long as it stays the server is
//! not taken into the group again; so a deletion never meets copies that were made since.

use std::collections::{BTreeMap, BTreeSet};

use redb::ReadableTable;

use crate::{
    cluster::Group,
    types::{BlobId, Epoch, GroupId, ServerId},
};

use super::{
    blobs,
    command::{Outcome, ServerKind},
    error::{Error, StorageError},
    fleet::{all_groups, all_servers},
    moves,
    state::Effect,
    tables::{self, Tables},
    view::View,
};

/// Puts a group's configuration, and notes who has left it with that.
pub(super) fn put_group(tables: &mut Tables, group: &Group) -> Result<(), Error> {
    if put_one_of_many(tables, group)? { forget_placeless(tables) } else { Ok(()) }
}

/// As [`put_group`], for whoever puts many groups and calls [`forget_placeless`] after them. Whether a member has left.
pub(super) fn put_one_of_many(tables: &mut Tables, group: &Group) -> Result<bool, Error> {
    let before = tables.groups.get(group.group.0)?;
    tables.groups.put(group.group.0, group)?;
    let members = before.map(|before| before.members).unwrap_or_default();
    let mut left = false;
    for server in members.iter().filter(|member| !group.is_member(member)) {
        tables.departures.insert((server.as_str(), group.group.0), group.epoch.0)?;
        tables.stale_deletions.insert(server.as_str(), 0)?;
        left = true;
    }
    Ok(left)
}

/// Servers that are lost go with their last place.
pub(super) fn forget_placeless(tables: &mut Tables) -> Result<(), Error> {
    let mut lost = all_servers(tables, ServerKind::FileServer)?;
    lost.retain(|record| record.lost);
    if lost.is_empty() {
        return Ok(());
    }
    let groups = all_groups(tables)?;
    lost.retain(|record| !groups.iter().any(|group| group.is_member(&record.registration.server)));
    lost.iter().try_for_each(|record| moves::forget_server(tables, record))
}

pub(super) fn has_departed(tables: &Tables, server: &ServerId, group: GroupId) -> Result<bool, StorageError> {
    Ok(tables.departures.get((server.as_str(), group.0))?.is_some())
}

fn read_key((server, group): (&str, u32)) -> Result<(ServerId, GroupId), StorageError> {
    let damaged = StorageError::Damaged { table: "departures", what: "a server id is malformed" };
    Ok((server.parse().map_err(|_| damaged)?, GroupId(group)))
}

/// The server holds nothing any more: it has a new data folder, or is gone for good.
pub(super) fn forget(tables: &mut Tables, server: &ServerId) -> Result<(), Error> {
    let all = (server.as_str(), 0)..=(server.as_str(), u32::MAX);
    let groups: Vec<u32> =
        tables.departures.range(all)?.map(|row| row.map(|(key, _)| key.value().1)).collect::<Result<_, _>>()?;
    for group in groups {
        tables.departures.remove((server.as_str(), group))?;
    }
    Ok(())
}

/// The server has deleted what it held of groups that it left at these epochs.
pub(super) fn confirm_emptied(
    tables: &mut Tables,
    server: &ServerId,
    groups: &[(GroupId, Epoch)],
) -> Result<Effect, Error> {
    let mut changed = false;
    for (group, epoch) in groups {
        let key = (server.as_str(), group.0);
        let noted = tables.departures.get(key)?.map(|noted| noted.value());
        if noted == Some(epoch.0) {
            tables.departures.remove(key)?;
            changed = true;
        }
    }
    Ok(if changed { Effect::Changed(Outcome::Done) } else { Effect::Nothing(Outcome::Done) })
}

/// Waits no longer for servers to delete garbage of groups that they are no members of: looks at about `limit` deletions.
/// How many it looked at.
pub(super) fn collect_deletions(tables: &mut Tables, limit: usize) -> Result<usize, StorageError> {
    let mut count = 0;
    while count < limit {
        let first = tables.stale_deletions.first()?.map(|(server, from)| (server.value().to_owned(), from.value()));
        let Some((name, from)) = first else { break };
        let damaged = StorageError::Damaged { table: "stale_deletions", what: "a server id is malformed" };
        let server: ServerId = name.parse().map_err(|_| damaged)?;
        let rows = tables.deletions.range((name.as_str(), from)..=(name.as_str(), u128::MAX))?.take(limit - count);
        let blobs: Vec<u128> = rows.map(|row| row.map(|(key, _)| key.value().1)).collect::<Result<_, _>>()?;
        let stale = stale(tables, &server, &blobs)?;
        blobs::settle_deletions(tables, &server, &stale)?;
        match blobs.last().filter(|last| blobs.len() == limit - count && **last < u128::MAX) {
            Some(last) => drop(tables.stale_deletions.insert(name.as_str(), last + 1)?),
            None => drop(tables.stale_deletions.remove(name.as_str())?),
        }
        count += blobs.len().max(1);
    }
    Ok(count)
}

/// Those whose group the server is no member of.
fn stale(tables: &Tables, server: &ServerId, blobs: &[u128]) -> Result<Vec<BlobId>, StorageError> {
    let mut is_member: BTreeMap<GroupId, bool> = BTreeMap::new();
    let mut stale = Vec::new();
    for &blob in blobs {
        let Some(row) = tables.blobs.get(blob)? else { continue };
        if let std::collections::btree_map::Entry::Vacant(unknown) = is_member.entry(row.group) {
            unknown.insert(tables.groups.get(row.group.0)?.is_some_and(|group| group.is_member(server)));
        }
        if is_member.get(&row.group) == Some(&false) {
            stale.push(BlobId(uuid::Uuid::from_u128(blob)));
        }
    }
    Ok(stale)
}

impl View {
    /// The groups that the server left, with the epochs at which it did, and of which it may still hold blobs.
    pub fn departures_of(&self, server: &ServerId) -> Result<Vec<(GroupId, Epoch)>, StorageError> {
        let table = self.transaction.open_table(tables::DEPARTURES)?;
        let rows = table.range((server.as_str(), 0)..=(server.as_str(), u32::MAX))?.map(|row| {
            let (key, epoch) = row?;
            Ok((GroupId(key.value().1), Epoch(epoch.value())))
        });
        rows.collect()
    }

    /// Who may still hold blobs of which group that it left.
    pub fn departures(&self) -> Result<BTreeSet<(ServerId, GroupId)>, StorageError> {
        let table = self.transaction.open_table(tables::DEPARTURES)?;
        let mut departed = BTreeSet::new();
        for row in table.iter()? {
            let (key, _) = row?;
            departed.insert(read_key(key.value())?);
        }
        Ok(departed)
    }

    /// Somebody has asked for the groups to be spread evenly, and it is not done yet.
    pub fn is_rebalancing(&self) -> bool {
        self.state.rebalancing
    }
}
