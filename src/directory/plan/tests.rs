use proptest::prelude::*;

use super::*;

fn id(name: &str) -> ServerId {
    name.parse().unwrap()
}

fn ids(names: &[&str]) -> Vec<ServerId> {
    names.iter().map(|name| id(name)).collect()
}

fn a_group(group: u32, members: &[&str]) -> Group {
    let members = ids(members);
    Group {
        group: GroupId(group),
        epoch: Epoch(1),
        in_sync: members.clone(),
        primary: members.first().cloned(),
        members,
        replacement: None,
    }
}

fn some_facts(standing: Standing, zone: &str) -> ServerFacts {
    ServerFacts {
        standing,
        draining: standing == Standing::Draining,
        zone: zone.to_owned(),
        free_bytes: Some(100 << 30),
        stored_bytes: 1 << 30,
        is_heard: true,
    }
}

fn a_situation(groups: Vec<Group>, servers: &[(&str, Standing)]) -> Situation {
    Situation {
        groups,
        servers: servers.iter().map(|(name, standing)| (id(name), some_facts(*standing, ""))).collect(),
        departures: BTreeSet::new(),
        copies: 3,
        min_in_sync: 2,
        uploading: BTreeSet::new(),
        leads_to_pass: LEADS_MAX,
        shunned: BTreeSet::new(),
    }
}

const FIT: Standing = Standing::Fit;

fn moved(step: &Step) -> (u32, Option<&str>, &str) {
    match step {
        Step::Move { group, leaving, arriving, .. } => {
            (group.0, leaving.as_ref().map(ServerId::as_str), arriving.as_str())
        }
        Step::Drop { .. } | Step::PassLead { .. } => panic!("{step:?} moves nothing"),
    }
}

fn repaired(situation: &Situation) -> Vec<Step> {
    let plan = repairs(situation, Pace::Everything);
    assert_eq!(plan.lacking, BTreeMap::new());
    plan.steps
}

#[test]
fn who_is_given_up_is_replaced_and_who_is_only_down_is_waited_for() {
    let groups = vec![a_group(0, &["a", "b", "c"]), a_group(1, &["a", "b", "d"])];
    let mut situation =
        a_situation(groups, &[("a", FIT), ("b", FIT), ("c", Standing::GivenUp), ("d", Standing::Down), ("e", FIT)]);
    let steps = repaired(&situation);
    assert_eq!(steps.iter().map(moved).collect::<Vec<_>>(), [(0, Some("c"), "e")]);
    situation.servers.remove(&id("e"));
    let plan = repairs(&situation, Pace::Everything);
    assert_eq!((plan.steps, plan.lacking), (vec![], BTreeMap::from([(GroupId(0), Lack::Server)])));
}

#[test]
fn a_target_is_in_another_zone_first_and_then_the_least_loaded() {
    let groups = vec![a_group(0, &["a", "b", "c"]), a_group(1, &["a", "b", "e"]), a_group(2, &["a", "d", "e"])];
    let mut situation =
        a_situation(groups, &[("a", FIT), ("b", FIT), ("c", Standing::GivenUp), ("d", FIT), ("e", FIT)]);
    assert_eq!(moved(&repaired(&situation)[0]), (0, Some("c"), "d"), "d has fewer groups");
    for (name, zone) in [("a", "x"), ("b", "y"), ("d", "y"), ("e", "z")] {
        situation.servers.get_mut(&id(name)).unwrap().zone = zone.to_owned();
    }
    assert_eq!(moved(&repaired(&situation)[0]), (0, Some("c"), "e"), "d is in b's zone");
    situation.departures.insert((id("e"), GroupId(0)));
    assert_eq!(moved(&repaired(&situation)[0]), (0, Some("c"), "d"), "e may still hold old copies");
}

#[test]
fn a_group_with_an_empty_place_gets_a_member_and_a_drained_server_gives_its_place_away() {
    let groups = vec![a_group(0, &["a", "b"]), a_group(1, &["a", "b", "c"])];
    let situation = a_situation(groups, &[("a", FIT), ("b", FIT), ("c", Standing::Draining), ("d", FIT)]);
    let steps = repaired(&situation);
    assert_eq!(steps.iter().map(moved).collect::<Vec<_>>(), [(0, None, "d"), (1, Some("c"), "d")]);
}

