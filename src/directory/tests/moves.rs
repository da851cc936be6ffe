//! Groups that move: step by step, and at random with a book of who holds which blob.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::directory::{
    lease::Stats,
    plan::{self, Pace, Patience, Situation, Step},
    records::server_kind_out,
};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const REPAIR_AFTER: u64 = 10 * MINUTE;

fn groups(world: &World) -> Vec<Group> {
    world.view().groups().unwrap()
}

fn ids(ids: &[&str]) -> Vec<ServerId> {
    ids.iter().map(|id| server(id)).collect()
}

fn register(world: &mut World, id: &str, store: u128) -> Result<Outcome, Rejected> {
    world.try_apply(Command::RegisterServer { registration: a_registration(id, store) })
}

fn a_world_with(more: &[&str]) -> World {
    let mut world = World::new();
    for id in more {
        let store = NAMES.iter().position(|name| name == id).unwrap() as u128;
        register(&mut world, id, store).unwrap();
    }
    world
}

fn begin(world: &mut World, group: u32, leaving: &str, arriving: &str) -> Result<Group, Rejected> {
    let (group, epoch) = (GroupId(group), world.group(group).epoch);
    let (leaving, arriving) = (Some(server(leaving)), server(arriving));
    world.try_apply(Command::MoveGroup { group, epoch, leaving, arriving })?;
    Ok(world.group(group.0))
}

fn join(world: &mut World, group: u32, member: &str) -> Group {
    let config = world.group(group);
    let (primary, epoch) = (config.primary.unwrap(), config.epoch);
    world.expect(Command::AddInSync { primary, group: GroupId(group), epoch, member: server(member) });
    world.group(group)
}

fn mark_down(world: &mut World, id: &str) {
    world.expect(Command::MarkDown { server: server(id) });
}

fn departures(world: &World, id: &str) -> Vec<(GroupId, Epoch)> {
    world.view().departures_of(&server(id)).unwrap()
}

#[test]
fn a_move_is_over_when_the_new_member_is_in_sync_and_the_lead_passes_on_first() {
    let mut world = a_world_with(&["d"]);
    let before = world.group(0);
    let leaving = before.primary.clone().unwrap();
    let begun = begin(&mut world, 0, leaving.as_str(), "d").unwrap();
    assert_eq!((begun.epoch, &begun.in_sync, begun.members.len()), (Epoch(2), &before.in_sync, 4));
    assert!(begun.is_leaving(&leaving) && begun.is_arriving(&server("d")) && begun.place_count() == 3);
    assert!(begun.primary.is_some() && !begun.is_primary(&leaving));
    let busy = begin(&mut world, 0, "b", "d");
    assert_eq!(busy, Err(Rejected::GroupMoves { group: GroupId(0) }));

    let ended = join(&mut world, 0, "d");
    assert_eq!((ended.epoch, ended.members.len(), ended.in_sync.len()), (Epoch(3), 3, 3));
    assert!(ended.is_in_sync(&server("d")) && !ended.is_member(&leaving) && ended.replacement.is_none());
    assert_eq!(departures(&world, leaving.as_str()), [(GroupId(0), Epoch(3))]);
}

#[test]
fn who_may_still_hold_old_copies_is_not_taken_again() {
    let mut world = a_world_with(&["d"]);
    begin(&mut world, 0, "b", "d").unwrap();
    join(&mut world, 0, "d");
    let refused = begin(&mut world, 0, "d", "b");
    assert_eq!(refused, Err(Rejected::CannotArrive { server: server("b"), group: GroupId(0) }));
    let confirm = |epoch| Command::ConfirmEmptied { server: server("b"), groups: vec![(GroupId(0), Epoch(epoch))] };
    world.expect(confirm(2));
    assert_eq!(departures(&world, "b").len(), 1, "that was about an earlier time");
    world.expect(confirm(3));
    assert_eq!(departures(&world, "b"), []);
    begin(&mut world, 0, "d", "b").unwrap();
}

