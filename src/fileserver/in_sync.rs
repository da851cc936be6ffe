//! Which copies a write must have before it may be committed, and what is still to be done for them.
//!
//! A write is committed only when every *required* member has all of its blobs on stable storage: the group's in-sync
//! set, and the members that are being taken into it ([`Group::joiners`]). The set may change while a write is under way,
//! so it is never copied into the write: every decision is taken against the group as it is at that moment, and the
//! Directory, which checks the epoch, has the last word.
//!
//! No clock, no I/O: the driver tells what happened and carries out what [`Copies::advance`] answers.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use crate::types::{BlobId, Epoch, ServerId};

/// A replica group as one server knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub epoch: Epoch,
    pub members: BTreeSet<ServerId>,
    /// Members whose stable storage holds every committed blob of the group; a subset of the members.
    pub in_sync: BTreeSet<ServerId>,
    /// `None` while no in-sync member is alive.
    pub primary: Option<ServerId>,
    /// Known to the primary alone: members that are about to be in sync, and already count.
    pub joiners: BTreeSet<ServerId>,
    pub min_in_sync: usize,
}

impl Group {
    /// Everyone whose copy a commit waits for, the primary itself included.
    pub fn required(&self) -> impl Iterator<Item = &ServerId> {
        self.in_sync.union(&self.joiners)
    }

    pub fn is_led_by(&self, server: &ServerId) -> bool {
        self.primary.as_ref() == Some(server)
    }
}

/// What the driver is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send the whole blob, from this server's own log, to a member that lacks it.
    Push { blob: BlobId, member: ServerId },
    /// Every required copy is durable: ask the Directory to commit, at this epoch.
    Commit { epoch: Epoch },
    /// Another server is the primary now; the write has not been committed from here.
    Deposed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    /// On its way; an answer or the loss of the connection follows.
    Sending,
    Durable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client may still add blobs.
    Open,
    /// All blobs are known.
    Complete,
    /// The Directory has been asked, and has not answered.
    Committing { epoch: Epoch },
}

/// The copies of one write, at its primary.
#[derive(Debug)]
pub struct Copies {
    primary: ServerId,
    /// In file order.
    blobs: Vec<BlobId>,
    copies: BTreeMap<(BlobId, ServerId), Copy>,
    phase: Phase,
    /// The Directory refused everything below.
    epoch_min: Epoch,
}

impl Copies {
    /// A write without blobs yet, at the server `primary`.
    pub fn new(primary: ServerId) -> Self {
        Self { primary, blobs: Vec::new(), copies: BTreeMap::new(), phase: Phase::Open, epoch_min: Epoch(0) }
    }

    /// The write goes on in a further blob.
    pub fn add(&mut self, blob: BlobId) {
        assert!(self.phase == Phase::Open, "a write that is complete gets no further blobs");
        self.blobs.push(blob);
    }

    /// In file order.
    pub fn blobs(&self) -> &[BlobId] {
        &self.blobs
    }

    /// The blob is on its way to a member.
    pub fn sending(&mut self, blob: BlobId, member: ServerId) {
        self.copies.entry((blob, member)).or_insert(Copy::Sending);
    }

    /// The member has the whole blob on stable storage.
    pub fn durable(&mut self, blob: BlobId, member: ServerId) {
        self.copies.insert((blob, member), Copy::Durable);
    }

    /// The blob was on its way and will not arrive, or the connection on which the member held it is gone.
    ///
    /// An acknowledged copy is given up too: it is durable, but the member may settle it once nobody claims it any more.
    /// Asking again costs one message and renews the claim.
    pub fn lost(&mut self, blob: BlobId, member: &ServerId) {
        self.copies.remove(&(blob, member.clone()));
    }

