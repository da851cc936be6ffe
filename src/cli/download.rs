//! Bytes of the store into a file of this machine that is whole or not there.
//!
//! They go into a hidden file beside it, which gets the name when everything has come.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::{fs::File, io::AsyncWriteExt};
use uuid::Uuid;

use super::{
    error::{Error, Result},
    progress::Bar,
};
use crate::client;

/// What to do about a file that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    Yes,
    No,
}

/// A file without its name yet; gone when this is dropped.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn beside(target: &Path) -> Result<Self> {
        let name = target
            .file_name()
            .ok_or_else(|| Error::Usage(format!("{} does not name a file", target.display())))?
            .to_string_lossy();
        // A name may be as long as the file system allows: only its beginning fits before the suffix.
        let beginning: String = name.chars().take(40).collect();
        Ok(Self { path: target.with_file_name(format!(".{beginning}.{}.part", Uuid::new_v4().simple())) })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove an unfinished file");
        }
    }
}

/// Writes all of `bytes` to `target`; answers how many there were.
pub async fn to_file(
    mut bytes: impl Stream<Item = Result<Bytes, client::Error>> + Unpin,
    target: &Path,
    replace: Replace,
    bar: &Bar,
) -> Result<u64> {
    if replace == Replace::No && target.symlink_metadata().is_ok() {
        return Err(exists(target));
    }
    let unfinished = Unfinished::beside(target)?;
    let mut file = File::create_new(&unfinished.path).await.map_err(Error::local_file(target))?;
    let mut length = 0;
    while let Some(bytes) = bytes.next().await {
        let bytes = bytes?;
        file.write_all(&bytes).await.map_err(Error::local_file(target))?;
        length += bytes.len() as u64;
        bar.advance(bytes.len() as u64);
    }
    file.flush().await.map_err(Error::local_file(target))?;
    drop(file);
    name(&unfinished.path, target, replace)?;
    Ok(length)
}

/// Not synced: the cluster keeps it safe, this is a copy as `cp` makes one.
fn name(unfinished: &Path, target: &Path, replace: Replace) -> Result<()> {
    let flags = match replace {
        Replace::Yes => RenameFlags::empty(),
        Replace::No => RenameFlags::NOREPLACE,
    };
    match renameat_with(CWD, unfinished, CWD, target, flags).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists(target)),
        named => named.map_err(Error::local_file(target)),
    }
}

fn exists(target: &Path) -> Error {
    let text = format!("{} exists already on this machine", target.display());
    crate::status::Failure::new(crate::status::Reason::EntryExists, text).into()
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;
    use crate::{
        cli::{progress::Progress, settings::When},
        status::{Failure, Reason},
    };

    type Piece = Result<Bytes, client::Error>;

    async fn download(pieces: Vec<Piece>, target: &Path, replace: Replace) -> Result<u64> {
        let bar = Progress::new(When::Never, true).bytes("", None);
        to_file(stream::iter(pieces), target, replace, &bar).await
    }

    fn some_pieces() -> Vec<Piece> {
        vec![Ok(Bytes::from_static(b"one ")), Ok(Bytes::from_static(b"two"))]
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_file_is_there_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("f");
        assert_eq!(download(some_pieces(), &target, Replace::No).await.unwrap(), 7);
        assert_eq!(fs::read(&target).unwrap(), b"one two");
        assert_eq!(names(folder.path()), ["f"]);
    }

    #[tokio::test]
    async fn a_file_that_is_there_is_replaced_only_on_demand() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("f");
        fs::write(&target, "old").unwrap();
        let error = download(some_pieces(), &target, Replace::No).await.unwrap_err();
        assert_eq!((error.exit_code(), fs::read(&target).unwrap().as_slice()), (4, b"old".as_slice()));
        download(some_pieces(), &target, Replace::Yes).await.unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"one two");
    }

    #[tokio::test]
    async fn what_breaks_off_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("f");
        fs::write(&target, "old").unwrap();
        let broken = client::Error::from(Failure::new(Reason::NoLiveReplica, "gone"));
        let pieces = vec![Ok(Bytes::from_static(b"one ")), Err(broken)];
        assert_eq!(download(pieces, &target, Replace::Yes).await.unwrap_err().exit_code(), 6);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["f"]);
    }
}
