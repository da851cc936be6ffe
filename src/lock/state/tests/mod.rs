//! The state, command by command, with a store beside it that every restart is taken from.

mod limits;
mod locks;
mod losses;
mod random;

use super::*;
use crate::{token::LOCK_KEY_LENGTH, types::ClusterId};

const KEY: token::LockKey = [3; LOCK_KEY_LENGTH];
const TTL_MS: u64 = 10_000;
const EXCLUSIVE: LockMode = LockMode::Exclusive;
const SHARED: LockMode = LockMode::Shared;
const NOBODY: [u8; 0] = [];

fn a_membership() -> Membership {
    Membership { cluster: ClusterId::from_bytes([1; 16]), key: KEY }
}

fn session(id: u8) -> SessionId {
    SessionId::from_bytes([id; 16])
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

/// A state with a store beside it that is written as the driver writes it, and a clock that ticks with every command.
#[derive(Clone)]
struct Bench {
    state: State,
    store: BTreeMap<Key, Record>,
    /// Highest token seen.
    token: FencingToken,
}

impl Bench {
    /// In a cluster, with these sessions open.
    fn new(sessions: impl IntoIterator<Item = u8>) -> Self {
        let mut bench = Self { state: State::default(), store: BTreeMap::new(), token: FencingToken(0) };
        bench.accepted(Command::Join { membership: a_membership(), newest: FencingToken(0) });
        for id in sessions {
            bench.accepted(Command::OpenSession {
                session: session(id),
                ttl_ms: TTL_MS,
                client: format!("client {id}"),
            });
        }
        bench
    }

    fn apply(&mut self, command: Command) -> Result<Applied, Error> {
        let revision = Revision(self.state.revision().0 + 1);
        let before = self.state.clone();
        let applied = self.state.apply(revision, Timestamp(1000 + revision.0), &command);
        match &applied {
            Err(_) => assert_eq!(self.state, before, "a refused command changes nothing"),
            Ok(applied) => {
                for key in &applied.changed {
                    match self.state.record(key) {
                        Some(record) => self.store.insert(key.clone(), record),
                        None => self.store.remove(key),
                    };
                }
                let granted = applied.effects.iter().filter_map(|effect| match effect {
                    Effect::Granted { grant, .. } => Some(*grant),
                    _ => None,
                });
                let at_once = match applied.outcome {
                    Outcome::Granted { grant, fresh: true } => Some(grant),
                    _ => None,
                };
                for grant in at_once.into_iter().chain(granted) {
                    assert!(grant.token > self.token, "tokens rise with every grant");
                    self.token = grant.token;
                }
            }
        }
        applied
    }

    fn accepted(&mut self, command: Command) -> Applied {
        self.apply(command).unwrap()
    }

    fn refused(&mut self, command: Command) -> Error {
        self.apply(command).unwrap_err()
    }

    fn acquire(&mut self, id: u8, at: &str, mode: LockMode) -> Result<Outcome, Error> {
        self.ask(id, at, mode, IfHeld::Queue)
    }

    fn ask(&mut self, id: u8, at: &str, mode: LockMode, if_held: IfHeld) -> Result<Outcome, Error> {
        self.apply(Command::Acquire { session: session(id), path: path(at), mode, if_held })
            .map(|applied| applied.outcome)
    }

    fn granted(&mut self, id: u8, at: &str, mode: LockMode) -> Grant {
        match self.acquire(id, at, mode) {
            Ok(Outcome::Granted { grant, .. }) => grant,
            other => panic!("not granted: {other:?}"),
        }
    }

    fn queued(&mut self, id: u8, at: &str, mode: LockMode) -> Ticket {
        match self.acquire(id, at, mode) {
            Ok(Outcome::Queued { ticket }) => ticket,
            other => panic!("not queued: {other:?}"),
        }
    }

    fn release(&mut self, id: u8, at: &str) -> Applied {
        self.accepted(Command::Release { session: session(id), path: path(at), token: None })
    }

    fn expire(&mut self, id: u8) -> Applied {
        self.accepted(Command::ExpireSession { session: session(id) })
    }

    fn break_lock(&mut self, at: &str) -> (FencingToken, bool) {
        match self.accepted(Command::Break { path: path(at), token: None }).outcome {
            Outcome::Broken { token, pending } => (token, pending),
            other => panic!("not broken: {other:?}"),
        }
    }

    fn fence(&self, at: &str) -> Option<FencingToken> {
        self.state.view(&path(at)).fence
    }

    fn raise_fence(&mut self, at: &str) -> Applied {
        let token = self.fence(at).expect("a fence is pending");
        self.accepted(Command::FenceRaised { path: path(at), token })
    }

    fn holders(&self, at: &str) -> Vec<u8> {
        self.state.view(&path(at)).holders.iter().map(|holder| holder.session.as_bytes()[0]).collect()
    }

    fn waiters(&self, at: &str) -> Vec<u8> {
        self.state.view(&path(at)).waiters.iter().map(|waiter| waiter.session.as_bytes()[0]).collect()
    }

    fn restart(&mut self) {
        let restored = State::restore(self.store.values().cloned()).unwrap();
        assert_eq!(restored, self.state, "every change was named");
        self.state = restored;
    }
}

fn grants(applied: &Applied) -> Vec<u8> {
    let granted = applied.effects.iter().filter_map(|effect| match effect {
        Effect::Granted { session, .. } => Some(session.as_bytes()[0]),
        _ => None,
    });
    granted.collect()
}
