//! What a checker knows of a file's bytes: all of them, what identifies them, or nothing yet.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::history::{Data, Digest};

/// Two contents are the same when nobody can tell them apart by what a read or a receipt says.
#[derive(Clone, Debug, Default)]
pub struct Content {
    digest: Option<Digest>,
    /// With a digest only.
    bytes: Option<Arc<[u8]>>,
}

impl Content {
    pub fn of(data: &Data) -> Self {
        Self { digest: Some(data.digest()), bytes: data.bytes().map(Arc::from) }
    }

    /// With the data behind it.
    pub fn append(&self, data: &Data) -> Self {
        let bytes = match (&self.bytes, data.bytes()) {
            (Some(old), Some(new)) => Some([old, new].concat().into()),
            _ => None,
        };
        Self { digest: self.digest.map(|old| old.then(data.digest())), bytes }
    }

    /// With the data at the offset; `None` where that lies past the end.
    pub fn patch(&self, offset: u64, data: &Data) -> Option<Self> {
        if self.digest.is_some_and(|old| offset > old.size) {
            return None;
        }
        let (Some(old), Some(new)) = (&self.bytes, data.bytes()) else { return Some(Self::default()) };
        let offset = usize::try_from(offset).ok()?;
        let (head, tail) = old.split_at_checked(offset)?;
        let bytes: Arc<[u8]> = [head, new, tail.get(new.len()..).unwrap_or_default()].concat().into();
        Some(Self { digest: Some(Digest::of(&bytes)), bytes: Some(bytes) })
    }

    /// After it was seen; `None` where it cannot have been.
    pub fn seen_as(self, digest: Digest) -> Option<Self> {
        match self.digest {
            Some(known) => (known == digest).then_some(self),
            None => Some(Self { digest: Some(digest), bytes: None }),
        }
    }

    /// `None`: not known.
    pub fn size(&self) -> Option<u64> {
        self.digest.map(|digest| digest.size)
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        (self.digest, self.bytes.is_some()) == (other.digest, other.bytes.is_some())
    }
}

impl Eq for Content {}

impl Hash for Content {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.digest, self.bytes.is_some()).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Data {
        Data::Text { text: text.to_owned() }
    }

    fn only_digest(of: &str) -> Data {
        let Digest { size, crc32c } = text(of).digest();
        Data::Digest { size, crc32c }
    }

    #[test]
    fn bytes_are_followed_through_every_change() {
        let content = Content::of(&text("hello")).append(&text(" world"));
        assert_eq!(content, Content::of(&text("hello world")));
        let patched = |offset, data| content.patch(offset, &text(data));
        assert_eq!(patched(6, "there"), Some(Content::of(&text("hello there"))));
        assert_eq!(patched(4, ","), Some(Content::of(&text("hell, world"))));
        assert_eq!(patched(11, "!"), Some(Content::of(&text("hello world!"))));
        assert_eq!(patched(12, "!"), None);
        assert_ne!(patched(0, "J"), Some(content.clone()));
    }

    #[test]
    fn what_is_not_kept_is_known_by_its_digest_and_lost_by_a_patch() {
        let content = Content::of(&only_digest("hello")).append(&only_digest(" world"));
        assert!(content.clone().seen_as(Digest::of(b"hello world")).is_some());
        assert!(content.clone().seen_as(Digest::of(b"hello_world")).is_none());
        let patched = content.patch(5, &text("_")).unwrap();
        assert_eq!(patched.size(), None);
        assert!(patched.seen_as(Digest::of(b"hello_world")).is_some());
        assert!(content.patch(12, &text("!")).is_none());
    }
}
