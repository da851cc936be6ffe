//! How the cluster is, in words for the person who has to look after it.
//!
//! Pure: from the cluster map (with what the servers last said about themselves) and a few counts to a list of checks.
//! A check that is fine says nothing, so that what is listed wants attention. Codes are stable, texts are not.

use std::fmt::Display;

use super::{
    damage::{self, Reports},
    plan,
};
use crate::{
    cluster::{ClusterMap, Group, Server, ServerState},
    types::{GroupId, ServerId, Timestamp},
};

/// Share of a disk from which it is called nearly full, and full.
const DISK_NEARLY_FULL_PERCENT: u64 = 85;
const DISK_FULL_PERCENT: u64 = 95;
/// Subjects named by one check; the summary has the whole number.
const SUBJECTS_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Ok,
    /// Everything works, but less may fail before it does not.
    Warn,
    /// Something cannot be read or written now.
    Error,
}

/// Something that wants attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub code: &'static str,
    pub health: Health,
    pub summary: String,
    pub hint: &'static str,
    pub subjects: Vec<String>,
}

/// What the checks look at beside the map.
#[derive(Clone, Debug)]
pub struct Facts {
    /// File servers without which no groups are made.
    pub initial_fileservers: u32,
    pub garbage_blobs: u64,
    /// Whether a node of the Lock service says that it leads; `None` while that is not known.
    pub lock_is_led: Option<bool>,
    /// What file servers say of their copies.
    pub stores: Reports,
    /// What keeps groups from moving.
    pub obstacles: Obstacles,
    pub now: Timestamp,
}

/// What keeps groups from moving, as far as that is not seen in the map.
#[derive(Clone, Debug, Default)]
pub struct Obstacles {
    /// Groups that need another member, and for which no disk has room.
    pub without_room: Vec<GroupId>,
    /// Servers at which groups could not arrive lately.
    pub shunned: Vec<ServerId>,
}

/// What wants attention, worst first.
pub fn checks(map: &ClusterMap, facts: &Facts) -> Vec<Check> {
    let mut checks: Vec<Check> = [
        servers(map),
        groups(map),
        places(map),
        moves(&facts.obstacles),
        disks(map),
        lock(map, facts),
        garbage(map, facts),
    ]
    .concat();
    checks.extend(not_begun(map, facts));
    checks.extend(damage::checks(&facts.stores, facts.now));
    checks.sort_by_key(|check| std::cmp::Reverse(check.health));
    checks
}

/// As healthy as the worst check.
pub fn overall(checks: &[Check]) -> Health {
    checks.iter().map(|check| check.health).max().unwrap_or(Health::Ok)
}

pub(super) fn check<S: Display>(
    code: &'static str,
    health: Health,
    summary: String,
    hint: &'static str,
    subjects: impl Iterator<Item = S>,
) -> Check {
    Check { code, health, summary, hint, subjects: subjects.take(SUBJECTS_MAX).map(|name| name.to_string()).collect() }
}

/// Nodes of the Directory that do not vote: their names, and whether they have lost their log.
pub fn learning(nodes: impl Iterator<Item = (String, bool)>) -> Option<Check> {
    let nodes: Vec<_> = nodes.collect();
    let (count, lost) = (nodes.len(), nodes.iter().filter(|(_, lost)| *lost).count());
    (count > 0).then(|| {
        let why = if lost == 0 { String::new() } else { format!("; {lost} of them found the log damaged or gone") };
        let summary = format!("{count} nodes of the Directory do not vote until they are level{why}");
        let hint =
            "they are brought level by themselves; see `dfs-cli members ls`, and the disk of a node that lost its log";
        check("DIRECTORY_NODE_LEARNING", Health::Warn, summary, hint, nodes.into_iter().map(|(name, _)| name))
    })
}

