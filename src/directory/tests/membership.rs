//! Servers that come and go, and what that means for the groups.

use std::collections::BTreeSet;

use super::*;

const PRIMARIES: &str = "every group is led by a member that is alive and in sync";

fn groups(world: &World) -> Vec<Group> {
    world.view().groups().unwrap()
}

fn ids(ids: &[&str]) -> Vec<ServerId> {
    ids.iter().map(|id| server(id)).collect()
}

fn mark_down(world: &mut World, id: &str) {
    world.expect(Command::MarkDown { server: server(id), incarnation: None });
}

fn register(world: &mut World, id: &str, store: u128) -> Result<Outcome, Rejected> {
    world.try_apply(Command::RegisterServer { registration: a_registration(id, store) })
}

#[test]
fn groups_are_made_when_enough_file_servers_have_registered() {
    let mut world = World::unmade();
    let cluster = ClusterId(Uuid::from_u128(1));
    world.expect(Command::Bootstrap { cluster, lock_key: KEY, settings: some_settings() });
    let lock = Registration { kind: ServerKind::Lock, ..a_registration("lock-1", 9) };
    world.expect(Command::RegisterServer { registration: lock });
    for (id, count) in [("a", 0), ("b", 0), ("c", 4)] {
        register(&mut world, id, 1).unwrap();
        assert_eq!(groups(&world).len(), count);
    }
    let all = ids(&["a", "b", "c"]);
    assert!(groups(&world).iter().all(|group| group.members == all && group.in_sync == all && group.epoch == Epoch(1)));
    assert_eq!(world.view().servers().unwrap().len(), 4);
}

#[test]
fn the_cluster_is_made_once() {
    let mut world = World::new();
    let revision = world.revision();
    let cluster = ClusterId(Uuid::from_u128(2));
    world.expect(Command::Bootstrap { cluster, lock_key: [0; 32], settings: some_settings() });
    assert_eq!(world.revision(), revision);
    assert_eq!(world.view().cluster().unwrap().lock_key, KEY);
}

#[test]
fn settings_that_cannot_work_are_refused_and_fixed_ones_stay() {
    let mut world = World::new();
    let try_change = |world: &mut World, edit: &dyn Fn(&mut Settings)| {
        let mut settings = some_settings();
        edit(&mut settings);
        world.try_apply(Command::ChangeSettings { settings })
    };
    let fixed = |field| Err(Rejected::SettingFixed { field });
    assert_eq!(try_change(&mut world, &|settings| settings.group_count = 5), fixed("group_count"));
    assert_eq!(try_change(&mut world, &|settings| settings.copies = 5), fixed("copies"));
    let bad = |field| Err(Rejected::BadSetting { field });
    assert_eq!(try_change(&mut world, &|settings| settings.min_in_sync = 4), bad("min_in_sync"));
    assert_eq!(try_change(&mut world, &|settings| settings.min_in_sync = 0), bad("min_in_sync"));
    assert_eq!(try_change(&mut world, &|settings| settings.keep_versions = 0), bad("keep_versions"));
    assert!(try_change(&mut world, &|settings| settings.keep_for_ms = 0).is_ok());
    let version = world.view().map_version();
    assert!(try_change(&mut world, &|settings| settings.min_in_sync = 1).is_ok());
    assert!(world.view().map_version() > version);
}

#[test]
fn a_server_that_is_down_leaves_and_the_lead_passes_on_evenly() {
    let mut world = World::new();
    let version = world.view().map_version();
    mark_down(&mut world, "a");
    assert!(world.view().map_version() > version);
    let led = |world: &World, id: &str| groups(world).iter().filter(|group| group.is_primary(&server(id))).count();
    for group in groups(&world) {
        assert_eq!((group.in_sync, group.epoch), (ids(&["b", "c"]), Epoch(2)), "group {}", group.group);
    }
    assert_eq!((led(&world, "a"), led(&world, "b"), led(&world, "c")), (0, 2, 2));
    let revision = world.revision();
    mark_down(&mut world, "a");
    assert_eq!(world.revision(), revision);
    let nobody = Command::MarkDown { server: server("nobody"), incarnation: None };
    assert_eq!(world.try_apply(nobody), Err(Rejected::ServerNotFound { server: server("nobody") }));
}

