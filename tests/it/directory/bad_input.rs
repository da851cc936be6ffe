//! What can never be right is refused with the name of the field, and nothing is visible of it afterwards.

use std::future::Future;

use dfs::{
    pb,
    types::{BlobId, StoreId, WriteId},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::namespace::{create_directory, fresh_id};
use crate::common::{
    directory::{RunningDirectory, start_directory},
    expect_bad_field,
    fake_fileserver::{FakePrimary, a_beat, a_registration, now, start_three},
};

const BAD_PATHS: [&str; 8] = ["", "a", "/a/", "//", "/a//b", "/./a", "/a/..", "/a\0"];
const BAD_IDS: [&str; 4] = ["", "x", "00000000-0000-0000-0000-000000000000", "../../etc/passwd"];

async fn with_directory<T, F: Future<Output = T>>(test: impl FnOnce(RunningDirectory) -> F) {
    let folder = tempfile::tempdir().expect("a folder");
    test(start_directory(folder.path(), &[]).await).await;
}

#[tokio::test]
async fn bad_paths_are_refused_everywhere() {
    with_directory(|running| async move {
        let mut client = running.directory();
        let long = format!("/{}", "n".repeat(256));
        let deep = "/n".repeat(2049);
        for path in BAD_PATHS.iter().copied().chain([long.as_str(), deep.as_str()]) {
            let (path, write_id) = (path.to_owned(), fresh_id());
            let get = pb::GetEntryRequest { path: path.clone(), as_of: None };
            expect_bad_field(client.get_entry(get).await, "path");
            let list = pb::ListEntriesRequest { path: path.clone(), ..Default::default() };
            expect_bad_field(client.list_entries(list).await, "path");
            let stream = pb::StreamEntriesRequest { path: path.clone(), ..Default::default() };
            expect_bad_field(client.stream_entries(stream).await, "path");
            let watch = pb::WatchEntriesRequest { path: path.clone(), after_revision: None };
            expect_bad_field(client.watch_entries(watch).await, "path");
            let versions = pb::ListVersionsRequest { path: path.clone(), ..Default::default() };
            expect_bad_field(client.list_versions(versions).await, "path");
            let file = Some(pb::lookup_file_request::File::Path(path.clone()));
            expect_bad_field(client.lookup_file(pb::LookupFileRequest { file, ..Default::default() }).await, "path");
            let create = pb::CreateDirectoryRequest { path: path.clone(), write_id, ..Default::default() };
            expect_bad_field(client.create_directory(create).await, "path");
            let delete = pb::DeleteEntryRequest { path: path.clone(), write_id: fresh_id(), ..Default::default() };
            expect_bad_field(client.delete_entry(delete).await, "path");
            let fence = pb::RaiseFenceRequest { path: path.clone(), fencing_token: 1 };
            expect_bad_field(client.raise_fence(fence).await, "path");
            let (from_path, to_path) = ("/a".to_owned(), path);
            let moved = pb::MoveEntryRequest { write_id: fresh_id(), from_path, to_path, ..Default::default() };
            expect_bad_field(client.move_entry(moved.clone()).await, "to_path");
            let copied = pb::CopyEntryRequest {
                write_id: fresh_id(),
                from_path: moved.to_path,
                to_path: "/a".into(),
                ..Default::default()
            };
            expect_bad_field(client.copy_entry(copied).await, "from_path");
        }
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn bad_ids_and_missing_parts_are_refused() {
    with_directory(|running| async move {
        let mut client = running.directory();
        for id in BAD_IDS {
            let create =
                pb::CreateDirectoryRequest { write_id: id.into(), path: "/never".into(), ..Default::default() };
            expect_bad_field(client.create_directory(create).await, "write_id");
            let staged = pb::StagedBlob { group: 0, write_id: fresh_id(), blob: id.into() };
            let settle = pb::SettleBlobsRequest { server_id: "a".into(), blobs: vec![staged], keep_unknown: false };
            expect_bad_field(client.settle_blobs(settle).await, "blobs.blob");
            let registration = a_registration("fileserver-a", id);
            expect_bad_field(running.cluster().register_server(registration).await, "store_id");
        }
        expect_bad_field(client.lookup_file(pb::LookupFileRequest::default()).await, "file");
        expect_bad_field(client.update_entry(pb::UpdateEntryRequest::default()).await, "entry");
        expect_bad_field(client.merge_extents(pb::MergeExtentsRequest::default()).await, "extents");
        expect_bad_field(client.commit_writes(pb::CommitWritesRequest::default()).await, "server_id");
        expect_bad_field(running.cluster().add_in_sync(pb::AddInSyncRequest::default()).await, "server_id");
        expect_bad_field(running.cluster().report_suspect(pb::ReportSuspectRequest::default()).await, "suspect_id");
        let restore = pb::RestoreVersionRequest { write_id: fresh_id(), path: "/a".into(), ..Default::default() };
        expect_bad_field(client.restore_version(restore).await, "version");
        let get = pb::GetEntryRequest { path: "/never".into(), as_of: None };
        crate::common::expect_failure(client.get_entry(get).await, dfs::status::Reason::EntryNotFound);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn numbers_tokens_and_times_out_of_range_are_refused() {
    with_directory(|running| async move {
        let mut client = running.directory();
        create_directory(&mut client, "/d").await;
        let list = |page_size, page_token: &str| pb::ListEntriesRequest {
            path: "/".into(),
            page_size,
            page_token: page_token.into(),
            as_of: None,
        };
        expect_bad_field(client.list_entries(list(1001, "")).await, "page_size");
        expect_bad_field(client.list_entries(list(u32::MAX, "")).await, "page_size");
        for token in ["a/b", "\0", &"x".repeat(256)] {
            expect_bad_field(client.list_entries(list(1, token)).await, "page_token");
        }
        let versions = pb::ListVersionsRequest { path: "/d".into(), page_token: "-1".into(), page_size: 0 };
        expect_bad_field(client.list_versions(versions).await, "page_token");
        for (seconds, nanos) in [(-1, 0), (i64::MAX, 0), (0, -1), (0, i32::MAX)] {
            let moment = Some(pb::as_of::Moment::Time(prost_types::Timestamp { seconds, nanos }));
            let get = pb::GetEntryRequest { path: "/d".into(), as_of: Some(pb::AsOf { moment }) };
            expect_bad_field(client.get_entry(get).await, "as_of");
        }
        let create =
            pb::CreateDirectoryRequest { write_id: fresh_id(), path: "/x".into(), parents: false, mode: 0o10000 };
        expect_bad_field(client.create_directory(create).await, "mode");
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn attributes_are_checked() {
    with_directory(|running| async move {
        let mut client = running.directory();
        create_directory(&mut client, "/d").await;
        let entry = |change: fn(&mut pb::Entry)| {
            let mut entry = pb::Entry { path: "/d".into(), ..Default::default() };
            change(&mut entry);
            entry
        };
        let cases = [
            ("mode", entry(|entry| entry.mode = u32::MAX), "entry.mode"),
            ("owner", entry(|entry| entry.owner = "o".repeat(256)), "entry.owner"),
            ("owning_group", entry(|entry| entry.owning_group = "line\nbreak".into()), "entry.owning_group"),
            ("modify_time", entry(|_| ()), "entry.modify_time"),
            ("size", entry(|_| ()), "update_mask"),
            ("", entry(|_| ()), "update_mask"),
            (
                "extended_attributes",
                entry(|entry| drop(entry.extended_attributes.insert("user.x".into(), vec![0; 65 << 10].into()))),
                "entry.extended_attributes",
            ),
            (
                "extended_attributes",
                entry(|entry| drop(entry.extended_attributes.insert(String::new(), "x".into()))),
                "entry.extended_attributes",
            ),
        ];
        for (mask, entry, field) in cases {
            let update_mask = Some(prost_types::FieldMask { paths: vec![mask.to_owned()] });
            let request = pb::UpdateEntryRequest { write_id: fresh_id(), entry: Some(entry), update_mask };
            expect_bad_field(client.update_entry(request).await, field);
        }
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn batches_have_a_limit() {
    with_directory(|running| async move {
        let mut client = running.directory();
        let commits = vec![pb::WriteCommit::default(); 1025];
        let request = pb::CommitWritesRequest { server_id: "a".into(), commits };
        expect_bad_field(client.commit_writes(request).await, "commits");
        let staged =
            || pb::StagedBlob { group: 0, write_id: WriteId::random().to_string(), blob: BlobId::random().to_string() };
        let blobs = (0..10_001).map(|_| staged()).collect();
        let request = pb::SettleBlobsRequest { server_id: "a".into(), blobs, ..Default::default() };
        expect_bad_field(client.settle_blobs(request).await, "blobs");
        let blobs = (0..10_000).map(|_| staged()).collect();
        let request = pb::SettleBlobsRequest { server_id: "a".into(), blobs, ..Default::default() };
        assert_eq!(client.settle_blobs(request).await.expect("fits").into_inner().fates.len(), 10_000);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_commit_that_can_never_be_right_is_refused_by_itself() {
    with_directory(|running| async move {
        let _servers = start_three(&running).await;
        let mut primary = FakePrimary::new(&running).await;
        let good = primary.a_commit("/file", b"data");
        let blob = good.pieces[0].blob.clone();
        let piece = |length| pb::BlobPiece { blob: blob.clone(), length };
        let far = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 });
        let cases = [
            ("write_id", pb::WriteCommit { write_id: "x".into(), ..good.clone() }),
            ("path", pb::WriteCommit { path: "/file/".into(), ..good.clone() }),
            ("mode", pb::WriteCommit { mode: 0, ..good.clone() }),
            ("mode", pb::WriteCommit { mode: 77, ..good.clone() }),
            ("offset", pb::WriteCommit { offset: 1, ..good.clone() }),
            ("pieces", pb::WriteCommit { pieces: vec![piece(0)], ..good.clone() }),
            ("pieces", pb::WriteCommit { pieces: vec![piece(u64::MAX)], ..good.clone() }),
            ("pieces", pb::WriteCommit { pieces: vec![piece(1), piece(1)], ..good.clone() }),
            ("pieces", pb::WriteCommit { pieces: vec![piece(1); 1025], ..good.clone() }),
            ("begin_time", pb::WriteCommit { begin_time: None, ..good.clone() }),
            ("begin_time", pb::WriteCommit { begin_time: far, ..good.clone() }),
            ("create_mode", pb::WriteCommit { create_mode: u32::MAX, ..good.clone() }),
        ];
        for (field, commit) in cases {
            let error = primary.commit(commit).await.expect_err(field);
            assert_eq!(error.metadata.get("field").map(String::as_str), Some(field), "{error:?}");
        }
        let elsewhere = pb::WriteCommit { group: u32::MAX, ..good.clone() };
        let request = pb::CommitWritesRequest { server_id: "fileserver-a".into(), commits: vec![elsewhere] };
        let answer = primary.directory.commit_writes(request).await.expect("is answered").into_inner();
        assert!(matches!(answer.results[0].result, Some(pb::commit_result::Result::Error(_))));
        primary.commit(good).await.expect("nothing was visible of the others");
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn extents_to_merge_are_checked() {
    with_directory(|running| async move {
        let mut client = running.directory();
        let extent = pb::Extent { group: 0, blob: BlobId::random().to_string(), blob_offset: 0, length: 1 };
        let good = pb::MergeExtentsRequest {
            server_id: "fileserver-a".into(),
            extents: vec![extent.clone()],
            merged: Some(pb::BlobPiece { blob: BlobId::random().to_string(), length: 1 }),
            begin_time: Some(now()),
            ..Default::default()
        };
        let empty = pb::Extent { length: 0, ..extent.clone() };
        let overflowing = pb::Extent { blob_offset: u64::MAX, length: u64::MAX, ..extent };
        for (field, bad) in [
            ("extents", pb::MergeExtentsRequest { extents: vec![empty], ..good.clone() }),
            ("extents", pb::MergeExtentsRequest { extents: vec![overflowing], ..good.clone() }),
            ("merged", pb::MergeExtentsRequest { merged: None, ..good.clone() }),
            ("begin_time", pb::MergeExtentsRequest { begin_time: None, ..good }),
        ] {
            expect_bad_field(client.merge_extents(bad).await, field);
        }
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn registrations_reports_and_beats_are_checked() {
    with_directory(|running| async move {
        let mut cluster = running.cluster();
        let good = a_registration("fileserver-a", &StoreId::random().to_string());
        for (field, bad) in [
            ("kind", pb::RegisterServerRequest { kind: 0, ..good.clone() }),
            ("kind", pb::RegisterServerRequest { kind: 99, ..good.clone() }),
            ("kind", pb::RegisterServerRequest { kind: pb::ServerKind::Directory.into(), ..good.clone() }),
            ("server_id", pb::RegisterServerRequest { server_id: "No Such".into(), ..good.clone() }),
            ("address", pb::RegisterServerRequest { address: String::new(), ..good.clone() }),
            ("address", pb::RegisterServerRequest { address: "no-port".into(), ..good.clone() }),
            ("address", pb::RegisterServerRequest { address: "user@host:1".into(), ..good.clone() }),
            ("external_address", pb::RegisterServerRequest { external_address: "http://x/".into(), ..good.clone() }),
            ("zone", pb::RegisterServerRequest { zone: "z".repeat(256), ..good.clone() }),
            ("cluster_id", pb::RegisterServerRequest { cluster_id: "x".into(), ..good.clone() }),
        ] {
            expect_bad_field(cluster.register_server(bad).await, field);
        }
        cluster.register_server(good.clone()).await.expect("registers");

        let group = pb::GroupEpoch { group: 0, epoch: 1 };
        let report = |suspect: &str, reporter: &str, groups| pb::ReportSuspectRequest {
            suspect_id: suspect.into(),
            reporter_id: reporter.into(),
            groups,
        };
        let itself = report("fileserver-a", "fileserver-a", vec![group]);
        expect_bad_field(cluster.report_suspect(itself).await, "suspect_id");
        expect_bad_field(cluster.report_suspect(report("fileserver-a", "", vec![group])).await, "reporter_id");
        let many = report("fileserver-a", "fileserver-b", vec![group; 65_537]);
        expect_bad_field(cluster.report_suspect(many).await, "groups");

        let beat = a_beat("fileserver-a", &good.store_id);
        for (field, bad) in [
            ("server_id", pb::HeartbeatRequest { server_id: String::new(), ..beat.clone() }),
            ("store_id", pb::HeartbeatRequest { store_id: "x".into(), ..beat.clone() }),
            ("deleted_blobs", pb::HeartbeatRequest { deleted_blobs: vec!["x".into()], ..beat.clone() }),
            ("deleted_blobs", pb::HeartbeatRequest { deleted_blobs: vec![String::new(); 10_001], ..beat.clone() }),
            ("uploading_groups", pb::HeartbeatRequest { uploading_groups: vec![0; 65_537], ..beat }),
        ] {
            let (sender, beats) = mpsc::channel(1);
            sender.send(bad).await.expect("room");
            let stream = cluster.heartbeat(ReceiverStream::new(beats)).await.expect("a stream");
            expect_bad_field(stream.into_inner().message().await, field);
        }
        running.stop().await;
    })
    .await;
}
