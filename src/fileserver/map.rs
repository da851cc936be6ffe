//! This server's view of the cluster: groups, primaries, epochs, addresses, and who is joining the groups it leads.
//!
//! News comes from several sides (heartbeats, answers of the Directory), in any order. A view never goes back: a map
//! replaces the one before it if it is newer, and a group's configuration only ever gives way to one of a higher epoch.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use crate::{
    cluster::{self, ClusterMap, Server},
    fileserver::{
        error::{Error, Leader},
        in_sync::Group,
    },
    types::{Epoch, GroupId, Path, ServerId},
};

/// One attempt of a member to get into a group; a later one of the same member takes over from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim(u64);

#[derive(Clone, Debug)]
struct Joining {
    claim: Claim,
    /// The Directory has been asked, at this epoch, to count the member in, and may do so as long as the epoch lasts.
    asked: Option<Epoch>,
}

impl Joining {
    fn may_be_counted_in(&self, group: &Group) -> bool {
        self.asked.is_some_and(|asked| group.epoch <= asked)
    }
}

/// The cluster at one moment; never changes.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// `None` until the Directory has said.
    map: Option<ClusterMap>,
    groups: BTreeMap<GroupId, Group>,
    /// What [`Group::joiners`] holds, group by group, and how far it has come.
    joining: BTreeMap<(GroupId, ServerId), Joining>,
    claim_count: u64,
}

impl View {
    pub fn is_known(&self) -> bool {
        self.map.is_some()
    }

    pub fn group(&self, group: GroupId) -> Option<&Group> {
        self.groups.get(&group)
    }

    pub fn groups(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.groups.iter().map(|(id, group)| (*id, group))
    }

    /// The groups that a server is a member of, as the Directory says them.
    pub fn groups_of<'a>(&'a self, server: &'a ServerId) -> impl Iterator<Item = &'a cluster::Group> {
        self.map.iter().flat_map(|map| map.groups.values()).filter(move |group| group.is_member(server))
    }

    pub fn server(&self, server: &ServerId) -> Option<&Server> {
        self.map.as_ref()?.servers.get(server)
    }

    pub fn cluster_id(&self) -> String {
        self.map.as_ref().map(|map| map.cluster.to_string()).unwrap_or_default()
    }

    /// The group that a path is written to.
    pub fn group_of(&self, path: &Path) -> Result<GroupId, Error> {
        self.map.as_ref().and_then(|map| path.group(map.group_count)).ok_or(Error::NotReady)
    }

    /// The group, if this server leads it; else where to go.
    pub fn led_by(&self, group: GroupId, me: &ServerId) -> Result<&Group, Error> {
        let configuration = self.group(group).ok_or(Error::NotReady)?;
        if configuration.is_led_by(me) { Ok(configuration) } else { Err(self.not_primary(group)) }
    }

    pub fn not_primary(&self, group: GroupId) -> Error {
        let primary = self.group(group).and_then(|group| group.primary.as_ref());
        let leader = primary.and_then(|primary| self.server(primary));
        let leader =
            leader.map(|server| Leader { server: server.server.clone(), address: server.client_address().to_owned() });
        Error::NotPrimary { group, leader }
    }

    /// Whether commits have waited for the member ever since the claim was made.
    pub fn is_admitted(&self, group: GroupId, member: &ServerId, claim: Claim) -> bool {
        self.joining.get(&(group, member.clone())).is_some_and(|joining| joining.claim == claim)
    }

    fn may_dismiss(&self, group: GroupId, member: &ServerId) -> bool {
        let joining = self.joining.get(&(group, member.clone()));
        !joining.zip(self.groups.get(&group)).is_some_and(|(joining, group)| joining.may_be_counted_in(group))
    }

    fn remove_joiner(&mut self, group: GroupId, member: &ServerId) -> bool {
        self.joining.remove(&(group, member.clone()));
        self.groups.get_mut(&group).is_some_and(|group| group.joiners.remove(member))
    }

    /// Whether this is a change.
    fn take(&mut self, group: &cluster::Group, min_in_sync: usize) -> bool {
        let before = self.groups.get(&group.group);
        if before.is_some_and(|before| before.epoch > group.epoch) {
            return false;
        }
        let configuration = Group {
            epoch: group.epoch,
            members: group.members.iter().cloned().collect(),
            in_sync: group.in_sync.iter().cloned().collect(),
            primary: group.primary.clone(),
            joiners: before.map(|before| before.joiners.clone()).unwrap_or_default(),
            min_in_sync,
        };
        let changed = before.is_none_or(|before| before.epoch < group.epoch);
        if changed {
            let (epoch, primary) = (group.epoch, group.primary.as_ref().map(ServerId::as_str));
            tracing::debug!(group = %group.group, %epoch, ?primary, in_sync = ?group.in_sync, "group changed");
        }
        self.groups.insert(group.group, configuration);
        changed
    }

