//! What every caller relies on.

use std::{
    task::{Context, Waker},
    time::Duration,
};

use super::*;
use crate::types::{Inode, Version};

#[tokio::test]
async fn a_sealed_blob_reads_back_at_every_offset_also_after_a_restart() {
    let fixture = Fixture::new();
    let chunks = [1, 4096, 77, 100_000, 1];
    put(&fixture.store, id(1), &chunks).await.unwrap();
    let total: usize = chunks.iter().sum();
    expect_content(&fixture.store, id(1), total).await;

    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!((recovered.torn_bytes_cut, recovered.unsealed_dropped), (0, 0));
    expect_content(&fixture.store, id(1), total).await;
    let mut begin = 0;
    for length in chunks {
        for offset in [begin, begin + length / 2, begin + length - 1] {
            assert_eq!(fixture.store.read_chunk(id(1), offset as u64).await.unwrap().offset, begin as u64);
        }
        begin += length;
    }
    let error = fixture.store.read_chunk(id(1), total as u64).await.unwrap_err();
    assert!(matches!(error, StoreError::OffsetOutOfRange { .. }), "{error}");
}

#[tokio::test]
async fn what_does_not_fit_together_is_refused() {
    let Fixture { store, .. } = &Fixture::new();
    let (data, sum) = (Bytes::from_static(b"data"), crc32c(b"data"));
    let append = |blob, offset| store.append(blob, offset, data.clone(), sum);
    assert!(matches!(append(id(1), 0).await, Err(StoreError::NoSuchBlob(_))));
    store.begin(GROUP, write_id(id(1)), id(1)).unwrap();
    assert!(matches!(append(id(1), 4).await, Err(StoreError::OutOfOrder { expected: 0, offset: 4, .. })));
    let wrong = store.append(id(1), 0, data.clone(), sum ^ 1).await;
    assert!(matches!(wrong, Err(StoreError::ChecksumMismatch { .. })));
    for length in [0, (1 << 20) + 1] {
        let bytes = Bytes::from(vec![0; length]);
        let sum = crc32c(&bytes);
        assert!(matches!(store.append(id(1), 0, bytes, sum).await, Err(StoreError::BadChunkLength(_))));
    }
    assert!(matches!(store.seal(id(1), 0, 0).await, Err(StoreError::BadChunkLength(0))));
    append(id(1), 0).await.unwrap();
    assert!(matches!(append(id(1), 0).await, Err(StoreError::OutOfOrder { expected: 4, .. })));
    assert!(matches!(store.seal(id(1), 5, sum).await, Err(StoreError::LengthMismatch { accepted: 4, .. })));
    assert!(matches!(store.seal(id(1), 4, sum ^ 1).await, Err(StoreError::ChecksumMismatch { .. })));
    store.seal(id(1), 4, sum).await.unwrap();
    store.seal(id(1), 4, sum).await.unwrap();
    assert!(matches!(store.seal(id(1), 4, sum ^ 1).await, Err(StoreError::ChecksumMismatch { .. })));
    assert!(matches!(append(id(1), 4).await, Err(StoreError::AlreadySealed(_))));
    assert!(matches!(store.begin(GROUP, write_id(id(1)), id(1)), Err(StoreError::AlreadySealed(_))));
    let publish = store.publish(id(2), Inode(5), Version(1)).await;
    assert!(matches!(publish, Err(StoreError::NoSuchBlob(_))));
}

#[tokio::test]
async fn a_blob_begun_again_starts_afresh() {
    let fixture = Fixture::new();
    stage(&fixture.store, id(1), &[500, 500, 500]).await.unwrap();
    put(&fixture.store, id(1), &[700, 1]).await.unwrap();
    let record = fixture.store.blob(id(1)).unwrap();
    assert_eq!((record.length, record.chunk_count, record.sealed), (701, 2, true));
    let (fixture, _) = fixture.reopen().await;
    assert_eq!(fixture.store.blob(id(1)).unwrap(), record);
    expect_content(&fixture.store, id(1), 701).await;
}