#[test]
fn a_set_of_min_in_sync_does_not_shrink_but_its_lead_passes_on() {
    let mut world = World::new();
    mark_down(&mut world, "a");
    mark_down(&mut world, "b");
    for group in groups(&world) {
        assert_eq!(group.in_sync, ids(&["b", "c"]));
        assert_eq!(group.primary, Some(server("c")), "{PRIMARIES}");
    }
    mark_down(&mut world, "c");
    assert!(groups(&world).iter().all(|group| group.primary.is_none() && group.in_sync == ids(&["b", "c"])));
    let epochs: Vec<Epoch> = groups(&world).iter().map(|group| group.epoch).collect();
    world.expect(Command::MarkUp { server: server("b") });
    for (group, before) in groups(&world).iter().zip(epochs) {
        assert_eq!((group.primary.clone(), group.epoch), (Some(server("b")), Epoch(before.0 + 1)));
    }
}

#[test]
fn a_server_that_is_up_again_leads_nothing_it_is_not_in_sync_with() {
    let mut world = World::new();
    mark_down(&mut world, "a");
    world.expect(Command::MarkUp { server: server("a") });
    assert!(groups(&world).iter().all(|group| !group.is_in_sync(&server("a")) && !group.is_primary(&server("a"))));
}

#[test]
fn a_primary_evicts_a_replica_of_its_own_configuration_down_to_min_in_sync() {
    let mut world = World::new();
    let config = world.group(0);
    let primary = config.primary.clone().unwrap();
    let others: Vec<ServerId> = config.members.iter().filter(|member| **member != primary).cloned().collect();
    let evict = |world: &mut World, primary: &ServerId, suspect: &ServerId, epoch| {
        let groups = vec![(GroupId(0), Epoch(epoch))];
        world.try_apply(Command::EvictReplica { primary: primary.clone(), suspect: suspect.clone(), groups }).unwrap();
        world.group(0)
    };
    assert_eq!(evict(&mut world, &primary, &others[0], 2), config, "of another epoch");
    assert_eq!(evict(&mut world, &others[1], &others[0], 1), config, "by another than the primary");
    assert_eq!(evict(&mut world, &primary, &primary, 1), config, "itself");
    let smaller = evict(&mut world, &primary, &others[0], 1);
    assert_eq!((smaller.epoch, smaller.in_sync.len(), smaller.primary.as_ref()), (Epoch(2), 2, Some(&primary)));
    assert_eq!(evict(&mut world, &primary, &others[1], 2), smaller, "below min_in_sync");
    let nobody = Command::EvictReplica { primary, suspect: server("nobody"), groups: vec![] };
    assert_eq!(world.try_apply(nobody), Err(Rejected::ServerNotFound { server: server("nobody") }));
}

#[test]
fn a_member_joins_by_the_word_of_the_primary_of_that_epoch() {
    let mut world = World::new();
    mark_down(&mut world, "a");
    world.expect(Command::MarkUp { server: server("a") });
    let config = world.group(0);
    let primary = config.primary.clone().unwrap();
    let other = config.in_sync.iter().find(|member| **member != primary).unwrap().clone();
    let join = |world: &mut World, primary: &ServerId, epoch, member: &str| {
        let (primary, group, epoch, member) = (primary.clone(), GroupId(0), Epoch(epoch), server(member));
        world.try_apply(Command::AddInSync { primary, group, epoch, member })
    };
    let stale = Err(Rejected::StaleEpoch { group: GroupId(0), current: Epoch(2) });
    assert_eq!(join(&mut world, &primary, 1, "a"), stale);
    assert_eq!(join(&mut world, &other, 2, "a"), stale);
    let stranger = Err(Rejected::NotAMember { server: server("z"), group: GroupId(0) });
    assert_eq!(join(&mut world, &primary, 2, "z"), stranger);
    assert!(join(&mut world, &primary, 2, "a").is_ok());
    assert_eq!((world.group(0).epoch, world.group(0).in_sync), (Epoch(3), ids(&["a", "b", "c"])));
    assert!(join(&mut world, &primary, 2, "a").is_ok(), "asked again, it is so already");
    assert_eq!(world.group(0).epoch, Epoch(3));
}

