//! What the store asks of a disk that may fail it: the seam at which tests put in a disk that does.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::fs::FallocateFlags;

use crate::durable;

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged process may still take.
    pub free: u64,
    pub total: u64,
}

/// Blocking.
pub trait Disk: Send + Sync {
    /// Writes all of `parts`, one after the other, from `position` on.
    fn write(&self, file: &File, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Fills as much of `bytes` as the file has from `position` on, and tells how much that is.
    fn read(&self, file: &File, position: u64, bytes: &mut [u8]) -> io::Result<usize>;
    /// Cuts the file off at `length`, durably with its next sync.
    fn set_length(&self, file: &File, length: u64) -> io::Result<()>;
    /// Takes room for `length` bytes from `position` on; they read as zeros.
    fn allocate(&self, file: &File, position: u64, length: u64) -> io::Result<()>;
    fn sync(&self, file: &File) -> io::Result<()>;
    fn space(&self, dir: &Path) -> io::Result<Space>;
}

/// Whether an error says that there is no room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// The disk of this machine.
#[derive(Debug)]
pub struct LocalDisk;

/// The kernel takes no more parts than this in one call.
const PARTS_MAX: usize = 1024;

impl Disk for LocalDisk {
    fn write(&self, file: &File, mut position: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let some = parts.get(..PARTS_MAX).unwrap_or(parts);
            let written = match rustix::io::pwritev(file, some, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            position += written as u64;
            IoSlice::advance_slices(&mut parts, written);
        }
        Ok(())
    }

    fn read(&self, file: &File, position: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, position + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn set_length(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    fn allocate(&self, file: &File, position: u64, length: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), position, length)?)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        durable::sync_file(file)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(dir)?;
        // What is kept for others, root's reserve or a quota, is neither used nor ours: the total is without it, as in df.
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: used.saturating_add(stat.f_bavail).saturating_mul(stat.f_frsize),
        })
    }
}