#[test]
fn only_a_fit_stranger_is_taken_at_the_epoch_that_was_looked_at() {
    let mut world = a_world_with(&["d", "e"]);
    let cannot = |id: &str| Err(Rejected::CannotArrive { server: server(id), group: GroupId(0) });
    assert_eq!(begin(&mut world, 0, "a", "b"), cannot("b"), "a member");
    assert_eq!(begin(&mut world, 0, "a", "nobody"), cannot("nobody"));
    mark_down(&mut world, "e");
    assert_eq!(begin(&mut world, 0, "a", "e"), cannot("e"));
    world.expect(Command::DrainServer { server: server("d") });
    assert_eq!(begin(&mut world, 0, "a", "d"), cannot("d"));
    world.expect(Command::ResumeServer { server: server("d") });
    let not_one = begin(&mut world, 0, "e", "d");
    assert_eq!(not_one, Err(Rejected::NotAMember { server: server("e"), group: GroupId(0) }));
    let command = |epoch, leaving| Command::MoveGroup { group: GroupId(0), epoch, leaving, arriving: server("d") };
    let stale = world.try_apply(command(Epoch(9), Some(server("a"))));
    assert_eq!(stale, Err(Rejected::StaleEpoch { group: GroupId(0), current: world.group(0).epoch }));
    let whole = world.try_apply(command(world.group(0).epoch, None));
    assert_eq!(whole, Err(Rejected::CannotArrive { server: server("d"), group: GroupId(0) }));
}

#[test]
fn whoever_is_level_first_keeps_the_place() {
    for back_in_time in [true, false] {
        let mut world = a_world_with(&["d"]);
        mark_down(&mut world, "b");
        begin(&mut world, 0, "b", "d").unwrap();
        world.expect(Command::MarkUp { server: server("b") });
        let first = if back_in_time { "b" } else { "d" };
        let ended = join(&mut world, 0, first);
        let members = if back_in_time { ids(&["a", "b", "c"]) } else { ids(&["a", "c", "d"]) };
        assert_eq!((&ended.members, &ended.in_sync, &ended.replacement), (&members, &members, &None));
    }
}

#[test]
fn a_server_that_could_not_be_spared_keeps_its_place_as_soon_as_it_is_back() {
    let mut world = a_world_with(&["d"]);
    mark_down(&mut world, "a");
    mark_down(&mut world, "b");
    assert_eq!(world.group(0).in_sync, ids(&["b", "c"]));
    begin(&mut world, 0, "b", "d").unwrap();
    world.expect(Command::MarkUp { server: server("b") });
    let kept = world.group(0);
    assert_eq!((kept.members, kept.in_sync, kept.replacement), (ids(&["a", "b", "c"]), ids(&["b", "c"]), None));
}

#[test]
fn a_member_that_is_needed_stays_until_the_others_are_enough() {
    let mut world = a_world_with(&["d"]);
    mark_down(&mut world, "a");
    begin(&mut world, 0, "b", "d").unwrap();
    mark_down(&mut world, "c");
    let joined = join(&mut world, 0, "d");
    assert_eq!(joined.in_sync, ids(&["b", "c", "d"]));
    assert!(joined.replacement.is_some(), "without b only d would be alive");
    world.expect(Command::MarkUp { server: server("c") });
    let ended = world.group(0);
    assert_eq!((ended.members, ended.in_sync, ended.replacement), (ids(&["a", "c", "d"]), ids(&["c", "d"]), None));
}

#[test]
fn a_drained_server_leads_nothing_gets_nothing_and_may_resume() {
    let mut world = a_world_with(&["d", "e"]);
    begin(&mut world, 0, "b", "d").unwrap();
    world.expect(Command::DrainServer { server: server("d") });
    assert_eq!(world.group(0).replacement, None, "it was on its way there");
    world.expect(Command::DrainServer { server: server("a") });
    assert!(groups(&world).iter().all(|group| !group.is_primary(&server("a")) && group.is_in_sync(&server("a"))));
    let too_few = world.try_apply(Command::DrainServer { server: server("b") });
    assert_eq!(too_few, Err(Rejected::TooFewServers { server: server("b"), needed: 3, have: 2 }));
    begin(&mut world, 1, "a", "e").unwrap();
    world.expect(Command::MarkDown { server: server("a") });
    world.expect(Command::MarkUp { server: server("a") });
    assert!(join(&mut world, 1, "a").replacement.is_some(), "level or not, it is to go");
    world.expect(Command::ResumeServer { server: server("a") });
    assert_eq!(world.group(1).members, ids(&["a", "b", "c"]));
    let record = world.view().server(ServerKind::FileServer, &server("a")).unwrap().unwrap();
    assert!(!record.draining);
}

