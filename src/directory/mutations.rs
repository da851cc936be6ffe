//! Mutations: one command or a batch of them through the proposer, and the outcome as an answer.

use super::{
    Directory,
    command::{Command, Outcome},
    error::Rejected,
};
use crate::{
    pb,
    status::{Failure, Reason},
    types::BlobId,
};

type Header = Option<pb::ResponseHeader>;

/// The state answers each kind of command with one kind of outcome; another one is a defect.
fn unexpected(outcome: &Outcome) -> Failure {
    tracing::error!(?outcome, "a command has an outcome that is not its own");
    Failure::new(Reason::Internal, "the Directory gave an answer that does not fit the question")
}

/// For commands that answer with an entry.
pub async fn entry(directory: &Directory, command: Command) -> Result<(Header, Option<pb::Entry>), Failure> {
    match directory.proposer.propose(command).await? {
        (revision, Outcome::Entry(entry)) => Ok((directory.header(revision), Some((*entry).into()))),
        (_, other) => Err(unexpected(&other)),
    }
}

/// For commands that answer with a number of entries deleted.
pub async fn deleted(directory: &Directory, command: Command) -> Result<(Header, u64), Failure> {
    match directory.proposer.propose(command).await? {
        (revision, Outcome::Deleted { count }) => Ok((directory.header(revision), count)),
        (_, other) => Err(unexpected(&other)),
    }
}

/// For commands that answer that they are done.
pub async fn done(directory: &Directory, command: Command) -> Result<Header, Failure> {
    match directory.proposer.propose(command).await? {
        (revision, Outcome::Done) => Ok(directory.header(revision)),
        (_, other) => Err(unexpected(&other)),
    }
}

/// Commits what could be parsed, and answers each in its place.
pub async fn commit_writes(
    directory: &Directory,
    commits: Vec<Result<Command, Failure>>,
) -> Result<pb::CommitWritesResponse, Failure> {
    let mut commands = Vec::with_capacity(commits.len());
    let parsed: Vec<Result<(), Failure>> =
        commits.into_iter().map(|commit| commit.map(|command| commands.push(command))).collect();
    let mut applied = directory.proposer.propose_all(commands).await?.into_iter();
    let results = parsed.into_iter().map(|parsed| {
        let mut answered = || applied.next().ok_or_else(|| Failure::new(Reason::Internal, "a commit was not answered"));
        let result = match parsed.and_then(|()| answered()).and_then(|applied| committed(applied.result)) {
            Ok(committed) => pb::commit_result::Result::Committed(committed),
            Err(failure) => pb::commit_result::Result::Error(failure.into()),
        };
        pb::CommitResult { result: Some(result) }
    });
    let results = results.collect();
    Ok(pb::CommitWritesResponse { header: directory.header_now(), results })
}

fn committed(result: Result<Outcome, Rejected>) -> Result<pb::Committed, Failure> {
    match result? {
        Outcome::Committed(committed) => Ok(committed.into()),
        other => Err(unexpected(&other)),
    }
}

/// Settles all or, when one cannot be, answers why: a settlement is never undone, so the call can be made again.
pub async fn settle_blobs(
    directory: &Directory,
    staged: Vec<(BlobId, Command)>,
) -> Result<pb::SettleBlobsResponse, Failure> {
    let (blobs, commands): (Vec<BlobId>, Vec<Command>) = staged.into_iter().unzip();
    let applied = directory.proposer.propose_all(commands).await?;
    let fates = blobs.iter().zip(applied).map(|(blob, applied)| match applied.result? {
        Outcome::Settled(settled) => Ok(pb::BlobFate { blob: blob.to_string(), fate: Some(settled.into()) }),
        other => Err(unexpected(&other)),
    });
    let fates = fates.collect::<Result<_, Failure>>()?;
    Ok(pb::SettleBlobsResponse { header: directory.header_now(), fates })
}