#[test]
fn a_server_that_comes_back_with_its_data_keeps_its_places() {
    let mut world = World::new();
    let before = groups(&world);
    let places = |groups: &[Group]| -> Vec<_> {
        groups.iter().map(|group| (group.in_sync.clone(), group.primary.clone())).collect()
    };
    register(&mut world, "a", 0).unwrap();
    assert_eq!(places(&groups(&world)), places(&before));
    let moved = Registration { address: "elsewhere:7072".to_owned(), ..a_registration("a", 0) };
    world.expect(Command::RegisterServer { registration: moved });
    assert_eq!(places(&groups(&world)), places(&before));
    mark_down(&mut world, "a");
    mark_down(&mut world, "b");
    mark_down(&mut world, "c");
    register(&mut world, "c", 2).unwrap();
    assert!(groups(&world).iter().all(|group| group.primary == Some(server("c"))), "{PRIMARIES}");
}

#[test]
fn a_primary_that_registers_again_is_held_to_nothing_that_it_said_before() {
    let mut world = World::new();
    mark_down(&mut world, "a");
    world.expect(Command::MarkUp { server: server("a") });
    let before = groups(&world);
    register(&mut world, "b", 1).unwrap();
    for (group, before) in groups(&world).iter().zip(&before) {
        let raised = u64::from(before.is_primary(&server("b")));
        assert_eq!(group, &Group { epoch: Epoch(before.epoch.0 + raised), ..before.clone() });
    }
    let led = before.iter().find(|group| group.is_primary(&server("b"))).unwrap();
    let (primary, group, epoch) = (server("b"), led.group, led.epoch);
    let late = Command::AddInSync { primary, group, epoch, member: server("a") };
    assert_eq!(world.try_apply(late), Err(Rejected::StaleEpoch { group, current: Epoch(epoch.0 + 1) }));

    let revision = world.revision();
    register(&mut world, "a", 0).unwrap();
    assert_eq!(world.revision(), revision, "it leads nothing and said nothing new");
}

#[test]
fn a_server_that_comes_back_without_its_data_leaves_the_in_sync_sets() {
    let mut world = World::new();
    let taken = |id| Err(Rejected::ServerIdTaken { server: server(id) });
    assert_eq!(register(&mut world, "a", 77), taken("a"), "the other is alive");
    mark_down(&mut world, "a");
    mark_down(&mut world, "b");
    assert!(groups(&world).iter().all(|group| group.is_in_sync(&server("b"))));
    register(&mut world, "b", 78).unwrap();
    for group in groups(&world) {
        assert_eq!((group.in_sync, group.primary), (ids(&["c"]), Some(server("c"))));
    }
    let commit = world.a_replace("/f", b"x", if_version(0));
    let short = Rejected::NotEnoughInSync { group: commit.group, needed: 2, have: 1 };
    assert_eq!(world.try_commit(commit), Err(short), "what is committed is on min_in_sync servers");
    mark_down(&mut world, "c");
    assert_eq!(register(&mut world, "c", 79), taken("c"), "nobody else has what it had");
}

/// Registers a process whose data folder knows of these, newest first.
fn begin(world: &mut World, id: &str, store: u128, known: &[u128]) -> Result<Outcome, Rejected> {
    let incarnations = known.iter().map(|of| Incarnation(Uuid::from_u128(*of))).collect();
    let registration = Registration { incarnations, ..a_registration(id, store) };
    world.try_apply(Command::RegisterServer { registration })
}

fn copied(id: &str, newest: u128) -> Result<Outcome, Rejected> {
    let newest = Incarnation(Uuid::from_u128(newest));
    Err(Rejected::FolderCopied { server: server(id), address: format!("{id}:7072"), newest })
}

