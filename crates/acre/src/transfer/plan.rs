//! What of an export is to be read, range by range: what changed from one snapshot to another, or what is no hole.

use super::link::{Export, Link};
use super::operator::{Operator, diff};
use api::{DiffKind, DiffQuery, DiffRange, Error};
use model::{BLOCK_BYTES, ByteRange};
use nbd::client::Outcome;
use nbd::protocol::allocation_flags;
use std::collections::VecDeque;

/// A range of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Planned {
    /// Its bytes are to be read.
    Data(ByteRange),
    /// It is zeroes.
    Zero(ByteRange),
}

/// Ranges in ascending order; what is between them does not matter.
pub(super) trait Plan {
    /// The next range; none behind the last.
    fn next(&mut self) -> Result<Option<Planned>, Error>;
}

/// What changed between two views, as the server tells it.
pub(super) struct Changes<'a> {
    server: &'a dyn Operator,
    query: DiffQuery,
    ranges: VecDeque<DiffRange>,
    is_last: bool,
    /// Nothing before this byte is told again.
    position: u64,
}

impl<'a> Changes<'a> {
    /// What changed from the snapshot `from` to `to`, from `offset` on.
    pub(super) fn new(server: &'a dyn Operator, from: &str, to: &str, offset: u64) -> Self {
        let query = DiffQuery { from: Some(from.into()), to: to.into(), offset, limit: None };
        Self { server, query, ranges: VecDeque::new(), is_last: false, position: offset }
    }

    /// The same with no more ranges in one answer.
    pub(super) fn with_limit(mut self, limit: u32) -> Self {
        self.query.limit = Some(limit);
        self
    }

    /// The next range, cut to what lies behind all that was told.
    pub(super) fn next_range(&mut self) -> Result<Option<(ByteRange, DiffKind)>, Error> {
        loop {
            if let Some(range) = self.ranges.pop_front() {
                let end = range.offset_bytes.checked_add(range.length_bytes);
                let end = end.ok_or_else(|| Error::internal("the server tells of a change beyond all offsets"))?;
                let start = range.offset_bytes.max(self.position);
                if start < end {
                    self.position = end;
                    return Ok(Some((ByteRange::new(start, end - start), range.kind)));
                }
                continue;
            }
            if self.is_last {
                return Ok(None);
            }
            let answer = diff(self.server, self.query.clone())?;
            match answer.next_offset_bytes {
                None => self.is_last = true,
                Some(next) if next > self.query.offset => self.query.offset = next,
                Some(_) => return Err(Error::internal("the server's comparison does not get any further")),
            }
            self.ranges = answer.ranges.into();
        }
    }
}

impl Plan for Changes<'_> {
    fn next(&mut self) -> Result<Option<Planned>, Error> {
        Ok(self.next_range()?.map(|(range, kind)| match kind {
            DiffKind::Data => Planned::Data(range),
            DiffKind::Zero => Planned::Zero(range),
        }))
    }
}

/// What of an export is data, as its server's block status tells, in whole blocks; all of it where it tells nothing.
pub(super) struct Survey {
    link: Link,
    /// What lies before this byte was asked for.
    position: u64,
    known: VecDeque<Planned>,
    /// What lies before this byte was given.
    given: u64,
}

/// How much one question of block status is about, in bytes.
const QUESTION_BYTES_MAX: u64 = 1 << 30;

impl Survey {
    pub(super) fn open(export: &Export, offset: u64) -> Result<Self, Error> {
        let link = Link::open(export)?;
        let position = offset.min(link.size_bytes());
        Ok(Self { link, position, known: VecDeque::new(), given: position })
    }

    fn ask(&mut self) -> Result<(), Error> {
        let rest = ByteRange::new(self.position, self.link.size_bytes() - self.position);
        let Some(context) = self.link.allocation_context() else {
            self.position = rest.end();
            self.known.push_back(Planned::Data(rest));
            return Ok(());
        };
        let granule = self.link.block_bytes_min().min(QUESTION_BYTES_MAX);
        let length = rest.length.min(QUESTION_BYTES_MAX / granule * granule);
        self.link.block_status(ByteRange::new(rest.start, length))?;
        let what = format!("asking what lies at byte {} of", rest.start);
        let Outcome::Extents(mut extents) = self.link.reply(&what)?.outcome else {
            return Err(Error::unavailable(format!("{what} {:?} was answered with something else", self.link)));
        };
        for extent in extents.remove(&context).unwrap_or_default() {
            // The last extent may reach beyond what was asked, and then beyond the end.
            let length = extent.length_bytes.min(self.link.size_bytes() - self.position);
            if length == 0 {
                break;
            }
            let range = ByteRange::new(self.position, length);
            let is_zero = extent.flags & allocation_flags::ZERO != 0;
            self.known.push_back(if is_zero { Planned::Zero(range) } else { Planned::Data(range) });
            self.position = range.end();
        }
        if self.position == rest.start {
            return Err(Error::unavailable(format!("{what} {:?} was answered with nothing", self.link)));
        }
        Ok(())
    }
}

impl Plan for Survey {
    fn next(&mut self) -> Result<Option<Planned>, Error> {
        let size_bytes = self.link.size_bytes();
        loop {
            if self.known.is_empty() && self.position < size_bytes {
                self.ask()?;
            }
            // A block that is data in part is data.
            let (end, is_zero) = match self.known.pop_front() {
                None => return Ok(None),
                Some(Planned::Zero(range)) if range.end() < size_bytes => {
                    (range.end() / BLOCK_BYTES * BLOCK_BYTES, true)
                }
                Some(Planned::Zero(range)) => (range.end(), true),
                Some(Planned::Data(range)) => (range.end().next_multiple_of(BLOCK_BYTES).min(size_bytes), false),
            };
            if end > self.given {
                let range = ByteRange::new(self.given, end - self.given);
                self.given = end;
                return Ok(Some(if is_zero { Planned::Zero(range) } else { Planned::Data(range) }));
            }
        }
    }
}
