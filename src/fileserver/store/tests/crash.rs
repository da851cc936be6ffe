//! What a crash may leave behind, byte by byte.

use super::*;
use crate::fileserver::store::{index::Index, record::HEADER_LENGTH};

/// Two acknowledged batches (blobs 1 and 2), and one that was written and never acknowledged (blob 3, half of blob 4).
async fn three_batches() -> (tempfile::TempDir, usize, usize) {
    let fixture = Fixture::with_segments_of(8 << 10);
    put(&fixture.store, id(1), &[100, 50]).await.unwrap();
    put(&fixture.store, id(2), &[30]).await.unwrap();
    let synced = fixture.synced().at.position as usize;
    fixture.disk.sync_fails.store(true, Ordering::SeqCst);
    stage(&fixture.store, id(4), &[20]).await.unwrap();
    put(&fixture.store, id(3), &[40, 40]).await.unwrap_err();
    let end = fixture.store.0.shared.index().segments[&1].end as usize;
    (fixture.crash_copy(), synced, end)
}

fn expect_acknowledged(index: &Index) {
    for blob in [id(1), id(2)] {
        assert!(index.sealed(blob).is_some() && !index.is_damaged(blob), "{blob} is whole");
    }
}

#[tokio::test]
async fn a_batch_that_was_not_acknowledged_may_be_cut_at_any_byte() {
    let (root, synced, end) = three_batches().await;
    let path = segment_path(root.path(), 1);
    let good = fs::read(&path).unwrap();
    for cut in synced..end {
        // With zeros behind, as preallocation leaves them, and without.
        for length in [cut, good.len()] {
            tamper(&path, |bytes| {
                bytes.clone_from(&good);
                bytes[cut..].fill(0);
                bytes.truncate(length);
            });
            let found = recover(root.path());
            expect_acknowledged(&found.index);
            assert_eq!(found.recovered.damaged_regions, [], "cut at {cut}");
            assert_eq!(found.recovered.damaged_chunks, [], "cut at {cut}");
            let last = found.index.sealed(id(3));
            assert!(last.is_none() || cut + HEADER_LENGTH > end, "a seal that is not whole counts, cut at {cut}");
            assert!(found.index.sealed(id(4)).is_none() && found.index.open.is_empty());
        }
    }
}

#[tokio::test]
async fn a_batch_that_was_not_acknowledged_may_have_a_hole_at_any_byte() {
    let (root, synced, end) = three_batches().await;
    let path = segment_path(root.path(), 1);
    let good = fs::read(&path).unwrap();
    for hole in synced..end {
        tamper(&path, |bytes| {
            bytes.clone_from(&good);
            bytes[hole] ^= 0x55;
        });
        let found = recover(root.path());
        expect_acknowledged(&found.index);
        assert_eq!(found.recovered.damaged_regions, [], "hole at {hole}");
        assert_eq!(found.recovered.damaged_chunks, [], "hole at {hole}");
        // Not every byte is covered by a checksum: padding is not.
        let whole = found.index.sealed(id(3)).is_some();
        assert_eq!(whole, found.recovered.torn_bytes_cut == 0, "hole at {hole}");
        let again = recover(root.path());
        assert_eq!(again.recovered.torn_bytes_cut, 0, "what was cut is gone");
        assert_eq!(again.index.sealed(id(3)).is_some(), whole);
    }
}

#[tokio::test]
async fn damage_before_the_last_sync_is_reported_and_never_cut() {
    let (root, synced, _) = three_batches().await;
    let path = segment_path(root.path(), 1);
    let good = fs::read(&path).unwrap();
    for hole in segment::RECORDS_START as usize..synced {
        tamper(&path, |bytes| {
            bytes.clone_from(&good);
            bytes[hole] ^= 0x55;
        });
        let found = recover(root.path());
        let recovered = &found.recovered;
        assert_eq!(recovered.torn_bytes_cut, 0, "damage at {hole}");
        assert!(found.index.sealed(id(3)).is_some(), "what comes after is there, damage at {hole}");
        let reported = !recovered.damaged_regions.is_empty() || !recovered.damaged_chunks.is_empty();
        let whole =
            [id(1), id(2)].iter().all(|&blob| found.index.sealed(blob).is_some() && !found.index.is_damaged(blob));
        assert!(whole || reported, "damage at {hole}");
    }
}