#[test]
fn what_is_removed_is_empty_or_lost_and_its_folder_never_comes_back() {
    let mut world = a_world_with(&["d"]);
    let remove =
        |world: &mut World, id: &str, lost| world.try_apply(Command::RemoveServer { server: server(id), lost });
    let b = server("b");
    assert_eq!(remove(&mut world, "b", false), Err(Rejected::ServerHoldsGroups { server: b.clone(), groups: 4 }));
    assert_eq!(remove(&mut world, "b", true), Err(Rejected::ServerNotLost { server: b.clone() }));
    assert_eq!(remove(&mut world, "d", false), Err(Rejected::ServerInUse { server: server("d") }));
    world.expect(Command::DrainServer { server: server("d") });
    remove(&mut world, "d", false).unwrap();
    assert_eq!(remove(&mut world, "d", false), Ok(Outcome::Done), "the answer was lost, and the call came again");
    let removed = |id| Err(Rejected::ServerRemoved { server: server(id) });
    assert_eq!(register(&mut world, "d", 3), removed("d"));
    register(&mut world, "d", 33).unwrap();

    mark_down(&mut world, "b");
    remove(&mut world, "b", true).unwrap();
    assert_eq!(world.view().server(ServerKind::FileServer, &b).unwrap(), None, "no group needed it");
    assert!(groups(&world).iter().all(|group| group.members == ids(&["a", "c"]) && group.epoch == Epoch(3)));
    assert_eq!((departures(&world, "b"), register(&mut world, "b", 1)), (vec![], removed("b")));
}

#[test]
fn a_lost_server_that_cannot_be_spared_is_replaced_first() {
    let mut world = a_world_with(&["d"]);
    mark_down(&mut world, "a");
    mark_down(&mut world, "b");
    world.expect(Command::RemoveServer { server: server("b"), lost: true });
    assert!(groups(&world).iter().all(|group| group.in_sync == ids(&["b", "c"])), "two must remain");
    let back = world.try_apply(Command::MarkUp { server: server("b") });
    assert_eq!(back, Err(Rejected::ServerRemoved { server: server("b") }));
    assert_eq!(register(&mut world, "b", 1), Err(Rejected::ServerRemoved { server: server("b") }));
    for group in 0..4 {
        begin(&mut world, group, "b", "d").unwrap();
        assert_eq!(join(&mut world, group, "d").in_sync, ids(&["c", "d"]));
    }
    assert_eq!(world.view().server(ServerKind::FileServer, &server("b")).unwrap(), None, "it went with its last place");
    mark_down(&mut world, "c");
    mark_down(&mut world, "d");
    world.expect(Command::RegisterServer { registration: a_registration("c", 22) });
    let only = world.try_apply(Command::RemoveServer { server: server("d"), lost: true });
    assert_eq!(only, Err(Rejected::OnlyCopy { server: server("d"), group: GroupId(0) }));
}

#[test]
fn the_last_copies_are_not_given_up_one_after_the_other() {
    let mut world = a_world_with(&["d"]);
    for id in ["a", "b", "c"] {
        mark_down(&mut world, id);
    }
    let in_sync = world.group(0).in_sync;
    assert_eq!(in_sync, ids(&["b", "c"]));
    for id in ["b", "c"] {
        let only = world.try_apply(Command::RemoveServer { server: server(id), lost: true });
        assert_eq!(only, Err(Rejected::OnlyCopy { server: server(id), group: GroupId(0) }));
    }
    world.expect(Command::MarkUp { server: server("c") });
    world.expect(Command::RemoveServer { server: server("b"), lost: true });
    mark_down(&mut world, "c");
    world.expect(Command::RemoveServer { server: server("b"), lost: true });
}

