use proptest::prelude::*;

use super::{model::Model, *};
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
        bench.accepted(Command::Join { membership: a_membership() });
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

#[test]
fn before_it_belongs_to_a_cluster_it_refuses_everything() {
    let mut state = State::default();
    let open = Command::OpenSession { session: session(1), ttl_ms: TTL_MS, client: String::new() };
    assert_eq!(state.apply(Revision(1), Timestamp(0), &open), Err(Error::NotJoined));
    let mut bench = Bench::new([]);
    let other = Membership { cluster: ClusterId::from_bytes([2; 16]), ..a_membership() };
    assert_eq!(bench.refused(Command::Join { membership: other }), Error::OtherCluster);
    assert_eq!(bench.accepted(Command::Join { membership: a_membership() }).changed, []);
}

#[test]
fn a_released_lock_passes_to_whoever_came_first() {
    let mut bench = Bench::new(1..=3);
    let first = bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(3, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    assert_eq!(bench.waiters("/f"), [3, 2]);
    assert_eq!(grants(&bench.release(1, "/f")), [3]);
    assert_eq!((bench.holders("/f"), bench.waiters("/f")), (vec![3], vec![2]));
    assert!(bench.granted(3, "/f", EXCLUSIVE).token > first.token);
    assert_eq!(grants(&bench.release(3, "/f")), [2]);
    assert_eq!(grants(&bench.release(2, "/f")), NOBODY);
    assert_eq!(bench.state.locks, BTreeMap::new(), "nothing is kept of a lock that nobody has");
    assert_eq!(bench.state.lock_count, 0);
}

#[test]
fn who_asks_again_gets_the_same_grant_or_keeps_the_place() {
    let mut bench = Bench::new(1..=3);
    let grant = bench.granted(1, "/f", EXCLUSIVE);
    assert_eq!(bench.acquire(1, "/f", EXCLUSIVE), Ok(Outcome::Granted { grant, fresh: false }));
    assert_eq!(bench.acquire(1, "/f", SHARED), Ok(Outcome::Granted { grant, fresh: false }), "exclusive is more");
    let ticket = bench.queued(2, "/f", EXCLUSIVE);
    bench.queued(3, "/f", EXCLUSIVE);
    assert_eq!(bench.queued(2, "/f", EXCLUSIVE), ticket);
    assert_eq!(bench.waiters("/f"), [2, 3]);
}

#[test]
fn a_shared_lock_is_not_made_exclusive_in_place() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", SHARED);
    bench.granted(2, "/f", SHARED);
    assert_eq!(bench.acquire(1, "/f", EXCLUSIVE), Err(Error::OtherMode { path: path("/f"), has: SHARED }));
}

#[test]
fn a_waiting_exclusive_is_not_overtaken_by_later_shared() {
    let mut bench = Bench::new(1..=5);
    bench.granted(1, "/f", SHARED);
    bench.granted(2, "/f", SHARED);
    bench.queued(3, "/f", EXCLUSIVE);
    bench.queued(4, "/f", SHARED);
    assert_eq!(grants(&bench.release(1, "/f")), NOBODY);
    assert_eq!(grants(&bench.release(2, "/f")), [3]);
    bench.queued(5, "/f", SHARED);
    assert_eq!(grants(&bench.release(3, "/f")), [4, 5], "shared that stand together go together");
}

#[test]
fn when_an_exclusive_gives_up_the_shared_behind_it_go_on() {
    let mut bench = Bench::new(1..=3);
    bench.granted(1, "/f", SHARED);
    let ticket = bench.queued(2, "/f", EXCLUSIVE);
    bench.queued(3, "/f", SHARED);
    let applied = bench.accepted(Command::GiveUp { session: session(2), path: path("/f"), ticket });
    let told = Error::Held { path: path("/f"), holder: "client 1".into(), position: 1 };
    assert_eq!(applied.outcome, Outcome::GaveUp(told));
    assert_eq!(grants(&applied), [3]);
}

