//! What compaction may take away, and what it must not.

use std::collections::BTreeSet;

use super::*;
use crate::{
    fileserver::store::{
        compaction::{self, Outcome},
        record::HEADER_LENGTH,
    },
    types::{Inode, Version},
};

const SEGMENT: u64 = 64 << 10;

/// Rewrites segments by their numbers.
fn rewrite(store: &Store, numbers: &[u32]) {
    assert_eq!(compaction::run(&store.0.shared, numbers).unwrap(), Outcome::Done);
}

/// Compacts for as long as there is something worth it; answers how often there was.
fn compact_all(store: &Store) -> usize {
    let shared = &store.0.shared;
    let mut count = 0;
    loop {
        let chosen =
            compaction::choose(&shared.index(), shared.options.segment_bytes, shared.is_short(), &BTreeSet::new());
        let Some(numbers) = chosen else { return count };
        rewrite(store, &numbers);
        count += 1;
        assert!(count < 1000, "compaction never comes to rest");
    }
}

fn file_bytes(fixture: &Fixture) -> u64 {
    fs::read_dir(fixture.dir()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn the_space_of_deleted_blobs_comes_back_and_the_others_stay() {
    let fixture = Fixture::with_segments_of(SEGMENT);
    for number in 0..60 {
        put(&fixture.store, id(number), &[3000, 3000]).await.unwrap();
    }
    let kept: Vec<_> = (0..60).filter(|number| number % 10 == 0).map(id).collect();
    for &blob in &kept {
        fixture.store.publish(blob, Inode(9), Version(1)).await.unwrap();
    }
    let dead = (0..60).filter(|number| number % 10 != 0).map(id).collect();
    fixture.store.delete(dead).await.unwrap();
    let before = file_bytes(&fixture);
    assert!(compact_all(&fixture.store) > 0);
    assert!(file_bytes(&fixture) < before / 2, "{} of {before}", file_bytes(&fixture));
    for &blob in &kept {
        expect_content(&fixture.store, blob, 6000).await;
    }
    let now = everything(&fixture.store.0.shared.index());
    assert_eq!(everything(&recover(fixture.crash_copy().path()).index), now, "a replay comes to the same index");
    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!(recovered.damaged_regions, []);
    for &blob in &kept {
        expect_content(&fixture.store, blob, 6000).await;
        assert_eq!(fixture.store.blob(blob).unwrap().published, Some((Inode(9), Version(1))));
    }
    assert_eq!(fixture.store.status().blob_count, 6);
}

/// Segment 1 holds the blobs 1 and 2, segment 2 others, and segment 3 the tombstone of blob 1 among others.
async fn a_deletion_two_segments_later() -> Fixture {
    let fixture = Fixture::with_segments_of(16 << 10);
    for number in [1, 2] {
        put(&fixture.store, id(number), &[4000]).await.unwrap();
    }
    for number in 3..6 {
        put(&fixture.store, id(number), &[5000]).await.unwrap();
    }
    fixture.store.delete(vec![id(1)]).await.unwrap();
    put(&fixture.store, id(7), &[8000]).await.unwrap();
    let index = fixture.store.0.shared.index();
    assert_eq!(index.sealed(id(2)).unwrap().oldest_segment, 1);
    assert_eq!(index.segments[&3].tombstones, HEADER_LENGTH as u64);
    assert_eq!(index.segments.keys().next_back(), Some(&4));
    drop(index);
    fixture
}

#[tokio::test]
async fn a_tombstone_stays_for_as_long_as_an_older_segment_holds_the_blob() {
    let fixture = a_deletion_two_segments_later().await;
    rewrite(&fixture.store, &[3]);
    rewrite(&fixture.store, &[2]);
    assert_eq!(fixture.store.0.shared.index().segments[&3].tombstones, HEADER_LENGTH as u64);
    assert!(recover(fixture.crash_copy().path()).index.sealed(id(1)).is_none(), "the blob is back");

    rewrite(&fixture.store, &[1]);
    rewrite(&fixture.store, &[3]);
    assert_eq!(fixture.store.0.shared.index().segments[&3].tombstones, 0);
    let found = recover(fixture.crash_copy().path());
    assert!(found.index.sealed(id(1)).is_none(), "the blob is back");
    assert!(found.index.sealed(id(2)).is_some());
}

#[tokio::test]
async fn a_crash_after_the_new_file_has_its_name_leaves_nothing_twice_and_nothing_lost() {
    let fixture = a_deletion_two_segments_later().await;
    let old = fixture.crash_copy();
    rewrite(&fixture.store, &[1, 2, 3]);
    let new = fixture.crash_copy();
    for number in [2, 3] {
        fs::copy(segment_path(old.path(), number), segment_path(new.path(), number)).unwrap();
    }
    fs::write(segment_path(new.path(), 9).with_added_extension("new"), "half").unwrap();
    let found = recover(new.path());
    assert_eq!(found.recovered.damaged_regions, []);
    assert_eq!(everything(&found.index), everything(&fixture.store.0.shared.index()));
    let left: Vec<_> = segment::list(&dir(new.path())).unwrap().0;
    assert_eq!(left, [1, 4]);
}

#[tokio::test]
async fn a_damaged_chunk_is_copied_as_it_is_and_stays_known() {
    let fixture = a_deletion_two_segments_later().await;
    tamper(&segment_path(fixture.root.path(), 1), |bytes| {
        let needle = content(id(2), 4000);
        let at = bytes.windows(4000).position(|window| window == needle).unwrap();
        bytes[at] ^= 1;
    });
    rewrite(&fixture.store, &[1]);
    let damaged = fixture.store.damaged();
    assert_eq!(damaged.iter().map(|it| it.blob).collect::<Vec<_>>(), [id(2)]);
    assert!(matches!(get(&fixture.store, id(2)).await, Err(StoreError::Damaged { .. })));
}

#[tokio::test]
async fn a_segment_with_unreadable_bytes_is_kept_as_it_is() {
    let fixture = a_deletion_two_segments_later().await;
    let path = segment_path(fixture.root.path(), 1);
    tamper(&path, |bytes| bytes[segment::RECORDS_START as usize + 30] ^= 1);
    let before = fs::read(&path).unwrap();
    assert_eq!(compaction::run(&fixture.store.0.shared, &[1]).unwrap(), Outcome::GivenUp);
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fixture.store.status().damaged_region_count, 1);
    compact_all(&fixture.store);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_the_writer_go_on_while_segments_are_rewritten() {
    let fixture = Fixture::with_segments_of(SEGMENT);
    for number in 0..40 {
        put(&fixture.store, id(number), &[3000, 3000]).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, stop) = (fixture.store.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut reads = 0;
                while !stop.load(Ordering::SeqCst) {
                    for number in (0..40).step_by(2) {
                        expect_content(&store, id(number), 6000).await;
                        reads += 1;
                    }
                }
                reads
            })
        })
        .collect();
    let mut rewritten = 0;
    for round in 0..10 {
        let dead = (0..40).filter(|number| number % 2 == 1 && number / 4 == round).map(id).collect();
        fixture.store.delete(dead).await.unwrap();
        for number in 0..10 {
            put(&fixture.store, id(1000 * (1 + round) + number), &[2000]).await.unwrap();
        }
        let store = fixture.store.clone();
        rewritten += tokio::task::spawn_blocking(move || {
            rewrite(&store, &[1]);
            1 + compact_all(&store)
        })
        .await
        .unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    assert!(rewritten > 10);
    assert_eq!(fixture.store.status().damaged_chunk_count, 0);
    let now = everything(&fixture.store.0.shared.index());
    assert_eq!(everything(&recover(fixture.crash_copy().path()).index), now);
}