#[test]
fn a_move_ends_without_a_member_that_died_meanwhile() {
    let mut world = a_world_with(&["d", "e"]);
    world.expect(Command::DrainServer { server: server("c") });
    begin(&mut world, 0, "c", "d").unwrap();
    mark_down(&mut world, "a");
    mark_down(&mut world, "b");
    assert_eq!(join(&mut world, 0, "d").in_sync, ids(&["b", "c", "d"]));
    assert_eq!(begin(&mut world, 0, "d", "d"), Err(Rejected::GroupMoves { group: GroupId(0) }), "d lives");
    assert_eq!(begin(&mut world, 0, "b", "e"), Err(Rejected::GroupMoves { group: GroupId(0) }));
    let settled = begin(&mut world, 0, "b", "d").unwrap();
    assert_eq!(
        (settled.members, settled.in_sync, settled.replacement),
        (ids(&["a", "c", "d"]), ids(&["c", "d"]), None)
    );
    begin(&mut world, 0, "a", "e").unwrap();
    assert_eq!(join(&mut world, 0, "e").members, ids(&["c", "d", "e"]));
}

#[test]
fn nobody_waits_for_a_server_that_left_to_delete_garbage() {
    let mut world = a_world_with(&["d"]);
    let group = path("/f").group(4).unwrap().0;
    world.write("/f", b"x");
    world.delete("/f");
    world.pass(25 * HOUR);
    world.collect();
    world.pass(GRACE);
    world.collect();
    let told = |world: &World, id: &str| world.view().blobs_to_delete(&server(id), 10).unwrap();
    let blobs = told(&world, "b");
    assert_eq!(blobs.len(), 1);
    for id in ["a", "c"] {
        world.expect(Command::ConfirmDeleted { server: server(id), blobs: blobs.clone() });
    }
    assert_eq!(world.view().counts().unwrap().garbage_blobs, 1);
    begin(&mut world, group, "b", "d").unwrap();
    join(&mut world, group, "d");
    world.collect();
    assert_eq!((told(&world, "b"), world.view().counts().unwrap().garbage_blobs), (vec![], 0));
}

/// Something that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Op {
    Write { file: usize },
    Delete { file: usize },
    MarkDown { server: usize },
    MarkUp { server: usize },
    MarkReadOnly { server: usize },
    MarkWritable { server: usize },
    Begin { group: u32, leaving: usize, arriving: usize },
    Drop { group: u32 },
    Join { group: u32, member: usize },
    Evict { group: u32, member: usize },
    Drain { server: usize },
    Resume { server: usize },
    Remove { server: usize, lost: bool },
    Register { server: usize },
    Empty { server: usize },
    DeleteBlobs { server: usize },
    Plan,
    Collect,
    Pass { millis: u64 },
}

fn an_op() -> impl Strategy<Value = Op> {
    let one = || 0..NAMES.len();
    let group = || 0..4u32;
    prop_oneof![
        6 => (0..6usize).prop_map(|file| Op::Write { file }),
        2 => (0..6usize).prop_map(|file| Op::Delete { file }),
        2 => one().prop_map(|server| Op::MarkDown { server }),
        3 => one().prop_map(|server| Op::MarkUp { server }),
        1 => one().prop_map(|server| Op::MarkReadOnly { server }),
        2 => one().prop_map(|server| Op::MarkWritable { server }),
        5 => (group(), one(), one()).prop_map(|(group, leaving, arriving)| Op::Begin { group, leaving, arriving }),
        1 => group().prop_map(|group| Op::Drop { group }),
        12 => (group(), one()).prop_map(|(group, member)| Op::Join { group, member }),
        1 => (group(), one()).prop_map(|(group, member)| Op::Evict { group, member }),
        1 => one().prop_map(|server| Op::Drain { server }),
        1 => one().prop_map(|server| Op::Resume { server }),
        1 => (one(), any::<bool>()).prop_map(|(server, lost)| Op::Remove { server, lost }),
        2 => one().prop_map(|server| Op::Register { server }),
        3 => one().prop_map(|server| Op::Empty { server }),
        2 => one().prop_map(|server| Op::DeleteBlobs { server }),
        2 => Just(Op::Plan),
        2 => Just(Op::Collect),
        2 => prop_oneof![Just(SECOND), Just(REPAIR_AFTER), Just(30 * HOUR)].prop_map(|millis| Op::Pass { millis }),
    ]
}

