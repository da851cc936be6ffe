//! Who has been heard of lately: the leases of the cluster's servers, and what they said about themselves.
//!
//! No clock here: `now` is always given. What is kept is memory alone. A Directory that restarts gives every server a
//! fresh lease before it judges it, and so does one that was itself stopped for a while: the beats that it missed then
//! say nothing about who sent them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    command::Registration,
    damage::{Reports, StoreReport},
};
use crate::{
    cluster::Server,
    types::{GroupId, Incarnation, ServerId, StoreId, Timestamp},
};

/// How often a server beats at least.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(200);
/// A server that is silent for as long is down.
pub const LEASE: Duration = Duration::from_secs(3);
/// A server that is silent for as long, more than two beats, is asked whether it lives.
pub const SILENCE: Duration = Duration::from_millis(500);
/// One that answers, but goes on to be silent, is asked again after this.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// A judge who was away for longer than this was stopped, and judges nobody until a lease later.
const STALL_MAX: Duration = Duration::from_secs(1);
/// A store that took no writes takes them again once it has said so for as long: one on the brink of being full would come
/// and go with every file that is written or deleted.
pub const WRITABLE_PATIENCE: Duration = Duration::from_secs(10);

/// What a server says about itself with every beat; kept in memory, never in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub disk_used_bytes: u64,
    pub disk_total_bytes: u64,
    pub blob_count: u64,
    /// Of its blobs.
    pub stored_bytes: u64,
    /// Why its store takes no writes; empty: it does.
    pub read_only_reason: String,
    /// Groups that it leads and in which a write has been under way for a while.
    pub uploading: BTreeSet<GroupId>,
    /// Of a node of the Lock service: whether it leads.
    pub leads: bool,
    pub store: StoreReport,
}

/// Who goes by a server's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub store: StoreId,
    /// `None`: it has none, as all but file servers.
    pub incarnation: Option<Incarnation>,
}

impl Process {
    pub fn of(registration: &Registration) -> Self {
        Self { store: registration.store, incarnation: registration.incarnation() }
    }
}

/// Another process whose lease lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rival {
    pub process: Process,
    /// Whether it has a heartbeat stream.
    pub is_connected: bool,
}

/// What is remembered about one server.
#[derive(Debug)]
struct Known {
    process: Process,
    stats: Stats,
    /// `None`: not since the Directory started.
    last_seen: Option<Timestamp>,
    expires: Instant,
    /// Whether it has beaten since it registered, or since this Directory leads.
    beats: bool,
    /// The last beat; `None` for one that has never beaten, of which the lease alone decides.
    heard: Option<Instant>,
    /// When it was last asked whether it lives, since that beat.
    asked: Option<Instant>,
    /// Since when every beat has said that its store takes writes.
    writable_since: Option<Instant>,
    /// Open heartbeat streams: more than one while a server connects again before its old connection is noticed dead.
    streams: u32,
}

/// Whether a beat counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    Counted,
    /// Nobody registered under this name, or another process.
    NotRegistered,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    TakesWrites,
    ReadOnly { reason: String },
}

#[derive(Debug)]
pub struct Table {
    servers: BTreeMap<ServerId, Known>,
    last_judged: Instant,
}

impl Table {
    /// Every server known from before has a fresh lease.
    pub fn new(servers: impl IntoIterator<Item = (ServerId, Process)>, now: Instant) -> Self {
        let mut table = Self { servers: BTreeMap::new(), last_judged: now };
        for (server, process) in servers {
            table.insert(server, process, Stats::default(), None, now);
        }
        // They have beaten to whoever led before.
        table.servers.values_mut().for_each(|known| known.heard = Some(now));
        table
    }

    fn insert(&mut self, server: ServerId, process: Process, stats: Stats, seen: Option<Timestamp>, now: Instant) {
        let streams =
            self.servers.get(&server).filter(|known| known.process == process).map_or(0, |known| known.streams);
        let known = Known {
            process,
            stats,
            last_seen: seen,
            expires: now + LEASE,
            beats: false,
            heard: None,
            asked: None,
            writable_since: None,
            streams,
        };
        self.servers.insert(server, known);
    }

    /// A server has registered: its lease begins anew.
    pub fn registered(&mut self, server: ServerId, process: Process, stats: Stats, seen: Timestamp, now: Instant) {
        self.insert(server, process, stats, Some(seen), now);
    }

    /// Another server has taken its place: its beats do not count before it registers again.
    pub fn forget(&mut self, server: &ServerId) {
        self.servers.remove(server);
    }

    /// A beat renews the lease.
    pub fn heard(&mut self, server: &ServerId, process: Process, stats: Stats, seen: Timestamp, now: Instant) -> Beat {
        match self.servers.get_mut(server) {
            Some(known) if known.process == process => {
                known.expires = now + LEASE;
                (known.heard, known.asked) = (Some(now), None);
                let writable = stats.read_only_reason.is_empty();
                known.writable_since = writable.then(|| known.writable_since.unwrap_or(now));
                known.stats = stats;
                known.beats = true;
                known.last_seen = Some(seen);
                Beat::Counted
            }
            Some(_) | None => Beat::NotRegistered,
        }
    }

    /// A heartbeat stream has begun.
    pub fn connected(&mut self, server: &ServerId, process: Process) {
        if let Some(known) = self.servers.get_mut(server).filter(|known| known.process == process) {
            known.streams += 1;
        }
    }

