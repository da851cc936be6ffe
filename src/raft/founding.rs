//! Before a node founds a group: is there none already that it belongs to?
//!
//! The founder of a group is started without `--join`. When its disk is lost and it starts again, it must not make a second group
//! at the address that everybody knows as the first one's. So it asks the other nodes, where it was told them.

use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::{
    pb, serve,
    status::{Failure, Reason},
};

const ASK_DEADLINE: Duration = Duration::from_secs(1);
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// For nodes that are just being started too, while nothing is there yet.
const NOBODY_THERE: Duration = Duration::from_secs(3);
/// For nodes that are there and have not said yet.
const NO_ANSWER_YET: Duration = Duration::from_secs(20);

/// What a node says of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    HasOne,
    HasNone,
    /// It is starting, or does not answer in time.
    NotYet,
    /// Nothing listens at the address, or the name is nobody's.
    Nobody,
}

/// Where a node asks to be let in: as `join` says; for a new node without it at its `peers`, if they have a group. Empty: it
/// founds one, or belongs to one already.
pub async fn whom_to_join(service: &'static str, join: &[String], peers: &[String], is_new: bool) -> Vec<String> {
    let peers: Vec<String> = peers.iter().filter(|peer| !peer.is_empty()).cloned().collect();
    if !join.is_empty() || !is_new || peers.is_empty() {
        return join.to_vec();
    }
    let began = Instant::now();
    loop {
        let said = join_all(peers.iter().map(|peer| ask(service, peer))).await;
        if let Some(has_group) = decide(&said, began.elapsed()) {
            match has_group {
                true => {
                    tracing::warn!(?peers, "the data folder is empty, but the other nodes have a group: joining it")
                }
                false => tracing::info!(?peers, ?said, "no other node has a group: founding one"),
            }
            return if has_group { peers } else { Vec::new() };
        }
        sleep(ASK_PAUSE).await;
    }
}

/// Whether there is a group; `None`: not known yet.
fn decide(said: &[Said], waited: Duration) -> Option<bool> {
    let patience = match said.contains(&Said::NotYet) {
        true => NO_ANSWER_YET,
        false => NOBODY_THERE,
    };
    if said.contains(&Said::HasOne) {
        return Some(true);
    }
    (waited >= patience || said.iter().all(|said| *said == Said::HasNone)).then_some(false)
}

async fn ask(service: &str, address: &str) -> Said {
    let Ok(channel) = serve::channel(address) else { return Said::Nobody };
    let mut client = pb::members_client::MembersClient::new(channel);
    match timeout(ASK_DEADLINE, client.list_members(pb::ListMembersRequest {})).await {
        Ok(Ok(answer)) if answer.get_ref().service != service => Said::Nobody,
        Ok(Ok(answer)) if answer.get_ref().members.is_empty() => Said::HasNone,
        Ok(Ok(_)) => Said::HasOne,
        Ok(Err(status)) if Failure::from(&status).reason == Reason::NotLeader => Said::HasOne,
        // With details it is a node that is starting, without them the connection's own.
        Ok(Err(status)) if status.code() == Code::Unavailable && status.details().is_empty() => Said::Nobody,
        Ok(Err(_)) | Err(_) => Said::NotYet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_founded_only_when_no_other_node_has_one() {
        use Said::{HasNone, HasOne, Nobody, NotYet};
        let none = Duration::ZERO;
        assert_eq!(decide(&[HasNone, HasOne], none), Some(true));
        assert_eq!(decide(&[HasNone, HasNone], none), Some(false));
        assert_eq!(decide(&[HasNone, Nobody], none), None, "it may be about to start");
        assert_eq!(decide(&[HasNone, Nobody], NOBODY_THERE), Some(false));
        assert_eq!(decide(&[Nobody, NotYet], NOBODY_THERE), None, "somebody is there");
        assert_eq!(decide(&[Nobody, NotYet], NO_ANSWER_YET), Some(false));
        assert_eq!(decide(&[HasOne, NotYet], NO_ANSWER_YET), Some(true));
    }
}
