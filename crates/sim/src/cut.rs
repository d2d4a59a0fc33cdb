//! What a snapshot holds: each sector one of the values it could have had at some moment between the request and the
//! answer, settled by the first read, for ever; and all of them, on every volume of the cut, at one and the same moment.

use crate::oracle::{NEVER, Oracle, Tick, Trace, Traces, Window, Write, describe, is_possible};
use crate::stamp::Content;
use crate::verdict::{Invariant, Violation};
use model::VolumeId;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of the moment at which a snapshot was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Not before this: something begun then is in.
    pub after: Tick,
    /// Not after this: something that had happened by then is not in.
    pub before: Tick,
}

/// A snapshot's part of an [`Oracle`].
#[derive(Clone, Debug)]
pub(crate) struct Frozen {
    moment: Moment,
    /// Sectors that were read.
    known: BTreeSet<u64>,
}

impl Moment {
    /// Any moment between a request and its answer.
    #[must_use]
    pub fn between(asked: Tick, answered: Tick) -> Self {
        Self { after: asked, before: answered }
    }

    /// What is known when `other` is known as well.
    ///
    /// # Errors
    /// When there is no such moment.
    pub fn and(self, other: Self) -> Result<Self, Violation> {
        let both = Self { after: self.after.max(other.after), before: self.before.min(other.before) };
        if both.after > both.before {
            let Self { after, before } = both;
            let detail = format!("a snapshot holds what was begun at {after} and lacks what had ended at {before}");
            return Err(Violation::new(Invariant::CutIsConsistent, detail));
        }
        Ok(both)
    }
}

impl Oracle {
    /// The oracle of a snapshot that was asked for at `asked` and is there now.
    #[must_use]
    pub fn snapshot(&self, asked: Tick, now: Tick) -> Self {
        let windows = self.windows.iter().map(|window| {
            let kept = |traces: &Traces| -> Traces {
                traces.iter().filter(|trace| is_possible(&self.writes, asked, traces, trace)).copied().collect()
            };
            Window { first_sector: window.first_sector, sectors: window.sectors.iter().map(kept).collect() }
        });
        let mut snapshot = Self::new(self.volume(), &[]);
        snapshot.windows = windows.collect();
        snapshot.writes = self.used_writes(&snapshot.windows, |write| write);
        snapshot.owners.clone_from(&self.owners);
        snapshot.frozen = Some(Frozen { moment: Moment::between(asked, now), known: BTreeSet::new() });
        snapshot
    }

    /// The oracle of a volume that begins as this snapshot is.
    #[must_use]
    pub fn descendant(&self, volume: VolumeId) -> Self {
        let mut descendant = Self::new(volume, &[]);
        let base = |traces: &Traces| -> Traces {
            let mut numbers: BTreeSet<u32> =
                traces.iter().map(|trace| if self.writes[&trace.write].zero { 0 } else { trace.write }).collect();
            std::mem::take(&mut numbers).into_iter().map(Trace::of).collect()
        };
        descendant.windows = (self.windows.iter())
            .map(|window| Window {
                first_sector: window.first_sector,
                sectors: window.sectors.iter().map(base).collect(),
            })
            .collect();
        descendant.writes.extend(self.used_writes(&descendant.windows, Write::as_base));
        descendant.owners.extend(&self.owners);
        descendant
    }

    fn used_writes(&self, windows: &[Window], change: impl Fn(Write) -> Write) -> BTreeMap<u32, Write> {
        let used: BTreeSet<u32> =
            windows.iter().flat_map(|window| &window.sectors).flatten().map(|trace| trace.write).collect();
        used.into_iter().filter_map(|number| Some((number, change(*self.writes.get(&number)?)))).collect()
    }

    /// What is known of the moment of a snapshot; of anything else, nothing.
    #[must_use]
    pub fn moment(&self) -> Moment {
        self.frozen.as_ref().map_or(Moment { after: 0, before: NEVER }, |frozen| frozen.moment)
    }

