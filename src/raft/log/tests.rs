//! The log on real files: what is promised is there after a start, what was not may be gone, what is damaged is said.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::PathBuf,
};

use openraft::async_runtime::Oneshot;

use super::*;
use crate::raft::{
    convert::log_id,
    types::{LeaderId, Payload, Proposal},
};

mod power_cut;

type Signal = openraft::type_config::alias::OneshotOf<Types>;

struct Setup {
    folder: tempfile::TempDir,
    log: Log,
}

fn a_log() -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(folder.path()).unwrap();
    Setup { folder, log }
}

fn an_entry(term: u64, index: u64, size: usize) -> Entry {
    Entry { log_id: log_id(term, index), payload: Payload::Normal(Proposal(vec![index as u8; size].into())) }
}

fn a_vote(term: u64) -> Vote {
    use openraft::vote::{RaftLeaderId, RaftVote};
    Vote::from_leader_id(LeaderId::new(term, 7), false)
}

impl Setup {
    /// Durable when this returns.
    async fn append(&mut self, entries: impl IntoIterator<Item = Entry>) {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let (sender, receiver) = Signal::channel();
        self.log.append(entries, IOFlushed::signal(sender)).await.unwrap();
        receiver.await.unwrap().unwrap();
    }

    async fn vote(&mut self, term: u64) {
        self.log.save_vote(&a_vote(term)).await.unwrap();
    }

    /// As after a crash of the process.
    fn restart(self) -> Result<Setup, LogError> {
        let Setup { folder, log } = self;
        drop(log);
        Log::open(folder.path()).map(|log| Setup { folder, log })
    }

    async fn entries(&mut self) -> Vec<Entry> {
        self.log.try_get_log_entries(0..).await.unwrap()
    }

    async fn ids(&mut self) -> Vec<(u64, u64)> {
        self.entries().await.iter().map(|entry| (entry.log_id.leader_id.term, entry.log_id.index)).collect()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut segments: Vec<_> = all.filter(|path| path.extension().is_some_and(|kind| kind == "log")).collect();
        segments.sort();
        segments
    }

    /// Where the records of the last segment end.
    fn end(&self) -> u64 {
        let bytes = fs::read(self.segments().last().unwrap()).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1
    }

    fn overwrite(&self, at: u64, bytes: &[u8]) {
        let mut file = fs::OpenOptions::new().write(true).open(self.segments().last().unwrap()).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
    }
}

#[tokio::test]
async fn entries_and_vote_are_there_after_a_restart() {
    let mut setup = a_log();
    assert!(setup.log.is_new());
    setup.vote(3).await;
    setup.append((0..10).map(|index| an_entry(3, index, 100))).await;
    setup.log.save_committed(Some(log_id(3, 4))).await.unwrap();
    setup.append((10..20).map(|index| an_entry(4, index, 0))).await;
    let before = setup.entries().await;
    let mut setup = setup.restart().unwrap();
    assert!(!setup.log.is_new());
    assert_eq!(setup.entries().await, before);
    assert_eq!(setup.log.read_vote().await.unwrap(), Some(a_vote(3)));
    assert_eq!(setup.log.read_committed().await.unwrap(), Some(log_id(3, 4)));
    assert_eq!(setup.log.get_log_state().await.unwrap().last_log_id, Some(log_id(4, 19)));
    setup.append([an_entry(4, 20, 1)]).await;
    assert_eq!(setup.restart().unwrap().ids().await.last(), Some(&(4, 20)));
}

#[tokio::test]
async fn a_log_of_many_segments_is_read_from_memory_and_from_disk() {
    let mut setup = a_log();
    setup.vote(1).await;
    for index in 0..60 {
        setup.append([an_entry(1, index, 1 << 20)]).await;
    }
    assert!(setup.segments().len() >= 4);
    for _ in 0..2 {
        let entries = setup.entries().await;
        assert_eq!(entries, (0..60).map(|index| an_entry(1, index, 1 << 20)).collect::<Vec<_>>());
        let some = setup.log.limited_get_log_entries(7, 50).await.unwrap();
        assert_eq!((some[0].log_id.index, some.len()), (7, 3), "a message's worth");
        setup = setup.restart().unwrap();
    }
}

