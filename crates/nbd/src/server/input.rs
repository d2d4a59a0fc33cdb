//! Bytes from the client that are not yet understood, and where the next ones go.

use model::{BufferPool, IoBuffer};

/// The stream buffer during the handshake, in bytes.
const HANDSHAKE_BYTES: usize = 4 << 10;
/// The smallest stream buffer during transmission, in bytes.
const TRANSMISSION_BYTES_MIN: usize = 16 << 10;
/// After so many small receives in a row the stream buffer halves.
const SMALL_RECEIVES_MAX: u32 = 64;

/// Where the next bytes from the client go: `buffer[start..end]`. Owned by whoever receives, until it comes back by
/// [`super::Connection::received`].
#[derive(Debug)]
pub struct ReceiveTarget {
    /// The buffer.
    pub buffer: IoBuffer,
    /// The first byte to receive into.
    pub start: usize,
    /// One past the last.
    pub end: usize,
    pub(super) destination: Destination,
}

impl ReceiveTarget {
    /// The bytes to receive into; never empty. They stay where they are in memory when the target is moved.
    #[must_use]
    pub fn space_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.bytes_mut()[self.start..self.end]
    }
}

/// Which of a connection's buffers a target is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Destination {
    /// Everything.
    Stream,
    /// The rest of a large write's payload, and nothing after it.
    Payload,
}

/// The stream buffer. It grows with what the client really sends, and shrinks when that grows less.
#[derive(Debug)]
pub(super) struct Input {
    stream: Option<IoBuffer>,
    start: usize,
    end: usize,
    size_bytes: usize,
    small_receives: u32,
    pub(super) lent: bool,
}

impl Input {
    pub(super) fn new() -> Self {
        Self { stream: None, start: 0, end: 0, size_bytes: HANDSHAKE_BYTES, small_receives: 0, lent: false }
    }

    /// What was received and not yet consumed; nothing while the buffer is lent.
    pub(super) fn bytes(&self) -> &[u8] {
        self.stream.as_ref().map_or(&[], |stream| &stream.bytes()[self.start..self.end])
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        assert!(self.start <= self.end, "no more is consumed than was received");
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// From here on requests come.
    pub(super) fn begin_transmission(&mut self) {
        self.size_bytes = self.size_bytes.max(TRANSMISSION_BYTES_MIN);
    }

    /// Makes the stream buffer large enough for a message of `bytes` that has begun, in steps: what is allocated is at
    /// most twice what the client really sent.
    fn make_room(&mut self, pool: &mut BufferPool) {
        let unread = self.end - self.start;
        let held = self.stream.as_ref().map_or(0, IoBuffer::len);
        let wanted = if unread == 0 { self.size_bytes } else { self.size_bytes.max(held) };
        let wanted = if unread > 0 && unread >= held { held * 2 } else { wanted };
        if held == wanted {
            if self.start > 0 {
                let (start, end) = (self.start, self.end);
                if let Some(stream) = self.stream.as_mut() {
                    stream.bytes_mut().copy_within(start..end, 0);
                }
            }
        } else {
            let mut larger = pool.take(wanted);
            if let Some(stream) = self.stream.take() {
                larger.bytes_mut()[..unread].copy_from_slice(&stream.bytes()[self.start..self.end]);
                pool.put(stream);
            }
            self.stream = Some(larger);
        }
        (self.start, self.end) = (0, unread);
    }

    /// Hands the stream buffer out to receive at most `bytes_max` bytes into.
    pub(super) fn lend(&mut self, bytes_max: usize, pool: &mut BufferPool) -> ReceiveTarget {
        assert!(!self.lent, "one receive at a time");
        self.make_room(pool);
        let buffer = self.stream.take().expect("the stream buffer was just made");
        self.lent = true;
        let end = buffer.len().min(self.end.saturating_add(bytes_max));
        ReceiveTarget { start: self.end, end, buffer, destination: Destination::Stream }
    }

    /// Takes it back with `bytes` more in it. `stream_bytes_max` bounds its growth.
    pub(super) fn take_back(&mut self, target: ReceiveTarget, bytes: usize, stream_bytes_max: usize) {
        assert!(bytes <= target.end - target.start, "no more is received than there was room for");
        self.lent = false;
        self.end = target.start + bytes;
        let narrowed = target.end < target.buffer.len();
        self.stream = Some(target.buffer);
        if narrowed || self.size_bytes < TRANSMISSION_BYTES_MIN {
            return;
        }
        if self.end == target.end {
            self.size_bytes = (self.size_bytes * 2).min(stream_bytes_max.max(TRANSMISSION_BYTES_MIN));
            self.small_receives = 0;
        } else if bytes >= self.size_bytes / 4 {
            self.small_receives = 0;
        } else {
            self.small_receives += 1;
            if self.small_receives == SMALL_RECEIVES_MAX {
                self.size_bytes = (self.size_bytes / 2).max(TRANSMISSION_BYTES_MIN);
                self.small_receives = 0;
            }
        }
    }

    /// Gives the memory back and forgets what was not consumed.
    pub(super) fn discard(&mut self, pool: &mut BufferPool) {
        if let Some(stream) = self.stream.take() {
            pool.put(stream);
        }
        (self.start, self.end) = (0, 0);
    }

    /// How much memory it holds, in bytes; nothing while lent.
    pub(super) fn held_bytes(&self) -> usize {
        self.stream.as_ref().map_or(0, IoBuffer::len)
    }
}
