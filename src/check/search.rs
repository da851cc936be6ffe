//! The search for an order that explains what clients were told: Wing and Gong's, as Lowe made it quick.
//!
//! A history is linearizable if its calls can be put into one order, each at some moment between its invocation and its
//! return, in which a single copy would have given the same answers. The search puts one call after the other: any that was
//! invoked before the first return of those left may be next. What makes it finish:
//!
//! - A configuration, that is which calls have been put and the state that they lead to, is entered once. Of each only
//!   a fingerprint of 128 bits is kept, so their memory is bounded by [`Bounds`]. Whole states are kept only of the order
//!   that is being tried, one a call: a model whose states are large must bound them itself.
//! - A call that is right in the present state and changes nothing is put at once, and never reconsidered: whatever
//!   follows it elsewhere follows it here.
//! - A call of unknown end may be put anywhere after its invocation, or never. It is tried only when no other fits, and
//!   only where the model says that it could explain something.
//! - Where answers tell the order, by a rank such as a revision, no other is tried.
//!
//! "Testing for linearizability", Gavin Lowe, 2017; "Testing and verifying concurrent objects", Wing and Gong, 1993.

use std::{
    collections::{HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use super::{
    history::Moment,
    timeline::{Event, Place, Places, Timeline},
};

/// What a single copy would do.
pub trait Model {
    /// A call with what it was answered.
    type Operation: Copy;
    type State: Clone + Eq + Hash;

    /// Before the first call.
    fn initial(&self) -> Self::State;

    /// Nothing is known: whatever is observed first is right. For histories whose beginning is left out.
    fn anything(&self) -> Self::State;

    /// The state after the operation; `None` where it would not have been answered so.
    fn step(&self, state: &Self::State, operation: &Self::Operation) -> Option<Self::State>;

    /// Where answers tell the order themselves: whatever has a rank is wrong after something with a higher one.
    fn rank(&self, operation: &Self::Operation) -> Option<u64>;

    /// Whether an operation of unknown end that leads from one state to the other could explain anything; if not, then
    /// any order with it here is as good without it. `next` has the lowest rank of those left; `others` have none, and
    /// may come before it.
    fn explains<'a>(
        &self,
        change: (&Self::State, &Self::State),
        next: Option<&'a Self::Operation>,
        others: impl Iterator<Item = &'a Self::Operation> + Clone,
    ) -> bool
    where
        Self::Operation: 'a;

    /// Whether the answers of others can depend on it: without it, a good history might look bad.
    fn has_effect(&self, operation: &Self::Operation) -> bool;

    /// The same operation, if its answer had never come.
    fn without_answer(&self, operation: &Self::Operation) -> Self::Operation;
}

/// A call as the search sees it.
#[derive(Clone, Copy, Debug)]
pub struct Timed<O> {
    pub operation: O,
    pub invoked: Moment,
    /// `None`: of unknown end, it may take effect at any later moment, or never.
    pub returned: Option<Moment>,
}

/// How much a search may cost before it gives up undecided.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Calls tried in some state: time.
    pub steps_max: u64,
    /// Configurations remembered, some 40 bytes each.
    pub configurations_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { steps_max: 50_000_000, configurations_max: 4_000_000 }
    }
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An order explains everything.
    Order,
    /// None does.
    NoOrder {
        /// Of each call, whether it was right in any state met: those of unknown end that never were make no difference.
        was_right: Vec<bool>,
        /// Calls that have returned, in the order that explains most of them.
        explained_max: usize,
    },
    /// A bound was hit first. Says nothing of the history.
    Undecided,
}

/// Looks for an order of all calls that have returned, from `initial` on.
pub fn search<M: Model>(model: &M, initial: M::State, calls: &[Timed<M::Operation>], bounds: Bounds) -> Found {
    Search::new(model, initial, calls, bounds).run()
}

/// Which choice of a configuration the search is at.
#[derive(Clone, Copy)]
enum Cursor {
    /// What is at this place of the time line.
    Known(Place),
    /// This one of the calls of unknown end.
    Unknown(usize),
}

/// A choice that was made, and what it takes to unmake it.
struct Choice<S> {
    call: usize,
    at: Cursor,
    before: S,
    /// No other choice could do better.
    is_forced: bool,
}

