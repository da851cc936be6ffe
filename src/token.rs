//! The fencing token: one number that rises with every grant, and that cannot be made up.
//!
//! `token = counter << 24 | tag`, where the tag is the first 24 bits of HMAC-SHA256 over the mode, the counter and the path
//! with a key that only the Directory and the Lock service have. The Directory can so tell by itself that a token was
//! granted for this very path and for writing, without asking the Lock service and without remembering grants; and
//! since the counter is in the high bits, a later grant has a higher token whatever the tag.
//!
//! 24 bits do not make a secret: who guesses online is right once in 16 million tries. They keep mistakes and made-up
//! numbers out; who may write at all is a matter of permissions.
//!
//! No clock and no I/O here: the Directory checks tokens while it applies a command.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::types::{FencingToken, LockMode, Path};

/// Made by the Directory when the cluster is made; the Lock service gets it when it registers.
pub type LockKey = [u8; LOCK_KEY_LENGTH];
pub const LOCK_KEY_LENGTH: usize = 32;

/// Bits of a token that hold its tag.
const TAG_BITS: u32 = 24;
/// The last counter that fits a token: enough for a thousand grants a second over 34 years.
pub const COUNTER_MAX: u64 = u64::MAX >> TAG_BITS;
/// HMAC-SHA256 works on keys of this many bytes; a shorter one is padded with zeros, by its definition.
const HMAC_BLOCK_LENGTH: usize = 64;

/// The token of the `counter`-th grant; `None` once the counters are used up.
pub fn seal(key: &LockKey, counter: u64, path: &Path, mode: LockMode) -> Option<FencingToken> {
    (counter <= COUNTER_MAX).then(|| seal_next(key, counter, path, mode))
}

/// As [`seal`], for who stops granting long before the counters are used up; past the last one it is the last one's token.
pub fn seal_next(key: &LockKey, counter: u64, path: &Path, mode: LockMode) -> FencingToken {
    let counter = counter.min(COUNTER_MAX);
    FencingToken(counter << TAG_BITS | tag(key, counter, path, mode))
}

/// Whether the token was granted for this path in this mode by who has the key.
pub fn verify(key: &LockKey, token: FencingToken, path: &Path, mode: LockMode) -> bool {
    seal(key, counter(token), path, mode) == Some(token)
}

/// Which grant a token is of; says nothing about whether the token is genuine.
pub fn counter(token: FencingToken) -> u64 {
    token.0 >> TAG_BITS
}

fn tag(key: &LockKey, counter: u64, path: &Path, mode: LockMode) -> u64 {
    let mut block = [0; HMAC_BLOCK_LENGTH];
    block[..LOCK_KEY_LENGTH].copy_from_slice(key);
    let mut hmac = Hmac::<Sha256>::new(&block.into());
    // Both words end before the counter's eight bytes begin, and differ in their first byte: no two inputs run together.
    hmac.update(match mode {
        LockMode::Exclusive => b"exclusive",
        LockMode::Shared => b"shared",
    });
    hmac.update(&counter.to_be_bytes());
    hmac.update(path.as_str().as_bytes());
    let [a, b, c, ..]: [u8; 32] = hmac.finalize().into_bytes().into();
    u64::from(u32::from_be_bytes([0, a, b, c]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: LockKey = [7; LOCK_KEY_LENGTH];

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    #[test]
    fn a_token_is_good_for_its_path_mode_and_key_alone() {
        let token = seal(&KEY, 41, &path("/a"), LockMode::Exclusive).unwrap();
        assert_eq!(counter(token), 41);
        assert!(verify(&KEY, token, &path("/a"), LockMode::Exclusive));
        assert!(!verify(&KEY, token, &path("/a"), LockMode::Shared));
        assert!(!verify(&KEY, token, &path("/b"), LockMode::Exclusive));
        assert!(!verify(&[8; LOCK_KEY_LENGTH], token, &path("/a"), LockMode::Exclusive));
        assert!(!verify(&KEY, FencingToken(token.0 + (1 << TAG_BITS)), &path("/a"), LockMode::Exclusive));
        assert!(!verify(&KEY, FencingToken(0), &path("/a"), LockMode::Exclusive));
    }

    /// Both services must agree for ever on what a token is: stored fences outlive a change of the program.
    #[test]
    fn a_known_token_stays_what_it_is() {
        let token = seal(&KEY, 1, &path("/known"), LockMode::Exclusive).unwrap();
        // Python: hmac.new(bytes([7]*32), b"exclusive" + (1).to_bytes(8, "big") + b"/known", "sha256").digest()[:3]
        assert_eq!(token, FencingToken(1 << 24 | 0x25_e5f0));
    }

    #[test]
    fn counters_end_before_a_token_could_wrap() {
        assert!(seal(&KEY, COUNTER_MAX, &path("/a"), LockMode::Shared).is_some());
        assert_eq!(seal(&KEY, COUNTER_MAX + 1, &path("/a"), LockMode::Shared), None);
    }

    proptest! {
        #[test]
        fn a_later_grant_has_a_higher_token_whatever_it_is_for(
            a in 0..COUNTER_MAX, step in 1..1000u64, p in "/[a-z]{1,9}", q in "/[a-z]{1,9}", shared in any::<bool>(),
        ) {
            let mode = if shared { LockMode::Shared } else { LockMode::Exclusive };
            let earlier = seal(&KEY, a, &path(&p), LockMode::Exclusive);
            let later = seal(&KEY, (a + step).min(COUNTER_MAX), &path(&q), mode);
            prop_assert!(earlier < later);
        }

        #[test]
        fn a_token_with_any_bit_flipped_is_refused(counter in 0..=COUNTER_MAX, bit in 0..64u32, p in "/[a-z]{1,9}") {
            let token = seal(&KEY, counter, &path(&p), LockMode::Exclusive).unwrap();
            // A flipped counter bit may meet the same tag by chance, once in 2^24: the tag bits must never.
            let flipped = FencingToken(token.0 ^ (1 << (bit % TAG_BITS)));
            prop_assert!(!verify(&KEY, flipped, &path(&p), LockMode::Exclusive));
        }
    }
}
