//! What the fileserver service's errors are on the wire.
