//! Sectors that the disk does not give back: what stands in them is lost, and nothing else.

use super::*;
use crate::{
    fileserver::store::{
        compaction::Outcome,
        maintenance,
        scrub::{Scrub, Step},
        types::DamagedRegion,
    },
    types::{Inode, Version},
};

/// A record of one chunk of this length and its seal take whole sectors.
const CHUNK: usize = 4096 - 2 * 96;
const SECTOR: u64 = 4096;

/// Blobs 1 to `count`, each in a sector of its own, four to a segment of five sectors.
async fn a_store_of_sectors(count: u128) -> Fixture {
    let fixture = Fixture::with_segments_of(5 * SECTOR);
    for number in 1..=count {
        put(&fixture.store, id(number), &[CHUNK]).await.unwrap();
        assert_eq!(u64::from(fixture.synced().at.position) % SECTOR, 0, "a sector each");
    }
    fixture
}

/// The sector of segment 1 that holds blob `number`.
fn sector(number: u64) -> Range<u64> {
    number * SECTOR..(number + 1) * SECTOR
}

fn scrub(store: &Store) {
    let mut scrub = Scrub::default();
    for _ in 0..1000 {
        if scrub.step(&store.0.shared) == Step::PassDone {
            return;
        }
    }
    panic!("the scrub never comes to an end");
}

fn a_region(segment: u32, sectors: Range<u64>) -> DamagedRegion {
    DamagedRegion { segment, from: sectors.start, to: sectors.end }
}

#[tokio::test]
async fn a_start_goes_on_behind_a_sector_that_cannot_be_read() {
    let fixture = a_store_of_sectors(8).await;
    let root = fixture.crash_copy();
    let disk = TestDisk::default();
    disk.make_unreadable(&segment_path(root.path(), 1), sector(2));
    let found = recover_on(&disk, root.path());
    assert_eq!(found.recovered.damaged_regions, [a_region(1, sector(2))]);
    for number in 1..=8 {
        assert_eq!(found.index.sealed(id(number)).is_some(), number != 2, "blob {number}");
    }
}

