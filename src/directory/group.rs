//! A replica group's configuration: who may leave the in-sync set, who becomes primary, and how members are replaced.
//!
//! The in-sync set is what makes a commit safe, so it only ever shrinks to members that hold everything, and not below
//! `min_in_sync`: a set that small keeps its dead members and refuses writes rather than hold what was committed on
//! too few. Every change raises the epoch, and a primary of an older epoch can commit nothing.

use crate::{
    cluster::{Group, Replacement},
    types::{Epoch, ServerId},
};

/// What a server is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fitness {
    Dead,
    /// Alive, and its store takes no writes.
    ReadOnly,
    /// Good for everything, and about to go: it leads only where nobody else can.
    Leaving,
    Fit,
}

/// Takes a member out of the in-sync set, if `at_least` others remain. Whether that changed anything.
///
/// The primary's role is not passed on here: see [`elect`].
pub(super) fn leave(group: &mut Group, server: &ServerId, at_least: usize) -> bool {
    if !group.is_in_sync(server) || group.in_sync.len() <= at_least {
        return false;
    }
    group.in_sync.retain(|member| member != server);
    if group.is_primary(server) {
        group.primary = None;
    }
    true
}

/// Takes members that take no writes out of the in-sync set, as far as `at_least` others remain. Whether that changed anything.
pub(super) fn shed(group: &mut Group, fitness: impl Fn(&ServerId) -> Fitness, at_least: usize) -> bool {
    let before = group.in_sync.clone();
    for member in before.iter().filter(|member| fitness(member) == Fitness::ReadOnly) {
        leave(group, member, at_least);
    }
    group.in_sync != before
}

/// Adds a member that holds every committed blob.
pub(super) fn join(group: &mut Group, server: &ServerId) {
    if !group.is_in_sync(server) {
        group.in_sync.push(server.clone());
        group.in_sync.sort_unstable();
    }
}

/// Begins a move: `arriving` is a member from now on, not in sync, and takes the place of `leaving` when it is.
pub(super) fn replace(group: &mut Group, leaving: &ServerId, arriving: &ServerId) {
    add_member(group, arriving);
    group.replacement = Some(Replacement { leaving: leaving.clone(), arriving: arriving.clone() });
}

/// A further member, not in sync.
pub(super) fn add_member(group: &mut Group, server: &ServerId) {
    group.members.push(server.clone());
    group.members.sort_unstable();
}

/// Ends a move whose arriving member is in sync: the leaving one is no member any more. Whether that changed anything.
///
/// It stays while the set could not spare it: at least `at_least` others must be in sync, and alive if it is.
pub(super) fn finish(group: &mut Group, fitness: impl Fn(&ServerId) -> Fitness, at_least: usize) -> bool {
    let Some(Replacement { leaving, arriving }) = group.replacement.clone() else { return false };
    if !group.is_in_sync(&arriving) {
        return false;
    }
    let others = || group.in_sync.iter().filter(|member| **member != leaving);
    let alive = others().filter(|member| fitness(member) > Fitness::Dead).count();
    let can_be_spared = others().count() >= at_least && (alive >= at_least || fitness(&leaving) == Fitness::Dead);
    if group.is_in_sync(&leaving) && !can_be_spared {
        return false;
    }
    remove_member(group, &leaving);
    true
}

/// A move whose arriving member is in sync, and whose leaving one cannot be spared, ends without `gone`, who is dead or takes no
/// writes: the arriving member takes that place, and the leaving one stays. If `gone` is the arriving member itself the move is given up.
/// Whether that changed anything.
pub(super) fn settle_without(
    group: &mut Group,
    gone: &ServerId,
    fitness: impl Fn(&ServerId) -> Fitness,
    at_least: usize,
) -> bool {
    let Some(Replacement { arriving, .. }) = group.replacement.clone() else { return false };
    let others = || group.in_sync.iter().filter(|member| *member != gone);
    let alive = others().filter(|member| fitness(member) > Fitness::Dead).count();
    // One that takes no writes has a copy all the same, which may come to be the last.
    let is_spared = (!group.is_in_sync(gone) || others().count() >= at_least)
        && (fitness(gone) == Fitness::Dead || alive >= at_least);
    if !group.is_in_sync(&arriving) || !group.is_member(gone) || fitness(gone) > Fitness::ReadOnly || !is_spared {
        return false;
    }
    remove_member(group, gone);
    group.replacement = None;
    true
}