#[test]
fn a_full_disk_is_no_target() {
    let groups = vec![a_group(0, &["a", "b", "c"])];
    let mut situation = a_situation(groups, &[("a", FIT), ("b", FIT), ("c", Standing::Draining), ("d", FIT)]);
    situation.servers.get_mut(&id("d")).unwrap().free_bytes = Some(2 << 30);
    assert_eq!(repaired(&situation).len(), 1);
    situation.servers.get_mut(&id("d")).unwrap().free_bytes = Some((2 << 30) - 1);
    assert_eq!(repairs(&situation, Pace::Everything).lacking, BTreeMap::from([(GroupId(0), Lack::Room)]));
}

#[test]
fn nothing_is_begun_towards_a_server_that_has_said_nothing_yet() {
    let groups = vec![a_group(0, &["a", "b", "c"])];
    let mut situation = a_situation(groups, &[("a", FIT), ("b", FIT), ("c", Standing::GivenUp), ("d", FIT)]);
    situation.servers.get_mut(&id("d")).unwrap().is_heard = false;
    let waiting = repairs(&situation, Pace::Bounded);
    assert_eq!((waiting.steps, waiting.lacking), (vec![], BTreeMap::from([(GroupId(0), Lack::Turn)])));
    assert_eq!(repaired(&situation).len(), 1, "as a plan it stands");
}

#[test]
fn a_few_moves_are_begun_at_a_time() {
    let groups: Vec<Group> = (0..40).map(|group| a_group(group, &["a", "b", "c"])).collect();
    let mut situation =
        a_situation(groups, &[("a", FIT), ("b", FIT), ("c", Standing::GivenUp), ("d", FIT), ("e", FIT)]);
    let plan = repairs(&situation, Pace::Bounded);
    assert_eq!(plan.steps.len(), 2 * ARRIVALS_MAX);
    assert_eq!(plan.lacking.get(&GroupId(39)), Some(&Lack::Turn));
    for step in &plan.steps {
        let Step::Move { group, leaving: Some(leaving), arriving, .. } = step else { panic!("{step:?}") };
        crate::directory::group::replace(&mut situation.groups[group.0 as usize], leaving, arriving);
    }
    assert_eq!(repairs(&situation, Pace::Bounded).steps, [], "those come first");
}

#[test]
fn a_drained_server_passes_few_roles_on_at_a_time_by_moves_or_without() {
    let groups: Vec<Group> = (0..40).map(|group| a_group(group, &["c", "a", "b"])).collect();
    let servers = [("a", FIT), ("b", FIT), ("c", Standing::Draining), ("d", FIT)];
    let mut situation = a_situation(groups, &servers);
    let steps = repairs(&situation, Pace::Bounded).steps;
    assert!(steps.iter().all(|step| situation.passes_lead(step)));
    let moves = steps.iter().filter(|step| matches!(step, Step::Move { .. })).count();
    assert_eq!((steps.len(), moves), (LEADS_MAX, ARRIVALS_MAX));
    situation.leads_to_pass = 0;
    assert_eq!(repairs(&situation, Pace::Bounded).steps, [], "those settle first");
    for group in &mut situation.groups[..20] {
        group.primary = Some(id("a"));
    }
    let steps = repairs(&situation, Pace::Bounded).steps;
    assert_eq!(steps.iter().map(|step| moved(step).0).collect::<Vec<_>>(), [0, 1, 2, 3], "they lead nobody astray");
    situation.servers.remove(&id("d"));
    situation.leads_to_pass = LEADS_MAX;
    let Plan { steps, lacking } = repairs(&situation, Pace::Bounded);
    assert_eq!((steps.len(), lacking.len()), (LEADS_MAX, 40), "roles go though groups have nowhere to go");
    assert_eq!(steps[0], Step::PassLead { group: GroupId(20), epoch: Epoch(1) });
}

#[test]
fn empty_places_are_filled_few_at_a_time_where_there_is_room() {
    let groups: Vec<Group> = (0..40).map(|group| a_group(group, &["a", "b"])).collect();
    let mut situation = a_situation(groups, &[("a", FIT), ("b", FIT), ("c", FIT)]);
    let steps = repairs(&situation, Pace::Bounded).steps;
    assert_eq!(steps.len(), ARRIVALS_MAX);
    for step in steps {
        crate::directory::group::add_member(&mut situation.groups[moved(&step).0 as usize], &id("c"));
    }
    let Plan { steps, lacking } = repairs(&situation, Pace::Bounded);
    assert_eq!((steps, lacking.len()), (vec![], 36), "those catch up first");
    assert!(lacking.values().all(|lack| *lack == Lack::Turn));
    for group in &mut situation.groups[..2] {
        group.in_sync = group.members.clone();
    }
    assert_eq!(repairs(&situation, Pace::Bounded).steps.len(), 2);
    let c = situation.servers.get_mut(&id("c")).unwrap();
    (c.free_bytes, c.stored_bytes) = (Some(RESERVE_BYTES), 0);
    let Plan { steps, lacking } = repairs(&situation, Pace::Bounded);
    assert!(steps.is_empty() && lacking.values().all(|lack| *lack == Lack::Room), "{lacking:?}");
}

