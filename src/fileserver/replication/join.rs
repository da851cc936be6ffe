//! The primary's side of a member that comes back: from `start` on every commit waits for it too, and when it has the rest
//! it is taken into the in-sync set.
//!
//! Why nothing is missed: a blob is whole in this server's store before its commit is asked for. So a commit that does not
//! wait for the member was asked for before the member was admitted, its blob was listed after, and the member fetches
//! everything listed before it says that it is level.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    convert,
    fileserver::{error::Error, node::Node},
    pb::{self, join_group_request::Message as Request, join_group_response::Message as Answer},
    status::{Failure, Reason},
    types::{Epoch, GroupId, ServerId},
};

const START_TIMEOUT: Duration = Duration::from_secs(5);
/// While a member joins, writes wait for it: it has listed and fetched nearly everything before.
const LEVEL_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two attempts to reach the Directory about a member that is level.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
const ADD_ATTEMPTS: u32 = 5;

type Answers = mpsc::Sender<Result<pb::JoinGroupResponse, Status>>;
pub type AnswerStream = ReceiverStream<Result<pb::JoinGroupResponse, Status>>;

/// Serves one member's claim, as a task of the node.
pub fn serve(node: &Arc<Node>, requests: Streaming<pb::JoinGroupRequest>) -> AnswerStream {
    let (answers, stream) = mpsc::channel(4);
    let owner = node.clone();
    node.tasks.spawn(async move {
        tokio::select! {
            joined = run(&owner, requests, &answers) => if let Err(failure) = joined {
                tracing::info!(%failure, "a member could not join");
                // It may be gone already.
                let _unheard = answers.try_send(Err(failure.into()));
            },
            () = owner.shutdown.cancelled() => {}
        }
    });
    ReceiverStream::new(stream)
}

/// Dismisses the member when the claim ends, however it ends.
struct Admission<'a> {
    node: &'a Node,
    group: GroupId,
    member: ServerId,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.node.map.dismiss(self.group, &self.member);
    }
}

async fn run(node: &Node, mut requests: Streaming<pb::JoinGroupRequest>, answers: &Answers) -> Result<(), Failure> {
    let Some(Request::Start(start)) = next(&mut requests, START_TIMEOUT).await? else {
        return Err(Failure::bad_argument("start", "is the first message of the stream"));
    };
    let (group, epoch) = (GroupId(start.group), Epoch(start.epoch));
    let member = convert::server_id("start.server_id", &start.server_id)?;
    let view = node.map.now();
    let configuration = view.led_by(group, &node.me)?;
    if configuration.epoch != epoch {
        return Err(Error::StaleEpoch { group, theirs: epoch, current: configuration.epoch }.into());
    }
    if !configuration.members.contains(&member) || configuration.in_sync.contains(&member) {
        return Err(Failure::bad_argument("start.server_id", "is not a member that is out of sync"));
    }
    // Waiting for a member that no stream reaches would stop every write of the group.
    if node.peers.connection(&member, crate::types::WriteId::from_bytes([0; 16])).is_none() {
        return Err(Failure::new(Reason::Unavailable, "no stream to the member yet"));
    }

    let admission = Admission { node, group, member };
    node.map.admit(group, admission.member.clone());
    say(answers, Answer::Prepared(true)).await?;
    tokio::select! {
        level = next(&mut requests, LEVEL_TIMEOUT) => match level? {
            Some(Request::Level(true)) => {}
            _ => return Err(Failure::bad_argument("level", "follows `prepared`")),
        },
        () = no_longer_valid(node, group, epoch, &admission.member) => {
            return Err(Failure::new(Reason::Unavailable, "the group or the member's stream changed meanwhile"));
        }
    }
    let joined = add_in_sync(node, group, epoch, &admission.member).await?;
    tracing::info!(%group, member = %admission.member, epoch = %joined, "member is in sync");
    say(answers, Answer::JoinedEpoch(joined.0)).await
}

async fn next(requests: &mut Streaming<pb::JoinGroupRequest>, patience: Duration) -> Result<Option<Request>, Failure> {
    match tokio::time::timeout(patience, requests.message()).await {
        Err(_) => Err(Failure::new(Reason::DeadlineExceeded, "the member says nothing")),
        Ok(Err(status)) => Err(Failure::from(&status)),
        Ok(Ok(request)) => Ok(request.and_then(|request| request.message)),
    }
}

async fn say(answers: &Answers, answer: Answer) -> Result<(), Failure> {
    let response = pb::JoinGroupResponse { message: Some(answer) };
    answers.send(Ok(response)).await.map_err(|_| Failure::new(Reason::Unavailable, "the member is gone"))
}

/// Resolves when the group is at another epoch, or the member was dismissed because it does not answer.
async fn no_longer_valid(node: &Node, group: GroupId, epoch: Epoch, member: &ServerId) {
    let mut views = node.map.watch();
    loop {
        let valid = views
            .borrow_and_update()
            .group(group)
            .is_some_and(|group| group.epoch == epoch && group.joiners.contains(member));
        if !valid || views.changed().await.is_err() {
            return;
        }
    }
}

/// The member stays admitted until the Directory's answer is in the view, so no commit slips in between. Should the answer
/// be lost for good, the Directory still refuses commits at the old epoch if it has added the member.
async fn add_in_sync(node: &Node, group: GroupId, epoch: Epoch, member: &ServerId) -> Result<Epoch, Failure> {
    let request = pb::AddInSyncRequest {
        server_id: node.me.to_string(),
        group: group.0,
        epoch: epoch.0,
        member_id: member.to_string(),
    };
    let mut attempt = 1;
    loop {
        let answer = node.directory.answer(node.directory.cluster()?.add_in_sync(request.clone())).await;
        match answer {
            Ok(answer) => {
                let joined = convert::cluster::group(&convert::required("group", answer.group)?)?;
                node.map.offer_group(&joined);
                return Ok(joined.epoch);
            }
            Err(Error::Refused(failure))
                if attempt < ADD_ATTEMPTS
                    && matches!(failure.reason, Reason::Unavailable | Reason::DeadlineExceeded) =>
            {
                attempt += 1;
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
