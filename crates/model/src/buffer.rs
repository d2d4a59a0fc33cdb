//! Aligned memory for disk I/O, and a pool that uses it again.

use std::fmt;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C, align(4096))]
struct Block([u8; 4096]);

/// Memory aligned to 4 KiB, a whole number of 4 KiB blocks long: what O_DIRECT asks for.
///
/// Its bytes may be those of an earlier use (never uninitialised): whoever fills it in part shows that part alone.
pub struct IoBuffer {
    blocks: Box<[Block]>,
}

impl IoBuffer {
    /// A buffer of at least `bytes` bytes, all zero.
    ///
    /// # Panics
    /// When the memory is not to be had.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Self {
        let blocks =
            <[Block]>::new_box_zeroed_with_elems(bytes.div_ceil(4096).max(1)).expect("memory for an I/O buffer");
        Self { blocks }
    }

    /// A buffer of no bytes, which occupies no memory: the place of one that is lent.
    #[must_use]
    pub fn empty() -> Self {
        Self { blocks: Box::default() }
    }

    /// How many bytes it holds.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.blocks.len() * 4096
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.blocks.as_bytes()
    }

    /// Its bytes, to fill.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.blocks.as_mut_bytes()
    }
}

impl fmt::Debug for IoBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuffer({} bytes)", self.len())
    }
}

/// Buffers kept for the next use, by power-of-two size from 4 KiB to 32 MiB. One per thread; holds at most the
/// bytes it was given leave to.
#[derive(Debug)]
pub struct BufferPool {
    classes: [Vec<IoBuffer>; CLASSES],
    held_bytes: usize,
    held_bytes_max: usize,
}

const CLASSES: usize = 14;

impl BufferPool {
    /// A pool that keeps at most `held_bytes_max` bytes of unused buffers.
    #[must_use]
    pub fn new(held_bytes_max: usize) -> Self {
        Self { classes: Default::default(), held_bytes: 0, held_bytes_max }
    }

    fn class_of(bytes: usize) -> usize {
        (bytes.max(1).next_power_of_two().trailing_zeros() as usize).saturating_sub(12)
    }

    /// A buffer of at least `bytes` bytes. What is in it is left over from before: fill what you show.
    #[must_use]
    pub fn take(&mut self, bytes: usize) -> IoBuffer {
        let class = Self::class_of(bytes);
        if let Some(buffer) = self.classes.get_mut(class).and_then(Vec::pop) {
            self.held_bytes -= buffer.len();
            return buffer;
        }
        IoBuffer::zeroed(if class < CLASSES { 4096 << class } else { bytes })
    }

    /// Gives a buffer back.
    pub fn put(&mut self, buffer: IoBuffer) {
        let class = Self::class_of(buffer.len());
        if class < CLASSES && buffer.len() == 4096 << class && self.held_bytes + buffer.len() <= self.held_bytes_max {
            self.held_bytes += buffer.len();
            self.classes[class].push(buffer);
        }
    }

    /// How many bytes of unused buffers it keeps now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_used_again_within_the_pools_limit() {
        let mut pool = BufferPool::new(16 << 10);
        let buffer = pool.take(5000);
        assert_eq!((buffer.len(), buffer.bytes().as_ptr() as usize % 4096), (8192, 0));
        pool.put(buffer);
        assert_eq!(pool.held_bytes(), 8192);
        let again = pool.take(8192);
        assert_eq!(pool.held_bytes(), 0);
        pool.put(again);
        pool.put(IoBuffer::zeroed(16 << 10));
        assert_eq!(pool.held_bytes(), 8192, "what would pass the limit is freed instead");
        assert_eq!(pool.take(100 << 20).len(), 100 << 20, "beyond the largest class a buffer is made to measure");
    }
}