#[test]
fn a_server_that_takes_no_writes_for_long_gives_its_places_up_if_another_has_room() {
    let (groups, refusing) = (vec![a_group(0, &["a", "b", "c"])], Standing::Refusing);
    let read_only = [("a", FIT), ("b", FIT), ("c", Standing::ReadOnly), ("d", FIT)];
    assert_eq!(repaired(&a_situation(groups.clone(), &read_only)), []);
    let steps = repaired(&a_situation(groups.clone(), &[("a", FIT), ("b", FIT), ("c", refusing), ("d", FIT)]));
    assert_eq!(steps.iter().map(moved).collect::<Vec<_>>(), [(0, Some("c"), "d")]);
    let all_full = [("a", refusing), ("b", refusing), ("c", refusing), ("d", refusing)];
    let Plan { steps, lacking } = repairs(&a_situation(groups, &all_full), Pace::Bounded);
    assert_eq!((steps, lacking), (vec![], BTreeMap::from([(GroupId(0), Lack::Server)])), "nothing moves in vain");
}

#[test]
fn nothing_is_sent_where_it_could_not_arrive_lately() {
    let mut group = a_group(0, &["a", "b", "c"]);
    let servers = [("a", FIT), ("b", FIT), ("c", Standing::GivenUp), ("d", FIT), ("e", FIT)];
    let mut situation = a_situation(vec![group.clone()], &servers);
    situation.shunned.insert(id("d"));
    assert_eq!(moved(&repairs(&situation, Pace::Bounded).steps[0]), (0, Some("c"), "e"));
    situation.shunned.insert(id("e"));
    assert_eq!(repairs(&situation, Pace::Bounded).lacking, BTreeMap::from([(GroupId(0), Lack::Turn)]));
    crate::directory::group::replace(&mut group, &id("c"), &id("d"));
    let failed = |standing| {
        let situation = a_situation(vec![group.clone()], &[("a", FIT), ("b", FIT), ("c", FIT), ("d", standing)]);
        failures(&situation).cloned().collect::<Vec<_>>()
    };
    assert_eq!(failed(Standing::ReadOnly), [id("d")]);
    assert_eq!((failed(FIT), failed(Standing::Draining)), (vec![], vec![]), "that is nobody's failure");
}

#[test]
fn a_move_to_a_server_that_cannot_go_on_is_dropped() {
    let mut group = a_group(0, &["a", "b", "c"]);
    crate::directory::group::replace(&mut group, &id("c"), &id("d"));
    let with = |standing| a_situation(vec![group.clone()], &[("a", FIT), ("b", FIT), ("c", FIT), ("d", standing)]);
    for goes_on in [FIT, Standing::Down] {
        assert_eq!(drops(&with(goes_on)), []);
    }
    for stuck in [Standing::Away, Standing::GivenUp, Standing::ReadOnly, Standing::Refusing, Standing::Draining] {
        assert_eq!(drops(&with(stuck)), [Step::Drop { group: GroupId(0), epoch: Epoch(1) }]);
    }
}

#[test]
fn who_has_arrived_takes_the_place_of_one_that_is_gone_when_the_leaving_one_is_needed() {
    let mut group = a_group(0, &["a", "b", "c"]);
    crate::directory::group::replace(&mut group, &id("c"), &id("d"));
    group.in_sync = ids(&["b", "c"]);
    let gone = Standing::GivenUp;
    let servers = [("a", gone), ("b", gone), ("c", Standing::Draining), ("d", FIT), ("e", FIT)];
    let settled = |group: &Group| settlements(&a_situation(vec![group.clone()], &servers));
    assert_eq!(settled(&group), [], "d has not arrived yet");
    group.in_sync = ids(&["b", "c", "d"]);
    assert_eq!(settled(&group).iter().map(moved).collect::<Vec<_>>(), [(0, Some("a"), "d")]);
    group.members = ids(&["b", "c", "d"]);
    assert_eq!(settled(&group).iter().map(moved).collect::<Vec<_>>(), [(0, Some("b"), "d")]);
    group.in_sync = ids(&["b", "d"]);
    assert_eq!(settled(&group), [], "two must remain");
}

