//! Groups that move, and what people ask for: drain, resume, remove, rebalance.
//!
//! A move replaces one member of one group. The new one becomes a member that is not in sync, catches up like any other,
//! and is taken into the in-sync set; in the same step the old one leaves ([`super::group::finish`]). So there are never
//! fewer members in sync than before, and a group never has more than one member too many. All of it is in the state: whoever
//! comes to lead the Directory goes on where it was. What is to move, and when, is decided outside ([`super::plan`]) and
//! checked here.
//!
//! Whoever is level first wins: if the member that was to be replaced comes back into sync before its replacement, it stays,
//! unless it is being drained.

use crate::{
    cluster::Group,
    types::{Epoch, GroupId, ServerId},
};

use super::{
    command::{Outcome, ServerKind},
    departures,
    error::{Error, Rejected},
    fleet::{Fleet, all_groups, all_servers, reconfigure},
    group::{self, Fitness},
    membership::change_record,
    model::ServerRecord,
    records::server_kind_out,
    state::Effect,
    tables::Tables,
};

fn group_at(tables: &Tables, group: GroupId, epoch: Epoch) -> Result<Group, Error> {
    let config = tables.groups.get(group.0)?.ok_or(Rejected::GroupNotFound { group })?;
    if config.epoch == epoch { Ok(config) } else { Err(Rejected::StaleEpoch { group, current: config.epoch }.into()) }
}

fn file_server(tables: &Tables, server: &ServerId) -> Result<ServerRecord, Error> {
    let record = tables.servers.get((server_kind_out(ServerKind::FileServer), server.as_str()))?;
    record.ok_or_else(|| Rejected::ServerNotFound { server: server.clone() }.into())
}

fn put(tables: &mut Tables, group: &mut Group) -> Result<Effect, Error> {
    group::next_epoch(group);
    departures::put_group(tables, group)?;
    tables.state.map_version += 1;
    Ok(Effect::Changed(Outcome::Done))
}

/// A group gets a new member, in the place of `leaving` or in an empty one. One that has arrived already and waits for a
/// place takes that of `leaving`, who is dead or takes no writes.
pub(super) fn begin(
    tables: &mut Tables,
    group: GroupId,
    epoch: Epoch,
    leaving: Option<&ServerId>,
    arriving: &ServerId,
) -> Result<Effect, Error> {
    let mut config = group_at(tables, group, epoch)?;
    let mut fleet = Fleet::load(tables)?;
    if config.replacement.is_some() {
        let settled = leaving.is_some_and(|gone| fleet.settle_without(&mut config, gone, arriving));
        return if settled { put(tables, &mut config) } else { Err(Rejected::GroupMoves { group }.into()) };
    }
    let copies = tables.cluster()?.settings.copies as usize;
    let can_arrive = !config.is_member(arriving)
        && fleet.fitness_of(arriving) == Fitness::Fit
        && !departures::has_departed(tables, arriving, group)?
        && (leaving.is_some() || config.members.len() < copies);
    if !can_arrive {
        return Err(Rejected::CannotArrive { server: arriving.clone(), group }.into());
    }
    match leaving {
        Some(leaving) if !config.is_member(leaving) => {
            return Err(Rejected::NotAMember { server: leaving.clone(), group }.into());
        }
        Some(leaving) => group::replace(&mut config, leaving, arriving),
        None => group::add_member(&mut config, arriving),
    }
    // The lead passes on now, so that what is being uploaded is interrupted once.
    fleet.tidy(&mut config);
    put(tables, &mut config)
}

/// A move is given up, because its arriving member cannot go on.
pub(super) fn drop_arriving(tables: &mut Tables, group: GroupId, epoch: Epoch) -> Result<Effect, Error> {
    let mut config = group_at(tables, group, epoch)?;
    if !group::drop_arriving(&mut config) {
        return Ok(Effect::Nothing(Outcome::Done));
    }
    Fleet::load(tables)?.tidy(&mut config);
    put(tables, &mut config)
}

/// The primary, which is being drained, gives its role to another, if there is one that can have it.
pub(super) fn pass_lead(tables: &mut Tables, group: GroupId, epoch: Epoch) -> Result<Effect, Error> {
    let mut config = group_at(tables, group, epoch)?;
    if Fleet::load(tables)?.pass_from_draining(&mut config) {
        put(tables, &mut config)
    } else {
        Ok(Effect::Nothing(Outcome::Done))
    }
}

