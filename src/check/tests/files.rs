//! Files: what a single copy would say, and each way of saying something else.

use super::*;

/// One version is there, and the clock is at 10.
fn a_file() -> Story {
    let mut story = Story::default();
    story.call(1, (0, 10), replace("one", if_version(0)), written(1, "one"));
    story
}

#[test]
fn nothing_is_a_good_history() {
    Story::default().expect_good();
    assert_eq!(Story::default().report().path_count, 0);
}

#[test]
fn every_kind_of_call_in_turn_is_good() {
    let mut story = Story::default();
    story.call(1, (0, 10), Operation::Read, Outcome::Absent);
    story.call(1, (11, 20), append("ab"), written(1, "ab"));
    story.call(2, (21, 30), append("cd"), written_at(2, "abcd", 2));
    story.call(1, (31, 40), patch(1, "X", if_version(2)), written_at(3, "aXcd", 1));
    story.call(2, (41, 50), replace("new", if_version(2)), mismatch(3));
    story.call(2, (51, 60), replace("new", if_version(3)), written(4, "new"));
    story.call(1, (61, 70), Operation::Read, found(4, "new"));
    story.call(1, (71, 80), delete(if_version(4)), Outcome::Done);
    story.call(2, (81, 90), Operation::Read, Outcome::Absent);
    story.expect_good();
}

#[test]
fn a_file_made_anew_begins_with_version_1() {
    let mut story = a_file();
    story.call(1, (11, 20), delete(Condition::default()), Outcome::Done);
    let Digest { size, crc32c } = text("two").digest();
    let receipt =
        |version| Outcome::Written { version: Version(version), revision: Revision(50), size, crc32c, offset: 0 };
    let again = |version| {
        let mut story = Story { calls: story.calls.clone() };
        story.call(1, (21, 30), append("two"), receipt(version));
        story
    };
    again(1).expect_good();
    again(2).expect_violated("NO_ORDER");
}

#[test]
fn calls_that_overlap_may_have_happened_in_either_order() {
    let mut story = a_file();
    story.call(1, (20, 40), append("+a"), written_at(3, "one+b+a", 5));
    story.call(2, (20, 40), append("+b"), written_at(2, "one+b", 3));
    story.call(3, (20, 40), Operation::Read, found(1, "one"));
    story.call(4, (20, 40), Operation::Read, found(3, "one+b+a"));
    story.expect_good();
}

#[test]
fn a_stale_read_is_found() {
    let mut story = a_file();
    story.call(1, (11, 20), append("+a"), written_at(2, "one+a", 3));
    story.call(2, (21, 30), Operation::Read, found(1, "one"));
    assert_eq!(story.expect_violated("NO_ORDER"), [1, 2]);
}

#[test]
fn two_reads_that_go_back_are_found() {
    let mut story = a_file();
    story.call(1, (11, 100), append("+a"), written_at(2, "one+a", 3));
    story.call(2, (20, 30), Operation::Read, found(2, "one+a"));
    story.expect_good();
    story.call(3, (31, 40), Operation::Read, found(1, "one"));
    assert_eq!(story.expect_violated("NO_ORDER"), [2, 3]);
}

#[test]
fn a_lost_update_is_found() {
    let mut story = a_file();
    story.call(1, (11, 30), append("+a"), written_at(2, "one+a", 3));
    story.call(2, (11, 30), append("+b"), written_at(3, "one+b", 3));
    story.expect_violated("NO_ORDER");
}

#[test]
fn two_writes_based_on_one_version_are_found() {
    let mut story = a_file();
    story.call(1, (11, 30), replace("a", if_version(1)), written(2, "a"));
    story.call(2, (11, 30), replace("b", if_version(1)), written(3, "b"));
    // The receipt says by itself that it was not version 1 that was replaced.
    assert_eq!(story.expect_violated("NO_ORDER"), [2]);
}

#[test]
fn a_write_applied_twice_is_found() {
    let mut story = a_file();
    story.call(1, (11, 20), append("+a"), written_at(2, "one+a", 3));
    story.call(2, (21, 30), Operation::Read, found(3, "one+a+a"));
    story.expect_violated("NO_ORDER");
}

#[test]
fn a_write_of_unknown_end_applied_twice_is_found() {
    let mut story = a_file();
    story.call(1, (11, 20), append("+a"), unknown());
    story.call(2, (21, 30), Operation::Read, found(2, "one+a"));
    story.call(2, (31, 40), Operation::Read, found(3, "one+a+a"));
    story.expect_violated("NO_ORDER");
}

#[test]
fn a_refused_write_that_is_seen_is_found() {
    let mut story = a_file();
    story.call(1, (11, 20), append("+a"), refused("NO_SPACE"));
    story.expect_good();
    story.call(2, (21, 30), Operation::Read, found(2, "one+a"));
    story.expect_violated("NO_ORDER");
}

