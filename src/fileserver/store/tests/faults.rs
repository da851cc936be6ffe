//! Disks that fail, fill up, or give back other bytes than they were given.

use super::*;
use crate::types::{Inode, Version};

#[tokio::test]
async fn after_a_failed_sync_nothing_is_written_and_everything_is_read() {
    let fixture = Fixture::new();
    put(&fixture.store, id(1), &[1000]).await.unwrap();
    fixture.disk.sync_fails.store(true, Ordering::SeqCst);
    let error = put(&fixture.store, id(2), &[1000]).await.unwrap_err();
    assert!(matches!(&error, StoreError::ReadOnly(cause) if cause.contains("injected")), "{error}");
    // The disk is well again, but what it holds is not known.
    fixture.disk.sync_fails.store(false, Ordering::SeqCst);
    assert!(matches!(put(&fixture.store, id(3), &[1]).await, Err(StoreError::ReadOnly(_))));
    assert!(matches!(fixture.store.delete(vec![id(1)]).await, Err(StoreError::ReadOnly(_))));
    assert!(matches!(fixture.store.publish(id(1), Inode(1), Version(1)).await, Err(StoreError::ReadOnly(_))));
    assert!(fixture.store.status().read_only.is_some());
    expect_content(&fixture.store, id(1), 1000).await;

    let (fixture, _) = fixture.reopen().await;
    expect_content(&fixture.store, id(1), 1000).await;
    put(&fixture.store, id(3), &[1]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_takes_no_writes_until_it_answers_again_and_loses_none() {
    let fixture = Fixture::new();
    put(&fixture.store, id(1), &[1000]).await.unwrap();
    let (length, checksum) = stage(&fixture.store, id(2), &[1000]).await.unwrap();
    let hanging = fixture.disk.hang();
    let store = fixture.store.clone();
    let sealing = tokio::spawn(async move { store.seal(id(2), length, checksum).await });
    let begun = std::time::Instant::now();
    while fixture.store.status().read_only.is_none() {
        assert!(begun.elapsed() < 3 * shared::HANGS_AFTER, "nobody notices");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(matches!(put(&fixture.store, id(3), &[1]).await, Err(StoreError::ReadOnly(_))));
    expect_content(&fixture.store, id(1), 1000).await;
    drop(hanging);
    sealing.await.unwrap().unwrap();
    fixture.store.publish(id(2), Inode(1), Version(1)).await.unwrap();
    assert_eq!(fixture.store.status().read_only, None);
    put(&fixture.store, id(3), &[1]).await.unwrap();
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_written() {
    let fixture = Fixture::new();
    fixture.disk.write_fails.store(true, Ordering::SeqCst);
    assert!(matches!(put(&fixture.store, id(1), &[1000]).await, Err(StoreError::ReadOnly(_))));
    fixture.disk.write_fails.store(false, Ordering::SeqCst);
    assert!(matches!(put(&fixture.store, id(1), &[1000]).await, Err(StoreError::ReadOnly(_))));
}

#[tokio::test]
async fn the_reserve_refuses_data_and_lets_all_else_through_until_there_is_room_again() {
    let Fixture { store, disk, .. } = &Fixture::new();
    put(store, id(1), &[1000]).await.unwrap();
    let (length, checksum) = stage(store, id(2), &[1000]).await.unwrap();
    disk.taken.store(DISK_BYTES - 1000, Ordering::SeqCst);
    store.publish(id(1), Inode(1), Version(1)).await.unwrap();
    // The look at the disk comes after the answer: the next request is behind it.
    store.publish(id(1), Inode(1), Version(1)).await.unwrap();
    assert!(matches!(put(store, id(3), &[1000]).await, Err(StoreError::NoSpace { reserve_bytes: 1_048_576, .. })));
    assert!(store.status().read_only.is_some());
    store.seal(id(2), length, checksum).await.unwrap();
    expect_content(store, id(2), 1000).await;
    store.delete(vec![id(1)]).await.unwrap();

    disk.taken.store(0, Ordering::SeqCst);
    store.delete(vec![id(2)]).await.unwrap();
    store.delete(vec![id(2)]).await.unwrap();
    assert_eq!(store.status().read_only, None);
    put(store, id(3), &[1000]).await.unwrap();
}

#[tokio::test]
async fn a_write_that_finds_no_space_fails_alone_and_the_store_goes_on() {
    let fixture = Fixture::new();
    put(&fixture.store, id(1), &[1000]).await.unwrap();
    fixture.disk.write_limit.store(500, Ordering::SeqCst);
    let error = put(&fixture.store, id(2), &[1000]).await.unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    fixture.store.publish(id(1), Inode(1), Version(1)).await.unwrap();
    fixture.disk.write_limit.store(0, Ordering::SeqCst);
    put(&fixture.store, id(2), &[1000]).await.unwrap();
    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!(recovered.damaged_regions, []);
    expect_content(&fixture.store, id(1), 1000).await;
    expect_content(&fixture.store, id(2), 1000).await;
}

#[tokio::test]
async fn what_a_write_without_space_left_behind_is_no_damage_after_a_crash() {
    // Half a header, and half a payload.
    for written in [50, 3000] {
        let fixture = Fixture::with_segments_of(16 << 10);
        put(&fixture.store, id(1), &[5000]).await.unwrap();
        // The file system need not keep that a file was cut before somebody syncs it.
        fixture.disk.cuts_late.store(true, Ordering::SeqCst);
        fixture.disk.write_limit.store(written, Ordering::SeqCst);
        let error = put(&fixture.store, id(2), &[4000]).await.unwrap_err();
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
        fixture.disk.write_limit.store(0, Ordering::SeqCst);
        // Too long for what is left of the segment.
        put(&fixture.store, id(3), &[12_000]).await.unwrap();
        assert_eq!(fixture.synced().at.segment, 2);
        let found = recover(fixture.crash_copy().path());
        assert_eq!(found.recovered.damaged_regions, []);
        assert_eq!(found.recovered.damaged_chunks, []);
        assert!(found.index.sealed(id(1)).is_some() && found.index.sealed(id(3)).is_some());
        assert!(found.index.sealed(id(2)).is_none());
    }
}

/// Turns one bit of a blob's payload in the store's files.
fn flip_payload(fixture: &Fixture, blob: BlobId, length: usize) {
    let needle = content(blob, length);
    for entry in fs::read_dir(fixture.dir()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(length).position(|window| window == needle) {
            tamper(&path, |bytes| bytes[at + length / 2] ^= 0x10);
            return;
        }
    }
    panic!("{blob} is not on the disk");
}

#[tokio::test]
async fn damaged_bytes_are_reported_never_served_and_can_be_replaced() {
    let fixture = Fixture::new();
    put(&fixture.store, id(1), &[900]).await.unwrap();
    put(&fixture.store, id(2), &[900]).await.unwrap();
    fixture.store.publish(id(1), Inode(4), Version(2)).await.unwrap();
    flip_payload(&fixture, id(1), 900);
    for _ in 0..2 {
        let error = fixture.store.read_chunk(id(1), 5).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { offset: 5, .. }), "{error}");
    }
    let damaged = fixture.store.damaged();
    assert_eq!(damaged.iter().map(|it| (it.blob, it.offset, it.length)).collect::<Vec<_>>(), [(id(1), 0, 900)]);
    expect_content(&fixture.store, id(2), 900).await;
    assert!(fixture.store.blob(id(1)).unwrap().damaged && !fixture.store.blob(id(2)).unwrap().damaged);

    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!(recovered.damaged_chunks, damaged);
    put(&fixture.store, id(1), &[900]).await.unwrap();
    assert_eq!(fixture.store.status().damaged_chunk_count, 0);
    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!(recovered.damaged_chunks, []);
    assert_eq!(fixture.store.blob(id(1)).unwrap().published, Some((Inode(4), Version(2))));
    expect_content(&fixture.store, id(1), 900).await;
}
