//! The checksum of a patched version, without reading what the patch does not touch.
//!
//! CRC32C is linear: for pieces A, B, C, `crc(ABC) = shift(crc(A), |BC|) ^ shift(crc(B), |C|) ^ crc(C)`, where `shift(x, n)`
//! is what `n` zero bytes make of a remainder. So replacing B needs the checksum of the old B and of the new one, and the
//! lengths; a patch costs what it overwrites, however large the file is.

use crate::types::crc32c_combine;

/// What a patch does to a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// At most the size of the version.
    pub offset: u64,
    pub length: u64,
    /// Of the patch's data.
    pub checksum: u32,
}

impl Patch {
    /// How many bytes of a version of `size` bytes it replaces, from its offset on.
    pub fn overlap(&self, size: u64) -> u64 {
        self.length.min(size.saturating_sub(self.offset))
    }

    /// The checksum of the result, from the checksum of the version (`size` bytes), and of its bytes that are replaced.
    pub fn apply(&self, size: u64, checksum: u32, replaced_checksum: u32) -> u32 {
        let overlap = self.overlap(size);
        let beyond = self.length - overlap;
        if beyond > 0 {
            // What stays in front, moved up by the whole patch.
            return shift(checksum ^ replaced_checksum, beyond) ^ self.checksum;
        }
        let behind = size.saturating_sub(self.offset) - overlap;
        checksum ^ shift(replaced_checksum ^ self.checksum, behind)
    }
}

fn shift(checksum: u32, zeros: u64) -> u32 {
    crc32c_combine(checksum, 0, zeros)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::crc32c;

    fn expect_same_as_computed_whole(old: &[u8], offset: usize, data: &[u8]) {
        let patch = Patch { offset: offset as u64, length: data.len() as u64, checksum: crc32c(data) };
        let overlap = patch.overlap(old.len() as u64) as usize;
        let mut new = old.to_vec();
        new.splice(offset..offset + overlap, data.iter().copied());
        let replaced = crc32c(&old[offset..offset + overlap]);
        assert_eq!(patch.apply(old.len() as u64, crc32c(old), replaced), crc32c(&new), "{old:?} at {offset}: {data:?}");
    }

    #[test]
    fn at_the_beginning_in_the_middle_over_the_end_and_behind_it() {
        let old = b"a distributed file store";
        for offset in [0, 2, 20, old.len()] {
            expect_same_as_computed_whole(old, offset, b"XYZ!??");
        }
        expect_same_as_computed_whole(old, 5, b"");
        expect_same_as_computed_whole(b"", 0, b"first bytes");
        expect_same_as_computed_whole(old, 0, &[7; 100]);
    }

    proptest! {
        #[test]
        fn any_patch(old in prop::collection::vec(any::<u8>(), 0..300), data in prop::collection::vec(any::<u8>(), 0..300), at in 0.0..=1.0f64) {
            let offset = (old.len() as f64 * at) as usize;
            expect_same_as_computed_whole(&old, offset, &data);
        }
    }
}
