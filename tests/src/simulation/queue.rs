//! What is going to happen, in the order of virtual time; what happens in the same microsecond happens in the order in
//! which it was decided, so that a seed always plays the same game.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Something that happens at a time.
#[derive(Debug)]
struct Due<E> {
    at_us: u64,
    order: u64,
    event: E,
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Due<E> {}

impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Due<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_us, self.order).cmp(&(other.at_us, other.order))
    }
}

/// The queue of events.
#[derive(Debug)]
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<Due<E>>>,
    order: u64,
}

impl<E> Queue<E> {
    /// A queue with nothing in it.
    pub(super) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), order: 0 }
    }

    /// Lets `event` happen at `at_us`.
    pub(super) fn push(&mut self, at_us: u64, event: E) {
        self.order += 1;
        self.heap.push(Reverse(Due { at_us, order: self.order, event }));
    }

    /// The next event and its time, if it happens before `until_us`.
    pub(super) fn pop(&mut self, until_us: u64) -> Option<(u64, E)> {
        if self.heap.peek()?.0.at_us >= until_us {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| (due.at_us, due.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_those_of_one_time_in_the_order_of_their_making() {
        let mut queue = Queue::new();
        for (at_us, name) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b'), (9, 'e')] {
            queue.push(at_us, name);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(9)).collect();
        assert_eq!(order, [(1, 'a'), (2, 'b'), (5, 'c'), (5, 'd')]);
        assert_eq!(queue.pop(10), Some((9, 'e')));
    }
}
