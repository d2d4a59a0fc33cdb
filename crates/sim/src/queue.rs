//! What will happen, in order of virtual time; among equals, in the order it was decided.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Events to come.
#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    decided: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: (u64, u64),
    event: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), decided: 0 }
    }
}

impl<T> Queue<T> {
    /// `event` will happen at `nanos`.
    pub fn push(&mut self, nanos: u64, event: T) {
        self.decided += 1;
        self.heap.push(Reverse(Entry { at: (nanos, self.decided), event }));
    }

    /// What happens next, and when.
    pub fn pop(&mut self) -> Option<(u64, T)> {
        self.heap.pop().map(|Reverse(entry)| (entry.at.0, entry.event))
    }

    /// When the next thing happens.
    #[must_use]
    pub fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(entry)| entry.at.0)
    }

    /// Puts off, by what `delay` says, everything it says something of; each keeps its place among its equals.
    pub fn put_off(&mut self, mut delay: impl FnMut(&T) -> Option<u64>) {
        let mut all: Vec<_> = std::mem::take(&mut self.heap).into_iter().map(|Reverse(entry)| entry).collect();
        all.sort();
        for mut entry in all {
            entry.at.0 += delay(&entry.event).unwrap_or(0);
            self.heap.push(Reverse(entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_decision() {
        let mut queue = Queue::default();
        for (at, name) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            queue.push(at, name);
        }
        assert_eq!(queue.next_at(), Some(1));
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, name)| name).collect();
        assert_eq!(order, "abcd");
    }
}
