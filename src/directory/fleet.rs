//! All groups and file servers together: what the servers are good for, who leads how much, and what that makes of each group.

use std::collections::BTreeMap;

use redb::ReadableTable;

use crate::{cluster::Group, types::ServerId};

use super::{
    command::ServerKind,
    departures,
    error::{Error, StorageError},
    group::{self, Fitness},
    model::ServerRecord,
    records::server_kind_out,
    tables::Tables,
};

/// Changes every group, and sees that each makes the best of its members. A group that changed has a new epoch.
pub(super) fn reconfigure(tables: &mut Tables, change: impl Fn(&mut Group) -> bool) -> Result<(), Error> {
    let mut fleet = Fleet::load(tables)?;
    let mut left = false;
    for mut group in all_groups(tables)? {
        let changed = change(&mut group);
        let tidied = fleet.tidy(&mut group);
        if changed || tidied {
            group::next_epoch(&mut group);
            left |= departures::put_one_of_many(tables, &group)?;
        }
    }
    if left { departures::forget_placeless(tables) } else { Ok(()) }
}

/// What the file servers are good for, and how many groups each leads.
pub(super) struct Fleet {
    fitness: BTreeMap<ServerId, Fitness>,
    led: BTreeMap<ServerId, usize>,
    min_in_sync: usize,
}

impl Fleet {
    pub fn load(tables: &Tables) -> Result<Self, Error> {
        let records = all_servers(tables, ServerKind::FileServer)?.into_iter();
        let mut fleet = Self {
            fitness: records.map(|record| (record.registration.server.clone(), record.fitness())).collect(),
            led: BTreeMap::new(),
            min_in_sync: tables.cluster()?.settings.min_in_sync as usize,
        };
        for primary in all_groups(tables)?.into_iter().filter_map(|group| group.primary) {
            *fleet.led.entry(primary).or_default() += 1;
        }
        Ok(fleet)
    }

    pub fn fitness_of(&self, server: &ServerId) -> Fitness {
        self.fitness.get(server).copied().unwrap_or(Fitness::Dead)
    }

    fn load_of(&self, server: &ServerId) -> usize {
        self.led.get(server).copied().unwrap_or_default()
    }

    /// What a member is good for in this group.
    fn fitness_in(&self, leaving: Option<&ServerId>, server: &ServerId) -> Fitness {
        let fitness = self.fitness_of(server);
        if leaving == Some(server) { fitness.min(Fitness::Leaving) } else { fitness }
    }

    /// Whoever takes no writes leaves where it can be spared, a move that can end does, and the group is led by the fittest.
    /// Whether that changed anything.
    ///
    /// A primary that is being drained keeps the role for now: the roles of a server are passed on few at a time
    /// ([`Fleet::pass_from_draining`]), or with the moves.
    pub fn tidy(&mut self, group: &mut Group) -> bool {
        let shed = group::shed(group, |server| self.fitness_of(server), self.min_in_sync);
        let finished = group::finish(group, |server| self.fitness_of(server), self.min_in_sync);
        let (leaving, primary) = (leaving(group), group.primary.clone());
        let stays = |server: &ServerId| primary.as_ref() == Some(server) && leaving.as_ref() != Some(server);
        let elected = self.elect(group, |fleet, server| match fleet.fitness_in(leaving.as_ref(), server) {
            Fitness::Leaving if stays(server) => Fitness::Fit,
            fitness => fitness,
        });
        shed || finished || elected
    }

    /// A primary that is being drained gives its role to another that can have it. Whether that changed anything.
    pub fn pass_from_draining(&mut self, group: &mut Group) -> bool {
        let leaving = leaving(group);
        let is_draining = group.primary.as_ref().is_some_and(|primary| self.fitness_of(primary) == Fitness::Leaving);
        is_draining && self.elect(group, |fleet, server| fleet.fitness_in(leaving.as_ref(), server))
    }

    fn elect(&mut self, group: &mut Group, fitness: impl Fn(&Self, &ServerId) -> Fitness) -> bool {
        let elected = group::elect(group, |server| fitness(self, server), |server| self.load_of(server));
        if let (true, Some(primary)) = (elected, group.primary.clone()) {
            *self.led.entry(primary).or_default() += 1;
        }
        elected
    }

    /// Ends a move that waits for a member who is dead. Whether that changed anything.
    pub fn settle_without(&mut self, group: &mut Group, gone: &ServerId, arriving: &ServerId) -> bool {
        let settled = group.is_arriving(arriving)
            && group::settle_without(group, gone, |server| self.fitness_of(server), self.min_in_sync);
        if settled {
            self.tidy(group);
        }
        settled
    }

    pub fn pass_on(&mut self, group: &mut Group) -> bool {
        let leaving = leaving(group);
        let fitness = |server: &ServerId| self.fitness_in(leaving.as_ref(), server);
        let before = group::pass_on(group, fitness, |server| self.load_of(server));
        let (Some(before), Some(primary)) = (before, group.primary.clone()) else { return false };
        *self.led.entry(primary).or_default() += 1;
        if let Some(led) = self.led.get_mut(&before) {
            *led = led.saturating_sub(1);
        }
        true
    }
}

fn leaving(group: &Group) -> Option<ServerId> {
    group.replacement.as_ref().map(|replacement| replacement.leaving.clone())
}

pub(super) fn all_groups(tables: &Tables) -> Result<Vec<Group>, StorageError> {
    tables
        .groups
        .table
        .iter()?
        .map(|row| {
            let (key, value) = row?;
            tables.groups.decode(key.value(), value.value())
        })
        .collect()
}

pub(super) fn all_servers(tables: &Tables, kind: ServerKind) -> Result<Vec<ServerRecord>, StorageError> {
    let kind = server_kind_out(kind);
    tables
        .servers
        .table
        .range((kind, "")..(kind + 1, ""))?
        .map(|row| {
            let (key, value) = row?;
            tables.servers.decode(key.value(), value.value())
        })
        .collect()
}
