//! Ctrl-C and SIGTERM: what a signal does to the command under way.
//!
//! A command that holds nothing is dropped at once. One that holds a lock is told, and gets a moment to give it back, so
//! that the next in the queue need not wait for the lease to run out.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};

pub const SIGINT: u8 = 2;
pub const SIGTERM: u8 = 15;
/// A child that was told to end has this long before it is killed.
pub const CHILD_END: Duration = Duration::from_secs(5);
/// For giving a lock back: after this its lease does it.
pub const RELEASE: Duration = Duration::from_secs(3);
/// For all that a command must still put in order after it was interrupted: those two, one after the other.
const CLEANUP: Duration = CHILD_END.saturating_add(RELEASE).saturating_add(Duration::from_secs(1));

/// Of one command; clones are of the same.
#[derive(Clone, Default)]
pub struct Interrupt {
    token: CancellationToken,
    signal: Arc<AtomicU8>,
    holds: Arc<AtomicUsize>,
    deaf: Arc<AtomicUsize>,
}

/// Ends what [`Interrupt::hold`] or [`Interrupt::deafen`] began when it is dropped.
pub struct Hold(Arc<AtomicUsize>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Interrupt {
    pub fn raise(&self, signal: u8) {
        self.signal.store(signal, Ordering::Relaxed);
        self.token.cancel();
    }

    /// Ends when the command has been interrupted, with the error to end with.
    pub async fn raised(&self) -> Error {
        self.token.cancelled().await;
        self.error()
    }

    pub fn error(&self) -> Error {
        Error::Signal { signal: self.signal.load(Ordering::Relaxed) }
    }

    /// As long as the answer lives, a command that is interrupted is not dropped at once: it watches
    /// [`raised`](Self::raised) itself.
    pub fn hold(&self) -> Hold {
        self.holds.fetch_add(1, Ordering::Relaxed);
        Hold(Arc::clone(&self.holds))
    }

    /// As long as the answer lives, Ctrl-C is another program's: an editor's, or a child's.
    pub fn deafen(&self) -> Hold {
        self.deaf.fetch_add(1, Ordering::Relaxed);
        Hold(Arc::clone(&self.deaf))
    }

    fn is_held(&self) -> bool {
        self.holds.load(Ordering::Relaxed) > 0
    }

    fn is_for(&self, signal: u8) -> bool {
        signal != SIGINT || self.deaf.load(Ordering::Relaxed) == 0
    }
}

/// The process's signals; while one of these lives they do not end the process by themselves.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(Error::local("listen for signals"));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => SIGINT,
            _ = self.terminate.recv() => SIGTERM,
        }
    }

    /// Runs a command until it ends, or a signal ends it.
    pub async fn run(&mut self, interrupt: &Interrupt, command: impl Future<Output = Result<()>>) -> Result<()> {
        tokio::pin!(command);
        loop {
            tokio::select! {
                result = &mut command => return result,
                signal = self.next() => if interrupt.is_for(signal) {
                    interrupt.raise(signal);
                    break;
                },
            }
        }
        if !interrupt.is_held() {
            return Err(interrupt.error());
        }
        let cleanup = tokio::time::timeout(CLEANUP, command);
        tokio::select! {
            result = cleanup => result.unwrap_or_else(|_| Err(interrupt.error())),
            // A second one means it.
            _ = self.next() => Err(interrupt.error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_interrupted_command_knows_its_signal() {
        let interrupt = Interrupt::default();
        interrupt.raise(SIGTERM);
        assert_eq!(interrupt.raised().await.exit_code(), 143);
    }

    #[test]
    fn while_an_editor_runs_only_sigterm_counts() {
        let interrupt = Interrupt::default();
        let deaf = interrupt.deafen();
        assert!(!interrupt.is_for(SIGINT) && interrupt.is_for(SIGTERM));
        drop(deaf);
        assert!(interrupt.is_for(SIGINT));
    }

    #[test]
    fn a_hold_ends_with_its_owner() {
        let interrupt = Interrupt::default();
        let hold = interrupt.hold();
        assert!(interrupt.is_held());
        drop(hold);
        assert!(!interrupt.is_held());
    }
}
