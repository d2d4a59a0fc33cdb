//! A stream of ours, from a file or a pipe.

use super::Piece;
use crate::transfer::stream_error;
use api::Error;
use std::io::{BufReader, Read};
use stream::{Decoder, Header, Item, StreamError};

/// How much is read from a file at a time, in bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// A stream whose header was read.
pub(crate) struct StreamSource {
    name: String,
    input: BufReader<Box<dyn Read>>,
    decoder: Decoder,
    buffer: Vec<u8>,
    header: Header,
    /// The stream's length in bytes, where one can know.
    pub(crate) stream_bytes: Option<u64>,
}

/// Reads the header.
pub(crate) fn open(name: &str, input: Box<dyn Read>, stream_bytes: Option<u64>) -> Result<StreamSource, Error> {
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    let (mut decoder, mut buffer) = (Decoder::new(), Vec::new());
    loop {
        buffer.resize(decoder.wants(), 0);
        fill(name, &decoder, &mut input, &mut buffer)?;
        if let Some(Item::Header(header)) = decoder.take(&buffer).map_err(|error| stream_error(name, &error))? {
            return Ok(StreamSource { name: name.into(), input, decoder, buffer, header, stream_bytes });
        }
    }
}

fn fill(name: &str, decoder: &Decoder, input: &mut impl Read, buffer: &mut [u8]) -> Result<(), Error> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => stream_error(name, &decoder.truncated()),
        _ => Error::unavailable(format!("cannot read {name}: {error}")),
    })
}

impl StreamSource {
    /// What it is of.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// How much of it was read, in bytes.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.decoder.whole_bytes()
    }

    /// The next piece. None means that the stream is complete and right.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, Error> {
        while !self.decoder.is_complete() {
            self.buffer.resize(self.decoder.wants(), 0);
            fill(&self.name, &self.decoder, &mut self.input, &mut self.buffer)?;
            let item = self.decoder.take(&self.buffer).map_err(|error| stream_error(&self.name, &error))?;
            match item {
                Some(Item::Data { offset, bytes }) => return Ok(Some(Piece::Data { offset, bytes: bytes.to_vec() })),
                Some(Item::Zero { offset, length }) => return Ok(Some(Piece::Zero { offset, length })),
                None | Some(Item::Checkpoint { .. } | Item::Header(_) | Item::End(_)) => {}
            }
        }
        let mut behind = [0];
        match self.input.read(&mut behind) {
            Ok(0) => Ok(None),
            Ok(_) => Err(stream_error(&self.name, &StreamError::Trailing { at: self.decoder.whole_bytes() })),
            Err(error) => Err(Error::unavailable(format!("cannot read {}: {error}", self.name))),
        }
    }
}
