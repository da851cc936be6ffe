//! What the Lock service should do, written a second time and as plainly as possible: lists, and a rule applied until it
//! no longer applies. Slow, and without tokens; the property tests hold the real state against it.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{LockMode, Path, SessionId};

type Held = Vec<(SessionId, LockMode)>;

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub open: BTreeSet<SessionId>,
    /// Who holds, by path, in any order.
    pub held: BTreeMap<Path, Held>,
    /// Who waits, by path, in order of arrival.
    pub waiting: BTreeMap<Path, Held>,
    pub fenced: BTreeSet<Path>,
}

impl Model {
    pub fn holds(&self, session: SessionId, path: &Path) -> Option<LockMode> {
        self.held.get(path).and_then(|held| held.iter().find(|(holder, _)| *holder == session)).map(|(_, mode)| *mode)
    }

    pub fn waits(&self, session: SessionId, path: &Path) -> bool {
        self.waiting.get(path).is_some_and(|queue| queue.iter().any(|(waiter, _)| *waiter == session))
    }

    pub fn end(&mut self, session: SessionId, expired: bool) {
        self.open.remove(&session);
        for queue in self.waiting.values_mut() {
            queue.retain(|(waiter, _)| *waiter != session);
        }
        let paths: Vec<Path> = self.held.keys().cloned().collect();
        for path in paths {
            self.take_away(session, &path, expired);
        }
        self.settle();
    }

    pub fn ask(&mut self, session: SessionId, path: &Path, mode: LockMode, queue: bool) {
        let new = self.holds(session, path).is_none() && !self.waits(session, path);
        if !new || !self.open.contains(&session) {
            return;
        }
        self.waiting.entry(path.clone()).or_default().push((session, mode));
        self.settle();
        if !queue {
            self.give_up(session, path);
        }
    }

    pub fn give_up(&mut self, session: SessionId, path: &Path) {
        self.waiting.entry(path.clone()).or_default().retain(|(waiter, _)| *waiter != session);
        self.settle();
    }

    pub fn release(&mut self, session: SessionId, path: &Path) {
        self.take_away(session, path, false);
        self.settle();
    }

    pub fn break_all(&mut self, path: &Path) {
        for (session, _) in self.held.get(path).cloned().unwrap_or_default() {
            self.take_away(session, path, true);
        }
        self.settle();
    }

    pub fn fence_raised(&mut self, path: &Path) {
        self.fenced.remove(path);
        self.settle();
    }

    fn take_away(&mut self, session: SessionId, path: &Path, unaware: bool) {
        if self.holds(session, path) == Some(LockMode::Exclusive) && unaware {
            self.fenced.insert(path.clone());
        }
        self.held.entry(path.clone()).or_default().retain(|(holder, _)| *holder != session);
    }

    /// Whoever stands first moves up, for as long as that is right.
    fn settle(&mut self) {
        for (path, queue) in &mut self.waiting {
            let held = self.held.entry(path.clone()).or_default();
            while let Some(&(session, mode)) = queue.first() {
                let all_shared = mode == LockMode::Shared && held.iter().all(|(_, mode)| *mode == LockMode::Shared);
                if self.fenced.contains(path) || !(held.is_empty() || all_shared) {
                    break;
                }
                held.push((session, mode));
                queue.remove(0);
            }
        }
        self.held.retain(|_, held| !held.is_empty());
        self.waiting.retain(|_, queue| !queue.is_empty());
    }
}
