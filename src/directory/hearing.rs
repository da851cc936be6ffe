//! Whether a server hears what it is answered.
//!
//! One whose beats arrive and who hears nothing is cut off one way: it learns of no change, and its commits are never answered.
//! It cannot be found out by the time that passes, since a Directory that was itself stopped has stopped answering too. So beats
//! are counted: what was answered is echoed by one of the next few, however late those are read.

/// Beats that may come after an answer without an echo of it.
const UNHEARD_MAX: u64 = 5;

/// Of one heartbeat stream.
#[derive(Debug, Default)]
pub struct Hearing {
    beats: u64,
    answers: u64,
    /// The first answer that was not echoed, and how many beats had come by then.
    unheard: Option<(u64, u64)>,
}

impl Hearing {
    pub fn answered(&mut self) {
        self.answers += 1;
        self.unheard.get_or_insert((self.answers, self.beats));
    }

    /// A beat, which says how many answers the server has heard on this stream; `None`: it is one that does not say.
    pub fn beat(&mut self, heard: Option<u64>) {
        self.beats += 1;
        self.unheard = match (self.unheard, heard) {
            (_, None) => None,
            (Some((first, _)), Some(heard)) if heard >= first => {
                (heard < self.answers).then_some((heard.saturating_add(1), self.beats))
            }
            (unheard, Some(_)) => unheard,
        };
    }

    pub fn is_deaf(&self) -> bool {
        self.unheard.is_some_and(|(_, beats)| self.beats - beats >= UNHEARD_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_echoes_late_hears_and_who_does_not_is_deaf() {
        let mut hearing = Hearing::default();
        for beat in 0..100_u64 {
            hearing.beat(Some(beat.saturating_sub(3)));
            hearing.answered();
            assert!(!hearing.is_deaf(), "three beats behind at beat {beat}");
        }
        for beat in 1..=UNHEARD_MAX {
            assert!(!hearing.is_deaf(), "{beat}");
            hearing.beat(Some(96));
            hearing.answered();
        }
        assert!(hearing.is_deaf());
        hearing.beat(Some(100));
        assert!(!hearing.is_deaf(), "it hears again, though not all yet");
    }

    #[test]
    fn who_is_not_answered_or_does_not_say_is_not_deaf() {
        let mut hearing = Hearing::default();
        (0..100).for_each(|_| hearing.beat(Some(0)));
        assert!(!hearing.is_deaf(), "nothing was said to it");
        hearing.answered();
        (0..100).for_each(|_| hearing.beat(None));
        assert!(!hearing.is_deaf(), "of a version that echoes nothing");
    }

    #[test]
    fn a_claim_to_have_heard_more_than_was_said_is_no_panic() {
        let mut hearing = Hearing::default();
        hearing.answered();
        hearing.beat(Some(u64::MAX));
        hearing.answered();
        hearing.beat(Some(u64::MAX));
        assert!(!hearing.is_deaf());
    }
}
