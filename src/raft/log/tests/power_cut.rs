//! The log as a power cut may leave it: what was synced, and any part of what was not.

use std::path::Path;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    durable,
    raft::log::recovery::{LogError, recover},
};

/// The last segment up to its end, and the entries that were acknowledged then.
struct Moment {
    bytes: Vec<u8>,
    ids: Vec<(u64, u64)>,
}

impl Setup {
    async fn moment(&mut self) -> Moment {
        let mut bytes = fs::read(self.segments().last().unwrap()).unwrap();
        let mut end = record::RECORDS_START;
        while let Some(record) = record::decode(&bytes[end..]) {
            end += record.length;
        }
        bytes.truncate(end);
        Moment { bytes, ids: self.ids().await }
    }
}

/// A log after each of a series of appends, with hints between them.
async fn recorded(random: &mut StdRng) -> (tempfile::TempDir, Vec<Moment>) {
    let mut setup = a_log();
    setup.vote(1).await;
    setup.append([an_entry(1, 0, 10)]).await;
    let mut moments = vec![setup.moment().await];
    let mut next = 1;
    for round in 0..10 {
        let count = random.random_range(1..4);
        let entries: Vec<Entry> =
            (next..next + count).map(|index| an_entry(1, index, random.random_range(0..200))).collect();
        setup.append(entries).await;
        next += count;
        moments.push(setup.moment().await);
        // Not behind the last: the writer of a log that is closed may still be at it.
        if round % 3 == 0 && round < 9 {
            setup.log.save_committed(Some(log_id(1, next - 1))).await.unwrap();
        }
    }
    (setup.folder, moments)
}

/// The ids that a start finds.
fn found(folder: &Path, bytes: &[u8]) -> Result<Vec<(u64, u64)>, LogError> {
    let path = folder.join("00000000000000000000.log");
    fs::write(path, bytes).unwrap();
    let recovered = recover(folder)?;
    let next = recovered.index.next();
    let ids = (0..next).map(|index| recovered.index.id_at(index).unwrap());
    Ok(ids.map(|id| (id.leader_id.term, id.index)).collect())
}

/// What may be left of bytes of which those from `synced` on were not synced.
fn remains(whole: &[u8], synced: usize, random: &mut StdRng) -> Vec<Vec<u8>> {
    let with_zeros = |mut bytes: Vec<u8>| {
        bytes.resize(whole.len() + 100, 0);
        bytes
    };
    let mut remains = Vec::new();
    for cut in (synced..whole.len()).step_by(3).chain([whole.len() - 1, whole.len()]) {
        remains.push(with_zeros(whole[..cut].to_vec()));
        if cut % 5 == 0 {
            let garbage = (cut..whole.len()).map(|_| random.random::<u8>());
            remains.push(with_zeros(whole[..cut].iter().copied().chain(garbage).collect()));
        }
    }
    for block in [8, 64, 512] {
        for _ in 0..4 {
            let mut some = whole.to_vec();
            let first = synced / block * block;
            for start in (first..whole.len()).step_by(block).filter(|_| random.random_bool(0.5)) {
                some[start.max(synced)..(start + block).min(whole.len())].fill(0);
            }
            remains.push(with_zeros(some));
        }
    }
    remains
}

#[tokio::test]
async fn wherever_the_power_fails_the_entries_that_were_acknowledged_are_there() {
    for seed in [1, 2] {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (folder, moments) = recorded(&mut random).await;
        let mut count = 0;
        for (before, after) in moments.iter().zip(moments.iter().skip(1)) {
            for (number, bytes) in remains(&after.bytes, before.bytes.len(), &mut random).into_iter().enumerate() {
                let what = format!("seed {seed}, after entry {:?}, remains {number}", before.ids.last());
                let ids = found(folder.path(), &bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(ids.starts_with(&before.ids) && after.ids.starts_with(&ids), "{what}: {ids:?}");
                count += 1;
            }
        }
        println!("{count} states of the disk");
        assert!(count > 500);
    }
}

#[tokio::test]
async fn a_flipped_bit_of_what_a_later_write_vouches_for_is_never_passed_over() {
    let seed = 5;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (folder, moments) = recorded(&mut random).await;
    let last = moments.last().unwrap();
    let vouched = moments[moments.len() - 2].bytes.len();
    for at in (record::RECORDS_START..vouched).step_by(3) {
        let mut bytes = last.bytes.clone();
        bytes[at] ^= 1 << random.random_range(0..8);
        let found = found(folder.path(), &bytes);
        assert!(matches!(found, Err(LogError::Damaged { .. })), "byte {at}: {found:?}");
    }
    assert_eq!(found(folder.path(), &last.bytes).unwrap(), last.ids, "without damage it is all there");
}

#[tokio::test]
async fn what_was_not_finished_has_no_part_in_a_start() {
    let mut setup = a_log();
    setup.vote(7).await;
    setup.append((0..5).map(|index| an_entry(1, index, 100))).await;
    let ids = setup.ids().await;
    let vote = fs::read(setup.folder.path().join("VOTE")).unwrap();
    for unfinished in [&[][..], &[0; 30], &vote[..vote.len() - 1], &vote] {
        for name in ["VOTE.new", "00000000000000000005.new"] {
            fs::write(setup.folder.path().join(name), unfinished).unwrap();
            setup = setup.restart().unwrap();
            assert_eq!(setup.log.read_vote().await.unwrap(), Some(a_vote(7)));
            assert_eq!(setup.ids().await, ids);
        }
    }
    assert!(!setup.folder.path().join("00000000000000000005.new").exists());
}

/// What a newer version wrote was on stable storage like any other record: it is neither a torn end nor damage, for which a node
/// would give up its place.
#[tokio::test]
async fn a_whole_record_of_an_unknown_kind_is_left_to_the_newer_version() {
    let mut setup = a_log();
    setup.vote(1).await;
    setup.append([an_entry(1, 0, 10)]).await;
    let Moment { bytes, .. } = setup.moment().await;
    let unknown_since = |synced| {
        let mut unknown = bytes[record::RECORDS_START..].to_vec();
        // Its kind.
        unknown[2] = 77;
        record::stamp(&mut unknown, synced);
        unknown
    };
    let whole = [&bytes[..], &unknown_since(0), &[0; 50]].concat();
    let too_new = found(setup.folder.path(), &whole);
    assert!(matches!(too_new, Err(LogError::TooNew { .. })), "{too_new:?}");

    let mut rotten = [&bytes[..], &unknown_since(bytes.len() as u32), &[0; 50]].concat();
    rotten[bytes.len() - 1] ^= 1;
    let damaged = found(setup.folder.path(), &rotten);
    assert!(matches!(damaged, Err(LogError::Damaged { .. })), "it vouches for those before it: {damaged:?}");
}

/// A process that was killed may have left what it wrote in the page cache, and names that are not durable: a start that goes on
/// from them promises them to others.
#[tokio::test]
async fn a_start_syncs_what_it_goes_on_from() {
    let mut setup = a_log();
    setup.vote(1).await;
    setup.append((0..3).map(|index| an_entry(1, index, 10))).await;
    let Setup { folder, log } = setup;
    drop(log);
    durable::watched::take();
    recover(folder.path()).unwrap();
    let synced = durable::watched::take();
    let segment = folder.path().join("00000000000000000000.log");
    assert!(synced.contains(&segment), "the segment: {synced:?}");
    assert!(synced.contains(&folder.path().to_owned()), "the names: {synced:?}");
}