/// A world with the book of who holds what.
struct Run {
    world: World,
    held: BTreeSet<(ServerId, BlobId)>,
    groups_of_blobs: BTreeMap<BlobId, GroupId>,
    /// The data folder of each server; it gets a new one when it was removed.
    stores: BTreeMap<usize, u128>,
}

impl Run {
    fn new() -> Self {
        let world = a_world_with(&["d", "e"]);
        let stores = (0..NAMES.len()).map(|number| (number, number as u128)).collect();
        Self { world, held: BTreeSet::new(), groups_of_blobs: BTreeMap::new(), stores }
    }

    fn write(&mut self, file: usize) {
        let at = format!("/f{file}");
        let version = self.world.look(&at).map_or(0, |found| found.entry.version.0);
        let commit = self.world.a_replace(&at, &[file as u8], if_version(version));
        let (group, blob) = (commit.group, commit.pieces[0].0);
        let in_sync = self.world.group(group.0).in_sync;
        if self.world.try_commit(commit).is_ok() {
            // As its primary sees to it before it asks for the commit.
            self.held.extend(in_sync.into_iter().map(|member| (member, blob)));
            self.groups_of_blobs.insert(blob, group);
        }
    }

    /// The member fetches all that the primary has, and is taken in.
    fn join(&mut self, group: u32, member: &ServerId) {
        let config = self.world.group(group);
        let Some(primary) = config.primary.clone() else { return };
        let command = Command::AddInSync {
            primary: primary.clone(),
            group: config.group,
            epoch: config.epoch,
            member: member.clone(),
        };
        if config.is_member(member) {
            let of_group = |blob: &BlobId| self.groups_of_blobs.get(blob) == Some(&config.group);
            let blobs: Vec<BlobId> = self
                .held
                .iter()
                .filter(|(holder, blob)| *holder == primary && of_group(blob))
                .map(|(_, blob)| *blob)
                .collect();
            self.held.extend(blobs.into_iter().map(|blob| (member.clone(), blob)));
        }
        self.world.apply(&command);
    }

    /// The server deletes what it was told to have left.
    fn empty(&mut self, server: &ServerId) {
        let groups = self.world.view().departures_of(server).unwrap();
        let left: BTreeSet<GroupId> = groups.iter().map(|(group, _)| *group).collect();
        let of_blobs = &self.groups_of_blobs;
        self.held.retain(|(holder, blob)| holder != server || of_blobs.get(blob).is_none_or(|at| !left.contains(at)));
        self.world.apply(&Command::ConfirmEmptied { server: server.clone(), groups });
    }

    fn delete(&mut self, server: &ServerId) {
        let blobs = self.world.view().blobs_to_delete(server, 3).unwrap();
        self.held.retain(|(holder, blob)| holder != server || !blobs.contains(blob));
        self.world.apply(&Command::ConfirmDeleted { server: server.clone(), blobs });
    }

    fn situation(&self) -> Situation {
        let patience = Patience { now: self.world.now, repair_after_ms: REPAIR_AFTER, led_ms: 0, waits: false };
        let stats = NAMES.map(|name| (server(name), Stats::default())).into();
        Situation::of(&self.world.view(), patience, &stats).unwrap()
    }

    fn plan(&mut self) {
        let situation = self.situation();
        let mut steps = plan::drops(&situation);
        steps.extend(plan::settlements(&situation));
        steps.extend(plan::repairs(&situation, Pace::Bounded).steps);
        steps.extend(plan::spread(&situation, Pace::Bounded).unwrap_or_default());
        for step in steps {
            self.world.expect(match step {
                Step::Move { group, epoch, leaving, arriving } => {
                    Command::MoveGroup { group, epoch, leaving, arriving }
                }
                Step::Drop { group, epoch } => Command::DropArriving { group, epoch },
            });
        }
    }

    fn register(&mut self, number: usize) {
        let id = server(NAMES[number]);
        let store = self.stores[&number];
        if register(&mut self.world, NAMES[number], store) == Err(Rejected::ServerRemoved { server: id.clone() }) {
            // Somebody gives the machine an empty folder.
            self.stores.insert(number, store + 100);
            if register(&mut self.world, NAMES[number], store + 100).is_ok() {
                self.held.retain(|(holder, _)| *holder != id);
            }
        }
    }