/// What a call would lead to.
enum Next<S> {
    /// The model says that it was not answered so.
    Wrong,
    /// A configuration that was entered before, and led nowhere.
    Entered {
        is_forced: bool,
    },
    New {
        state: S,
        is_forced: bool,
    },
}

struct Item<'a, O> {
    timed: &'a Timed<O>,
    /// `None`: of unknown end.
    places: Option<Places>,
    /// Where in [`Search::ranked`].
    rank_place: Option<usize>,
    is_put: bool,
    was_right: bool,
}

struct Search<'a, M: Model> {
    model: &'a M,
    bounds: Bounds,
    items: Vec<Item<'a, M::Operation>>,
    timeline: Timeline,
    /// Calls of unknown end, the latest first: what took effect at all mostly did soon.
    unknown: Vec<usize>,
    /// Calls with a rank, by rank; all before `lowest` are put.
    ranked: Vec<(u64, usize)>,
    lowest: usize,
    /// Calls that have returned and are not put.
    left: usize,
    state: M::State,
    /// Fingerprint of which calls are put.
    set: u128,
    entered: HashSet<u128>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, initial: M::State, calls: &'a [Timed<M::Operation>], bounds: Bounds) -> Self {
        let item = |timed| Item { timed, places: None, rank_place: None, is_put: false, was_right: false };
        let mut items: Vec<_> = calls.iter().map(item).collect();
        let rank = |(index, call): (usize, &Timed<M::Operation>)| {
            call.returned?;
            Some((model.rank(&call.operation)?, index))
        };
        let mut ranked: Vec<_> = calls.iter().enumerate().filter_map(rank).collect();
        ranked.sort_unstable();
        for (place, &(_, index)) in ranked.iter().enumerate() {
            if let Some(item) = items.get_mut(index) {
                item.rank_place = Some(place);
            }
        }
        let known: Vec<_> =
            calls.iter().enumerate().filter_map(|(index, call)| Some((index, call.invoked, call.returned?))).collect();
        let (timeline, places) = Timeline::new(&known);
        for &(index, places) in &places {
            if let Some(item) = items.get_mut(index) {
                item.places = Some(places);
            }
        }
        let mut unknown: Vec<_> = calls.iter().enumerate().filter(|(_, call)| call.returned.is_none()).collect();
        unknown.sort_by_key(|(_, call)| std::cmp::Reverse(call.invoked));
        let unknown = unknown.into_iter().map(|(index, _)| index).collect();
        let (left, entered) = (known.len(), HashSet::new());
        Self { model, bounds, items, timeline, unknown, ranked, lowest: 0, left, state: initial, set: 0, entered }
    }

    fn run(mut self) -> Found {
        let mut made: Vec<Choice<M::State>> = Vec::new();
        let mut cursor = Cursor::Known(self.timeline.first());
        let (mut steps, mut left_min) = (0, self.left);
        let known = self.left;
        while self.left > 0 {
            let next = match self.candidate(cursor) {
                Some((call, at)) => {
                    steps += 1;
                    Some((call, at, self.next(call)))
                }
                None => None,
            };
            if steps > self.bounds.steps_max || self.entered.len() > self.bounds.configurations_max {
                return Found::Undecided;
            }
            cursor = match next {
                Some((call, at, Next::New { state, is_forced })) => {
                    let before = std::mem::replace(&mut self.state, state);
                    made.push(Choice { call, at, before, is_forced });
                    self.put(call);
                    left_min = left_min.min(self.left);
                    Cursor::Known(self.timeline.first())
                }
                Some((_, at, Next::Wrong | Next::Entered { is_forced: false })) => self.after(at),
                None | Some((.., Next::Entered { is_forced: true })) => match self.unmake(&mut made) {
                    Some(at) => self.after(at),
                    None => return self.no_order(known - left_min),
                },
            };
        }
        Found::Order
    }

    fn no_order(&self, explained_max: usize) -> Found {
        Found::NoOrder { was_right: self.items.iter().map(|item| item.was_right).collect(), explained_max }
    }

    /// The first call from the cursor on that time allows to be next.
    fn candidate(&self, cursor: Cursor) -> Option<(usize, Cursor)> {
        let first = match cursor {
            Cursor::Known(place) => match self.timeline.event(place) {
                Some(Event::Call(call)) => return Some((call, cursor)),
                // Who is invoked after this return comes after it.
                Some(Event::Return(_)) | None => 0,
            },
            Cursor::Unknown(first) => first,
        };
        let limit = self.timeline.first_return().and_then(|call| self.items.get(call)?.timed.returned);
        let open = |&(_, &call): &(usize, &usize)| {
            let item = self.items.get(call);
            item.is_some_and(|item| !item.is_put && limit.is_none_or(|limit| item.timed.invoked <= limit))
        };
        let found = self.unknown.iter().enumerate().skip(first).find(open);
        found.map(|(at, &call)| (call, Cursor::Unknown(at)))
    }

    fn after(&self, cursor: Cursor) -> Cursor {
        match cursor {
            Cursor::Known(place) => Cursor::Known(self.timeline.after(place)),
            Cursor::Unknown(at) => Cursor::Unknown(at + 1),
        }
    }

    fn next(&mut self, call: usize) -> Next<M::State> {
        let Some(item) = self.items.get(call) else { return Next::Wrong };
        let (operation, is_known) = (&item.timed.operation, item.places.is_some());
        let is_before_its_turn = item.rank_place.is_some_and(|place| self.rank_at(place) > self.rank_at(self.lowest));
        if is_before_its_turn {
            return Next::Wrong;
        }
        let Some(state) = self.model.step(&self.state, operation) else { return Next::Wrong };
        if !is_known && !self.explains(call, &state) {
            return Next::Wrong;
        }
        let is_forced = state == self.state && is_known && !self.model.has_effect(operation);
        if let Some(item) = self.items.get_mut(call) {
            item.was_right = true;
        }
        let configuration = self.set ^ mark(call) ^ fingerprint(&state);
        if self.entered.insert(configuration) { Next::New { state, is_forced } } else { Next::Entered { is_forced } }
    }

    fn rank_at(&self, place: usize) -> Option<u64> {
        self.ranked.get(place).map(|&(rank, _)| rank)
    }

    /// Whether a call of unknown end that leads to this state could explain anything.
    fn explains(&self, call: usize, state: &M::State) -> bool {
        let next = self.ranked.get(self.lowest).and_then(|&(_, next)| self.items.get(next));
        let limit = next.and_then(|next| next.timed.returned);
        let is_before = |timed: &Timed<M::Operation>| limit.is_none_or(|limit| timed.invoked <= limit);
        let left = |index: usize| {
            let item = self.items.get(index)?;
            (!item.is_put && index != call && item.rank_place.is_none() && is_before(item.timed)).then_some(item.timed)
        };
        let known =
            self.timeline.calls().take_while(|&index| self.items.get(index).is_some_and(|item| is_before(item.timed)));
        let others = known.chain(self.unknown.iter().copied()).filter_map(left).map(|timed| &timed.operation);
        self.model.explains((&self.state, state), next.map(|next| &next.timed.operation), others)
    }

    fn put(&mut self, call: usize) {
        let Some(item) = self.items.get_mut(call) else { return };
        item.is_put = true;
        self.set ^= mark(call);
        if let Some(places) = item.places {
            self.timeline.take_out(places);
            self.left -= 1;
        }
        while self.ranked.get(self.lowest).and_then(|&(_, next)| self.items.get(next)).is_some_and(|item| item.is_put) {
            self.lowest += 1;
        }
    }

    /// Goes back to the last choice that had others, and answers where it was. `None`: there is none.
    fn unmake(&mut self, made: &mut Vec<Choice<M::State>>) -> Option<Cursor> {
        loop {
            let Choice { call, at, before, is_forced } = made.pop()?;
            self.state = before;
            self.set ^= mark(call);
            if let Some(item) = self.items.get_mut(call) {
                item.is_put = false;
                self.lowest = item.rank_place.map_or(self.lowest, |place| place.min(self.lowest));
                if let Some(places) = item.places {
                    self.timeline.put_back(places);
                    self.left += 1;
                }
            }
            if !is_forced {
                return Some(at);
            }
        }
    }
}

/// A random number for each call: those of a set, taken together by exclusive or, tell it from any other set.
fn mark(call: usize) -> u128 {
    fingerprint(&("call", call))
}

fn fingerprint(value: &impl Hash) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        value.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}
