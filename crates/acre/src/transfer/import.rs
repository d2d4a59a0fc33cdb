//! `acre import`: a stream or an image into a volume.
//!
//! A new volume is written under the name `NAME.importing` and gets its own when it is complete, so that nothing half-made
//! bears it. A volume that an incremental stream is applied to is complete when it has the stream's snapshot.

use super::Piece;
use super::base::{Foreign, Standing, judge};
use super::link::Export as NbdExport;
use super::operator::{Operator, cluster, find_volume, identity, snapshots, volume};
use super::progress::Progress;
use super::report::ImportReport;
use super::source::{self, Format, Image, Source, StreamSource};
use super::writer::{VolumeWriter, Zeroes};
use crate::config::Address;
use api::{
    Error, ErrorKind, Request, SnapshotCreate, SnapshotIdentity, Volume, VolumeCreate, VolumeRename, VolumeResize,
    check_name,
};
use std::path::PathBuf;
use stream::Header;

/// What the name of a volume ends in while it is being imported.
const UNFINISHED: &str = ".importing";

/// What to import, and into what.
#[derive(Clone, Debug)]
pub struct Import {
    /// A file, `-`, or an NBD URI.
    pub source: String,
    /// What it holds, if its content is not to decide.
    pub format: Option<Format>,
    /// The volume.
    pub volume: String,
    /// The pool of a new volume.
    pub pool: Option<String>,
    /// The size of a new volume's regions, in bytes; that of the stream's volume, or the default, where there is none.
    pub region_bytes: Option<u64>,
    /// Go on with an import that was cut short.
    pub resume: bool,
    /// Where the server serves NBD.
    pub nbd: Address,
    /// Who may have signed its certificate, if it is to speak TLS.
    pub ca: Option<PathBuf>,
}

/// Imports.
///
/// # Errors
/// The server's, the source's. What was written until then is not called done.
pub fn import(server: &dyn Operator, what: &Import) -> Result<ImportReport, Error> {
    check_name("volume", &what.volume)?;
    match source::open(&what.source, what.format)? {
        Source::Image(image) => new_volume(server, what, Content::Image(image)),
        Source::Stream(stream) if stream.header().base().is_some() => apply(server, what, stream),
        Source::Stream(stream) => new_volume(server, what, Content::Stream(stream)),
    }
}

/// What makes a new volume.
enum Content {
    Image(Box<dyn Image>),
    Stream(StreamSource),
}

impl Content {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Image(image) => image.size_bytes(),
            Self::Stream(stream) => stream.header().size_bytes,
        }
    }

    fn header(&self) -> Option<Header> {
        match self {
            Self::Image(_) => None,
            Self::Stream(stream) => Some(stream.header().clone()),
        }
    }

    fn next(&mut self) -> Result<Option<Piece>, Error> {
        match self {
            Self::Image(image) => image.next(),
            Self::Stream(stream) => stream.next(),
        }
    }
}

fn new_volume(server: &dyn Operator, what: &Import, content: Content) -> Result<ImportReport, Error> {
    let name = &what.volume;
    let unfinished = format!("{name}{UNFINISHED}");
    check_name("volume", &unfinished)?;
    if find_volume(server, name)?.is_some() {
        return Err(Error::exists(format!(
            "there is a volume {name:?} already; name another, or rename or delete that one"
        )));
    }
    let header = content.header();
    let (size_bytes, zeroes) = match find_volume(server, &unfinished)? {
        Some(_) if !what.resume => {
            return Err(Error::exists(format!(
                "an import of {name} was cut short, or is under way: there is a volume {unfinished:?}. Go on with --resume, or \
                 delete it: acre volume delete {unfinished} --force"
            )));
        }
        Some(volume) if volume.size_bytes != content.size_bytes() => {
            return Err(Error::invalid(format!(
                "{unfinished} has {} bytes, and {} has {}: that was an import of something else. Delete it: acre volume \
                 delete {unfinished} --force",
                volume.size_bytes,
                what.source,
                content.size_bytes()
            )));
        }
        Some(volume) => (volume.size_bytes, Zeroes::AreMade),
        None => {
            (create(server, what, &unfinished, content.size_bytes(), header.as_ref())?.size_bytes, Zeroes::AreThere)
        }
    };
    let filled = fill(server, what, content, &unfinished, zeroes, header.as_ref());
    let (data_bytes, snapshot) = filled.map_err(|error| Error {
        kind: error.kind,
        message: format!(
            "{}. What was written so far is in the volume {unfinished}: the same command with --resume goes on; or delete it",
            error.message.trim_end_matches('.')
        ),
    })?;
    let rename = VolumeRename { new_name: name.clone() };
    volume(server, &Request::VolumeRename { name: unfinished, rename })?;
    let snapshot = snapshot.map(|snapshot| format!("{name}@{snapshot}"));
    Ok(ImportReport { volume: name.clone(), snapshot, size_bytes, data_bytes, was_there: false })
}