    /// A sector of a snapshot was read.
    pub(crate) fn observe_frozen(
        &mut self,
        address: u64,
        content: Content,
        seen: Option<u32>,
    ) -> Result<(), Violation> {
        let volume = self.volume();
        let writes = std::mem::take(&mut self.writes);
        let matches = |trace: &Trace| match seen {
            Some(number) => trace.write == number,
            None => writes[&trace.write].zero,
        };
        let result = match self.overlap(address, 1).next() {
            None if seen.is_none() => Ok(None),
            None => Err("zeroes: nobody writes there".to_owned()),
            Some((_, traces)) if traces.iter().any(matches) => {
                let moment = moment_of(&writes, traces, &matches);
                traces.retain(|trace| matches(trace));
                Ok(Some(moment))
            }
            Some((_, traces)) => {
                Err(traces.iter().map(|trace| describe(&writes, trace)).collect::<Vec<_>>().join(" or "))
            }
        };
        self.writes = writes;
        let frozen = self.frozen.as_mut().expect("the caller looked");
        let was_known = !frozen.known.insert(address);
        match result {
            Ok(None) => Ok(()),
            Ok(Some(moment)) => {
                frozen.moment = frozen.moment.and(moment).map_err(|violation| {
                    let detail = format!("{}: seen at sector {address} of a snapshot of {volume}", violation.detail);
                    Violation::new(violation.invariant, detail)
                })?;
                Ok(())
            }
            Err(expected) => {
                let invariant = if was_known { Invariant::SnapshotNeverChanges } else { Invariant::CutIsConsistent };
                let detail =
                    format!("a snapshot of {volume}, sector {address}, reads as {content:?}; it may hold {expected}");
                Err(Violation::new(invariant, detail))
            }
        }
    }

    /// Sectors that certainly differ between two views of which both know the windows, from `from` on; and what the
    /// younger one may hold there: zeroes, data.
    pub(crate) fn differences<'a>(&'a self, younger: &'a Self) -> impl Iterator<Item = u64> + 'a {
        let value = |oracle: &Self, number: u32| if oracle.writes[&number].zero { 0 } else { number };
        self.windows.iter().zip(&younger.windows).flat_map(move |(one, other)| {
            one.sectors.iter().zip(&other.sectors).enumerate().filter_map(move |(index, (old, new))| {
                let same =
                    new.iter().any(|new| old.iter().any(|old| value(self, old.write) == value(younger, new.write)));
                (!same).then_some(one.first_sector + index as u64)
            })
        })
    }

    /// A sector of a range that certainly holds something else in a volume than in this snapshot of it, for a request
    /// begun at `invoked` and answered now.
    pub(crate) fn must_differ(&self, volume: &Self, invoked: Tick, first: u64, count: u64) -> Option<u64> {
        let value = |oracle: &Self, number: u32| if oracle.writes[&number].zero { 0 } else { number };
        self.windows.iter().zip(&volume.windows).find_map(|(one, other)| {
            let length = one.sectors.len().min(other.sectors.len()) as u64;
            let from = first.saturating_sub(one.first_sector).min(length);
            let to = (first + count).saturating_sub(one.first_sector).min(length);
            (from..to.max(from)).map(|index| index as usize).find_map(|index| {
                let (old, new) = (&one.sectors[index], &other.sectors[index]);
                let mut now = new.iter().filter(|trace| is_possible(&volume.writes, invoked, new, trace));
                let same = now.any(|new| old.iter().any(|old| value(self, old.write) == value(volume, new.write)));
                (!same).then_some(one.first_sector + index as u64)
            })
        })
    }

    /// Whether a sector of a quiet view may be zeroes.
    pub(crate) fn may_be_zero(&self, address: u64) -> bool {
        self.windows.iter().all(|window| {
            let index = address.checked_sub(window.first_sector).map(|index| index as usize);
            let traces = index.and_then(|index| window.sectors.get(index));
            traces.is_none_or(|traces| traces.iter().any(|trace| self.writes[&trace.write].zero))
        })
    }
}

/// What the moment of a snapshot must have been, given which writes may be what it holds in a sector.
fn moment_of(writes: &BTreeMap<u32, Write>, traces: &Traces, matches: &impl Fn(&Trace) -> bool) -> Moment {
    let seen = || traces.iter().filter(|trace| matches(trace)).map(|trace| writes[&trace.write]);
    let after = seen().map(|write| write.invoked).min().unwrap_or(0);
    // Whatever was begun after the one seen had ended is not in.
    let missing = |seen: Write| {
        let later = traces.iter().filter(|trace| writes[&trace.write].invoked > seen.ended);
        later.map(|trace| writes[&trace.write].happened.min(trace.observed)).min().unwrap_or(NEVER)
    };
    Moment { after, before: seen().map(missing).max().unwrap_or(NEVER) }
}
