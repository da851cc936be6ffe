//! A call as a line of a history: read with care, so that a mistake of whoever wrote it is not held against the store.
//!
//! A name that is not known is an error, for a condition that is misspelt would be none; and so is an answer that the
//! operation cannot have had.

use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;

use super::history::{Call, Operation, Outcome};
use crate::types::Version;

impl Call {
    /// The line of a history; no line break at its end.
    pub fn to_line(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BadCall {
    #[error(transparent)]
    Malformed(#[from] serde_json::Error),
    #[error("call {number} has `{field}`, which means nothing there")]
    UnknownField { number: u64, field: String },
    #[error("call {number} returned before it was invoked")]
    BackInTime { number: u64 },
    #[error("call {number} cannot have been answered so: {operation}: {outcome}")]
    Unfit { number: u64, operation: Box<Operation>, outcome: Box<Outcome> },
    #[error("call {number} is no write, and has a write id")]
    NoWrite { number: u64 },
}

impl FromStr for Call {
    type Err = BadCall;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let given: Value = serde_json::from_str(line)?;
        let call = Self::deserialize(&given)?;
        let number = call.number;
        if let Some(field) = unknown_field(&given, &serde_json::to_value(&call)?) {
            return Err(BadCall::UnknownField { number, field });
        }
        if call.returned < call.invoked {
            return Err(BadCall::BackInTime { number });
        }
        if call.write_id.is_some() && call.operation.condition().is_none() {
            return Err(BadCall::NoWrite { number });
        }
        if !fits(&call.operation, &call.outcome) {
            let (operation, outcome) = (Box::new(call.operation), Box::new(call.outcome));
            return Err(BadCall::Unfit { number, operation, outcome });
        }
        Ok(call)
    }
}

/// The first field, with those that it is in, that was given and not understood.
fn unknown_field(given: &Value, understood: &Value) -> Option<String> {
    given.as_object()?.iter().find_map(|(name, given)| match understood.get(name) {
        // As good as absent.
        None if given.is_null() => None,
        None => Some(name.clone()),
        Some(understood) => unknown_field(given, understood).map(|field| format!("{name}.{field}")),
    })
}

/// Whether the answer is one to this question, right or wrong.
fn fits(operation: &Operation, outcome: &Outcome) -> bool {
    match (operation, outcome) {
        (Operation::Hold { .. }, outcome) => *outcome == Outcome::Done,
        (_, Outcome::Unknown { .. } | Outcome::Refused { current: None, .. }) => true,
        (operation, Outcome::Refused { current: Some(current), .. }) => may_have_missed(operation, *current),
        (Operation::Read, outcome) => matches!(outcome, Outcome::Found { .. } | Outcome::Absent),
        (Operation::Replace { .. } | Operation::Append { .. } | Operation::Patch { .. }, outcome) => {
            matches!(outcome, Outcome::Written { .. })
        }
        (Operation::Acquire { .. }, outcome) => matches!(outcome, Outcome::Granted { .. }),
        (Operation::Delete { .. } | Operation::Release { .. }, outcome) => *outcome == Outcome::Done,
    }
}

/// Whether it can have been refused because of the version that was there.
fn may_have_missed(operation: &Operation, current: Version) -> bool {
    let needs_file = matches!(operation, Operation::Patch { .. } | Operation::Delete { .. });
    let expects = operation.condition().is_some_and(|condition| condition.if_version.is_some());
    expects || (needs_file && current == Version(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::history::{Condition, Data, Moment},
        types::{FencingToken, Revision},
    };

    /// Of a call on `/a`.
    fn parsed(operation: &str, outcome: &str) -> Result<Call, BadCall> {
        format!(
            r#"{{"number":1,"client":1,"path":"/a","invokedNs":5,"returnedNs":5,"operation":{operation},"outcome":{outcome}}}"#
        )
        .parse()
    }

    #[test]
    fn a_line_says_all_of_a_call() {
        let condition = Condition { if_version: Some(Version(3)), token: Some(FencingToken(9)) };
        let call = Call {
            number: 7,
            client: 2,
            path: "/t/a".parse().unwrap(),
            invoked: Moment(1_000_002_000),
            returned: Moment(2_000_000_000),
            write_id: Some("w1".to_owned()),
            operation: Operation::Append { data: Data::Text { text: "x\n".to_owned() }, condition },
            outcome: Outcome::Written { version: Version(4), revision: Revision(70), size: 5, crc32c: 6, offset: 3 },
        };
        let line = call.to_line().unwrap();
        assert!(
            line.contains(r#""operation":{"kind":"append","data":{"text":"x\n"},"ifVersion":3,"token":9}"#),
            "{line}"
        );
        assert!(line.contains(r#""writeId":"w1""#), "{line}");
        assert_eq!(line.parse::<Call>().unwrap(), call);
        let text = call.to_string();
        assert!(text.starts_with("1.000002 s to 2.000000 s  client 2: append of 2 bytes"), "{text}");
    }

    #[test]
    fn a_line_that_makes_no_sense_is_an_error() {
        let call = |path: &str, returned: u64| {
            format!(
                r#"{{"number":1,"client":1,"path":"{path}","invokedNs":5,"returnedNs":{returned},"operation":{{"kind":"read"}},"outcome":{{"kind":"absent"}}}}"#
            )
        };
        assert!(call("/a", 5).parse::<Call>().is_ok());
        assert!(matches!(call("/a", 4).parse::<Call>(), Err(BadCall::BackInTime { number: 1 })));
        assert!(call("a", 5).parse::<Call>().is_err());
        assert!("{".parse::<Call>().is_err());
        let with_id = call("/a", 5).replace(r#""number":1"#, r#""number":1,"writeId":"w""#);
        assert!(matches!(with_id.parse::<Call>(), Err(BadCall::NoWrite { number: 1 })));
    }

    #[test]
    fn what_is_misspelt_is_not_taken_for_absent() {
        let delete = |condition: &str| parsed(&format!(r#"{{"kind":"delete"{condition}}}"#), r#"{"kind":"done"}"#);
        assert!(delete("").is_ok());
        assert!(delete(r#","ifVersion":3"#).is_ok());
        assert!(delete(r#","ifVersion":null"#).is_ok());
        let error = delete(r#","if_version":3"#).unwrap_err().to_string();
        assert!(error.contains("`operation.if_version`"), "{error}");
    }

    #[test]
    fn an_answer_to_another_question_is_not_held_against_the_store() {
        let text = r#""data":{"text":"x"}"#;
        let written = r#"{"kind":"written","version":1,"revision":1,"size":1,"crc32c":1,"offset":0}"#;
        let missed = |current: u64| format!(r#"{{"kind":"refused","reason":"","current":{current}}}"#);
        let append = format!(r#"{{"kind":"append",{text}}}"#);
        let append_if = format!(r#"{{"kind":"append",{text},"ifVersion":1}}"#);
        let patch = format!(r#"{{"kind":"patch","offset":0,{text},"token":1}}"#);
        for (operation, outcome) in
            [(&*append, written), (&append_if, &missed(3)), (&patch, &missed(0)), (r#"{"kind":"delete"}"#, &missed(0))]
        {
            assert!(parsed(operation, outcome).is_ok(), "{operation} {outcome}");
        }
        for (operation, outcome) in [
            (&*append, r#"{"kind":"done"}"#),
            (r#"{"kind":"read"}"#, written),
            (r#"{"kind":"delete"}"#, written),
            (r#"{"kind":"acquire","shared":false}"#, r#"{"kind":"absent"}"#),
            (r#"{"kind":"release","token":1}"#, r#"{"kind":"granted","token":1}"#),
            (r#"{"kind":"hold","token":1}"#, r#"{"kind":"unknown","reason":""}"#),
            (&append, &missed(3)),
            (&patch, &missed(3)),
            (r#"{"kind":"read"}"#, &missed(0)),
        ] {
            assert!(
                matches!(parsed(operation, outcome), Err(BadCall::Unfit { number: 1, .. })),
                "{operation} {outcome}"
            );
        }
    }
}