#[tokio::test]
async fn what_was_truncated_stays_away_and_others_take_its_place() {
    for keep in [0_u64, 1, 17, 18, 39] {
        let mut setup = a_log();
        setup.vote(2).await;
        setup.append((0..40).map(|index| an_entry(1, index, 900 << 10))).await;
        let last = keep.checked_sub(1).map(|index| log_id(1, index));
        setup.log.truncate_after(last).await.unwrap();
        let kept: Vec<_> = (0..keep).map(|index| (1, index)).collect();
        assert_eq!(setup.ids().await, kept);
        let mut setup = setup.restart().unwrap();
        assert_eq!(setup.ids().await, kept);
        setup.append([an_entry(2, keep, 10)]).await;
        let mut setup = setup.restart().unwrap();
        assert_eq!(setup.ids().await, [kept, vec![(2, keep)]].concat());
    }
}

#[tokio::test]
async fn what_was_purged_gives_its_disk_back_and_the_rest_is_there() {
    let mut setup = a_log();
    setup.vote(1).await;
    setup.append((0..60).map(|index| an_entry(1, index, 1 << 20))).await;
    let before = setup.segments().len();
    setup.log.purge(log_id(1, 40)).await.unwrap();
    assert!(setup.segments().len() < before);
    assert_eq!(setup.log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(1, 40)));
    assert_eq!(setup.ids().await, (41..60).map(|index| (1, index)).collect::<Vec<_>>());
    let mut setup = setup.restart().unwrap();
    let ids = setup.ids().await;
    assert!(ids.contains(&(1, 41)) && ids.last() == Some(&(1, 59)), "{ids:?}");
}

#[tokio::test]
async fn a_snapshot_from_far_ahead_leaves_no_entries_and_the_log_goes_on_behind_it() {
    let mut setup = a_log();
    setup.vote(5).await;
    setup.append((0..10).map(|index| an_entry(1, index, 10))).await;
    setup.log.purge(log_id(4, 1000)).await.unwrap();
    let mut setup = setup.restart().unwrap();
    let state = setup.log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(4, 1000)), Some(log_id(4, 1000))));
    setup.append([an_entry(5, 1001, 10)]).await;
    assert_eq!(setup.restart().unwrap().ids().await, [(5, 1001)]);
}

#[tokio::test]
async fn a_purge_that_was_cut_off_is_finished_by_the_next_start() {
    let mut setup = a_log();
    setup.vote(5).await;
    setup.append((0..10).map(|index| an_entry(1, index, 10))).await;
    let old = setup.segments().pop().unwrap();
    let bytes = fs::read(&old).unwrap();
    setup.log.purge(log_id(4, 1000)).await.unwrap();
    fs::write(&old, bytes).unwrap();
    let mut setup = setup.restart().unwrap();
    assert_eq!(setup.log.get_log_state().await.unwrap().last_log_id, Some(log_id(4, 1000)));
    assert_eq!(setup.segments().len(), 1);
}

#[tokio::test]
async fn a_torn_end_is_cut_off_and_what_was_acknowledged_stays() {
    let mut setup = a_log();
    setup.vote(1).await;
    setup.append((0..5).map(|index| an_entry(1, index, 100))).await;
    let acknowledged = setup.end();
    setup.append((5..8).map(|index| an_entry(1, index, 100))).await;
    let whole = fs::read(setup.segments().last().unwrap()).unwrap();
    let end = setup.end();
    let mut setup = setup;
    // The last write, never synced, is there in part; also with a hole in it.
    for (from, to) in [(acknowledged + 50, end), (acknowledged, acknowledged + 30), (end - 1, end)] {
        setup.overwrite(0, &whole);
        setup.overwrite(from, &vec![0; (to - from) as usize]);
        setup = setup.restart().unwrap();
        let ids = setup.ids().await;
        assert!(ids.len() >= 5 && ids.len() < 8, "{ids:?}");
        let count = ids.len() as u64;
        setup.append([an_entry(2, count, 5)]).await;
        setup = setup.restart().unwrap();
        assert_eq!(setup.ids().await.last(), Some(&(2, count)));
    }
}

