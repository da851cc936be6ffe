//! Entries: made, listed, changed, moved, copied, deleted.

use dfs::{
    pb::{self, directory_client::DirectoryClient},
    status::Reason,
    types::WriteId,
};
use tonic::transport::Channel;

use crate::common::{
    directory::start_directory,
    expect_failure,
    fake_fileserver::{FakePrimary, start_three},
};

pub fn fresh_id() -> String {
    WriteId::random().to_string()
}

pub async fn create_directory(client: &mut DirectoryClient<Channel>, path: &str) -> pb::Entry {
    let request = pb::CreateDirectoryRequest { write_id: fresh_id(), path: path.into(), parents: true, mode: 0 };
    client.create_directory(request).await.expect("creates").into_inner().entry.expect("an entry")
}

pub async fn get(client: &mut DirectoryClient<Channel>, path: &str) -> Result<pb::Entry, tonic::Status> {
    let answer = client.get_entry(pb::GetEntryRequest { path: path.into(), as_of: None }).await?;
    Ok(answer.into_inner().entry.expect("an entry"))
}

fn at_version(version: u64) -> Option<pb::Precondition> {
    Some(pb::Precondition { if_version: Some(version), fencing_token: None })
}

#[tokio::test]
async fn directories_are_made_and_got() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let mut client = running.directory();

    let request = pb::CreateDirectoryRequest { write_id: fresh_id(), path: "/a/b".into(), ..Default::default() };
    expect_failure(client.create_directory(request).await, Reason::EntryNotFound);
    let made = create_directory(&mut client, "/a/b").await;
    assert_eq!((made.path.as_str(), made.kind(), made.mode), ("/a/b", pb::EntryKind::Directory, 0o755));
    assert_eq!(get(&mut client, "/a/b").await.expect("is there"), made);
    assert_eq!(create_directory(&mut client, "/a/b").await.inode, made.inode, "with parents it may exist already");

    let request = pb::CreateDirectoryRequest { write_id: fresh_id(), path: "/a/b".into(), ..Default::default() };
    expect_failure(client.create_directory(request).await, Reason::EntryExists);
    expect_failure(get(&mut client, "/a/c").await, Reason::EntryNotFound);
    running.stop().await;
}

#[tokio::test]
async fn a_directory_lists_in_pages_by_name_and_a_tree_streams_depth_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let mut client = running.directory();
    for path in ["/d/b/y", "/d/a", "/d/c", "/d/b/x/deep"] {
        create_directory(&mut client, path).await;
    }

    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListEntriesRequest { path: "/d".into(), page_size: 2, page_token, as_of: None };
        let page = client.list_entries(request).await.expect("a page").into_inner();
        assert!(page.entries.len() <= 2);
        names.extend(page.entries.into_iter().map(|entry| entry.path));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["/d/a", "/d/b", "/d/c"]);

    for (recursive, expected) in
        [(false, vec!["/d/a", "/d/b", "/d/c"]), (true, vec!["/d/a", "/d/b", "/d/b/x", "/d/b/x/deep", "/d/b/y", "/d/c"])]
    {
        let request = pb::StreamEntriesRequest { path: "/d".into(), recursive, ..Default::default() };
        assert_eq!(streamed(&mut client, request).await, expected);
    }
    let request = pb::StreamEntriesRequest { path: "/nowhere".into(), ..Default::default() };
    let mut stream = client.stream_entries(request).await.expect("a stream").into_inner();
    expect_failure(stream.message().await, Reason::EntryNotFound);
    running.stop().await;
}

async fn streamed(client: &mut DirectoryClient<Channel>, request: pb::StreamEntriesRequest) -> Vec<String> {
    let mut stream = client.stream_entries(request).await.expect("a stream").into_inner();
    let mut paths = Vec::new();
    while let Some(message) = stream.message().await.expect("the stream goes on") {
        paths.extend(message.entries.into_iter().map(|streamed| streamed.entry.expect("an entry").path));
    }
    paths
}

#[tokio::test]
async fn a_long_directory_streams_whole_and_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let client = running.directory();
    let made = (0..1200).map(|number| {
        let mut client = client.clone();
        async move { create_directory(&mut client, &format!("/long/{number:04}/below")).await.path }
    });
    let made = futures::future::join_all(made).await;

    let request = pb::StreamEntriesRequest { path: "/long".into(), recursive: true, ..Default::default() };
    let streamed = streamed(&mut client.clone(), request).await;
    assert_eq!(streamed.len(), 2400);
    assert!(streamed.is_sorted());
    assert!(made.iter().all(|path| streamed.binary_search(path).is_ok()));
    running.stop().await;
}

#[tokio::test]
async fn a_page_of_large_entries_ends_early_and_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let mut client = running.directory();
    for number in 0..100 {
        let path = format!("/{number:03}");
        create_directory(&mut client, &path).await;
        let value = vec![0; 60 << 10].into();
        let entry =
            pb::Entry { path, extended_attributes: [("user.x".to_owned(), value)].into(), ..Default::default() };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["extended_attributes".to_owned()] });
        let request = pb::UpdateEntryRequest { write_id: fresh_id(), entry: Some(entry), update_mask };
        client.update_entry(request).await.expect("updates");
    }
    let (mut count, mut pages, mut page_token) = (0, 0, String::new());
    loop {
        let request = pb::ListEntriesRequest { path: "/".into(), page_token, ..Default::default() };
        let page = client.list_entries(request).await.expect("a page that fits").into_inner();
        (count, pages, page_token) = (count + page.entries.len(), pages + 1, page.next_page_token);
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(count, 100);
    assert!(pages > 1);
    let request = pb::StreamEntriesRequest { path: "/".into(), ..Default::default() };
    assert_eq!(streamed(&mut client, request).await.len(), 100);
    running.stop().await;
}

