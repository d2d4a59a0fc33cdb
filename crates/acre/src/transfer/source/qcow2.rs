//! A qcow2 image in a file.

use super::{Image, Piece};
use crate::transfer::{REQUEST_BYTES_MAX, file_error};
use api::Error;
use model::{BLOCK_BYTES, SECTOR_BYTES};
use qcow2::{Content, Extent, Qcow2Error, ReadAt, Reader};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

struct ImageFile(File);

impl ReadAt for ImageFile {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match FileExt::read_at(&self.0, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(length) => done += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

struct Qcow2Image {
    path: PathBuf,
    reader: Reader<ImageFile>,
    position: u64,
    /// The extent that `position` lies in, if one was found already.
    extent: Option<Extent>,
}

/// Opens an image.
pub(super) fn open(path: &Path, file: File) -> Result<Box<dyn Image>, Error> {
    let reader = Reader::open(ImageFile(file)).map_err(|error| refused(path, &error))?;
    Ok(Box::new(Qcow2Image { path: path.to_owned(), reader, position: 0, extent: None }))
}

fn refused(path: &Path, error: &Qcow2Error) -> Error {
    match error {
        Qcow2Error::Unreadable { error, .. } => file_error("read", path, error),
        Qcow2Error::Unsupported { .. } => Error::invalid(format!("{}: {error}", path.display())),
        Qcow2Error::Damaged { .. } => Error::corrupt(format!("{}: {error}", path.display())),
    }
}

impl Qcow2Image {
    fn extent_at(&mut self, offset: u64) -> Result<Option<Extent>, Error> {
        if let Some(extent) =
            self.extent.filter(|extent| (extent.offset..extent.offset + extent.length).contains(&offset))
        {
            return Ok(Some(extent));
        }
        self.extent = self.reader.extent_at(offset).map_err(|error| refused(&self.path, &error))?;
        Ok(self.extent)
    }
}

impl Image for Qcow2Image {
    fn size_bytes(&self) -> u64 {
        self.reader.size_bytes().next_multiple_of(SECTOR_BYTES)
    }

    fn next(&mut self) -> Result<Option<Piece>, Error> {
        let size_bytes = self.reader.size_bytes();
        // Whole blocks that are zeroes are passed over; clusters may be smaller than a block.
        while let Some(extent) = self.extent_at(self.position)?
            && extent.content == Content::Zero
        {
            let end = extent.offset + extent.length;
            let blocks_end = if end == size_bytes { end } else { end / BLOCK_BYTES * BLOCK_BYTES };
            if blocks_end <= self.position {
                break;
            }
            self.position = blocks_end;
        }
        let offset = self.position;
        let length = (size_bytes - offset).min(REQUEST_BYTES_MAX - offset % REQUEST_BYTES_MAX);
        if length == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        let mut filled = 0;
        while filled < length
            && let Some(extent) = self.extent_at(offset + filled)?
        {
            let skip = offset + filled - extent.offset;
            let here = (extent.length - skip).min(length - filled);
            // Behind a whole block, a long stretch of zeroes is for the next call to pass over.
            if extent.content == Content::Zero
                && here >= BLOCK_BYTES
                && filled > 0
                && filled.is_multiple_of(BLOCK_BYTES)
            {
                break;
            }
            let place = &mut bytes[filled as usize..(filled + here) as usize];
            self.reader.read(&extent, skip, place).map_err(|error| refused(&self.path, &error))?;
            filled += here;
        }
        bytes.truncate((filled as usize).next_multiple_of(SECTOR_BYTES as usize));
        bytes.resize((filled as usize).next_multiple_of(SECTOR_BYTES as usize), 0);
        self.position += filled;
        Ok(Some(Piece::Data { offset, bytes }))
    }
}