fn not_begun(map: &ClusterMap, facts: &Facts) -> Option<Check> {
    let (have, needed) = (map.servers.len(), facts.initial_fileservers);
    (map.group_count == 0).then(|| {
        let summary = format!("{have} of {needed} file servers have registered: nothing can be stored yet");
        let hint = "start the missing file servers; groups are made as soon as there are enough";
        check("TOO_FEW_SERVERS", Health::Error, summary, hint, map.servers.keys())
    })
}

fn servers(map: &ClusterMap) -> Vec<Check> {
    let down: Vec<&Server> = map.servers.values().filter(|server| server.state == ServerState::Down).collect();
    if down.is_empty() {
        return Vec::new();
    }
    let summary = format!("{} of {} file servers are down", down.len(), map.servers.len());
    let hint = "start them again, or look why they cannot reach the Directory; they catch up by themselves";
    vec![check("SERVER_DOWN", Health::Warn, summary, hint, down.iter().map(|server| &server.server))]
}

/// How many copies a group's blobs have, and what that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// Every member is live and in sync, but for one that is only arriving.
    Full,
    /// Fewer than there should be, enough for writes.
    Short,
    /// It can only be read.
    BelowMinimum,
    /// It can neither be written nor read.
    WithoutPrimary,
}

pub fn state_of(map: &ClusterMap, group: &Group) -> GroupState {
    let live = live_in_sync(map, group);
    match group.primary {
        None => GroupState::WithoutPrimary,
        Some(_) if live < map.min_in_sync as usize => GroupState::BelowMinimum,
        Some(_) if live < copies_due(map, group) => GroupState::Short,
        Some(_) => GroupState::Full,
    }
}

/// How many copies a group should have now: an empty place counts where there is a server for it.
pub fn copies_due(map: &ClusterMap, group: &Group) -> usize {
    let fit = map.servers.values().filter(|server| is_fit(server)).count();
    group.place_count().max(fit.min(map.copies as usize))
}

fn is_fit(server: &Server) -> bool {
    server.state == ServerState::Up && server.read_only_reason.is_empty()
}

fn live_in_sync(map: &ClusterMap, group: &Group) -> usize {
    let up = |id| map.servers.get(id).is_some_and(|server| server.state != ServerState::Down);
    group.in_sync.iter().filter(|id| up(id)).count()
}

fn groups(map: &ClusterMap) -> Vec<Check> {
    let all = |state| map.groups.values().filter(move |group| state_of(map, group) == state).collect();
    let ids = |groups: &[&Group]| groups.iter().map(|group| group.group).collect::<Vec<_>>().into_iter();
    let min_in_sync = map.min_in_sync;
    let headless: Vec<&Group> = all(GroupState::WithoutPrimary);
    let stuck: Vec<&Group> = all(GroupState::BelowMinimum);
    let short: Vec<&Group> = all(GroupState::Short);
    let mut checks = Vec::new();
    if !headless.is_empty() {
        let summary =
            format!("{} groups have no live primary: their files can neither be written nor read", headless.len());
        let hint = "start a server of these groups that was in sync; only those hold everything that was acknowledged";
        checks.push(check("GROUP_WITHOUT_PRIMARY", Health::Error, summary, hint, ids(&headless)));
    }
    if !stuck.is_empty() {
        let summary =
            format!("{} groups have fewer than {min_in_sync} live servers in sync: they can only be read", stuck.len());
        let hint = "start the servers that are down; writes go on as soon as enough of them have caught up";
        checks.push(check("GROUP_BELOW_MINIMUM", Health::Error, summary, hint, ids(&stuck)));
    }
    if !short.is_empty() {
        let summary = shortage(map, &short);
        let hint = "nothing to do while servers catch up; else start the servers that are down";
        checks.push(check("GROUP_SHORT", Health::Warn, summary, hint, ids(&short)));
    }
    checks
}

