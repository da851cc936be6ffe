//! What happens to data that nobody asks for.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::{
    fileserver::store::{
        checkpoint, compaction,
        scrub::{Pace, Scrub, Step},
    },
    types::{Inode, Version},
};

/// One whole pass of the scrub.
fn scrub(store: &Store) {
    let mut scrub = Scrub::default();
    for _ in 0..1000 {
        if scrub.step(&store.0.shared) == Step::PassDone {
            return;
        }
    }
    panic!("the scrub never comes to an end");
}

#[tokio::test]
async fn the_scrub_finds_what_nobody_reads() {
    let fixture = Fixture::with_segments_of(16 << 10);
    for number in 1..6 {
        put(&fixture.store, id(number), &[5000]).await.unwrap();
    }
    scrub(&fixture.store);
    assert_eq!(fixture.store.status().damaged_chunk_count, 0);
    let first = segment_path(fixture.root.path(), 1);
    let needle = content(id(1), 5000);
    tamper(&first, |bytes| {
        let at = bytes.windows(5000).position(|window| window == needle).unwrap();
        bytes[at + 4999] ^= 1;
        // And the seal behind it: a record that nobody can read is no longer known to be one.
        bytes[at + 5000 + 40] ^= 1;
    });
    scrub(&fixture.store);
    scrub(&fixture.store);
    let status = fixture.store.status();
    assert_eq!((status.damaged_chunk_count, status.damaged_region_count), (1, 1));
    assert_eq!(fixture.store.damaged().iter().map(|it| it.blob).collect::<Vec<_>>(), [id(1)]);
}

#[tokio::test]
async fn a_clean_end_proves_that_the_last_batch_was_synced() {
    let fixture = Fixture::new();
    put(&fixture.store, id(1), &[100]).await.unwrap();
    let end = fixture.synced().at.position as usize;
    fixture.store.close().await;
    let path = segment_path(fixture.root.path(), 1);
    tamper(&path, |bytes| bytes[end - 1 - 8] ^= 1);
    let found = recover(fixture.root.path());
    // Were it not for the marker behind it, this would pass for a seal that was torn.
    assert_eq!(found.recovered.torn_bytes_cut, 0);
    assert_eq!(found.recovered.damaged_regions.len(), 1);
}

#[tokio::test]
async fn a_lost_segment_is_noticed() {
    let fixture = Fixture::with_segments_of(16 << 10);
    for number in 1..8 {
        put(&fixture.store, id(number), &[5000]).await.unwrap();
    }
    let (first, second) = (segment_path(fixture.root.path(), 1), segment_path(fixture.root.path(), 2));
    let root = fixture.crash_copy();
    fs::remove_file(segment_path(root.path(), 2)).unwrap();
    assert_eq!(recover(root.path()).recovered.damaged_regions.len(), 1);

    fs::copy(second, segment_path(root.path(), 2)).unwrap();
    assert_eq!(recover(root.path()).recovered.damaged_regions, []);
    // One copy of a segment's header is enough; with none, nothing in it can be told from arbitrary bytes.
    tamper(&segment_path(root.path(), 1), |bytes| bytes[10] ^= 1);
    assert_eq!(recover(root.path()).recovered.damaged_regions, []);
    tamper(&segment_path(root.path(), 1), |bytes| bytes[2048 + 10] ^= 1);
    let found = recover(root.path());
    assert_eq!(found.recovered.damaged_regions.iter().map(|it| it.segment).collect::<Vec<_>>(), [1]);
    assert!(first.exists() && segment_path(root.path(), 1).exists());
}

#[tokio::test]
async fn a_stored_copy_of_a_segment_is_never_taken_for_records() {
    let fixture = Fixture::with_segments_of(64 << 10);
    put(&fixture.store, id(1), &[100]).await.unwrap();
    fixture.store.delete(vec![id(1)]).await.unwrap();
    let end = fixture.synced().at.position as usize;
    let copy = Bytes::from(fs::read(segment_path(fixture.root.path(), 1)).unwrap())
        .slice(segment::RECORDS_START as usize..end);
    let checksum = crc32c(&copy);
    fixture.store.begin(GROUP, write_id(id(2)), id(2)).unwrap();
    fixture.store.append(id(2), 0, copy.clone(), checksum).await.unwrap();
    fixture.store.seal(id(2), copy.len() as u64, checksum).await.unwrap();
    put(&fixture.store, id(3), &[100]).await.unwrap();
    fixture.store.close().await;
    // Without its header, the payload is searched for the next record: the one after it is found, none in it.
    tamper(&segment_path(fixture.root.path(), 1), |bytes| bytes[end + 20] ^= 1);
    let found = recover(fixture.root.path());
    let to = found.recovered.damaged_regions.iter().map(|region| (region.from, region.to)).collect::<Vec<_>>();
    let after = (end as u64 + 96 + copy.len() as u64).next_multiple_of(8);
    assert_eq!(to, [(end as u64, after)]);
    assert!(found.index.sealed(id(1)).is_none() && found.index.sealed(id(3)).is_some());
    assert!(found.index.is_damaged(id(2)), "its seal is there, its chunk is lost");
}