    fn run(&mut self, op: &Op) {
        let id = |number: usize| server(NAMES[number]);
        let command = match op.clone() {
            Op::Write { file } => return self.write(file),
            Op::Join { group, member } => return self.join(group, &id(member)),
            Op::Empty { server } => return self.empty(&id(server)),
            Op::DeleteBlobs { server } => return self.delete(&id(server)),
            Op::Plan => return self.plan(),
            Op::Register { server } => return self.register(server),
            Op::Pass { millis } => return self.world.pass(millis),
            Op::Collect => return self.world.collect(),
            Op::Delete { file } => {
                return drop(self.world.try_delete(&format!("/f{file}"), true, Precondition::default()));
            }
            Op::MarkDown { server } => Command::MarkDown { server: id(server) },
            Op::MarkUp { server } => Command::MarkUp { server: id(server) },
            Op::MarkReadOnly { server } => Command::MarkReadOnly { server: id(server), reason: "full".to_owned() },
            Op::MarkWritable { server } => Command::MarkWritable { server: id(server) },
            Op::Begin { group, leaving, arriving } => {
                let epoch = self.world.group(group).epoch;
                let leaving = Some(id(leaving));
                Command::MoveGroup { group: GroupId(group), epoch, leaving, arriving: id(arriving) }
            }
            Op::Drop { group } => Command::DropArriving { group: GroupId(group), epoch: self.world.group(group).epoch },
            Op::Evict { group, member } => {
                let config = self.world.group(group);
                let Some(primary) = config.primary else { return };
                Command::EvictReplica { primary, suspect: id(member), groups: vec![(config.group, config.epoch)] }
            }
            Op::Drain { server } => Command::DrainServer { server: id(server) },
            Op::Resume { server } => Command::ResumeServer { server: id(server) },
            Op::Remove { server, lost } => Command::RemoveServer { server: id(server), lost },
        };
        self.world.apply(&command);
    }

    fn check(&self, before: &[Group], op: &Op) {
        for (group, before) in groups(&self.world).iter().zip(before) {
            let context = format!("{op:?} made {group:?} of {before:?}");
            assert!(group.in_sync.len() >= 2, "{context}");
            assert!(group.in_sync.iter().all(|member| group.is_member(member)), "{context}");
            assert!(group.primary.as_ref().is_none_or(|primary| group.is_in_sync(primary)), "{context}");
            assert!(group.members.len() <= 3 + usize::from(group.replacement.is_some()), "{context}");
            let distinct: BTreeSet<&ServerId> = group.members.iter().collect();
            assert_eq!(distinct.len(), group.members.len(), "{context}");
            if let Some(replacement) = &group.replacement {
                assert!(group.is_member(&replacement.leaving) && group.is_member(&replacement.arriving), "{context}");
                assert_ne!(replacement.leaving, replacement.arriving, "{context}");
            }
            let changed = (&group.members, &group.in_sync, &group.primary, &group.replacement)
                != (&before.members, &before.in_sync, &before.primary, &before.replacement);
            assert!(!changed || group.epoch > before.epoch, "{context}");
            let takes_out = matches!(
                op,
                Op::MarkDown { .. } | Op::MarkReadOnly { .. } | Op::Evict { .. } | Op::Remove { lost: true, .. }
            );
            let joins = matches!(op, Op::Join { .. } | Op::Plan);
            // Its replacement was in sync already, and it could not be spared before; or somebody else gave the place up.
            let gone = before
                .replacement
                .as_ref()
                .is_some_and(|replacement| before.is_in_sync(&replacement.arriving) && group.replacement.is_none());
            // When somebody joins, one that takes no writes may be spared as well.
            let least = before.in_sync.len() - usize::from(gone);
            assert!(takes_out || joins || group.in_sync.len() >= least, "{context}");
            for member in &group.members {
                assert!(
                    !departures(&self.world, member.as_str()).iter().any(|(left, _)| *left == group.group),
                    "{context}"
                );
            }
        }
        let transaction = self.world.database.begin_write().unwrap();
        let tables = Tables::open(&transaction).unwrap();
        for row in tables.blobs.table.iter().unwrap() {
            let (key, bytes) = row.unwrap();
            let blob = tables.blobs.decode(key.value(), bytes.value()).unwrap();
            let id = BlobId(Uuid::from_u128(key.value()));
            for member in self.world.group(blob.group.0).in_sync.iter().filter(|_| blob.references > 0) {
                assert!(self.held.contains(&(member.clone(), id)), "{member} lacks {id} after {op:?}");
            }
        }
    }

