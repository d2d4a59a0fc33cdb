//! Disk files and block devices.

use crate::system::{self, DirectAlignment};
use model::IoBuffer;
use std::fs::TryLockError;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// How to open a [`File`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    /// Past the page cache (O_DIRECT), where the file system offers it.
    pub direct: bool,
    /// Makes the file where there is none, for our own user alone, and its name durable.
    pub create: bool,
    /// For reading alone.
    pub read_only: bool,
    /// Refuses a file that another process (or another open of this one) holds with this option, and a block device
    /// that is mounted or otherwise in use.
    pub exclusive: bool,
}

/// An open file or block device. Clones are the same open file; closed with the last of them.
#[derive(Clone, Debug)]
pub struct File(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: std::fs::File,
    block_device: bool,
    /// `None`: through the page cache.
    alignment: Option<DirectAlignment>,
}

impl File {
    /// Opens a file.
    ///
    /// # Errors
    /// Those of open(2); [`io::ErrorKind::ResourceBusy`] when it is exclusively somebody else's.
    pub fn open(path: &Path, options: OpenOptions) -> io::Result<Self> {
        // Whether it is a device must be known first: there O_EXCL is a claim, on a file it is about creation.
        let block_device = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
        let mut flags = if block_device && options.exclusive { libc::O_EXCL } else { 0 };
        if options.direct {
            flags |= libc::O_DIRECT;
        }
        let is_new = options.create && !path.exists();
        let open = |flags| {
            let mut open = std::fs::OpenOptions::new();
            open.read(true).write(!options.read_only).create(options.create && !block_device);
            // What is made here holds other people's bytes.
            open.mode(0o600);
            // Nobody asks when a disk was last read; only a file's owner may leave it out.
            match open.custom_flags(flags | libc::O_NOATIME).open(path) {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => open.custom_flags(flags).open(path),
                opened => opened,
            }
        };
        let cached = |why: &str| {
            tracing::warn!(path = %path.display(), "{why}; using the page cache");
            open(flags & !libc::O_DIRECT)
        };
        let (file, alignment) = match open(flags) {
            // What a file system without direct I/O answers.
            Err(error) if options.direct && error.raw_os_error() == Some(libc::EINVAL) => {
                (cached("the file system refuses direct I/O")?, None)
            }
            Ok(file) if options.direct => match direct_alignment(&file) {
                Some(alignment) => (file, Some(alignment)),
                None => {
                    // Closed first: a device claimed once cannot be claimed again.
                    drop(file);
                    (cached("no alignment suits direct I/O here")?, None)
                }
            },
            opened => (opened?, None),
        };
        if options.exclusive && !block_device {
            file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => io::Error::from(io::ErrorKind::ResourceBusy),
                TryLockError::Error(error) => error,
            })?;
        }
        if is_new {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            std::fs::File::open(directory)?.sync_all()?;
        }
        Ok(Self(Arc::new(Inner { file, block_device, alignment })))
    }

    /// The same open file under a descriptor of its own, so that two threads share no counter.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn duplicate(&self) -> io::Result<Self> {
        let Inner { file, block_device, alignment } = &*self.0;
        Ok(Self(Arc::new(Inner { file: file.try_clone()?, block_device: *block_device, alignment: *alignment })))
    }

    /// Its size now, in bytes.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn size_bytes(&self) -> io::Result<u64> {
        if self.0.block_device { (&self.0.file).seek(SeekFrom::End(0)) } else { Ok(self.0.file.metadata()?.len()) }
    }

    /// Whether its I/O goes past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.0.alignment.is_some()
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.0.block_device
    }

    /// What offsets and lengths must be multiples of, in bytes; 1 through the page cache.
    #[must_use]
    pub fn alignment_bytes(&self) -> u64 {
        self.0.alignment.map_or(1, |alignment| u64::from(alignment.offset_bytes))
    }

    /// What a transfer's first byte in memory must be aligned to, in bytes; 1 through the page cache.
    #[must_use]
    pub fn memory_alignment_bytes(&self) -> usize {
        self.0.alignment.map_or(1, |alignment| alignment.memory_bytes as usize)
    }

    /// Whether a transfer of `length` bytes between `start` of an aligned buffer and `offset` of this file is one that
    /// it takes.
    pub(crate) fn allows(&self, start: usize, length: usize, offset: u64) -> bool {
        let aligned = (offset | length as u64).is_multiple_of(self.alignment_bytes());
        let within = offset.checked_add(length as u64).is_some_and(|end| i64::try_from(end).is_ok());
        aligned && within && start.is_multiple_of(self.memory_alignment_bytes())
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.file.as_raw_fd()
    }

    pub(crate) fn standard(&self) -> &std::fs::File {
        &self.0.file
    }
}

/// What direct I/O on a file opened for it asks for; `None` when none is to be had after all.
fn direct_alignment(file: &std::fs::File) -> Option<DirectAlignment> {
    match system::direct_alignment(file.as_fd()) {
        Some(told) => (told.offset_bytes != 0).then_some(told),
        None => probed_alignment(file),
    }
}

/// Tries what kernels before 6.1 do not tell.
fn probed_alignment(file: &std::fs::File) -> Option<DirectAlignment> {
    let mut buffer = IoBuffer::zeroed(4096);
    [512u32, 4096].into_iter().find_map(|bytes| {
        let piece = &mut buffer.bytes_mut()[..bytes as usize];
        // At an offset other than zero: the start of a file is aligned to anything. Reading past the end will do.
        let aligned = DirectAlignment { memory_bytes: bytes, offset_bytes: bytes };
        file.read_at(piece, u64::from(bytes)).ok().map(|_| aligned)
    })
}
