//! Writes that are repeated under their id: they happen once, and are answered alike.

use super::*;

fn one() -> Story {
    let mut story = Story::default();
    story.call(2, (0, 10), append("one"), written(1, "one"));
    story
}

#[test]
fn a_repeat_is_told_what_the_first_attempt_did() {
    let mut story = one();
    let first = (append("+a"), written_at(2, "one+a", 3));
    story.write("w", (11, 20), first.0.clone(), unknown());
    story.call(2, (21, 30), Operation::Read, found(2, "one+a"));
    story.write("w", (31, 40), first.0.clone(), first.1.clone());
    story.expect_good();
    story.write("w", (41, 50), first.0, first.1);
    story.call(2, (51, 60), append("+b"), written_at(3, "one+a+b", 5));
    story.expect_good();
}

#[test]
fn a_repeated_delete_is_one() {
    let mut story = one();
    story.write("w", (11, 20), delete(Condition::default()), unknown());
    story.call(
        2,
        (21, 30),
        append("two"),
        Outcome::Written {
            version: Version(1),
            revision: Revision(30),
            size: 3,
            crc32c: Digest::of(b"two").crc32c,
            offset: 0,
        },
    );
    story.write("w", (31, 40), delete(Condition::default()), Outcome::Done);
    story.call(
        2,
        (41, 50),
        Operation::Read,
        Outcome::Found { version: Version(1), revision: Revision(30), size: 3, crc32c: Digest::of(b"two").crc32c },
    );
    story.expect_good();
}

#[test]
fn a_write_whose_repeat_happened_too_is_found() {
    let mut story = one();
    story.write("w", (11, 20), append("+a"), unknown());
    story.write("w", (21, 30), append("+a"), unknown());
    story.call(2, (31, 40), Operation::Read, found(2, "one+a"));
    story.expect_good();
    story.call(2, (41, 50), Operation::Read, found(3, "one+a+a"));
    story.expect_violated("NO_ORDER");
}

#[test]
fn a_repeat_that_is_told_something_else_is_found() {
    let mut story = one();
    story.write("w", (11, 20), append("+a"), written_at(2, "one+a", 3));
    story.write("w", (21, 30), append("+a"), written_at(3, "one+a+a", 5));
    assert_eq!(story.expect_violated("TWO_ANSWERS"), [1, 2]);
}

#[test]
fn a_receipt_says_when_it_had_happened_whoever_asks_again() {
    let mut story = one();
    story.write("w", (11, 20), append("+a"), written_at(2, "one+a", 3));
    story.call(2, (21, 30), Operation::Read, found(1, "one"));
    story.write("w", (31, 40), append("+a"), written_at(2, "one+a", 3));
    story.expect_violated("NO_ORDER");
}

#[test]
fn an_attempt_that_was_refused_says_nothing_of_the_others() {
    let mut story = one();
    story.write("w", (11, 20), append("+a"), unknown());
    story.write("w", (21, 30), append("+a"), refused("NO_SPACE"));
    story.call(2, (31, 40), Operation::Read, found(2, "one+a"));
    story.expect_good();
}

#[test]
fn another_operation_under_the_id_is_another_write() {
    let mut story = one();
    story.write("w", (11, 20), append("+a"), written_at(2, "one+a", 3));
    story.write("w", (21, 30), append("+b"), written_at(3, "one+a+b", 5));
    story.expect_good();
}