#[tokio::test]
async fn an_unsealed_blob_does_not_outlive_a_restart_and_a_staged_one_does() {
    let fixture = Fixture::new();
    put(&fixture.store, id(1), &[10]).await.unwrap();
    stage(&fixture.store, id(2), &[10]).await.unwrap();
    assert_eq!(fixture.store.unpublished(Duration::ZERO).len(), 2);
    assert!(fixture.store.unpublished(Duration::from_secs(3600)).is_empty());
    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!(recovered.unsealed_dropped, 1);
    assert_eq!(fixture.store.blob(id(2)), None);
    let staged = fixture.store.unpublished(Duration::ZERO);
    assert_eq!(staged.iter().map(|it| (it.blob, it.write_id)).collect::<Vec<_>>(), [(id(1), write_id(id(1)))]);
    assert_eq!(fixture.store.status().staged_count, 1);
}

#[tokio::test]
async fn a_publication_is_kept_and_protects_from_discarding_but_not_from_deleting() {
    let fixture = Fixture::new();
    put(&fixture.store, id(1), &[10]).await.unwrap();
    put(&fixture.store, id(2), &[10]).await.unwrap();
    fixture.store.publish(id(1), Inode(7), Version(3)).await.unwrap();
    fixture.store.discard(id(2)).await.unwrap();
    let (fixture, _) = fixture.reopen().await;
    assert_eq!(fixture.store.blob(id(1)).unwrap().published, Some((Inode(7), Version(3))));
    assert_eq!(fixture.store.blob(id(2)), None);
    assert!(fixture.store.unpublished(Duration::ZERO).is_empty());
    assert!(matches!(fixture.store.discard(id(1)).await, Err(StoreError::Published(_))));
    fixture.store.delete(vec![id(1), id(9)]).await.unwrap();
    assert!(matches!(fixture.store.read_chunk(id(1), 0).await, Err(StoreError::NoSuchBlob(_))));
    let (fixture, _) = fixture.reopen().await;
    assert_eq!(fixture.store.status().blob_count, 0);
}

#[tokio::test]
async fn a_groups_blobs_are_listed_in_order_and_in_pages() {
    let Fixture { store, .. } = &Fixture::new();
    for number in [5, 1, 4, 2] {
        put(store, id(number), &[10]).await.unwrap();
    }
    stage(store, id(3), &[10]).await.unwrap();
    let page = |after, limit, sealed| -> Vec<_> {
        store.blobs(GROUP, after, limit, sealed).into_iter().map(|record| record.blob).collect()
    };
    assert_eq!(page(None, 3, false), [id(1), id(2), id(3)]);
    assert_eq!(page(Some(id(3)), 3, false), [id(4), id(5)]);
    assert_eq!(page(Some(id(1)), 9, true), [id(2), id(4), id(5)]);
    assert!(page(Some(BlobId::from_bytes([0xff; 16])), 9, false).is_empty());
    assert!(store.blobs(GroupId(4), None, 9, false).is_empty());
}

#[tokio::test]
async fn the_log_goes_on_over_many_segments() {
    let fixture = Fixture::with_segments_of(64 << 10);
    for number in 0..40 {
        put(&fixture.store, id(number), &[5000, 5000]).await.unwrap();
    }
    assert!(fixture.store.status().segment_count >= 6);
    let (fixture, recovered) = fixture.reopen().await;
    assert_eq!(recovered.damaged_regions, []);
    for number in 0..40 {
        expect_content(&fixture.store, id(number), 10_000).await;
    }
}