/// Gives up a move whose arriving member is not in sync: that one is no member any more. Whether that changed anything.
pub(super) fn drop_arriving(group: &mut Group) -> bool {
    let Some(Replacement { arriving, .. }) = group.replacement.clone() else { return false };
    if group.is_in_sync(&arriving) {
        return false;
    }
    remove_member(group, &arriving);
    true
}

/// Whoever it was to be replaced by, the server is back, and in sync: it keeps its place. Whether that changed anything.
pub(super) fn keep_place(group: &mut Group, server: &ServerId) -> bool {
    group.is_leaving(server) && group.is_in_sync(server) && drop_arriving(group)
}

/// Takes a server out of the group altogether. A move that it had a part in is over.
pub(super) fn remove_member(group: &mut Group, server: &ServerId) {
    group.members.retain(|member| member != server);
    group.in_sync.retain(|member| member != server);
    if group.is_primary(server) {
        group.primary = None;
    }
    if group.is_leaving(server) || group.is_arriving(server) {
        group.replacement = None;
    }
}

/// Gives the role to the fittest in-sync member, of several to the one that `load` says leads the fewest groups; to none that is
/// dead. Whether that changed anything.
///
/// A primary than which none is fitter keeps it.
pub(super) fn elect(
    group: &mut Group,
    fitness: impl Fn(&ServerId) -> Fitness,
    load: impl Fn(&ServerId) -> usize,
) -> bool {
    let best = group.in_sync.iter().map(&fitness).max().filter(|best| *best > Fitness::Dead);
    let candidates = group.in_sync.iter().filter(|member| Some(fitness(member)) == best);
    let stays = |member: &&ServerId| group.is_primary(member);
    let primary = match candidates.clone().find(stays) {
        Some(primary) => Some(primary.clone()),
        None => candidates.min_by_key(|member| (load(member), (*member).clone())).cloned(),
    };
    let changed = group.primary != primary;
    group.primary = primary;
    changed
}

/// Passes the role on to a fit in-sync member that leads at least two groups fewer. Answers who had it.
///
/// Two, so that each step makes the loads more even, and none is ever taken back.
pub(super) fn pass_on(
    group: &mut Group,
    fitness: impl Fn(&ServerId) -> Fitness,
    load: impl Fn(&ServerId) -> usize,
) -> Option<ServerId> {
    let before = group.primary.clone().filter(|primary| fitness(primary) == Fitness::Fit)?;
    let candidates = group.in_sync.iter().filter(|member| fitness(member) == Fitness::Fit);
    let least = candidates.min_by_key(|member| (load(member), (*member).clone()))?;
    if load(least) + 2 > load(&before) {
        return None;
    }
    group.primary = Some(least.clone());
    Some(before)
}

