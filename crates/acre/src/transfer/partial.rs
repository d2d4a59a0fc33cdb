//! The file a stream is written to: `FILE.partial` until it is complete, then `FILE`. A partial file of the same stream is
//! gone on with behind its last whole record.

use super::{file_error, stream_error};
use api::Error;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use stream::{Decoder, Encoder, Header, Item, Totals};

/// A stream's file that is not complete yet.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    complete: PathBuf,
}

/// How to go on with a partial file.
#[derive(Debug)]
pub(super) enum Begin {
    /// With this encoder, which is behind everything the file holds.
    At(Encoder),
    /// Not at all: the file holds all of the stream.
    Complete(Totals),
}

impl Partial {
    /// Opens `PATH.partial`, for this process alone, and looks what is there of the stream with this header.
    pub(super) fn open(path: &Path, header: &Header) -> Result<(Self, Begin), Error> {
        if path.exists() {
            return Err(Error::exists(format!("{} is there already; delete it, or name another file", path.display())));
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        let partial = PathBuf::from(name);
        let failed = |error: std::io::Error| file_error("write", &partial, &error);
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(&partial).map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Error::busy(format!("another process writes {}; wait until it has ended", partial.display()))
        })?;
        let mut this = Self { file, path: partial, complete: path.to_owned() };
        let (whole_bytes, begin) = this.survey(header)?;
        let begin = match begin {
            Some(begin) => begin,
            None => {
                let mut bytes = Vec::new();
                let encoder = Encoder::begin(header, &mut bytes).map_err(|error| Error::internal(error.to_string()))?;
                this.cut(0)?;
                this.write(&bytes)?;
                return Ok((this, Begin::At(encoder)));
            }
        };
        this.cut(whole_bytes)?;
        Ok((this, begin))
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| file_error("write", &self.path, &error))
    }

    /// The stream is complete: makes it durable, and gives it its name.
    pub(super) fn finish(self) -> Result<(), Error> {
        self.file.sync_all().map_err(|error| file_error("make durable", &self.path, &error))?;
        let rename = rustix::fs::renameat_with(
            rustix::fs::CWD,
            &self.path,
            rustix::fs::CWD,
            &self.complete,
            rustix::fs::RenameFlags::NOREPLACE,
        );
        let renamed = match rename {
            // Not every file system knows how not to replace.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => std::fs::rename(&self.path, &self.complete),
            other => other.map_err(Into::into),
        };
        renamed.map_err(|error| file_error("rename to", &self.complete, &error))?;
        let folder = self.complete.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| file_error("make durable", folder, &error))
    }

    /// How much of the file is whole, and how to go on behind it; nothing when it has to begin anew.
    fn survey(&mut self, header: &Header) -> Result<(u64, Option<Begin>), Error> {
        let mut input = BufReader::with_capacity(1 << 20, &self.file);
        let mut decoder = Decoder::new();
        // The decoder as it was behind the last whole record.
        let mut last = None;
        let mut buffer = Vec::new();
        loop {
            buffer.resize(decoder.wants(), 0);
            match input.read_exact(&mut buffer) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(file_error("read", &self.path, &error)),
            }
            match decoder.take(&buffer) {
                Ok(None) => continue,
                Ok(Some(Item::Header(found))) if !found.is_of_the_same(header) => {
                    return Err(Error::exists(format!(
                        "{} is of another stream ({}@{}); finish that one, delete the file, or name another",
                        self.path.display(),
                        found.volume,
                        found.snapshot
                    )));
                }
                Ok(Some(Item::End(totals))) => return Ok((decoder.whole_bytes(), Some(Begin::Complete(totals)))),
                Ok(Some(_)) => last = Some(decoder.clone()),
                // What follows was not written whole, by a machine that lost power perhaps.
                Err(_) if last.is_some() => break,
                Err(error) => {
                    return Err(stream_error(
                        &format!("{}, which is there from before (delete it to begin anew)", self.path.display()),
                        &error,
                    ));
                }
            }
        }
        let whole_bytes = last.as_ref().map_or(0, Decoder::whole_bytes);
        Ok((whole_bytes, last.and_then(Decoder::into_encoder).map(Begin::At)))
    }

    fn cut(&mut self, length: u64) -> Result<(), Error> {
        let cut = self.file.set_len(length).and_then(|()| self.file.seek(SeekFrom::Start(length)));
        cut.map(drop).map_err(|error| file_error("write", &self.path, &error))
    }
}