#[tokio::test]
async fn many_seals_share_few_syncs() {
    let fixture = Fixture::new();
    let before = fixture.disk.syncs.load(Ordering::SeqCst);
    let store = fixture.store.clone();
    let seals = (0..64).map(|number| {
        let store = store.clone();
        async move { put(&store, id(number), &[2000]).await.unwrap() }
    });
    let mut seals = std::pin::pin!(futures::future::join_all(seals));
    {
        let _slow = fixture.disk.syncing.lock().unwrap();
        // Asks for all 64; none can be answered while the sync of the first takes its time.
        let mut nobody = Context::from_waker(Waker::noop());
        assert!(seals.as_mut().poll(&mut nobody).is_pending());
    }
    seals.await;
    let syncs = fixture.disk.syncs.load(Ordering::SeqCst) - before;
    assert!(syncs <= 3, "{syncs} syncs for 64 seals");
    let (fixture, _) = fixture.reopen().await;
    assert_eq!(fixture.store.status().blob_count, 64);
}

#[tokio::test]
async fn a_publication_in_the_same_batch_protects_from_discarding() {
    let Fixture { store, disk, .. } = &Fixture::new();
    put(store, id(1), &[10]).await.unwrap();
    let mut busy = std::pin::pin!(put(store, id(2), &[10]));
    let mut publish = std::pin::pin!(store.publish(id(1), Inode(7), Version(3)));
    let mut discard = std::pin::pin!(store.discard(id(1)));
    {
        let _slow = disk.syncing.lock().unwrap();
        let mut nobody = Context::from_waker(Waker::noop());
        let before = disk.syncs.load(Ordering::SeqCst);
        assert!(busy.as_mut().poll(&mut nobody).is_pending());
        while disk.syncs.load(Ordering::SeqCst) == before {
            std::thread::yield_now();
        }
        // The writer waits for the disk: these two will be taken together.
        assert!(publish.as_mut().poll(&mut nobody).is_pending());
        assert!(discard.as_mut().poll(&mut nobody).is_pending());
    }
    busy.await.unwrap();
    publish.await.unwrap();
    assert!(matches!(discard.await, Err(StoreError::Published(_))));
    expect_content(store, id(1), 10).await;
}

#[tokio::test]
async fn what_is_not_being_sealed_can_be_dropped_and_begun_anew() {
    let fixture = Fixture::new();
    let (length, checksum) = stage(&fixture.store, id(1), &[500, 500]).await.unwrap();
    fixture.store.discard_open(id(1));
    fixture.store.discard_open(id(1));
    assert_eq!(fixture.store.blob(id(1)), None);
    assert!(matches!(fixture.store.seal(id(1), length, checksum).await, Err(StoreError::NoSuchBlob(_))));
    put(&fixture.store, id(1), &[700]).await.unwrap();
    fixture.store.discard_open(id(1));
    let (fixture, _) = fixture.reopen().await;
    expect_content(&fixture.store, id(1), 700).await;
}

#[tokio::test]
async fn a_blob_whose_seal_is_on_its_way_to_the_disk_is_not_dropped() {
    let fixture = Fixture::new();
    let store = fixture.store.clone();
    let (length, checksum) = stage(&store, id(1), &[500]).await.unwrap();
    let mut seal = std::pin::pin!(store.seal(id(1), length, checksum));
    {
        let _slow = fixture.disk.syncing.lock().unwrap();
        let mut nobody = Context::from_waker(Waker::noop());
        let before = fixture.disk.syncs.load(Ordering::SeqCst);
        assert!(seal.as_mut().poll(&mut nobody).is_pending());
        while fixture.disk.syncs.load(Ordering::SeqCst) == before {
            std::thread::yield_now();
        }
        // As far as anyone can see it is unfinished; the next moment it will be acknowledged.
        assert!(!store.blob(id(1)).unwrap().sealed);
        store.discard_open(id(1));
    }
    seal.await.unwrap();
    expect_content(&store, id(1), 500).await;
    let (fixture, _) = fixture.reopen().await;
    expect_content(&fixture.store, id(1), 500).await;
}
