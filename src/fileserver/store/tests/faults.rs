//! Disks that fail, fill up, or give back other bytes than they were given.

use std::time::{Duration, Instant};

use super::*;
use crate::{
    fileserver::store::maintenance,
    types::{Inode, Version},
};

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
    // Also when it is time to sync what was written: a second sync would succeed, and prove nothing.
    let now = || (fixture.disk.syncs.load(Ordering::SeqCst), fixture.synced());
    let (before, looks) = (now(), fixture.disk.looks.load(Ordering::SeqCst));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(
        fixture.disk.looks.load(Ordering::SeqCst) < looks + 10,
        "the writer has nothing to do, and does it all the time"
    );
    assert!(matches!(fixture.store.discard(id(1)).await, Err(StoreError::ReadOnly(_))));
    assert!(matches!(fixture.store.delete(vec![id(1)]).await, Err(StoreError::ReadOnly(_))));
    assert_eq!(now(), before);
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
    let begun = Instant::now();
    while fixture.store.status().read_only.is_none() {
        assert!(begun.elapsed() < 3 * shared::HANGS_AFTER, "nobody notices");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(put(&fixture.store, id(3), &[1]).await, Err(StoreError::DiskHangs)));
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
    assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");
    fixture.store.publish(id(1), Inode(1), Version(1)).await.unwrap();
    fixture.disk.write_limit.store(0, Ordering::SeqCst);
    put(&fixture.store, id(2), &[1000]).await.unwrap();
    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!(recovered.damaged_regions, []);
    expect_content(&fixture.store, id(1), 1000).await;
    expect_content(&fixture.store, id(2), 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_data_though_it_says_it_has_space_is_told_of_until_it_has_room() {
    let fixture = Fixture::new();
    fixture.disk.write_limit.store(500, Ordering::SeqCst);
    let error = put(&fixture.store, id(1), &[1000]).await.unwrap_err();
    assert!(matches!(error, StoreError::NoRoom { free_bytes, .. } if free_bytes > 0), "{error}");
    // It is looked at each second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(fixture.store.status().read_only, Some(error.to_string()));
    fixture.disk.write_limit.store(0, Ordering::SeqCst);
    let begun = Instant::now();
    while fixture.store.status().read_only.is_some() {
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody notices");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    put(&fixture.store, id(1), &[1000]).await.unwrap();
    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!((recovered.damaged_regions, recovered.torn_bytes_cut), (vec![], 0));
    expect_content(&fixture.store, id(1), 1000).await;
}

async fn wait_until_it_takes_writes(store: &Store, mut meanwhile: impl AsyncFnMut()) {
    let begun = Instant::now();
    while store.status().read_only.is_some() {
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody notices that there is room");
        meanwhile().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_never_idle_notices_too_that_there_is_room_again() {
    let fixture = Fixture::new();
    put(&fixture.store, id(1), &[100]).await.unwrap();
    fixture.disk.write_limit.store(500, Ordering::SeqCst);
    let error = put(&fixture.store, id(2), &[1000]).await.unwrap_err();
    assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");
    fixture.disk.write_limit.store(0, Ordering::SeqCst);
    let publish = async || fixture.store.publish(id(1), Inode(1), Version(1)).await.unwrap();
    wait_until_it_takes_writes(&fixture.store, publish).await;

    fixture.disk.write_limit.store(500, Ordering::SeqCst);
    put(&fixture.store, id(3), &[1000]).await.unwrap_err();
    fixture.disk.write_limit.store(0, Ordering::SeqCst);
    put(&fixture.store, id(3), &[1000]).await.unwrap();
    assert_eq!(fixture.store.status().read_only, None, "data was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn room_in_the_old_segment_is_none_where_a_new_one_cannot_begin() {
    let fixture = Fixture::with_segments_of(16 << 10);
    put(&fixture.store, id(1), &[6000]).await.unwrap();
    // The file that is to become the next segment cannot be written.
    let next = segment_path(fixture.root.path(), 2).with_added_extension("new");
    std::os::unix::fs::symlink("/dev/full", &next).unwrap();
    let error = put(&fixture.store, id(2), &[12_000]).await.unwrap_err();
    assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");
    // What is small still fits; it shows nothing. And the disk is looked at each second.
    put(&fixture.store, id(3), &[100]).await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(fixture.store.status().read_only.is_some(), "there is no room");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fs::remove_file(&next).unwrap();
    wait_until_it_takes_writes(&fixture.store, async || {}).await;
    put(&fixture.store, id(2), &[12_000]).await.unwrap();
    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!((recovered.damaged_regions, recovered.torn_bytes_cut), (vec![], 0));
    for (number, length) in [(1, 6000), (2, 12_000), (3, 100)] {
        expect_content(&fixture.store, id(number), length).await;
    }
}

#[tokio::test]
async fn no_space_for_a_cut_or_a_sync_is_not_taken_for_a_write_that_never_was() {
    for cut_fails in [true, false] {
        let fixture = Fixture::with_segments_of(16 << 10);
        put(&fixture.store, id(1), &[5000]).await.unwrap();
        fixture.disk.write_limit.store(500, Ordering::SeqCst);
        if !cut_fails {
            // What it leaves behind is to be synced before the next segment begins.
            put(&fixture.store, id(2), &[4000]).await.unwrap_err();
            fixture.disk.write_limit.store(0, Ordering::SeqCst);
        }
        fixture.disk.has_no_space_to_end.store(true, Ordering::SeqCst);
        let error = put(&fixture.store, id(3), &[12_000]).await.unwrap_err();
        assert!(matches!(error, StoreError::ReadOnly(_)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_data_is_given_back_what_little_is_dead() {
    let fixture = Fixture::with_segments_of(64 << 10);
    for number in 1..=7 {
        put(&fixture.store, id(number), &[10_000]).await.unwrap();
    }
    fixture.store.delete(vec![id(1)]).await.unwrap();
    let length = || fs::metadata(segment_path(fixture.root.path(), 1)).unwrap().len();
    let before = length();
    maintenance::compact(&fixture.store.0.shared);
    assert_eq!(length(), before, "it is not worth the work");
    fixture.disk.write_limit.store(58_000, Ordering::SeqCst);
    let error = put(&fixture.store, id(8), &[60_000]).await.unwrap_err();
    assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");
    maintenance::compact(&fixture.store.0.shared);
    assert!(length() <= before - 10_000, "nothing is given back");
    for number in 2..=7 {
        expect_content(&fixture.store, id(number), 10_000).await;
    }
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
        assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");
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