/// Groups that lack a copy for which there is no server, and copies that need not share a zone.
fn places(map: &ClusterMap) -> Vec<Check> {
    let is_fit = |server: &&Server| is_fit(server);
    let spare = |group: &Group| map.servers.values().filter(is_fit).find(|server| !group.is_member(&server.server));
    let goes =
        |server: &Server| server.state == ServerState::Down || server.draining || !server.read_only_reason.is_empty();
    let is_gone = |id: &ServerId| map.servers.get(id).is_none_or(goes);
    let lacks = |group: &&Group| group.place_count() < map.copies as usize || group.members.iter().any(is_gone);
    let stranded: Vec<&Group> = map
        .groups
        .values()
        .filter(lacks)
        .filter(|group| group.replacement.is_none() && spare(group).is_none())
        .collect();
    let zone = |id: &ServerId| map.servers.get(id).map_or("", |server| server.zone.as_str());
    let zones = |group: &Group, more: Option<&Server>| {
        let all = group.members.iter().chain(more.map(|server| &server.server)).map(|id| (id, zone(id)));
        plan::shared_zones(all)
    };
    let crowded: Vec<&Group> = map
        .groups
        .values()
        .filter(|group| {
            let shared = zones(group, None);
            let apart = |server: &Server| !group.is_member(&server.server) && zones(group, Some(server)) == shared;
            shared > 0 && map.servers.values().filter(is_fit).any(apart)
        })
        .collect();
    let ids = |groups: &[&Group]| groups.iter().map(|group| group.group).collect::<Vec<_>>().into_iter();
    let mut checks = Vec::new();
    if !stranded.is_empty() {
        let summary = format!("{} groups lack a copy, and there is no other file server to hold it", stranded.len());
        let hint = "add a file server, or start those that are down; the copies are made by themselves";
        checks.push(check("NO_SPARE_SERVER", Health::Warn, summary, hint, ids(&stranded)));
    }
    if !crowded.is_empty() {
        let summary = format!("copies of {} groups share a zone though another zone has a server", crowded.len());
        let hint = "run dfs-cli rebalance; when the cluster is calm they are moved apart by themselves";
        checks.push(check("ZONE_SHARED", Health::Warn, summary, hint, ids(&crowded)));
    }
    checks
}

/// What keeps groups from moving that have somewhere to go.
fn moves(obstacles: &Obstacles) -> Vec<Check> {
    let mut checks = Vec::new();
    let crowded = &obstacles.without_room;
    if !crowded.is_empty() {
        let free = plan::RESERVE_BYTES >> 30;
        let summary = format!(
            "{} groups need another member, and no other file server has room for it with {free} GiB left free",
            crowded.len()
        );
        let hint =
            "add a file server or disk space, or let fewer old versions be kept; the copies are made by themselves";
        checks.push(check("NO_ROOM", Health::Warn, summary, hint, crowded.iter()));
    }
    let shunned = &obstacles.shunned;
    if !shunned.is_empty() {
        let summary = format!("groups that were moving to {} file servers could not arrive there", shunned.len());
        let hint = "see whether their disks are full or failing, and whether they are up; groups go elsewhere, and are sent \
                    there again after a minute, after longer each time that it fails";
        checks.push(check("MOVES_FAILED", Health::Warn, summary, hint, shunned.iter()));
    }
    checks
}

/// How many copies are short, what that means, and what is being done.
fn shortage(map: &ClusterMap, short: &[&Group]) -> String {
    let live = |group: &Group| live_in_sync(map, group);
    let copies: usize = short.iter().map(|group| copies_due(map, group).saturating_sub(live(group))).sum();
    let at_risk = short.iter().filter(|group| live(group) <= map.min_in_sync as usize).count();
    let is_up = |id: &&ServerId| map.servers.get(*id).is_some_and(|server| server.state != ServerState::Down);
    let joins = |group: &Group| group.members.iter().filter(is_up).any(|id| !group.is_in_sync(id));
    let catching_up = short.iter().filter(|group| joins(group)).count();
    let mut summary = format!(
        "{} groups are short of {copies} copies: nothing is lost, and writes go on; one more server lost would stop the writes \
         of {at_risk} of them",
        short.len()
    );
    if catching_up > 0 {
        summary.push_str(&format!("; in {catching_up} a server is catching up"));
    }
    summary
}

