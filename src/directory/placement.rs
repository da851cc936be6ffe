//! Which servers make a group: every server gets its share, primaries too, and copies of a group stay in different zones
//! where there are enough.
//!
//! The same servers always give the same groups, in whatever order they registered.

use std::collections::BTreeMap;

use crate::{
    cluster::Group,
    types::{Epoch, GroupId, ServerId},
};

/// A server that may hold groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub server: ServerId,
    /// Empty: its own.
    pub zone: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    member_of: u32,
    primary_of: u32,
}

/// The first configuration of all groups: every member in sync, since there is nothing yet to be out of sync with.
pub(super) fn place(candidates: &[Candidate], group_count: u32, copies: u32) -> Vec<Group> {
    let mut loads: BTreeMap<&ServerId, Load> =
        candidates.iter().map(|candidate| (&candidate.server, Load::default())).collect();
    let mut groups = Vec::with_capacity(group_count as usize);
    for group in 0..group_count {
        let mut chosen: Vec<&Candidate> = Vec::new();
        while chosen.len() < copies as usize {
            let Some(next) = next_member(candidates, &chosen, &loads) else { break };
            chosen.push(next);
        }
        for member in &chosen {
            loads.entry(&member.server).or_default().member_of += 1;
        }
        let primary = chosen
            .iter()
            .map(|member| &member.server)
            .min_by_key(|server| (loads.get(server).copied().unwrap_or_default().primary_of, *server));
        if let Some(primary) = primary {
            loads.entry(primary).or_default().primary_of += 1;
        }
        let mut members: Vec<ServerId> = chosen.iter().map(|member| member.server.clone()).collect();
        members.sort_unstable();
        groups.push(Group {
            group: GroupId(group),
            epoch: Epoch(1),
            in_sync: members.clone(),
            members,
            primary: primary.cloned(),
            replacement: None,
        });
    }
    groups
}

/// The server that is in the fewest groups, of those in the zones that hold the fewest of this group's copies.
fn next_member<'c>(
    candidates: &'c [Candidate],
    chosen: &[&Candidate],
    loads: &BTreeMap<&ServerId, Load>,
) -> Option<&'c Candidate> {
    let zone = |candidate: &Candidate| {
        if candidate.zone.is_empty() { candidate.server.to_string() } else { format!("zone {}", candidate.zone) }
    };
    let free = candidates.iter().filter(|candidate| chosen.iter().all(|member| member.server != candidate.server));
    free.min_by_key(|candidate| {
        let same_zone = chosen.iter().filter(|member| zone(member) == zone(candidate)).count();
        let load = loads.get(&candidate.server).copied().unwrap_or_default();
        (same_zone, load.member_of, candidate.server.clone())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(zones: &[&str]) -> Vec<Candidate> {
        let candidate = |(number, zone): (usize, &&str)| Candidate {
            server: format!("s{number:02}").parse().unwrap(),
            zone: (*zone).to_owned(),
        };
        zones.iter().enumerate().map(candidate).collect()
    }

    fn spread(counts: impl Iterator<Item = usize> + Clone) -> usize {
        counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
    }

    #[test]
    fn copies_are_in_different_zones_when_there_are_enough() {
        let servers = candidates(&["x", "x", "x", "y", "y", "z"]);
        for group in place(&servers, 64, 3) {
            let mut zones: Vec<&str> = group
                .members
                .iter()
                .map(|member| servers.iter().find(|server| server.server == *member).unwrap().zone.as_str())
                .collect();
            zones.sort_unstable();
            assert_eq!(zones, ["x", "y", "z"]);
        }
    }

    #[test]
    fn a_group_has_as_many_members_as_there_are() {
        let groups = place(&candidates(&["", ""]), 3, 3);
        assert!(groups.iter().all(|group| group.members.len() == 2 && group.in_sync.len() == 2));
    }

    proptest! {
        #[test]
        fn every_server_has_its_share(servers in 1usize..12, group_count in 1u32..100, copies in 1u32..5) {
            let servers = candidates(&vec![""; servers]);
            let groups = place(&servers, group_count, copies);
            prop_assert_eq!(groups.len(), group_count as usize);
            for group in &groups {
                let mut members = group.members.clone();
                members.dedup();
                prop_assert_eq!(members.len(), servers.len().min(copies as usize));
                prop_assert_eq!(&group.in_sync, &group.members);
                prop_assert!(group.primary.as_ref().is_some_and(|primary| group.is_in_sync(primary)));
            }
            let member_of =
                servers.iter().map(|server| groups.iter().filter(|group| group.is_member(&server.server)).count());
            let primary_of =
                servers.iter().map(|server| groups.iter().filter(|group| group.is_primary(&server.server)).count());
            prop_assert!(spread(member_of) <= 1);
            prop_assert!(spread(primary_of) <= 2, "{:?}", groups);
            let mut reversed = servers.clone();
            reversed.reverse();
            prop_assert_eq!(place(&reversed, group_count, copies), groups);
        }
    }
}
