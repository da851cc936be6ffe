//! Which process on the data folder this is, so that the Directory can tell the folder from a copy of it.
//!
//! Every process draws an incarnation, and writes it down before it registers. It names to the Directory all that the folder knows
//! of: any of them may be the last that has registered, if the answers to later ones were lost or they died before.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    durable::{self, BadFile},
    types::{INCARNATIONS_MAX, Incarnation},
};

const FILE: &str = "INCARNATIONS";
const MAGIC: [u8; 8] = *b"dfs:incn";
const FORMAT: u32 = 1;
/// Of those that are known when the Directory answers. The rest of the room is for processes that end before it does.
const KEPT_MAX: usize = INCARNATIONS_MAX / 2;

/// Draws one for this process, durably; newest first. Blocks on the disk.
///
/// Where there is no room for it, or for one more, the process goes on under the newest that there is, if any.
pub fn begin(folder: &Path) -> Result<Vec<Incarnation>, durable::Error> {
    let path = folder.join(FILE);
    let known = read(&path)?;
    if known.len() >= INCARNATIONS_MAX {
        return Ok(known);
    }
    let mut begun = known.clone();
    begun.insert(0, Incarnation::random());
    match write(&path, &begun) {
        Ok(()) => Ok(begun),
        Err(error) if has_no_room(&error) => {
            tracing::warn!(%error, "no room to write down that a new process has the data folder");
            Ok(known)
        }
        Err(source) => Err(durable::Error::Io { path, source }),
    }
}

fn has_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The Directory has registered the newest: the oldest are forgotten, so that there is room. Blocks on the disk.
pub fn registered(folder: &Path) -> Result<(), durable::Error> {
    let path = folder.join(FILE);
    let known = read(&path)?;
    match known.get(..KEPT_MAX) {
        Some(kept) if kept.len() < known.len() => {
            write(&path, kept).map_err(|source| durable::Error::Io { path, source })
        }
        Some(_) | None => Ok(()),
    }
}

fn read(path: &Path) -> Result<Vec<Incarnation>, durable::Error> {
    let damaged = |what| BadFile::Damaged { path: PathBuf::from(path), what };
    let payload = durable::read_sealed(path, MAGIC, FORMAT)?.unwrap_or_default();
    let (known, []) = payload.as_chunks::<16>() else { return Err(damaged("half an incarnation").into()) };
    if known.len() > INCARNATIONS_MAX {
        return Err(damaged("too many incarnations").into());
    }
    Ok(known.iter().map(|bytes| Incarnation::from_bytes(*bytes)).collect())
}

fn write(path: &Path, incarnations: &[Incarnation]) -> io::Result<()> {
    let payload: Vec<u8> = incarnations.iter().flat_map(|of| of.as_bytes()).copied().collect();
    durable::write_sealed(path, MAGIC, FORMAT, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_knows_its_processes_and_forgets_only_what_is_older_than_one_that_has_registered() {
        let folder = tempfile::tempdir().unwrap();
        let mut before = Vec::new();
        for _ in 0..INCARNATIONS_MAX {
            let begun = begin(folder.path()).unwrap();
            assert_eq!(begun[1..], before);
            before = begun;
        }
        assert_eq!(begin(folder.path()).unwrap(), before, "none of them is known to have registered");
        registered(folder.path()).unwrap();
        registered(folder.path()).unwrap();
        let after = begin(folder.path()).unwrap();
        assert_eq!(after[1..], before[..KEPT_MAX]);
    }

    #[test]
    fn a_damaged_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        durable::write_sealed(&folder.path().join(FILE), MAGIC, FORMAT, &[0; 17]).unwrap();
        assert!(begin(folder.path()).unwrap_err().to_string().contains("half an incarnation"));
    }
}
