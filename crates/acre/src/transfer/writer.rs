//! Writes a volume over NBD, many requests at a time. Zero blocks are not sent.

use super::link::{Export, Link};
use super::{IN_FLIGHT_MAX, REQUEST_BYTES_MAX, runs_of_blocks};
use api::Error;
use model::ByteRange;

/// How much one request zeroes, in bytes: what fits the compact form of any server.
const ZERO_BYTES_MAX: u64 = 1 << 30;

/// What to do about blocks that are zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Zeroes {
    /// Nothing: the volume is new, and zeroes are what it holds.
    AreThere,
    /// Zero them: the volume may hold something else.
    AreMade,
}

/// An open volume, written to in ascending order.
#[derive(Debug)]
pub(super) struct VolumeWriter {
    link: Link,
    zeroes: Zeroes,
    /// Zeroes that are still to be made; neighbours become one request.
    zero: ByteRange,
}

impl VolumeWriter {
    /// Opens the volume for writing.
    pub(super) fn open(export: &Export, zeroes: Zeroes) -> Result<Self, Error> {
        let link = Link::open(export)?;
        if link.is_read_only() {
            return Err(Error::forbidden(format!(
                "{export} takes no writes; acre volume set {} --read-only false",
                export.name
            )));
        }
        Ok(Self { link, zeroes, zero: ByteRange::new(0, 0) })
    }

    /// The volume's size as NBD has it, in bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        self.link.size_bytes()
    }

    /// Writes bytes that begin at a block's beginning.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        for (start, length, is_zero) in runs_of_blocks(bytes) {
            let at = offset + start as u64;
            if is_zero {
                self.zero(at, length as u64)?;
                continue;
            }
            self.send_zeroes()?;
            for (index, piece) in bytes[start..start + length].chunks(REQUEST_BYTES_MAX as usize).enumerate() {
                self.make_room(IN_FLIGHT_MAX - 1)?;
                self.link.write(at + index as u64 * REQUEST_BYTES_MAX, piece)?;
            }
        }
        Ok(())
    }

    /// Makes a range zeroes.
    pub(super) fn zero(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        if self.zeroes == Zeroes::AreThere || length == 0 {
            return Ok(());
        }
        if self.zero.end() == offset {
            self.zero.length += length;
            return Ok(());
        }
        self.send_zeroes()?;
        self.zero = ByteRange::new(offset, length);
        Ok(())
    }

    /// Waits until everything is written and durable, and lets the volume go.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.send_zeroes()?;
        self.make_room(0)?;
        self.link.flush()?;
        self.make_room(0)?;
        self.link.close();
        Ok(())
    }

    fn send_zeroes(&mut self) -> Result<(), Error> {
        while self.zero.length > 0 {
            let length = self.zero.length.min(ZERO_BYTES_MAX);
            self.make_room(IN_FLIGHT_MAX - 1)?;
            self.link.write_zeroes(ByteRange::new(self.zero.start, length))?;
            self.zero = ByteRange::new(self.zero.start + length, self.zero.length - length);
        }
        Ok(())
    }

    fn make_room(&mut self, in_flight_max: usize) -> Result<(), Error> {
        while self.link.requests_in_flight() > in_flight_max {
            self.link.reply("a write to")?;
        }
        Ok(())
    }
}
