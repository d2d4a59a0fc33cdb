//! Bytes on their way to the client: headers, ranges of buffers, and zeroes, gathered so that one system call sends many
//! replies.

use model::{BufferPool, IoBuffer};

/// Where zeroes are sent from.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Header memory a batch keeps between uses, in bytes.
const HEADERS_KEPT_BYTES: usize = 64 << 10;
/// Pieces a batch keeps room for between uses.
const PIECES_KEPT: usize = 1024;

const HEADERS: u32 = u32::MAX;
const NOTHING: u32 = u32::MAX - 1;

/// A run of bytes: of the headers, of zeroes, or of one of the buffers.
#[derive(Clone, Copy, Debug)]
struct Piece {
    source: u32,
    start: u32,
    length: u32,
}

/// Bytes to send, gathered from several places. Its owner keeps it untouched while a send is in flight.
#[derive(Debug, Default)]
pub struct OutputBatch {
    headers: Vec<u8>,
    pieces: Vec<Piece>,
    buffers: Vec<Option<IoBuffer>>,
    slices_max: usize,
    /// What is sent: whole pieces, bytes of the next, and how many buffers went back.
    piece: usize,
    piece_sent: u32,
    released: usize,
    /// Bytes not yet sent, all told.
    bytes: usize,
    /// Bytes of headers not yet sent.
    header_bytes: usize,
}

