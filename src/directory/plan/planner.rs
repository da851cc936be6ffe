//! One round of planning: what each server has, will have and may still take, as the steps planned so far change it.

use std::collections::{BTreeMap, BTreeSet};

use super::{ARRIVALS_MAX, Lack, MOVES_MAX, Pace, RESERVE_BYTES, ServerFacts, Situation, Standing, Step, zone_key};
use crate::{
    cluster::Group,
    types::{GroupId, ServerId},
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Heal,
    Drain,
}

pub(super) struct Planner<'s> {
    situation: &'s Situation,
    pace: Pace,
    /// Groups that each server will have when all moves have ended.
    loads: BTreeMap<&'s ServerId, usize>,
    /// Groups that are on their way to each server.
    arrivals: BTreeMap<ServerId, usize>,
    moves: usize,
    pub planned: BTreeSet<GroupId>,
    /// Roles of servers that are drained that are still to be passed on now.
    leads_to_pass: usize,
    /// Groups that are without a move, and of which a server that is up has not all yet.
    catching_up: BTreeMap<&'s ServerId, usize>,
    /// Groups of which each server has all.
    held: BTreeMap<&'s ServerId, u64>,
}

impl<'s> Planner<'s> {
    pub fn new(situation: &'s Situation, pace: Pace) -> Self {
        let mut planner = Self {
            situation,
            pace,
            loads: situation.servers.keys().map(|server| (server, 0)).collect(),
            arrivals: BTreeMap::new(),
            moves: 0,
            planned: BTreeSet::new(),
            leads_to_pass: if pace == Pace::Everything { usize::MAX } else { situation.leads_to_pass },
            catching_up: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        for group in &situation.groups {
            for member in &group.in_sync {
                *planner.held.entry(member).or_default() += 1;
            }
            for member in group.members.iter().filter(|member| !group.is_leaving(member)) {
                if let Some(load) = planner.loads.get_mut(member) {
                    *load += 1;
                }
            }
            match &group.replacement {
                Some(replacement) => planner.count_arrival(&replacement.arriving),
                None => planner.count_catching_up(group),
            }
        }
        planner
    }

    fn count_arrival(&mut self, server: &ServerId) {
        self.moves += 1;
        *self.arrivals.entry(server.clone()).or_default() += 1;
    }

    fn count_catching_up(&mut self, group: &'s Group) {
        for member in group.members.iter().filter(|member| !group.is_in_sync(member)) {
            if self.standing(member) == Standing::Fit {
                *self.catching_up.entry(member).or_default() += 1;
            }
        }
    }

    fn facts(&self, server: &ServerId) -> Option<&'s ServerFacts> {
        self.situation.servers.get(server)
    }

    fn standing(&self, server: &ServerId) -> Standing {
        self.facts(server).map_or(Standing::GivenUp, |facts| facts.standing)
    }

    fn load(&self, server: &ServerId) -> usize {
        self.loads.get(server).copied().unwrap_or_default()
    }

    pub fn has_turn(&self) -> bool {
        self.pace == Pace::Everything || self.moves < MOVES_MAX
    }

    /// As [`Planner::has_turn`], for an empty place. Who fills one is seen only to catch up, like one that is back; so places are
    /// filled while few groups do.
    fn has_turn_to_fill(&self) -> bool {
        let catching_up: usize = self.catching_up.values().sum();
        self.pace == Pace::Everything || self.moves + catching_up < MOVES_MAX
    }

    fn catching_up(&self, server: &ServerId) -> usize {
        self.catching_up.get(server).copied().unwrap_or_default()
    }

    /// Whether the group is led by a server that is drained, and another could lead it.
    fn is_led_by_draining(&self, group: &Group) -> bool {
        let primary = group.primary.as_ref();
        primary.is_some_and(|primary| self.standing(primary) == Standing::Draining)
            && group.in_sync.iter().any(|member| self.standing(member) == Standing::Fit)
    }

    /// The role of a primary that is drained goes to another, if it is its turn and no other step concerns the group.
    pub fn pass_lead(&mut self, group: &Group) -> Option<Step> {
        let is_free = group.replacement.is_none() && !self.planned.contains(&group.group);
        let passes = self.leads_to_pass > 0 && is_free && self.is_led_by_draining(group);
        passes.then(|| {
            self.leads_to_pass -= 1;
            Step::PassLead { group: group.group, epoch: group.epoch }
        })
    }

