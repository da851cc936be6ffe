//! What is to move where: away from servers that are gone or drained, and to those that have less than their share.
//!
//! Pure: from how things stand to the next steps, each of which the state machine checks again. A target is fit, has room,
//! and is in the zone with the fewest of the group's copies; of several it is the one with the fewest groups.
//!
//! Healing comes first, the groups with the fewest live copies before the others; then draining. Spreading waits until
//! nothing else is to be done, moves no more than it must, and never makes the zones worse.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::Group,
    types::{Epoch, GroupId, ServerId},
};

/// Moves under way at a time, in all and to one server: each is a member that fetches a whole group.
const MOVES_MAX: usize = 16;
const ARRIVALS_MAX: usize = 4;
/// Roles of servers that are drained that are passed on at a time.
pub const LEADS_MAX: usize = 8;
/// Bytes that stay free on a disk whatever moves to it.
pub const RESERVE_BYTES: u64 = 1 << 30;

/// How a file server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Fit,
    ReadOnly,
    /// Read-only for so long that it gives up its places.
    Refusing,
    Draining,
    /// Not for long: it is expected back.
    Down,
    /// For so long that whatever was to arrive there is better sent elsewhere.
    Away,
    /// For so long that it gives up its places, or it is lost.
    GivenUp,
}

impl Standing {
    fn is_live(self) -> bool {
        matches!(self, Self::Fit | Self::ReadOnly | Self::Refusing | Self::Draining)
    }
}

#[derive(Clone, Debug)]
pub struct ServerFacts {
    pub standing: Standing,
    /// A server that is drained and does not take writes, or is down, is to be moved away from all the same.
    pub draining: bool,
    /// Empty: its own.
    pub zone: String,
    /// `None`: not known.
    pub free_bytes: Option<u64>,
    pub stored_bytes: u64,
    /// It has said something to this leader; before that nothing is begun towards it.
    pub is_heard: bool,
}

/// How everything stands.
#[derive(Clone, Debug)]
pub struct Situation {
    pub groups: Vec<Group>,
    pub servers: BTreeMap<ServerId, ServerFacts>,
    /// Servers that may still hold blobs of groups that they left: they are not taken into those.
    pub departures: BTreeSet<(ServerId, GroupId)>,
    pub copies: usize,
    pub min_in_sync: usize,
    /// Groups whose lead is better left where it is.
    pub uploading: BTreeSet<GroupId>,
    /// How many roles of servers that are drained may be passed on now.
    pub leads_to_pass: usize,
    /// Servers at which groups could not arrive lately: nothing is begun towards them for a while.
    pub shunned: BTreeSet<ServerId>,
}

impl Situation {
    /// No move is under way, and every member is in sync.
    pub fn is_level(&self) -> bool {
        self.groups.iter().all(|group| group.replacement.is_none() && group.in_sync.len() == group.members.len())
    }

    /// Whether the step takes the lead from whoever has it.
    pub fn passes_lead(&self, step: &Step) -> bool {
        match step {
            Step::Drop { .. } => false,
            Step::PassLead { .. } => true,
            Step::Move { group, leaving, .. } => {
                let leads = |config: &Group| config.group == *group && leaving.as_ref() == config.primary.as_ref();
                leaving.is_some() && self.groups.iter().any(leads)
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Move { group: GroupId, epoch: Epoch, leaving: Option<ServerId>, arriving: ServerId },
    Drop { group: GroupId, epoch: Epoch },
    PassLead { group: GroupId, epoch: Epoch },
}

/// Why a group cannot go on as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// There is no further server.
    Server,
    /// There are servers, and their disks are too full.
    Room,
    /// Enough is under way already.
    Turn,
}

/// Whether as much is begun as there is to do, or as may be under way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Everything,
    Bounded,
}

/// The steps of a plan, and the groups that would need one and have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub lacking: BTreeMap<GroupId, Lack>,
}

/// Moves whose arriving member cannot go on.
pub fn drops(situation: &Situation) -> Vec<Step> {
    stuck(situation).map(|(group, _)| Step::Drop { group: group.group, epoch: group.epoch }).collect()
}

/// Servers at which groups cannot arrive, for a reason of their own.
pub fn failures(situation: &Situation) -> impl Iterator<Item = &ServerId> {
    let is_drained = |server: &ServerId| situation.servers.get(server).is_some_and(|facts| facts.draining);
    stuck(situation).map(|(_, arriving)| arriving).filter(move |arriving| !is_drained(arriving))
}