#[tokio::test]
async fn attributes_change_without_a_version() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let mut client = running.directory();
    create_directory(&mut client, "/d").await;
    let entry = pb::Entry {
        path: "/d".into(),
        mode: 0o700,
        owner: "ada".into(),
        owning_group: "ignored: not in the mask".into(),
        extended_attributes: [("user.colour".to_owned(), "green".into())].into(),
        ..Default::default()
    };
    let paths = ["mode", "owner", "extended_attributes"].map(str::to_owned).to_vec();
    let request = pb::UpdateEntryRequest {
        write_id: fresh_id(),
        entry: Some(entry.clone()),
        update_mask: Some(prost_types::FieldMask { paths }),
    };
    client.update_entry(request).await.expect("updates");
    let updated = get(&mut client, "/d").await.expect("is there");
    assert_eq!((updated.mode, updated.owner.as_str(), updated.owning_group.as_str()), (0o700, "ada", ""));
    assert_eq!(updated.extended_attributes, entry.extended_attributes);
    running.stop().await;
}

#[tokio::test]
async fn files_and_directories_move_with_their_inodes() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    let mut client = running.directory();
    create_directory(&mut client, "/from/sub").await;
    create_directory(&mut client, "/to").await;
    let written = primary.write("/from/sub/file", b"data", 0).await;

    let request = |from: &str, to: &str| pb::MoveEntryRequest {
        write_id: fresh_id(),
        from_path: from.into(),
        to_path: to.into(),
        ..Default::default()
    };
    client.move_entry(request("/from/sub", "/to/moved")).await.expect("moves");
    let moved = get(&mut client, "/to/moved/file").await.expect("is there");
    assert_eq!((moved.inode, moved.version, moved.size), (written.inode, 1, 4));
    expect_failure(get(&mut client, "/from/sub/file").await, Reason::EntryNotFound);

    let into_itself = expect_failure(client.move_entry(request("/to", "/to/moved/deeper")).await, Reason::BadArgument);
    assert_eq!(into_itself.metadata.get("to_path").map(String::as_str), Some("/to/moved/deeper"));
    expect_failure(client.move_entry(request("/from", "/to")).await, Reason::EntryExists);
    expect_failure(client.move_entry(request("/nowhere", "/x")).await, Reason::EntryNotFound);
    expect_failure(client.move_entry(request("/", "/x")).await, Reason::BadArgument);

    primary.write("/other", b"old", 0).await;
    let replacing = pb::MoveEntryRequest { replace: true, ..request("/to/moved/file", "/other") };
    expect_failure(client.move_entry(replacing.clone()).await, Reason::LockRequired);
    let stale = pb::MoveEntryRequest { to_precondition: at_version(7), write_id: fresh_id(), ..replacing.clone() };
    expect_failure(client.move_entry(stale).await, Reason::VersionMismatch);
    let good = pb::MoveEntryRequest { to_precondition: at_version(1), write_id: fresh_id(), ..replacing };
    client.move_entry(good).await.expect("replaces");
    assert_eq!(get(&mut client, "/other").await.expect("is there").inode, written.inode);
    running.stop().await;
}

#[tokio::test]
async fn a_copy_shares_its_extents() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    let mut client = running.directory();
    primary.write("/one", b"first", 0).await;
    primary.write("/one", b"second!", 1).await;

    let request = pb::CopyEntryRequest {
        write_id: fresh_id(),
        from_path: "/one".into(),
        to_path: "/two".into(),
        from_version: 1,
        ..Default::default()
    };
    let copy = client.copy_entry(request.clone()).await.expect("copies").into_inner().entry.expect("an entry");
    assert_eq!((copy.path.as_str(), copy.version, copy.size), ("/two", 1, 5));
    let of = |path: &str, version| pb::LookupFileRequest {
        file: Some(pb::lookup_file_request::File::Path(path.into())),
        version,
        as_of: None,
    };
    let copied = client.lookup_file(of("/two", 0)).await.expect("looks up").into_inner();
    let original = client.lookup_file(of("/one", 1)).await.expect("looks up").into_inner();
    assert_eq!(copied.extents, original.extents);
    assert_eq!((copied.groups.len(), copied.servers.len()), (1, 3));

    let missing = pb::CopyEntryRequest { write_id: fresh_id(), from_version: 9, to_path: "/three".into(), ..request };
    expect_failure(client.copy_entry(missing).await, Reason::VersionNotFound);
    running.stop().await;
}

#[tokio::test]
async fn deleting_counts_and_full_directories_need_force() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let mut client = running.directory();
    create_directory(&mut client, "/d/e/f").await;
    let request = |path: &str, force| pb::DeleteEntryRequest {
        write_id: fresh_id(),
        path: path.into(),
        force,
        precondition: None,
    };
    expect_failure(client.delete_entry(request("/d", false)).await, Reason::DirectoryNotEmpty);
    expect_failure(client.delete_entry(request("/", true)).await, Reason::BadArgument);
    let deleted = client.delete_entry(request("/d", true)).await.expect("deletes").into_inner();
    assert_eq!(deleted.deleted_count, 3);
    expect_failure(get(&mut client, "/d").await, Reason::EntryNotFound);
    expect_failure(client.delete_entry(request("/d", true)).await, Reason::EntryNotFound);
    running.stop().await;
}
