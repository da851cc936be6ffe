//! The primary's side of a member that comes back: from `start` on every commit waits for it too, and when it has the rest
//! it is taken into the in-sync set.
//!
//! Why nothing is missed: a blob is whole in this server's store before its commit is asked for. So a commit that does not
//! wait for the member was asked for before the member was admitted, its blob was listed after, and the member fetches
//! everything listed before it says that it is level. And once the Directory has been asked to count the member in, every
//! commit at that epoch waits for it until the Directory has answered, however long that takes: an answer that was lost, or
//! is late, may be a yes.
//!
//! A primary that may lack blobs itself, because its log was damaged, takes nobody in before it has compared.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    cluster, convert,
    fileserver::{
        error::Error,
        map::{Claim, View},
        node::Node,
    },
    pb::{self, join_group_request::Message as Request, join_group_response::Message as Answer},
    status::{Failure, Reason},
    types::{Epoch, GroupId, ServerId},
};

const START_TIMEOUT: Duration = Duration::from_secs(5);
/// For the streams to a member that has just started, and for its answer behind what waits for a slow disk there.
const STREAM_PATIENCE: Duration = Duration::from_secs(4);
/// While a member joins, writes wait for it: it has listed and fetched nearly everything before.
const LEVEL_TIMEOUT: Duration = Duration::from_secs(40);
/// Between two attempts to reach the Directory about a member that is level.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

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

/// Dismisses the member when the claim ends, however it ends; but not while the Directory may still count it in.
struct Admission<'a> {
    node: &'a Node,
    group: GroupId,
    member: ServerId,
    claim: Claim,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.node.map.dismiss(self.group, &self.member, self.claim);
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
    if node.doubt.concerns(group) {
        return Err(Failure::new(Reason::Unavailable, "this server must compare its own blobs first"));
    }
    // Waiting for a member that is not heard would stop every write of the group; that it is heard here, on a connection of
    // its own, says nothing of the streams to it.
    if tokio::time::timeout(STREAM_PATIENCE, node.peers.answer(&member)).await.is_err() {
        return Err(Failure::new(Reason::Unavailable, "the member does not answer on every stream to it yet"));
    }

    let Some(claim) = node.map.admit(group, &member) else {
        return Err(Failure::new(Reason::Unavailable, "the Directory has been asked about the member already"));
    };
    let admission = Admission { node, group, member, claim };
    say(answers, Answer::Prepared(true)).await?;
    tokio::select! {
        level = next(&mut requests, LEVEL_TIMEOUT) => match level? {
            Some(Request::Level(true)) => {}
            _ => return Err(Failure::bad_argument("level", "follows `prepared`")),
        },
        () = no_longer_valid(&admission, epoch) => return Err(interrupted()),
    }
    let joined = add_in_sync(&admission, epoch).await?;
    tracing::debug!(%group, member = %admission.member, epoch = %joined, "member is in sync");
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

fn interrupted() -> Failure {
    Failure::new(Reason::Unavailable, "the group or the member's stream changed meanwhile")
}

/// Resolves when the group is at another epoch, or the member was dismissed because it does not answer.
async fn no_longer_valid(admission: &Admission<'_>, epoch: Epoch) {
    let Admission { node, group, member, claim } = admission;
    let is_valid = |view: &View| {
        view.group(*group).is_some_and(|group| group.epoch == epoch) && view.is_admitted(*group, member, *claim)
    };
    // The node keeps the map as long as this runs.
    let mut views = node.map.watch();
    let _still_open = views.wait_for(|view| !is_valid(view)).await.is_ok();
}

/// Asks until the Directory has answered or the group is known to be at a later epoch; the member is waited for all the
/// while. Should the shutdown cut this short, it is waited for until the process ends.
async fn add_in_sync(admission: &Admission<'_>, epoch: Epoch) -> Result<Epoch, Failure> {
    let Admission { node, group, member, claim } = admission;
    if !node.map.ask(*group, member, *claim, epoch) {
        return Err(interrupted());
    }
    loop {
        let answer = tokio::select! {
            later = later_than(admission, epoch) => return match later {
                (joined, true) => Ok(joined),
                (_, false) => Err(interrupted()),
            },
            answer = ask(admission, epoch) => answer,
        };
        match answer {
            // What follows is seen in the view.
            Ok(joined) => node.map.offer_group(&joined),
            Err(Error::Refused(failure)) if matches!(failure.reason, Reason::StaleEpoch | Reason::BadArgument) => {
                node.map.refused(*group, member, *claim);
                return Err(failure);
            }
            // It may have been done all the same.
            Err(error) => tracing::debug!(%group, %member, %error, "member not counted in yet, asking again"),
        }
        let _passed = tokio::time::timeout(RETRY_INTERVAL, later_than(admission, epoch)).await;
    }
}

/// Resolves when the group is at a later epoch: with that, and whether the member is in sync.
async fn later_than(admission: &Admission<'_>, epoch: Epoch) -> (Epoch, bool) {
    let Admission { node, group, member, .. } = admission;
    let mut views = node.map.watch();
    loop {
        let later = views
            .borrow_and_update()
            .group(*group)
            .filter(|group| group.epoch > epoch)
            .map(|group| (group.epoch, group.in_sync.contains(member)));
        if let Some(later) = later {
            return later;
        }
        if views.changed().await.is_err() {
            // The node keeps the map as long as this runs.
            return std::future::pending().await;
        }
    }
}

async fn ask(admission: &Admission<'_>, epoch: Epoch) -> Result<cluster::Group, Error> {
    let Admission { node, group, member, .. } = admission;
    let request = pb::AddInSyncRequest {
        server_id: node.me.to_string(),
        group: group.0,
        epoch: epoch.0,
        member_id: member.to_string(),
    };
    let answer = node.directory.answer(node.directory.cluster()?.add_in_sync(request)).await?;
    // An odd answer is no refusal.
    let odd = |failure: Failure| Error::Refused(Failure::new(Reason::Internal, failure.message));
    convert::cluster::group(&convert::required("group", answer.group).map_err(odd)?).map_err(odd)
}