fn create(
    server: &dyn Operator,
    what: &Import,
    name: &str,
    size_bytes: u64,
    header: Option<&Header>,
) -> Result<Volume, Error> {
    let region_bytes = what.region_bytes.or(header.map(|header| header.region_size.bytes()));
    let create =
        VolumeCreate { name: name.into(), size_bytes, pool: what.pool.clone(), region_bytes, ..Default::default() };
    volume(server, &Request::VolumeCreate(create))
}

/// Writes everything, and takes the snapshot that a stream is of; gives the bytes of data and the snapshot's name.
fn fill(
    server: &dyn Operator,
    what: &Import,
    mut content: Content,
    name: &str,
    zeroes: Zeroes,
    header: Option<&Header>,
) -> Result<(u64, Option<String>), Error> {
    if let Some(header) = header
        && let Some(done) = snapshots(server, name)?.first()
    {
        // Cut short between its snapshot and its name.
        if identity(cluster(server)?, done) != of(header) {
            return Err(Error::invalid(format!("{name} holds another stream than this one")));
        }
        return Ok((0, Some(header.snapshot.clone())));
    }
    let size_bytes = content.size_bytes();
    let mut writer = open(what, name, zeroes, size_bytes)?;
    let mut progress = Progress::new(format!("import {}", what.volume));
    let (mut position, mut data_bytes) = (0, 0);
    while let Some(piece) = content.next()? {
        let offset = match &piece {
            Piece::Data { offset, .. } | Piece::Zero { offset, .. } => *offset,
        };
        writer.zero(position, offset.saturating_sub(position))?;
        position = put(&mut writer, piece, &mut data_bytes)?;
        progress.show(position, size_bytes, data_bytes);
    }
    writer.zero(position, size_bytes.saturating_sub(position))?;
    writer.finish()?;
    match header {
        None => Ok((data_bytes, None)),
        Some(header) => {
            take(server, name, header)?;
            Ok((data_bytes, Some(header.snapshot.clone())))
        }
    }
}

fn of(header: &Header) -> SnapshotIdentity {
    SnapshotIdentity { cluster: header.identity.cluster, snapshot: header.identity.snapshot }
}

fn open(what: &Import, name: &str, zeroes: Zeroes, size_bytes: u64) -> Result<VolumeWriter, Error> {
    let export = NbdExport { address: what.nbd.clone(), name: name.into(), ca: what.ca.clone() };
    let writer = VolumeWriter::open(&export, zeroes)?;
    if writer.size_bytes() != size_bytes {
        return Err(Error::internal(format!(
            "{export} has {} bytes, and the volume {size_bytes}: is that the same server?",
            writer.size_bytes()
        )));
    }
    Ok(writer)
}

/// Writes a piece; gives where it ends.
fn put(writer: &mut VolumeWriter, piece: Piece, data_bytes: &mut u64) -> Result<u64, Error> {
    match piece {
        Piece::Zero { offset, length } => {
            writer.zero(offset, length)?;
            Ok(offset + length)
        }
        Piece::Data { offset, bytes } => {
            writer.write(offset, &bytes)?;
            *data_bytes += bytes.len() as u64;
            Ok(offset + bytes.len() as u64)
        }
    }
}

