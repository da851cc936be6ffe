//! Commits of writes, by a primary that only pretends to have data.

use dfs::{
    pb,
    status::{Failure, Reason},
    token,
    types::{BlobId, LockMode, Path, StoreId, crc32c, crc32c_combine},
};

use super::namespace::{fresh_id, get};
use crate::common::{
    directory::{RunningDirectory, start_directory},
    fake_fileserver::{FakePrimary, a_registration, start_three},
};

#[track_caller]
fn expect_refused(result: Result<pb::Committed, pb::ErrorStatus>, reason: Reason) -> Failure {
    let failure = Failure::from(result.expect_err("the commit must be refused"));
    assert_eq!(failure.reason, reason, "{failure}");
    failure
}

fn at_version(version: u64) -> Option<pb::Precondition> {
    Some(pb::Precondition { if_version: Some(version), fencing_token: None })
}

fn with_token(token: u64) -> Option<pb::Precondition> {
    Some(pb::Precondition { if_version: None, fencing_token: Some(token) })
}

/// The same data under a fresh write id, in a fresh blob.
fn another(commit: &pb::WriteCommit) -> pb::WriteCommit {
    let fresh = |piece: &pb::BlobPiece| pb::BlobPiece { blob: BlobId::random().to_string(), length: piece.length };
    pb::WriteCommit { write_id: fresh_id(), pieces: commit.pieces.iter().map(fresh).collect(), ..commit.clone() }
}

/// What the Lock service is given to seal tokens with.
async fn lock_key(running: &RunningDirectory) -> token::LockKey {
    let registration = pb::RegisterServerRequest {
        kind: pb::ServerKind::Lock.into(),
        ..a_registration("lock-1", &StoreId::random().to_string())
    };
    let registered = running.cluster().register_server(registration).await.expect("registers").into_inner();
    registered.lock_key.as_ref().try_into().expect("a key")
}

#[tokio::test]
async fn a_write_is_committed_once_and_its_version_never_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;

    let commit = primary.a_commit("/file", b"hello");
    let first = primary.commit(commit.clone()).await.expect("commits");
    assert_eq!((first.version, first.size, first.checksum, first.offset), (1, 5, crc32c(b"hello"), 0));
    assert_eq!(first.blobs, [commit.pieces[0].blob.clone()]);

    let again = primary.commit(commit.clone()).await.expect("answers as before");
    assert_eq!(again, first);
    let elsewhere = pb::WriteCommit { path: "/else".into(), group: primary.group("/else").group, ..commit };
    expect_refused(primary.commit(elsewhere).await, Reason::BadArgument);

    let second = primary.write("/file", b"hello again", 1).await;
    assert_eq!((second.version, second.inode), (2, first.inode));
    assert!(second.revision > first.revision);
    running.stop().await;
}

#[tokio::test]
async fn nothing_overwrites_blindly() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    primary.write("/file", b"1", 0).await;

    let blind = pb::WriteCommit { precondition: None, ..primary.a_commit("/file", b"2") };
    expect_refused(primary.commit(blind).await, Reason::LockRequired);
    let new = primary.a_commit("/file", b"2");
    let mismatch = expect_refused(primary.commit(new).await, Reason::VersionMismatch);
    assert_eq!(mismatch.metadata.get("expected").map(String::as_str), Some("0"));
    assert_eq!(mismatch.metadata.get("current").map(String::as_str), Some("1"));
    assert_eq!(get(&mut primary.directory, "/file").await.expect("is there").version, 1);
    running.stop().await;
}

