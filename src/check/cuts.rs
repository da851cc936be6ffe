//! Which calls of a history have to do with a span of time, without a look at all the others.

use super::{history::Moment, search::Timed};

/// The calls of a history by invocation.
pub struct Cuts {
    returned: Vec<Returned>,
    /// Of unknown end: invocation and place.
    unknown: Vec<(Moment, usize)>,
}

struct Returned {
    invoked: Moment,
    returned: Moment,
    /// The last return of this call and those before.
    latest: Moment,
    place: usize,
}

impl Cuts {
    pub fn new<O>(calls: &[Timed<O>]) -> Self {
        let (mut returned, mut unknown) = (Vec::new(), Vec::new());
        for (place, call) in calls.iter().enumerate() {
            match call.returned {
                Some(end) => returned.push(Returned { invoked: call.invoked, returned: end, latest: end, place }),
                None => unknown.push((call.invoked, place)),
            }
        }
        returned.sort_by_key(|call| call.invoked);
        unknown.sort_unstable();
        let mut latest = Moment::default();
        for call in &mut returned {
            latest = latest.max(call.returned);
            call.latest = latest;
        }
        Self { returned, unknown }
    }

    /// Where those are that may have taken effect between the two moments, in ascending order.
    pub fn between(&self, begin: Moment, end: Moment) -> Vec<usize> {
        let until = self.returned.partition_point(|call| call.invoked <= end);
        let near = self.returned.iter().take(until).rev().take_while(|call| call.latest >= begin);
        let returned = near.filter(|call| call.returned >= begin).map(|call| call.place);
        let unknown = self.unknown.iter().take_while(|&&(invoked, _)| invoked <= end).map(|&(_, place)| place);
        let mut places: Vec<_> = returned.chain(unknown).collect();
        places.sort_unstable();
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(spans: &[(u64, Option<u64>)]) -> Vec<Timed<()>> {
        let call = |&(invoked, returned): &(u64, Option<u64>)| Timed {
            operation: (),
            invoked: Moment(invoked),
            returned: returned.map(Moment),
        };
        spans.iter().map(call).collect()
    }

    #[test]
    fn a_span_has_all_that_overlap_it_and_what_is_still_open() {
        let calls = calls(&[(0, Some(10)), (50, Some(60)), (5, Some(100)), (1, None), (30, Some(40)), (61, None)]);
        let between = |begin, end| Cuts::new(&calls).between(Moment(begin), Moment(end));
        assert_eq!(between(0, 100), [0, 1, 2, 3, 4, 5]);
        assert_eq!(between(11, 29), [2, 3]);
        assert_eq!(between(40, 50), [1, 2, 3, 4]);
        assert_eq!(between(101, 200), [3, 5]);
    }
}
