//! What the directory service's errors are on the wire.
