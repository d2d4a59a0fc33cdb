//! Whose turn it is: which connections have something to do in this round, and how much each may do.
//!
//! A connection alone is served until it has nothing more, which is where batches are largest. As soon as two of them are
//! busy, each has a share of every round: a round then stays short, whatever one of them has queued, and the other's
//! next request waits for no more than that.

use std::collections::VecDeque;

/// How many events of one connection are served in a round while others are busy too. Small enough for a round to be short
/// beside a disk's own latency; large enough for a batch's system calls to cost each request little.
pub(crate) const SHARE: usize = 16;
/// For how many rounds two busy connections are remembered.
const SHARED_ROUNDS: u64 = 256;

/// The queues of one thread's rounds; connections are told by their index.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    marks: Vec<Marks>,
    touched: VecDeque<u32>,
    postponed: Vec<u32>,
    ready: Vec<u32>,
    round: u64,
    /// Who had the last turn.
    last: Option<u32>,
    /// Up to which round turns are shared.
    shared_until: u64,
}

/// In which queues a connection stands.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    touched: bool,
    ready: bool,
}

impl Turns {
    fn marks(&mut self, index: u32) -> &mut Marks {
        let index = index as usize;
        if index >= self.marks.len() {
            self.marks.resize(index + 1, Marks::default());
        }
        &mut self.marks[index]
    }

    /// The connection has something to do.
    pub(crate) fn touch(&mut self, index: u32) {
        if !std::mem::replace(&mut self.marks(index).touched, true) {
            self.touched.push_back(index);
        }
    }

    /// The next connection that has something to do, and how many of its events are to be served.
    pub(crate) fn next_touched(&mut self) -> Option<(u32, usize)> {
        let index = self.touched.pop_front()?;
        self.marks(index).touched = false;
        if self.last.replace(index).is_some_and(|last| last != index) {
            self.shared_until = self.round + SHARED_ROUNDS;
        }
        let share = if self.round < self.shared_until { SHARE } else { usize::MAX };
        Some((index, share))
    }

    /// The connection has more to do, but not in this round, whoever touches it.
    pub(crate) fn postpone(&mut self, index: u32) {
        if !std::mem::replace(&mut self.marks(index).touched, true) {
            self.postponed.push(index);
        }
    }

    /// Whether the connection has more to do already.
    pub(crate) fn is_waiting(&self, index: u32) -> bool {
        self.marks.get(index as usize).is_some_and(|marks| marks.touched)
    }

    /// The connection has had its turn and may have something to send.
    pub(crate) fn ready(&mut self, index: u32) {
        if !std::mem::replace(&mut self.marks(index).ready, true) {
            self.ready.push(index);
        }
    }

    /// The next connection that may have something to send.
    pub(crate) fn next_ready(&mut self) -> Option<u32> {
        let index = self.ready.pop()?;
        self.marks(index).ready = false;
        Some(index)
    }

    /// The round is over: those that were postponed are the first of the next.
    pub(crate) fn end_round(&mut self) {
        self.round += 1;
        self.touched.extend(self.postponed.drain(..));
    }

    /// Whether somebody has something to do already, so that the next round is not to wait for it.
    pub(crate) fn is_behind(&self) -> bool {
        !self.touched.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves one round of connections that have so many events queued; gives who was served how many, in turn.
    fn round(turns: &mut Turns, queued: &mut [usize]) -> Vec<(u32, usize)> {
        let mut served = Vec::new();
        while let Some((index, share)) = turns.next_touched() {
            let events = queued[index as usize].min(share);
            queued[index as usize] -= events;
            if queued[index as usize] > 0 {
                turns.postpone(index);
            }
            if events > 0 {
                served.push((index, events));
                // As when a reply comes at once.
                turns.touch(index);
            }
        }
        turns.end_round();
        served
    }

    #[test]
    fn a_connection_alone_is_served_until_it_has_nothing_more() {
        let mut turns = Turns::default();
        let mut queued = [0, 0, 0, 1000];
        turns.touch(3);
        assert_eq!(round(&mut turns, &mut queued), [(3, 1000)]);
        assert!(!turns.is_behind());
    }

    #[test]
    fn beside_another_nobody_gets_more_than_a_share_of_a_round() {
        let mut turns = Turns::default();
        let mut queued = [100, 1];
        turns.touch(0);
        turns.touch(1);
        assert_eq!(turns.next_touched(), Some((0, usize::MAX)), "nobody knows of the other yet");
        turns.touch(0);
        assert_eq!(round(&mut turns, &mut queued), [(1, 1), (0, SHARE)]);
        assert!(turns.is_behind(), "the next round does not wait");
        // The other's next request is served after one share, not after all that is queued.
        queued[1] = 1;
        turns.touch(1);
        assert_eq!(round(&mut turns, &mut queued), [(0, SHARE), (1, 1)]);
    }

    #[test]
    fn one_that_stays_alone_gets_everything_again() {
        let mut turns = Turns::default();
        for index in [0, 1, 0] {
            turns.touch(index);
            turns.next_touched();
        }
        turns.touch(0);
        assert_eq!(turns.next_touched(), Some((0, SHARE)));
        for _ in 0..SHARED_ROUNDS {
            turns.end_round();
        }
        turns.touch(0);
        assert_eq!(turns.next_touched(), Some((0, usize::MAX)));
    }

    #[test]
    fn nobody_stands_in_a_queue_twice() {
        let mut turns = Turns::default();
        for _ in 0..2 {
            turns.touch(5);
            turns.ready(5);
        }
        assert_eq!(turns.next_touched().map(|(index, _)| index), Some(5));
        assert_eq!(turns.next_touched(), None);
        assert_eq!((turns.next_ready(), turns.next_ready()), (Some(5), None));
        turns.postpone(5);
        turns.touch(5);
        assert_eq!(turns.next_touched(), None, "not in this round");
        assert!(turns.is_waiting(5) && !turns.is_waiting(6));
        turns.end_round();
        assert_eq!(turns.next_touched().map(|(index, _)| index), Some(5));
        assert_eq!(turns.next_touched(), None);
    }
}
