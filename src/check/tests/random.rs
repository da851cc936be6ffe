//! Random histories: those that a single copy made are good, altered ones are not, and the search agrees with trying every order.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::check::search::{Model, Timed, search};

/// A file in memory, written for these tests alone: it knows nothing of the checker's model.
#[derive(Default)]
struct Copy {
    version: u64,
    bytes: Vec<u8>,
    revision: u64,
    token: u64,
}

impl Copy {
    fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    fn found(&self) -> Outcome {
        let Digest { size, crc32c } = self.digest();
        let (version, revision) = (Version(self.version), Revision(self.revision));
        if self.version == 0 { Outcome::Absent } else { Outcome::Found { version, revision, size, crc32c } }
    }

    fn write(&mut self, condition: Condition, offset: usize, data: &str, is_whole: bool) -> Outcome {
        if let Some(expected) = condition.if_version.filter(|expected| expected.0 != self.version) {
            assert_ne!(expected.0, self.version);
            return mismatch(self.version);
        }
        if condition.token.is_some_and(|token| token.0 < self.token) {
            return refused("FENCING_TOKEN_STALE");
        }
        self.token = condition.token.map_or(self.token, |token| token.0);
        if is_whole {
            self.bytes.clear();
        }
        let end = (offset + data.len()).max(self.bytes.len());
        self.bytes.resize(end, 0);
        self.bytes[offset..offset + data.len()].copy_from_slice(data.as_bytes());
        (self.version, self.revision) = (self.version + 1, self.revision + 3);
        let Digest { size, crc32c } = self.digest();
        let (version, revision) = (Version(self.version), Revision(self.revision));
        Outcome::Written { version, revision, size, crc32c, offset: offset as u64 }
    }

    fn delete(&mut self) -> Outcome {
        if self.version == 0 {
            return refused("ENTRY_NOT_FOUND");
        }
        (self.version, self.revision) = (0, self.revision + 1);
        self.bytes.clear();
        Outcome::Done
    }
}

/// Calls as a copy answers them one by one, each within an interval around the moment at which it was; with overlaps of up
/// to `width`. Of one in `unknown_in` the end is unknown.
fn a_good_story(random: &mut StdRng, length: u64, width: u64, unknown_in: u32) -> Story {
    let (mut copy, mut story) = (Copy::default(), Story::default());
    for number in 0..length {
        let now = 1_000_000 + number * 10;
        let interval = (now - random.random_range(0..width * 10), now + random.random_range(0..width * 10));
        let data = format!("<{number}>");
        let condition = match random.random_range(0..4) {
            0 => under(copy.token + random.random_range(0..2)),
            1 => under(copy.token.saturating_sub(1)),
            2 => if_version(random.random_range(0..=copy.version)),
            _ => if_version(copy.version),
        };
        let never = random.random_ratio(1, 2 * unknown_in);
        let (operation, outcome) = match random.random_range(0..9) {
            _ if never => (append(&data), unknown()),
            0 | 1 => (replace(&data, condition), copy.write(condition, 0, &data, true)),
            2 | 3 => (append(&data), copy.write(Condition::default(), copy.bytes.len(), &data, false)),
            4 if copy.version > 0 => {
                let offset = random.random_range(0..=copy.bytes.len());
                (patch(offset as u64, &data, condition), copy.write(condition, offset, &data, false))
            }
            5 if random.random() => {
                let based = if random.random_ratio(1, 4) { Condition::default() } else { if_version(copy.version) };
                (delete(based), copy.delete())
            }
            6 => {
                copy.token += 1;
                (Operation::Acquire { shared: false }, granted(copy.token))
            }
            _ => (Operation::Read, copy.found()),
        };
        let outcome = if random.random_ratio(1, 2 * unknown_in) { unknown() } else { outcome };
        story.call(number as u32 % 16, interval, operation, outcome);
    }
    story
}

/// No call's end is unknown but by rare chance.
const NEVER: u32 = 1 << 30;

