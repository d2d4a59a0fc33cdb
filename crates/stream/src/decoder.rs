//! Reading a stream: the decoder says how many bytes it wants next, and judges them.

use crate::header::{Fields, PREFIX_BYTES};
use crate::state::{State, crc32c};
use crate::{CHECKSUM_BYTES, DATA_BYTES_MAX, Encoder, Header, RECORD_HEAD_BYTES, StreamError, Totals, record};

/// What a decoder found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item<'a> {
    /// What the stream is of; always the first, and once.
    Header(Header),
    /// Bytes of the volume.
    Data {
        /// Where they lie in it.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A range of the volume that is zeroes.
    Zero {
        /// Where it begins.
        offset: u64,
        /// How long it is, in bytes.
        length: u64,
    },
    /// Everything in the volume before this byte has been told.
    Checkpoint {
        /// Which byte.
        position: u64,
    },
    /// It is complete, and its checksums are right.
    End(Totals),
}

#[derive(Clone, Debug)]
enum Stage {
    Prefix,
    Header { prefix: [u8; PREFIX_BYTES], length: usize },
    RecordHead(State),
    RecordBody { state: State, head: [u8; RECORD_HEAD_BYTES], length: usize },
    Ended,
    Refused,
}

/// Judges a stream's bytes, piece by piece.
#[derive(Clone, Debug)]
pub struct Decoder {
    stage: Stage,
    /// How many bytes are whole: the header and records that were right.
    whole_bytes: u64,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self { stage: Stage::Prefix, whole_bytes: 0 }
    }

    /// How many bytes to hand to [`Decoder::take`] next: at most [`crate::TAKEN_BYTES_MAX`]; 0 behind the end, and after
    /// an error.
    #[must_use]
    pub fn wants(&self) -> usize {
        match &self.stage {
            Stage::Prefix => PREFIX_BYTES,
            Stage::Header { length, .. } => length - PREFIX_BYTES,
            Stage::RecordHead(_) => RECORD_HEAD_BYTES,
            Stage::RecordBody { length, .. } => length + CHECKSUM_BYTES,
            Stage::Ended | Stage::Refused => 0,
        }
    }

    /// Takes as many bytes as were wanted. There is not an item in each piece.
    ///
    /// # Errors
    /// When they are not what a stream goes on with. From then on nothing is wanted.
    ///
    /// # Panics
    /// When there are more or fewer bytes than were wanted.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Item<'a>>, StreamError> {
        assert_eq!(bytes.len(), self.wants(), "a decoder is given what it wants");
        match std::mem::replace(&mut self.stage, Stage::Refused) {
            Stage::Prefix => self.take_prefix(bytes).map(|()| None),
            Stage::Header { prefix, .. } => self.take_header(&[&prefix, bytes].concat()).map(Some),
            Stage::RecordHead(state) => self.take_head(state, bytes).map(|()| None),
            Stage::RecordBody { state, head, .. } => self.take_body(state, &head, bytes).map(Some),
            stage @ (Stage::Ended | Stage::Refused) => {
                self.stage = stage;
                Ok(None)
            }
        }
    }

    /// The error of a stream that has no more bytes while some are wanted.
    #[must_use]
    pub fn truncated(&self) -> StreamError {
        StreamError::Truncated { at: self.whole_bytes }
    }

    /// How many bytes are whole: the header and the records that were right.
    #[must_use]
    pub fn whole_bytes(&self) -> u64 {
        self.whole_bytes
    }

    /// Whether the END record was read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// An encoder that goes on behind the last whole record, at [`Decoder::whole_bytes`]. None before the header,
    /// behind the end, and after an error, unless the decoder was cloned before it.
    #[must_use]
    pub fn into_encoder(self) -> Option<Encoder> {
        match self.stage {
            Stage::RecordHead(state) | Stage::RecordBody { state, .. } => Some(Encoder::behind(state)),
            _ => None,
        }
    }

    fn damaged(&self, what: &'static str) -> StreamError {
        StreamError::Damaged { at: self.whole_bytes, what }
    }

    fn take_prefix(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        let length = Header::length(bytes)?;
        let mut prefix = [0; PREFIX_BYTES];
        prefix.copy_from_slice(bytes);
        self.stage = Stage::Header { prefix, length };
        Ok(())
    }

    fn take_header(&mut self, bytes: &[u8]) -> Result<Item<'static>, StreamError> {
        let header = Header::decode(bytes)?;
        self.whole_bytes = bytes.len() as u64;
        self.stage = Stage::RecordHead(State::behind(bytes, header.size_bytes));
        Ok(Item::Header(header))
    }

    fn take_head(&mut self, state: State, bytes: &[u8]) -> Result<(), StreamError> {
        let mut head = [0; RECORD_HEAD_BYTES];
        head.copy_from_slice(bytes);
        let [a, b, c, d, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        let fits = match [a, b, c, d] {
            record::DATA => (9..=8 + DATA_BYTES_MAX).contains(&length),
            record::ZERO | record::CHECKPOINT => length == 16,
            record::END => length == 32,
            _ => return Err(self.damaged("a record of an unknown kind")),
        };
        if !fits {
            return Err(self.damaged("a record whose length does not belong to its kind"));
        }
        self.stage = Stage::RecordBody { state, head, length };
        Ok(())
    }

    fn take_body<'a>(
        &mut self,
        mut state: State,
        head: &[u8; RECORD_HEAD_BYTES],
        bytes: &'a [u8],
    ) -> Result<Item<'a>, StreamError> {
        let short = || StreamError::Damaged { at: self.whole_bytes, what: "a record that is too short" };
        let (payload, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(short)?;
        let checksum = u32::from_le_bytes(*checksum);
        if crc32c(state.chain, &[head, payload]) != checksum {
            return Err(self.damaged("the checksum of a record is wrong, or records are missing before it"));
        }
        let (offset, rest) = payload.split_first_chunk::<8>().ok_or_else(short)?;
        let offset = u64::from_le_bytes(*offset);
        let mut fields = Fields(rest);
        let item = if head.starts_with(&record::DATA) {
            state.judge_data(offset, rest.len()).map_err(|what| self.damaged(what))?;
            state.position = offset + rest.len() as u64;
            state.totals.data_bytes += rest.len() as u64;
            Item::Data { offset, bytes: rest }
        } else if head.starts_with(&record::ZERO) {
            let length = fields.u64().ok_or_else(short)?;
            state.judge(offset, length).map_err(|what| self.damaged(what))?;
            state.position = offset + length;
            state.totals.zero_bytes += length;
            Item::Zero { offset, length }
        } else if head.starts_with(&record::CHECKPOINT) {
            if fields.u64() != Some(state.whole()) {
                return Err(self.damaged("the checksum of the stream so far is wrong"));
            }
            if offset < state.position || offset > state.size_bytes {
                return Err(self.damaged("a checkpoint goes back, or beyond the volume"));
            }
            state.position = offset;
            Item::Checkpoint { position: offset }
        } else {
            return self.take_end(state, offset, &mut fields, bytes.len());
        };
        state.pass(&[head, payload], checksum);
        self.whole_bytes = state.totals.stream_bytes;
        self.stage = Stage::RecordHead(state);
        Ok(item)
    }

    fn take_end(
        &mut self,
        state: State,
        data_bytes: u64,
        fields: &mut Fields<'_>,
        body_bytes: usize,
    ) -> Result<Item<'static>, StreamError> {
        let mut totals = state.totals;
        let told = (Some(data_bytes), fields.u64(), fields.u64(), fields.u64());
        if told != (Some(totals.data_bytes), Some(totals.zero_bytes), Some(totals.records), Some(state.whole())) {
            return Err(self.damaged("the totals at the end are not those of the stream"));
        }
        totals.stream_bytes += (RECORD_HEAD_BYTES + body_bytes) as u64;
        self.whole_bytes = totals.stream_bytes;
        self.stage = Stage::Ended;
        Ok(Item::End(totals))
    }
}
