//! Who belongs to the cluster: its making and settings, servers that come and go by themselves, and what that means for the
//! groups. What people ask for, and moves, are next door in [`super::moves`].

use std::collections::BTreeSet;

use redb::ReadableTable;

use crate::{
    cluster::Group,
    types::{Epoch, GroupId, Incarnation, Inode, ServerId},
};

use super::{
    command::{Outcome, Registration, ServerKind, Settings},
    departures,
    error::{Error, Rejected},
    fleet::{Fleet, all_groups, all_servers, reconfigure},
    group::{self, Fitness},
    model::{Cluster, EntryKind, Node, ServerRecord, Totals},
    namespace,
    placement::{self, Candidate},
    records::server_kind_out,
    state::Effect,
    tables::{Tables, totals_out},
};

const ROOT_MODE: u32 = 0o755;
const KINDS: [ServerKind; 3] = [ServerKind::Directory, ServerKind::Lock, ServerKind::FileServer];

/// Makes the cluster with an empty root. A cluster that is made already stays as it is.
pub(super) fn bootstrap(tables: &mut Tables, cluster: Cluster) -> Result<Effect, Error> {
    if tables.cluster.is_some() {
        return Ok(Effect::Nothing(Outcome::Done));
    }
    check_settings(&cluster.settings)?;
    tables.put_cluster(cluster)?;
    let root = Node { parent: Inode::ROOT, ..namespace::fresh(tables, EntryKind::Directory, ROOT_MODE) };
    tables.inodes.put(Inode::ROOT.0, &root)?;
    tables.totals.insert(Inode::ROOT.0, totals_out(Totals::default()))?;
    tables.state.newest_inode = Inode::ROOT;
    tables.state.map_version += 1;
    Ok(Effect::Changed(Outcome::Done))
}

/// Changes what may change; the rest must be as it is.
pub(super) fn change_settings(tables: &mut Tables, settings: &Settings) -> Result<Effect, Error> {
    let cluster = tables.cluster()?.clone();
    let now = &cluster.settings;
    if settings == now {
        return Ok(Effect::Nothing(Outcome::Done));
    }
    for (field, fixed) in
        [("group_count", settings.group_count == now.group_count), ("copies", settings.copies == now.copies)]
    {
        if !fixed {
            return Err(Rejected::SettingFixed { field }.into());
        }
    }
    check_settings(settings)?;
    tables.put_cluster(Cluster { settings: settings.clone(), ..cluster })?;
    tables.state.map_version += 1;
    Ok(Effect::Changed(Outcome::Done))
}

fn check_settings(settings: &Settings) -> Result<(), Rejected> {
    let checks = [
        ("group_count", settings.group_count > 0),
        ("copies", settings.copies > 0),
        ("min_in_sync", (1..=settings.copies).contains(&settings.min_in_sync)),
        ("initial_fileservers", settings.initial_fileservers >= settings.min_in_sync),
        ("keep_versions", settings.keep_versions > 0),
    ];
    match checks.iter().find(|(_, good)| !good) {
        Some((field, _)) => Err(Rejected::BadSetting { field }),
        None => Ok(()),
    }
}

/// A server says who and where it is.
///
/// One that comes back with its data folder keeps its places: all that it acknowledged is durable. One that comes back
/// without has nothing of what it acknowledged, and leaves every in-sync set, if each has another member left.
///
/// The groups that a file server leads get a new epoch even if it says nothing new: it may have started again within its
/// lease, and no longer knows which joiners its commits must wait for. What the process before it asked for, and comes
/// only now, is of an old epoch.
pub(super) fn register(tables: &mut Tables, registration: &Registration) -> Result<Effect, Error> {
    let server = &registration.server;
    let key = (server_kind_out(registration.kind), server.as_str());
    let before = tables.servers.get(key)?;
    check_not_removed(tables, registration, before.as_ref())?;
    check_same_folder(registration, before.as_ref())?;
    let draining = before.as_ref().is_some_and(|before| before.draining);
    // It has opened its store anew; whether that takes writes its beats will say.
    let record = ServerRecord {
        registration: Registration {
            incarnations: registration.incarnation().into_iter().collect(),
            ..registration.clone()
        },
        down: false,
        read_only_reason: String::new(),
        read_only_since: None,
        down_since: None,
        draining,
        lost: false,
    };
    let is_file_server = registration.kind == ServerKind::FileServer;
    let leads = is_file_server && all_groups(tables)?.iter().any(|group| group.is_primary(server));
    if before.as_ref() == Some(&record) && !leads {
        return Ok(Effect::Nothing(Outcome::Registered));
    }
    let took_no_writes = before.as_ref().is_some_and(|before| !before.read_only_reason.is_empty());
    let wiped = before.is_some_and(|before| before.registration.store != registration.store);
    if wiped {
        check_replaceable(tables, registration)?;
    }
    if registration.kind == ServerKind::Lock {
        replace_lock_service(tables, registration)?;
    }
    tables.servers.put(key, &record)?;
    tables.state.map_version += 1;
    if is_file_server {
        if wiped {
            departures::forget(tables, server)?;
        }
        reconfigure(tables, |group| {
            let led = group.is_primary(server);
            let left = wiped && group::leave(group, server, 1);
            let kept = !draining && group::keep_place(group, server);
            led || left || kept || (took_no_writes && is_refused_joiner(group, server))
        })?;
        make_groups(tables)?;
    }
    Ok(Effect::Changed(Outcome::Registered))
}