#[test]
fn a_try_says_who_holds_and_leaves_no_trace() {
    let mut bench = Bench::new(1..=3);
    bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    let told = |position| Err(Error::Held { path: path("/f"), holder: "client 1".into(), position });
    assert_eq!(bench.ask(3, "/f", EXCLUSIVE, IfHeld::Refuse), told(2));
    assert_eq!(bench.ask(2, "/f", EXCLUSIVE, IfHeld::Refuse), told(1));
    assert_eq!(bench.waiters("/f"), [2]);
    assert!(matches!(bench.ask(3, "/free", EXCLUSIVE, IfHeld::Refuse), Ok(Outcome::Granted { fresh: true, .. })));
}

#[test]
fn only_the_holder_releases() {
    let mut bench = Bench::new(1..=3);
    let grant = bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    let release = |id, at: &str, token| Command::Release { session: session(id), path: path(at), token };
    let not_holder = Error::NotHolder { path: path("/f") };
    assert_eq!(bench.refused(release(3, "/f", None)), not_holder, "a stranger");
    assert_eq!(bench.refused(release(3, "/f", Some(grant.token))), not_holder, "a stranger who knows the token");
    assert_eq!(bench.refused(release(2, "/f", Some(grant.token))), not_holder, "one who waits");
    assert_eq!(bench.refused(release(1, "/f", Some(FencingToken(grant.token.0 + 1)))), not_holder, "a wrong token");
    assert_eq!(bench.refused(release(1, "/g", None)), Error::NotHolder { path: path("/g") }, "nobody holds it");
    assert_eq!(bench.refused(release(9, "/f", None)), Error::SessionNotFound { session: session(9) });
    assert_eq!(grants(&bench.accepted(release(1, "/f", Some(grant.token)))), [2]);
    assert_eq!(bench.refused(release(1, "/f", Some(grant.token))), not_holder, "released before");
}

#[test]
fn a_place_in_the_queue_can_be_released_too() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    let applied = bench.release(2, "/f");
    let error = Error::WaitGivenUp { path: path("/f") };
    assert!(applied.effects.contains(&Effect::WaitEnded { session: session(2), path: path("/f"), error }));
    assert_eq!(bench.waiters("/f"), NOBODY);
}

#[test]
fn a_closed_session_lets_go_of_everything_at_once() {
    let mut bench = Bench::new(1..=3);
    for at in ["/a", "/b"] {
        bench.granted(1, at, EXCLUSIVE);
        bench.queued(2, at, EXCLUSIVE);
    }
    bench.granted(3, "/c", EXCLUSIVE);
    bench.queued(1, "/c", EXCLUSIVE);
    let applied = bench.accepted(Command::CloseSession { session: session(1) });
    assert_eq!(grants(&applied), [2, 2]);
    assert_eq!(bench.waiters("/c"), NOBODY);
    assert!(applied.effects.contains(&Effect::LeaseEnded { session: session(1) }));
    let again = Command::CloseSession { session: session(1) };
    assert_eq!(bench.refused(again), Error::SessionNotFound { session: session(1) });
}

#[test]
fn after_an_expiry_nobody_is_granted_before_the_fence_is_raised() {
    let mut bench = Bench::new(1..=3);
    let lost = bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    let applied = bench.expire(1);
    let token = bench.fence("/f").unwrap();
    assert!(token > lost.token);
    assert!(token::verify(&KEY, token, &path("/f"), EXCLUSIVE), "the Directory will take it");
    assert!(applied.effects.contains(&Effect::RaiseFence { path: path("/f"), token }));
    assert_eq!((grants(&applied), bench.holders("/f")), (vec![], vec![]));
    bench.queued(3, "/f", SHARED);
    let stale = bench.accepted(Command::FenceRaised { path: path("/f"), token: lost.token });
    assert_eq!((stale.changed, bench.fence("/f")), (vec![], Some(token)), "another fence does not count");
    let raised = bench.raise_fence("/f");
    assert_eq!(grants(&raised), [2]);
    assert!(bench.granted(2, "/f", EXCLUSIVE).token > token);
}

#[test]
fn an_expired_lock_that_nobody_awaits_is_fenced_all_the_same() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", EXCLUSIVE);
    bench.expire(1);
    bench.queued(2, "/f", EXCLUSIVE);
    assert_eq!(grants(&bench.raise_fence("/f")), [2]);
}

#[test]
fn shared_holders_expire_without_a_fence() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", SHARED);
    bench.queued(2, "/f", EXCLUSIVE);
    assert_eq!(grants(&bench.expire(1)), [2]);
    assert_eq!(bench.fence("/f"), None);
}

