//! A replica group's configuration: who may leave the in-sync set, and who becomes primary.
//!
//! The in-sync set is what makes a commit safe, so it only ever shrinks to members that hold everything, and not below
//! `min_in_sync`: a set that small keeps its dead members and refuses writes rather than hold what was committed on
//! too few. Every change raises the epoch, and a primary of an older epoch can commit nothing.

use crate::{
    cluster::Group,
    types::{Epoch, ServerId},
};

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

/// Adds a member that holds every committed blob.
pub(super) fn join(group: &mut Group, server: &ServerId) {
    if !group.is_in_sync(server) {
        group.in_sync.push(server.clone());
        group.in_sync.sort_unstable();
    }
}

/// Gives the role to the in-sync member, alive, that `load` says leads the fewest groups. Whether that changed anything.
///
/// A primary that is alive keeps it.
pub(super) fn elect(group: &mut Group, alive: impl Fn(&ServerId) -> bool, load: impl Fn(&ServerId) -> usize) -> bool {
    if group.primary.as_ref().is_some_and(|primary| alive(primary) && group.is_in_sync(primary)) {
        return false;
    }
    let candidates = group.in_sync.iter().filter(|member| alive(member));
    let primary = candidates.min_by_key(|member| (load(member), (*member).clone())).cloned();
    let changed = group.primary != primary;
    group.primary = primary;
    changed
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
        assert!(!elect(&mut group, |_| true, load), "a primary that is alive stays");
        assert!(elect(&mut group, |server| server.as_str() != "a", load));
        assert_eq!(group.primary, Some(server("c")));
        assert!(elect(&mut group, |server| server.as_str() == "b", load));
        assert_eq!(group.primary, Some(server("b")));
        assert!(elect(&mut group, |server| server.as_str() == "d", load), "d has not all blobs");
        assert_eq!(group.primary, None);
        assert!(!elect(&mut group, |_| false, load));
    }

    #[test]
    fn a_member_joins_once() {
        let mut group = a_group(&["a", "b"], &["b"], Some("b"));
        join(&mut group, &server("a"));
        join(&mut group, &server("a"));
        assert_eq!(group, a_group(&["a", "b"], &["a", "b"], Some("b")));
    }
}
