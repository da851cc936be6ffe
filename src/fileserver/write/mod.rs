//! A client's write at its primary: stage the data here and on every required member, commit it at the Directory, answer.
//!
//! [`stream`] takes a client's stream apart into writes; [`staging`] brings the data of one write to the disks as it
//! arrives; [`copying`] waits for the copies, and [`finish`] asks for the commit. Whatever ends a write before the Directory was asked
//! leaves nothing behind: its blobs are discarded here and at the members. Once the Directory was asked and no answer came,
//! nothing is discarded, because the commit may stand; settling finds out.

pub mod copying;
pub mod finish;
pub mod staging;
pub mod stream;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{error::Error, node::Node, replication::Memory};
use crate::{
    convert, pb,
    status::Failure,
    types::{Inode, Path, Precondition, Version, WriteId, WriteMode},
};
use copying::Copying;
use finish::Ended;
use staging::Staging;

/// What a client wants written.
#[derive(Clone, Debug)]
pub struct Intent {
    pub write_id: WriteId,
    pub path: Path,
    pub mode: WriteMode,
    pub precondition: Precondition,
    /// The inode the path must still name.
    pub base_inode: Option<Inode>,
    pub create_parents: bool,
    /// 0: the default.
    pub create_mode: u32,
}

impl Intent {
    pub fn parse(write_id: WriteId, begin: &pb::WriteBegin) -> Result<Self, Failure> {
        let intent = Self {
            write_id,
            path: convert::path("begin.path", &begin.path)?,
            mode: convert::write_mode("begin.mode", begin.mode, begin.offset)?,
            precondition: convert::precondition(begin.precondition.as_ref()),
            base_inode: Some(Inode(begin.base_inode)).filter(|inode| inode.0 != 0),
            create_parents: begin.create_parents,
            create_mode: begin.create_mode,
        };
        // The Directory checks this too; here it spares the data.
        if intent.mode != WriteMode::Append && intent.precondition.is_none() {
            return Err(Error::LockRequired { path: intent.path }.into());
        }
        Ok(intent)
    }
}

/// What comes after the beginning of a write.
pub enum Frame {
    Data {
        data: Bytes,
        checksum: u32,
        memory: Memory,
    },
    End {
        length: u64,
        checksum: u32,
    },
    /// Nothing follows.
    GivenUp(Error),
}

/// Does the whole write, and answers it. Runs to its end also when the client is gone.
pub async fn run(node: Arc<Node>, intent: Intent, frames: mpsc::Receiver<Frame>, answers: stream::Answers) {
    let write_id = intent.write_id;
    let mut copying = Copying::new(&node);
    let mut staging = match Staging::new(node, intent) {
        Ok(staging) => staging,
        Err(error) => return stream::answer(&answers, write_id, Err(error.into())).await,
    };
    let ended = match staging.stage(frames, &mut copying).await {
        Ok(()) => finish::finish(&mut staging, copying).await,
        Err(error) => Ended::Failed(error),
    };
    match ended {
        Ended::Committed { receipt, committed } => {
            tracing::debug!(%write_id, inode = committed.inode, version = committed.version, "write committed");
            stream::answer(&answers, write_id, Ok(receipt)).await;
            staging.publish((Inode(committed.inode), Version(committed.version)), &committed.blobs).await;
        }
        Ended::Failed(error) => {
            let failure = Failure::from(error);
            tracing::debug!(%write_id, %failure, "write failed");
            stream::answer(&answers, write_id, Err(failure)).await;
            staging.discard().await;
        }
        Ended::Unknown => {
            tracing::warn!(%write_id, "outcome of a write is unknown: its blobs are left for settling");
            stream::answer(&answers, write_id, Err(Error::OutcomeUnknown.into())).await;
            staging.leave();
        }
    }
}
