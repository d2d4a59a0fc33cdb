//! `acre export`: a snapshot, or what changed up to it, as a stream.

use super::link::Export as NbdExport;
use super::operator::{Operator, cluster, identity, snapshot, volume};
use super::partial::{Begin, Partial};
use super::plan::{Changes, Plan, Planned, Survey};
use super::progress::Progress;
use super::read_ahead::ReadAhead;
use super::report::ExportReport;
use super::{Piece, runs_of_blocks};
use crate::config::Address;
use api::{Error, Request, Snapshot, SnapshotIdentity, SnapshotState, split_snapshot_name};
use model::RegionSize;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use stream::{Base, Encoder, Header, Identity, Kind, Totals};

/// How much of a stream lies between two checkpoints, in bytes.
const CHECKPOINT_EVERY_BYTES: u64 = 64 << 20;

/// What to export, and to where.
#[derive(Clone, Debug)]
pub struct Export {
    /// The snapshot, `VOL@NAME`.
    pub snapshot: String,
    /// Only what changed since this snapshot of the same volume, `VOL@NAME` or `NAME`.
    pub since: Option<String>,
    /// The file; standard output where there is none.
    pub file: Option<PathBuf>,
    /// Where the server serves NBD.
    pub nbd: Address,
    /// Who may have signed its certificate, if it is to speak TLS.
    pub ca: Option<PathBuf>,
}

/// Where the stream goes.
enum Target<'a> {
    Partial(Partial),
    Out(&'a mut dyn Write),
    Device(std::fs::File),
}

impl Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = match self {
            Self::Partial(partial) => return partial.write(bytes),
            Self::Out(out) => out.write_all(bytes),
            Self::Device(file) => file.write_all(bytes),
        };
        written.map_err(|error| Error::unavailable(format!("cannot write the stream: {error}")))
    }

    fn finish(self) -> Result<(), Error> {
        match self {
            Self::Partial(partial) => partial.finish(),
            Self::Out(out) => {
                out.flush().map_err(|error| Error::unavailable(format!("cannot write the stream: {error}")))
            }
            Self::Device(_) => Ok(()),
        }
    }
}

/// Exports; `out` is standard output.
///
/// # Errors
/// The server's, the file's. A file that is not complete stays as `FILE.partial`, to be gone on with by the same command.
pub fn export(server: &dyn Operator, what: &Export, out: &mut dyn Write) -> Result<ExportReport, Error> {
    let (header, since) = header(server, what)?;
    let is_file = |path: &PathBuf| std::fs::metadata(path).map_or(true, |about| !is_device(&about.file_type()));
    let (mut target, begin) = match &what.file {
        Some(path) if is_file(path) => {
            let (partial, begin) = Partial::open(path, &header)?;
            (Target::Partial(partial), begin)
        }
        other => {
            let mut target = match other {
                Some(path) => {
                    let opened = std::fs::File::options().write(true).open(path);
                    Target::Device(opened.map_err(|error| super::file_error("write", path, &error))?)
                }
                None => Target::Out(out),
            };
            let mut bytes = Vec::new();
            let encoder = Encoder::begin(&header, &mut bytes).map_err(|error| Error::internal(error.to_string()))?;
            target.write(&bytes)?;
            (target, Begin::At(encoder))
        }
    };
    let (resumed_bytes, totals) = match begin {
        Begin::Complete(totals) => (totals.stream_bytes, totals),
        Begin::At(encoder) => {
            let before = if encoder.position() > 0 { encoder.totals().stream_bytes } else { 0 };
            let nbd = NbdExport { address: what.nbd.clone(), name: what.snapshot.clone(), ca: what.ca.clone() };
            let plan: Box<dyn Plan + '_> = match &since {
                Some(since) => Box::new(Changes::new(server, since, &what.snapshot, encoder.position())),
                None => Box::new(Survey::open(&nbd, encoder.position())?),
            };
            let reader = ReadAhead::open(&nbd, plan)?;
            if reader.size_bytes() != header.size_bytes {
                return Err(Error::internal(format!(
                    "{nbd} has {} bytes, and the snapshot {}: is that the same server?",
                    reader.size_bytes(),
                    header.size_bytes
                )));
            }
            (before, pump(reader, encoder, &header, &mut target)?)
        }
    };
    target.finish()?;
    Ok(ExportReport {
        snapshot: what.snapshot.clone(),
        since,
        data_bytes: totals.data_bytes,
        zero_bytes: totals.zero_bytes,
        stream_bytes: totals.stream_bytes,
        resumed_bytes,
    })
}