impl OutputBatch {
    /// How many bytes are still to be sent, beyond what [`OutputBatch::slices`] may show at once.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The next bytes to send, in order; at most as many slices as asked for. They stay where they are in memory when
    /// the batch is moved.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut piece = self.piece;
        let mut done = self.piece_sent;
        std::iter::from_fn(move || {
            let current = self.pieces.get(piece)?;
            let start = (current.start + done) as usize;
            let left = (current.length - done) as usize;
            let slice = match current.source {
                HEADERS => &self.headers[start..start + left],
                NOTHING => &ZEROES[..left.min(ZEROES.len())],
                buffer => {
                    let buffer = self.buffers[buffer as usize].as_ref();
                    &buffer.expect("a buffer stays until it is sent").bytes()[start..start + left]
                }
            };
            done += slice.len() as u32;
            if done == current.length {
                (piece, done) = (piece + 1, 0);
            }
            Some(slice)
        })
        .take(self.slices_max)
    }

    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn put_header(&mut self, bytes: &[u8]) {
        let start = self.headers.len();
        self.headers.extend_from_slice(bytes);
        self.bytes += bytes.len();
        self.header_bytes += bytes.len();
        match self.pieces.last_mut() {
            Some(last) if last.source == HEADERS => last.length += bytes.len() as u32,
            _ => self.pieces.push(Piece { source: HEADERS, start: start as u32, length: bytes.len() as u32 }),
        }
    }

    /// Where the next header will begin, for [`OutputBatch::patch_header`].
    pub(super) fn header_position(&self) -> usize {
        self.headers.len()
    }

    /// Overwrites part of a header put before, which cannot have been sent: the batch is still being filled.
    pub(super) fn patch_header(&mut self, position: usize, bytes: &[u8]) {
        self.headers[position..position + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn put_buffer(&mut self, buffer: IoBuffer) {
        assert!(self.buffers.len() < NOTHING as usize, "a batch has fewer than 2^32 buffers");
        self.buffers.push(Some(buffer));
    }

    /// Queues bytes of the buffer put last.
    pub(super) fn put_data(&mut self, start: u32, length: u32) {
        let index = self.buffers.len().checked_sub(1).expect("a buffer is put before its data");
        let buffer = self.buffers[index].as_ref().expect("a buffer stays until it is sent");
        assert!(start as usize + length as usize <= buffer.len(), "a read's segment lies within its buffer");
        self.pieces.push(Piece { source: index as u32, start, length });
        self.bytes += length as usize;
    }

    pub(super) fn put_zeroes(&mut self, length: u32) {
        self.pieces.push(Piece { source: NOTHING, start: 0, length });
        self.bytes += length as usize;
    }

    fn advance(&mut self, bytes_sent: usize, pool: &mut BufferPool) {
        assert!(bytes_sent <= self.bytes, "no more can be sent than there is");
        self.bytes -= bytes_sent;
        let mut left = bytes_sent;
        while let Some(piece) = self.pieces.get(self.piece) {
            let step = left.min((piece.length - self.piece_sent) as usize);
            if piece.source == HEADERS {
                self.header_bytes -= step;
            }
            left -= step;
            self.piece_sent += step as u32;
            if self.piece_sent < piece.length {
                // Pieces use buffers in order, so that what comes before this one's is no longer needed.
                if piece.source < NOTHING {
                    self.release(piece.source as usize, pool);
                }
                return;
            }
            self.piece += 1;
            self.piece_sent = 0;
        }
        self.release(self.buffers.len(), pool);
    }

    fn release(&mut self, end: usize, pool: &mut BufferPool) {
        while self.released < end {
            if let Some(buffer) = self.buffers[self.released].take() {
                pool.put(buffer);
            }
            self.released += 1;
        }
    }

    fn reset(&mut self) {
        self.headers.clear();
        self.headers.shrink_to(HEADERS_KEPT_BYTES);
        self.pieces.clear();
        self.pieces.shrink_to(PIECES_KEPT);
        self.buffers.clear();
        self.buffers.shrink_to(PIECES_KEPT);
        (self.piece, self.piece_sent, self.released, self.bytes, self.header_bytes) = (0, 0, 0, 0, 0);
    }
}

/// What a connection still has to send: the batch being filled, and what a short send left of an earlier one.
#[derive(Debug, Default)]
pub(super) struct Output {
    filling: OutputBatch,
    rest: Option<OutputBatch>,
    spare: Option<OutputBatch>,
    lent_bytes: Option<(usize, usize)>,
}

impl Output {
    pub(super) fn batch(&mut self) -> &mut OutputBatch {
        &mut self.filling
    }

    /// Bytes not yet sent, those in flight among them.
    pub(super) fn bytes(&self) -> usize {
        self.filling.bytes + self.rest.as_ref().map_or(0, |rest| rest.bytes) + self.lent_bytes.map_or(0, |lent| lent.0)
    }

    /// Bytes of headers not yet sent, those in flight among them.
    pub(super) fn header_bytes(&self) -> usize {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.header_bytes);
        self.filling.header_bytes + rest + self.lent_bytes.map_or(0, |lent| lent.1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filling.is_empty() && self.rest.is_none() && self.lent_bytes.is_none()
    }

    pub(super) fn take(&mut self, slices_max: usize) -> Option<OutputBatch> {
        if self.lent_bytes.is_some() {
            return None;
        }
        let mut batch = match self.rest.take() {
            Some(rest) => rest,
            None if self.filling.is_empty() => return None,
            None => std::mem::replace(&mut self.filling, self.spare.take().unwrap_or_default()),
        };
        batch.slices_max = slices_max.max(1);
        self.lent_bytes = Some((batch.bytes, batch.header_bytes));
        Some(batch)
    }

    pub(super) fn sent(&mut self, mut batch: OutputBatch, bytes_sent: usize, pool: &mut BufferPool) {
        assert!(self.lent_bytes.take().is_some(), "a batch comes back once");
        batch.advance(bytes_sent, pool);
        if batch.is_empty() {
            batch.reset();
            self.spare = Some(batch);
        } else {
            self.rest = Some(batch);
        }
    }

    /// Forgets all that is not sent.
    pub(super) fn discard(&mut self, pool: &mut BufferPool) {
        for batch in [Some(&mut self.filling), self.rest.as_mut()].into_iter().flatten() {
            batch.release(batch.buffers.len(), pool);
            batch.reset();
        }
        self.rest = None;
    }
}
