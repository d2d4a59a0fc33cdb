//! A raw image: a file, whose holes are skipped, or a block device.

use super::{Image, Piece};
use crate::transfer::{REQUEST_BYTES_MAX, file_error};
use api::Error;
use model::{BLOCK_BYTES, SECTOR_BYTES};
use rustix::fs::{SeekFrom, seek};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(super) struct RawImage {
    path: PathBuf,
    file: File,
    /// The file's size, in bytes, which need not be whole sectors.
    size_bytes: u64,
    position: u64,
    /// Where the data ends that `position` lies in.
    data_end: u64,
}

impl RawImage {
    pub(super) fn new(path: &Path, file: File, size_bytes: u64) -> Self {
        Self { path: path.to_owned(), file, size_bytes, position: 0, data_end: 0 }
    }

    /// Goes to where data begins, in whole blocks; false when there is none any more.
    fn find_data(&mut self) -> bool {
        let start = match seek(&self.file, SeekFrom::Data(self.position)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => return false,
            // No holes to be had from this file system or device: all of it is data.
            Err(_) => {
                self.data_end = self.size_bytes;
                return true;
            }
        };
        let end = seek(&self.file, SeekFrom::Hole(start)).unwrap_or(self.size_bytes);
        self.position = (start / BLOCK_BYTES * BLOCK_BYTES).max(self.position);
        self.data_end = end.next_multiple_of(BLOCK_BYTES).min(self.size_bytes);
        true
    }
}

impl Image for RawImage {
    fn size_bytes(&self) -> u64 {
        self.size_bytes.next_multiple_of(SECTOR_BYTES)
    }

    fn next(&mut self) -> Result<Option<Piece>, Error> {
        if self.position >= self.size_bytes || self.position >= self.data_end && !self.find_data() {
            return Ok(None);
        }
        let offset = self.position;
        let length = (self.data_end.max(offset) - offset).min(REQUEST_BYTES_MAX - offset % REQUEST_BYTES_MAX);
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::unavailable(format!(
                "{} has become shorter while it was read; import it again",
                self.path.display()
            )),
            _ => file_error("read", &self.path, &error),
        })?;
        self.position += length;
        // A last sector that is cut short goes on with zeroes.
        bytes.resize(bytes.len().next_multiple_of(SECTOR_BYTES as usize), 0);
        Ok(Some(Piece::Data { offset, bytes }))
    }
}
