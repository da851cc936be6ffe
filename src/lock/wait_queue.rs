//! Who is next for one path: strictly first come, first served.
//!
//! A shared request never overtakes an exclusive one that came before it, so nobody starves. Who may be granted *beside*
//! the holders is the lock's to say ([`super::state`]); here is only the order.

use std::collections::BTreeMap;

use crate::{
    lock::command::Ticket,
    types::{LockMode, SessionId, Timestamp},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    pub session: SessionId,
    pub mode: LockMode,
    pub since: Timestamp,
}

/// Every session stands in it once at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitQueue {
    by_ticket: BTreeMap<Ticket, Waiter>,
    by_session: BTreeMap<SessionId, Ticket>,
}

impl WaitQueue {
    pub fn len(&self) -> usize {
        self.by_ticket.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_ticket.is_empty()
    }

    /// Adds one at the place its ticket gives; `false` if its session, or somebody with its ticket, is there already.
    #[must_use]
    pub fn push(&mut self, ticket: Ticket, waiter: Waiter) -> bool {
        let free = !self.by_ticket.contains_key(&ticket) && !self.by_session.contains_key(&waiter.session);
        if free {
            self.by_ticket.insert(ticket, waiter);
            self.by_session.insert(waiter.session, ticket);
        }
        free
    }

    pub fn first(&self) -> Option<(Ticket, Waiter)> {
        self.by_ticket.first_key_value().map(|(ticket, waiter)| (*ticket, *waiter))
    }

    pub fn get(&self, ticket: Ticket) -> Option<&Waiter> {
        self.by_ticket.get(&ticket)
    }

    pub fn of_session(&self, session: SessionId) -> Option<(Ticket, Waiter)> {
        let ticket = self.by_session.get(&session)?;
        self.by_ticket.get(ticket).map(|waiter| (*ticket, *waiter))
    }

    /// How many stand before it. Costs as many steps.
    pub fn index(&self, ticket: Ticket) -> usize {
        self.by_ticket.range(..ticket).count()
    }

    pub fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.by_ticket.remove(&ticket)?;
        self.by_session.remove(&waiter.session);
        Some(waiter)
    }

    /// First come, first.
    pub fn iter(&self) -> impl Iterator<Item = (Ticket, &Waiter)> {
        self.by_ticket.iter().map(|(ticket, waiter)| (*ticket, waiter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(id: u8) -> Waiter {
        Waiter { session: SessionId::from_bytes([id; 16]), mode: LockMode::Exclusive, since: Timestamp(0) }
    }

    #[test]
    fn the_order_is_that_of_the_tickets() {
        let mut queue = WaitQueue::default();
        // Loaded from disk in any order.
        for (ticket, id) in [(30, 3), (10, 1), (20, 2)] {
            assert!(queue.push(Ticket(ticket), waiter(id)));
        }
        assert_eq!(queue.first(), Some((Ticket(10), waiter(1))));
        assert_eq!(queue.index(Ticket(30)), 2);
        assert_eq!(queue.remove(Ticket(10)), Some(waiter(1)));
        assert_eq!((queue.index(Ticket(30)), queue.len()), (1, 2));
        assert_eq!(queue.of_session(waiter(1).session), None);
        assert_eq!(queue.of_session(waiter(3).session), Some((Ticket(30), waiter(3))));
    }

    #[test]
    fn a_session_stands_in_it_once() {
        let mut queue = WaitQueue::default();
        assert!(queue.push(Ticket(1), waiter(1)));
        assert!(!queue.push(Ticket(2), waiter(1)));
        assert!(!queue.push(Ticket(1), waiter(2)));
        assert_eq!(queue.len(), 1);
    }
}