    /// Groups with members that are not in sync.
    fn short_count(&self) -> usize {
        self.groups.values().filter(|group| group.in_sync.len() < group.members.len()).count()
    }
}

/// The newest view, for whoever wants to be told of changes.
#[derive(Clone, Debug)]
pub struct Map {
    sender: watch::Sender<Arc<View>>,
}

impl Default for Map {
    fn default() -> Self {
        Self { sender: watch::Sender::new(Arc::default()) }
    }
}

impl Map {
    pub fn now(&self) -> Arc<View> {
        self.sender.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.sender.subscribe()
    }

    /// Takes what is newer of a map from the Directory.
    pub fn offer(&self, map: ClusterMap) {
        self.change(|view| {
            if view.map.as_ref().is_some_and(|before| before.map_version >= map.map_version) {
                return false;
            }
            let short_before = view.short_count();
            let changed = map.groups.values().filter(|group| view.take(group, map.min_in_sync as usize)).count();
            view.map = Some(map);
            let short = view.short_count();
            // One line for what a server that came or went has made of all groups; as they become whole one by one, the last.
            if changed > 1 || (short == 0) != (short_before == 0) {
                let headless = view.groups.values().filter(|group| group.primary.is_none()).count();
                tracing::info!(changed, short, headless, "groups changed");
            }
            true
        });
    }

    /// Takes one group's configuration, if it is newer.
    pub fn offer_group(&self, group: &cluster::Group) {
        self.change(|view| {
            let min_in_sync = view.map.as_ref().map_or(1, |map| map.min_in_sync as usize);
            view.take(group, min_in_sync)
        });
    }

    /// From now on every commit in the group waits for `member` too. `None` when the group is not known, or the Directory
    /// has been asked about the member already and has not answered.
    pub fn admit(&self, group: GroupId, member: &ServerId) -> Option<Claim> {
        let mut claim = None;
        self.change(|view| {
            let Some(configuration) = view.groups.get_mut(&group) else { return false };
            let before = view.joining.get(&(group, member.clone()));
            if before.is_some_and(|before| before.may_be_counted_in(configuration)) {
                return false;
            }
            view.claim_count += 1;
            let admitted = Claim(view.claim_count);
            configuration.joiners.insert(member.clone());
            view.joining.insert((group, member.clone()), Joining { claim: admitted, asked: None });
            claim = Some(admitted);
            true
        });
        claim
    }

    /// The Directory is about to be asked to count the member in. From now on, as long as the epoch lasts, only
    /// [`Self::refused`] ends the waiting for it: the Directory may say yes later than anybody expects.
    ///
    /// False when the claim is not good any more, and the Directory must not be asked.
    #[must_use]
    pub fn ask(&self, group: GroupId, member: &ServerId, claim: Claim, epoch: Epoch) -> bool {
        let mut good = false;
        self.change(|view| {
            let current = view.groups.get(&group).is_some_and(|group| group.epoch == epoch);
            let joining = view.joining.get_mut(&(group, member.clone()));
            if let Some(joining) = joining.filter(|joining| current && joining.claim == claim) {
                joining.asked = Some(epoch);
                good = true;
            }
            false
        });
        good
    }

    /// The Directory has not counted the member in and never will at the epoch it was asked about.
    pub fn refused(&self, group: GroupId, member: &ServerId, claim: Claim) {
        self.change(|view| view.is_admitted(group, member, claim) && view.remove_joiner(group, member));
    }

    /// The member joined, or gave up. Without effect while the Directory may still count it in.
    pub fn dismiss(&self, group: GroupId, member: &ServerId, claim: Claim) {
        self.change(|view| {
            let may_go = view.is_admitted(group, member, claim) && view.may_dismiss(group, member);
            may_go && view.remove_joiner(group, member)
        });
    }

    /// The member is not to be waited for in any group that it was joining at `asked`, except where the Directory may still
    /// count it in.
    pub fn dismiss_everywhere(&self, member: &ServerId, asked: &View) {
        self.change(|view| {
            let joining = view.joining.iter().filter(|((group, joiner), joining)| {
                joiner == member && asked.is_admitted(*group, joiner, joining.claim) && view.may_dismiss(*group, joiner)
            });
            let groups: Vec<GroupId> = joining.map(|((group, _), _)| *group).collect();
            groups.iter().filter(|group| view.remove_joiner(**group, member)).count() > 0
        });
    }