#[test]
fn a_folder_goes_on_and_a_copy_of_what_it_was_is_refused() {
    let mut world = World::new();
    let registered = Ok(Outcome::Registered);
    assert_eq!(begin(&mut world, "a", 0, &[1]), registered, "nothing was known of it");
    assert_eq!(begin(&mut world, "a", 0, &[1]), registered, "the answer was lost");
    assert_eq!(begin(&mut world, "a", 0, &[3, 1]), registered);
    let before = (world.revision(), groups(&world));
    for older in [&[2, 1][..], &[1], &[5, 4, 1], &[]] {
        assert_eq!(begin(&mut world, "a", 0, older), copied("a", 3), "{older:?}");
    }
    assert_eq!((world.revision(), groups(&world)), before, "who was registered is not disturbed");
    mark_down(&mut world, "a");
    assert_eq!(begin(&mut world, "a", 0, &[2, 1]), copied("a", 3), "nor is it any better when the other is down");
    assert_eq!(begin(&mut world, "a", 0, &[3, 1]), registered, "it connects again");
}

#[test]
fn a_folder_whose_processes_ended_before_they_were_answered_goes_on() {
    let mut world = World::new();
    begin(&mut world, "a", 0, &[1]).unwrap();
    begin(&mut world, "a", 0, &[3, 2, 1]).unwrap();
    begin(&mut world, "a", 0, &[5, 4, 3, 2, 1]).unwrap();
    assert_eq!(begin(&mut world, "a", 0, &[6, 4, 3, 2, 1]), copied("a", 5));
}

#[test]
fn a_wiped_folder_goes_on_with_nothing_of_the_old_one() {
    let mut world = World::new();
    begin(&mut world, "a", 0, &[1]).unwrap();
    mark_down(&mut world, "a");
    begin(&mut world, "a", 77, &[2]).unwrap();
    assert!(groups(&world).iter().all(|group| !group.is_in_sync(&server("a"))));
}

#[test]
fn a_server_that_comes_later_is_taken_into_groups_that_are_short_one_by_one() {
    let settings = Settings { initial_fileservers: 1, min_in_sync: 1, ..some_settings() };
    let mut world = World::with_settings(settings);
    register(&mut world, "d", 4).unwrap();
    let alone = groups(&world);
    assert!(alone.iter().all(|group| group.members == ids(&["a"]) && group.epoch == Epoch(1)), "{alone:?}");
    let mut fill = |id: &str| {
        let (group, epoch) = (GroupId(0), world.group(0).epoch);
        let arriving = server(id);
        world.try_apply(Command::MoveGroup { group, epoch, leaving: None, arriving }).map(|_| world.group(0))
    };
    for (id, epoch) in [("b", 2), ("c", 3)] {
        let filled = fill(id).unwrap();
        assert_eq!((filled.is_member(&server(id)), filled.in_sync, filled.epoch), (true, ids(&["a"]), Epoch(epoch)));
    }
    assert_eq!(fill("d"), Err(Rejected::CannotArrive { server: server("d"), group: GroupId(0) }), "it is whole");
}

#[test]
fn there_is_one_lock_service_and_one_that_is_down_gives_way() {
    let mut world = World::new();
    let a_lock = |id: &str| Command::RegisterServer {
        registration: Registration { kind: ServerKind::Lock, ..a_registration(id, 9) },
    };
    world.expect(a_lock("lock-1"));
    world.expect(a_lock("lock-1"));
    let taken = |id| Err(Rejected::LockServiceTaken { server: server(id) });
    assert_eq!(world.try_apply(a_lock("lock-2")), taken("lock-1"));
    mark_down(&mut world, "lock-1");
    world.expect(a_lock("lock-2"));
    let late = world.try_apply(Command::MarkUp { server: server("lock-1") });
    assert_eq!(late, Err(Rejected::ServerNotFound { server: server("lock-1") }));
    assert_eq!(world.try_apply(a_lock("lock-1")), taken("lock-2"));
}

