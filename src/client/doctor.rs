//! What only somebody outside can see of a cluster: who can be reached from here, whose clock and whose version differ, and
//! which settings leave no room for a loss. Together with what the Directory says of itself it is a diagnosis.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{StreamExt, stream};

use super::{Client, Error, GroupKind, Health, HealthCheck, Member, Server, ServerState};
use crate::{cluster::ClusterMap, types::ServerId};

/// Servers asked at once.
const ASKED_AT_ONCE: usize = 16;
/// A round trip that is longer is felt by every write.
const SLOW: Duration = Duration::from_millis(100);
/// Clocks that differ by more make times of files and of retention surprising.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);
/// A node that has not answered its leader for as long is away.
const SILENT: Duration = Duration::from_secs(3);

/// One server, as it is seen from here.
#[derive(Clone, Debug)]
pub struct Reached {
    pub kind: &'static str,
    pub server: Server,
    /// The address that was tried.
    pub address: String,
    /// The round trip; `None` if nothing came back.
    pub round_trip: Option<Duration>,
    /// Why nothing did.
    pub error: Option<String>,
    /// The address names no machine that is known here.
    pub is_unknown_name: bool,
}

/// All that was found. A check that is [`Health::Ok`] is worth knowing and nothing to worry about.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    pub checks: Vec<HealthCheck>,
    pub reached: Vec<Reached>,
}

impl Diagnosis {
    pub fn health(&self) -> Health {
        self.checks.iter().map(|check| check.health).max().unwrap_or(Health::Ok)
    }
}

/// What the checks look at.
struct Observed<'a> {
    map: &'a ClusterMap,
    reached: &'a [Reached],
    directory_nodes: &'a [Member],
    /// Empty when the Lock service cannot be asked: the Directory says why.
    lock_nodes: &'a [Member],
    /// By how much the Directory's clock is ahead of this machine's, in milliseconds.
    clock_ahead_ms: Option<i64>,
}

impl Client {
    /// Looks at everything that can be seen from here. Fails only where the Directory cannot be asked.
    pub async fn diagnose(&self) -> Result<Diagnosis, Error> {
        let status = self.status().await?;
        let map = self.refresh_map().await?;
        let servers = self.servers().await?;
        let clock_ahead_ms = servers.directory_servers.iter().find_map(|server| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis() as i64;
            // The leader alone says when it was last seen: now.
            server.last_seen.map(|seen| seen.0 as i64 - now)
        });
        let directory_nodes = self.members(GroupKind::Directory).await?;
        let lock_nodes = self.members(GroupKind::Lock).await.unwrap_or_default();
        let known: Vec<(&'static str, Server)> =
            servers.by_kind().map(|(kind, server)| (kind, server.clone())).collect();
        let client = self.clone();
        let asked = stream::iter(known).map(move |(kind, server): (&'static str, Server)| {
            let client = client.clone();
            async move { client.reach(kind, server).await }
        });
        let reached: Vec<Reached> = asked.buffered(ASKED_AT_ONCE).boxed().collect().await;
        let observed = Observed {
            map: &map,
            reached: &reached,
            directory_nodes: &directory_nodes,
            lock_nodes: &lock_nodes,
            clock_ahead_ms,
        };
        let mut checks = [status.checks, judge(&observed)].concat();
        checks.sort_by_key(|check| std::cmp::Reverse(check.health));
        Ok(Diagnosis { checks, reached })
    }