#[test]
fn an_expired_session_is_told_so_and_stays_expired() {
    let mut bench = Bench::new([1]);
    bench.expire(1);
    let expired = Error::SessionExpired { session: session(1) };
    assert_eq!(bench.acquire(1, "/f", EXCLUSIVE), Err(expired.clone()));
    assert_eq!(bench.refused(Command::CloseSession { session: session(1) }), expired);
    let open = Command::OpenSession { session: session(1), ttl_ms: TTL_MS, client: String::new() };
    assert_eq!(bench.refused(open), expired);
    assert_eq!(bench.refused(Command::ExpireSession { session: session(1) }), expired);
    assert_eq!(bench.acquire(2, "/f", EXCLUSIVE), Err(Error::SessionNotFound { session: session(2) }));
}

#[test]
fn expired_sessions_are_forgotten_after_their_time() {
    let mut bench = Bench::new([1]);
    bench.expire(1);
    let open = |id| Command::OpenSession { session: session(id), ttl_ms: TTL_MS, client: String::new() };
    let next = Revision(bench.state.revision().0 + 1);
    let late = Timestamp(2000 + EXPIRED_KEPT_MS);
    let applied = bench.state.apply(next, late, &open(2)).unwrap();
    assert!(applied.changed.contains(&Key::Expired(session(1))));
    assert_eq!((bench.state.expired.len(), bench.state.expired_by_time.len()), (0, 0));
    assert_eq!(bench.acquire(1, "/f", EXCLUSIVE), Err(Error::SessionNotFound { session: session(1) }));
}

#[test]
fn a_broken_lock_passes_on_behind_the_fence() {
    let mut bench = Bench::new(1..=2);
    let lost = bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    let forged = Command::Break { path: path("/f"), token: Some(FencingToken(lost.token.0 ^ 1)) };
    assert!(matches!(bench.refused(forged), Error::NotTheToken { .. }));
    let (token, pending) = bench.break_lock("/f");
    assert!(pending && token > lost.token);
    assert_eq!(bench.break_lock("/f"), (token, true), "asked again it is the same break");
    let by_token = bench.accepted(Command::Break { path: path("/f"), token: Some(lost.token) });
    assert_eq!(by_token.outcome, Outcome::Broken { token, pending: true });
    let release = Command::Release { session: session(1), path: path("/f"), token: Some(lost.token) };
    assert!(matches!(bench.refused(release), Error::NotHolder { .. }));
    let raised = bench.raise_fence("/f");
    assert!(raised.effects.contains(&Effect::FenceRaised { path: path("/f"), token }));
    assert_eq!(grants(&raised), [2]);
    bench.queued(1, "/f", EXCLUSIVE);
}

#[test]
fn breaking_what_nobody_holds_is_refused() {
    let mut bench = Bench::new([]);
    assert_eq!(bench.refused(Command::Break { path: path("/f"), token: None }), Error::NotHeld { path: path("/f") });
}

#[test]
fn of_shared_holders_one_or_all_are_broken_without_a_fence() {
    let mut bench = Bench::new(1..=4);
    bench.granted(1, "/f", SHARED);
    let second = bench.granted(2, "/f", SHARED);
    bench.granted(3, "/f", SHARED);
    bench.queued(4, "/f", EXCLUSIVE);
    bench.accepted(Command::Break { path: path("/f"), token: Some(second.token) });
    assert_eq!(bench.holders("/f"), [1, 3]);
    let (token, pending) = bench.break_lock("/f");
    assert_eq!((pending, bench.holders("/f")), (false, vec![4]));
    assert!(bench.granted(4, "/f", EXCLUSIVE).token > token && token > second.token);
}

#[test]
fn a_grant_that_came_just_before_the_wait_was_over_stands() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", EXCLUSIVE);
    let ticket = bench.queued(2, "/f", EXCLUSIVE);
    bench.release(1, "/f");
    let grant = bench.granted(2, "/f", EXCLUSIVE);
    let applied = bench.accepted(Command::GiveUp { session: session(2), path: path("/f"), ticket });
    assert_eq!(applied.outcome, Outcome::Granted { grant, fresh: false });
}