#[test]
fn nodes_of_one_lock_service_are_listed_together_and_another_service_waits_until_all_are_down() {
    let mut world = World::new();
    let (ours, theirs) = (LockServiceId::random(), LockServiceId::random());
    let a_node = |id: &str, service| Command::RegisterServer {
        registration: Registration {
            kind: ServerKind::Lock,
            lock_service: Some(service),
            ..a_registration(id, id.len() as u128)
        },
    };
    let listed = |world: &World| {
        let servers = world.view().servers().unwrap().into_iter().map(|record| record.registration);
        let nodes = servers.filter(|registration| registration.kind == ServerKind::Lock);
        nodes.map(|node| node.server.to_string()).collect::<Vec<_>>()
    };
    for id in ["lock-1", "lock-2", "lock-3"] {
        world.expect(a_node(id, ours));
    }
    assert_eq!(listed(&world), ["lock-1", "lock-2", "lock-3"]);
    mark_down(&mut world, "lock-1");
    mark_down(&mut world, "lock-2");
    let taken = |id| Err(Rejected::LockServiceTaken { server: server(id) });
    assert_eq!(world.try_apply(a_node("stranger", theirs)), taken("lock-3"));
    world.expect(a_node("lock-1", ours));
    assert_eq!(listed(&world), ["lock-1", "lock-2", "lock-3"], "who is down keeps its place");
    // With its folder the first node has lost the name of its service, and would make another one.
    mark_down(&mut world, "lock-1");
    assert_eq!(world.try_apply(a_node("lock-1", theirs)), taken("lock-3"));
    mark_down(&mut world, "lock-3");
    world.expect(a_node("stranger", theirs));
    assert_eq!(listed(&world), ["stranger"]);
    assert_eq!(world.try_apply(a_node("lock-2", ours)), taken("stranger"));
}

fn lead(world: &World) -> Vec<usize> {
    let led = |id: &str| groups(world).iter().filter(|group| group.is_primary(&server(id))).count();
    ["a", "b", "c"].map(led).to_vec()
}

fn mark_read_only(world: &mut World, id: &str) {
    world.expect(Command::MarkReadOnly { server: server(id), reason: "disk full".to_owned() });
}

fn join_all(world: &mut World, id: &str) {
    for Group { group, epoch, primary, .. } in groups(world) {
        world.expect(Command::AddInSync { primary: primary.unwrap(), group, epoch, member: server(id) });
    }
}

#[test]
fn a_server_that_takes_no_writes_leads_nothing_and_leaves_where_it_can_be_spared() {
    let mut world = World::new();
    mark_read_only(&mut world, "a");
    for group in groups(&world) {
        assert_eq!((group.in_sync, group.epoch), (ids(&["b", "c"]), Epoch(2)));
    }
    assert_eq!(lead(&world), [0, 2, 2]);
    let revision = world.revision();
    mark_read_only(&mut world, "a");
    assert_eq!(world.revision(), revision, "it was said before");

    mark_read_only(&mut world, "b");
    for group in groups(&world) {
        assert_eq!((group.in_sync, group.primary), (ids(&["b", "c"]), Some(server("c"))), "two must remain");
    }
    let Group { group, epoch, .. } = world.group(0);
    let join = Command::AddInSync { primary: server("c"), group, epoch, member: server("a") };
    assert_eq!(world.try_apply(join), Err(Rejected::TakesNoWrites { server: server("a") }));
    let nobody = Command::MarkReadOnly { server: server("nobody"), reason: "x".to_owned() };
    assert_eq!(world.try_apply(nobody), Err(Rejected::ServerNotFound { server: server("nobody") }));
}

#[test]
fn a_server_that_takes_writes_again_joins_and_takes_the_place_of_one_that_does_not() {
    let mut world = World::new();
    mark_read_only(&mut world, "a");
    mark_read_only(&mut world, "b");
    let before = groups(&world);
    world.expect(Command::MarkWritable { server: server("a") });
    for (group, before) in groups(&world).into_iter().zip(&before) {
        assert_eq!((&group.in_sync, &group.primary), (&before.in_sync, &before.primary), "it has to catch up first");
    }
    join_all(&mut world, "a");
    for (group, before) in groups(&world).into_iter().zip(before) {
        assert_eq!((group.in_sync, group.primary), (ids(&["a", "c"]), Some(server("c"))), "b is spared now");
        assert_eq!(group.epoch, Epoch(before.epoch.0 + 2));
    }
}

