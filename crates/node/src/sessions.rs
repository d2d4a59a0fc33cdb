//! Who may ask for I/O, and how much of theirs is in flight.

use model::Epoch;
use std::collections::BTreeSet;

/// Sessions that had I/O here lately, and those that must have none.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Ascending by epoch. One whose count is zero is remembered only to spare the next request the longer check.
    known: Vec<Session>,
    /// Epochs below are refused.
    floor: Epoch,
    /// Epochs from the floor on that are refused too.
    fenced: BTreeSet<Epoch>,
    /// Operations in flight of sessions that are refused by now.
    fenced_in_flight: u32,
}

#[derive(Debug)]
struct Session {
    epoch: Epoch,
    in_flight: u32,
    fenced: bool,
}

/// How many idle sessions are remembered before they are swept out.
const KNOWN_IDLE_MAX: usize = 256;

impl Sessions {
    /// Whether `epoch` is refused.
    pub(crate) fn is_fenced(&self, epoch: Epoch) -> bool {
        match self.known.binary_search_by_key(&epoch, |session| session.epoch) {
            Ok(index) => self.known[index].fenced,
            Err(_) => epoch < self.floor || self.fenced.contains(&epoch),
        }
    }

    /// One more operation of `epoch`, which is not fenced, is in flight.
    pub(crate) fn begin(&mut self, epoch: Epoch) {
        let index = match self.known.binary_search_by_key(&epoch, |session| session.epoch) {
            Ok(index) => index,
            Err(_) => {
                if self.known.len() >= KNOWN_IDLE_MAX {
                    self.known.retain(|session| session.in_flight > 0);
                }
                let index = self.known.partition_point(|session| session.epoch < epoch);
                self.known.insert(index, Session { epoch, in_flight: 0, fenced: false });
                index
            }
        };
        self.known[index].in_flight += 1;
    }

    /// One operation of `epoch` is over. True when that was the last in flight of all fenced sessions.
    pub(crate) fn end(&mut self, epoch: Epoch) -> bool {
        let index = self.known.binary_search_by_key(&epoch, |session| session.epoch);
        let index = index.expect("a session with I/O in flight is known");
        let session = &mut self.known[index];
        session.in_flight = session.in_flight.checked_sub(1).expect("no operation ends twice");
        if !session.fenced {
            return false;
        }
        self.fenced_in_flight -= 1;
        if session.in_flight == 0 {
            self.known.remove(index);
        }
        self.fenced_in_flight == 0
    }

    /// Refuses every epoch below `floor`, and `epochs`, from now on.
    pub(crate) fn fence(&mut self, floor: Epoch, epochs: &[Epoch]) {
        self.floor = self.floor.max(floor);
        self.fenced.extend(epochs.iter().copied());
        self.fenced = self.fenced.split_off(&self.floor);
        for session in &mut self.known {
            if !session.fenced && (session.epoch < self.floor || self.fenced.contains(&session.epoch)) {
                session.fenced = true;
                self.fenced_in_flight += session.in_flight;
            }
        }
        self.known.retain(|session| !session.fenced || session.in_flight > 0);
    }

    /// Operations in flight of sessions that are refused by now.
    pub(crate) fn fenced_in_flight(&self) -> u32 {
        self.fenced_in_flight
    }
}
