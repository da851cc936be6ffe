//! Versions and the past: what was, and how to bring it back.

use dfs::{pb, status::Reason};

use super::namespace::{create_directory, fresh_id, get};
use crate::common::{
    directory::start_directory,
    expect_failure,
    fake_fileserver::{FakePrimary, now, start_three},
};

fn lookup(path: &str, version: u64, moment: Option<pb::as_of::Moment>) -> pb::LookupFileRequest {
    pb::LookupFileRequest {
        file: Some(pb::lookup_file_request::File::Path(path.into())),
        version,
        as_of: moment.map(|moment| pb::AsOf { moment: Some(moment) }),
    }
}

#[tokio::test]
async fn versions_are_listed_looked_up_and_restored() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    let mut client = running.directory();
    for version in 0..5 {
        primary.write("/file", format!("content {version}").as_bytes(), version).await;
    }

    let mut versions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListVersionsRequest { path: "/file".into(), page_size: 2, page_token };
        let page = client.list_versions(request).await.expect("a page").into_inner();
        versions.extend(page.versions.into_iter().map(|version| version.version));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(versions, [5, 4, 3, 2, 1]);

    let second = client.lookup_file(lookup("/file", 2, None)).await.expect("looks up").into_inner();
    let entry = second.entry.expect("an entry");
    assert_eq!((entry.version, entry.size, entry.checksum), (2, 9, dfs::types::crc32c(b"content 1")));
    expect_failure(client.lookup_file(lookup("/file", 9, None)).await, Reason::VersionNotFound);
    expect_failure(client.lookup_file(lookup("/file", u64::MAX, None)).await, Reason::VersionNotFound);

    let restore = |version, if_version: Option<u64>| pb::RestoreVersionRequest {
        write_id: fresh_id(),
        path: "/file".into(),
        version,
        precondition: if_version
            .map(|if_version| pb::Precondition { if_version: Some(if_version), fencing_token: None }),
    };
    expect_failure(client.restore_version(restore(2, None)).await, Reason::LockRequired);
    expect_failure(client.restore_version(restore(2, Some(4))).await, Reason::VersionMismatch);
    expect_failure(client.restore_version(restore(77, Some(5))).await, Reason::VersionNotFound);
    let restored = client.restore_version(restore(2, Some(5))).await.expect("restores").into_inner();
    assert_eq!(restored.entry.expect("an entry").version, 6);
    let newest = client.lookup_file(lookup("/file", 0, None)).await.expect("looks up").into_inner();
    assert_eq!(newest.extents, second.extents);
    assert_eq!(newest.entry.expect("an entry").checksum, entry.checksum);
    running.stop().await;
}

#[tokio::test]
async fn what_was_deleted_is_there_as_of_a_revision_and_as_of_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    let mut client = running.directory();
    create_directory(&mut client, "/d").await;
    let written = primary.write("/d/file", b"data", 0).await;
    let delete = pb::DeleteEntryRequest { write_id: fresh_id(), path: "/d".into(), force: true, precondition: None };
    client.delete_entry(delete).await.expect("deletes");
    expect_failure(client.lookup_file(lookup("/d/file", 0, None)).await, Reason::EntryNotFound);

    let then = pb::as_of::Moment::Revision(written.revision);
    let found = client.lookup_file(lookup("/d/file", 0, Some(then))).await.expect("looks up").into_inner();
    assert_eq!(found.entry.expect("an entry").inode, written.inode);
    assert_eq!(found.extents.iter().map(|extent| extent.blob.clone()).collect::<Vec<_>>(), written.blobs);
    let list =
        pb::ListEntriesRequest { path: "/".into(), as_of: Some(pb::AsOf { moment: Some(then) }), ..Default::default() };
    assert_eq!(client.list_entries(list).await.expect("lists").into_inner().entries[0].path, "/d");

    let at = pb::as_of::Moment::Time(written.commit_time.expect("a time"));
    let as_of = Some(pb::AsOf { moment: Some(at) });
    let found = client.get_entry(pb::GetEntryRequest { path: "/d/file".into(), as_of }).await;
    // Another change may have the same millisecond: then the moment is after it.
    match found {
        Ok(found) => assert_eq!(found.into_inner().entry.expect("an entry").inode, written.inode),
        Err(status) => {
            expect_failure(Err::<(), _>(status), Reason::EntryNotFound);
        }
    }
    let later = pb::as_of::Moment::Time(now());
    expect_failure(client.lookup_file(lookup("/d/file", 0, Some(later))).await, Reason::EntryNotFound);
    let future = pb::as_of::Moment::Revision(written.revision + 1000);
    expect_failure(client.lookup_file(lookup("/d/file", 0, Some(future))).await, Reason::BadArgument);
    running.stop().await;
}

#[tokio::test]
async fn a_file_is_found_by_its_inode_wherever_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    let mut client = running.directory();
    let written = primary.write("/before", b"data", 0).await;
    let moved = pb::MoveEntryRequest {
        write_id: fresh_id(),
        from_path: "/before".into(),
        to_path: "/after".into(),
        ..Default::default()
    };
    client.move_entry(moved).await.expect("moves");
    let by_inode =
        |inode| pb::LookupFileRequest { file: Some(pb::lookup_file_request::File::Inode(inode)), ..Default::default() };
    let found = client.lookup_file(by_inode(written.inode)).await.expect("looks up").into_inner();
    assert_eq!(found.entry.expect("an entry").path, "/after");
    for none in [0, u64::MAX] {
        expect_failure(client.lookup_file(by_inode(none)).await, Reason::EntryNotFound);
    }
    expect_failure(client.lookup_file(by_inode(1)).await, Reason::IsADirectory);
    assert_eq!(get(&mut client, "/after").await.expect("is there").inode, written.inode);
    running.stop().await;
}
