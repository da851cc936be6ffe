//! What can go wrong in a command, the line it is told in, and the exit code it ends with.
//!
//! Every failure of a server keeps its reason: scripts match the reason or the exit code, never the text.

use std::{collections::BTreeMap, fmt, io, path::Path};

use serde::Serialize;

use super::own_reason::OwnReason;
use crate::{
    client,
    status::{Failure, Reason},
    types::BadPath,
};

/// Exit codes that are not a server's reason; the rest is in [`Reason::exit_code`].
pub mod exit {
    pub const OK: u8 = 0;
    pub const OTHER: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const NOT_FOUND: u8 = 3;
    /// A command over many files could not do some of them.
    pub const PARTIAL: u8 = 9;
    /// The question was answered, and the answer is not good.
    pub const UNHEALTHY: u8 = 10;
    /// 128 and the signal's number, as a shell has it.
    pub const SIGNAL_BASE: u8 = 128;
}

/// Why a command ended without doing what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server, or the way to it, said no.
    #[error("{}", .0.failure().message)]
    Failure(client::Error),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A file of this machine.
    #[error("{what}: {source}")]
    Local { what: String, source: io::Error },
    /// Something of this machine that has no file: a terminal, an editor, a configuration.
    #[error("{0}")]
    Here(String),
    /// The lease ran out while its lock was needed.
    #[error("{0}")]
    LeaseLost(String),
    #[error("{failed} of {total} could not be done")]
    Partial { failed: u64, total: u64 },
    #[error("{0}")]
    Unhealthy(String),
    /// A health check, with the exit code that grpc_health_probe has for it.
    #[error("{message}")]
    Probe { code: u8, message: String },
    /// Of this machine too, with an exit code that says which: that of a shell for a command that cannot be run, for one.
    #[error("{message}")]
    HereWithCode { code: u8, message: String },
    /// Somebody decided otherwise in time.
    #[error("the text was thrown away; nothing was written")]
    ThrownAway,
    /// Everything has been said; only the code remains.
    #[error("exit code {0}")]
    Silent(u8),
    #[error("ended by signal {signal}")]
    Signal { signal: u8 },
    /// Whoever read the output has had enough.
    #[error("the reader of the output has gone")]
    BrokenPipe,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn local(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Local { what: what.to_string(), source }
    }

    pub fn local_file(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Local { what: path.display().to_string(), source }
    }

    /// The reason of the catalogue, if a server gave one.
    pub fn reason(&self) -> Option<Reason> {
        self.why().ok()
    }

    /// A reason of the catalogue, or else one of our own.
    fn why(&self) -> Result<Reason, OwnReason> {
        Err(match self {
            Self::Failure(error) => return Ok(error.reason()),
            Self::LeaseLost(_) => return Ok(Reason::SessionExpired),
            Self::Usage(_) | Self::Probe { code: exit::OTHER, .. } => OwnReason::Usage,
            Self::Local { .. } => OwnReason::LocalFile,
            Self::Here(_) | Self::HereWithCode { .. } => OwnReason::Local,
            Self::ThrownAway => OwnReason::Cancelled,
            Self::Partial { .. } => OwnReason::Partial,
            Self::Unhealthy(_) | Self::Probe { .. } => OwnReason::Unhealthy,
            Self::Silent(_) => OwnReason::Exit,
            Self::Signal { .. } => OwnReason::Interrupted,
            Self::BrokenPipe => OwnReason::BrokenPipe,
        })
    }

    fn reason_text(&self) -> &'static str {
        match self.why() {
            Ok(reason) => reason.as_str(),
            Err(own) => own.as_str(),
        }
    }

    pub fn exit_code(&self) -> u8 {
        match (self, self.why()) {
            (Self::Probe { code, .. } | Self::HereWithCode { code, .. } | Self::Silent(code), _) => *code,
            (Self::Signal { signal }, _) => exit::SIGNAL_BASE.saturating_add(*signal),
            (_, Ok(reason)) => reason.exit_code(),
            (_, Err(own)) => own.exit_code().unwrap_or(exit::OTHER),
        }
    }

    /// Whether a write that ended so may have been carried out, or may be yet.
    pub fn may_have_taken_effect(&self) -> bool {
        match self {
            Self::Failure(error) => error.may_have_taken_effect(),
            // It was dropped where it stood.
            Self::Signal { .. } | Self::LeaseLost(_) => true,
            _ => false,
        }
    }

    /// Whether nothing of what else was asked for can be done after this.
    pub fn ends_all(&self) -> bool {
        matches!(self, Self::BrokenPipe | Self::Signal { .. })
    }

    /// Whether there is something to tell.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Silent(_) | Self::BrokenPipe | Self::Signal { .. })
    }

    /// What to do about it, where one thing is likely to help.
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Partial { .. } => Some("the failures are listed above"),
            _ => hint(self.reason()?),
        }
    }

    /// `REASON: text (hint)`.
    pub fn line(&self) -> String {
        self.line_about("")
    }

    /// The same for one of many: `REASON: name: text (hint)`, unless the text names it already.
    pub fn line_about(&self, name: &str) -> String {
        let text = one_line(&self.to_string());
        let name = if text.contains(name) { String::new() } else { format!("{name}: ") };
        let hint = self.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{}: {name}{text}{hint}", self.reason_text())
    }

    /// The same for programs.
    pub fn object(&self) -> ErrorObject {
        let metadata = match self {
            Self::Failure(error) => {
                error.failure().metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
            }
            _ => BTreeMap::new(),
        };
        ErrorObject {
            subject: None,
            reason: self.reason_text(),
            message: self.to_string(),
            hint: self.hint(),
            metadata,
            exit_code: self.exit_code(),
        }
    }
}