#[tokio::test]
async fn a_segment_whose_header_cannot_be_read_is_lost_and_no_other() {
    let fixture = a_store_of_sectors(8).await;
    let root = fixture.crash_copy();
    let disk = TestDisk::default();
    disk.make_unreadable(&segment_path(root.path(), 1), sector(0));
    let found = recover_on(&disk, root.path());
    assert_eq!(found.recovered.damaged_regions, [a_region(1, 0..5 * SECTOR)]);
    for number in 1..=8 {
        assert_eq!(found.index.sealed(id(number)).is_some(), number > 4, "blob {number}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_at_the_end_of_the_log_is_no_tear() {
    let fixture = a_store_of_sectors(3).await;
    let root = fixture.crash_copy();
    let disk = TestDisk::default();
    let path = segment_path(root.path(), 1);
    disk.make_unreadable(&path, sector(3));
    let found = recover_on(&disk, root.path());
    assert_eq!(found.recovered.torn_bytes_cut, 0);
    assert_eq!(found.recovered.damaged_regions, [a_region(1, sector(3))]);
    assert!(found.index.sealed(id(2)).is_some() && found.index.sealed(id(3)).is_none());

    // What follows it and is a tear is cut all the same.
    tamper(&path, |bytes| bytes[3 * SECTOR as usize + 100] ^= 1);
    let found = recover(root.path());
    assert!(found.recovered.torn_bytes_cut > 0);
}

#[tokio::test]
async fn the_scrub_reads_on_behind_what_cannot_be_read() {
    let fixture = a_store_of_sectors(6).await;
    let path = segment_path(fixture.root.path(), 1);
    fixture.disk.make_unreadable(&path, sector(2));
    tamper(&path, |bytes| bytes[3 * SECTOR as usize + 1000] ^= 1);
    scrub(&fixture.store);
    // The first is known to have been there, and is to be fetched again like any other damaged blob.
    assert_eq!(fixture.store.damaged().iter().map(|it| it.blob).collect::<Vec<_>>(), [id(2), id(3)]);
    assert_eq!(fixture.store.losses_found(), 1);
    for number in [1, 4, 5, 6] {
        expect_content(&fixture.store, id(number), CHUNK).await;
    }
}

#[tokio::test]
async fn a_blob_whose_seal_or_publication_cannot_be_read_is_written_or_settled_again() {
    let fixture = Fixture::with_segments_of(5 * SECTOR);
    let store = &fixture.store;
    // The payload ends where the second sector begins, and the seal is there.
    put(store, id(1), &[SECTOR as usize - 96]).await.unwrap();
    store.publish(id(1), Inode(7), Version(3)).await.unwrap();
    for number in 2..6 {
        put(store, id(number), &[CHUNK]).await.unwrap();
    }
    assert_eq!(fixture.store.blob(id(1)).unwrap().published, Some((Inode(7), Version(3))));
    fixture.disk.make_unreadable(&segment_path(fixture.root.path(), 1), sector(2));
    scrub(store);
    let record = store.blob(id(1)).unwrap();
    assert!(record.damaged, "a replay would not know that it was whole");
    assert_eq!(record.published, None);
    assert!(store.unpublished(std::time::Duration::ZERO).iter().any(|staged| staged.blob == id(1)));
}

#[tokio::test]
async fn a_segment_that_cannot_be_read_whole_stops_no_other_from_being_compacted() {
    let fixture = a_store_of_sectors(16).await;
    fixture.disk.make_unreadable(&segment_path(fixture.root.path(), 1), sector(2));
    fixture.store.delete((1..=12).filter(|number| number % 4 != 2).map(id).collect()).await.unwrap();
    assert_eq!(maintenance::compact(&fixture.store.0.shared), Outcome::GivenUp);
    let index = fixture.store.0.shared.index();
    assert!(index.segments[&1].damaged);
    assert_eq!(index.segments.get(&2).map(|it| it.garbage()), Some(0), "the next was rewritten");
}

#[tokio::test]
async fn a_damaged_segment_is_given_back_when_all_that_it_lost_is_there_again() {
    let fixture = a_store_of_sectors(8).await;
    let store = &fixture.store;
    fixture.disk.make_unreadable(&segment_path(fixture.root.path(), 1), sector(2));
    scrub(store);
    let found = store.losses_found();
    store.set_compared(found);
    maintenance::compact(&store.0.shared);
    assert_eq!(store.status().damaged_region_count, 1, "blob 2 is still to be fetched");

    put(store, id(2), &[CHUNK]).await.unwrap();
    assert_eq!(store.damaged(), []);
    assert_eq!(maintenance::compact(&store.0.shared), Outcome::Done);
    assert_eq!(store.status().damaged_region_count, 0);
    let now = everything(&store.0.shared.index());
    assert_eq!(everything(&recover(fixture.crash_copy().path()).index), now);
    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!(recovered.damaged_regions, []);
    for number in 1..=8 {
        expect_content(&fixture.store, id(number), CHUNK).await;
    }
}

#[tokio::test]
async fn what_a_restart_finds_lost_is_kept_until_it_was_compared() {
    let fixture = a_store_of_sectors(8).await;
    let path = segment_path(fixture.root.path(), 1);
    tamper(&path, |bytes| bytes[2 * SECTOR as usize..3 * SECTOR as usize].fill(0x77));
    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!(recovered.damaged_regions, [a_region(1, sector(2))]);
    assert_eq!(fixture.store.blob(id(2)), None);
    maintenance::compact(&fixture.store.0.shared);
    assert_eq!(fixture.store.status().damaged_region_count, 1, "nobody knows what it held");
    fixture.store.set_compared(fixture.store.losses_found());
    maintenance::compact(&fixture.store.0.shared);
    assert_eq!(fixture.store.status().damaged_region_count, 0);
    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!(recovered.damaged_regions, []);
    expect_content(&fixture.store, id(1), CHUNK).await;
}