/// What was removed does not come back: its groups have gone on without it.
fn check_not_removed(tables: &Tables, registration: &Registration, before: Option<&ServerRecord>) -> Result<(), Error> {
    let server = registration.server.clone();
    if tables.removed.get(registration.store.0.as_u128())?.is_some() {
        return Err(Rejected::ServerRemoved { server }.into());
    }
    match before.filter(|before| before.lost) {
        Some(lost) if lost.registration.store == registration.store => Err(Rejected::ServerRemoved { server }.into()),
        Some(_) => Err(Rejected::ServerIdTaken { server }.into()),
        None => Ok(()),
    }
}

/// A copy of a data folder does not have what was acknowledged since it was made.
fn check_same_folder(registration: &Registration, before: Option<&ServerRecord>) -> Result<(), Error> {
    let before = before.map(|before| &before.registration).filter(|before| before.store == registration.store);
    match before.and_then(|before| Some((before, before.incarnation()?))) {
        Some((before, newest)) if !registration.follows(Some(newest)) => {
            let (server, address) = (before.server.clone(), before.address.clone());
            Err(Rejected::FolderCopied { server, address, newest }.into())
        }
        Some(_) | None => Ok(()),
    }
}

/// The cluster map no longer lists a node of the Directory.
pub(super) fn forget_node(tables: &mut Tables, server: &ServerId) -> Result<Effect, Error> {
    let key = (server_kind_out(ServerKind::Directory), server.as_str());
    if tables.servers.get(key)?.is_none() {
        return Ok(Effect::Nothing(Outcome::Done));
    }
    tables.servers.remove(key)?;
    tables.state.map_version += 1;
    Ok(Effect::Changed(Outcome::Done))
}

/// The server may start again from nothing: the old one is down, and no in-sync set consists of it alone.
fn check_replaceable(tables: &Tables, registration: &Registration) -> Result<(), Error> {
    let server = &registration.server;
    let key = (server_kind_out(registration.kind), server.as_str());
    // Which Directory node lives is for their group to say, not for a lease.
    let is_judged = registration.kind != ServerKind::Directory;
    let alive = is_judged && tables.servers.get(key)?.is_some_and(|record| !record.down);
    let needed = registration.kind == ServerKind::FileServer
        && all_groups(tables)?.iter().any(|group| group.is_in_sync(server) && group.in_sync.len() == 1);
    if alive || needed { Err(Rejected::ServerIdTaken { server: server.clone() }.into()) } else { Ok(()) }
}

/// There is one Lock service, for two would both grant the same lock. Its nodes register under its id. A service of which
/// every node is down gives its place to whoever registers, and must register again itself when it comes back.
fn replace_lock_service(tables: &mut Tables, registration: &Registration) -> Result<(), Error> {
    let mut others = all_servers(tables, ServerKind::Lock)?;
    let service = |of: &Registration| of.lock_service;
    others.retain(|record| record.registration.server != registration.server);
    others.retain(|record| service(registration).is_none() || service(&record.registration) != service(registration));
    if let Some(alive) = others.iter().find(|record| !record.down) {
        return Err(Rejected::LockServiceTaken { server: alive.registration.server.clone() }.into());
    }
    for gone in others {
        tables.servers.remove((server_kind_out(ServerKind::Lock), gone.registration.server.as_str()))?;
    }
    Ok(())
}

