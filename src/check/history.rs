//! What clients asked for and were told, with when: the one thing that is checked.
//!
//! A history is a file of JSON, a [`Call`] a line, so that whoever doubts a verdict can check it by other means, and so
//! that histories of other programs can be checked here.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use super::line::BadCall;
use crate::types::{FencingToken, Path, Revision, Version, crc32c};

/// Nanoseconds since the history began, by one clock that never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06} s", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1000)
    }
}

/// One call of one client, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Each call of a history has its own.
    pub number: u64,
    pub client: u32,
    #[serde(with = "as_text")]
    pub path: Path,
    #[serde(rename = "invokedNs")]
    pub invoked: Moment,
    /// When the client was told, or gave up.
    #[serde(rename = "returnedNs")]
    pub returned: Moment,
    /// What tells the store that a write is a repeat of another, which it then answers as it answered that one: the two
    /// happen once. A repeat has all that the first had but its number and its moments. `None`: no call repeats this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub write_id: Option<String>,
    pub operation: Operation,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Operation {
    /// The newest version, whole.
    Read,
    Replace {
        data: Data,
        #[serde(flatten)]
        condition: Condition,
    },
    Append {
        data: Data,
        #[serde(flatten)]
        condition: Condition,
    },
    Patch {
        offset: u64,
        data: Data,
        #[serde(flatten)]
        condition: Condition,
    },
    Delete {
        #[serde(flatten)]
        condition: Condition,
    },
    /// The path's lock. Who writes under a lock does not release it while the end of such a write is unknown.
    Acquire {
        shared: bool,
    },
    /// No call: at this moment the client knew, by its own clock, that its lease still ran.
    Hold {
        token: FencingToken,
    },
    Release {
        token: FencingToken,
    },
}

/// What must hold for a write; nothing is written otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// 0: the file must not exist.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub if_version: Option<Version>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub token: Option<FencingToken>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Outcome {
    /// A write's receipt; size and checksum are those of the whole version.
    Written {
        version: Version,
        revision: Revision,
        size: u64,
        crc32c: u32,
        offset: u64,
    },
    /// What a read found; the checksum is that of the bytes that came.
    Found {
        version: Version,
        /// Of the change that made the file what it was: the version's write, or a later one of what goes with it, such as
        /// its permissions. Of two changes the later one has the higher revision.
        revision: Revision,
        size: u64,
        crc32c: u32,
    },
    /// There was no file.
    Absent,
    Granted {
        token: FencingToken,
    },
    /// As asked for: a delete, a hold, a release.
    Done,
    /// It did not happen, and never will.
    Refused {
        reason: String,
        /// The version that the file had instead of the expected one; 0 if there was none, and so for a delete or a patch
        /// that found nothing, whatever it expected. `None`: the refusal tells nothing of the file.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        current: Option<Version>,
    },
    /// No answer came: it may have happened, or may yet.
    Unknown {
        reason: String,
    },
}

/// Bytes that were written: as text, or only what identifies them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Data {
    Text { text: String },
    Digest { size: u64, crc32c: u32 },
}

/// Size and CRC32C: what identifies some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest {
    pub size: u64,
    pub crc32c: u32,
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self { size: bytes.len() as u64, crc32c: crc32c(bytes) }
    }
}

impl Operation {
    /// What must hold for it, if it is a write.
    pub fn condition(&self) -> Option<Condition> {
        match self {
            Self::Replace { condition, .. }
            | Self::Append { condition, .. }
            | Self::Patch { condition, .. }
            | Self::Delete { condition } => Some(*condition),
            Self::Read | Self::Acquire { .. } | Self::Hold { .. } | Self::Release { .. } => None,
        }
    }
}

impl Data {
    pub fn digest(&self) -> Digest {
        match self {
            Self::Text { text } => Digest::of(text.as_bytes()),
            Self::Digest { size, crc32c } => Digest { size: *size, crc32c: *crc32c },
        }
    }

    pub fn size(&self) -> u64 {
        match self {
            Self::Text { text } => text.len() as u64,
            Self::Digest { size, .. } => *size,
        }
    }

    /// `None`: not kept.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Text { text } => Some(text.as_bytes()),
            Self::Digest { .. } => None,
        }
    }
}

/// As a person reads it: who, when, what, and what came of it.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, path, invoked, returned, operation, outcome, .. } = self;
        write!(f, "{invoked} to {returned}  client {client}: {operation} of {path}: {outcome}")
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read => f.write_str("read"),
            Self::Replace { data, condition } => write!(f, "replace by {}{condition}", data.digest()),
            Self::Append { data, condition } => write!(f, "append of {}{condition}", data.digest()),
            Self::Patch { offset, data, condition } => write!(f, "patch at {offset} by {}{condition}", data.digest()),
            Self::Delete { condition } => write!(f, "delete{condition}"),
            Self::Acquire { shared: false } => f.write_str("lock"),
            Self::Acquire { shared: true } => f.write_str("shared lock"),
            Self::Hold { token } => write!(f, "hold of the lock under token {token}"),
            Self::Release { token } => write!(f, "release of token {token}"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(version) = self.if_version {
            write!(f, ", if version {version}")?;
        }
        if let Some(token) = self.token {
            write!(f, ", under token {token}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes {:08x}", self.size, self.crc32c)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written { version, revision, size, crc32c, .. } => {
                write!(f, "version {version} written, {size} bytes {crc32c:08x}, revision {revision}")
            }
            Self::Found { version, revision, size, crc32c } => {
                write!(f, "version {version} found, {size} bytes {crc32c:08x}, revision {revision}")
            }
            Self::Absent => f.write_str("no file"),
            Self::Granted { token } => write!(f, "token {token}"),
            Self::Done => f.write_str("done"),
            Self::Refused { reason, current: Some(current) } => write!(f, "refused, {reason}, version {current}"),
            Self::Refused { reason, current: None } => write!(f, "refused, {reason}"),
            Self::Unknown { reason } => write!(f, "unknown, {reason}"),
        }
    }
}

/// A path in JSON.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::types::Path;

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(path.as_str())
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<Path, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
