//! Histories that are good and histories that are bad, each for a reason of its own.

mod excerpts;
mod files;
mod locks;
mod random;
mod repeats;

use super::{
    act::Exchange,
    history::{Condition, Data, Digest, Moment},
    register::State,
    search::Timed,
    *,
};
use crate::types::{FencingToken, Revision, Version};

/// A history in the making: calls get numbers as they come. Receipts and reads have revisions that fit their versions.
#[derive(Default)]
struct Story {
    calls: Vec<Call>,
}

impl Story {
    fn call(&mut self, client: u32, (invoked, returned): (u64, u64), operation: Operation, outcome: Outcome) {
        let number = self.calls.len() as u64;
        let path = "/f".parse().unwrap();
        let (invoked, returned) = (Moment(invoked), Moment(returned));
        self.calls.push(Call { number, client, path, invoked, returned, write_id: None, operation, outcome });
    }

    /// Under the id.
    fn write(&mut self, id: &str, moments: (u64, u64), operation: Operation, outcome: Outcome) {
        self.call(1, moments, operation, outcome);
        self.calls.last_mut().unwrap().write_id = Some(id.to_owned());
    }

    fn report(&self) -> Report {
        check(&self.calls, Bounds::default())
    }

    fn expect_good(&self) {
        assert_eq!(self.report().verdict(), Verdict::Good, "{:#?}", self.report());
    }

    /// The numbers of the calls that show it.
    fn expect_violated(&self, kind: &str) -> Vec<u64> {
        let report = self.report();
        let kinds: Vec<_> = report.violations.iter().map(|violation| violation.kind.as_str()).collect();
        assert_eq!(kinds, [kind], "{report:#?}");
        report.violations[0].calls.iter().map(|call| call.number).collect()
    }
}

/// What the search is given of these calls on one path.
fn timed(calls: &[Call]) -> Vec<Timed<Exchange<'_>>> {
    let calls: Vec<_> = calls.iter().collect();
    acts(&calls).iter().filter(|act| is_checked(act)).map(Act::timed).collect()
}

/// That looks at these calls on one path.
fn register(calls: &[Call]) -> Register<'_> {
    let calls: Vec<_> = calls.iter().collect();
    Register::new(&acts(&calls).iter().collect::<Vec<_>>())
}

fn text(text: &str) -> Data {
    Data::Text { text: text.to_owned() }
}

/// Version 0: the file must not exist.
fn if_version(version: u64) -> Condition {
    Condition { if_version: Some(Version(version)), token: None }
}

fn under(token: u64) -> Condition {
    Condition { if_version: None, token: Some(FencingToken(token)) }
}

fn replace(data: &str, condition: Condition) -> Operation {
    Operation::Replace { data: text(data), condition }
}

fn append(data: &str) -> Operation {
    Operation::Append { data: text(data), condition: Condition::default() }
}

fn patch(offset: u64, data: &str, condition: Condition) -> Operation {
    Operation::Patch { offset, data: text(data), condition }
}

fn delete(condition: Condition) -> Operation {
    Operation::Delete { condition }
}

/// A write's receipt, for a whole content; its data began at the offset.
fn written_at(version: u64, content: &str, offset: u64) -> Outcome {
    let Digest { size, crc32c } = text(content).digest();
    Outcome::Written { version: Version(version), revision: Revision(version * 10), size, crc32c, offset }
}

fn written(version: u64, content: &str) -> Outcome {
    written_at(version, content, 0)
}

fn found(version: u64, content: &str) -> Outcome {
    let Digest { size, crc32c } = text(content).digest();
    Outcome::Found { version: Version(version), revision: Revision(version * 10), size, crc32c }
}

fn granted(token: u64) -> Outcome {
    Outcome::Granted { token: FencingToken(token) }
}

fn mismatch(current: u64) -> Outcome {
    Outcome::Refused { reason: "VERSION_MISMATCH".to_owned(), current: Some(Version(current)) }
}

fn refused(reason: &str) -> Outcome {
    Outcome::Refused { reason: reason.to_owned(), current: None }
}

fn unknown() -> Outcome {
    Outcome::Unknown { reason: "DEADLINE_EXCEEDED".to_owned() }
}