/// Takes the snapshot that the stream is of, which the next incremental stream begins at.
fn take(server: &dyn Operator, volume: &str, header: &Header) -> Result<(), Error> {
    let snapshot = format!("{volume}@{}", header.snapshot);
    let create = SnapshotCreate { snapshots: vec![snapshot], imported_from: Some(of(header)) };
    // The server tells the time.
    server.ask(&Request::SnapshotCreate { create, scheduled: false, now_unix_seconds: 0 }).map(drop)
}

fn apply(server: &dyn Operator, what: &Import, stream: StreamSource) -> Result<ImportReport, Error> {
    let header = stream.header().clone();
    let Some(base) = header.base() else {
        return Err(Error::internal("a full stream was taken for an incremental one"));
    };
    if what.pool.is_some() || what.region_bytes.is_some() {
        return Err(Error::invalid(format!(
            "{} is incremental and makes no new volume; leave out --pool and --region-size",
            what.source
        )));
    }
    let report = |data_bytes, was_there| ImportReport {
        volume: what.volume.clone(),
        snapshot: Some(format!("{}@{}", what.volume, header.snapshot)),
        size_bytes: header.size_bytes,
        data_bytes,
        was_there,
    };
    let (target, held) = match judge(server, &header, base, &what.volume, what.resume)? {
        Standing::Applied(snapshot) => {
            return Ok(ImportReport { snapshot: Some(snapshot), ..report(0, true) });
        }
        Standing::AtBase(volume, snapshot) => (volume, snapshot),
    };
    let foreign = what.resume.then(|| Foreign::new(server, &held, &what.volume));
    let applied = resize(server, &target, header.size_bytes).and_then(|()| changes(what, stream, foreign));
    let applied = applied.and_then(|data_bytes| take(server, &what.volume, &header).map(|()| data_bytes));
    let data_bytes = applied.map_err(|error| match error.kind {
        // The way out of foreign writes is another one.
        ErrorKind::NeedsForce => error,
        kind => Error {
            kind,
            message: format!(
                "{}. {} may hold some of the stream now, and has no snapshot of it: the same command with --resume goes on; \
                 acre volume rollback {held} goes back",
                error.message.trim_end_matches('.'),
                what.volume,
            ),
        },
    })?;
    Ok(report(data_bytes, false))
}

fn resize(server: &dyn Operator, target: &Volume, size_bytes: u64) -> Result<(), Error> {
    if target.size_bytes == size_bytes {
        return Ok(());
    }
    // What is cut off is in the base's snapshot still.
    let resize = VolumeResize { size_bytes, shrink: size_bytes < target.size_bytes };
    volume(server, &Request::VolumeResize { name: target.name.clone(), resize }).map(drop)
}

/// Writes what changed.
fn changes(what: &Import, mut stream: StreamSource, mut foreign: Option<Foreign<'_>>) -> Result<u64, Error> {
    let size_bytes = stream.header().size_bytes;
    let mut writer = open(what, &what.volume, Zeroes::AreMade, size_bytes)?;
    let mut progress = Progress::new(format!("import {}@{}", what.volume, stream.header().snapshot));
    let mut data_bytes = 0;
    while let Some(piece) = stream.next()? {
        if let Some(foreign) = &mut foreign {
            match &piece {
                Piece::Data { offset, bytes } => foreign.check(*offset, bytes.len() as u64)?,
                Piece::Zero { offset, length } => foreign.check(*offset, *length)?,
            }
        }
        put(&mut writer, piece, &mut data_bytes)?;
        progress.show(stream.read_bytes(), stream.stream_bytes.unwrap_or(0), data_bytes);
    }
    if let Some(foreign) = &mut foreign {
        foreign.check(size_bytes, 0)?;
    }
    writer.finish()?;
    Ok(data_bytes)
}
