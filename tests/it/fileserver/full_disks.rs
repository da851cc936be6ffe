//! Servers whose disks are full: others lead their groups, and writes go on.

use tempfile::TempDir;

use crate::common::{
    cluster::{Cluster, SERVERS, Settings, replace},
    directory::start_directory,
    fake_fileserver::wait_for_map,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_disk_is_full_leads_nothing_and_is_back_when_there_is_room() {
    let (folder, settings) = (TempDir::new().expect("a folder"), Settings::default());
    let directory = start_directory(&folder.path().join("directory-1"), &settings.directory).await;
    let mut cluster = Cluster::without_servers(folder, directory, settings);
    let [full, others @ ..] = SERVERS;
    cluster.start_full_server(full).await;
    for id in others {
        cluster.start_server(id).await;
    }
    let map = wait_for_map(&cluster.directory, "groups without the full server", |map| {
        map.group_count > 0 && map.groups.iter().all(|group| group.primary != full && group.in_sync == others)
    })
    .await;
    let said = map.servers.iter().find(|server| server.server_id == full).expect("known");
    assert!(!said.read_only_reason.is_empty(), "{said:?}");
    for number in 0..8 {
        let receipt = cluster.write(replace(&format!("/file-{number}"), 0), b"written without it").await;
        assert_eq!(receipt.servers, others);
    }

    // A start with room is as good as having said for a while that there is.
    cluster.stop_server(full).await;
    cluster.start_server(full).await;
    cluster.wait_until_in_sync(3).await;
    for number in 0..8 {
        assert_eq!(cluster.read_from(full, &format!("/file-{number}")).await, b"written without it");
    }
    cluster.stop().await;
}
