//! What the lock service's errors are on the wire.