impl Plan for Box<dyn Plan + '_> {
    fn next(&mut self) -> Result<Option<Planned>, Error> {
        (**self).next()
    }
}

fn is_device(kind: &std::fs::FileType) -> bool {
    kind.is_fifo() || kind.is_char_device() || kind.is_socket()
}

/// What the stream will say of itself; and the full name of what it builds on.
fn header(server: &dyn Operator, what: &Export) -> Result<(Header, Option<String>), Error> {
    let (volume_name, name) = split_snapshot_name(&what.snapshot)?;
    let since = match &what.since {
        Some(since) if since.contains('@') => Some(since.clone()),
        Some(since) => Some(format!("{volume_name}@{since}")),
        None => None,
    };
    if since.as_ref().is_some_and(|since| *since == what.snapshot) {
        return Err(Error::invalid(format!("{} has not changed since itself; name an older snapshot", what.snapshot)));
    }
    let cluster = cluster(server)?;
    let of = |identity: SnapshotIdentity| Identity { cluster: identity.cluster, snapshot: identity.snapshot };
    let target = ready(server, &what.snapshot)?;
    let kind = match &since {
        None => Kind::Full,
        Some(since) => {
            let base = ready(server, since)?;
            Kind::Incremental(Base {
                identity: of(identity(cluster, &base)),
                name: split_snapshot_name(since)?.1.into(),
                created_unix_seconds: base.created_unix_seconds,
                size_bytes: base.size_bytes,
            })
        }
    };
    let of_volume = volume(server, &Request::VolumeShow { name: volume_name.into() })?;
    let header = Header {
        kind,
        volume: volume_name.into(),
        snapshot: name.into(),
        identity: of(identity(cluster, &target)),
        created_unix_seconds: target.created_unix_seconds,
        size_bytes: target.size_bytes,
        region_size: RegionSize::from_bytes(of_volume.region_bytes).unwrap_or(RegionSize::DEFAULT),
    };
    Ok((header, since))
}

fn ready(server: &dyn Operator, name: &str) -> Result<Snapshot, Error> {
    let found = snapshot(server, name)?;
    if found.state == SnapshotState::Ready {
        return Ok(found);
    }
    Err(Error::not_found(format!("{name} is being deleted and cannot be read any more")))
}

/// Moves everything the reader gives into the stream, and ends it.
fn pump<P: Plan>(
    mut reader: ReadAhead<P>,
    mut encoder: Encoder,
    header: &Header,
    target: &mut Target<'_>,
) -> Result<Totals, Error> {
    let mut progress = Progress::new(format!("export {}@{}", header.volume, header.snapshot));
    let is_full = header.base().is_none();
    let mut out = Vec::new();
    let mut checkpoint_at = encoder.totals().stream_bytes + CHECKPOINT_EVERY_BYTES;
    let unfit = |error: stream::StreamError| Error::internal(format!("the server's answers make no stream: {error}"));
    while let Some(piece) = reader.next()? {
        match piece {
            // What a full stream does not name is zeroes.
            Piece::Zero { .. } if is_full => {}
            Piece::Zero { offset, length } => encoder.zero(offset, length, &mut out).map_err(unfit)?,
            Piece::Data { offset, bytes } => {
                for (start, length, is_zero) in runs_of_blocks(&bytes) {
                    let at = offset + start as u64;
                    match is_zero {
                        true if is_full => {}
                        true => encoder.zero(at, length as u64, &mut out).map_err(unfit)?,
                        false => encoder.data(at, &bytes[start..start + length], &mut out).map_err(unfit)?,
                    }
                }
            }
        }
        if encoder.totals().stream_bytes >= checkpoint_at {
            encoder.checkpoint(encoder.position(), &mut out).map_err(unfit)?;
            checkpoint_at = encoder.totals().stream_bytes + CHECKPOINT_EVERY_BYTES;
        }
        target.write(&out)?;
        out.clear();
        progress.show(encoder.position(), header.size_bytes, encoder.totals().stream_bytes);
    }
    let totals = encoder.end(&mut out);
    target.write(&out)?;
    Ok(totals)
}
