//! A node that has lost its memory: its log or its vote is damaged or gone.
//!
//! It may have voted in this term, and may have acknowledged entries that count as committed because of it. If it went on
//! as if it had not, two leaders could be elected, or something acknowledged be lost. So nobody speaks in its name any more: it
//! takes part under an id of its own, as a newcomer does, without log and without state, and votes when the leader has brought
//! it level and the group has taken it in by a change of its members. The name and address of its server stay.
//!
//! Nothing is deleted: what was found is set aside. Each step is whole, and a start goes on where the one before was cut off.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    group::Options,
    identity::Kept,
    state_machine::Machine,
    store::{Applied, Store, StoreError, read_applied, read_begun_as, write_begun_as},
    types::NodeId,
};
use crate::durable;

/// Beside the log's folder: the one that is to take its place.
const UNFINISHED: &str = "rejoining";
const ASIDE: &str = "damaged";

/// Puts a new log in the place of one that was set aside, if a crash came between. Blocking.
pub fn finish(folder: &Path) -> io::Result<()> {
    let unfinished = folder.with_added_extension(UNFINISHED);
    match !folder.exists() && unfinished.exists() {
        true => durable::rename(&unfinished, folder),
        false => Ok(()),
    }
}

/// Sets the log aside, and begins one for a new self. `applied`: what the database says. Blocking.
///
/// Fails, and changes nothing, where there is nobody to be brought level by.
pub fn set_aside(options: &Options, applied: &Applied, what: &str) -> anyhow::Result<()> {
    let folder = &options.folder;
    let others = applied.membership.nodes().map(|(_, node)| node).filter(|node| node.server != options.me.server);
    let addresses: Vec<String> = others.map(|node| node.address.clone()).collect();
    if addresses.is_empty() && !options.joins {
        anyhow::bail!(
            "{what}. What this node has promised is lost, and it knows no other node that could bring it level, so it takes part \
             no more. If its group has others, start it with --join of them; if it was alone, restore its data folder from a backup"
        );
    }
    let mut drawn = [0; 8];
    getrandom::fill(&mut drawn).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    // 0 means none.
    let node = u64::from_be_bytes(drawn).max(1);
    // What is damaged may be the very file.
    let group = Kept::read(folder).ok().flatten().and_then(|kept| kept.group);
    let unfinished = folder.with_added_extension(UNFINISHED);
    durable::create_dir(&unfinished)?;
    Kept { group, node: Some(node), addresses, copied: false }.write(&unfinished)?;
    let aside = free_name(folder)?;
    if folder.exists() {
        durable::rename(folder, &aside)?;
    }
    durable::rename(&unfinished, folder)?;
    tracing::error!(
        what,
        aside = %aside.display(),
        node,
        "this node has lost what it promised to its group: it takes part under a new id, votes for nobody and leads nothing \
         until the leader has brought it level"
    );
    Ok(())
}

/// A new self begins without the state of the earlier one, which is set aside, and notes in the tables who it is. Blocking.
pub fn begin_empty(store: &Store, machine: &dyn Machine, node: NodeId) -> Result<(), StoreError> {
    let transaction = store.begin_read()?;
    let (is_empty, begun_as) = (read_applied(&transaction)?.last.is_none(), read_begun_as(&transaction)?);
    drop(transaction);
    if is_empty {
        if begun_as != Some(node) {
            let transaction = store.begin_write()?;
            write_begun_as(&transaction, node)?;
            transaction.commit()?;
        }
        return Ok(());
    }
    let own = store.path()?;
    durable::hard_link(own, &free_name(own)?)?;
    let path = store.successor_path()?.with_added_extension("empty");
    durable::remove_file(&path)?;
    let empty = store.open_successor(&path)?;
    let transaction = empty.begin_write()?;
    machine.prepare(&transaction)?;
    write_begun_as(&transaction, node)?;
    transaction.commit()?;
    store.replace(empty, &path)
}

fn free_name(path: &Path) -> io::Result<PathBuf> {
    let names = (1..=u32::MAX).map(|number| path.with_added_extension(format!("{ASIDE}-{number}")));
    names.into_iter().find(|name| !name.exists()).ok_or_else(|| io::Error::other("too much was set aside already"))
}
