//! What a checker knows of a file's bytes: all of them, what identifies them, how many they are, or nothing yet.
//!
//! The bytes themselves are needed where they may be patched, and only there: the checksum of what a patch makes cannot be
//! told from checksums. Whoever asks says how many are worth keeping.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::history::{Data, Digest};
use crate::types::crc32c_combine;

/// Two contents are the same when nobody can tell them apart by what a read or a receipt says.
#[derive(Clone, Debug, Default)]
pub struct Content {
    size: Option<u64>,
    /// With a size only.
    crc32c: Option<u32>,
    /// With both only.
    bytes: Option<Arc<[u8]>>,
}

impl Content {
    /// Its bytes are kept if they are known and no more than `bytes_max`; so with what follows.
    pub fn of(data: &Data, bytes_max: usize) -> Self {
        let Digest { size, crc32c } = data.digest();
        let bytes = data.bytes().filter(|bytes| bytes.len() <= bytes_max).map(Arc::from);
        Self { size: Some(size), crc32c: Some(crc32c), bytes }
    }

    /// With the data behind it; `None` if no file can be so long.
    pub fn append(&self, data: &Data, bytes_max: usize) -> Option<Self> {
        let new = data.digest();
        let Some(old) = self.size else { return Some(Self::default()) };
        let size = old.checked_add(new.size)?;
        let bytes = match (&self.bytes, data.bytes()) {
            (Some(old), Some(new)) if size <= bytes_max as u64 => Some([old, new].concat().into()),
            _ => None,
        };
        let crc32c = self.crc32c.map(|old| crc32c_combine(old, new.crc32c, new.size));
        Some(Self { size: Some(size), crc32c, bytes })
    }

    /// With the data at the offset; `None` where that lies past the end, or if no file can be so long.
    pub fn patch(&self, offset: u64, data: &Data, bytes_max: usize) -> Option<Self> {
        let end = offset.checked_add(data.size())?;
        let Some(old_size) = self.size else { return Some(Self::default()) };
        if offset > old_size {
            return None;
        }
        if offset == old_size {
            return self.append(data, bytes_max);
        }
        if offset == 0 && end >= old_size {
            return Some(Self::of(data, bytes_max));
        }
        let (Some(old), Some(new)) = (&self.bytes, data.bytes()) else {
            return Some(Self { size: Some(old_size.max(end)), ..Self::default() });
        };
        let (head, tail) = old.split_at_checked(usize::try_from(offset).ok()?)?;
        let bytes = [head, new, tail.get(new.len()..).unwrap_or_default()].concat();
        let Digest { size, crc32c } = Digest::of(&bytes);
        let bytes = (bytes.len() <= bytes_max).then(|| bytes.into());
        Some(Self { size: Some(size), crc32c: Some(crc32c), bytes })
    }

    /// After it was seen; `None` where it cannot have been.
    pub fn seen_as(self, Digest { size, crc32c }: Digest) -> Option<Self> {
        let can_be = self.size.is_none_or(|known| known == size) && self.crc32c.is_none_or(|known| known == crc32c);
        can_be.then_some(Self { size: Some(size), crc32c: Some(crc32c), ..self })
    }

    /// `None`: not known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    fn identity(&self) -> (Option<u64>, Option<u32>, bool) {
        (self.size, self.crc32c, self.bytes.is_some())
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Content {}

impl Hash for Content {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

#[cfg(test)]
impl Content {
    /// How many bytes of it are in memory.
    pub fn kept(&self) -> usize {
        self.bytes.as_ref().map_or(0, |bytes| bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 12;

    fn text(text: &str) -> Data {
        Data::Text { text: text.to_owned() }
    }

    fn only_digest(of: &str) -> Data {
        let Digest { size, crc32c } = text(of).digest();
        Data::Digest { size, crc32c }
    }

    #[test]
    fn bytes_are_followed_through_every_change() {
        let whole = |data| Content::of(&text(data), BYTES_MAX);
        let content = whole("hello").append(&text(" world"), BYTES_MAX).unwrap();
        assert_eq!(content, whole("hello world"));
        let patched = |offset, data| content.patch(offset, &text(data), BYTES_MAX);
        assert_eq!(patched(6, "there"), Some(whole("hello there")));
        assert_eq!(patched(4, ","), Some(whole("hell, world")));
        assert_eq!(patched(10, "D!"), Some(whole("hello worlD!")));
        assert_eq!(patched(11, "!"), Some(whole("hello world!")));
        assert_eq!(patched(0, "Hello, world"), Some(whole("Hello, world")));
        assert_eq!(patched(12, "!"), None);
        assert_ne!(patched(0, "J"), Some(content.clone()));
    }

    #[test]
    fn what_is_not_kept_is_known_by_its_digest_and_after_a_patch_by_its_size() {
        let content = Content::of(&only_digest("hello"), BYTES_MAX).append(&only_digest(" world"), BYTES_MAX).unwrap();
        assert!(content.clone().seen_as(Digest::of(b"hello world")).is_some());
        assert!(content.clone().seen_as(Digest::of(b"hello_world")).is_none());
        let patched = |offset, data| content.patch(offset, &text(data), BYTES_MAX).unwrap();
        assert_eq!(patched(5, "_").size(), Some(11));
        assert!(patched(5, "_").seen_as(Digest::of(b"hello_world")).is_some());
        assert!(patched(5, "_").seen_as(Digest::of(b"hello_world!")).is_none());
        assert!(patched(10, "D!").seen_as(Digest::of(b"hello worlD!")).is_some());
        assert!(patched(10, "D!").seen_as(Digest::of(b"hello worlD")).is_none());
        assert!(patched(11, "!").seen_as(Digest::of(b"hello world?")).is_none());
        assert!(content.patch(12, &text("!"), BYTES_MAX).is_none());
    }

    #[test]
    fn more_bytes_than_are_worth_keeping_are_known_by_their_digest() {
        let content = Content::of(&text("hello"), BYTES_MAX).append(&text(" world, hello"), BYTES_MAX).unwrap();
        assert_eq!(content.kept(), 0);
        assert!(content.clone().seen_as(Digest::of(b"hello world, hello")).is_some());
        assert!(content.seen_as(Digest::of(b"hello world, hellO")).is_none());
        assert_eq!(Content::of(&text("hello world, hello"), BYTES_MAX).kept(), 0);
    }

    #[test]
    fn no_file_is_longer_than_a_number_can_say() {
        let huge = Data::Digest { size: u64::MAX, crc32c: 1 };
        let content = Content::of(&huge, BYTES_MAX);
        assert_eq!(content.append(&text("a"), BYTES_MAX), None);
        assert_eq!(content.patch(u64::MAX, &text("a"), BYTES_MAX), None);
        assert_eq!(content.patch(5, &huge, BYTES_MAX), None);
    }
}