    pub fn live_in_sync(&self, group: &Group) -> usize {
        group.in_sync.iter().filter(|member| self.standing(member).is_live()).count()
    }

    /// `Some(None)`: the group has an empty place.
    pub fn who_leaves(&self, group: &'s Group, wanted: Wanted) -> Option<Option<&'s ServerId>> {
        let is_draining = |member: &&ServerId| self.facts(member).is_some_and(|facts| facts.draining);
        let stands = |standing| group.members.iter().find(|member| self.standing(member) == standing);
        match wanted {
            Wanted::Drain => group.members.iter().find(is_draining).map(Some),
            Wanted::Heal if group.members.len() < self.situation.copies => Some(None),
            Wanted::Heal => stands(Standing::GivenUp).or_else(|| stands(Standing::Refusing)).map(Some),
        }
    }

    /// The best server for a copy of the group.
    pub fn target(&self, group: &Group, leaving: Option<&ServerId>) -> Result<ServerId, Lack> {
        let fills = leaving.is_none();
        let leads = leaving.is_some_and(|leaving| group.is_primary(leaving));
        if !self.has_turn() || (fills && !self.has_turn_to_fill()) || (leads && self.leads_to_pass == 0) {
            return Err(Lack::Turn);
        }
        let fit: Vec<&ServerId> = self.fit().filter(|server| self.may_hold(server, group)).collect();
        let roomy: Vec<&ServerId> = fit.iter().copied().filter(|server| self.has_room(server, group)).collect();
        let best = roomy
            .iter()
            .filter(|server| self.has_place(server) && !(fills && self.catches_up(server)))
            .min_by_key(|server| (self.shared_with(group, leaving, server), self.load(server), (**server).clone()));
        match best {
            Some(best) => Ok((*best).clone()),
            None if fit.is_empty() => Err(Lack::Server),
            None if roomy.is_empty() => Err(Lack::Room),
            None => Err(Lack::Turn),
        }
    }

    fn fit(&self) -> impl Iterator<Item = &'s ServerId> + use<'s> {
        let all = self.situation.servers.iter();
        all.filter(|(_, facts)| facts.standing == Standing::Fit).map(|(server, _)| server)
    }

    fn may_hold(&self, server: &ServerId, group: &Group) -> bool {
        !group.is_member(server) && !self.situation.departures.contains(&(server.clone(), group.group))
    }

    /// Few enough groups are on their way there, and that went well lately.
    fn has_place(&self, server: &ServerId) -> bool {
        let is_heard = || self.facts(server).is_some_and(|facts| facts.is_heard);
        let few = || self.arrivals(server) < ARRIVALS_MAX;
        self.pace == Pace::Everything || (is_heard() && few() && !self.situation.shunned.contains(server))
    }

    /// It has as much to fetch as it may have, for groups that do not move.
    fn catches_up(&self, server: &ServerId) -> bool {
        self.pace == Pace::Bounded && self.arrivals(server) + self.catching_up(server) >= ARRIVALS_MAX
    }

    fn arrivals(&self, server: &ServerId) -> usize {
        self.arrivals.get(server).copied().unwrap_or_default()
    }

    /// For this group and for what is on its way there already, to fill places as well.
    fn has_room(&self, server: &ServerId, group: &Group) -> bool {
        let Some(free) = self.facts(server).and_then(|facts| facts.free_bytes) else { return true };
        let filling = self.catching_up(server).min(ARRIVALS_MAX);
        let coming = (self.arrivals(server) + filling) as u64 + 1;
        let bytes = self.bytes_of(group);
        bytes == 0 || bytes.saturating_mul(coming).saturating_add(RESERVE_BYTES) <= free
    }

    /// About how much a group holds: what its members hold, shared evenly between their groups.
    fn bytes_of(&self, group: &Group) -> u64 {
        let of = |member: &ServerId| {
            let groups = self.held.get(member).copied().unwrap_or_default();
            self.facts(member).map_or(0, |facts| facts.stored_bytes.checked_div(groups).unwrap_or_default())
        };
        group.in_sync.iter().map(of).max().unwrap_or_default()
    }

    fn zone(&self, server: &'s ServerId) -> (bool, &'s str) {
        zone_key(server, self.facts(server).map_or("", |facts| facts.zone.as_str()))
    }

    /// How many members that stay are in the server's zone.
    fn shared_with(&self, group: &Group, leaving: Option<&ServerId>, server: &'s ServerId) -> usize {
        let stay = self.situation.servers.keys().filter(|known| group.is_member(known) && Some(*known) != leaving);
        stay.filter(|member| self.zone(member) == self.zone(server)).count()
    }

    pub fn begin(&mut self, group: &Group, leaving: Option<&ServerId>, arriving: &ServerId) -> Step {
        self.count_arrival(arriving);
        self.planned.insert(group.group);
        if leaving.is_some_and(|leaving| group.is_primary(leaving)) {
            self.leads_to_pass = self.leads_to_pass.saturating_sub(1);
        }
        if let Some(load) = leaving.and_then(|leaving| self.loads.get_mut(leaving)) {
            *load = load.saturating_sub(1);
        }
        if let Some(load) = self.loads.get_mut(arriving) {
            *load += 1;
        }
        let (group, epoch) = (group.group, group.epoch);
        Step::Move { group, epoch, leaving: leaving.cloned(), arriving: arriving.clone() }
    }

    /// Nobody who holds a group is away or drained, and every group has as many members as there can be.
    pub fn is_whole(&self) -> bool {
        let fit = self.fit().count();
        let wanted = self.situation.copies.min(fit);
        let is_settled = |member: &ServerId| matches!(self.standing(member), Standing::Fit | Standing::ReadOnly);
        self.situation.groups.iter().all(|group| {
            let drains = group.members.iter().any(|member| self.facts(member).is_none_or(|facts| facts.draining));
            group.place_count() >= wanted && group.members.iter().all(is_settled) && !drains
        })
    }

    /// A group that may be moved to make things more even: nothing about it is under way.
    fn movable(&self) -> impl Iterator<Item = &'s Group> {
        self.situation.groups.iter().filter(|group| {
            let is_level = group.in_sync.len() == group.members.len();
            group.replacement.is_none() && is_level && !self.planned.contains(&group.group)
        })
    }

