//! Locks: one holder at a time, and tokens that rise.

use super::*;

const LOCK: Operation = Operation::Acquire { shared: false };
const SHARED_LOCK: Operation = Operation::Acquire { shared: true };

impl Story {
    /// Granted to `client` within the first two moments, and proven at the third.
    fn hold(&mut self, client: u32, (invoked, returned, proven): (u64, u64, u64), lock: Operation, token: u64) {
        self.call(client, (invoked, returned), lock, granted(token));
        self.call(client, (proven, proven), Operation::Hold { token: FencingToken(token) }, Outcome::Done);
    }
}

#[test]
fn one_holder_after_the_other_is_good() {
    let mut story = Story::default();
    story.hold(1, (0, 10, 50), LOCK, 1);
    story.call(1, (51, 55), Operation::Release { token: FencingToken(1) }, Outcome::Done);
    story.hold(2, (5, 60, 70), LOCK, 2);
    story.expect_good();
}

#[test]
fn two_holders_at_one_moment_are_found() {
    let mut story = Story::default();
    story.hold(1, (0, 10, 50), LOCK, 1);
    story.hold(2, (5, 49, 70), LOCK, 2);
    assert_eq!(story.expect_violated("TWO_HOLDERS"), [0, 2, 1, 3]);
}

#[test]
fn a_holder_that_stops_proving_it_may_have_lost_it() {
    let mut story = Story::default();
    story.hold(1, (0, 10, 20), LOCK, 1);
    story.hold(2, (5, 49, 70), LOCK, 2);
    story.expect_good();
}

#[test]
fn a_grant_that_was_never_proven_holds_nothing() {
    let mut story = Story::default();
    story.hold(1, (0, 10, 50), LOCK, 1);
    story.call(2, (11, 20), LOCK, granted(2));
    story.expect_good();
}

#[test]
fn shared_holders_exclude_exclusive_ones_alone() {
    let mut story = Story::default();
    story.hold(1, (0, 10, 50), SHARED_LOCK, 1);
    story.hold(2, (0, 20, 60), SHARED_LOCK, 2);
    story.expect_good();
    story.hold(3, (0, 55, 70), LOCK, 3);
    assert_eq!(story.expect_violated("TWO_HOLDERS"), [2, 4, 3, 5]);
}

#[test]
fn a_long_holder_before_a_short_one_is_not_forgotten() {
    let mut story = Story::default();
    story.hold(1, (0, 10, 100), SHARED_LOCK, 1);
    story.hold(2, (0, 20, 30), SHARED_LOCK, 2);
    story.hold(3, (0, 40, 50), LOCK, 3);
    assert_eq!(story.expect_violated("TWO_HOLDERS"), [0, 4, 5, 1]);
}

#[test]
fn a_token_that_goes_back_is_found() {
    let mut story = Story::default();
    story.hold(1, (0, 10, 20), LOCK, 5);
    // Both asked at once; but who held it later got it later.
    story.hold(2, (0, 30, 40), LOCK, 4);
    assert_eq!(story.expect_violated("TOKEN_WENT_BACK"), [0, 2, 1, 3]);
}

#[test]
fn a_token_that_goes_back_is_found_even_if_nobody_proved_anything() {
    let mut story = Story::default();
    story.call(1, (0, 10), LOCK, granted(5));
    story.call(2, (11, 20), LOCK, granted(4));
    assert_eq!(story.expect_violated("NO_ORDER"), [0, 1]);
}

#[test]
fn a_token_granted_twice_is_found() {
    let mut story = Story::default();
    story.call(1, (0, 10), LOCK, granted(5));
    story.call(2, (0, 10), LOCK, granted(5));
    assert_eq!(story.expect_violated("NO_ORDER"), [0, 1]);
}

#[test]
fn a_grant_that_its_holder_is_told_twice_is_one() {
    for lock in [LOCK, SHARED_LOCK] {
        let mut story = Story::default();
        story.call(1, (0, 10), lock.clone(), granted(5));
        // Who has it alone may be told so when it asks for less.
        story.call(1, (11, 20), SHARED_LOCK, granted(5));
        story.hold(1, (21, 30, 40), lock, 5);
        story.hold(2, (5, 50, 60), LOCK, 6);
        story.expect_good();
        story.hold(3, (5, 35, 39), LOCK, 7);
        story.expect_violated("TWO_HOLDERS");
    }
}

#[test]
fn those_who_share_a_lock_may_hear_of_it_in_any_order() {
    let mut story = Story::default();
    // The grant of token 5 came to the client when it asked again.
    story.call(1, (0, 10), SHARED_LOCK, unknown());
    story.call(2, (11, 20), SHARED_LOCK, granted(6));
    story.call(1, (21, 30), SHARED_LOCK, granted(5));
    story.expect_good();
    story.call(3, (31, 40), LOCK, granted(7));
    story.expect_good();
    story.call(4, (41, 50), SHARED_LOCK, granted(6));
    assert_eq!(story.expect_violated("NO_ORDER"), [3, 4]);
}

#[test]
fn a_token_granted_again_after_its_release_is_found() {
    let mut story = Story::default();
    story.call(1, (0, 10), LOCK, granted(5));
    story.call(1, (11, 20), Operation::Release { token: FencingToken(5) }, Outcome::Done);
    story.expect_good();
    story.call(1, (21, 30), LOCK, granted(5));
    assert_eq!(story.expect_violated("NO_ORDER"), [0, 2]);
}
