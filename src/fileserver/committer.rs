//! Asks the Directory for commits, many in one call.
//!
//! Up to [`CALLS_MAX`] calls are under way; what comes meanwhile makes up the next batch. So a lone write waits for nobody,
//! and under load the batches grow by themselves.

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    fileserver::{directory_link::DirectoryLink, error::Error},
    pb::{self, commit_result},
    status::{Failure, Reason},
    types::ServerId,
};

const BATCH_MAX: usize = 256;
const CALLS_MAX: usize = 2;
const QUEUE_MAX: usize = 1024;

/// A commit that was not made, as far as is known.
#[derive(Clone, Debug)]
pub enum NotCommitted {
    /// The Directory says no: this attempt changed nothing.
    Refused(Failure),
    /// Nothing is known. Asking again with the same write id tells.
    Unknown(Failure),
}

struct Request {
    commit: pb::WriteCommit,
    answer: oneshot::Sender<Result<pb::Committed, NotCommitted>>,
}

/// A handle; clones are the same.
#[derive(Clone)]
pub struct Committer {
    queue: mpsc::Sender<Request>,
}

/// The end of it that calls.
pub struct Caller {
    me: ServerId,
    directory: DirectoryLink,
    queue: mpsc::Receiver<Request>,
}

impl Committer {
    pub fn new(me: ServerId, directory: DirectoryLink) -> (Self, Caller) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        (Self { queue: sender }, Caller { me, directory, queue })
    }

    pub async fn commit(&self, commit: pb::WriteCommit) -> Result<pb::Committed, NotCommitted> {
        let gone = || NotCommitted::Unknown(Error::Stopping.into());
        let (answer, answered) = oneshot::channel();
        self.queue.send(Request { commit, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Caller {
    /// Runs until the shutdown; calls under way then are waited for.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut calls = JoinSet::new();
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                count = self.queue.recv_many(&mut batch, BATCH_MAX) => if count == 0 { break },
            }
            calls.spawn(call(self.me.clone(), self.directory.clone(), std::mem::take(&mut batch)));
            while calls.len() >= CALLS_MAX {
                calls.join_next().await;
            }
        }
        while calls.join_next().await.is_some() {}
    }
}

async fn call(me: ServerId, directory: DirectoryLink, batch: Vec<Request>) {
    let (commits, answers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|request| (request.commit, request.answer)).unzip();
    let count = commits.len();
    let results = match ask(&me, &directory, commits).await {
        Ok(results) if results.len() == count => results.into_iter().map(outcome).collect(),
        Ok(_) => vec![Err(NotCommitted::Unknown(odd_answer())); count],
        Err(error) => vec![Err(of_whole_call(error.into())); count],
    };
    for (answer, result) in answers.into_iter().zip(results) {
        // The write may have been given up; then its blobs are settled.
        let _unheard = answer.send(result);
    }
}

async fn ask(
    me: &ServerId,
    directory: &DirectoryLink,
    commits: Vec<pb::WriteCommit>,
) -> Result<Vec<pb::CommitResult>, Error> {
    let request = pb::CommitWritesRequest { server_id: me.to_string(), commits };
    let answer = directory.answer(directory.commits()?.commit_writes(request)).await?;
    Ok(answer.results)
}

fn outcome(result: pb::CommitResult) -> Result<pb::Committed, NotCommitted> {
    match result.result {
        Some(commit_result::Result::Committed(committed)) => Ok(committed),
        Some(commit_result::Result::Error(error)) => Err(of_one_commit(error.into())),
        None => Err(NotCommitted::Unknown(odd_answer())),
    }
}

fn odd_answer() -> Failure {
    Failure::new(Reason::Internal, "the Directory did not answer every commit")
}

fn of_one_commit(failure: Failure) -> NotCommitted {
    match failure.reason {
        Reason::Unavailable | Reason::DeadlineExceeded | Reason::NoQuorum | Reason::NotLeader | Reason::Internal => {
            NotCommitted::Unknown(failure)
        }
        _ => NotCommitted::Refused(failure),
    }
}

/// A call that failed as a whole may have reached the Directory, unless the Directory itself found fault with it.
fn of_whole_call(failure: Failure) -> NotCommitted {
    match failure.reason {
        Reason::BadArgument | Reason::BadPath | Reason::ServerNotFound | Reason::TooLarge => {
            NotCommitted::Refused(failure)
        }
        _ => NotCommitted::Unknown(failure),
    }
}
