//! The words of dfs as types: two of them can never be swapped by mistake.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Defines a number with a meaning of its own.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

/// Defines a UUID with a meaning of its own.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh one, from the system's randomness.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

number! {
    /// A file or directory; survives renames. [`Inode::ROOT`] is the root directory, 0 is none.
    Inode(u64)
}
number! {
    /// 1, 2, 3 … of one file's content; 0 is none: a file that does not exist.
    Version(u64)
}
number! {
    /// The Directory's count of applied mutations; orders everything that ever happened to the namespace.
    Revision(u64)
}
number! {
    /// A replica group: the file servers that hold the same blobs. From 0.
    GroupId(u32)
}
number! {
    /// The number of a group's configuration, one higher at every change.
    Epoch(u64)
}
number! {
    /// What a lock's grant is known by; rises with every grant, never goes back. See [`crate::token`] for its shape.
    FencingToken(u64)
}
number! {
    /// Milliseconds since the Unix epoch, UTC.
    Timestamp(u64)
}

identifier! {
    /// One mutation, as chosen by the client: the same id has the same result.
    WriteId
}
identifier! {
    /// Immutable bytes held by one replica group.
    BlobId
}
identifier! {
    /// A lock client's session, as chosen by the client.
    SessionId
}
identifier! {
    /// Made with a server's data folder, so that a wiped folder is not taken for the old one.
    StoreId
}
identifier! {
    /// One process on a data folder: drawn at its start, so that a copy of the folder is not taken for the folder itself.
    Incarnation
}
identifier! {
    /// Made with the Directory's first start; everything that belongs together carries it.
    ClusterId
}
identifier! {
    /// Which Lock service: the name of the consensus group that its nodes make up.
    LockServiceId
}
identifier! {
    /// One node's time at the head of a Lock service: drawn each time that it begins to lead.
    LeadId
}

impl Inode {
    pub const ROOT: Self = Self(1);
}

impl Timestamp {
    pub fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds since `earlier`, or 0 if that is later.
    pub fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Longest server id, in bytes: a DNS label.
const SERVER_ID_LENGTH_MAX: usize = 63;

/// The name of a server, given by who runs it: a DNS label of `a-z`, `0-9` and inner `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(Box<str>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a server id: use 1 to 63 of a-z, 0-9 and -, neither beginning nor ending with -")]
pub struct BadServerId(pub String);

impl ServerId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerId {
    type Err = BadServerId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shaped = (1..=SERVER_ID_LENGTH_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if shaped { Ok(Self(text.into())) } else { Err(BadServerId(text.to_owned())) }
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Longest segment of a path, in bytes.
pub const SEGMENT_LENGTH_MAX: usize = 255;
/// Longest path, in bytes.
pub const PATH_LENGTH_MAX: usize = 4096;

/// An absolute path that has been checked: UTF-8, `/`-separated, no empty, `.` or `..` segment, no NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Box<str>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadPath {
    #[error("a path begins with /")]
    NotAbsolute,
    #[error("a path has no empty segment and does not end with /")]
    EmptySegment,
    #[error("a path has no . or .. segment")]
    DotSegment,
    #[error("a path has no NUL")]
    Nul,
    #[error("a segment of {length} bytes is longer than {SEGMENT_LENGTH_MAX}")]
    SegmentTooLong { length: usize },
    #[error("a path of {length} bytes is longer than {PATH_LENGTH_MAX}")]
    TooLong { length: usize },
}

impl Path {
    pub fn root() -> Self {
        Self("/".into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// The segments from the root on; none for the root.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|segment| !segment.is_empty())
    }

    /// The last segment; `None` for the root.
    pub fn name(&self) -> Option<&str> {
        self.segments().next_back()
    }

    /// The directory that holds it; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.0.rfind('/') {
            None | Some(0) => Some(Self::root()),
            Some(end) => Some(Self(self.0[..end].into())),
        }
    }

    /// The entry `name` in this directory.
    pub fn join(&self, name: &str) -> Result<Self, BadPath> {
        if self.is_root() { format!("/{name}").parse() } else { format!("{}/{name}", self.0).parse() }
    }

