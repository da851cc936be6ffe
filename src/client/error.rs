//! What a call of the client fails with: the failure the cluster named, or the nearest one to what went wrong on the way.

use std::{fmt, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    pb,
    status::{DOMAIN, Failure, Reason, Retry},
};

/// Why a call failed, after all the retries that could help.
///
/// Match [`Error::reason`], never the text. See [`Error::may_have_taken_effect`] for what is not known after a failure.
#[derive(Clone)]
pub struct Error {
    failure: Box<Failure>,
    retry_after: Option<Duration>,
    answered: bool,
    /// A try was sent and no answer of ours came back; kept through all tries after it.
    in_doubt: bool,
}

impl Error {
    /// A failure that the client found itself.
    pub(crate) fn new(reason: Reason, message: impl fmt::Display) -> Self {
        Self::from(Failure::new(reason, message))
    }

    /// An answer that no server of ours gives: the far side is something else, or of another version.
    pub(crate) fn malformed(what: impl fmt::Display) -> Self {
        Self::new(Reason::Internal, format_args!("malformed answer: {what}"))
    }

    /// Nothing came back in time.
    pub(crate) fn silence(waited: Duration, what: impl fmt::Display) -> Self {
        let mut error = Self::new(Reason::DeadlineExceeded, format_args!("{what}: no answer for {waited:?}"));
        error.answered = false;
        error.in_doubt()
    }

    /// Nobody could be reached at all.
    pub(crate) fn unreachable(message: impl fmt::Display) -> Self {
        let mut error = Self::new(Reason::Unavailable, message);
        error.answered = false;
        error.in_doubt()
    }

    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    pub fn reason(&self) -> Reason {
        self.failure.reason
    }

    /// The exit code of `dfs-cli` for this failure.
    pub fn exit_code(&self) -> u8 {
        self.reason().exit_code()
    }

    /// What the failure says about `key`, such as `current` for a version mismatch.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.failure.metadata.get(key).map(String::as_str)
    }

    /// Whether a mutation that failed so may have been carried out all the same, or may be yet: when a server says that it
    /// does not know, and also when the last try was refused but an earlier one was never answered.
    ///
    /// Who holds a lock for it should let the lease run out rather than release: an expired lease fences what is still
    /// under way, a release does not. Repeating the mutation with the same write id tells what became of it.
    pub fn may_have_taken_effect(&self) -> bool {
        // Every other reason is given before anything was committed, or instead.
        let unsaid = [Reason::Unavailable, Reason::DeadlineExceeded, Reason::NoQuorum, Reason::Internal];
        self.is_in_doubt() || unsaid.contains(&self.reason())
    }

    /// Some try before, or this one, went unanswered.
    pub(crate) fn in_doubt(mut self) -> Self {
        self.in_doubt = true;
        self
    }

    /// Whether some try went unanswered, whatever was said to the others.
    pub(crate) fn is_in_doubt(&self) -> bool {
        // A server that lost its lead meanwhile says so.
        self.in_doubt || self.metadata("outcome") == Some("unknown")
    }

    /// Whether the same call may succeed later, or elsewhere.
    pub(crate) fn may_be_tried_again(&self) -> bool {
        matches!(self.reason().retry(), Retry::Later | Retry::AfterRefresh)
    }

    /// The wait that the server asked for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether a server of ours said this, rather than its silence or a broken connection.
    pub(crate) fn is_answer(&self) -> bool {
        self.answered
    }

    /// The same failure, told to have happened while doing `what`.
    pub(crate) fn during(mut self, what: impl fmt::Display) -> Self {
        self.failure.message = format!("{what}: {}", self.failure.message);
        self
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let retry_after = failure.reason.retry_after();
        Self { failure: Box::new(failure), retry_after, answered: true, in_doubt: false }
    }
}

impl From<Status> for Error {
    /// Ours carry an `ErrorInfo`. What does not comes from the connection: it may be tried again, elsewhere.
    fn from(status: Status) -> Self {
        let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let answered = status.get_details_error_info().is_some_and(|info| info.domain == DOMAIN);
        let mut failure = Failure::from(&status);
        if !answered && matches!(status.code(), Code::Internal | Code::Ok) {
            // A stream that was reset, or ended without a status.
            failure.reason = Reason::Unavailable;
        }
        if failure.message.is_empty() {
            failure.message = match status.code() {
                Code::Unimplemented => "what listens there does not offer this call",
                _ => "the connection broke",
            }
            .to_owned();
        }
        Self { failure: Box::new(failure), retry_after, answered, in_doubt: !answered }
    }
}

impl From<pb::ErrorStatus> for Error {
    fn from(status: pb::ErrorStatus) -> Self {
        let retry_after = (status.retry_after_ms > 0).then(|| Duration::from_millis(status.retry_after_ms));
        Self { failure: Box::new(Failure::from(status)), retry_after, answered: true, in_doubt: false }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.failure, self.failure.metadata)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_ours_is_told_from_a_broken_connection() {
        let ours = Error::from(Status::from(Failure::new(Reason::Internal, "a broken disk")));
        assert!(ours.is_answer());
        assert_eq!(ours.reason(), Reason::Internal);
        let broken = Error::from(Status::internal("h2 protocol error: stream reset"));
        assert!(!broken.is_answer());
        assert_eq!(broken.reason(), Reason::Unavailable);
    }

    #[test]
    fn the_wait_a_server_asks_for_is_kept() {
        let error = Error::from(Status::from(Failure::new(Reason::NoQuorum, "an election")));
        assert_eq!(error.retry_after(), Reason::NoQuorum.retry_after());
        let error = Error::from(pb::ErrorStatus { retry_after_ms: 700, ..Default::default() });
        assert_eq!(error.retry_after(), Some(Duration::from_millis(700)));
    }

    #[test]
    fn a_refusal_is_certain_and_silence_is_not() {
        assert!(Error::silence(Duration::ZERO, "").may_have_taken_effect());
        assert!(Error::from(Status::unavailable("")).may_have_taken_effect());
        for certain in [Reason::VersionMismatch, Reason::FencingTokenStale, Reason::LockRequired, Reason::BadPath] {
            assert!(!Error::new(certain, "").may_have_taken_effect(), "{certain}");
        }
    }

    #[test]
    fn a_refusal_before_the_commit_is_certain_wherever_it_sends_the_client() {
        for reason in [Reason::NotLeader, Reason::NotEnoughReplicas, Reason::NoSpace, Reason::ReadOnly] {
            let refused = Error::from(Status::from(Failure::new(reason, "")));
            assert!(!refused.may_have_taken_effect(), "{reason}");
        }
        let unknown = Error::from(Status::from(Failure::new(Reason::Unavailable, "the outcome is not known")));
        assert!(unknown.may_have_taken_effect());
    }

    #[test]
    fn a_time_out_of_the_transport_is_a_deadline() {
        assert_eq!(Error::from(Status::cancelled("Timeout expired")).reason(), Reason::DeadlineExceeded);
    }
}
