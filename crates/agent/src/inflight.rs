//! I/O in flight on one volume: which writes overlap, and what still may touch a region that was given up.

use model::ByteRange;
use std::collections::VecDeque;

/// The order in which I/O began to touch devices.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Sequence(pub(crate) u64);

/// The writes (of any kind) in flight, by the byte range they hold. Ranges never overlap: a write that would waits.
#[derive(Debug, Default)]
pub(crate) struct WriteRanges {
    // Few and short-lived: a scan over packed pairs is quicker than any tree at the depths hosts use.
    ranges: Vec<(u64, u64)>,
    /// Those of them that are trims', which may be as long as the volume.
    trims: Vec<(u64, u64)>,
}

impl WriteRanges {
    pub(crate) fn overlaps(&self, range: ByteRange) -> bool {
        self.ranges.iter().any(|(start, end)| *start < range.end() && range.start < *end)
    }

    /// Whether a write other than `except` touches `range`.
    pub(crate) fn overlaps_besides(&self, range: ByteRange, except: ByteRange) -> bool {
        self.ranges.iter().any(|(start, end)| {
            *start < range.end() && range.start < *end && (*start, *end) != (except.start, except.end())
        })
    }

    pub(crate) fn begin(&mut self, range: ByteRange) {
        self.ranges.push((range.start, range.end()));
    }

    /// The same for a trim: it looks at each page when it comes to it, and needs at hand only those of its ends.
    pub(crate) fn begin_trim(&mut self, range: ByteRange) {
        self.begin(range);
        self.trims.push((range.start, range.end()));
    }

    pub(crate) fn end_trim(&mut self, range: ByteRange) {
        self.end(range);
        let held = (range.start, range.end());
        let index = self.trims.iter().position(|range| *range == held).expect("a trim that ends has begun");
        self.trims.swap_remove(index);
    }

    /// The bytes whose entries must stay at hand, first to end.
    pub(crate) fn needed(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let writes = self.ranges.iter().filter(|range| !self.trims.contains(range)).copied();
        let ends = |(start, end): &(u64, u64)| [(*start, start + 1), (end.saturating_sub(1), *end)];
        writes.chain(self.trims.iter().flat_map(ends))
    }

    pub(crate) fn end(&mut self, range: ByteRange) {
        let held = (range.start, range.end());
        let index = self.ranges.iter().position(|range| *range == held).expect("a write that ends has begun");
        self.ranges.swap_remove(index);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// Which I/O that touches devices has begun and not ended. A region given up at some moment can be addressed only by I/O
/// that began before it; once that has ended, nobody here can.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    next: u64,
    // Whether each I/O from the oldest one in flight on has ended.
    ended: VecDeque<bool>,
}

impl InFlight {
    pub(crate) fn begin(&mut self) -> Sequence {
        let sequence = Sequence(self.next);
        self.next += 1;
        self.ended.push_back(false);
        sequence
    }

    pub(crate) fn end(&mut self, sequence: Sequence) {
        let index = sequence.0 - self.oldest().0;
        self.ended[index as usize] = true;
        while self.ended.front() == Some(&true) {
            self.ended.pop_front();
        }
    }

    /// The oldest I/O in flight, or the next one to begin.
    pub(crate) fn oldest(&self) -> Sequence {
        Sequence(self.next - self.ended.len() as u64)
    }

    /// What the next I/O will get: everything in flight now is older.
    pub(crate) fn next(&self) -> Sequence {
        Sequence(self.next)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ended.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_in_flight_moves_only_when_it_ends() {
        let mut inflight = InFlight::default();
        let (a, b, c) = (inflight.begin(), inflight.begin(), inflight.begin());
        let given_up = inflight.next();
        inflight.end(b);
        assert_eq!(inflight.oldest(), a);
        inflight.end(a);
        assert_eq!(inflight.oldest(), c);
        assert!(inflight.oldest() < given_up);
        inflight.end(c);
        assert!(inflight.oldest() >= given_up && inflight.is_empty());
    }
}