#[tokio::test]
async fn damage_in_what_was_acknowledged_makes_the_node_refuse() {
    let mut setup = a_log();
    setup.vote(1).await;
    setup.append((0..5).map(|index| an_entry(1, index, 100))).await;
    let acknowledged = setup.end();
    setup.log.save_committed(Some(log_id(1, 4))).await.unwrap();
    setup.append([an_entry(1, 5, 1)]).await;
    let whole = fs::read(setup.segments().last().unwrap()).unwrap();
    let mut setup = setup;
    for at in (record::RECORDS_START as u64..acknowledged).step_by(7) {
        setup.overwrite(at, &[!whole[at as usize]]);
        let Setup { folder, log } = setup;
        drop(log);
        let error = Log::open(folder.path()).err();
        assert!(matches!(error, Some(LogError::Damaged { .. })), "byte {at}: {error:?}");
        fs::write(folder.path().join("00000000000000000000.log"), &whole).unwrap();
        let log = Log::open(folder.path()).unwrap();
        setup = Setup { folder, log };
    }
}

#[tokio::test]
async fn a_vote_or_a_segment_that_is_gone_or_damaged_makes_the_node_refuse() {
    let mut setup = a_log();
    setup.vote(1).await;
    setup.append((0..40).map(|index| an_entry(1, index, 1 << 20))).await;
    let Setup { folder, log } = setup;
    drop(log);
    let refuses = || assert!(matches!(Log::open(folder.path()), Err(LogError::Damaged { .. })));
    let vote = folder.path().join("VOTE");
    let bytes = fs::read(&vote).unwrap();
    fs::write(&vote, &bytes[..bytes.len() - 1]).unwrap();
    refuses();
    fs::remove_file(&vote).unwrap();
    refuses();
    fs::write(&vote, &bytes).unwrap();
    assert!(Log::open(folder.path()).is_ok());
    let mut segments: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|kind| kind == "log"));
    segments.sort();
    let middle = fs::read(&segments[1]).unwrap();
    fs::remove_file(&segments[1]).unwrap();
    refuses();
    fs::write(&segments[1], &middle[..100]).unwrap();
    refuses();
    segments.iter().for_each(|path| fs::remove_file(path).unwrap());
    refuses();
}

#[tokio::test]
async fn after_a_write_that_failed_nothing_more_is_promised() {
    let folder = tempfile::tempdir().unwrap();
    let recovery::Recovered { index, mut segments } = recovery::recover(folder.path()).unwrap();
    // A disk that takes no writes.
    segments[0].file = Arc::new(fs::File::open(&segments[0].path).unwrap());
    let index = Arc::new(Mutex::new(index));
    let (tasks, queue) = mpsc::channel(TASKS_MAX);
    let writer = Writer::new(folder.path().to_owned(), index.clone(), queue, segments);
    thread::spawn(move || writer.run());
    let mut log = Log { index, tasks, fsync: Default::default() };
    for index in 0..2 {
        let (sender, receiver) = Signal::channel();
        log.append([an_entry(1, index, 10)], IOFlushed::signal(sender)).await.unwrap();
        assert!(receiver.await.unwrap().is_err());
    }
    assert!(log.save_vote(&a_vote(2)).await.is_err());
    assert_eq!(log.read_vote().await.unwrap(), None);
    drop(log);
    assert!(Log::open(folder.path()).unwrap().is_new());
}