    /// Whether this is `other` or lies below it.
    pub fn is_at_or_below(&self, other: &Self) -> bool {
        other.is_root() || self.0.strip_prefix(&*other.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The replica group that a file at this path is written to.
    ///
    /// CRC32C because every language has it: a client of another make can find the primary by itself.
    pub fn group(&self, group_count: u32) -> Option<GroupId> {
        let hash = crc32c(self.0.as_bytes());
        hash.checked_rem(group_count).map(GroupId)
    }
}

impl FromStr for Path {
    type Err = BadPath;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(rest) = text.strip_prefix('/') else { return Err(BadPath::NotAbsolute) };
        if text.len() > PATH_LENGTH_MAX {
            return Err(BadPath::TooLong { length: text.len() });
        }
        if rest.is_empty() {
            return Ok(Self::root());
        }
        for segment in rest.split('/') {
            match segment {
                "" => return Err(BadPath::EmptySegment),
                "." | ".." => return Err(BadPath::DotSegment),
                _ if segment.contains('\0') => return Err(BadPath::Nul),
                _ if segment.len() > SEGMENT_LENGTH_MAX => {
                    return Err(BadPath::SegmentTooLong { length: segment.len() });
                }
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Largest chunk of a blob: the unit of checksum, of a data frame and of a log record. 1 MiB.
pub const CHUNK_LENGTH_MAX: usize = 1 << 20;
/// Largest blob; a longer write is several. 256 MiB.
pub const BLOB_LENGTH_MAX: u64 = 256 << 20;
/// Processes that one data folder knows of.
pub const INCARNATIONS_MAX: usize = 64;
/// A write that began longer ago is never committed: whatever it staged is garbage by then.
pub const WRITE_DURATION_MAX: Duration = Duration::from_secs(50 * 60);

/// A contiguous piece of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    pub group: GroupId,
    pub blob: BlobId,
    /// Where in the blob.
    pub blob_offset: u64,
    /// Never 0.
    pub length: u64,
}

/// What must hold for a mutation of a path to happen. When both are set, both must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    pub fencing_token: Option<FencingToken>,
    /// The version the file must have; 0: it must not exist.
    pub if_version: Option<Version>,
}

impl Precondition {
    pub fn is_none(&self) -> bool {
        self.fencing_token.is_none() && self.if_version.is_none()
    }
}

/// The moment at which to look at the namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AsOf {
    #[default]
    Now,
    /// As it was when this revision had been applied.
    Revision(Revision),
    /// As it was at this time.
    Time(Timestamp),
}

/// What a write of data is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    Replace,
    Append,
    Patch { offset: u64 },
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockMode {
    /// By one session alone; its token authorises writes.
    Exclusive,
    /// By many at once; authorises no writes.
    Shared,
}

/// The CRC32C of some bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The CRC32C of `a` followed by `b`, from theirs and the length of `b`.
pub fn crc32c_combine(a: u32, b: u32, length_b: u64) -> u32 {
    crc_fast::checksum_combine(crc_fast::CrcAlgorithm::Crc32Iscsi, u64::from(a), u64::from(b), length_b) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_checked_once_and_for_all() {
        for good in ["/", "/a", "/a/b", "/ä/…", "/...", "/a b"] {
            assert_eq!(good.parse::<Path>().map(|p| p.as_str().to_owned()), Ok(good.to_owned()));
        }
        for (bad, reason) in [
            ("", BadPath::NotAbsolute),
            ("a", BadPath::NotAbsolute),
            ("/a/", BadPath::EmptySegment),
            ("//a", BadPath::EmptySegment),
            ("/a/./b", BadPath::DotSegment),
            ("/..", BadPath::DotSegment),
            ("/a\0b", BadPath::Nul),
        ] {
            assert_eq!(bad.parse::<Path>(), Err(reason), "{bad:?}");
        }
        assert!(format!("/{}", "n".repeat(255)).parse::<Path>().is_ok());
        assert_eq!(format!("/{}", "n".repeat(256)).parse::<Path>(), Err(BadPath::SegmentTooLong { length: 256 }));
        let deep = "/n".repeat(2048);
        assert!(deep.parse::<Path>().is_ok());
        assert_eq!(format!("{deep}n").parse::<Path>(), Err(BadPath::TooLong { length: 4097 }));
    }

    #[test]
    fn a_path_knows_its_place() {
        let path: Path = "/a/bc/d".parse().unwrap();
        let parent: Path = "/a/bc".parse().unwrap();
        assert_eq!(path.parent(), Some(parent.clone()));
        assert_eq!(path.name(), Some("d"));
        assert_eq!("/a".parse::<Path>().unwrap().parent(), Some(Path::root()));
        assert_eq!(Path::root().parent(), None);
        assert!(path.is_at_or_below(&parent) && parent.is_at_or_below(&parent) && path.is_at_or_below(&Path::root()));
        assert!(!path.is_at_or_below(&"/a/b".parse().unwrap()));
        assert_eq!(parent.join("d"), Ok(path));
        assert_eq!(Path::root().join("a/../b"), Err(BadPath::DotSegment));
    }

    #[test]
    fn checksums_of_pieces_combine() {
        let (a, b) = (b"a distributed file store ".as_slice(), b"that cannot lose an update".as_slice());
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_combine(crc32c(a), crc32c(b), b.len() as u64), crc32c(&[a, b].concat()));
    }

    #[test]
    fn server_ids_are_dns_labels() {
        assert!("fileserver-a".parse::<ServerId>().is_ok());
        for bad in ["", "-a", "a-", "A", "a.b", &"x".repeat(64)] {
            assert!(bad.parse::<ServerId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn without_groups_there_is_no_place() {
        assert_eq!(Path::root().group(0), None);
        assert!("/x".parse::<Path>().unwrap().group(64).is_some_and(|group| group.0 < 64));
    }
}