#[tokio::test]
async fn fencing_tokens_are_checked_where_the_commit_is_decided() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let key = lock_key(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    let path: Path = "/file".parse().expect("a path");
    let token = |counter, mode| token::seal(&key, counter, &path, mode).expect("a token").0;

    let commit = pb::WriteCommit {
        precondition: with_token(token(5, LockMode::Exclusive)),
        ..primary.a_commit("/file", b"by the holder")
    };
    primary.commit(commit.clone()).await.expect("commits");

    let fence = token(9, LockMode::Exclusive);
    let raise = pb::RaiseFenceRequest { path: "/file".into(), fencing_token: fence };
    running.directory().raise_fence(raise).await.expect("raises");
    let other = |precondition| pb::WriteCommit { precondition, ..another(&commit) };
    let stale = expect_refused(
        primary.commit(other(with_token(token(5, LockMode::Exclusive)))).await,
        Reason::FencingTokenStale,
    );
    assert_eq!(stale.metadata.get("current"), Some(&fence.to_string()));
    for never_granted in [0, 12345, u64::MAX, fence + 1, token(10, LockMode::Shared)] {
        expect_refused(primary.commit(other(with_token(never_granted))).await, Reason::NotLockHolder);
    }
    assert_eq!(primary.commit(other(with_token(fence))).await.expect("commits").version, 2);
    running.stop().await;
}

#[tokio::test]
async fn an_append_lands_at_the_end_and_a_patch_where_it_belongs() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;

    let append = |primary: &FakePrimary, data: &[u8]| pb::WriteCommit {
        mode: pb::WriteMode::Append.into(),
        precondition: None,
        ..primary.a_commit("/log", data)
    };
    let first = append(&primary, b"one ");
    let second = append(&primary, b"two");
    assert_eq!(primary.commit(first).await.expect("commits").offset, 0);
    let appended = primary.commit(second).await.expect("commits");
    assert_eq!((appended.version, appended.offset, appended.size, appended.extent_count), (2, 4, 7, 2));
    assert_eq!(appended.checksum, crc32c_combine(crc32c(b"one "), crc32c(b"two"), 3));

    let patch = pb::WriteCommit {
        mode: pb::WriteMode::Patch.into(),
        offset: 2,
        precondition: at_version(2),
        patch_base_version: 2,
        patched_checksum: crc32c(b"onXXtwo"),
        ..primary.a_commit("/log", b"XX")
    };
    let patched = primary.commit(patch.clone()).await.expect("commits");
    assert_eq!((patched.version, patched.size, patched.checksum), (3, 7, crc32c(b"onXXtwo")));
    let lookup =
        pb::LookupFileRequest { file: Some(pb::lookup_file_request::File::Path("/log".into())), ..Default::default() };
    let found = primary.directory.lookup_file(lookup).await.expect("looks up").into_inner();
    assert_eq!(found.extents.iter().map(|extent| extent.length).collect::<Vec<_>>(), [2, 2, 3]);

    for offset in [8, u64::MAX] {
        let past_the_end =
            pb::WriteCommit { offset, precondition: at_version(3), patch_base_version: 3, ..another(&patch) };
        let failure = expect_refused(primary.commit(past_the_end).await, Reason::OffsetOutOfRange);
        assert_eq!(failure.metadata.get("size").map(String::as_str), Some("7"));
    }
    running.stop().await;
}

#[tokio::test]
async fn one_bad_commit_of_a_batch_fails_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    let group = primary.group("/a").clone();
    let good = primary.a_commit("/a", b"1");
    let bad_path = pb::WriteCommit { path: "a".into(), ..primary.a_commit("/a", b"2") };
    let old_epoch = pb::WriteCommit { epoch: group.epoch + 7, ..primary.a_commit("/a", b"3") };
    let parentless = pb::WriteCommit { group: group.group, path: "/no/parent".into(), ..primary.a_commit("/a", b"4") };
    let request = pb::CommitWritesRequest {
        server_id: group.primary.clone(),
        commits: vec![bad_path, old_epoch, good, parentless],
    };
    let answer = primary.directory.commit_writes(request).await.expect("is answered").into_inner();
    let reasons: Vec<_> = answer
        .results
        .into_iter()
        .map(|result| match result.result.expect("a result") {
            pb::commit_result::Result::Committed(_) => None,
            pb::commit_result::Result::Error(error) => Some(error.reason),
        })
        .collect();
    assert_eq!(reasons[..3], [Some("BAD_PATH".to_owned()), Some("STALE_EPOCH".to_owned()), None]);
    assert!(reasons[3].is_some());
    running.stop().await;
}

