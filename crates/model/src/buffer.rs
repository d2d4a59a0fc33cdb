//! Aligned memory for disk I/O, and a pool that uses it again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const BLOCK_BYTES: usize = 4096;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// Memory aligned to 4 KiB, a whole number of 4 KiB blocks long: what O_DIRECT asks for.
///
/// Its bytes may be those of an earlier use (never uninitialised): whoever fills it in part shows that part alone.
pub struct IoBuffer {
    memory: Memory,
}

enum Memory {
    Own(Box<[Block]>),
    /// Part of a slab; goes home when it is dropped anywhere but in its pool.
    Slab {
        blocks: &'static mut [Block],
        slab: u16,
        home: Arc<Home>,
    },
}

impl IoBuffer {
    /// A buffer of at least `bytes` bytes, all zero.
    ///
    /// # Panics
    /// When the memory is not to be had.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Self {
        let blocks = zeroed_blocks(bytes.div_ceil(BLOCK_BYTES).max(1)).expect("memory for an I/O buffer");
        Self { memory: Memory::Own(blocks) }
    }

    /// A buffer of no bytes, which occupies no memory: the place of one that is lent.
    #[must_use]
    pub fn empty() -> Self {
        Self { memory: Memory::Own(Box::default()) }
    }

    /// How many bytes it holds.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.blocks().len() * BLOCK_BYTES
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.blocks().as_bytes()
    }

    /// Its bytes, to fill.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Own(blocks) => blocks.as_mut_bytes(),
            Memory::Slab { blocks, .. } => blocks.as_mut_bytes(),
        }
    }

    /// The number of the [`Slab`] it is part of, in the pool that made it.
    #[must_use]
    pub fn slab(&self) -> Option<u16> {
        match self.memory {
            Memory::Own(_) => None,
            Memory::Slab { slab, .. } => Some(slab),
        }
    }

    fn blocks(&self) -> &[Block] {
        match &self.memory {
            Memory::Own(blocks) => blocks,
            Memory::Slab { blocks, .. } => blocks,
        }
    }
}

impl Drop for IoBuffer {
    fn drop(&mut self) {
        if let Memory::Slab { blocks, slab, home } = &mut self.memory {
            home.take_in(std::mem::take(blocks), *slab);
        }
    }
}

impl fmt::Debug for IoBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuffer({} bytes)", self.len())
    }
}

fn zeroed_blocks(blocks: usize) -> Option<Box<[Block]>> {
    <[Block]>::new_box_zeroed_with_elems(blocks).ok()
}

/// A piece of memory that many buffers are cut from and that lives as long as the process: what can be made known to the
/// kernel once (io_uring calls it a registered buffer) instead of at each I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slab {
    number: u16,
    address: usize,
}

impl Slab {
    /// The length of every slab, in bytes; their addresses are multiples of it.
    pub const BYTES: usize = 2 << 20;

    /// Its number in its pool, counted from 0.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Where its [`Slab::BYTES`] bytes begin in memory. They stay allocated until the process ends.
    #[must_use]
    pub fn address(&self) -> usize {
        self.address
    }
}