#[test]
fn nothing_is_spread_while_a_repair_is_pending() {
    let groups: Vec<Group> = (0..8).map(|group| a_group(group, &["a", "b", "c"])).collect();
    let servers = |standing| [("a", FIT), ("b", FIT), ("c", standing), ("d", FIT)];
    for pending in [Standing::Down, Standing::Away, Standing::GivenUp, Standing::Refusing, Standing::Draining] {
        assert_eq!(spread(&a_situation(groups.clone(), &servers(pending)), Pace::Everything), None);
    }
    let steps = spread(&a_situation(groups, &servers(FIT)), Pace::Everything).unwrap();
    assert_eq!(steps.len(), 6, "a quarter of the 24 places, and no move more");
    assert!(steps.iter().all(|step| moved(step).2 == "d"));
}

#[test]
fn copies_that_need_not_share_a_zone_are_moved_apart() {
    let mut situation =
        a_situation(vec![a_group(0, &["a", "b", "c"])], &[("a", FIT), ("b", FIT), ("c", FIT), ("d", FIT)]);
    for (name, zone) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "z")] {
        situation.servers.get_mut(&id(name)).unwrap().zone = zone.to_owned();
    }
    let steps = spread(&situation, Pace::Everything).unwrap();
    assert_eq!(steps.iter().map(moved).collect::<Vec<_>>(), [(0, Some("b"), "d")], "b does not lead");
    situation.servers.get_mut(&id("d")).unwrap().zone = "y".to_owned();
    assert_eq!(spread(&situation, Pace::Everything), Some(vec![]), "it would share a zone all the same");
}

proptest! {
    /// Carried out to the end, a plan leaves every server with its share, and no zone shared that was not before.
    #[test]
    fn spreading_comes_to_an_even_end(
        servers in 3usize..9,
        zones in proptest::collection::vec(0usize..4, 9),
        groups in 1u32..40,
        seed in any::<u64>(),
    ) {
        let names: Vec<String> = (0..servers).map(|number| format!("s{number}")).collect();
        let mut state = seed;
        let mut draw = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % bound
        };
        let zoned = zones.contains(&0);
        let some_group = |group| {
            let first = draw(servers);
            let mut members: Vec<&str> = (0..3).map(|next| names[(first + next * next) % servers].as_str()).collect();
            members.sort_unstable();
            members.dedup();
            a_group(group, &members)
        };
        let groups: Vec<Group> = (0..groups).map(some_group).collect();
        let all: Vec<(&str, Standing)> = names.iter().map(|name| (name.as_str(), FIT)).collect();
        let mut situation = a_situation(groups, &all);
        situation.copies = 2;
        if zoned {
            for (name, zone) in names.iter().zip(&zones) {
                situation.servers.get_mut(&id(name)).unwrap().zone = format!("z{zone}");
            }
        }
        let shared = |situation: &Situation| -> usize {
            let zones = |group: &Group| {
                let of = |member: &ServerId| situation.servers.get(member).map_or("", |facts| &facts.zone);
                shared_zones(group.members.iter().map(|member| (member, of(member))))
            };
            situation.groups.iter().map(zones).sum()
        };
        let before = shared(&situation);
        let mut count = 0;
        loop {
            let steps = spread(&situation, Pace::Bounded).unwrap();
            if steps.is_empty() { break }
            for step in steps {
                let Step::Move { group, leaving: Some(leaving), arriving, .. } = step else { panic!("{step:?}") };
                let group = &mut situation.groups[group.0 as usize];
                prop_assert!(group.is_member(&leaving) && !group.is_member(&arriving));
                crate::directory::group::replace(group, &leaving, &arriving);
                crate::directory::group::join(group, &arriving);
                prop_assert!(crate::directory::group::finish(group, |_| crate::directory::group::Fitness::Fit, 1));
                count += 1;
            }
            prop_assert!(count < 1000, "it does not end");
        }
        prop_assert!(shared(&situation) <= before);
        if !zoned {
            let load = |name: &String| situation.groups.iter().filter(|group| group.is_member(&id(name))).count();
            let (most, least) = (names.iter().map(load).max().unwrap(), names.iter().map(load).min().unwrap());
            prop_assert!(most - least <= 1, "{most} and {least}");
        }
    }
}
