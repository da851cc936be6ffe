//! One connection for each address and purpose, made when first used.
//!
//! A connection is one task on each side, and what shares it waits for one another: so bulk data has several, and the
//! renewal of a lease never queues behind data.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tonic::transport::Channel;

use super::Error;
use crate::{serve, status::Failure};

/// Connections for data to each file server: the measured best for parallel streams on few cores.
const BULK_CHANNELS: usize = 4;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    Control,
    /// Long-lived streams that mostly wait: the cluster map, watches, places in a lock's queue.
    Watch,
    KeepAlive,
    Bulk,
}

/// Address, purpose, and which of those for that purpose.
type Key = (String, Purpose, usize);

#[derive(Debug, Default)]
pub(super) struct Channels {
    open: Mutex<HashMap<Key, Channel>>,
    next_bulk: AtomicUsize,
}

impl Channels {
    /// The channel to use now; those for data take turns.
    pub(super) fn get(&self, address: &str, purpose: Purpose) -> Result<Channel, Error> {
        let number = match purpose {
            Purpose::Bulk => self.next_bulk.fetch_add(1, Ordering::Relaxed) % BULK_CHANNELS,
            Purpose::Control | Purpose::Watch | Purpose::KeepAlive => 0,
        };
        let key = (address.to_owned(), purpose, number);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(&key) {
            return Ok(channel.clone());
        }
        let bad = || Failure::bad_argument("address", format_args!("`{address}` is not HOST:PORT"));
        if !is_host_and_port(address) {
            return Err(bad().into());
        }
        let channel = match purpose {
            Purpose::Watch | Purpose::KeepAlive => serve::watchful_channel(address),
            Purpose::Control | Purpose::Bulk => serve::channel(address),
        };
        let channel = channel.map_err(|_| bad())?;
        open.insert(key, channel.clone());
        Ok(channel)
    }

    /// Forgets the channels to every other address; calls under way keep theirs.
    pub(super) fn keep_only(&self, addresses: &HashSet<&str>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(address, ..), _| addresses.contains(address.as_str()));
    }
}

/// What may be taken for an address and is none, such as a URL, would end in a search for a host of that name.
fn is_host_and_port(address: &str) -> bool {
    let host_and_port = address.rsplit_once(':');
    host_and_port.is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Reason;

    fn open_count(channels: &Channels) -> usize {
        channels.open.lock().unwrap().len()
    }

    #[tokio::test]
    async fn data_has_several_connections_and_the_rest_one_each() {
        let channels = Channels::default();
        for _ in 0..3 * BULK_CHANNELS {
            channels.get("localhost:1", Purpose::Bulk).unwrap();
            channels.get("localhost:1", Purpose::Control).unwrap();
        }
        assert_eq!(open_count(&channels), BULK_CHANNELS + 1);
    }

    #[tokio::test]
    async fn servers_that_left_are_forgotten() {
        let channels = Channels::default();
        channels.get("localhost:1", Purpose::Control).unwrap();
        channels.get("localhost:2", Purpose::Watch).unwrap();
        channels.keep_only(&HashSet::from(["localhost:2"]));
        assert_eq!(open_count(&channels), 1);
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for bad in
            ["no host", "", "localhost", "localhost:", ":7070", "http://localhost:7070", "localhost:70700", "a:0"]
        {
            let refused = Channels::default().get(bad, Purpose::Control).expect_err(bad);
            assert_eq!(refused.reason(), Reason::BadArgument);
        }
    }

    #[tokio::test]
    async fn addresses_of_every_kind_are_taken() {
        for good in ["localhost:7070", "127.0.0.1:1", "[::1]:7070", "directory.example.org:65535"] {
            assert!(Channels::default().get(good, Purpose::Control).is_ok(), "{good}");
        }
    }
}