    /// A heartbeat stream has ended. The lease goes on: who connects again within it loses nothing.
    pub fn disconnected(&mut self, server: &ServerId, process: Process) {
        if let Some(known) = self.servers.get_mut(server).filter(|known| known.process == process) {
            known.streams = known.streams.saturating_sub(1);
        }
    }

    /// Whether the server is known with another data folder than `store`.
    pub fn is_replaced(&self, server: &ServerId, store: StoreId) -> bool {
        self.servers.get(server).is_some_and(|known| known.process.store != store)
    }

    /// Who goes by this name, if it is another process than `process` and its lease lasts.
    pub fn rival(&self, server: &ServerId, process: Process, now: Instant) -> Option<Rival> {
        let known = self.servers.get(server).filter(|known| known.process != process && known.expires > now)?;
        Some(Rival { process: known.process, is_connected: known.streams > 0 })
    }

    /// What is to be believed of a server's store; nothing while that is not clear.
    pub fn store_state(&self, server: &ServerId, now: Instant) -> Option<StoreState> {
        let known = self.servers.get(server)?;
        if !known.stats.read_only_reason.is_empty() {
            return Some(StoreState::ReadOnly { reason: known.stats.read_only_reason.clone() });
        }
        let long = |since: Instant| now.saturating_duration_since(since) >= WRITABLE_PATIENCE;
        known.writable_since.is_some_and(long).then_some(StoreState::TakesWrites)
    }

    /// Groups in which writes have been under way for a while, as those say whose leases last.
    pub fn uploading(&self, now: Instant) -> BTreeSet<GroupId> {
        self.servers
            .values()
            .filter(|known| known.expires > now)
            .flat_map(|known| known.stats.uploading.iter().copied())
            .collect()
    }

    /// Whether one of these has said that it leads; `None` while one that is alive has not yet said anything.
    pub fn is_led<'a>(&self, servers: impl Iterator<Item = &'a ServerId>, now: Instant) -> Option<bool> {
        let alive = servers.filter_map(|server| self.servers.get(server)).filter(|known| known.expires > now);
        let (mut led, mut all_heard) = (false, true);
        for known in alive {
            led |= known.stats.leads;
            all_heard &= known.beats;
        }
        (led || all_heard).then_some(led)
    }

    /// What each server last said, of those that have said anything to this leader.
    pub fn stats(&self) -> BTreeMap<ServerId, Stats> {
        self.servers
            .iter()
            .filter(|(_, known)| known.beats)
            .map(|(server, known)| (server.clone(), known.stats.clone()))
            .collect()
    }

    /// What each server last said of its copies.
    pub fn reports(&self) -> Reports {
        self.servers.iter().map(|(server, known)| (server.clone(), known.stats.store.clone())).collect()
    }

    /// Fills in what the server last said about itself. That its store takes no writes holds until the Directory believes
    /// otherwise.
    pub fn describe(&self, server: &mut Server) {
        if let Some(known) = self.servers.get(&server.server) {
            server.disk_used_bytes = known.stats.disk_used_bytes;
            server.disk_total_bytes = known.stats.disk_total_bytes;
            server.blob_count = known.stats.blob_count;
            server.stored_bytes = known.stats.stored_bytes;
            if !known.stats.read_only_reason.is_empty() {
                server.read_only_reason.clone_from(&known.stats.read_only_reason);
            }
            server.last_seen = known.last_seen;
        }
    }

    /// Those that are to be asked now whether they live.
    pub fn silent(&mut self, now: Instant) -> Vec<ServerId> {
        let is_over = |since: Instant, patience| now.saturating_duration_since(since) >= patience;
        let mut silent = Vec::new();
        for (server, known) in &mut self.servers {
            let quiet = known.heard.is_some_and(|heard| is_over(heard, SILENCE));
            if quiet && known.asked.is_none_or(|asked| is_over(asked, ASK_AGAIN)) {
                known.asked = Some(now);
                silent.push(server.clone());
            }
        }
        silent
    }

    /// Whether the server has beaten at `since` or later.
    pub fn was_heard(&self, server: &ServerId, since: Instant) -> bool {
        self.servers.get(server).and_then(|known| known.heard).is_some_and(|heard| heard >= since)
    }

    /// Who goes by this name, as far as it says, and as far as its registration was heard of here.
    pub fn incarnation(&self, server: &ServerId) -> Option<Incarnation> {
        self.servers.get(server)?.process.incarnation
    }

    /// Those whose lease has run out, with the process that it was; `None`: it has been out for so long that nobody can have
    /// taken that one's place.
    pub fn expired(&mut self, now: Instant) -> Vec<(ServerId, Option<Incarnation>)> {
        let away = now.saturating_duration_since(self.last_judged);
        self.last_judged = now;
        if away > SILENCE / 2 {
            // Beats may have come meanwhile that nobody has counted yet.
            self.servers.values_mut().for_each(|known| known.heard = known.heard.map(|_| now));
        }
        if away > STALL_MAX {
            for known in self.servers.values_mut() {
                known.expires = now + LEASE;
            }
        }
        let expired = self.servers.iter().filter(|(_, known)| known.expires <= now);
        // A successor whose registration was not heard of here would have registered again within a lease.
        let is_fresh = |known: &Known| now.saturating_duration_since(known.expires) < LEASE;
        let judged = |known: &Known| known.process.incarnation.filter(|_| is_fresh(known));
        expired.map(|(server, known)| (server.clone(), judged(known))).collect()
    }
}

#[cfg(test)]
mod tests;