/// A failure on stderr with `-o json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorObject {
    pub reason: &'static str,
    pub message: String,
    /// Which of many it is about, as it was asked for; none when that is plain.
    pub subject: Option<String>,
    pub hint: Option<&'static str>,
    pub metadata: BTreeMap<String, String>,
    pub exit_code: u8,
}

fn hint(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::EntryNotFound => Some("`list` shows what is there; a write with -p makes missing parents"),
        Reason::VersionNotFound => Some("`versions PATH` lists those that are kept"),
        Reason::EntryExists => Some("`-f` replaces, where a command has it"),
        Reason::DirectoryNotEmpty => Some("`rm -r` deletes a directory with all below it"),
        Reason::IsADirectory => Some("`list` shows what is in it"),
        Reason::VersionMismatch => Some("read it again, then redo the change on what is there now"),
        Reason::LockHeld => Some("`lock info PATH` says who holds it; `--wait` waits longer"),
        Reason::LockRequired => Some("give --if-version, or lock it with `lock run`"),
        Reason::FencingTokenStale => Some("that token is no longer good; lock it anew"),
        Reason::NotLockHolder => Some("`lock info PATH` says who holds it"),
        Reason::SessionExpired | Reason::SessionNotFound => Some("lock it anew"),
        Reason::NotEnoughReplicas | Reason::NoLiveReplica => Some("`status` says which servers are down"),
        Reason::Unavailable | Reason::DeadlineExceeded | Reason::NotLeader => {
            Some("is the cluster running? `ping` tells; `--directory HOST:PORT` says where it is")
        }
        Reason::ChecksumMismatch => Some("`replicas PATH` compares the copies"),
        Reason::NoSpace => Some("delete something, raise the quota if there is one, or add a file server"),
        _ => None,
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure.into())
    }
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        Self::Failure(error)
    }
}

impl From<BadPath> for Error {
    fn from(error: BadPath) -> Self {
        Failure::new(Reason::BadPath, error).into()
    }
}

/// Of standard output: everything else names its file.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Local { what: "standard output".to_owned(), source: error },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_catalogue() {
        for (reason, code) in [
            (Reason::BadPath, 2),
            (Reason::EntryNotFound, 3),
            (Reason::VersionMismatch, 4),
            (Reason::LockHeld, 5),
            (Reason::NotEnoughReplicas, 6),
            (Reason::PermissionDenied, 7),
            (Reason::ChecksumMismatch, 8),
            (Reason::NoSpace, 11),
        ] {
            assert_eq!(Error::from(Failure::new(reason, "x")).exit_code(), code, "{reason}");
        }
        assert_eq!(Error::Usage(String::new()).exit_code(), 2);
        assert_eq!(Error::LeaseLost(String::new()).exit_code(), 5);
        assert_eq!(Error::Partial { failed: 1, total: 2 }.exit_code(), 9);
        assert_eq!(Error::Unhealthy(String::new()).exit_code(), 10);
        assert_eq!(Error::Signal { signal: 2 }.exit_code(), 130);
        assert_eq!(Error::Signal { signal: 15 }.exit_code(), 143);
        assert_eq!(Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(), 0);
    }

    #[test]
    fn only_an_answer_ends_a_write() {
        let failure = |reason| Error::from(Failure::new(reason, "x"));
        for certain in [failure(Reason::VersionMismatch), failure(Reason::NoSpace), Error::Usage(String::new())] {
            assert!(!certain.may_have_taken_effect(), "{certain:?}");
        }
        for open in [failure(Reason::DeadlineExceeded), Error::Signal { signal: 2 }, Error::LeaseLost(String::new())] {
            assert!(open.may_have_taken_effect(), "{open:?}");
        }
    }

    #[test]
    fn an_error_is_one_line_with_its_reason_and_a_hint() {
        let error = Error::from(Failure::new(Reason::DirectoryNotEmpty, "/a is\nnot empty"));
        assert_eq!(
            error.line(),
            "DIRECTORY_NOT_EMPTY: /a is not empty (`rm -r` deletes a directory with all below it)"
        );
        assert_eq!(Error::Usage("no such flag".to_owned()).line(), "USAGE: no such flag");
        assert!(error.line_about("/a").starts_with("DIRECTORY_NOT_EMPTY: /a is not empty ("));
        assert!(error.line_about("../a").starts_with("DIRECTORY_NOT_EMPTY: ../a: /a is not empty ("));
    }

    #[test]
    fn an_error_for_programs_has_its_metadata() {
        let failure = Failure::new(Reason::VersionMismatch, "changed").with("current", 7);
        let object = serde_json::to_value(Error::from(failure).object()).unwrap();
        assert_eq!(object["reason"], "VERSION_MISMATCH");
        assert_eq!(object["metadata"]["current"], "7");
        assert_eq!(object["exitCode"], 4);
    }
}