    async fn reach(&self, kind: &'static str, server: Server) -> Reached {
        let address = self.address_of(&server);
        let (round_trip, error) = match self.ping(&address).await {
            Ok(round_trip) => (Some(round_trip), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let is_unknown_name = error.is_some() && tokio::net::lookup_host(&address).await.is_err();
        Reached { kind, server, address, round_trip, error, is_unknown_name }
    }
}

fn check<S: ToString>(
    code: &str,
    health: Health,
    summary: String,
    hint: &str,
    subjects: impl IntoIterator<Item = S>,
) -> HealthCheck {
    let subjects = subjects.into_iter().map(|subject| subject.to_string()).collect();
    HealthCheck { code: code.to_owned(), health, summary, hint: hint.to_owned(), subjects }
}

fn judge(observed: &Observed<'_>) -> Vec<HealthCheck> {
    let strangers = strangers(observed);
    [
        reachability(observed),
        clocks_and_versions(observed),
        nodes(observed, &OF_DIRECTORY, observed.directory_nodes),
        nodes(observed, &OF_LOCK, observed.lock_nodes),
        strangers.into_iter().collect(),
        settings(observed.map),
    ]
    .concat()
}

fn reachability(observed: &Observed<'_>) -> Vec<HealthCheck> {
    let mut checks = Vec::new();
    let ids =
        |list: &[&Reached]| list.iter().map(|it| format!("{} at {}", it.server.server, it.address)).collect::<Vec<_>>();
    let all = observed.reached.iter();
    let unknown: Vec<&Reached> = all.clone().filter(|it| it.is_unknown_name).collect();
    if !unknown.is_empty() {
        let summary = format!("the addresses of {} servers name no machine that is known here", unknown.len());
        let hint =
            "start them with --advertise, or for clients outside --advertise-external, and a name that resolves here";
        checks.push(check("ADDRESS_UNRESOLVED", Health::Warn, summary, hint, ids(&unknown)));
    }
    let silent = all.clone().filter(|it| it.round_trip.is_none() && !it.is_unknown_name);
    // The Directory says by itself who is down; of its own nodes it does not.
    let (nodes, servers): (Vec<&Reached>, Vec<&Reached>) =
        silent.filter(|it| it.server.state != ServerState::Down).partition(|it| it.kind == "directory");
    if !servers.is_empty() {
        let summary = format!("{} servers that the cluster takes for alive do not answer from here", servers.len());
        let hint = "look whether their addresses can be reached from this machine: a firewall, or --advertise-external";
        checks.push(check("SERVER_UNREACHABLE", Health::Error, summary, hint, ids(&servers)));
    }
    if !nodes.is_empty() {
        let summary = format!("{} nodes of the Directory do not answer", nodes.len());
        let hint = "start them again; take one that is gone for good out with `dfs-cli members remove`";
        checks.push(check("DIRECTORY_NODE_DOWN", Health::Warn, summary, hint, ids(&nodes)));
    }
    let slow: Vec<&Reached> = all.filter(|it| it.round_trip.is_some_and(|time| time > SLOW)).collect();
    if !slow.is_empty() {
        let summary = format!("{} servers need more than {} ms for a round trip", slow.len(), SLOW.as_millis());
        let hint = "every write waits for several of them: look at the network and at the load of the machines";
        checks.push(check("SERVER_SLOW", Health::Warn, summary, hint, ids(&slow)));
    }
    checks
}

fn clocks_and_versions(observed: &Observed<'_>) -> Vec<HealthCheck> {
    let mut checks = Vec::new();
    if let Some(ahead) = observed.clock_ahead_ms.filter(|ahead| ahead.unsigned_abs() > CLOCKS_DIFFER.as_millis() as u64)
    {
        let summary = format!("the Directory's clock and this machine's differ by {:.1} s", ahead.abs() as f64 / 1e3);
        let hint = "have both follow the same time service; no promise depends on it, but times of files and --at do";
        checks.push(check("CLOCKS_DIFFER", Health::Warn, summary, hint, ["the Directory"]));
    }
    let mut versions: BTreeMap<&str, Vec<&ServerId>> = BTreeMap::new();
    for it in observed.reached.iter().filter(|it| !it.server.software_version.is_empty()) {
        versions.entry(it.server.software_version.as_str()).or_default().push(&it.server.server);
    }
    if versions.len() > 1 {
        let summary = format!("servers run {} different versions", versions.len());
        let hint = "fine while they are updated one after the other; then all should run the same";
        let names = versions.iter().flat_map(|(version, ids)| ids.iter().map(move |id| format!("{id} {version}")));
        checks.push(check("VERSIONS_DIFFER", Health::Warn, summary, hint, names));
    }
    checks
}

/// How the nodes of one group are spoken of.
struct Words {
    kind: &'static str,
    name: &'static str,
    single: &'static str,
    no_margin: &'static str,
    lost: &'static str,
}

const OF_DIRECTORY: Words = Words {
    kind: "directory",
    name: "the Directory",
    single: "DIRECTORY_SINGLE_NODE",
    no_margin: "DIRECTORY_NO_MARGIN",
    lost: "nothing can be written or looked up",
};
const OF_LOCK: Words = Words {
    kind: "lock",
    name: "the Lock service",
    single: "LOCK_SINGLE_NODE",
    no_margin: "LOCK_NO_MARGIN",
    lost: "no lock can be taken",
};

fn nodes(observed: &Observed<'_>, words: &Words, members: &[Member]) -> Vec<HealthCheck> {
    let voters: Vec<&Member> = members.iter().filter(|member| member.is_voter).collect();
    let away: BTreeSet<&str> = observed
        .reached
        .iter()
        .filter(|it| it.kind == words.kind && it.round_trip.is_none())
        .map(|it| it.server.server.as_str())
        .collect();
    let is_away =
        |member: &&Member| away.contains(member.server.as_str()) || member.silence.is_some_and(|it| it >= SILENT);
    let alive = voters.iter().filter(|member| !is_away(member)).count();
    let Words { name, lost, .. } = words;
    match voters.len() {
        0 => Vec::new(),
        1 => {
            let summary = format!("{name} is one node: while it is away {lost}");
            let hint = "start two more with --join, so that any one of three may be lost";
            vec![check(words.single, Health::Ok, summary, hint, voters.iter().map(|it| &it.server))]
        }
        count if alive <= count / 2 + 1 => {
            let summary = format!("{alive} of {count} nodes of {name} are alive: if one more is lost {lost}");
            let hint =
                "start those that are away, or replace them: `dfs-cli members remove`, then a new one with --join";
            let gone = voters.iter().filter(|member| is_away(member)).map(|it| &it.server);
            vec![check(words.no_margin, Health::Warn, summary, hint, gone)]
        }
        _ => Vec::new(),
    }
}

/// One that was removed stays listed.
fn strangers(observed: &Observed<'_>) -> Option<HealthCheck> {
    let members: BTreeSet<&str> = observed.directory_nodes.iter().map(|member| member.server.as_str()).collect();
    let listed = observed.map.directory_servers.iter().map(|server| server.server.as_str());
    let strangers: Vec<&str> = listed.filter(|id| !members.contains(id)).collect();
    (!strangers.is_empty()).then(|| {
        let summary = format!("{} nodes are listed that are no members of the Directory's group", strangers.len());
        check(
            "DIRECTORY_NODE_UNKNOWN",
            Health::Ok,
            summary,
            "one that was removed stays listed; clients pass over it",
            strangers,
        )
    })
}

fn settings(map: &ClusterMap) -> Vec<HealthCheck> {
    let mut checks = Vec::new();
    let none: [&str; 0] = [];
    if map.copies == 1 {
        let summary = "every byte is kept once: a disk that is lost takes its files with it".to_owned();
        let hint = "make the cluster with --copies 3 where data matters";
        checks.push(check("ONE_COPY", Health::Warn, summary, hint, none));
    } else if map.min_in_sync == 1 {
        let summary =
            "a write is acknowledged when one server has it: if that one is lost then, the write is".to_owned();
        let hint = "start the Directory with --min-in-sync 2";
        checks.push(check("MIN_IN_SYNC_ONE", Health::Warn, summary, hint, none));
    }
    let zones: BTreeSet<&str> = map.servers.values().map(|server| server.zone.as_str()).collect();
    if let Some(zone) = zones.first().filter(|zone| zones.len() == 1 && !zone.is_empty() && map.servers.len() > 1) {
        let summary = format!("all file servers are in zone {zone}: its loss takes everything away");
        checks.push(check("ONE_ZONE", Health::Warn, summary, "start file servers in other zones, with --zone", none));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::Group,
        types::{ClusterId, Epoch, GroupId},
    };

    fn a_server(id: &str) -> Server {
        Server {
            server: id.parse().unwrap(),
            state: ServerState::Up,
            address: format!("{id}:1"),
            external_address: String::new(),
            zone: String::new(),
            disk_used_bytes: 0,
            disk_total_bytes: 0,
            blob_count: 0,
            last_seen: None,
            software_version: "1".to_owned(),
            read_only_reason: String::new(),
            stored_bytes: 0,
            draining: false,
            down_since: None,
            group_count: 1,
            lead_count: 0,
        }
    }

    fn reached(kind: &'static str, id: &str) -> Reached {
        let server = a_server(id);
        let round_trip = Some(Duration::from_millis(1));
        Reached { kind, address: server.address.clone(), server, round_trip, error: None, is_unknown_name: false }
    }

    fn member(id: &str) -> Member {
        Member {
            server: id.to_owned(),
            node_id: 1,
            address: String::new(),
            external_address: String::new(),
            is_voter: true,
            is_leader: false,
            is_rejoined: false,
            log_index: None,
            silence: None,
        }
    }

    struct World {
        map: ClusterMap,
        reached: Vec<Reached>,
        directory_nodes: Vec<Member>,
        lock_nodes: Vec<Member>,
        clock_ahead_ms: Option<i64>,
    }

    fn a_healthy_world() -> World {
        let servers = ["a", "b", "c"].map(a_server);
        let members: Vec<ServerId> = servers.iter().map(|it| it.server.clone()).collect();
        let group = Group {
            group: GroupId(0),
            epoch: Epoch(1),
            primary: members.first().cloned(),
            in_sync: members.clone(),
            members,
            replacement: None,
        };
        let nodes = ["d1", "d2", "d3"];
        World {
            map: ClusterMap {
                map_version: 1,
                cluster: ClusterId::random(),
                group_count: 1,
                groups: [(GroupId(0), group)].into(),
                servers: servers.map(|it| (it.server.clone(), it)).into(),
                lock_servers: vec![a_server("l")],
                directory_servers: nodes.map(a_server).into(),
                copies: 3,
                min_in_sync: 2,
            },
            reached: nodes.map(|id| reached("directory", id)).into_iter().chain([reached("fileserver", "a")]).collect(),
            directory_nodes: nodes.map(member).into(),
            lock_nodes: ["l1", "l2", "l3"].map(member).into(),
            clock_ahead_ms: Some(-300),
        }
    }

    fn codes(world: &World) -> Vec<(String, Health)> {
        let World { map, reached, directory_nodes, lock_nodes, clock_ahead_ms } = world;
        let clock_ahead_ms = *clock_ahead_ms;
        let checks = judge(&Observed { map, reached, directory_nodes, lock_nodes, clock_ahead_ms });
        assert!(checks.iter().all(|check| !check.summary.is_empty() && !check.hint.is_empty()));
        checks.into_iter().map(|check| (check.code, check.health)).collect()
    }

    fn expect(world: &World, expected: &[(&str, Health)]) {
        let found = codes(world);
        let found: Vec<(&str, Health)> = found.iter().map(|(code, health)| (code.as_str(), *health)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_healthy_cluster_has_nothing_to_add() {
        expect(&a_healthy_world(), &[]);
    }

    #[test]
    fn who_is_taken_for_alive_and_does_not_answer_from_here_is_told() {
        let mut world = a_healthy_world();
        world.reached[3].round_trip = None;
        expect(&world, &[("SERVER_UNREACHABLE", Health::Error)]);
        world.reached[3].is_unknown_name = true;
        expect(&world, &[("ADDRESS_UNRESOLVED", Health::Warn)]);
        world.reached[3].is_unknown_name = false;
        world.reached[3].server.state = ServerState::Down;
        expect(&world, &[]);
        world.reached[3].round_trip = Some(SLOW * 2);
        expect(&world, &[("SERVER_SLOW", Health::Warn)]);
    }

    #[test]
    fn a_directory_without_margin_is_told_before_it_stops() {
        let mut world = a_healthy_world();
        world.reached[1].round_trip = None;
        expect(&world, &[("DIRECTORY_NODE_DOWN", Health::Warn), ("DIRECTORY_NO_MARGIN", Health::Warn)]);
        let mut world = a_healthy_world();
        world.directory_nodes[2].silence = Some(SILENT);
        expect(&world, &[("DIRECTORY_NO_MARGIN", Health::Warn)]);
        let mut world = a_healthy_world();
        world.directory_nodes.truncate(1);
        world.lock_nodes.truncate(2);
        let expected = [
            ("DIRECTORY_SINGLE_NODE", Health::Ok),
            ("LOCK_NO_MARGIN", Health::Warn),
            ("DIRECTORY_NODE_UNKNOWN", Health::Ok),
        ];
        expect(&world, &expected);
        world.lock_nodes.clear();
        assert_eq!(codes(&world).len(), 2, "nobody could be asked");
    }

    #[test]
    fn clocks_versions_and_settings_that_are_risky_are_told() {
        let mut world = a_healthy_world();
        world.clock_ahead_ms = Some(-2500);
        world.reached[0].server.software_version = "2".to_owned();
        world.map.min_in_sync = 1;
        for server in world.map.servers.values_mut() {
            server.zone = "east".to_owned();
        }
        let expected = ["CLOCKS_DIFFER", "VERSIONS_DIFFER", "MIN_IN_SYNC_ONE", "ONE_ZONE"];
        expect(&world, &expected.map(|code| (code, Health::Warn)));
        world.map.copies = 1;
        assert!(codes(&world).contains(&("ONE_COPY".to_owned(), Health::Warn)));
    }
}