/// One change of the configuration.
pub(super) fn next_epoch(group: &mut Group) {
    group.epoch = Epoch(group.epoch.0 + 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::GroupId;

    fn a_group(members: &[&str], in_sync: &[&str], primary: Option<&str>) -> Group {
        let ids = |ids: &[&str]| ids.iter().map(|id| id.parse().unwrap()).collect();
        Group {
            group: GroupId(0),
            epoch: Epoch(1),
            members: ids(members),
            in_sync: ids(in_sync),
            primary: primary.map(|id| id.parse().unwrap()),
            replacement: None,
        }
    }

    fn server(id: &str) -> ServerId {
        id.parse().unwrap()
    }

    #[test]
    fn a_member_leaves_only_while_enough_others_remain() {
        let mut group = a_group(&["a", "b", "c"], &["a", "b", "c"], Some("a"));
        assert!(leave(&mut group, &server("a"), 2));
        assert_eq!(group, a_group(&["a", "b", "c"], &["b", "c"], None));
        assert!(!leave(&mut group, &server("b"), 2), "two must remain");
        assert!(!leave(&mut group, &server("a"), 1), "it has left already");
        assert!(leave(&mut group, &server("b"), 1));
        assert!(!leave(&mut group, &server("c"), 1), "one must remain");
    }

    #[test]
    fn only_a_member_in_sync_and_alive_is_elected_the_least_loaded_first() {
        let mut group = a_group(&["a", "b", "c", "d"], &["a", "b", "c"], Some("a"));
        let load = |server: &ServerId| if server.as_str() == "b" { 2 } else { 1 };
        let alive = |names: &'static [&'static str]| {
            move |server: &ServerId| if names.contains(&server.as_str()) { Fitness::Fit } else { Fitness::Dead }
        };
        assert!(!elect(&mut group, alive(&["a", "b", "c", "d"]), load), "a primary that is alive stays");
        assert!(elect(&mut group, alive(&["b", "c", "d"]), load));
        assert_eq!(group.primary, Some(server("c")));
        assert!(elect(&mut group, alive(&["b"]), load));
        assert_eq!(group.primary, Some(server("b")));
        assert!(elect(&mut group, alive(&["d"]), load), "d has not all blobs");
        assert_eq!(group.primary, None);
        assert!(!elect(&mut group, alive(&[]), load));
    }

    #[test]
    fn one_that_takes_no_writes_leads_only_where_nobody_is_fitter() {
        let mut group = a_group(&["a", "b", "c"], &["a", "b", "c"], Some("a"));
        let read_only = |names: &'static [&'static str]| {
            move |server: &ServerId| if names.contains(&server.as_str()) { Fitness::ReadOnly } else { Fitness::Fit }
        };
        assert!(elect(&mut group, read_only(&["a", "b"]), |_| 0));
        assert_eq!(group.primary, Some(server("c")));
        assert!(!elect(&mut group, read_only(&["a", "b", "c"]), |_| 0), "nobody is better");
        assert!(shed(&mut group, read_only(&["a", "b", "c"]), 2));
        assert_eq!(group.in_sync, a_group(&[], &["b", "c"], None).in_sync, "two must remain");
        assert!(!shed(&mut group, read_only(&["b"]), 2));
    }

    #[test]
    fn the_role_is_passed_on_only_where_that_makes_the_loads_more_even() {
        let mut group = a_group(&["a", "b", "c"], &["a", "b"], Some("a"));
        let fit = |_: &ServerId| Fitness::Fit;
        let loads = |a: usize, b: usize| move |server: &ServerId| if server.as_str() == "a" { a } else { b };
        assert_eq!(pass_on(&mut group, fit, loads(3, 2)), None);
        assert_eq!(
            pass_on(
                &mut group,
                |server| if server.as_str() == "a" { Fitness::Fit } else { Fitness::ReadOnly },
                loads(3, 0)
            ),
            None
        );
        assert_eq!(pass_on(&mut group, fit, loads(3, 1)), Some(server("a")));
        assert_eq!(group.primary, Some(server("b")));
        assert_eq!(pass_on(&mut group, fit, loads(2, 2)), None, "it is not taken back");
    }

    #[test]
    fn a_member_joins_once() {
        let mut group = a_group(&["a", "b"], &["b"], Some("b"));
        join(&mut group, &server("a"));
        join(&mut group, &server("a"));
        assert_eq!(group, a_group(&["a", "b"], &["a", "b"], Some("b")));
    }
}