/// The server is given nothing, is moved out of its groups, and passes on what it leads where others can: a few groups at a time,
/// so that those who write to several of them are not held up by all at once.
///
/// Refused while the others that are up are fewer than a group needs.
pub(super) fn drain(tables: &mut Tables, server: &ServerId) -> Result<Effect, Error> {
    let record = file_server(tables, server)?;
    let needed = needed_by(tables, server)?;
    let others = all_servers(tables, ServerKind::FileServer)?;
    let fit = |other: &&ServerRecord| other.registration.server != *server && other.fitness() == Fitness::Fit;
    let have = others.iter().filter(fit).count() as u32;
    if !record.draining && have < needed {
        return Err(Rejected::TooFewServers { server: server.clone(), needed, have }.into());
    }
    change_record(
        tables,
        server,
        |record| record.draining,
        |record| record.draining = true,
        |group| group.is_arriving(server) && group::drop_arriving(group),
    )
}

/// How many servers the groups that the server is in need without it.
fn needed_by(tables: &Tables, server: &ServerId) -> Result<u32, Error> {
    let groups = all_groups(tables)?;
    let places = groups.iter().filter(|group| group.is_member(server)).map(Group::place_count);
    Ok(places.max().unwrap_or(0) as u32)
}

/// The server keeps what it still has, and may be given more.
pub(super) fn resume(tables: &mut Tables, server: &ServerId) -> Result<Effect, Error> {
    let record = file_server(tables, server)?;
    if record.lost {
        return Err(Rejected::ServerRemoved { server: server.clone() }.into());
    }
    change_record(
        tables,
        server,
        |record| !record.draining,
        |record| record.draining = false,
        |group| group.is_leaving(server) && group::drop_arriving(group),
    )
}

/// The server leaves the cluster; one that is none of its has done so. One that holds groups only if it is lost: then it gives up the places that can spare it,
/// and goes when it has been replaced in the others.
pub(super) fn remove(tables: &mut Tables, server: &ServerId, lost: bool) -> Result<Effect, Error> {
    let Some(record) = tables.servers.get((server_kind_out(ServerKind::FileServer), server.as_str()))? else {
        return Ok(Effect::Nothing(Outcome::Done));
    };
    let groups = all_groups(tables)?;
    let held = groups.iter().filter(|group| group.is_member(server)).count() as u32;
    if lost && !record.down {
        return Err(Rejected::ServerNotLost { server: server.clone() }.into());
    }
    if !lost && held > 0 {
        return Err(Rejected::ServerHoldsGroups { server: server.clone(), groups: held }.into());
    }
    if !lost && !record.down && !record.draining {
        return Err(Rejected::ServerInUse { server: server.clone() }.into());
    }
    if record.lost {
        return Ok(Effect::Nothing(Outcome::Done));
    }
    let fleet = Fleet::load(tables)?;
    // One that is down counts for nothing: it may turn out to be lost too.
    let lives = |member: &ServerId| member != server && fleet.fitness_of(member) > Fitness::Dead;
    if let Some(only) = groups.iter().find(|group| group.is_in_sync(server) && !group.in_sync.iter().any(lives)) {
        return Err(Rejected::OnlyCopy { server: server.clone(), group: only.group }.into());
    }
    tables.state.map_version += 1;
    if held == 0 {
        forget_server(tables, &record)?;
        return Ok(Effect::Changed(Outcome::Done));
    }
    let key = (server_kind_out(ServerKind::FileServer), server.as_str());
    tables.servers.put(key, &ServerRecord { lost: true, draining: true, ..record })?;
    let at_least = tables.cluster()?.settings.min_in_sync as usize;
    reconfigure(tables, |group| {
        let can_be_spared = !group.is_in_sync(server) || group.in_sync.len() > at_least;
        let goes = group.is_member(server) && can_be_spared;
        if goes {
            group::remove_member(group, server);
        }
        goes
    })?;
    Ok(Effect::Changed(Outcome::Done))
}

/// The server is none of the cluster's any more, and its data folder never again.
pub(super) fn forget_server(tables: &mut Tables, record: &ServerRecord) -> Result<(), Error> {
    let registration = &record.registration;
    tables.servers.remove((server_kind_out(registration.kind), registration.server.as_str()))?;
    tables.removed.insert(registration.store.0.as_u128(), tables.time.0)?;
    departures::forget(tables, &registration.server)?;
    // Nobody waits for it to delete anything.
    tables.stale_deletions.insert(registration.server.as_str(), 0)?;
    Ok(())
}

/// Groups are spread evenly at once, or that is done.
pub(super) fn rebalance(tables: &mut Tables, begin: bool) -> Result<Effect, Error> {
    if tables.state.rebalancing == begin {
        return Ok(Effect::Nothing(Outcome::Done));
    }
    tables.state.rebalancing = begin;
    Ok(Effect::Changed(Outcome::Done))
}
