//! The calls and returns that a search has not put into its order yet, by time.
//!
//! A doubly linked list over one vector: to put a call takes its two events out, to think better of it puts them back
//! where they were, both at once.

use super::history::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Call(usize),
    Return(usize),
}

/// A place in the list; the head holds no event, nor does the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place(usize);

#[derive(Clone, Copy)]
struct Node {
    event: Option<Event>,
    previous: Place,
    next: Place,
}

pub struct Timeline {
    nodes: Vec<Node>,
}

/// Where the events of one call are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places {
    called: Place,
    returned: Place,
}

impl Timeline {
    /// Of calls that have returned: which, when invoked, when returned. With each, where it is, in the given order.
    pub fn new(calls: &[(usize, Moment, Moment)]) -> (Self, Vec<(usize, Places)>) {
        let mut timed = Vec::with_capacity(calls.len() * 2);
        for (order, &(call, invoked, returned)) in calls.iter().enumerate() {
            // At the same moment calls come first: then the two overlap, which forbids less.
            timed.push((invoked, 0, order, Event::Call(call)));
            timed.push((returned.max(invoked), 1, order, Event::Return(call)));
        }
        timed.sort_by_key(|&(moment, kind, order, _)| (moment, kind, order));

        let mut places: Vec<_> = calls.iter().map(|&(call, ..)| (call, Places::default())).collect();
        let mut nodes = vec![Node { event: None, previous: Place(0), next: Place(1) }];
        for (.., order, event) in timed {
            let here = Place(nodes.len());
            if let Some((_, places)) = places.get_mut(order) {
                match event {
                    Event::Call(_) => places.called = here,
                    Event::Return(_) => places.returned = here,
                }
            }
            nodes.push(Node { event: Some(event), previous: Place(here.0 - 1), next: Place(here.0 + 1) });
        }
        nodes.push(Node { event: None, previous: Place(nodes.len() - 1), next: Place(nodes.len()) });
        (Self { nodes }, places)
    }

    pub fn first(&self) -> Place {
        self.after(Place(0))
    }

    pub fn after(&self, place: Place) -> Place {
        self.nodes.get(place.0).map_or(place, |node| node.next)
    }

    /// `None` at the end.
    pub fn event(&self, place: Place) -> Option<Event> {
        self.nodes.get(place.0)?.event
    }

    /// The first call to return of those left.
    pub fn first_return(&self) -> Option<usize> {
        let mut place = self.first();
        loop {
            match self.event(place)? {
                Event::Call(_) => place = self.after(place),
                Event::Return(call) => return Some(call),
            }
        }
    }

    /// Those left, by invocation.
    pub fn calls(&self) -> impl Iterator<Item = usize> + Clone {
        let places = std::iter::successors(Some(self.first()), |&place| Some(self.after(place)));
        places.map_while(|place| self.event(place)).filter_map(|event| match event {
            Event::Call(call) => Some(call),
            Event::Return(_) => None,
        })
    }

    pub fn take_out(&mut self, places: Places) {
        self.unlink(places.called);
        self.unlink(places.returned);
    }

    /// Of those taken out and not put back, this must be the last.
    pub fn put_back(&mut self, places: Places) {
        self.link(places.returned);
        self.link(places.called);
    }

    fn unlink(&mut self, place: Place) {
        let Some(&Node { previous, next, .. }) = self.nodes.get(place.0) else { return };
        self.join(previous, next);
    }

    fn link(&mut self, place: Place) {
        let Some(&Node { previous, next, .. }) = self.nodes.get(place.0) else { return };
        self.join(previous, place);
        self.join(place, next);
    }

    fn join(&mut self, left: Place, right: Place) {
        if let Some(node) = self.nodes.get_mut(left.0) {
            node.next = right;
        }
        if let Some(node) = self.nodes.get_mut(right.0) {
            node.previous = left;
        }
    }
}