fn stuck(situation: &Situation) -> impl Iterator<Item = (&Group, &ServerId)> {
    let goes_on = |server: &ServerId| {
        let standing = situation.servers.get(server).map(|facts| facts.standing);
        matches!(standing, Some(Standing::Fit | Standing::Down))
    };
    let arriving = |group| -> Option<(&Group, &ServerId)> {
        let group: &Group = group;
        Some((group, &group.replacement.as_ref()?.arriving))
    };
    let moving = situation.groups.iter().filter_map(arriving);
    moving.filter(move |(group, arriving)| !group.is_in_sync(arriving) && !goes_on(arriving))
}

/// Moves that cannot end, because the leaving member is needed while another is gone: the one that has arrived takes that place.
pub fn settlements(situation: &Situation) -> Vec<Step> {
    let standing = |server: &ServerId| situation.servers.get(server).map(|facts| facts.standing);
    let is_gone = |server: &&ServerId| matches!(standing(server), None | Some(Standing::GivenUp | Standing::Refusing));
    let refuses = |server: &ServerId| standing(server) == Some(Standing::Refusing);
    let is_live = |server: &&ServerId| standing(server).is_some_and(Standing::is_live);
    let settlement = |group: &Group| {
        let arriving =
            &group.replacement.as_ref().filter(|replacement| group.is_in_sync(&replacement.arriving))?.arriving;
        let is_spared = |member: &&ServerId| {
            let others = || group.in_sync.iter().filter(|other| other != member);
            (!group.is_in_sync(member) || others().count() >= situation.min_in_sync)
                && (!refuses(member) || others().filter(is_live).count() >= situation.min_in_sync)
        };
        let gone = group.members.iter().filter(|member| is_gone(member) && is_spared(member));
        let leaving = gone.min_by_key(|member| (refuses(member), group.is_in_sync(member)))?.clone();
        let (group, epoch, arriving) = (group.group, group.epoch, arriving.clone());
        Some(Step::Move { group, epoch, leaving: Some(leaving), arriving })
    };
    situation.groups.iter().filter_map(settlement).collect()
}

/// New members for groups that are short, or whose members are gone or drained; and other primaries for groups that are led by
/// those who are drained.
pub fn repairs(situation: &Situation, pace: Pace) -> Plan {
    let mut planner = Planner::new(situation, pace);
    let mut groups: Vec<&Group> = situation.groups.iter().filter(|group| group.replacement.is_none()).collect();
    groups.sort_by_key(|group| (planner.live_in_sync(group), group.group));
    let mut plan = Plan::default();
    for wanted in [Wanted::Heal, Wanted::Drain] {
        for group in &groups {
            if planner.planned.contains(&group.group) || plan.lacking.contains_key(&group.group) {
                continue;
            }
            let Some(leaving) = planner.who_leaves(group, wanted) else { continue };
            match planner.target(group, leaving) {
                Ok(arriving) => plan.steps.push(planner.begin(group, leaving, &arriving)),
                Err(lack) => drop(plan.lacking.insert(group.group, lack)),
            }
        }
    }
    for group in &situation.groups {
        plan.steps.extend(planner.pass_lead(group));
    }
    plan
}

/// Moves that give every server its share; `None` while anything else is to be done.
pub fn spread(situation: &Situation, pace: Pace) -> Option<Vec<Step>> {
    let mut planner = Planner::new(situation, pace);
    if !planner.is_whole() {
        return None;
    }
    let mut steps = Vec::new();
    while planner.has_turn() {
        let Some((group, leaving, arriving)) = planner.apart().or_else(|| planner.lighter()) else { break };
        steps.push(planner.begin(group, Some(&leaving), &arriving));
    }
    Some(steps)
}

/// Whether nothing is left to be spread, also by and by and towards servers that are left alone for now.
pub fn is_even(situation: &Situation) -> bool {
    let mut open = situation.clone();
    open.shunned.clear();
    open.uploading.clear();
    open.servers.values_mut().for_each(|facts| facts.is_heard = true);
    spread(&open, Pace::Everything).is_some_and(|steps| steps.is_empty())
}

/// How many of the servers share a zone with one before them.
pub fn shared_zones<'s>(zones: impl Iterator<Item = (&'s ServerId, &'s str)>) -> usize {
    let (mut count, mut seen) = (0, BTreeSet::new());
    for (server, zone) in zones {
        count += usize::from(!seen.insert(zone_key(server, zone)));
    }
    count
}

/// A server without a zone is one by itself.
fn zone_key<'s>(server: &'s ServerId, zone: &'s str) -> (bool, &'s str) {
    if zone.is_empty() { (false, server.as_str()) } else { (true, zone) }
}

mod planner;
mod situation;

use planner::{Planner, Wanted};
pub use situation::Patience;

#[cfg(test)]
mod tests;