/// Makes the groups, once there are enough file servers. Those that are short of members then get more by moves.
fn make_groups(tables: &mut Tables) -> Result<(), Error> {
    if tables.groups.table.first()?.is_some() {
        return Ok(());
    }
    let settings = tables.cluster()?.settings.clone();
    let candidates: Vec<Candidate> = all_servers(tables, ServerKind::FileServer)?
        .into_iter()
        .filter(|record| record.fitness() >= Fitness::ReadOnly && !record.draining)
        .map(|record| Candidate { server: record.registration.server, zone: record.registration.zone })
        .collect();
    if candidates.len() < settings.initial_fileservers as usize {
        return Ok(());
    }
    let mut fleet = Fleet::load(tables)?;
    for mut group in placement::place(&candidates, settings.group_count, settings.copies) {
        fleet.tidy(&mut group);
        departures::put_group(tables, &group)?;
    }
    Ok(())
}

/// The server's lease has run out, or a probe found it dead.
pub(super) fn mark_down(
    tables: &mut Tables,
    server: &ServerId,
    incarnation: Option<Incarnation>,
) -> Result<Effect, Error> {
    let at_least = tables.cluster()?.settings.min_in_sync as usize;
    let now = tables.time;
    let mark = |record: &mut ServerRecord| {
        record.down = true;
        record.down_since = Some(now);
    };
    let succeeded = |record: &ServerRecord| incarnation.is_some() && record.registration.incarnation() != incarnation;
    let already = |record: &ServerRecord| record.down || succeeded(record);
    change_record(tables, server, already, mark, |group| group::leave(group, server, at_least))
}

/// The server is heard of again. It is in the in-sync sets that could not spare it, and may lead them again; who was to
/// replace it there is not needed any more.
pub(super) fn mark_up(tables: &mut Tables, server: &ServerId) -> Result<Effect, Error> {
    let key = (server_kind_out(ServerKind::FileServer), server.as_str());
    let record = tables.servers.get(key)?;
    if record.as_ref().is_some_and(|record| record.lost) {
        return Err(Rejected::ServerRemoved { server: server.clone() }.into());
    }
    let draining = record.is_some_and(|record| record.draining);
    let mark = |record: &mut ServerRecord| {
        record.down = false;
        record.down_since = None;
    };
    change_record(tables, server, |record| !record.down, mark, |group| !draining && group::keep_place(group, server))
}

/// The server's store takes no writes: others lead its groups, and go on without it where they can spare it.
pub(super) fn mark_read_only(tables: &mut Tables, server: &ServerId, reason: &str) -> Result<Effect, Error> {
    let now = tables.time;
    let mark = |record: &mut ServerRecord| {
        reason.clone_into(&mut record.read_only_reason);
        record.read_only_since = Some(now);
    };
    let already = |record: &ServerRecord| !record.read_only_reason.is_empty();
    change_record(tables, server, already, mark, |_| false)
}

/// The server's store takes writes again. Who was to replace it where it is in sync is not needed any more.
pub(super) fn mark_writable(tables: &mut Tables, server: &ServerId) -> Result<Effect, Error> {
    let already = |record: &ServerRecord| record.read_only_reason.is_empty();
    let record = tables.servers.get((server_kind_out(ServerKind::FileServer), server.as_str()))?;
    let draining = record.is_some_and(|record| record.draining);
    let mark = |record: &mut ServerRecord| {
        record.read_only_reason.clear();
        record.read_only_since = None;
    };
    change_record(tables, server, already, mark, |group| {
        let kept = !draining && group::keep_place(group, server);
        kept || is_refused_joiner(group, server)
    })
}

/// Whether the member may have been refused for taking no writes. Its primary has gone on without it since, and an earlier try to
/// count it in that is still under way must not succeed: another epoch sees to that.
fn is_refused_joiner(group: &Group, server: &ServerId) -> bool {
    group.is_member(server) && !group.is_in_sync(server)
}

