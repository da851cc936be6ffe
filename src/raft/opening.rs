//! What a node finds in its folder when it starts, and what it is then: a founder, a newcomer, a member, or a member that has
//! lost its memory.

use std::collections::BTreeMap;

use super::{
    convert::log_id,
    group::Options,
    identity::{GroupUid, Identity, Kept},
    log::{Log, LogError},
    rejoining,
    snapshot::remove_leftovers,
    state_machine::Machine,
    store::{Applied, Store, StoreError, read_applied, read_begun_as, write_applied},
    types::{LogId, Membership, Node, NodeId, StoredMembership},
};

/// What begins with the log.
pub struct Opened {
    pub log: Log,
    /// The node is new, and is to make a group of itself.
    pub founds: bool,
    pub node: NodeId,
    pub me: Node,
    pub identity: Identity,
}

/// Opens the log, or makes it. Blocking.
pub fn open(options: &Options, store: &Store, machine: &dyn Machine) -> anyhow::Result<Opened> {
    remove_leftovers(store)?;
    rejoining::finish(&options.folder)?;
    match open_whole(options, store, machine) {
        Err(Unopened::Lost(what)) => {
            rejoining::set_aside(options, &read_applied(&store.begin_read()?)?, &what)?;
            open_whole(options, store, machine).map_err(|unopened| match unopened {
                Unopened::Lost(what) => anyhow::anyhow!("{what}, though it was just made"),
                Unopened::Failed(error) => error,
            })
        }
        Err(Unopened::Failed(error)) => Err(error),
        Ok(opened) => Ok(opened),
    }
}

/// Why a log was not opened.
enum Unopened {
    /// What the node has promised is not there any more, and what of it is missing.
    Lost(String),
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Unopened {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn expect_whole<T>(found: Result<T, LogError>) -> Result<T, Unopened> {
    found.map_err(|error| match error {
        damaged @ LogError::Damaged { .. } => Unopened::Lost(damaged.to_string()),
        error => Unopened::Failed(error.into()),
    })
}

fn open_whole(options: &Options, store: &Store, machine: &dyn Machine) -> Result<Opened, Unopened> {
    let folder = &options.folder;
    let kept = expect_whole(Kept::read(folder))?;
    let log = expect_whole(Log::open(folder))?;
    let looking = store.begin_read()?;
    let (applied, begun_as) = (read_applied(&looking)?, read_begun_as(&looking)?);
    drop(looking);
    if kept.as_ref().is_some_and(|kept| kept.copied) {
        return Err(Unopened::Failed(anyhow::anyhow!(
            "the data with the log in {} is a copy: another process goes on as its node, and has promised what is not known here; \
             empty the data folder, and start it under a name of its own with --join",
            folder.display()
        )));
    }
    expect_same_self(&log, kept.as_ref(), &applied, begun_as)?;
    let opened = |log, kept: Kept, founds| Opened {
        log,
        founds,
        node: kept.node.unwrap_or(options.node),
        me: Node { rejoined: kept.node.is_some(), ..options.me.clone() },
        identity: Identity::new(folder, options.service, kept),
    };
    if !log.is_new() {
        let nameless = || Kept { group: Some(GroupUid::NONE), ..Kept::default() };
        return Ok(opened(log, kept.unwrap_or_else(nameless), false));
    }
    if let Some((kept, node)) = kept.and_then(|kept| kept.node.map(|node| (kept, node))) {
        rejoining::begin_empty(store, machine, node)?;
        return Ok(opened(log, kept, false));
    }
    let first = log_id(0, 0);
    match applied.last {
        // Whatever it was to be a member of, it has promised nothing there.
        None if options.joins && !options.has_state => return Ok(opened(log, Kept::default(), false)),
        Some(last) if last != first => {
            let what = format!("the database holds entry {last}, but the log in {} is gone", folder.display());
            return Err(Unopened::Lost(what));
        }
        _ => {}
    }
    let founded = opened(log, Kept::default(), !options.has_state && applied.last.is_none());
    // Never a name that was learned: that is of a group that others may be in.
    founded.identity.learn(GroupUid::draw())?;
    if !founded.founds {
        // From before there was a log: the state counts as what the first entry has left. Or that was cut off.
        if applied.last.is_none() {
            adopt(store, options.node, options.me.clone(), first)?;
        }
        founded.log.begin_after(first)?;
    }
    Ok(founded)
}

/// Who a node is stands beside its log, and the tables know who began them: if they do not agree, what a self has promised
/// that may have voted is lost.
fn expect_same_self(
    log: &Log,
    kept: Option<&Kept>,
    applied: &Applied,
    begun_as: Option<NodeId>,
) -> Result<(), Unopened> {
    match (kept.and_then(|kept| kept.node), begun_as) {
        (None, Some(begun)) => {
            Err(Unopened::Lost(format!("the tables are those of node {begun}, but its log is gone")))
        }
        (Some(node), Some(begun)) if node != begun && !log.is_new() => {
            Err(Unopened::Lost(format!("the tables are those of node {begun}, but the log is that of node {node}")))
        }
        (Some(node), _) if log.is_new() && applied.membership.membership().get_node(&node).is_some() => {
            Err(Unopened::Lost(format!("node {node} is a member of its group, but its log is gone")))
        }
        _ => Ok(()),
    }
}

/// Makes a state without a log the beginning of a group of one. Blocking.
fn adopt(store: &Store, node: NodeId, me: Node, first: LogId) -> Result<(), StoreError> {
    let membership = Membership::new(vec![[node].into()], BTreeMap::from([(node, me)]));
    let membership = membership.map_err(|_| StoreError::Damaged("a group of one cannot be"))?;
    let transaction = store.begin_write()?;
    write_applied(
        &transaction,
        &Applied { last: Some(first), membership: StoredMembership::new(Some(first), membership) },
    )?;
    transaction.commit()?;
    Ok(())
}
