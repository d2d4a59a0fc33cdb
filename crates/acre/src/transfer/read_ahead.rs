//! Reads what a plan names, many requests at a time, and gives it in order.

use super::link::{Export, Link};
use super::plan::{Plan, Planned};
use super::{IN_FLIGHT_MAX, Piece, REQUEST_BYTES_MAX};
use api::Error;
use model::ByteRange;
use nbd::client::Outcome;
use std::collections::VecDeque;

enum Slot {
    Asked { cookie: u64, range: ByteRange },
    Ready(Piece),
}

/// Reads an export by a plan.
pub(super) struct ReadAhead<P> {
    link: Link,
    plan: P,
    /// What is left of a range of the plan.
    rest: Option<ByteRange>,
    window: VecDeque<Slot>,
}

impl<P: Plan> ReadAhead<P> {
    /// Opens the export.
    pub(super) fn open(export: &Export, plan: P) -> Result<Self, Error> {
        Ok(Self { link: Link::open(export)?, plan, rest: None, window: VecDeque::new() })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.link.size_bytes()
    }

    /// The next piece; none behind the last.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, Error> {
        while self.window.len() < IN_FLIGHT_MAX {
            let Some(slot) = self.ask()? else { break };
            self.window.push_back(slot);
        }
        while let Some(Slot::Asked { range, .. }) = self.window.front() {
            self.wait(*range)?;
        }
        Ok(self.window.pop_front().map(|slot| match slot {
            Slot::Ready(piece) => piece,
            Slot::Asked { .. } => unreachable!("the first slot was waited for"),
        }))
    }

    fn ask(&mut self) -> Result<Option<Slot>, Error> {
        let range = match self.rest.take() {
            Some(range) => range,
            None => match self.plan.next()? {
                None => return Ok(None),
                Some(Planned::Zero(range)) => {
                    return Ok(Some(Slot::Ready(Piece::Zero { offset: range.start, length: range.length })));
                }
                Some(Planned::Data(range)) => range,
            },
        };
        if range.start.checked_add(range.length).is_none_or(|end| end > self.link.size_bytes()) {
            return Err(Error::internal(format!("a range at byte {} reaches beyond {:?}", range.start, self.link)));
        }
        // Requests end where multiples of their size lie, so that none cuts a block.
        let length = range.length.min(REQUEST_BYTES_MAX - range.start % REQUEST_BYTES_MAX);
        if length < range.length {
            self.rest = Some(ByteRange::new(range.start + length, range.length - length));
        }
        let range = ByteRange::new(range.start, length);
        Ok(Some(Slot::Asked { cookie: self.link.read(range)?, range }))
    }

    fn wait(&mut self, first: ByteRange) -> Result<(), Error> {
        let reply = self.link.reply(&format!("reading {} bytes or more at byte {} of", first.length, first.start))?;
        let is_it = |slot: &&mut Slot| matches!(slot, Slot::Asked { cookie, .. } if *cookie == reply.cookie);
        match (self.window.iter_mut().find(is_it), reply.outcome) {
            (Some(slot), Outcome::Data { bytes, .. }) => {
                if let Slot::Asked { range, .. } = slot {
                    *slot = Slot::Ready(Piece::Data { offset: range.start, bytes });
                }
                Ok(())
            }
            _ => Err(Error::unavailable(format!("a read of {:?} was answered with something else", self.link))),
        }
    }
}
