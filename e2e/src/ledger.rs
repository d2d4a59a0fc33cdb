//! What a volume may hold after a crash: for every sector the last durable value, and the values written since.
//!
//! A write of one sector is never in flight twice at once (the campaign gives each connection its own sectors), so the
//! values of a sector are ordered. A flush makes durable what was acknowledged, on any connection, before it was asked for.

use std::collections::BTreeSet;

use crate::stamp::Found;

/// A value written and not known to be durable.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// The sequence number of the stamp; zero for zeroes.
    value: u64,
    /// When it was acknowledged, by the ledger's count; `None` while in flight.
    acknowledged: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Sector {
    durable: u64,
    pending: Vec<Pending>,
}

/// The ledger of one volume.
#[derive(Debug)]
pub struct Ledger {
    tenant: u64,
    sectors: Vec<Sector>,
    dirty: BTreeSet<usize>,
    acknowledgements: u64,
}

/// The moment a flush was asked for; what was acknowledged before it becomes durable with it.
#[derive(Clone, Copy, Debug)]
pub struct FlushPoint(u64);

impl Ledger {
    /// A volume of so many sectors that holds zeroes, written by this tenant from now on.
    pub fn new(tenant: u64, sectors: usize) -> Ledger {
        Ledger { tenant, sectors: vec![Sector::default(); sectors], dirty: BTreeSet::new(), acknowledgements: 0 }
    }

    /// Whose stamps belong in this volume.
    pub fn tenant(&self) -> u64 {
        self.tenant
    }

    /// A write (or, with value zero, a trim) of `count` sectors from `first` on is about to be sent.
    pub fn sent(&mut self, first: usize, count: usize, value: u64) {
        for index in first..first + count {
            self.sectors[index].pending.push(Pending { value, acknowledged: None });
            self.dirty.insert(index);
        }
    }

    /// The last write sent to these sectors was acknowledged; with FUA it is durable at once.
    pub fn acknowledged(&mut self, first: usize, count: usize, durable: bool) {
        self.acknowledgements += 1;
        for index in first..first + count {
            let sector = &mut self.sectors[index];
            let Some(last) = sector.pending.last_mut() else { continue };
            last.acknowledged = Some(self.acknowledgements);
            if durable {
                sector.durable = last.value;
                sector.pending.clear();
                self.dirty.remove(&index);
            }
        }
    }

    /// The last write sent to these sectors was refused (a full pool): it may or may not have taken place.
    pub fn refused(&mut self, first: usize, count: usize) {
        self.acknowledgements += 1;
        for index in first..first + count {
            // It counts as acknowledged never: the old value stays possible beside it until the next write.
            let sector = &mut self.sectors[index];
            if let Some(last) = sector.pending.last_mut() {
                last.acknowledged = None;
            }
        }
    }

    /// What sectors without a write in flight hold now, as sequence numbers; `u64::MAX` where a refused write leaves it open.
    pub fn current(&self, first: usize, count: usize) -> Vec<u64> {
        let value_of = |sector: &Sector| match sector.pending.last() {
            None => sector.durable,
            Some(last) if last.acknowledged.is_some() => last.value,
            Some(_) => u64::MAX,
        };
        self.sectors[first..first + count].iter().map(value_of).collect()
    }

    /// A flush is about to be sent.
    pub fn flush_sent(&self) -> FlushPoint {
        FlushPoint(self.acknowledgements)
    }

    /// The flush asked for at that point was acknowledged.
    pub fn flush_acknowledged(&mut self, point: FlushPoint) {
        let sectors = &mut self.sectors;
        self.dirty.retain(|index| {
            let sector = &mut sectors[*index];
            let covered = |pending: &Pending| pending.acknowledged.is_some_and(|count| count <= point.0);
            if let Some(last) = sector.pending.iter().rposition(covered) {
                sector.durable = sector.pending[last].value;
                sector.pending.drain(..=last);
            }
            !sector.pending.is_empty()
        });
    }

    /// Compares what a sector was found to hold after a crash with what it may hold; says what is wrong, if anything.
    /// What was found is the sector's durable value from then on: a crash happens once.
    pub fn verify(&mut self, index: usize, found: Found) -> Result<(), String> {
        let sector = &mut self.sectors[index];
        let value = match found {
            Found::Zero => 0,
            Found::Stamp { tenant, sector: place, sequence } if tenant == self.tenant && place == index as u64 => {
                sequence
            }
            Found::Stamp { tenant, sector: place, sequence } if tenant != self.tenant => {
                return Err(format!(
                    "NO_FOREIGN_BYTES: sector {index} of tenant {} holds tenant {tenant}'s sector {place}, write {sequence}",
                    self.tenant
                ));
            }
            other => return Err(format!("sector {index} holds {other:?}, which was never written there")),
        };
        let possible = value == sector.durable || sector.pending.iter().any(|pending| pending.value == value);
        if !possible {
            let pending: Vec<u64> = sector.pending.iter().map(|pending| pending.value).collect();
            return Err(format!(
                "ACKED_FLUSH_IS_DURABLE: sector {index} holds write {value}; durable was {}, written since {pending:?}",
                sector.durable
            ));
        }
        sector.durable = value;
        sector.pending.clear();
        self.dirty.remove(&index);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sequence: u64) -> Found {
        Found::Stamp { tenant: 1, sector: 0, sequence }
    }

    #[test]
    fn an_unflushed_sector_is_old_or_new_and_a_flushed_one_is_new() {
        let mut ledger = Ledger::new(1, 1);
        ledger.sent(0, 1, 5);
        ledger.acknowledged(0, 1, false);
        assert!(ledger.verify(0, Found::Zero).is_ok());
        ledger.sent(0, 1, 6);
        ledger.acknowledged(0, 1, false);
        let point = ledger.flush_sent();
        ledger.sent(0, 1, 7);
        ledger.flush_acknowledged(point);
        assert!(ledger.verify(0, Found::Zero).is_err());
        assert!(ledger.verify(0, stamp(6)).is_ok());
        assert!(ledger.verify(0, stamp(7)).is_err(), "a crash happens once: what was found stays");
    }

    #[test]
    fn a_flush_covers_nothing_acknowledged_after_it_was_asked_for() {
        let mut ledger = Ledger::new(1, 1);
        ledger.sent(0, 1, 5);
        let point = ledger.flush_sent();
        ledger.acknowledged(0, 1, false);
        ledger.flush_acknowledged(point);
        assert!(ledger.verify(0, Found::Zero).is_ok());
    }

    #[test]
    fn a_foreign_or_misplaced_stamp_is_never_right() {
        let mut ledger = Ledger::new(1, 2);
        assert!(ledger.verify(0, Found::Stamp { tenant: 2, sector: 0, sequence: 1 }).is_err());
        assert!(ledger.verify(0, Found::Stamp { tenant: 1, sector: 1, sequence: 1 }).is_err());
        assert!(ledger.verify(0, Found::Garbage).is_err());
    }

    #[test]
    fn forced_unit_access_is_durable_at_once() {
        let mut ledger = Ledger::new(1, 1);
        ledger.sent(0, 1, 5);
        ledger.acknowledged(0, 1, true);
        assert!(ledger.verify(0, Found::Zero).is_err());
    }
}