    fn change(&self, change: impl FnOnce(&mut View) -> bool) {
        self.sender.send_if_modified(|view| change(Arc::make_mut(view)));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::types::{ClusterId, Epoch};

    pub fn server(name: &str) -> ServerId {
        name.parse().unwrap()
    }

    fn a_group(epoch: u64, primary: &str) -> cluster::Group {
        cluster::Group {
            group: GroupId(0),
            epoch: Epoch(epoch),
            members: vec![server("a"), server("b")],
            in_sync: vec![server("a"), server("b")],
            primary: Some(server(primary)),
            replacement: None,
        }
    }

    /// Group 0 with the members `a` and `b`, both in sync.
    pub fn a_map(map_version: u64, epoch: u64, primary: &str) -> ClusterMap {
        ClusterMap {
            map_version,
            cluster: ClusterId::from_bytes([1; 16]),
            group_count: 1,
            groups: [(GroupId(0), a_group(epoch, primary))].into(),
            servers: BTreeMap::new(),
            lock_servers: vec![],
            directory_servers: vec![],
            copies: 2,
            min_in_sync: 2,
        }
    }

    fn epoch_of(map: &Map) -> Option<Epoch> {
        map.now().group(GroupId(0)).map(|group| group.epoch)
    }

    fn required(map: &Map) -> Option<usize> {
        map.now().group(GroupId(0)).map(|group| group.required().count())
    }

    #[test]
    fn a_view_never_goes_back() {
        let map = Map::default();
        map.offer(a_map(2, 5, "a"));
        map.offer(a_map(1, 4, "b"));
        assert_eq!(epoch_of(&map), Some(Epoch(5)));
        map.offer_group(&a_group(7, "b"));
        map.offer(a_map(3, 6, "a"));
        assert_eq!(epoch_of(&map), Some(Epoch(7)), "an answer was ahead of the map");
        map.offer(a_map(4, 8, "a"));
        assert_eq!(epoch_of(&map), Some(Epoch(8)));
    }

    #[test]
    fn joiners_survive_a_change_of_the_map_until_they_are_dismissed() {
        let map = Map::default();
        map.offer(a_map(1, 1, "a"));
        assert!(map.admit(GroupId(0), &server("c")).is_some());
        map.offer(a_map(2, 2, "a"));
        assert_eq!(required(&map), Some(3));
        let asked = map.now();
        map.admit(GroupId(0), &server("c")).unwrap();
        map.dismiss_everywhere(&server("c"), &asked);
        assert_eq!(required(&map), Some(3), "it has begun anew");
        map.dismiss_everywhere(&server("c"), &map.now());
        assert_eq!(required(&map), Some(2));
    }

    #[test]
    fn a_member_that_the_directory_may_still_count_in_is_waited_for() {
        let (map, group, member) = (Map::default(), GroupId(0), server("c"));
        map.offer(a_map(1, 1, "a"));
        let claim = map.admit(group, &member).unwrap();
        assert!(map.ask(group, &member, claim, Epoch(1)));
        map.dismiss_everywhere(&member, &map.now());
        map.dismiss(group, &member, claim);
        assert_eq!(required(&map), Some(3), "the Directory has not answered");
        assert_eq!(map.admit(group, &member), None);

        map.offer(a_map(2, 2, "a"));
        map.dismiss(group, &member, claim);
        assert_eq!(required(&map), Some(2), "at another epoch the question is void");
    }

    #[test]
    fn a_member_that_the_directory_refused_is_not_waited_for() {
        let (map, group, member) = (Map::default(), GroupId(0), server("c"));
        map.offer(a_map(1, 1, "a"));
        let claim = map.admit(group, &member).unwrap();
        assert!(map.ask(group, &member, claim, Epoch(1)));
        map.refused(group, &member, claim);
        assert_eq!(required(&map), Some(2));
    }

    #[test]
    fn a_claim_that_was_interrupted_or_taken_over_is_not_good_any_more() {
        let (map, group, member) = (Map::default(), GroupId(0), server("c"));
        map.offer(a_map(1, 1, "a"));
        let interrupted = map.admit(group, &member).unwrap();
        map.dismiss_everywhere(&member, &map.now());
        let newer = map.admit(group, &member).unwrap();
        assert!(!map.ask(group, &member, interrupted, Epoch(1)), "commits did not wait for a while");
        map.dismiss(group, &member, interrupted);
        assert_eq!(required(&map), Some(3), "the newer claim stands");
        assert!(!map.ask(group, &member, newer, Epoch(2)));
        assert!(map.ask(group, &member, newer, Epoch(1)));
    }

    #[test]
    fn before_the_map_is_known_nobody_leads() {
        let view = Map::default().now();
        assert!(matches!(view.group_of(&"/a".parse().unwrap()), Err(Error::NotReady)));
        assert!(matches!(view.led_by(GroupId(0), &server("a")), Err(Error::NotReady)));
    }
}
