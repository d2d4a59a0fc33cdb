//! Writing a stream.

use crate::state::{State, crc32c};
use crate::{Header, StreamError, Totals, record};

/// Makes a stream's bytes, record by record. Every method adds to `out` and keeps nothing.
#[derive(Clone, Debug)]
pub struct Encoder {
    state: State,
}

impl Encoder {
    /// Begins a stream.
    ///
    /// # Errors
    /// [`StreamError::Unfit`] when the header's names or sizes are none.
    pub fn begin(header: &Header, out: &mut Vec<u8>) -> Result<Self, StreamError> {
        let bytes = header.encode()?;
        out.extend_from_slice(&bytes);
        Ok(Self { state: State::behind(&bytes, header.size_bytes) })
    }

    pub(crate) fn behind(state: State) -> Self {
        Self { state }
    }

    /// Everything in the volume before this byte has been told.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.state.position
    }

    /// What the stream amounts to so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.state.totals
    }

    /// Adds bytes of the volume.
    ///
    /// # Errors
    /// [`StreamError::Unfit`] when they are empty, too many, not whole blocks, not behind what was added before, or
    /// beyond the volume.
    pub fn data(&mut self, offset: u64, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), StreamError> {
        self.state.judge_data(offset, bytes.len()).map_err(|what| StreamError::Unfit { offset, what })?;
        self.put(record::DATA, &offset.to_le_bytes(), bytes, out);
        self.state.position = offset + bytes.len() as u64;
        self.state.totals.data_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Adds a range that is zeroes.
    ///
    /// # Errors
    /// As [`Encoder::data`], but for the length.
    pub fn zero(&mut self, offset: u64, length: u64, out: &mut Vec<u8>) -> Result<(), StreamError> {
        self.state.judge(offset, length).map_err(|what| StreamError::Unfit { offset, what })?;
        self.put(record::ZERO, &offset.to_le_bytes(), &length.to_le_bytes(), out);
        self.state.position = offset + length;
        self.state.totals.zero_bytes += length;
        Ok(())
    }

    /// Says that everything before this byte of the volume has been told.
    ///
    /// # Errors
    /// [`StreamError::Unfit`] when that lies before what was added, or beyond the volume.
    pub fn checkpoint(&mut self, position: u64, out: &mut Vec<u8>) -> Result<(), StreamError> {
        if position < self.state.position || position > self.state.size_bytes {
            return Err(StreamError::Unfit { offset: position, what: "a checkpoint goes back, or beyond the volume" });
        }
        let whole = self.state.whole();
        self.put(record::CHECKPOINT, &position.to_le_bytes(), &whole.to_le_bytes(), out);
        self.state.position = position;
        Ok(())
    }

    /// Ends the stream; gives what it amounts to.
    pub fn end(mut self, out: &mut Vec<u8>) -> Totals {
        let Totals { data_bytes, zero_bytes, records, .. } = self.state.totals;
        let numbers = [data_bytes, zero_bytes, records, self.state.whole()];
        let payload: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.put(record::END, &payload, &[], out);
        Totals { records, ..self.state.totals }
    }

    fn put(&mut self, kind: [u8; 4], first: &[u8], second: &[u8], out: &mut Vec<u8>) {
        let length = ((first.len() + second.len()) as u32).to_le_bytes();
        let parts = [&kind[..], &length, first, second];
        let checksum = crc32c(self.state.chain, &parts);
        parts.iter().for_each(|part| out.extend_from_slice(part));
        out.extend(checksum.to_le_bytes());
        self.state.pass(&parts, checksum);
    }
}
