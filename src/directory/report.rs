//! Reports of servers that failed somebody, and what is decided about them.
//!
//! A primary's word about a replica is enough: it alone knows which copies a write has, and the worst that a wrong report
//! does is that a good replica catches up again. A client's word is not: its own network may be at fault, so the
//! Directory looks for itself.

use super::{Directory, command::Command, convert, error::Rejected, probe::Verdict};
use crate::{
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
            known_address(directory, &suspect)?;
            tracing::info!(%primary, %suspect, groups = groups.len(), "a primary reports a replica");
            directory.proposer.propose(Command::EvictReplica { primary, suspect, groups }).await?;
        }
        Report::ByClient { suspect } => {
            let address = known_address(directory, &suspect)?;
            if directory.is_down(&suspect) || directory.prober.probe(&suspect, &address).await == Verdict::Alive {
                return Ok(());
            }
            tracing::warn!(server = %suspect, address, "a reported server does not answer");
            directory.proposer.propose(Command::MarkDown { server: suspect }).await?;
        }
    }
    Ok(())
}

fn known_address(directory: &Directory, server: &ServerId) -> Result<String, Failure> {
    let known = directory.find_server(server);
    Ok(known.ok_or_else(|| Rejected::ServerNotFound { server: server.clone() })?.address)
}