/// Marks a server, if it is not marked so already, and makes of the groups what follows.
pub(super) fn change_record(
    tables: &mut Tables,
    server: &ServerId,
    already: impl Fn(&ServerRecord) -> bool,
    mark: impl Fn(&mut ServerRecord),
    change: impl Fn(&mut Group) -> bool,
) -> Result<Effect, Error> {
    let mut known = false;
    let mut changed = false;
    for kind in KINDS {
        let key = (server_kind_out(kind), server.as_str());
        let Some(mut record) = tables.servers.get(key)? else { continue };
        known = true;
        if !already(&record) {
            mark(&mut record);
            tables.servers.put(key, &record)?;
            changed = true;
        }
    }
    if !known {
        return Err(Rejected::ServerNotFound { server: server.clone() }.into());
    }
    if !changed {
        return Ok(Effect::Nothing(Outcome::Done));
    }
    tables.state.map_version += 1;
    reconfigure(tables, change)?;
    Ok(Effect::Changed(Outcome::Done))
}

/// A primary says that a member failed it: it leaves the sets that can spare it, of the configurations named.
pub(super) fn evict(
    tables: &mut Tables,
    primary: &ServerId,
    suspect: &ServerId,
    groups: &[(GroupId, Epoch)],
) -> Result<Effect, Error> {
    let at_least = tables.cluster()?.settings.min_in_sync as usize;
    if tables.servers.get((server_kind_out(ServerKind::FileServer), suspect.as_str()))?.is_none() {
        return Err(Rejected::ServerNotFound { server: suspect.clone() }.into());
    }
    let mut changed = false;
    for &(group, epoch) in groups {
        let Some(mut config) = tables.groups.get(group.0)? else { continue };
        let current = config.epoch == epoch && config.is_primary(primary) && primary != suspect;
        if current && group::leave(&mut config, suspect, at_least) {
            group::next_epoch(&mut config);
            departures::put_group(tables, &config)?;
            changed = true;
        }
    }
    if !changed {
        return Ok(Effect::Nothing(Outcome::Done));
    }
    tables.state.map_version += 1;
    Ok(Effect::Changed(Outcome::Done))
}

/// A member has every blob of the group, and every commit waits for it: it counts from now on.
pub(super) fn add_in_sync(
    tables: &mut Tables,
    primary: &ServerId,
    group: GroupId,
    epoch: Epoch,
    member: &ServerId,
) -> Result<Effect, Error> {
    let mut config = tables.groups.get(group.0)?.ok_or(Rejected::GroupNotFound { group })?;
    if !config.is_member(member) {
        return Err(Rejected::NotAMember { server: member.clone(), group }.into());
    }
    if !config.is_primary(primary) {
        return Err(Rejected::StaleEpoch { group, current: config.epoch }.into());
    }
    if config.is_in_sync(member) {
        return Ok(Effect::Nothing(Outcome::Done));
    }
    if config.epoch != epoch {
        return Err(Rejected::StaleEpoch { group, current: config.epoch }.into());
    }
    let mut fleet = Fleet::load(tables)?;
    let record = tables.servers.get((server_kind_out(ServerKind::FileServer), member.as_str()))?;
    if record.is_some_and(|record| !record.read_only_reason.is_empty()) {
        // Its beats say so, or have not said otherwise for long enough.
        return Err(Rejected::TakesNoWrites { server: member.clone() }.into());
    }
    group::join(&mut config, member);
    if fleet.fitness_of(member) == Fitness::Fit {
        // Who was to be replaced has come back before whoever was to replace it.
        group::keep_place(&mut config, member);
    }
    // Another that takes no writes, or is leaving, may be spared now.
    fleet.tidy(&mut config);
    group::next_epoch(&mut config);
    departures::put_group(tables, &config)?;
    tables.state.map_version += 1;
    Ok(Effect::Changed(Outcome::Done))
}

/// Passes the lead of at most `limit` groups on to servers that lead fewer.
pub(super) fn spread_primaries(tables: &mut Tables, limit: usize, except: &BTreeSet<GroupId>) -> Result<Effect, Error> {
    let mut fleet = Fleet::load(tables)?;
    let mut count = 0;
    for mut group in all_groups(tables)? {
        if count == limit {
            break;
        }
        if !except.contains(&group.group) && fleet.pass_on(&mut group) {
            group::next_epoch(&mut group);
            departures::put_group(tables, &group)?;
            count += 1;
        }
    }
    if count == 0 {
        return Ok(Effect::Nothing(Outcome::Done));
    }
    tables.state.map_version += 1;
    Ok(Effect::Changed(Outcome::Done))
}
