//! What can be imported: streams of ours, raw images, qcow2 images, exports of other NBD servers.

mod qcow2;
mod raw;
mod remote;
mod stream;

pub(super) use self::stream::{StreamSource, open as open_stream};

use super::uri::NbdUri;
use super::{Piece, file_error};
use api::Error;
use clap::ValueEnum;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// A disk's bytes as they are; holes in the file stay holes.
    Raw,
    /// A qcow2 image.
    Qcow2,
    /// What `acre export` wrote.
    Stream,
}

/// A disk's content, in ascending order. What lies between pieces is zeroes.
pub(super) trait Image {
    /// The disk's size, in bytes; a multiple of 512.
    fn size_bytes(&self) -> u64;

    /// The next piece; none behind the last.
    fn next(&mut self) -> Result<Option<Piece>, Error>;
}

/// Something to import.
pub(super) enum Source {
    Image(Box<dyn Image>),
    Stream(StreamSource),
}

/// Beginnings of formats that are not read here, and what they are called.
const OTHERS: &[(&[u8], &str)] = &[
    (b"KDMV", "a VMDK image"),
    (b"vhdxfile", "a VHDX image"),
    (b"conectix", "a VHD image"),
    (b"QED\0", "a QED image"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"\xfd7zXZ\0", "compressed with xz"),
];

/// Opens what `text` names: `-`, a URI or a path.
pub(super) fn open(text: &str, format: Option<Format>) -> Result<Source, Error> {
    if text == "-" {
        if matches!(format, Some(Format::Raw | Format::Qcow2)) {
            return Err(Error::invalid(
                "an image is read from a file or an NBD server; from standard input comes a stream",
            ));
        }
        return open_stream("standard input", Box::new(std::io::stdin()), None).map(Source::Stream);
    }
    if let Some(uri) = NbdUri::parse(text) {
        return remote::open(uri?).map(Source::Image);
    }
    let path = Path::new(text);
    let failed = |error: std::io::Error| file_error("read", path, &error);
    let mut file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if about.is_dir() {
        return Err(Error::invalid(format!("{text} is a folder; name an image, a stream or an NBD URI")));
    }
    // What cannot be read twice is a stream: a pipe.
    let Ok(size_bytes) = file.seek(SeekFrom::End(0)) else {
        return open_stream(text, Box::new(file), None).map(Source::Stream);
    };
    file.rewind().map_err(failed)?;
    let mut head = Vec::new();
    (&file).take(16).read_to_end(&mut head).map_err(failed)?;
    file.rewind().map_err(failed)?;
    match format.map_or_else(|| detect(text, &head), Ok)? {
        Format::Stream => open_stream(text, Box::new(file), Some(size_bytes)).map(Source::Stream),
        Format::Qcow2 => qcow2::open(path, file).map(Source::Image),
        Format::Raw => Ok(Source::Image(Box::new(raw::RawImage::new(path, file, size_bytes)))),
    }
}

fn detect(text: &str, head: &[u8]) -> Result<Format, Error> {
    if head.starts_with(&::stream::MAGIC) {
        return Ok(Format::Stream);
    }
    if head.starts_with(&::qcow2::MAGIC) {
        return Ok(Format::Qcow2);
    }
    match OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        None => Ok(Format::Raw),
        Some((_, what)) => Err(Error::invalid(format!(
            "{text} is {what}; make a raw or qcow2 image of it first (qemu-img convert, or unpack it). If its bytes are the \
             disk's, say --format raw"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_content_and_foreign_ones_are_refused() {
        assert_eq!(detect("a", b"ACRESTRM\x01\0\0\0"), Ok(Format::Stream));
        assert_eq!(detect("a", b"QFI\xfb\0\0\0\x03"), Ok(Format::Qcow2));
        assert_eq!(detect("a", b"\xeb\x63\x90"), Ok(Format::Raw));
        assert_eq!(detect("a", b""), Ok(Format::Raw));
        let refused = detect("disk.vmdk", b"KDMV\x01").unwrap_err();
        assert!(refused.message.contains("VMDK") && refused.message.contains("--format raw"), "{refused}");
    }
}