#[test]
fn an_old_ticket_does_not_give_up_a_new_place() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", EXCLUSIVE);
    let old = bench.queued(2, "/f", EXCLUSIVE);
    bench.release(2, "/f");
    bench.queued(2, "/f", EXCLUSIVE);
    let give_up = Command::GiveUp { session: session(2), path: path("/f"), ticket: old };
    assert_eq!(bench.refused(give_up), Error::WaitGivenUp { path: path("/f") });
    assert_eq!(bench.waiters("/f"), [2]);
}

#[test]
fn bad_sessions_are_refused() {
    let mut bench = Bench::new([]);
    for ttl_ms in [0, TTL_MS_MIN - 1, TTL_MS_MAX + 1, u64::MAX] {
        let open = Command::OpenSession { session: session(1), ttl_ms, client: String::new() };
        assert!(matches!(bench.refused(open), Error::BadTtl { .. }), "{ttl_ms}");
    }
    let open = Command::OpenSession { session: session(1), ttl_ms: TTL_MS, client: "n".repeat(CLIENT_LENGTH_MAX + 1) };
    assert!(matches!(bench.refused(open), Error::ClientTooLong { .. }));
}

#[test]
fn opening_a_session_again_is_the_same_session() {
    let mut bench = Bench::new([1]);
    let grant = bench.granted(1, "/f", EXCLUSIVE);
    let again = Command::OpenSession { session: session(1), ttl_ms: 2 * TTL_MS, client: "other".into() };
    let applied = bench.accepted(again);
    assert_eq!(applied.outcome, Outcome::Opened { ttl_ms: TTL_MS });
    assert_eq!(applied.effects, [Effect::LeaseBegan { session: session(1), ttl_ms: TTL_MS }]);
    assert_eq!(applied.changed, []);
    assert_eq!(bench.granted(1, "/f", EXCLUSIVE), grant);
}

/// Without the checks of [`Bench`], whose cost grows with the state.
fn fill(state: &mut State, command: &Command) -> Result<Outcome, Error> {
    state.apply(Revision(state.revision().0 + 1), Timestamp(0), command).map(|applied| applied.outcome)
}

fn numbered(number: u128) -> SessionId {
    SessionId::from_bytes(number.to_be_bytes())
}

#[test]
fn queues_and_sessions_are_bounded() {
    let mut state = Bench::new([]).state;
    let open = |id| Command::OpenSession { session: numbered(id), ttl_ms: TTL_MS, client: String::new() };
    let ask = |id, at| Command::Acquire { session: numbered(id), path: at, mode: EXCLUSIVE, if_held: IfHeld::Queue };
    for id in 0..SESSIONS_MAX as u128 {
        fill(&mut state, &open(id)).unwrap();
    }
    assert_eq!(fill(&mut state, &open(SESSIONS_MAX as u128)), Err(Error::TooManySessions { limit: SESSIONS_MAX }));
    for id in 0..=WAITERS_PER_PATH_MAX as u128 {
        fill(&mut state, &ask(id, path("/f"))).unwrap();
    }
    let refused = fill(&mut state, &ask(WAITERS_PER_PATH_MAX as u128 + 1, path("/f")));
    assert_eq!(refused, Err(Error::TooManyWaiters { path: path("/f"), limit: WAITERS_PER_PATH_MAX }));
    for number in 1..LOCKS_PER_SESSION_MAX {
        fill(&mut state, &ask(0, path(&format!("/{number}")))).unwrap();
    }
    let refused = fill(&mut state, &ask(0, path("/one-more")));
    assert_eq!(refused, Err(Error::TooManyOfSession { limit: LOCKS_PER_SESSION_MAX }));
}

#[test]
fn locks_are_listed_in_path_order_page_by_page() {
    let mut bench = Bench::new([1]);
    for at in ["/a", "/a!", "/a/b", "/a/b/c", "/ab", "/b"] {
        bench.granted(1, at, EXCLUSIVE);
    }
    let names = |views: &[LockView]| views.iter().map(|view| view.path.to_string()).collect::<Vec<_>>();
    let (all, more) = bench.state.list(&Path::root(), None, 100);
    assert_eq!((names(&all), more), (["/a", "/a!", "/a/b", "/a/b/c", "/ab", "/b"].map(str::to_owned).to_vec(), false));
    let (first, more) = bench.state.list(&path("/a"), None, 2);
    assert_eq!((names(&first), more), (vec!["/a".to_owned(), "/a/b".to_owned()], true));
    let (rest, more) = bench.state.list(&path("/a"), Some(&path("/a/b")), 2);
    assert_eq!((names(&rest), more), (vec!["/a/b/c".to_owned()], false));
}