/// Where parts of slabs come back to that were dropped elsewhere than in their pool: on the rare paths of errors.
#[derive(Default)]
struct Home(Mutex<Vec<(&'static mut [Block], u16)>>);

impl Home {
    fn take_in(&self, blocks: &'static mut [Block], slab: u16) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((blocks, slab));
    }

    fn take_out(&self) -> Vec<(&'static mut [Block], u16)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Slabs, cut up in order.
struct Slabs {
    /// Slabs not begun yet: a whole number of them.
    reserve: &'static mut [Block],
    /// What is left of the last one begun.
    rest: &'static mut [Block],
    begun: u16,
    /// Begun, and not yet told by [`BufferPool::next_slab`].
    untold: Vec<Slab>,
    home: Arc<Home>,
}

const SLAB_BLOCKS: usize = Slab::BYTES / BLOCK_BYTES;
/// The largest buffer that is cut from a slab, in blocks. Larger ones are made each to itself.
const SLAB_BUFFER_BLOCKS_MAX: usize = SLAB_BLOCKS / 2;

impl Slabs {
    /// Room for so many slabs; it takes address space alone until it is used. None when that is not to be had.
    fn reserve(slabs: u16) -> Option<Self> {
        let blocks = Box::leak(zeroed_blocks((usize::from(slabs) + 1) * SLAB_BLOCKS)?);
        let address = blocks.as_ptr().addr();
        let (_, aligned) = blocks.split_at_mut((address.next_multiple_of(Slab::BYTES) - address) / BLOCK_BYTES);
        let (reserve, _) = aligned.split_at_mut(usize::from(slabs) * SLAB_BLOCKS);
        Some(Self { reserve, rest: &mut [], begun: 0, untold: Vec::new(), home: Arc::default() })
    }

    /// Cuts a buffer of `blocks` blocks, a power of two; `left` takes what is left of a slab that is too small for it.
    fn cut(&mut self, blocks: usize, mut left: impl FnMut(IoBuffer)) -> Option<IoBuffer> {
        if blocks > SLAB_BUFFER_BLOCKS_MAX {
            return None;
        }
        if self.rest.len() < blocks {
            if self.reserve.is_empty() {
                return None;
            }
            while let Some(largest) = self.rest.len().checked_ilog2() {
                left(self.split(1 << largest));
            }
            (self.rest, self.reserve) = std::mem::take(&mut self.reserve).split_at_mut(SLAB_BLOCKS);
            self.untold.push(Slab { number: self.begun, address: self.rest.as_ptr().addr() });
            self.begun += 1;
        }
        Some(self.split(blocks))
    }

    fn split(&mut self, blocks: usize) -> IoBuffer {
        let (cut, rest) = std::mem::take(&mut self.rest).split_at_mut(blocks);
        self.rest = rest;
        self.buffer(cut, self.begun - 1)
    }

    fn buffer(&self, blocks: &'static mut [Block], slab: u16) -> IoBuffer {
        IoBuffer { memory: Memory::Slab { blocks, slab, home: Arc::clone(&self.home) } }
    }
}

impl fmt::Debug for Slabs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slabs({} of {} begun)", self.begun, usize::from(self.begun) + self.reserve.len() / SLAB_BLOCKS)
    }
}

/// Buffers kept for the next use, by power-of-two size from 4 KiB to 32 MiB. One per thread; holds at most the
/// bytes it was given leave to.
#[derive(Debug)]
pub struct BufferPool {
    classes: [Vec<IoBuffer>; CLASSES],
    held_bytes: usize,
    held_bytes_max: usize,
    slabs: Option<Slabs>,
}

const CLASSES: usize = 14;

impl BufferPool {
    /// A pool that keeps at most `held_bytes_max` bytes of unused buffers.
    #[must_use]
    pub fn new(held_bytes_max: usize) -> Self {
        Self { classes: Default::default(), held_bytes: 0, held_bytes_max, slabs: None }
    }

    /// The same, whose buffers of up to 1 MiB are cut from at most `slabs` slabs as long as these last. What is once used
    /// of them is kept for good, beside `held_bytes_max`.
    #[must_use]
    pub fn with_slabs(held_bytes_max: usize, slabs: u16) -> Self {
        Self { slabs: Slabs::reserve(slabs), ..Self::new(held_bytes_max) }
    }

    /// A slab begun since it was last asked.
    pub fn next_slab(&mut self) -> Option<Slab> {
        self.slabs.as_mut()?.untold.pop()
    }

    fn class_of(bytes: usize) -> usize {
        (bytes.max(1).next_power_of_two().trailing_zeros() as usize).saturating_sub(12)
    }

    /// A buffer of at least `bytes` bytes. What is in it is left over from before: fill what you show.
    #[must_use]
    pub fn take(&mut self, bytes: usize) -> IoBuffer {
        let class = Self::class_of(bytes);
        if let Some(buffer) = self.classes.get_mut(class).and_then(Vec::pop) {
            if buffer.slab().is_none() {
                self.held_bytes -= buffer.len();
            }
            return buffer;
        }
        self.cut(class).unwrap_or_else(|| IoBuffer::zeroed(if class < CLASSES { BLOCK_BYTES << class } else { bytes }))
    }

    fn cut(&mut self, class: usize) -> Option<IoBuffer> {
        let slabs = self.slabs.as_mut().filter(|_| class < CLASSES)?;
        for (blocks, slab) in slabs.home.take_out() {
            let buffer = slabs.buffer(blocks, slab);
            self.classes[Self::class_of(buffer.len())].push(buffer);
        }
        let classes = &mut self.classes;
        classes[class].pop().or_else(|| slabs.cut(1 << class, |left| classes[Self::class_of(left.len())].push(left)))
    }

    /// Gives a buffer back.
    pub fn put(&mut self, buffer: IoBuffer) {
        let class = Self::class_of(buffer.len());
        if let Memory::Slab { home, .. } = &buffer.memory {
            // One of another pool's slabs goes home by being dropped.
            if self.slabs.as_ref().is_some_and(|slabs| Arc::ptr_eq(&slabs.home, home)) {
                self.classes[class].push(buffer);
            }
        } else if class < CLASSES
            && buffer.len() == BLOCK_BYTES << class
            && self.held_bytes + buffer.len() <= self.held_bytes_max
        {
            self.held_bytes += buffer.len();
            self.classes[class].push(buffer);
        }
    }

    /// How many bytes of unused buffers it keeps now, slabs aside.
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

    #[test]
    fn buffers_are_cut_from_aligned_slabs_and_are_used_again() {
        let mut pool = BufferPool::with_slabs(0, 2);
        assert_eq!(pool.next_slab(), None, "none is begun before it is used");
        let small = pool.take(100);
        let slab = pool.next_slab().unwrap();
        assert_eq!((slab.number(), slab.address() % Slab::BYTES), (0, 0));
        assert_eq!((small.slab(), small.len(), small.bytes().as_ptr().addr()), (Some(0), 4096, slab.address()));
        // 1 MiB fits beside it, a second one does not: the rest of the slab is kept in smaller pieces.
        let (one, two) = (pool.take(1 << 20), pool.take(1 << 20));
        assert_eq!((one.slab(), two.slab(), pool.next_slab().map(|slab| slab.number())), (Some(0), Some(1), Some(1)));
        assert_eq!(pool.take(512 << 10).slab(), Some(0));
        // The second slab has room for one more, then they are used up: buffers still come, each to itself.
        assert_eq!((pool.take(1 << 20).slab(), pool.take(1 << 20).slab()), (Some(1), None));
        assert_eq!(pool.take(2 << 20).slab(), None);
        assert_eq!(pool.next_slab(), None);
        let at = small.bytes().as_ptr();
        pool.put(small);
        assert_eq!((pool.take(4096).bytes().as_ptr(), pool.held_bytes()), (at, 0));
    }

    #[test]
    fn a_part_of_a_slab_that_is_dropped_or_put_elsewhere_goes_home() {
        let mut pool = BufferPool::with_slabs(1 << 20, 1);
        let mut other = BufferPool::with_slabs(1 << 20, 1);
        let halves = [pool.take(1 << 20), pool.take(1 << 20)];
        assert_eq!(pool.take(4096).slab(), None, "all of the only slab is out");
        let addresses: Vec<_> = halves.iter().map(|half| half.bytes().as_ptr()).collect();
        let [first, second] = halves;
        drop(first);
        other.put(second);
        assert_eq!(other.held_bytes(), 0);
        let mut again = [pool.take(1 << 20).bytes().as_ptr(), pool.take(1 << 20).bytes().as_ptr()];
        again.sort_by_key(|address| addresses.iter().position(|before| before == address));
        assert_eq!(again[..], addresses[..], "both are back, the first although it was dropped once more meanwhile");
    }

    #[test]
    fn buffers_of_one_slab_share_no_byte() {
        let mut pool = BufferPool::with_slabs(0, 1);
        let mut buffers: Vec<_> = [1, 3, 64, 2, 100, 1].map(|kib| pool.take(kib << 10)).into();
        for (index, buffer) in buffers.iter_mut().enumerate() {
            assert_eq!(buffer.slab(), Some(0));
            buffer.bytes_mut().fill(index as u8 + 1);
        }
        for (index, buffer) in buffers.iter().enumerate() {
            assert!(buffer.bytes().iter().all(|byte| *byte == index as u8 + 1));
        }
    }
}
