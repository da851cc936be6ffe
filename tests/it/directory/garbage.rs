//! Blobs that no version needs are deleted by every member, and then forgotten.

use std::collections::BTreeSet;

use dfs::pb;

use crate::common::{
    directory::start_directory,
    fake_fileserver::{FakePrimary, start_three},
    wait_until,
};

#[tokio::test]
async fn a_blob_that_no_version_needs_is_deleted_everywhere_and_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let retention = ["--keep-versions", "1", "--keep-for", "0s", "--garbage-grace", "0s"];
    let running = start_directory(folder.path(), &retention).await;
    let servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    let first = primary.write("/file", b"old", 0).await;
    let second = primary.write("/file", b"new", 1).await;

    let status = || async {
        let answer = running.cluster().get_cluster_status(pb::GetClusterStatusRequest {}).await;
        answer.expect("a status").into_inner()
    };
    wait_until("the old blob to be deleted", || async {
        let status = status().await;
        status.blob_count == 1 && status.garbage_blob_count == 0
    })
    .await;
    for server in &servers {
        let deleted = server.deleted.lock().expect("no panic").clone();
        assert_eq!(deleted, BTreeSet::from([first.blobs[0].clone()]), "{}", server.id);
        assert!(!deleted.contains(&second.blobs[0]));
    }
    let request = pb::ListVersionsRequest { path: "/file".into(), ..Default::default() };
    let versions = primary.directory.list_versions(request).await.expect("lists").into_inner().versions;
    assert_eq!(versions.iter().map(|version| version.version).collect::<Vec<_>>(), [2]);
    running.stop().await;
}
