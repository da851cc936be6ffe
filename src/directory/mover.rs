//! Has groups moved: looks how things stand, plans the next steps, proposes them. And answers those who ask for moves.

use std::{sync::Arc, time::Instant};

use tokio::time::{Duration, MissedTickBehavior, interval};

use super::{
    Directory,
    command::Command,
    error::Rejected,
    health::Obstacles,
    overseer::Calm,
    plan::{self, Lack, Pace, Patience, Plan, Situation, Standing, Step},
};
use crate::{
    pb,
    status::{Failure, Reason},
    types::{GroupId, ServerId},
};

const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Between two times that roles of servers that are drained are passed on: their groups have settled by then.
const LEADS_INTERVAL: Duration = Duration::from_secs(1);
/// A Directory that has just begun to lead gives nobody up for so long, or for `repair_after` if that is less: who was down
/// with it needs a moment to be heard of again.
const BEGIN_PATIENCE: Duration = Duration::from_secs(60);
/// Groups that are moved in one step to spread them evenly, when nobody has asked for it.
const CALM_MOVES: usize = 2;

/// How things stand, and what was asked for.
struct Look {
    situation: Situation,
    rebalancing: bool,
}

async fn look(directory: &Directory, age: Duration) -> Result<Look, Failure> {
    let (now, stats) = (directory.time(), directory.leases().stats());
    let looked = directory.reader.read(move |view| {
        let repair_after_ms = view.settings().map_or(u64::MAX, |settings| settings.repair_after_ms);
        let waits = age < BEGIN_PATIENCE.min(Duration::from_millis(repair_after_ms));
        let led_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let situation = Situation::of(view, Patience { now, repair_after_ms, led_ms, waits }, &stats)?;
        Ok(Look { situation, rebalancing: view.is_rebalancing() })
    });
    Ok(looked.await?)
}

fn command(step: Step) -> Command {
    match step {
        Step::Move { group, epoch, leaving, arriving } => Command::MoveGroup { group, epoch, leaving, arriving },
        Step::Drop { group, epoch } => Command::DropArriving { group, epoch },
        Step::PassLead { group, epoch } => Command::PassLead { group, epoch },
    }
}

/// Moves groups away from servers that are gone or drained, and spreads them evenly, for as long as this node leads.
pub async fn run(directory: Arc<Directory>) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let begun = Instant::now();
    let mut turns = Turns { begun, calm: Calm::new(begun), leads_passed: None };
    loop {
        ticks.tick().await;
        // Tried again at the next tick.
        if let Err(failure) = step(&directory, &mut turns).await {
            tracing::warn!(%failure, "groups could not be moved");
        }
    }
}

/// What the mover remembers from step to step.
struct Turns {
    begun: Instant,
    calm: Calm,
    /// When roles of servers that are drained were last passed on.
    leads_passed: Option<Instant>,
}

async fn step(directory: &Directory, turns: &mut Turns) -> Result<(), Failure> {
    let _turn = directory.planning.lock().await;
    let Look { mut situation, rebalancing } = look(directory, turns.begun.elapsed()).await?;
    let (now, calm) = (Instant::now(), &mut turns.calm);
    let mut steps = plan::drops(&situation);
    {
        let mut setbacks = directory.setbacks();
        plan::failures(&situation).for_each(|server| setbacks.note(server, now));
        setbacks.forget_old(now);
        situation.shunned = setbacks.shunned(now);
    }
    if turns.leads_passed.is_some_and(|passed| now.duration_since(passed) < LEADS_INTERVAL) {
        situation.leads_to_pass = 0;
    }
    steps.extend(plan::settlements(&situation));
    steps.extend(plan::repairs(&situation, Pace::Bounded).steps);
    let is_calm = calm.is_due(directory.maps.borrow().map_version, Instant::now());
    if rebalancing || is_calm {
        let spread = plan::spread(&situation, Pace::Bounded);
        if spread.as_ref().is_some_and(Vec::is_empty) && plan::is_even(&situation) {
            if rebalancing && situation.is_level() {
                directory.proposer.propose(Command::Rebalance { begin: false }).await?;
            }
            if is_calm {
                calm.done();
            }
        }
        let limit = if rebalancing { usize::MAX } else { CALM_MOVES };
        steps.extend(spread.unwrap_or_default().into_iter().take(limit));
    }
    if steps.is_empty() {
        return Ok(());
    }
    for step in &steps {
        tracing::info!(?step, "a group moves");
    }
    if steps.iter().any(|step| situation.passes_lead(step)) {
        turns.leads_passed = Some(now);
    }
    for applied in directory.proposer.propose_all(steps.into_iter().map(command).collect()).await? {
        // The group has changed meanwhile: the next look sees it.
        if let Err(rejected) = applied.result {
            tracing::debug!(%rejected, "a group does not move now");
        }
    }
    Ok(())
}

