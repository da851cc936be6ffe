//! Random operations against a model, with restarts, compaction and crashes in between.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    fileserver::store::{
        checkpoint,
        compaction::{self, Outcome},
    },
    types::{Inode, Version},
};

#[derive(Clone, Debug)]
enum Step {
    /// Begin, append and seal.
    Put {
        blob: u128,
        chunks: Vec<usize>,
    },
    /// Begin and append, and leave it at that.
    Leave {
        blob: u128,
        chunks: Vec<usize>,
    },
    Publish {
        blob: u128,
    },
    Discard {
        blob: u128,
    },
    DiscardOpen {
        blob: u128,
    },
    Delete {
        blobs: Vec<u128>,
    },
    Compact,
    Checkpoint,
    Restart,
    /// Goes on from what a crash leaves: everything that was synced, and any part of what was not.
    Crash {
        kept: prop::sample::Index,
        garbled: Option<prop::sample::Index>,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let blob = 0..12_u128;
    let chunks = prop::collection::vec(1..3000_usize, 1..4);
    prop_oneof![
        6 => (blob.clone(), chunks.clone()).prop_map(|(blob, chunks)| Step::Put { blob, chunks }),
        2 => (blob.clone(), chunks).prop_map(|(blob, chunks)| Step::Leave { blob, chunks }),
        3 => blob.clone().prop_map(|blob| Step::Publish { blob }),
        2 => blob.clone().prop_map(|blob| Step::Discard { blob }),
        2 => blob.clone().prop_map(|blob| Step::DiscardOpen { blob }),
        3 => prop::collection::vec(blob, 1..4).prop_map(|blobs| Step::Delete { blobs }),
        2 => Just(Step::Compact),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Restart),
        1 => (any::<prop::sample::Index>(), any::<Option<prop::sample::Index>>())
            .prop_map(|(kept, garbled)| Step::Crash { kept, garbled }),
    ]
}

/// A sealed blob as it must be: how long, and whether it is published. What is only lazily durable is not certain after
/// a crash.
#[derive(Clone, Debug)]
struct Expected {
    length: usize,
    published: Option<bool>,
}

type Model = BTreeMap<u128, Expected>;

const SEGMENT: u64 = 24 << 10;

async fn play(steps: Vec<Step>) {
    let mut fixture = Fixture::with_segments_of(SEGMENT);
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Put { blob, chunks } => match put(&fixture.store, id(blob), &chunks).await {
                Ok(()) => {
                    let length = chunks.iter().sum();
                    assert!(model.insert(blob, Expected { length, published: Some(false) }).is_none());
                }
                Err(error) => {
                    assert!(matches!(error, StoreError::AlreadySealed(_)), "{error}");
                    assert!(model.contains_key(&blob));
                }
            },
            Step::Leave { blob, chunks } => {
                let left = stage(&fixture.store, id(blob), &chunks).await;
                assert_eq!(left.is_err(), model.contains_key(&blob));
            }
            Step::Publish { blob } => {
                let published = fixture.store.publish(id(blob), Inode(1), Version(1)).await;
                assert_eq!(published.is_ok(), model.contains_key(&blob));
                if let Some(expected) = model.get_mut(&blob) {
                    expected.published = Some(true);
                }
            }
            Step::Discard { blob } => {
                let discarded = fixture.store.discard(id(blob)).await;
                let published = model.get(&blob).and_then(|expected| expected.published) == Some(true);
                assert_eq!(discarded.is_err(), published);
                if !published {
                    model.remove(&blob);
                    // A deletion of nothing waits for the sync that makes the discard certain.
                    fixture.store.delete(vec![]).await.unwrap();
                }
            }
            Step::DiscardOpen { blob } => {
                fixture.store.discard_open(id(blob));
                assert_eq!(fixture.store.blob(id(blob)).is_some(), model.contains_key(&blob));
            }
            Step::Delete { blobs } => {
                fixture.store.delete(blobs.iter().copied().map(id).collect()).await.unwrap();
                model.retain(|blob, _| !blobs.contains(blob));
            }
            Step::Compact => compact(&fixture.store),
            Step::Checkpoint => drop(checkpoint::write(&fixture.store.0.shared).unwrap()),
            Step::Restart => fixture = fixture.reopen().await.0,
            Step::Crash { kept, garbled } => fixture = crash(fixture, kept, garbled, &mut model).await,
        }
        check(&fixture.store, &model).await;
    }
    let now = everything(&fixture.store.0.shared.index());
    let root = fixture.crash_copy();
    // With the checkpoint, if one fits, and without.
    let quick = recover(root.path());
    fs::remove_file(checkpoint::path(&dir(root.path()))).ok();
    let slow = recover(root.path());
    assert_eq!((&quick.recovered.damaged_regions, &slow.recovered.damaged_regions), (&vec![], &vec![]));
    assert_eq!(everything(&slow.index).blobs, now.blobs, "a replay comes to the same index");
    assert_eq!(everything(&quick.index), everything(&slow.index), "a checkpoint comes to the same index");
    fixture.store.close().await;
}

fn compact(store: &Store) {
    let shared = &store.0.shared;
    for _ in 0..100 {
        let chosen =
            compaction::choose(&shared.index(), shared.options.segment_bytes, shared.is_short(), &BTreeSet::new());
        let Some(numbers) = chosen else { return };
        assert_eq!(compaction::run(shared, &numbers).unwrap(), Outcome::Done);
    }
    panic!("compaction never comes to rest");
}

/// The files as they are, but only a part of what was not synced, and perhaps a garbled byte in that.
async fn crash(
    fixture: Fixture,
    kept: prop::sample::Index,
    garbled: Option<prop::sample::Index>,
    model: &mut Model,
) -> Fixture {
    // Answered when written: behind it, all that was asked for is in the file.
    fixture.store.discard(id(u128::MAX)).await.unwrap();
    let synced = fixture.synced().at;
    let root = fixture.crash_copy();
    let last = *fixture.store.0.shared.index().segments.keys().next_back().unwrap();
    let from = if synced.segment == last { synced.position.into() } else { segment::RECORDS_START } as usize;
    tamper(&segment_path(root.path(), last), |bytes| {
        bytes.truncate(from + kept.index(bytes.len() - from + 1));
        if let Some(at) = garbled
            && bytes.len() > from
        {
            let at = from + at.index(bytes.len() - from);
            bytes[at] ^= 0x42;
        }
    });
    for expected in model.values_mut() {
        expected.published = None;
    }
    fixture.store.close().await;
    let disk = Arc::new(TestDisk::default());
    let (store, recovered, _) = Store::open_on(options(root.path(), SEGMENT), disk.clone()).unwrap();
    assert_eq!(recovered.damaged_regions, []);
    assert_eq!(recovered.damaged_chunks, []);
    for (&blob, expected) in model {
        expected.published = store.blob(id(blob)).map(|record| record.published.is_some());
    }
    Fixture { root, disk, store }
}

async fn check(store: &Store, model: &Model) {
    let listed: Vec<_> = store.blobs(GROUP, None, usize::MAX, true).into_iter().map(|record| record.blob).collect();
    assert_eq!(listed, model.keys().copied().map(id).collect::<Vec<_>>());
    for (&blob, expected) in model {
        let record = store.blob(id(blob)).unwrap();
        assert_eq!(record.length, expected.length as u64);
        assert_eq!(Some(record.published.is_some()), expected.published);
        expect_content(store, id(blob), expected.length).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_acknowledged_blobs_stay_and_deleted_ones_do_not_come_back(
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(steps));
    }
}
