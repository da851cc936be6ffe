//! Groups that move, step by step.

use super::*;

mod random;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

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
    world.expect(Command::MarkDown { server: server(id), incarnation: None });
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
fn a_drained_server_passes_its_roles_on_gets_nothing_and_may_resume() {
    let mut world = a_world_with(&["d", "e"]);
    begin(&mut world, 0, "b", "d").unwrap();
    world.expect(Command::DrainServer { server: server("d") });
    assert_eq!(world.group(0).replacement, None, "it was on its way there");
    let before = groups(&world);
    let led: Vec<Group> = before.iter().filter(|group| group.is_primary(&server("a"))).cloned().collect();
    world.expect(Command::DrainServer { server: server("a") });
    assert_eq!((groups(&world), led.is_empty()), (before, false), "its roles are passed on one by one");
    for Group { group, epoch, .. } in led {
        world.expect(Command::PassLead { group, epoch });
        let passed = world.group(group.0);
        assert!(!passed.is_primary(&server("a")) && passed.primary.is_some() && passed.is_in_sync(&server("a")));
        assert_eq!(passed.epoch, Epoch(epoch.0 + 1));
        let stale = world.try_apply(Command::PassLead { group, epoch });
        assert_eq!(stale, Err(Rejected::StaleEpoch { group, current: passed.epoch }));
        world.expect(Command::PassLead { group, epoch: passed.epoch });
        assert_eq!(world.group(group.0), passed, "its primary is not drained");
    }
    let too_few = world.try_apply(Command::DrainServer { server: server("b") });
    assert_eq!(too_few, Err(Rejected::TooFewServers { server: server("b"), needed: 3, have: 2 }));
    begin(&mut world, 1, "a", "e").unwrap();
    world.expect(Command::MarkDown { server: server("a"), incarnation: None });
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

#[test]
fn a_group_that_is_short_of_members_gets_one_by_a_move_and_not_when_a_server_comes() {
    let mut world = a_world_with(&["d"]);
    mark_down(&mut world, "b");
    world.expect(Command::RemoveServer { server: server("b"), lost: true });
    assert!(groups(&world).iter().all(|group| group.members == ids(&["a", "c"])));
    register(&mut world, "e", 4).unwrap();
    assert!(groups(&world).iter().all(|group| group.members == ids(&["a", "c"])), "how many at a time is planned");
    let (group, epoch) = (GroupId(0), world.group(0).epoch);
    world.expect(Command::MoveGroup { group, epoch, leaving: None, arriving: server("e") });
    let filled = world.group(0);
    assert_eq!((filled.members, filled.in_sync), (ids(&["a", "c", "e"]), ids(&["a", "c"])));
}

#[test]
fn it_is_known_since_when_a_server_takes_no_writes() {
    let mut world = a_world_with(&["d"]);
    let since = |world: &World| {
        let record = world.view().server(ServerKind::FileServer, &server("b")).unwrap().unwrap();
        record.read_only_since
    };
    let mark = |reason: &str| Command::MarkReadOnly { server: server("b"), reason: reason.to_owned() };
    world.expect(mark("full"));
    let first = since(&world);
    assert_eq!(first, Some(world.now));
    world.pass(MINUTE);
    world.expect(mark("still full"));
    assert_eq!(since(&world), first);
    world.expect(Command::MarkWritable { server: server("b") });
    assert_eq!(since(&world), None);
    world.pass(MINUTE);
    world.expect(mark("full again"));
    assert_eq!(since(&world), Some(world.now));
    register(&mut world, "b", 1).unwrap();
    assert_eq!(since(&world), None, "its store was opened anew");
}

#[test]
fn who_takes_writes_again_in_time_keeps_its_place() {
    let mut world = a_world_with(&["d"]);
    mark_down(&mut world, "a");
    world.expect(Command::MarkReadOnly { server: server("b"), reason: "full".to_owned() });
    assert_eq!(world.group(0).in_sync, ids(&["b", "c"]), "it cannot be spared");
    begin(&mut world, 0, "b", "d").unwrap();
    world.expect(Command::MarkWritable { server: server("b") });
    let kept = world.group(0);
    assert_eq!((kept.members, kept.in_sync, kept.replacement), (ids(&["a", "b", "c"]), ids(&["b", "c"]), None));
}

#[test]
fn a_move_ends_without_a_member_that_takes_no_writes() {
    let mut world = a_world_with(&["d"]);
    world.expect(Command::DrainServer { server: server("c") });
    begin(&mut world, 0, "c", "d").unwrap();
    mark_down(&mut world, "a");
    world.expect(Command::MarkReadOnly { server: server("b"), reason: "full".to_owned() });
    let joined = join(&mut world, 0, "d");
    assert_eq!((&joined.in_sync, joined.replacement.is_some()), (&ids(&["c", "d"]), true), "c cannot be spared");
    let settled = begin(&mut world, 0, "b", "d").unwrap();
    assert_eq!((settled.members, settled.in_sync), (ids(&["a", "c", "d"]), ids(&["c", "d"])));
}
