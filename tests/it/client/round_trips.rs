//! What is written is what is read, whatever the size and the way.

use std::io::Write;

use dfs::client::{Error, ReadOptions, Reason, Receipt, Version, WriteId, WriteOptions};
use futures::TryStreamExt;

use super::{expect_reason, if_version, path, read, read_with, start_world};
use crate::common::cluster::some_bytes;

const FRAME: usize = 256 << 10;
const CHUNK: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn every_size_comes_back_byte_for_byte_from_three_disks() {
    let world = start_world().await;
    let client = &world.client;
    let sizes = [0, 1, FRAME - 1, FRAME, FRAME + 1, CHUNK - 1, CHUNK, CHUNK + 1, 9 * CHUNK + 12_345];
    for (seed, size) in sizes.into_iter().enumerate() {
        let (name, data) = (format!("/size-{size}"), some_bytes(seed as u32, size));
        let file = path(&name);
        let receipt = client.write_bytes(&file, WriteOptions::replace(if_version(0)), data.clone()).await.unwrap();
        assert_eq!((receipt.version, receipt.size, receipt.servers.len()), (Version(1), size as u64, 3));
        assert_eq!(receipt.checksum, dfs::types::crc32c(&data));
        assert!(read(client, &name).await.unwrap() == data, "{size} bytes");

        let verification = client.verify(&file, None).await.unwrap();
        let copies = if size == 0 { 0 } else { 3 };
        assert_eq!((verification.good_count(), verification.replicas.len()), (copies, copies), "{size} bytes");
        assert!(verification.replicas.iter().all(|replica| replica.checksum == Some(receipt.checksum)));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_files_pipes_and_pushed_pieces_write_the_same() {
    let world = start_world().await;
    let client = &world.client;
    let data = some_bytes(3, 3 * CHUNK + 77);
    let options = || WriteOptions::replace(if_version(0)).create_parents();
    let mut receipts: Vec<Receipt> = Vec::new();

    receipts.push(client.write_bytes(&path("/ways/memory"), options(), data.clone()).await.unwrap());
    let mut local = tempfile::tempfile().unwrap();
    local.write_all(&data).unwrap();
    std::io::Seek::rewind(&mut local).unwrap();
    receipts.push(client.write_file(&path("/ways/file"), options(), local.into()).await.unwrap());
    receipts.push(client.write(&path("/ways/pipe"), options(), &data[..]).await.unwrap());
    let mut writer = client.writer(&path("/ways/pushed"), options());
    for piece in data.chunks(100_001) {
        writer.push(piece.to_vec()).await.unwrap();
    }
    receipts.push(writer.finish().await.unwrap());

    for receipt in receipts {
        assert_eq!(receipt.checksum, dfs::types::crc32c(&data), "{}", receipt.path);
        assert!(read(client, receipt.path.as_str()).await.unwrap() == data, "{}", receipt.path);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_given_up_is_never_seen() {
    let world = start_world().await;
    let client = &world.client;
    let mut writer = client.writer(&path("/cancelled"), WriteOptions::append());
    writer.push(some_bytes(1, 2 * CHUNK)).await.unwrap();
    writer.cancel().await;
    let mut writer = client.writer(&path("/dropped"), WriteOptions::append());
    writer.push(some_bytes(1, 2 * CHUNK)).await.unwrap();
    drop(writer);
    // A write to the same group that is acknowledged: whatever was before it in line has been decided.
    for name in ["/cancelled", "/dropped"] {
        let receipt = client.write_bytes(&path(name), WriteOptions::append(), "x").await.unwrap();
        assert_eq!((receipt.version, receipt.size), (Version(1), 1), "{name}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_part_of_any_version_is_read_exactly() {
    let world = start_world().await;
    let client = &world.client;
    let file = path("/parts");
    let mut expected = some_bytes(1, 2 * CHUNK + 5);
    client.write_bytes(&file, WriteOptions::replace(if_version(0)), expected.clone()).await.unwrap();
    let first = expected.clone();
    let tail = some_bytes(2, FRAME + 1);
    client.write_bytes(&file, WriteOptions::append(), tail.clone()).await.unwrap();
    expected.extend_from_slice(&tail);
    let middle = some_bytes(3, CHUNK);
    let options = WriteOptions::patch(CHUNK as u64 - 10, if_version(2));
    let receipt = client.write_bytes(&file, options, middle.clone()).await.unwrap();
    expected[CHUNK - 10..2 * CHUNK - 10].copy_from_slice(&middle);
    assert_eq!((receipt.version, receipt.checksum), (Version(3), dfs::types::crc32c(&expected)));

    let size = expected.len();
    for (offset, length) in
        [(0, size), (0, 0), (1, 1), (CHUNK - 11, 12), (2 * CHUNK - 15, FRAME), (size - 1, 1), (size, 0)]
    {
        let options = ReadOptions { offset: offset as u64, length: Some(length as u64), ..Default::default() };
        assert!(
            read_with(client, "/parts", options).await.unwrap() == expected[offset..offset + length],
            "{offset} {length}"
        );
    }
    let to_the_end = ReadOptions { offset: 7, length: Some(u64::MAX), ..Default::default() };
    assert!(read_with(client, "/parts", to_the_end).await.unwrap() == expected[7..]);
    let version_1 = ReadOptions { version: Some(Version(1)), ..Default::default() };
    assert!(read_with(client, "/parts", version_1).await.unwrap() == first);

    let past = ReadOptions { offset: size as u64 + 1, ..Default::default() };
    expect_reason(read_with(client, "/parts", past).await, Reason::OffsetOutOfRange);
    let unknown = ReadOptions { version: Some(Version(9)), ..Default::default() };
    expect_reason(read_with(client, "/parts", unknown).await, Reason::VersionNotFound);
    let reader = client.read(&file, ReadOptions::default()).await.unwrap();
    expect_reason(reader.bytes(10).await, Reason::TooLarge);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_changes_nothing() {
    let world = start_world().await;
    let client = &world.client;
    let file = path("/still");
    client.write_bytes(&file, WriteOptions::replace(if_version(0)), some_bytes(1, CHUNK)).await.unwrap();
    let before = (client.get(&file, Default::default()).await.unwrap(), client.status().await.unwrap().revision);
    for _ in 0..5 {
        read(client, "/still").await.unwrap();
        client.verify(&file, None).await.unwrap();
    }
    assert_eq!((client.get(&file, Default::default()).await.unwrap(), client.status().await.unwrap().revision), before);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_write_id_is_the_same_write() {
    let world = start_world().await;
    let client = &world.client;
    let file = path("/once");
    let options = WriteOptions::append().write_id(WriteId::random());
    let first = client.write_bytes(&file, options, "line\n").await.unwrap();
    let again = client.write_bytes(&file, options, "line\n").await.unwrap();
    assert_eq!((again.version, again.revision, again.offset), (first.version, first.revision, first.offset));
    assert_eq!(read(client, "/once").await.unwrap(), b"line\n");

    let replace = WriteOptions::replace(if_version(1)).write_id(WriteId::random());
    client.write_bytes(&file, replace, "other").await.unwrap();
    assert_eq!(client.write_bytes(&file, replace, "other").await.unwrap().version, Version(2));
    // The id stands for the write that was; other data under it is told, not taken for written.
    expect_reason(client.write_bytes(&file, replace, "others").await, Reason::BadArgument);
    assert_eq!(client.versions(&file).try_collect::<Vec<_>>().await.unwrap().len(), 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_written_is_refused_for_its_reason() {
    let world = start_world().await;
    let client = &world.client;
    let file = path("/refused");
    let write =
        async |options: WriteOptions| -> Result<Receipt, Error> { client.write_bytes(&file, options, "x").await };
    expect_reason(write(WriteOptions::replace(Default::default())).await, Reason::LockRequired);
    write(WriteOptions::replace(if_version(0))).await.unwrap();
    let error = expect_reason(write(WriteOptions::replace(if_version(0))).await, Reason::VersionMismatch);
    assert_eq!((error.metadata("current"), error.exit_code()), (Some("1"), 4));
    expect_reason(write(WriteOptions::patch(2, if_version(1))).await, Reason::OffsetOutOfRange);
    let below = client.write_bytes(&path("/refused/below"), WriteOptions::append(), "x").await;
    expect_reason(below, Reason::NotADirectory);
    expect_reason(client.write_bytes(&path("/no/parent"), WriteOptions::append(), "x").await, Reason::EntryNotFound);
    expect_reason(read(client, "/nothing").await, Reason::EntryNotFound);
    expect_reason(read(client, "/").await, Reason::IsADirectory);
    assert_eq!(read(client, "/refused").await.unwrap(), b"x");
    world.stop().await;
}
