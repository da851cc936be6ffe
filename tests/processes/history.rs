//! What the clients were told while faults happened, and what must hold of the cluster afterwards.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};

use dfs::types::{Path, Version};

use crate::{payload::Payload, recording::Recording};

/// Everything that was acknowledged. A write that failed is *unknown*, never *absent*: it is not in here.
#[derive(Default)]
pub struct History {
    inner: Mutex<Inner>,
    /// What the checker of histories is given: failures too.
    pub recording: Recording,
}

#[derive(Default)]
struct Inner {
    writes: HashMap<(Path, Version), Payload>,
    lines: BTreeMap<Path, Vec<String>>,
    /// What some client was told to be the newest version, by a receipt or by a look.
    newest: HashMap<Path, Version>,
    reads: u64,
    unknown: u64,
    last_acknowledged: Option<Instant>,
    longest_pause: Duration,
    /// As `longest_pause`, as of [`History::begin_watch`].
    watched_pause: Duration,
    /// By writer.
    progress: HashMap<u64, Progress>,
}

/// How one writer comes along.
struct Progress {
    last: Instant,
    /// Between two acknowledgements, or since the last, as of [`History::begin_watch`].
    longest: Duration,
    count: u64,
}

/// How the writers came along for a while.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// Longest time in which no client's write was acknowledged.
    pub pause: Duration,
    /// The longest that any one writer was not acknowledged: its look-ups and its places in queues are in it.
    pub wait: Duration,
    /// How often the slowest writer was acknowledged, since it was last counted anew.
    pub count_min: u64,
}

/// Pauses beyond this are printed where they end.
const PAUSE_NOTED: Duration = Duration::from_secs(3);

/// Figures of a finished run.
#[derive(Debug)]
pub struct Summary {
    pub acknowledged_writes: usize,
    pub acknowledged_lines: usize,
    pub unknown_writes: u64,
    pub whole_reads: u64,
    /// Longest time in which no client's write was acknowledged.
    pub longest_pause: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "acknowledged writes {}, acknowledged lines {}, writes of unknown fate {}, whole reads {}, longest pause {:?}",
            self.acknowledged_writes,
            self.acknowledged_lines,
            self.unknown_writes,
            self.whole_reads,
            self.longest_pause
        )
    }
}

impl History {
    /// Fails if two writes were told the same version of the same file.
    pub fn acknowledged(&self, path: &Path, version: Version, payload: Payload) {
        let mut inner = self.lock();
        inner.progress(payload.writer);
        if let Some(other) = inner.writes.insert((path.clone(), version), payload) {
            panic!("{path} version {version} was acknowledged to {other:?} and to {payload:?}");
        }
        inner.know(path, version);
    }

    pub fn appended(&self, path: &Path, version: Version, writer: u64, line: String) {
        let mut inner = self.lock();
        inner.progress(writer);
        inner.know(path, version);
        inner.lines.entry(path.clone()).or_default().push(line);
    }

    pub fn unknown(&self) {
        self.lock().unknown += 1;
    }

    /// The newest version that any client knows of by now. No look that begins later may show an older one.
    pub fn newest(&self, path: &Path) -> Option<Version> {
        self.lock().newest.get(path).copied()
    }

    /// A look showed this version; `known` is what [`History::newest`] said before it began.
    pub fn seen(&self, path: &Path, version: Version, known: Option<Version>) {
        assert!(Some(version) >= known, "{path} has version {version}, after {known:?} was known");
        self.lock().know(path, version);
    }

    pub fn read_whole(&self, path: &Path, version: Version, known: Option<Version>) {
        self.seen(path, version, known);
        self.lock().reads += 1;
    }

    /// A look showed nothing at the path.
    pub fn not_found(&self, path: &Path, known: Option<Version>) {
        assert_eq!(known, None, "{path} is gone, after that version was known");
    }

    pub fn writes(&self) -> Vec<(Path, Version, Payload)> {
        self.lock().writes.iter().map(|((path, version), payload)| (path.clone(), *version, *payload)).collect()
    }

    pub fn lines(&self) -> BTreeMap<Path, Vec<String>> {
        self.lock().lines.clone()
    }

    /// From now on it is watched how long each writer waits, and how often it is acknowledged.
    pub fn begin_watch(&self) {
        let mut inner = self.lock();
        inner.watched_pause = Duration::ZERO;
        for progress in inner.progress.values_mut() {
            (progress.longest, progress.count) = (Duration::ZERO, 0);
        }
    }

    /// Each writer is to be acknowledged again; the watch goes on.
    pub fn count_anew(&self) {
        self.lock().progress.values_mut().for_each(|progress| progress.count = 0);
    }

    /// Since the watch began. A wait that had begun before counts from there.
    pub fn watched(&self) -> Watched {
        let inner = self.lock();
        let writers = || inner.progress.values();
        Watched {
            pause: inner.last_acknowledged.map_or(inner.watched_pause, |last| inner.watched_pause.max(last.elapsed())),
            wait: writers().map(|progress| progress.longest.max(progress.last.elapsed())).max().unwrap_or_default(),
            count_min: writers().map(|progress| progress.count).min().unwrap_or_default(),
        }
    }

    pub fn summary(&self) -> Summary {
        let inner = self.lock();
        Summary {
            acknowledged_writes: inner.writes.len(),
            acknowledged_lines: inner.lines.values().map(Vec::len).sum(),
            unknown_writes: inner.unknown,
            whole_reads: inner.reads,
            longest_pause: inner.longest_pause,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no client has panicked")
    }
}

impl Inner {
    fn know(&mut self, path: &Path, version: Version) {
        let newest = self.newest.entry(path.clone()).or_insert(version);
        *newest = version.max(*newest);
    }

    fn progress(&mut self, writer: u64) {
        let now = Instant::now();
        let progress = self.progress.entry(writer).or_insert(Progress { last: now, longest: Duration::ZERO, count: 0 });
        progress.longest = progress.longest.max(now - progress.last);
        progress.last = now;
        progress.count += 1;
        if let Some(last) = self.last_acknowledged {
            let pause = now - last;
            if pause > PAUSE_NOTED {
                println!("writers paused for {pause:?}");
            }
            self.longest_pause = self.longest_pause.max(pause);
            self.watched_pause = self.watched_pause.max(pause);
        }
        self.last_acknowledged = Some(now);
    }
}

#[test]
fn a_look_behind_what_was_known_is_found() {
    let history = History::default();
    let path: Path = "/a".parse().expect("a good path");
    history.not_found(&path, history.newest(&path));
    history.acknowledged(&path, Version(2), Payload::new(0, 0, 0));
    let known = history.newest(&path);
    assert_eq!(known, Some(Version(2)));
    history.seen(&path, Version(3), known);
    assert_eq!(history.newest(&path), Some(Version(3)), "a look counts too");
    history.seen(&path, Version(2), known);
    let fails = |look: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(look)).is_err();
    assert!(fails(&|| history.seen(&path, Version(1), known)));
    assert!(fails(&|| history.not_found(&path, known)));
}