    fn may_leave(&self, group: &Group, server: &ServerId) -> bool {
        !(group.is_primary(server) && self.situation.uploading.contains(&group.group))
    }

    fn may_arrive(&self, group: &Group, server: &ServerId) -> bool {
        self.may_hold(server, group) && self.has_place(server) && self.has_room(server, group)
    }

    /// A copy that shares a zone with another of its group, and one that it need not share.
    pub fn apart(&self) -> Option<(&'s Group, ServerId, ServerId)> {
        self.movable().find_map(|group| {
            let members = || self.situation.servers.keys().filter(|server| group.is_member(server));
            let shares = |member: &&'s ServerId| self.shared_with(group, Some(member), member) > 0;
            let leaving = members().filter(shares).filter(|member| self.may_leave(group, member));
            let leaving = leaving.max_by_key(|member| (self.load(member), !group.is_primary(member)))?;
            let free = self
                .fit()
                .filter(|server| self.may_arrive(group, server) && self.shared_with(group, Some(leaving), server) == 0);
            let arriving = free.min_by_key(|server| self.load(server))?;
            Some((group, leaving.clone(), arriving.clone()))
        })
    }

    /// A move from the server with the most groups that can give one to one with at least two fewer. Two, so that each step
    /// makes the loads more even, and none is ever taken back.
    pub fn lighter(&self) -> Option<(&'s Group, ServerId, ServerId)> {
        let mut servers: Vec<&'s ServerId> = self.fit().collect();
        servers.sort_by_key(|server| (self.load(server), *server));
        for leaving in servers.iter().rev() {
            for arriving in servers.iter().take_while(|arriving| self.load(arriving) + 2 <= self.load(leaving)) {
                let fits = |group: &&'s Group| {
                    let no_worse = self.shared_with(group, Some(leaving), arriving)
                        <= self.shared_with(group, Some(leaving), leaving);
                    group.is_member(leaving)
                        && no_worse
                        && self.may_leave(group, leaving)
                        && self.may_arrive(group, arriving)
                };
                let best = self.movable().filter(fits).min_by_key(|group| (group.is_primary(leaving), group.group));
                if let Some(group) = best {
                    return Some((group, (*leaving).clone(), (*arriving).clone()));
                }
            }
        }
        None
    }
}
