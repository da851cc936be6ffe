//! What the Directory does by itself: judges leases, looks after suspects, spreads the primaries' roles, and forgets what is
//! over.

use std::{sync::Arc, time::Instant};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Duration, MissedTickBehavior, interval};

use super::{
    Directory, clock,
    command::{Command, Outcome},
    lease, open, report,
};
use crate::types::ServerId;

/// How late a lease that has run out may be noticed.
const JUDGE_INTERVAL: Duration = Duration::from_millis(50);
/// Suspects that are looked at side by side.
const LOOKS_MAX: usize = 16;
/// How late what is over may be forgotten.
const COLLECT_INTERVAL: Duration = Duration::from_secs(1);
/// Things forgotten in one step, so that callers wait for it only shortly.
const COLLECT_LIMIT: u32 = 1000;
const SPREAD_INTERVAL: Duration = Duration::from_secs(1);
/// Roles are spread when the groups have been as they are for so long: servers that came back are level by then, and one that
/// comes and goes is given none.
const CALM: Duration = Duration::from_secs(30);
/// Roles passed on in one step. Uploads under way in those groups begin again at the new primary.
const SPREAD_LIMIT: u32 = 8;

/// Marks servers down whose lease has run out, and has those looked at that are silent before. Never ends.
pub async fn judge_leases(directory: Arc<Directory>) {
    let mut ticks = interval(JUDGE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let expired = directory.leases().expired(now);
        let silent = directory.leases().silent(now);
        silent
            .into_iter()
            .filter(|server| !directory.is_down(server))
            .for_each(|server| directory.suspects.add(server));
        for (server, incarnation) in expired {
            if directory.is_down(&server) {
                continue;
            }
            tracing::warn!(%server, lease = ?lease::LEASE, "a server's lease has run out");
            // Tried again at the next tick: it is still not down then.
            let down = Command::MarkDown { server: server.clone(), incarnation };
            if let Err(error) = directory.proposer.propose(down).await {
                tracing::warn!(%server, %error, "a server could not be marked down");
            }
        }
    }
}

/// Looks whether a server that a primary has reported, that is silent or whose heartbeat stream has ended, is dead for
/// everybody: if so, the groups that it leads need not wait for its lease. Never ends.
pub async fn look_after_suspects(directory: Arc<Directory>) {
    let mut looks = FuturesUnordered::new();
    loop {
        tokio::select! {
            suspect = directory.suspects.next(), if looks.len() < LOOKS_MAX => looks.push(look_at(&directory, suspect)),
            Some(()) = looks.next() => {}
        }
    }
}

async fn look_at(directory: &Directory, suspect: ServerId) {
    if let Err(failure) = report::look_at(directory, &suspect).await {
        tracing::warn!(server = %suspect, %failure, "a suspect could not be looked after");
    }
}

/// Lists the nodes of the group in the cluster map, and nobody else, so that clients find the others when this one is gone.
/// Never ends.
pub async fn list_nodes(directory: Arc<Directory>) {
    let mut ticks = interval(COLLECT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let map = directory.maps.borrow().clone();
        let nodes = directory.group.nodes();
        let is_node = |known: &ServerId| nodes.iter().any(|(_, node)| node.server == known.as_str());
        for gone in map.directory_servers.iter().map(|known| &known.server).filter(|known| !is_node(known)) {
            match directory.proposer.propose(Command::ForgetNode { server: gone.clone() }).await {
                Ok(_) => tracing::info!(server = %gone, "a node that was removed is listed no more"),
                Err(error) => tracing::warn!(server = %gone, %error, "a node that was removed is still listed"),
            }
        }
        for (id, node) in nodes {
            let is_listed = map.directory_servers.iter().any(|known| {
                known.server.as_str() == node.server
                    && known.address == node.address
                    && known.external_address == node.external_address
            });
            if is_listed {
                continue;
            }
            let registration = match open::registration(id, &node) {
                Ok(registration) => registration,
                Err(error) => {
                    tracing::warn!(%node, %error, "a node cannot be listed");
                    continue;
                }
            };
            // Tried again at the next tick.
            if let Err(error) = directory.proposer.propose(Command::RegisterServer { registration }).await {
                tracing::warn!(%node, %error, "a node could not be listed");
            }
        }
    }
}