fn planned(steps: Vec<Step>) -> Vec<pb::PlannedMove> {
    let planned = |step| match step {
        Step::Move { group, leaving, arriving, .. } => Some(pb::PlannedMove {
            group: group.0,
            leaving: leaving.as_ref().map(ServerId::to_string).unwrap_or_default(),
            arriving: arriving.to_string(),
        }),
        Step::Drop { .. } | Step::PassLead { .. } => None,
    };
    steps.into_iter().filter_map(planned).collect()
}

/// What draining the server comes to; refused when its groups have nowhere to go.
fn plan_drain(mut situation: Situation, server: &ServerId) -> Result<Vec<Step>, Failure> {
    let Some(facts) = situation.servers.get_mut(server) else {
        return Err(Rejected::ServerNotFound { server: server.clone() }.into());
    };
    facts.draining = true;
    if facts.standing == Standing::Fit {
        facts.standing = Standing::Draining;
    }
    let stored_bytes = facts.stored_bytes;
    let Plan { steps, lacking } = plan::repairs(&situation, Pace::Everything);
    let held = |group: &GroupId| situation.groups.iter().any(|held| held.group == *group && held.is_member(server));
    let mut lacks = lacking.iter().filter(|(group, _)| held(group)).map(|(_, lack)| *lack);
    if let Some(lack) = lacks.clone().find(|lack| *lack == Lack::Server).or_else(|| lacks.next()) {
        return Err(nowhere(&situation, server, lack, stored_bytes));
    }
    let concerns = |step: &Step| matches!(step, Step::Move { leaving: Some(leaving), .. } if leaving == server);
    Ok(steps.into_iter().filter(concerns).collect())
}

fn nowhere(situation: &Situation, server: &ServerId, lack: Lack, stored_bytes: u64) -> Failure {
    let have = situation.servers.values().filter(|facts| facts.standing == Standing::Fit).count() as u32;
    match lack {
        Lack::Room => {
            let text = format_args!(
                "the disks of the other file servers have no room for what {server} holds, {stored_bytes} bytes; \
                 add a server or disk space"
            );
            Failure::new(Reason::NoSpace, text).with("server", server).with("needed_bytes", stored_bytes)
        }
        Lack::Server | Lack::Turn => {
            let needed = situation.copies as u32;
            Rejected::TooFewServers { server: server.clone(), needed, have }.into()
        }
    }
}

/// What keeps groups from moving.
pub async fn obstacles(directory: &Directory) -> Result<Obstacles, Failure> {
    let situation = look(directory, Duration::MAX).await?.situation;
    let lacking = plan::repairs(&situation, Pace::Everything).lacking;
    let without_room = lacking.into_iter().filter(|(_, lack)| *lack == Lack::Room).map(|(group, _)| group);
    let shunned = directory.setbacks().shunned(Instant::now());
    Ok(Obstacles { without_room: without_room.collect(), shunned: shunned.into_iter().collect() })
}

/// What is still to be moved.
pub async fn drain(
    directory: &Directory,
    server: ServerId,
    validate_only: bool,
) -> Result<Vec<pb::PlannedMove>, Failure> {
    let steps = plan_drain(look(directory, Duration::MAX).await?.situation, &server)?;
    if !validate_only {
        directory.proposer.propose(Command::DrainServer { server: server.clone() }).await?;
        tracing::info!(%server, groups = steps.len(), "a file server is drained");
    }
    Ok(planned(steps))
}

pub async fn resume(directory: &Directory, server: ServerId) -> Result<(), Failure> {
    // What was planned while it was drained has begun, and is taken back with the drain.
    let _turn = directory.planning.lock().await;
    directory.proposer.propose(Command::ResumeServer { server: server.clone() }).await?;
    tracing::info!(%server, "a file server is not drained any more");
    Ok(())
}

/// How many groups still need it replaced; 0: it is none of the cluster's any more.
pub async fn remove(directory: &Directory, server: ServerId, lost: bool) -> Result<u32, Failure> {
    directory.proposer.propose(Command::RemoveServer { server: server.clone(), lost }).await?;
    let remaining = directory.find_server(&server).map_or(0, |known| known.group_count);
    if directory.find_server(&server).is_none() {
        directory.leases().forget(&server);
    }
    tracing::info!(%server, lost, remaining, "a file server is removed");
    Ok(remaining)
}

pub async fn rebalance(directory: &Directory, validate_only: bool) -> Result<Vec<pb::PlannedMove>, Failure> {
    let situation = look(directory, Duration::MAX).await?.situation;
    let steps = plan::spread(&situation, Pace::Everything).unwrap_or_default();
    if !validate_only {
        directory.proposer.propose(Command::Rebalance { begin: true }).await?;
        tracing::info!(groups = steps.len(), "groups are spread evenly over the file servers");
    }
    Ok(planned(steps))
}