    /// No more blobs follow.
    pub fn complete(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Complete;
        }
    }

    /// The Directory refused the commit because the group is at another epoch.
    pub fn refused_stale(&mut self, current: Epoch) {
        if let Phase::Committing { epoch } = self.phase {
            self.epoch_min = current.max(Epoch(epoch.0.saturating_add(1)));
            self.phase = Phase::Complete;
        }
    }

    /// The commit was refused for a reason that does not concern the copies, or nothing is known of it: it may be asked again.
    pub fn not_committed(&mut self) {
        if let Phase::Committing { .. } = self.phase {
            self.phase = Phase::Complete;
        }
    }

    /// Required members that do not have everything yet.
    pub fn missing<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = &'a ServerId> {
        group.required().filter(|member| !self.has_all(member))
    }

    fn has_all(&self, member: &ServerId) -> bool {
        self.blobs.iter().all(|blob| self.copies.get(&(*blob, member.clone())) == Some(&Copy::Durable))
    }

    /// What is to be done now; nothing means wait. An effect is answered once: whoever gets it carries it out.
    pub fn advance(&mut self, group: &Group) -> Vec<Effect> {
        if let Phase::Committing { .. } = self.phase {
            return Vec::new();
        }
        if group.epoch < self.epoch_min {
            return Vec::new();
        }
        if !group.is_led_by(&self.primary) {
            return vec![Effect::Deposed];
        }
        if self.phase == Phase::Complete
            && group.in_sync.len() >= group.min_in_sync
            && self.missing(group).next().is_none()
        {
            self.phase = Phase::Committing { epoch: group.epoch };
            return vec![Effect::Commit { epoch: group.epoch }];
        }
        self.pushes(group)
    }

    /// Blobs that are whole here, and that a required member neither has nor is being sent.
    fn pushes(&mut self, group: &Group) -> Vec<Effect> {
        let mut effects = Vec::new();
        for blob in &self.blobs {
            if self.copies.get(&(*blob, self.primary.clone())) != Some(&Copy::Durable) {
                continue;
            }
            for member in group.required() {
                if let Entry::Vacant(copy) = self.copies.entry((*blob, member.clone())) {
                    copy.insert(Copy::Sending);
                    effects.push(Effect::Push { blob: *blob, member: member.clone() });
                }
            }
        }
        effects
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server(name: &str) -> ServerId {
        name.parse().unwrap()
    }

    fn servers(names: &[&str]) -> BTreeSet<ServerId> {
        names.iter().map(|name| server(name)).collect()
    }

    fn blob(number: u8) -> BlobId {
        BlobId::from_bytes([number; 16])
    }

    fn a_group(epoch: u64, in_sync: &[&str]) -> Group {
        Group {
            epoch: Epoch(epoch),
            members: servers(&["a", "b", "c"]),
            in_sync: servers(in_sync),
            primary: Some(server("a")),
            joiners: BTreeSet::new(),
            min_in_sync: 2,
        }
    }

    /// A write of one blob that is being sent to the members named.
    fn a_complete_write(sent_to: &[&str]) -> Copies {
        let mut copies = Copies::new(server("a"));
        copies.add(blob(1));
        for member in sent_to {
            copies.sending(blob(1), server(member));
        }
        copies.complete();
        copies
    }

    #[test]
    fn a_write_commits_with_the_last_acknowledgement_and_only_once() {
        let group = a_group(4, &["a", "b", "c"]);
        let mut copies = a_complete_write(&["a", "b", "c"]);
        for member in ["a", "c"] {
            copies.durable(blob(1), server(member));
            assert_eq!(copies.advance(&group), []);
        }
        assert_eq!(copies.missing(&group).collect::<Vec<_>>(), [&server("b")]);
        copies.durable(blob(1), server("b"));
        assert_eq!(copies.advance(&group), [Effect::Commit { epoch: Epoch(4) }]);
        assert_eq!(copies.advance(&group), []);
    }

    #[test]
    fn a_write_that_has_not_ended_is_never_committed() {
        let group = a_group(1, &["a", "b"]);
        let mut copies = Copies::new(server("a"));
        copies.add(blob(1));
        copies.durable(blob(1), server("a"));
        copies.durable(blob(1), server("b"));
        assert_eq!(copies.advance(&group), []);
    }

    #[test]
    fn an_empty_write_needs_no_copies() {
        let mut copies = Copies::new(server("a"));
        copies.complete();
        assert_eq!(copies.advance(&a_group(1, &["a", "b"])), [Effect::Commit { epoch: Epoch(1) }]);
    }

    #[test]
    fn an_evicted_member_is_not_waited_for() {
        let mut copies = a_complete_write(&["a", "b", "c"]);
        copies.durable(blob(1), server("a"));
        copies.durable(blob(1), server("b"));
        assert_eq!(copies.advance(&a_group(4, &["a", "b", "c"])), []);
        assert_eq!(copies.advance(&a_group(5, &["a", "b"])), [Effect::Commit { epoch: Epoch(5) }]);
    }

    #[test]
    fn a_joiner_counts_and_is_sent_what_it_lacks() {
        let mut group = a_group(4, &["a", "b"]);
        group.joiners = servers(&["c"]);
        let mut copies = a_complete_write(&["a", "b"]);
        copies.durable(blob(1), server("b"));
        assert_eq!(copies.advance(&group), [], "nothing can be pushed before it is whole here");
        copies.durable(blob(1), server("a"));
        assert_eq!(copies.advance(&group), [Effect::Push { blob: blob(1), member: server("c") }]);
        assert_eq!(copies.advance(&group), [], "a push is asked for once");
        copies.durable(blob(1), server("c"));
        assert_eq!(copies.advance(&group), [Effect::Commit { epoch: Epoch(4) }]);
    }

    #[test]
    fn what_was_lost_on_the_way_is_pushed_again() {
        let group = a_group(4, &["a", "b"]);
        let mut copies = a_complete_write(&["a", "b"]);
        copies.durable(blob(1), server("a"));
        copies.lost(blob(1), &server("b"));
        assert_eq!(copies.advance(&group), [Effect::Push { blob: blob(1), member: server("b") }]);
    }

    #[test]
    fn after_a_stale_epoch_the_new_in_sync_set_decides() {
        let old = a_group(4, &["a", "b"]);
        let mut copies = a_complete_write(&["a", "b"]);
        copies.durable(blob(1), server("a"));
        copies.durable(blob(1), server("b"));
        assert_eq!(copies.advance(&old), [Effect::Commit { epoch: Epoch(4) }]);
        copies.refused_stale(Epoch(6));
        assert_eq!(copies.advance(&old), [], "the old epoch is not tried again");
        let new = a_group(6, &["a", "b", "c"]);
        assert_eq!(copies.advance(&new), [Effect::Push { blob: blob(1), member: server("c") }]);
        copies.durable(blob(1), server("c"));
        assert_eq!(copies.advance(&new), [Effect::Commit { epoch: Epoch(6) }]);
    }

    #[test]
    fn a_deposed_primary_gives_up_unless_the_directory_has_been_asked() {
        let deposed = Group { primary: Some(server("b")), ..a_group(5, &["b", "c"]) };
        assert_eq!(a_complete_write(&["a"]).advance(&deposed), [Effect::Deposed]);

        let mut asked = a_complete_write(&["a", "b"]);
        asked.durable(blob(1), server("a"));
        asked.durable(blob(1), server("b"));
        assert_eq!(asked.advance(&a_group(4, &["a", "b"])), [Effect::Commit { epoch: Epoch(4) }]);
        assert_eq!(asked.advance(&deposed), []);
        asked.refused_stale(Epoch(5));
        assert_eq!(asked.advance(&deposed), [Effect::Deposed]);
    }

    #[test]
    fn too_few_in_sync_members_are_never_enough() {
        let group = a_group(4, &["a"]);
        let mut copies = a_complete_write(&["a"]);
        copies.durable(blob(1), server("a"));
        assert_eq!(copies.advance(&group), []);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Add,
        Complete,
        Durable(usize, usize),
        Lost(usize, usize),
        Configure { in_sync: Vec<bool>, joiners: Vec<bool>, leads: bool },
        Stale,
        Unknown,
    }

    fn some_event() -> impl Strategy<Value = Event> {
        let flags = || prop::collection::vec(any::<bool>(), 4);
        prop_oneof![
            1 => Just(Event::Add),
            1 => Just(Event::Complete),
            8 => (0..3usize, 0..4usize).prop_map(|(blob, member)| Event::Durable(blob, member)),
            2 => (0..3usize, 0..4usize).prop_map(|(blob, member)| Event::Lost(blob, member)),
            2 => (flags(), flags(), prop::bool::weighted(0.9))
                .prop_map(|(in_sync, joiners, leads)| Event::Configure { in_sync, joiners, leads }),
            1 => Just(Event::Stale),
            1 => Just(Event::Unknown),
        ]
    }

    const NAMES: [&str; 4] = ["a", "b", "c", "d"];

    fn chosen(flags: &[bool]) -> BTreeSet<ServerId> {
        NAMES.iter().zip(flags).filter(|(_, chosen)| **chosen).map(|(name, _)| server(name)).collect()
    }

    proptest! {
        /// Whatever happens in whatever order: a commit means that every required member holds every blob, as kept
        /// in a second book; and when nothing is left to wait for, the write does commit.
        #[test]
        fn no_commit_without_every_required_copy(events in prop::collection::vec(some_event(), 1..80)) {
            let mut group = a_group(1, &["a", "b"]);
            group.in_sync = servers(&["a", "b"]);
            let mut copies = Copies::new(server("a"));
            let mut held: BTreeSet<(BlobId, ServerId)> = BTreeSet::new();
            let (mut complete, mut refused_below, mut asked) = (false, Epoch(0), None::<Epoch>);

            for event in events {
                match event {
                    Event::Add if !complete && copies.blobs().len() < 3 => {
                        copies.add(blob(copies.blobs().len() as u8));
                    }
                    Event::Complete => { copies.complete(); complete = true; }
                    Event::Durable(index, member) if index < copies.blobs().len() => {
                        copies.durable(blob(index as u8), server(NAMES[member]));
                        held.insert((blob(index as u8), server(NAMES[member])));
                    }
                    Event::Lost(index, member) => {
                        copies.lost(blob(index as u8), &server(NAMES[member]));
                        held.remove(&(blob(index as u8), server(NAMES[member])));
                    }
                    Event::Configure { in_sync, joiners, leads } => {
                        group.epoch = Epoch(group.epoch.0 + 1);
                        group.in_sync = chosen(&in_sync);
                        group.joiners = chosen(&joiners);
                        group.primary = Some(server(if leads { "a" } else { "b" }));
                    }
                    Event::Stale => if let Some(epoch) = asked.take() {
                        copies.refused_stale(group.epoch);
                        refused_below = group.epoch.max(Epoch(epoch.0 + 1));
                    },
                    Event::Unknown => if asked.take().is_some() { copies.not_committed(); },
                    Event::Add | Event::Durable(..) => {}
                }
                let everywhere = group.in_sync.union(&group.joiners)
                    .all(|member| copies.blobs().iter().all(|blob| held.contains(&(*blob, member.clone()))));
                let may_commit = complete && asked.is_none() && everywhere && group.in_sync.len() >= 2
                    && group.epoch >= refused_below && group.is_led_by(&server("a"));
                let effects = copies.advance(&group);
                let commits = effects.contains(&Effect::Commit { epoch: group.epoch });
                prop_assert_eq!(commits, may_commit);
                for effect in effects {
                    match effect {
                        Effect::Commit { epoch } => { prop_assert_eq!(epoch, group.epoch); asked = Some(epoch); }
                        Effect::Push { blob, member } => {
                            prop_assert!(held.contains(&(blob, server("a"))), "only what is whole here can be pushed");
                            prop_assert!(!held.contains(&(blob, member.clone())));
                            prop_assert!(group.required().any(|required| *required == member));
                        }
                        Effect::Deposed => prop_assert!(!group.is_led_by(&server("a"))),
                    }
                }
            }
        }
    }
}