/// Forgets what is over, a little at a time, as far as the clock can be believed. Never ends.
pub async fn collect(directory: Arc<Directory>, mut watch: clock::Watch) {
    let mut ticks = interval(COLLECT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        loop {
            let now = Instant::now();
            if let Some(finding) = watch.look(clock::now(), directory.progress.borrow().time, now) {
                tell(finding);
            }
            if !watch.may_forget(now) {
                break;
            }
            let collect = Command::Collect { limit: COLLECT_LIMIT };
            match directory.reader.would_change(directory.time(), collect).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "it is not known whether anything is over");
                    break;
                }
            }
            match directory.proposer.propose(Command::Collect { limit: COLLECT_LIMIT }).await {
                Ok((_, Outcome::Collected { more: true })) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "what is over could not be forgotten");
                    break;
                }
            }
        }
    }
}

fn tell(finding: clock::Finding) {
    match finding {
        clock::Finding::Idle(gap) => tracing::info!(
            "the newest command is {} s old by the clock of this node: as the clock may have leapt, nothing is forgotten for an hour",
            gap.as_secs()
        ),
        clock::Finding::Leapt(ahead) => tracing::warn!(
            "the clock of this node has leapt ahead by {} s: nothing is forgotten for an hour; see that clocks are synchronised",
            ahead.as_secs()
        ),
        clock::Finding::Behind(behind) => tracing::warn!(
            "the clock of this node is {} s behind the newest command: times stand still until it has caught up; see that clocks are synchronised",
            behind.as_secs()
        ),
        clock::Finding::CaughtUp => tracing::info!("the clock of this node has caught up with the newest command"),
    }
}

/// Spreads the primaries' roles evenly over those who can have them, in small steps while the cluster is calm. Never ends.
pub async fn spread_primaries(directory: Arc<Directory>) {
    let mut ticks = interval(SPREAD_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calm = Calm::new(Instant::now());
    loop {
        ticks.tick().await;
        let map_version = directory.maps.borrow().map_version;
        if !calm.is_due(map_version, Instant::now()) {
            continue;
        }
        // A move ends the uploads to the group, and their clients may not have the data any more.
        let except = directory.leases().uploading(Instant::now());
        let all_were_free = except.is_empty();
        match directory.proposer.propose(Command::SpreadPrimaries { limit: SPREAD_LIMIT, except }).await {
            // A step makes another map, and the next step waits for calm again.
            Ok(_) if all_were_free => calm.done(),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the primaries' roles could not be spread"),
        }
    }
}

/// Since when nothing about the cluster has changed, and whether that was made use of.
pub(super) struct Calm {
    map_version: u64,
    since: Instant,
    done: bool,
}

impl Calm {
    pub fn new(now: Instant) -> Self {
        Self { map_version: 0, since: now, done: false }
    }

    pub fn is_due(&mut self, map_version: u64, now: Instant) -> bool {
        if map_version != self.map_version {
            *self = Self { map_version, since: now, done: false };
        }
        !self.done && now.saturating_duration_since(self.since) >= CALM
    }

    pub fn done(&mut self) {
        self.done = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_spread_once_after_each_time_of_calm() {
        let begun = Instant::now();
        let mut calm = Calm::new(begun);
        assert!(!calm.is_due(7, begun));
        assert!(!calm.is_due(7, begun + CALM / 2));
        assert!(!calm.is_due(8, begun + CALM), "something has changed");
        assert!(calm.is_due(8, begun + CALM * 2));
        calm.done();
        assert!(!calm.is_due(8, begun + CALM * 10), "there is nothing more to do");
        assert!(!calm.is_due(9, begun + CALM * 10));
        assert!(calm.is_due(9, begun + CALM * 11));
    }
}
