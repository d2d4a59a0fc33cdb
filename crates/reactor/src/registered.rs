//! What the kernel was told of once, so that it need not look it up at every operation: memory and files.
//!
//! All of it is a matter of speed alone: whatever is not registered, or cannot be, is used the ordinary way.

use crate::{File, system};
use io_uring::Submitter;
use model::{IoBuffer, Slab};
use std::io;
use std::os::fd::RawFd;

/// Room for so many slabs in a ring.
const SLABS_MAX: u32 = 64;
/// Room for so many files in a ring.
const FILES_MAX: u32 = 1024;

/// How an operation names its file.
#[derive(Clone, Copy)]
pub(crate) enum FileWay {
    /// By its place in the ring's table.
    Registered(u32),
    Descriptor(RawFd),
}

/// What is registered with one ring.
#[derive(Default)]
pub(crate) struct Registered {
    /// Where the slab of each number begins; the ring's place is its number.
    slabs: Vec<Option<usize>>,
    has_slabs: bool,
    /// Places of files, by their descriptors.
    files: Vec<Option<u32>>,
    free_places: Vec<u32>,
    has_files: bool,
}

impl Registered {
    pub(crate) fn add_slab(&mut self, ring: &Submitter<'_>, slab: Slab) -> io::Result<()> {
        let number = usize::from(slab.number());
        if number >= SLABS_MAX as usize {
            return Ok(());
        }
        if !self.has_slabs {
            ring.register_buffers_sparse(SLABS_MAX)?;
            self.has_slabs = true;
        }
        // One large page is one piece to the kernel, 512 small ones are as many.
        system::prefer_large_pages(slab.address(), Slab::BYTES);
        let memory = libc::iovec { iov_base: std::ptr::without_provenance_mut(slab.address()), iov_len: Slab::BYTES };
        // SAFETY: a slab's memory stays allocated until the process ends.
        unsafe { ring.register_buffers_update(u32::from(slab.number()), &[memory], None) }?;
        if self.slabs.len() <= number {
            self.slabs.resize(number + 1, None);
        }
        self.slabs[number] = Some(slab.address());
        Ok(())
    }

    /// The ring's place of the slab that a buffer is part of, if it is one of this ring's.
    pub(crate) fn slab_of(&self, buffer: &IoBuffer) -> Option<u16> {
        let number = buffer.slab()?;
        let begin = (*self.slabs.get(usize::from(number))?)?;
        // Another thread's slab may have the same number.
        let at = buffer.bytes().as_ptr().addr().checked_sub(begin)?;
        (at + buffer.len() <= Slab::BYTES).then_some(number)
    }

    pub(crate) fn add_file(&mut self, ring: &Submitter<'_>, file: &File) -> io::Result<()> {
        if !self.has_files {
            ring.register_files_sparse(FILES_MAX)?;
            self.free_places = (0..FILES_MAX).rev().collect();
            self.has_files = true;
        }
        let (descriptor, index) = by_descriptor(file);
        if self.files.get(index).is_some_and(Option::is_some) {
            return Ok(());
        }
        let Some(place) = self.free_places.pop() else { return Ok(()) };
        ring.register_files_update(place, &[descriptor])?;
        if self.files.len() <= index {
            self.files.resize(index + 1, None);
        }
        self.files[index] = Some(place);
        Ok(())
    }

    pub(crate) fn remove_file(&mut self, ring: &Submitter<'_>, file: &File) -> io::Result<()> {
        let (_, index) = by_descriptor(file);
        let Some(place) = self.files.get_mut(index).and_then(Option::take) else { return Ok(()) };
        ring.register_files_update(place, &[-1])?;
        self.free_places.push(place);
        Ok(())
    }

    pub(crate) fn way_of(&self, file: &File) -> FileWay {
        let (descriptor, index) = by_descriptor(file);
        match self.files.get(index) {
            Some(Some(place)) => FileWay::Registered(*place),
            _ => FileWay::Descriptor(descriptor),
        }
    }
}

fn by_descriptor(file: &File) -> (RawFd, usize) {
    let descriptor = file.descriptor();
    (descriptor, usize::try_from(descriptor).expect("an open file's descriptor is not negative"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenOptions;
    use io_uring::IoUring;
    use model::BufferPool;

    #[test]
    fn what_was_registered_is_used_and_nothing_else() {
        let Ok(ring) = IoUring::new(8) else { return };
        let mut registered = Registered::default();
        let (mut pool, mut other) = (BufferPool::with_slabs(0, 1), BufferPool::with_slabs(0, 1));
        let (ours, foreign) = (pool.take(64 << 10), other.take(64 << 10));
        assert_eq!(registered.slab_of(&ours), None, "not yet");
        registered.add_slab(&ring.submitter(), pool.next_slab().unwrap()).unwrap();
        assert_eq!((registered.slab_of(&ours), registered.slab_of(&pool.take(1 << 20))), (Some(0), Some(0)));
        assert_eq!((registered.slab_of(&foreign), registered.slab_of(&IoBuffer::zeroed(4096))), (None, None));

        let directory = tempfile::tempdir().unwrap();
        let options = OpenOptions { create: true, ..OpenOptions::default() };
        let [one, two] = ["one", "two"].map(|name| File::open(&directory.path().join(name), options).unwrap());
        registered.add_file(&ring.submitter(), &one).unwrap();
        assert!(matches!(
            (registered.way_of(&one), registered.way_of(&two)),
            (FileWay::Registered(0), FileWay::Descriptor(_))
        ));
        registered.add_file(&ring.submitter(), &two).unwrap();
        registered.remove_file(&ring.submitter(), &one).unwrap();
        assert!(matches!(
            (registered.way_of(&one), registered.way_of(&two)),
            (FileWay::Descriptor(_), FileWay::Registered(1))
        ));
    }
}