#[test]
fn a_long_queue_is_counted_in_full_and_listed_in_part() {
    let mut state = Bench::new([]).state;
    for id in 0..1500 {
        fill(&mut state, &Command::OpenSession { session: numbered(id), ttl_ms: TTL_MS, client: String::new() })
            .unwrap();
        let ask = Command::Acquire { session: numbered(id), path: path("/f"), mode: EXCLUSIVE, if_held: IfHeld::Queue };
        fill(&mut state, &ask).unwrap();
    }
    let view = state.view(&path("/f"));
    assert_eq!((view.waiters.len(), view.waiter_count), (1000, 1499));
    assert_eq!(state.waiting_from(&path("/f"), 1400).next(), Some((numbered(1401), 1401)));
}

#[test]
fn a_restart_finds_everything_and_takes_it_up_again() {
    let mut bench = Bench::new(1..=3);
    bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    bench.granted(3, "/g", SHARED);
    bench.expire(1);
    let token = bench.fence("/f").unwrap();
    bench.restart();
    let lease = |id| Effect::LeaseBegan { session: session(id), ttl_ms: TTL_MS };
    assert_eq!(bench.state.resume(), [lease(2), lease(3), Effect::RaiseFence { path: path("/f"), token }]);
    assert!(matches!(bench.state.standing(session(2), &path("/f")), Some(Standing::Waits(_))));
    assert_eq!(grants(&bench.raise_fence("/f")), [2]);
    assert!(bench.granted(2, "/f", EXCLUSIVE).token > token);
}

#[test]
fn records_that_contradict_each_other_are_refused() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    let good: Vec<Record> = bench.store.values().cloned().collect();
    let with = |record: Record| State::restore(good.iter().cloned().chain([record])).unwrap_err();
    let grant = Grant { mode: EXCLUSIVE, token: FencingToken(1), time: Timestamp(0) };
    let at = || path("/f");
    assert_eq!(with(Record::Holder { path: at(), id: session(2), grant }), Damaged::Contradiction(at()));
    assert_eq!(with(Record::Holder { path: at(), id: session(9), grant }), Damaged::SessionMissing(session(9)));
    assert_eq!(with(Record::Fence { path: at(), token: FencingToken(1) }), Damaged::Contradiction(at()));
    assert_eq!(with(Record::Fence { path: path("/g"), token: FencingToken(u64::MAX) }), Damaged::AheadOfHead);
    assert_eq!(with(good[0].clone()), Damaged::Twice);
}

#[derive(Clone, Debug)]
enum Step {
    Open(u8),
    Close(u8),
    Expire(u8),
    Acquire(u8, u8, bool, bool),
    Release(u8, u8),
    GiveUp(u8, u8),
    Break(u8),
    FenceRaised(u8),
}

fn a_step() -> impl Strategy<Value = Step> {
    let (id, at) = (0..6u8, 0..3u8);
    prop_oneof![
        3 => id.clone().prop_map(Step::Open),
        1 => id.clone().prop_map(Step::Close),
        1 => id.clone().prop_map(Step::Expire),
        12 => (id.clone(), at.clone(), any::<bool>(), prop::bool::weighted(0.8))
            .prop_map(|(id, at, shared, queue)| Step::Acquire(id, at, shared, queue)),
        5 => (id.clone(), at.clone()).prop_map(|(id, at)| Step::Release(id, at)),
        2 => (id, at.clone()).prop_map(|(id, at)| Step::GiveUp(id, at)),
        1 => at.clone().prop_map(Step::Break),
        3 => at.prop_map(Step::FenceRaised),
    ]
}

