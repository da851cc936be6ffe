use super::*;
use crate::cluster::Replacement;
use crate::types::{ClusterId, Epoch};

fn facts() -> Facts {
    Facts {
        initial_fileservers: 3,
        garbage_blobs: 0,
        lock_is_led: Some(true),
        stores: Reports::new(),
        obstacles: Obstacles::default(),
        now: Timestamp(0),
    }
}

fn id(name: &str) -> ServerId {
    name.parse().unwrap()
}

fn ids(names: &[&str]) -> Vec<ServerId> {
    names.iter().map(|name| id(name)).collect()
}

fn a_server(name: &str) -> Server {
    Server {
        server: id(name),
        state: ServerState::Up,
        address: format!("{name}:7072"),
        external_address: String::new(),
        zone: String::new(),
        disk_used_bytes: 10,
        disk_total_bytes: 100,
        blob_count: 0,
        last_seen: None,
        software_version: String::new(),
        read_only_reason: String::new(),
        stored_bytes: 0,
        draining: false,
        down_since: None,
        group_count: 0,
        lead_count: 0,
    }
}

fn a_healthy_map() -> ClusterMap {
    let members: Vec<ServerId> = ["a", "b", "c"].map(id).to_vec();
    let group = Group {
        group: GroupId(0),
        epoch: Epoch(1),
        primary: Some(id("a")),
        replacement: None,
        in_sync: members.clone(),
        members: members.clone(),
    };
    ClusterMap {
        map_version: 1,
        cluster: ClusterId::random(),
        group_count: 1,
        groups: [(GroupId(0), group)].into(),
        servers: ["a", "b", "c"].map(|name| (id(name), a_server(name))).into(),
        lock_servers: vec![a_server("lock-1")],
        directory_servers: vec![],
        copies: 3,
        min_in_sync: 2,
    }
}

fn take_down(map: &mut ClusterMap, names: &[&str]) {
    for name in names {
        map.servers.get_mut(&id(name)).unwrap().state = ServerState::Down;
    }
}

fn expect_codes(map: &ClusterMap, facts: &Facts, expected: &[(&str, Health)]) {
    let found = checks(map, facts);
    let codes: Vec<_> = found.iter().map(|check| (check.code, check.health)).collect();
    assert_eq!(codes, expected);
    assert!(found.iter().all(|check| !check.summary.is_empty() && !check.hint.is_empty()));
}

#[test]
fn a_healthy_cluster_has_nothing_to_say() {
    expect_codes(&a_healthy_map(), &facts(), &[]);
    assert_eq!(overall(&[]), Health::Ok);
}

#[test]
fn one_lost_server_is_a_warning_two_are_an_error() {
    let mut map = a_healthy_map();
    take_down(&mut map, &["c"]);
    let (down, spare) = (("SERVER_DOWN", Health::Warn), ("NO_SPARE_SERVER", Health::Warn));
    expect_codes(&map, &facts(), &[down, ("GROUP_SHORT", Health::Warn), spare]);
    let summary = |map: &ClusterMap| checks(map, &facts())[1].summary.clone();
    let risk = "1 groups are short of 1 copies: nothing is lost, and writes go on; one more server lost would stop the writes \
                of 1 of them";
    assert_eq!(summary(&map), risk);
    map.servers.get_mut(&id("c")).unwrap().state = ServerState::Up;
    map.groups.get_mut(&GroupId(0)).unwrap().in_sync.pop();
    assert_eq!(checks(&map, &facts())[0].summary, format!("{risk}; in 1 a server is catching up"));
    take_down(&mut map, &["b", "c"]);
    map.groups.get_mut(&GroupId(0)).unwrap().in_sync.push(id("c"));
    expect_codes(&map, &facts(), &[("GROUP_BELOW_MINIMUM", Health::Error), down, spare]);
    map.groups.get_mut(&GroupId(0)).unwrap().primary = None;
    expect_codes(&map, &facts(), &[("GROUP_WITHOUT_PRIMARY", Health::Error), down, spare]);
    assert_eq!(overall(&checks(&map, &facts())), Health::Error);
}

#[test]
fn a_group_that_moves_is_not_short_and_a_spare_server_is_no_warning() {
    let mut map = a_healthy_map();
    map.servers.insert(id("d"), a_server("d"));
    let group = map.groups.get_mut(&GroupId(0)).unwrap();
    group.members.push(id("d"));
    group.replacement = Some(Replacement { leaving: id("a"), arriving: id("d") });
    map.servers.get_mut(&id("a")).unwrap().draining = true;
    expect_codes(&map, &facts(), &[]);
    let group = map.groups.get_mut(&GroupId(0)).unwrap();
    group.members.pop();
    group.replacement = None;
    expect_codes(&map, &facts(), &[]);
    map.servers.remove(&id("d"));
    expect_codes(&map, &facts(), &[("NO_SPARE_SERVER", Health::Warn)]);
}

#[test]
fn a_group_with_an_empty_place_is_short_when_there_is_a_server_for_it() {
    let mut map = a_healthy_map();
    let group = map.groups.get_mut(&GroupId(0)).unwrap();
    (group.members, group.in_sync) = (ids(&["a", "b"]), ids(&["a", "b"]));
    let short = "1 groups are short of 1 copies:";
    expect_codes(&map, &facts(), &[("GROUP_SHORT", Health::Warn)]);
    assert!(checks(&map, &facts())[0].summary.starts_with(short));
    map.servers.remove(&id("c"));
    expect_codes(&map, &facts(), &[("NO_SPARE_SERVER", Health::Warn)]);
}