fn percent_used(server: &Server) -> u64 {
    let (used, total) = (u128::from(server.disk_used_bytes), u128::from(server.disk_total_bytes));
    (used * 100).checked_div(total).unwrap_or(0) as u64
}

fn disks(map: &ClusterMap) -> Vec<Check> {
    let up = || map.servers.values().filter(|server| server.state != ServerState::Down);
    let mut checks = Vec::new();
    let read_only: Vec<&Server> = up().filter(|server| !server.read_only_reason.is_empty()).collect();
    if let Some(first) = read_only.first() {
        let summary = format!("{} file servers take no writes: {}", read_only.len(), first.read_only_reason);
        let hint = "a disk that is full: free space; one that does not answer: look after it; both come back by themselves. After a \
                    failed write or sync: replace the disk if it fails, then start the server again. Others take the \
                    places of one for which it lasts longer than --repair-after";
        checks.push(check(
            "SERVER_READ_ONLY",
            Health::Error,
            summary,
            hint,
            read_only.iter().map(|server| &server.server),
        ));
    }
    let between = |low: u64, high: u64| up().filter(move |server| (low..high).contains(&percent_used(server)));
    let hint = "add disk space, or let fewer old versions be kept";
    for (code, health, low, high) in [
        ("DISK_FULL", Health::Error, DISK_FULL_PERCENT, u64::MAX),
        ("DISK_NEARLY_FULL", Health::Warn, DISK_NEARLY_FULL_PERCENT, DISK_FULL_PERCENT),
    ] {
        let count = between(low, high).count();
        if count > 0 {
            let summary = format!("the disks of {count} file servers are more than {low} % full");
            checks.push(check(code, health, summary, hint, between(low, high).map(|server| &server.server)));
        }
    }
    checks
}

fn lock(map: &ClusterMap, facts: &Facts) -> Vec<Check> {
    let all = || map.lock_servers.iter();
    let down = || all().filter(|server| server.state == ServerState::Down);
    let (count, down_count) = (all().count(), down().count());
    let hint = "start dfs-lock; writes that name if_version, and appends, go on without it";
    let (code, health, summary) = if count == 0 {
        ("LOCK_MISSING", Health::Error, "no Lock service has registered: locks cannot be taken".to_owned())
    } else if down_count == count {
        ("LOCK_DOWN", Health::Error, "the Lock service is down: locks cannot be taken".to_owned())
    } else if facts.lock_is_led == Some(false) {
        let summary =
            format!("no node of the Lock service leads, {down_count} of {count} are down: locks cannot be taken");
        ("LOCK_WITHOUT_LEADER", Health::Error, summary)
    } else if down_count > 0 {
        ("LOCK_NODE_DOWN", Health::Warn, format!("{down_count} of {count} nodes of the Lock service are down"))
    } else {
        return Vec::new();
    };
    let subjects: Vec<_> = if down_count > 0 { down().collect() } else { all().collect() };
    vec![check(code, health, summary, hint, subjects.iter().map(|server| &server.server))]
}

/// Garbage is nothing to worry about, unless those who should delete it are away.
fn garbage(map: &ClusterMap, facts: &Facts) -> Vec<Check> {
    let down = || map.servers.values().filter(|server| server.state == ServerState::Down);
    if facts.garbage_blobs == 0 || down().next().is_none() {
        return Vec::new();
    }
    let summary =
        format!("{} blobs that nobody needs wait to be deleted by servers that are down", facts.garbage_blobs);
    let hint = "they are deleted when the servers are back; until then they take space on them";
    vec![check("GARBAGE_WAITING", Health::Warn, summary, hint, down().map(|server| &server.server))]
}

#[cfg(test)]
mod tests;