#[tokio::test]
async fn only_the_primary_of_the_group_commits() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    let group = primary.group("/file").clone();
    let other = group.members.iter().find(|member| **member != group.primary).expect("another member");
    let commits = vec![primary.a_commit("/file", b"data")];
    let request = pb::CommitWritesRequest { server_id: other.clone(), commits };
    let answer = primary.directory.commit_writes(request).await.expect("is answered").into_inner();
    let Some(pb::commit_result::Result::Error(error)) = answer.results[0].result.clone() else { panic!("committed") };
    assert_eq!(error.reason, Reason::StaleEpoch.as_str());
    running.stop().await;
}

#[tokio::test]
async fn what_was_settled_as_abandoned_is_never_committed() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    let committed = primary.a_commit("/kept", b"data");
    let lost = primary.a_commit("/lost", b"data");
    let receipt = primary.commit(committed.clone()).await.expect("commits");

    let staged = |commit: &pb::WriteCommit| pb::StagedBlob {
        group: commit.group,
        write_id: commit.write_id.clone(),
        blob: commit.pieces[0].blob.clone(),
    };
    let ask = async |keep_unknown| {
        let request = pb::SettleBlobsRequest {
            server_id: "fileserver-a".into(),
            blobs: vec![staged(&committed), staged(&lost)],
            keep_unknown,
        };
        let settled = running.directory().settle_blobs(request).await.expect("settles").into_inner();
        settled.fates.into_iter().map(|fate| fate.fate).collect::<Vec<_>>()
    };
    let owner = pb::BlobOwner { inode: receipt.inode, version: 1 };
    let kept = Some(pb::blob_fate::Fate::Committed(owner));
    let abandoned = Some(pb::blob_fate::Fate::Abandoned(true));
    assert_eq!(ask(true).await, [kept, None], "nothing is known of the other");
    assert_eq!(ask(false).await, [kept, abandoned]);
    assert_eq!(ask(true).await, [kept, abandoned]);
    expect_refused(primary.commit(lost.clone()).await, Reason::WriteExpired);
    let retried =
        pb::WriteCommit { pieces: vec![pb::BlobPiece { blob: BlobId::random().to_string(), length: 4 }], ..lost };
    primary.commit(retried).await.expect("the same write with another blob is committed");
    running.stop().await;
}

#[tokio::test]
async fn a_write_that_began_too_long_ago_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    let begin_time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    let commit = pb::WriteCommit { begin_time, ..primary.a_commit("/file", b"late") };
    expect_refused(primary.commit(commit).await, Reason::WriteExpired);
    running.stop().await;
}

#[tokio::test]
async fn merging_extents_changes_neither_bytes_nor_version() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    for _ in 0..3 {
        let append = pb::WriteCommit {
            mode: pb::WriteMode::Append.into(),
            precondition: None,
            ..primary.a_commit("/log", b"12345")
        };
        primary.commit(append).await.expect("commits");
    }
    let lookup =
        pb::LookupFileRequest { file: Some(pb::lookup_file_request::File::Path("/log".into())), ..Default::default() };
    let before = primary.directory.lookup_file(lookup.clone()).await.expect("looks up").into_inner();
    let group = primary.group("/log").clone();
    let request = pb::MergeExtentsRequest {
        skip: 0,
        server_id: group.primary.clone(),
        group: group.group,
        epoch: group.epoch,
        inode: before.entry.as_ref().expect("an entry").inode,
        extents: before.extents[..2].to_vec(),
        merged: Some(pb::BlobPiece { blob: BlobId::random().to_string(), length: 10 }),
        begin_time: Some(crate::common::fake_fileserver::now()),
    };
    primary.directory.merge_extents(request.clone()).await.expect("merges");
    let after = primary.directory.lookup_file(lookup).await.expect("looks up").into_inner();
    assert_eq!(after.extents.iter().map(|extent| extent.length).collect::<Vec<_>>(), [10, 5]);
    let (before, after) = (before.entry.expect("an entry"), after.entry.expect("an entry"));
    assert_eq!((after.version, after.size, after.checksum), (before.version, before.size, before.checksum));

    let other_blob = Some(pb::BlobPiece { blob: BlobId::random().to_string(), length: 10 });
    let late = pb::MergeExtentsRequest { merged: other_blob, ..request };
    crate::common::expect_failure(primary.directory.merge_extents(late).await, Reason::VersionMismatch);
    running.stop().await;
}