    /// Everybody comes back but the dead, does its part, and nothing is under way any more.
    fn settle(&mut self, dead: &BTreeSet<usize>) {
        for (number, name) in NAMES.iter().enumerate() {
            let id = server(name);
            if dead.contains(&number) {
                self.world.apply(&Command::ResumeServer { server: id.clone() });
                self.world.apply(&Command::MarkDown { server: id });
                continue;
            }
            self.register(number);
            if !dead.is_empty() {
                self.world.apply(&Command::ResumeServer { server: id.clone() });
            }
            for command in [Command::MarkUp { server: id.clone() }, Command::MarkWritable { server: id.clone() }] {
                self.world.apply(&command);
            }
        }
        self.world.pass(REPAIR_AFTER);
        for _ in 0..200 {
            let before = groups(&self.world);
            self.plan();
            for (_, name) in NAMES.iter().enumerate().filter(|(number, _)| !dead.contains(number)) {
                if !departures(&self.world, name).is_empty() {
                    self.empty(&server(name));
                }
            }
            for group in 0..4 {
                let config = self.world.group(group);
                let dead: Vec<ServerId> = dead.iter().map(|number| server(NAMES[*number])).collect();
                let lagging =
                    config.members.iter().filter(|member| !config.is_in_sync(member) && !dead.contains(member));
                lagging.for_each(|member| self.join(group, member));
            }
            self.check(&before, &Op::Plan);
            if groups(&self.world) == before {
                break;
            }
        }
        let situation = self.situation();
        if !dead.is_empty() {
            return Self::check_healed(&situation);
        }
        assert!(situation.is_level(), "{situation:#?}");
        assert_eq!(plan::repairs(&situation, Pace::Everything), plan::Plan::default());
        let record = |member: &ServerId| {
            let key = (server_kind_out(ServerKind::FileServer), member.as_str());
            let transaction = self.world.database.begin_write().unwrap();
            Tables::open(&transaction).unwrap().servers.get(key).unwrap().unwrap()
        };
        for group in groups(&self.world) {
            assert_eq!(group.members.len(), 3, "{group:?}");
            assert!(group.members.iter().all(|member| !record(member).draining), "{group:?}");
        }
        self.world.collect();
        for name in NAMES {
            while !self.world.view().blobs_to_delete(&server(name), 1).unwrap().is_empty() {
                self.delete(&server(name));
            }
        }
        let transaction = self.world.database.begin_write().unwrap();
        let tables = Tables::open(&transaction).unwrap();
        assert_eq!(tables.deletions.iter().unwrap().count(), 0, "nothing is waited for in vain");
    }
}

impl Run {
    /// Every group of which somebody in sync lives is whole, if there are enough servers for that.
    fn check_healed(situation: &Situation) {
        let is_gone = |server: &ServerId| situation.servers[server].standing == plan::Standing::GivenUp;
        let fit = situation.servers.values().filter(|facts| facts.standing == plan::Standing::Fit).count();
        for group in situation.groups.iter().filter(|group| fit >= 3 && !group.in_sync.iter().all(is_gone)) {
            let is_whole = group.members.len() == 3 && group.in_sync == group.members && group.replacement.is_none();
            assert!(is_whole && !group.members.iter().any(is_gone), "{group:?} of {situation:#?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_member_in_sync_holds_every_blob_and_all_moves_end(
        ops in proptest::collection::vec(an_op(), 1..100),
        dead in proptest::collection::btree_set(0..NAMES.len(), 0..3),
    ) {
        let mut run = Run::new();
        for op in &ops {
            let before = groups(&run.world);
            run.run(op);
            run.check(&before, op);
        }
        run.settle(&dead);
    }
}