/// Takes the step with the real state and with the model.
fn take(step: &Step, bench: &mut Bench, model: &mut Model) -> Option<Result<Applied, Error>> {
    let spot = |at: u8| path(&format!("/{at}"));
    let id = |id: u8| session(id + 1);
    let command = match *step {
        Step::Open(id_) => {
            if !bench.state.expired.contains_key(&id(id_)) {
                model.open.insert(id(id_));
            }
            Command::OpenSession { session: id(id_), ttl_ms: TTL_MS, client: String::new() }
        }
        Step::Close(id_) => {
            model.end(id(id_), false);
            Command::CloseSession { session: id(id_) }
        }
        Step::Expire(id_) => {
            model.end(id(id_), true);
            Command::ExpireSession { session: id(id_) }
        }
        Step::Acquire(id_, at, shared, queue) => {
            let mode = if shared { SHARED } else { EXCLUSIVE };
            model.ask(id(id_), &spot(at), mode, queue);
            let if_held = if queue { IfHeld::Queue } else { IfHeld::Refuse };
            Command::Acquire { session: id(id_), path: spot(at), mode, if_held }
        }
        Step::Release(id_, at) => {
            model.give_up(id(id_), &spot(at));
            model.release(id(id_), &spot(at));
            Command::Release { session: id(id_), path: spot(at), token: None }
        }
        Step::GiveUp(id_, at) => {
            let Some(Standing::Waits(ticket)) = bench.state.standing(id(id_), &spot(at)) else { return None };
            model.give_up(id(id_), &spot(at));
            Command::GiveUp { session: id(id_), path: spot(at), ticket }
        }
        Step::Break(at) => {
            model.break_all(&spot(at));
            Command::Break { path: spot(at), token: None }
        }
        Step::FenceRaised(at) => {
            let token = bench.state.view(&spot(at)).fence?;
            model.fence_raised(&spot(at));
            Command::FenceRaised { path: spot(at), token }
        }
    };
    Some(bench.apply(command))
}

/// Every wait that the step ended was told so, with the grant or without.
fn expect_waits_told(before: &Model, after: &Model, applied: &Applied) {
    for (path, queue) in &before.waiting {
        for (session, _) in queue {
            let granted = applied.effects.iter().any(
                |effect| matches!(effect, Effect::Granted { session: s, path: p, .. } if s == session && p == path),
            );
            let ended = applied.effects.iter().any(
                |effect| matches!(effect, Effect::WaitEnded { session: s, path: p, .. } if s == session && p == path),
            );
            assert_eq!(granted, after.holds(*session, path).is_some());
            assert_eq!(granted || ended, !after.waits(*session, path));
        }
    }
}

fn expect_same(bench: &Bench, model: &Model) {
    for at in 0..3 {
        let at = path(&format!("/{at}"));
        let view = bench.state.view(&at);
        let mut held = model.held.get(&at).cloned().unwrap_or_default();
        held.sort_by_key(|(session, _)| *session);
        let holders: Vec<_> = view.holders.iter().map(|holder| (holder.session, holder.grant.mode)).collect();
        assert_eq!(holders, held, "holders of {at}");
        let waiters: Vec<_> = view.waiters.iter().map(|waiter| (waiter.session, waiter.mode)).collect();
        assert_eq!(waiters, model.waiting.get(&at).cloned().unwrap_or_default(), "queue of {at}");
        assert_eq!(view.fence.is_some(), model.fenced.contains(&at), "fence of {at}");
    }
    assert_eq!(bench.state.sessions.keys().copied().collect::<BTreeSet<_>>(), model.open);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_does_what_the_model_does_and_every_restart_finds_it(steps in prop::collection::vec(a_step(), 1..120)) {
        let (mut bench, mut model) = (Bench::new([]), Model::default());
        for step in &steps {
            let before = model.clone();
            if let Some(Ok(applied)) = take(step, &mut bench, &mut model) {
                expect_waits_told(&before, &model, &applied);
            }
            expect_same(&bench, &model);
            bench.restart();
        }
    }

    #[test]
    fn the_same_commands_give_the_same_state_and_answers(steps in prop::collection::vec(a_step(), 1..60)) {
        let run = || {
            let (mut bench, mut model) = (Bench::new([]), Model::default());
            let answers: Vec<_> = steps.iter().map(|step| take(step, &mut bench, &mut model)).collect();
            (answers, bench.state)
        };
        prop_assert_eq!(run(), run());
    }
}