/// Its primary was told no, and commits without it: a try to count it in that comes late finds another epoch.
#[test]
fn a_joiner_that_was_refused_for_taking_no_writes_is_not_counted_in_by_an_earlier_try() {
    for registers in [false, true] {
        let mut world = World::new();
        mark_read_only(&mut world, "a");
        let Group { group, epoch, primary, .. } = world.group(0);
        let join = Command::AddInSync { primary: primary.unwrap(), group, epoch, member: server("a") };
        assert_eq!(world.try_apply(join.clone()), Err(Rejected::TakesNoWrites { server: server("a") }));
        if registers {
            register(&mut world, "a", 0).unwrap();
        } else {
            world.expect(Command::MarkWritable { server: server("a") });
        }
        let current = world.group(0).epoch;
        assert_eq!(world.try_apply(join), Err(Rejected::StaleEpoch { group, current }), "registers: {registers}");
    }
}

#[test]
fn where_nobody_takes_writes_a_live_member_still_leads() {
    let mut world = World::new();
    ["a", "b", "c"].iter().for_each(|id| mark_read_only(&mut world, id));
    assert!(groups(&world).iter().all(|group| group.primary.is_some()), "{PRIMARIES}");
    mark_down(&mut world, "c");
    assert!(groups(&world).iter().all(|group| group.primary == Some(server("b"))), "{PRIMARIES}");
    register(&mut world, "c", 2).unwrap();
    assert!(groups(&world).iter().all(|group| group.primary == Some(server("c"))), "it has opened its store anew");
}

#[test]
fn roles_are_spread_again_over_a_server_that_came_back_step_by_step_and_never_back() {
    let settings = Settings { group_count: 12, ..some_settings() };
    let mut world = World::with_settings(settings);
    assert_eq!(lead(&world), [4, 4, 4]);
    mark_down(&mut world, "a");
    world.expect(Command::MarkUp { server: server("a") });
    assert_eq!(lead(&world), [0, 6, 6]);
    let spread =
        |world: &mut World, limit| world.apply(&Command::SpreadPrimaries { limit, except: BTreeSet::new() }).revision;
    let revision = world.revision();
    assert_eq!(spread(&mut world, 100), revision, "it is not in sync");
    join_all(&mut world, "a");
    let epochs: u64 = groups(&world).iter().map(|group| group.epoch.0).sum();
    let revision = world.revision();
    let except = groups(&world).iter().map(|group| group.group).collect();
    assert_eq!(world.apply(&Command::SpreadPrimaries { limit: 100, except }).revision, revision, "all are busy");
    spread(&mut world, 3);
    assert_eq!(lead(&world)[0], 3);
    spread(&mut world, 100);
    assert_eq!(lead(&world), [4, 4, 4]);
    assert_eq!(groups(&world).iter().map(|group| group.epoch.0).sum::<u64>(), epochs + 4, "one epoch a move");
    let revision = world.revision();
    assert_eq!(spread(&mut world, 100), revision, "it is even");
}

#[test]
fn a_node_that_was_removed_is_listed_no_more() {
    let mut world = World::new();
    let node = |id: &str| Registration { kind: ServerKind::Directory, ..a_registration(id, 7) };
    world.expect(Command::RegisterServer { registration: node("directory-2") });
    let listed = |world: &World| {
        world.view().servers().unwrap().iter().any(|known| known.registration.server.as_str() == "directory-2")
    };
    assert!(listed(&world));
    world.expect(Command::ForgetNode { server: server("directory-2") });
    assert!(!listed(&world));
    let again = world.expect(Command::ForgetNode { server: server("directory-2") });
    assert!(matches!(again, Outcome::Done), "it is gone already");
}

#[test]
fn a_verdict_on_a_process_is_void_once_another_has_registered_in_its_place() {
    let mut world = World::new();
    let down =
        |of: u128| Command::MarkDown { server: server("a"), incarnation: Some(Incarnation(Uuid::from_u128(of))) };
    begin(&mut world, "a", 0, &[1]).unwrap();
    begin(&mut world, "a", 0, &[2, 1]).unwrap();
    let before = (world.revision(), groups(&world));
    world.expect(down(1));
    assert_eq!((world.revision(), groups(&world)), before, "it was found dead before it started again");
    world.expect(down(2));
    assert!(groups(&world).iter().all(|group| !group.in_sync.contains(&server("a"))));
}
