//! Reports of servers that failed somebody, and what is decided about them.
//!
//! A primary's word about a replica is enough: it alone knows which copies a write has, and the worst that a wrong report
//! does is that a good replica catches up again. A client's word is not: its own network may be at fault, so the
//! Directory looks for itself. It also looks at whom a primary has reported, after the answer, and at who has fallen silent:
//! where a server is dead for everybody, the groups that it leads get a new primary without waiting for the end of its lease.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

use super::{Directory, command::Command, convert, error::Rejected, probe::Verdict};
use crate::{
    cluster::ServerState,
    convert::{optional_server_id, server_id},
    pb,
    status::Failure,
    types::{Epoch, GroupId, ServerId},
};

/// Who is suspected, and by whom.
pub enum Report {
    ByPrimary { primary: ServerId, suspect: ServerId, groups: Vec<(GroupId, Epoch)> },
    ByClient { suspect: ServerId },
}

impl TryFrom<&pb::ReportSuspectRequest> for Report {
    type Error = Failure;

    fn try_from(request: &pb::ReportSuspectRequest) -> Result<Self, Failure> {
        let suspect = server_id("suspect_id", &request.suspect_id)?;
        let groups = convert::reported_groups(&request.groups)?;
        match optional_server_id("reporter_id", &request.reporter_id)? {
            Some(reporter) if reporter == suspect => Err(Failure::bad_argument("suspect_id", "nobody reports itself")),
            None if !groups.is_empty() => Err(Failure::bad_argument("reporter_id", "only a primary names groups")),
            Some(primary) if !groups.is_empty() => Ok(Self::ByPrimary { primary, suspect, groups }),
            Some(_) | None => Ok(Self::ByClient { suspect }),
        }
    }
}

/// Returns when it is decided; the cluster map then shows how.
pub async fn decide(directory: &Directory, report: Report) -> Result<(), Failure> {
    match report {
        Report::ByPrimary { primary, suspect, groups } => {
            tracing::info!(%primary, %suspect, groups = groups.len(), "a primary reports a replica");
            directory.proposer.propose(Command::EvictReplica { primary, suspect: suspect.clone(), groups }).await?;
            directory.suspects.add(suspect);
            Ok(())
        }
        Report::ByClient { suspect } => look_at(directory, &suspect).await,
    }
}

/// Asks the server whether it is alive, unless it is known to be down, and marks it down if it does not answer.
pub async fn look_at(directory: &Directory, suspect: &ServerId) -> Result<(), Failure> {
    let incarnation = directory.leases().incarnation(suspect);
    let known = directory.find_server(suspect).ok_or_else(|| Rejected::ServerNotFound { server: suspect.clone() })?;
    let asked = Instant::now();
    if known.state == ServerState::Down || directory.prober.probe(suspect, &known.address).await == Verdict::Alive {
        return Ok(());
    }
    // One that beats while it cannot be asked lives: marked down, it would be up again with its next beat.
    if directory.leases().was_heard(suspect, asked) || directory.is_down(suspect) {
        return Ok(());
    }
    tracing::warn!(server = %suspect, address = known.address, "a suspected server does not answer");
    directory.proposer.propose(Command::MarkDown { server: suspect.clone(), incarnation }).await?;
    Ok(())
}

/// Servers to be looked at: reported by primaries, silent, or without a heartbeat stream all of a sudden.
#[derive(Default)]
pub struct Suspects {
    waiting: Mutex<BTreeSet<ServerId>>,
    added: Notify,
}

impl Suspects {
    /// Only registered servers are added, so there are never more than those.
    pub fn add(&self, suspect: ServerId) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(suspect);
        self.added.notify_one();
    }

    pub async fn next(&self) -> ServerId {
        loop {
            let first = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            match first {
                Some(suspect) => return suspect,
                None => self.added.notified().await,
            }
        }
    }
}