#[test]
fn a_write_of_unknown_end_may_show_at_once_later_or_never() {
    let mut story = a_file();
    story.call(1, (11, 20), append("+a"), unknown());
    story.call(2, (21, 30), Operation::Read, found(1, "one"));
    story.expect_good();
    story.call(2, (31, 40), Operation::Read, found(2, "one+a"));
    story.expect_good();
    story.call(2, (41, 50), Operation::Read, found(1, "one"));
    story.expect_violated("NO_ORDER");
}

#[test]
fn a_write_of_unknown_end_does_not_show_before_it_began() {
    let mut story = a_file();
    story.call(2, (11, 20), Operation::Read, found(2, "one+a"));
    story.call(1, (30, 40), append("+a"), unknown());
    story.expect_violated("NO_ORDER");
}

#[test]
fn a_write_seen_half_is_found() {
    let mut story = a_file();
    story.call(1, (11, 40), replace("three", if_version(1)), written(2, "three"));
    story.call(2, (11, 40), Operation::Read, found(2, "thr"));
    story.expect_violated("NO_ORDER");
}

#[test]
fn a_write_that_vanishes_is_found() {
    let mut story = a_file();
    story.call(2, (11, 20), Operation::Read, Outcome::Absent);
    assert_eq!(story.expect_violated("NO_ORDER"), [0, 1]);
}

#[test]
fn a_deleted_file_that_is_read_is_found() {
    let mut story = a_file();
    story.call(1, (11, 20), delete(if_version(1)), Outcome::Done);
    story.call(2, (21, 30), Operation::Read, found(1, "one"));
    assert_eq!(story.expect_violated("NO_ORDER"), [1, 2]);
}

#[test]
fn a_receipt_with_the_wrong_version_size_checksum_or_offset_is_found() {
    for receipt in
        [written_at(3, "one+a", 3), written_at(2, "one+b", 3), written_at(2, "one+ab", 3), written(2, "one+a")]
    {
        let mut story = a_file();
        story.call(1, (11, 20), append("+a"), receipt);
        story.expect_violated("NO_ORDER");
    }
}

#[test]
fn revisions_that_go_back_are_found() {
    let with_revision = |revision| {
        let mut story = a_file();
        let Digest { size, crc32c } = text("new").digest();
        let receipt = Outcome::Written { version: Version(2), revision: Revision(revision), size, crc32c, offset: 0 };
        story.call(1, (11, 20), replace("new", if_version(1)), receipt);
        story
    };
    with_revision(11).expect_good();
    with_revision(10).expect_violated("NO_ORDER");
}

#[test]
fn a_revision_told_with_another_version_is_found() {
    let read = |version, content: &str, revision| {
        let Digest { size, crc32c } = text(content).digest();
        Outcome::Found { version: Version(version), revision: Revision(revision), size, crc32c }
    };
    let mut story = a_file();
    // Its permissions have changed since.
    story.call(2, (11, 20), Operation::Read, read(1, "one", 15));
    story.call(1, (21, 30), append("+a"), unknown());
    let then = |revision| {
        let mut story = Story { calls: story.calls.clone() };
        story.call(2, (31, 40), Operation::Read, read(2, "one+a", revision));
        story
    };
    then(16).expect_good();
    then(15).expect_violated("NO_ORDER");
}

#[test]
fn a_write_without_a_condition_overwrites_blindly() {
    let mut story = a_file();
    story.call(1, (11, 20), replace("new", Condition::default()), written(2, "new"));
    story.expect_violated("NO_ORDER");
}

#[test]
fn a_refusal_must_name_a_version_that_was_there() {
    let mut story = a_file();
    story.call(1, (11, 20), append("+a"), written_at(2, "one+a", 3));
    story.call(2, (21, 30), replace("x", if_version(1)), mismatch(2));
    story.expect_good();
    story.call(2, (31, 40), replace("x", if_version(2)), mismatch(1));
    story.expect_violated("NO_ORDER");
}

#[test]
fn a_delete_or_a_patch_that_found_nothing_is_an_observation() {
    for operation in [delete(Condition::default()), delete(if_version(0)), patch(0, "x", under(1))] {
        let mut story = Story::default();
        story.call(1, (0, 5), operation.clone(), mismatch(0));
        story.expect_good();
        let mut story = a_file();
        story.call(1, (11, 20), operation, mismatch(0));
        assert_eq!(story.expect_violated("NO_ORDER"), [0, 1]);
    }
}

#[test]
fn a_write_under_a_token_older_than_one_used_is_found() {
    let mut story = a_file();
    story.call(1, (11, 20), replace("a", under(7)), written(2, "a"));
    story.call(2, (21, 30), replace("b", under(6)), refused("FENCING_TOKEN_STALE"));
    story.call(1, (31, 40), replace("c", under(7)), written(3, "c"));
    story.expect_good();
    story.call(2, (41, 50), replace("d", under(6)), written(4, "d"));
    assert_eq!(story.expect_violated("NO_ORDER"), [3, 4]);
}