/// Several segments with publications, deletions, a damaged chunk, an open blob and, after a checkpoint, some more.
async fn a_store_with_a_checkpoint() -> Fixture {
    let fixture = Fixture::with_segments_of(16 << 10);
    let store = &fixture.store;
    for number in 1..8 {
        put(store, id(number), &[2500, 2500]).await.unwrap();
    }
    store.publish(id(2), Inode(3), Version(4)).await.unwrap();
    store.delete(vec![id(3)]).await.unwrap();
    tamper(&segment_path(fixture.root.path(), 1), |bytes| bytes[segment::RECORDS_START as usize + 1000] ^= 1);
    store.read_chunk(id(1), 0).await.unwrap_err();
    let (length, checksum) = stage(store, id(20), &[700, 600]).await.unwrap();
    stage(store, id(21), &[300]).await.unwrap();
    checkpoint::write(&store.0.shared).unwrap();
    store.seal(id(20), length, checksum).await.unwrap();
    store.publish(id(20), Inode(5), Version(6)).await.unwrap();
    put(store, id(22), &[800]).await.unwrap();
    store.delete(vec![id(4)]).await.unwrap();
    fixture
}

#[tokio::test]
async fn a_checkpoint_and_what_follows_it_come_to_what_the_whole_log_comes_to() {
    let fixture = a_store_with_a_checkpoint().await;
    let now = everything(&fixture.store.0.shared.index());
    let root = fixture.crash_copy();
    let quick = recover(root.path());
    assert!(quick.recovered.from_checkpoint);
    assert_eq!(everything(&quick.index).blobs, now.blobs);
    assert_eq!(quick.index.damaged(), fixture.store.damaged());
    fs::remove_file(checkpoint::path(&dir(root.path()))).unwrap();
    let slow = recover(root.path());
    assert!(!slow.recovered.from_checkpoint);
    assert!(slow.recovered.record_count > quick.recovered.record_count);
    assert_eq!(everything(&slow.index), everything(&quick.index));
    assert_eq!((slow.next_segment, slow.next_batch), (quick.next_segment, quick.next_batch));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// However much of a blob was in the log when the checkpoint was written: what comes of both is what the log says.
    #[test]
    fn an_open_blob_goes_on_from_a_checkpoint_where_its_log_ends(
        before in prop::collection::vec(1..2000_usize, 1..5),
        after in prop::collection::vec(1..2000_usize, 0..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(go_on_from_a_checkpoint(&before, &after));
    }
}

async fn go_on_from_a_checkpoint(before: &[usize], after: &[usize]) {
    let fixture = Fixture::with_segments_of(16 << 10);
    let store = &fixture.store;
    let (mut length, mut checksum) = stage(store, id(1), before).await.unwrap();
    // Durable, so that the checkpoint has them.
    store.delete(vec![]).await.unwrap();
    checkpoint::write(&store.0.shared).unwrap();
    let (numbers, _) = segment::list(&fixture.dir()).unwrap();
    let index = checkpoint::load(&fixture.dir(), &*fixture.disk, &numbers).unwrap();
    assert_eq!((index.open[&id(1)].accepted, index.open[&id(1)].checksum), (length, checksum));

    for &chunk in after {
        let data = Bytes::from(content(id(1), chunk));
        let sum = crc32c(&data);
        store.append(id(1), length, data, sum).await.unwrap();
        checksum = crc32c_combine(checksum, sum, chunk as u64);
        length += chunk as u64;
    }
    store.seal(id(1), length, checksum).await.unwrap();
    let seal_at = store.0.shared.index().sealed(id(1)).unwrap().seal_at.unwrap();
    store.publish(id(1), Inode(5), Version(6)).await.unwrap();
    put(store, id(2), &[10]).await.unwrap();
    put(store, id(3), &[10]).await.unwrap();
    let root = fixture.crash_copy();
    // Without its seal, the publication stands in for it, if the blob is whole.
    tamper(&segment_path(root.path(), seal_at.segment), |bytes| bytes[seal_at.position as usize + 8] ^= 1);
    let quick = recover(root.path());
    assert!(quick.recovered.from_checkpoint);
    fs::remove_file(checkpoint::path(&dir(root.path()))).unwrap();
    let slow = recover(root.path());
    assert_eq!(everything(&quick.index).blobs, everything(&slow.index).blobs);
    let sealed = quick.index.sealed(id(1)).expect("it is known by its publication");
    assert_eq!((u64::from(sealed.length), sealed.checksum), (length, checksum));
    assert!(!quick.index.is_damaged(id(1)));
}

#[tokio::test]
async fn a_checkpoint_that_is_damaged_or_out_of_date_is_left_aside() {
    let fixture = a_store_with_a_checkpoint().await;
    let now = everything(&fixture.store.0.shared.index());
    let root = fixture.crash_copy();
    let path = checkpoint::path(&dir(root.path()));
    let good = fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(5) {
        for cut in [false, true] {
            tamper(&path, |bytes| {
                bytes.clone_from(&good);
                bytes[at] ^= 1;
                if cut {
                    bytes.truncate(at);
                }
            });
            let found = recover(root.path());
            assert!(!found.recovered.from_checkpoint, "at {at}");
            assert_eq!(everything(&found.index).blobs, now.blobs, "at {at}");
        }
    }
    fs::write(&path, good).unwrap();
    compaction::run(&fixture.store.0.shared, &[1, 2]).unwrap();
    for number in [1, 2] {
        fs::remove_file(segment_path(root.path(), number)).unwrap();
    }
    fs::copy(segment_path(fixture.root.path(), 1), segment_path(root.path(), 1)).unwrap();
    let found = recover(root.path());
    assert!(!found.recovered.from_checkpoint);
    assert_eq!(everything(&found.index).blobs, everything(&fixture.store.0.shared.index()).blobs);
}

#[tokio::test]
async fn damage_is_no_tear_also_after_a_compaction_that_knows_of_the_last_batch() {
    let fixture = Fixture::with_segments_of(16 << 10);
    for number in 1..4 {
        put(&fixture.store, id(number), &[5000]).await.unwrap();
    }
    compaction::run(&fixture.store.0.shared, &[1]).unwrap();
    put(&fixture.store, id(4), &[100]).await.unwrap();
    let root = fixture.crash_copy();
    tamper(&segment_path(root.path(), 2), |bytes| bytes[segment::RECORDS_START as usize + 20] ^= 1);
    let found = recover(root.path());
    assert_eq!(found.recovered.torn_bytes_cut, 0);
    assert_eq!(found.recovered.damaged_regions.len(), 1);
    assert!(found.index.sealed(id(4)).is_some());
}

#[tokio::test]
async fn the_segment_that_is_being_written_is_scrubbed_too_and_a_repair_is_counted() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    put(store, id(1), &[5000, 5000]).await.unwrap();
    put(store, id(2), &[5000]).await.unwrap();
    let needle = content(id(1), 10_000)[7000..7100].to_vec();
    tamper(&segment_path(fixture.root.path(), 1), |bytes| {
        let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
        bytes[at] ^= 1;
    });
    scrub(store);
    let damaged: Vec<_> = store.damaged().into_iter().map(|chunk| (chunk.blob, chunk.offset)).collect();
    assert_eq!(damaged, [(id(1), 5000)]);
    assert_eq!((store.counts().found_by_scrub.get(), store.counts().found_by_read.get()), (1, 0));
    scrub(store);
    assert_eq!(store.counts().found_by_scrub.get(), 1, "it is known already");
    assert_eq!((store.damage_in(id(1), 0, 5000), store.damage_in(id(1), 4999, 5001)), (None, Some(5000)));
    put(store, id(1), &[10_000]).await.unwrap();
    let status = store.status();
    assert_eq!((status.repaired_chunk_count, status.damaged_chunk_count), (1, 0));
    assert_eq!((store.count_of(GROUP), store.count_of(GroupId(9))), (2, 0));
    expect_content(store, id(1), 10_000).await;
}