/// Says something else in one of the answers.
fn alter(random: &mut StdRng, story: &mut Story) {
    let number = random.random_range(0..story.calls.len());
    let other = story.calls[random.random_range(0..story.calls.len())].outcome.clone();
    let outcome = &mut story.calls[number].outcome;
    match (outcome, random.random_range(0..4)) {
        (Outcome::Written { version, .. } | Outcome::Found { version, .. }, 0) => version.0 += 1,
        (Outcome::Written { version, .. } | Outcome::Found { version, .. }, 1) => {
            version.0 = version.0.saturating_sub(1)
        }
        (Outcome::Written { crc32c, .. } | Outcome::Found { crc32c, .. }, 2) => *crc32c ^= 1,
        (Outcome::Granted { token }, _) => token.0 = token.0.saturating_sub(1),
        (outcome, _) => *outcome = other,
    }
}

/// Every order that time allows, one after the other.
fn has_order(state: &<Register as Model>::State, left: &[Timed<Call>]) -> bool {
    let Some(limit) = left.iter().filter_map(|call| call.returned).min() else { return true };
    left.iter().enumerate().filter(|(_, call)| call.invoked <= limit).any(|(at, call)| {
        let rest = [&left[..at], &left[at + 1..]].concat();
        Register.step(state, &call.operation).is_some_and(|state| has_order(&state, &rest))
    })
}

fn checked(story: &Story) -> Vec<Timed<Call>> {
    story.calls.iter().filter(|call| is_checked(call)).map(timed).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn what_a_single_copy_did_is_never_called_bad(seed: u64, length in 1..200u64, width in 1..9u64) {
        let story = a_good_story(&mut StdRng::seed_from_u64(seed), length, width, 50);
        let report = check(&story.calls, Bounds { steps_max: 300_000, ..Bounds::default() });
        prop_assert_ne!(report.verdict(), Verdict::Violated, "{:#?}", report);
    }

    #[test]
    fn bytes_that_nobody_wrote_are_rejected(seed: u64, length in 1..200u64, width in 1..9u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut story = a_good_story(&mut random, length, width, NEVER);
        let (size, crc32c) = (5, random.random());
        let story_end = 2_000_000;
        let read = Outcome::Found { version: Version(1), revision: Revision(1 << 40), size, crc32c };
        story.call(99, (story_end, story_end), Operation::Read, read);
        prop_assert_eq!(story.report().verdict(), Verdict::Violated);
    }

    #[test]
    fn what_is_shown_of_a_bad_history_is_bad(seed: u64, length in 2..24u64, width in 1..8u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut story = a_good_story(&mut random, length, width, 10);
        alter(&mut random, &mut story);
        for violation in story.report().violations {
            let ViolationKind::NoOrder { is_from_any_state, .. } = violation.kind else { continue };
            let initial = if is_from_any_state { Register.anything() } else { Register.initial() };
            let calls: Vec<_> = violation.calls.iter().map(timed).collect();
            let found = search(&Register, initial, &calls, Bounds::default());
            prop_assert!(matches!(found, Found::NoOrder { .. }), "{:#?}", violation);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn the_search_agrees_with_trying_every_order(seed: u64, length in 1..8u64, width in 1..8u64, altered in 0..3u32) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut story = a_good_story(&mut random, length, width, 4);
        for _ in 0..altered {
            alter(&mut random, &mut story);
        }
        let calls = checked(&story);
        let found = search(&Register, Register.initial(), &calls, Bounds::default());
        prop_assert_eq!(found == Found::Order, has_order(&Register.initial(), &calls), "{:#?}", story.calls);
    }
}

/// Sixteen clients, five files, a thousand calls of each file, one in two hundred of unknown end: in seconds, even in a
/// debug build.
#[test]
fn thousands_of_calls_of_sixteen_clients_are_decided() {
    let mut all = Vec::new();
    for file in 0..5 {
        let mut story = a_good_story(&mut StdRng::seed_from_u64(file), 1000, 8, 200);
        story.calls.iter_mut().for_each(|call| call.path = format!("/f{file}").parse().unwrap());
        all.extend(story.calls);
    }
    let began = std::time::Instant::now();
    let report = check(&all, Bounds::default());
    println!("{} calls in {:?}", all.len(), began.elapsed());
    assert_eq!(report.verdict(), Verdict::Good, "{:?}", report.undecided);
}