#[test]
fn a_write_under_a_token_older_than_one_granted_is_found() {
    let mut story = a_file();
    story.call(1, (11, 20), Operation::Acquire { shared: false }, granted(6));
    story.call(1, (21, 60), replace("a", under(6)), written(2, "a"));
    story.call(2, (21, 30), Operation::Acquire { shared: false }, granted(7));
    // It may have happened just before the second grant.
    story.expect_good();
    story.call(3, (31, 40), Operation::Read, found(1, "one"));
    assert_eq!(story.expect_violated("NO_ORDER").len(), 3);
}

#[test]
fn a_write_of_unknown_end_is_fenced_for_good() {
    let mut story = a_file();
    story.call(1, (11, 20), replace("a", under(6)), unknown());
    story.call(2, (21, 30), Operation::Acquire { shared: false }, granted(7));
    story.call(3, (31, 40), Operation::Read, found(1, "one"));
    story.expect_good();
    story.call(3, (41, 50), Operation::Read, found(2, "a"));
    story.expect_violated("NO_ORDER");
}

#[test]
fn what_only_its_digest_is_known_of_is_checked_all_the_same() {
    let Digest { size, crc32c } = text("a big one").digest();
    let data = Data::Digest { size, crc32c };
    let big = Operation::Replace { data, condition: if_version(1) };
    let mut story = a_file();
    story.call(1, (11, 20), big, written(2, "a big one"));
    story.call(1, (21, 30), append("!"), written_at(3, "a big one!", 9));
    story.expect_good();
    story.call(1, (31, 40), Operation::Read, found(3, "a bug one!"));
    story.expect_violated("NO_ORDER");
}

#[test]
fn a_patch_of_what_only_its_digest_is_known_of_keeps_its_size() {
    let patched = |offset, read: &str| {
        let Digest { size, crc32c } = text("a big one").digest();
        let big = Operation::Replace { data: Data::Digest { size, crc32c }, condition: if_version(1) };
        let mut story = a_file();
        story.call(1, (11, 20), big, written(2, "a big one"));
        story.call(1, (21, 30), patch(offset, "XY", if_version(2)), unknown());
        story.call(1, (31, 40), Operation::Read, found(3, read));
        story
    };
    patched(1, "aXYig one").expect_good();
    patched(8, "a big onXY").expect_good();
    patched(1, "aXYig one+").expect_violated("NO_ORDER");
    patched(8, "a big onX").expect_violated("NO_ORDER");
}

#[test]
fn what_is_too_large_to_be_counted_is_no_answer_and_no_panic() {
    let huge = |data| Operation::Append { data, condition: Condition::default() };
    let data = Data::Digest { size: u64::MAX, crc32c: 1 };
    let receipt = |version| Outcome::Written {
        version: Version(version),
        revision: Revision(u64::MAX),
        size: u64::MAX,
        crc32c: 1,
        offset: 0,
    };
    let mut story = Story::default();
    story.call(1, (0, 5), huge(data.clone()), receipt(1));
    story.expect_good();
    story.call(1, (6, 10), huge(data.clone()), receipt(2));
    assert_eq!(story.expect_violated("NO_ORDER"), [0, 1]);
    let mut story = a_file();
    story.call(
        1,
        (11, 20),
        Operation::Read,
        Outcome::Found { version: Version(u64::MAX), revision: Revision(u64::MAX), size: 1, crc32c: 1 },
    );
    story.call(1, (21, 30), append("a"), written(3, "a"));
    story.expect_violated("NO_ORDER");
}

#[test]
fn reads_that_failed_are_counted() {
    let mut story = a_file();
    story.call(1, (11, 20), Operation::Read, refused("DATA_LOSS"));
    story.call(1, (21, 30), Operation::Read, unknown());
    story.call(1, (31, 40), append("+a"), unknown());
    story.expect_good();
    assert_eq!(story.report().failed_read_count, 2);
}

#[test]
fn paths_are_checked_each_by_itself() {
    let mut story = a_file();
    story.call(1, (11, 20), Operation::Read, Outcome::Absent);
    story.calls[1].path = "/other".parse().unwrap();
    story.expect_good();
    assert_eq!(story.report().path_count, 2);
}

#[test]
fn a_history_beyond_the_bounds_is_undecided_and_never_good() {
    let mut story = a_file();
    story.call(2, (11, 20), Operation::Read, found(1, "one"));
    for bounds in [Bounds { steps_max: 1, ..Bounds::default() }, Bounds { configurations_max: 1, ..Bounds::default() }]
    {
        let report = check(&story.calls, bounds);
        assert_eq!(report.verdict(), Verdict::Undecided);
        assert_eq!(report.undecided, ["/f".parse().unwrap()]);
    }
}