#[test]
fn copies_that_share_a_zone_are_named_when_they_need_not() {
    let mut map = a_healthy_map();
    for name in ["a", "b"] {
        map.servers.get_mut(&id(name)).unwrap().zone = "east".to_owned();
    }
    expect_codes(&map, &facts(), &[]);
    map.servers.insert(id("d"), Server { zone: "east".to_owned(), ..a_server("d") });
    expect_codes(&map, &facts(), &[]);
    map.servers.insert(id("e"), Server { zone: "west".to_owned(), ..a_server("e") });
    expect_codes(&map, &facts(), &[("ZONE_SHARED", Health::Warn)]);
}

#[test]
fn without_groups_it_says_how_many_servers_are_missing() {
    let mut map = a_healthy_map();
    map.groups.clear();
    map.group_count = 0;
    map.servers.remove(&id("c"));
    expect_codes(&map, &facts(), &[("TOO_FEW_SERVERS", Health::Error)]);
    assert!(checks(&map, &facts())[0].summary.starts_with("2 of 3 "));
}

#[test]
fn full_and_read_only_disks_are_named() {
    let mut map = a_healthy_map();
    map.servers.get_mut(&id("a")).unwrap().disk_used_bytes = 90;
    map.servers.get_mut(&id("b")).unwrap().disk_used_bytes = 99;
    map.servers.get_mut(&id("c")).unwrap().read_only_reason = "fsync failed".into();
    let (read_only, full) = (("SERVER_READ_ONLY", Health::Error), ("DISK_FULL", Health::Error));
    let (nearly, spare) = (("DISK_NEARLY_FULL", Health::Warn), ("NO_SPARE_SERVER", Health::Warn));
    expect_codes(&map, &facts(), &[read_only, full, spare, nearly]);
    let subjects: Vec<String> = checks(&map, &facts()).into_iter().flat_map(|check| check.subjects).collect();
    assert_eq!(subjects, ["c", "b", "0", "a"]);
    map.servers.insert(id("d"), a_server("d"));
    expect_codes(&map, &facts(), &[read_only, full, nearly]);
}

#[test]
fn what_keeps_groups_from_moving_is_named() {
    let obstacles = Obstacles { without_room: vec![GroupId(0)], shunned: vec![id("b")] };
    let expected = [("NO_ROOM", Health::Warn), ("MOVES_FAILED", Health::Warn)];
    expect_codes(&a_healthy_map(), &Facts { obstacles, ..facts() }, &expected);
}

#[test]
fn a_lock_service_is_missed() {
    let mut map = a_healthy_map();
    map.lock_servers[0].state = ServerState::Down;
    expect_codes(&map, &facts(), &[("LOCK_DOWN", Health::Error)]);
    map.lock_servers.clear();
    expect_codes(&map, &facts(), &[("LOCK_MISSING", Health::Error)]);
}

#[test]
fn a_lock_service_of_several_nodes_is_missed_when_nobody_leads_it() {
    let mut map = a_healthy_map();
    map.lock_servers = ["lock-1", "lock-2", "lock-3"].map(a_server).to_vec();
    expect_codes(&map, &facts(), &[]);
    let unled = Facts { lock_is_led: Some(false), ..facts() };
    expect_codes(&map, &unled, &[("LOCK_WITHOUT_LEADER", Health::Error)]);
    expect_codes(&map, &Facts { lock_is_led: None, ..facts() }, &[]);
    map.lock_servers[1].state = ServerState::Down;
    expect_codes(&map, &facts(), &[("LOCK_NODE_DOWN", Health::Warn)]);
    map.lock_servers[2].state = ServerState::Down;
    expect_codes(&map, &unled, &[("LOCK_WITHOUT_LEADER", Health::Error)]);
    let check = checks(&map, &unled).remove(0);
    assert_eq!((check.subjects, check.summary.contains("2 of 3")), (vec!["lock-2".into(), "lock-3".into()], true));
}

#[test]
fn garbage_is_mentioned_only_when_it_cannot_go() {
    let mut map = a_healthy_map();
    let facts = Facts { garbage_blobs: 5, ..facts() };
    expect_codes(&map, &facts, &[]);
    take_down(&mut map, &["c"]);
    let codes: Vec<_> = checks(&map, &facts).iter().map(|check| check.code).collect();
    assert!(codes.contains(&"GARBAGE_WAITING"), "{codes:?}");
}

#[test]
fn nodes_that_do_not_vote_are_named_and_so_is_a_lost_log() {
    assert_eq!(learning(std::iter::empty()), None);
    let check = learning([("directory-2".to_owned(), true), ("directory-3".to_owned(), false)].into_iter()).unwrap();
    assert_eq!(
        (check.health, check.subjects),
        (Health::Warn, vec!["directory-2".to_owned(), "directory-3".to_owned()])
    );
    assert!(check.summary.contains("1 of them found the log damaged"), "{}", check.summary);
}