#[tokio::test]
async fn a_start_goes_on_with_the_scrub_where_the_checkpoint_was() {
    let fixture = Fixture::with_segments_of(16 << 10);
    for number in 1..=6 {
        put(&fixture.store, id(number), &[10_000]).await.unwrap();
    }
    let shared = &fixture.store.0.shared;
    let mut first = Scrub::resume(shared);
    while shared.index().scrubbed.segment < 2 {
        assert!(matches!(first.step(shared), Step::Read(_)));
        first.note(shared);
    }
    checkpoint::write(shared).unwrap();
    let root = fixture.crash_copy();
    let mut index = recover(root.path()).index;
    assert_eq!(index.scrubbed.segment, 2);
    // A pass that comes to its end begins anew.
    while first.step(shared) != Step::PassDone {}
    first.note_end(shared);
    index.scrubbed = shared.index().scrubbed;
    assert!(index.scrubbed.segment == 0 && index.scrubbed.ended_ms > 0);
}

#[test]
fn a_pace_rests_for_as_long_as_the_rate_says_and_catches_up_a_little() {
    let now = Instant::now();
    let mut pace = Pace::new(1000, now);
    assert_eq!(pace.after(500, now), Duration::from_millis(500));
    assert_eq!(pace.after(500, now), Duration::from_secs(1));
    let late = now + Duration::from_secs(100);
    assert_eq!(pace.after(1500, late), Duration::from_millis(500), "a debt of a second at most");
}
