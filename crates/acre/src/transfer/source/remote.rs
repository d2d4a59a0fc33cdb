//! An export of another NBD server, whose holes are not read.

use super::{Image, Piece};
use crate::transfer::link::Export;
use crate::transfer::plan::Survey;
use crate::transfer::read_ahead::ReadAhead;
use crate::transfer::uri::NbdUri;
use api::Error;
use model::SECTOR_BYTES;

struct RemoteImage(ReadAhead<Survey>);

/// Opens an export.
pub(super) fn open(uri: NbdUri) -> Result<Box<dyn Image>, Error> {
    let export = Export { address: uri.address, name: uri.export, ca: None };
    let reader = ReadAhead::open(&export, Survey::open(&export, 0)?)?;
    if !reader.size_bytes().is_multiple_of(SECTOR_BYTES) {
        return Err(Error::invalid(format!(
            "{export} has {} bytes, which is no multiple of 512; copy it to a file first: nbdcopy",
            reader.size_bytes()
        )));
    }
    Ok(Box::new(RemoteImage(reader)))
}

impl Image for RemoteImage {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn next(&mut self) -> Result<Option<Piece>, Error> {
        self.0.next()
    }
}
