//! Reads: by the table, straight from the disks; zeroes without asking any.

use crate::context::{Context, Piece, PieceOwner, Task};
use crate::event::{Effect, IoId, IoResult, ReadSegment};
use crate::inflight::Sequence;
use crate::volume::{Blocked, Volume};
use mapping::{Fault, Segments, Source};
use model::{BLOCK_BYTES, ByteRange, DiskId, IoBuffer, IoError};
use smallvec::SmallVec;
use wire::DiskOperation;

/// A read under way.
#[derive(Debug)]
pub(crate) struct ReadTask {
    id: IoId,
    sequence: Sequence,
    parts: SmallVec<[Part; 2]>,
    pieces_left: u32,
    failed: Option<IoError>,
}

#[derive(Debug)]
enum Part {
    Hole { length: u32 },
    Data { buffer: Option<IoBuffer>, start: u32, length: u32 },
}

/// A physical range to read: whole blocks around the bytes that are wanted.
struct Fetch {
    part: u16,
    disk: DiskId,
    offset: u64,
    length: u32,
}

impl Volume {
    pub(crate) fn start_read(
        &mut self,
        context: &mut Context<'_>,
        id: IoId,
        offset: u64,
        length: u32,
    ) -> Result<(), Blocked> {
        let mut segments = Segments::new();
        let range = ByteRange::new(offset, u64::from(length));
        match self.table.resolve_read(range, &mut segments) {
            Ok(()) => {}
            Err(Fault::Error(_)) => {
                context.reply(id, Err(IoError::Device), &mut self.counters);
                return Ok(());
            }
            Err(fault) => return Err(self.fault(context, fault.page())),
        }
        if self.settling {
            return Err(Blocked);
        }
        let mut parts = SmallVec::new();
        let mut fetches: SmallVec<[Fetch; 2]> = SmallVec::new();
        let mut known = true;
        for segment in &segments {
            match segment.source {
                Source::Zero => {
                    self.counters.hole_bytes += segment.length;
                    parts.push(Part::Hole { length: segment.length as u32 });
                }
                Source::Region { logical_disk, byte_offset } => {
                    let located = ByteRange::new(byte_offset, segment.length);
                    known &= context
                        .locate(logical_disk, located, |disk, at, length| {
                            let start = at % BLOCK_BYTES;
                            let end = (at + length).next_multiple_of(BLOCK_BYTES);
                            let (part, aligned) = (parts.len() as u16, at - start);
                            parts.push(Part::Data { buffer: None, start: start as u32, length: length as u32 });
                            fetches.push(Fetch { part, disk, offset: aligned, length: (end - aligned) as u32 });
                        })
                        .is_some();
                }
            }
        }
        if !known {
            context.reply(id, Err(IoError::Device), &mut self.counters);
            return Ok(());
        }
        if fetches.is_empty() {
            let segments = parts.into_iter().map(Part::into_segment).collect();
            context.out.push(Effect::Reply { id, result: IoResult::Read(segments) });
            return Ok(());
        }
        let sequence = self.inflight.begin();
        let pieces_left = fetches.len() as u32;
        let task = ReadTask { id, sequence, parts, pieces_left, failed: None };
        let task = context.shared.tasks.insert(Task::Read(task));
        for fetch in fetches {
            let buffer = context.buffers.take(fetch.length as usize);
            let owner = PieceOwner::Read { task, part: fetch.part };
            let operation = DiskOperation::Read { offset: fetch.offset, length: fetch.length, buffer };
            let piece = Piece { slot: self.slot, owner, disk: fetch.disk };
            context.to_node(self.attachment.credentials, piece, operation);
        }
        Ok(())
    }

    pub(crate) fn read_piece_done(
        &mut self,
        context: &mut Context<'_>,
        task: u32,
        part: u16,
        result: Result<(), IoError>,
        buffer: Option<IoBuffer>,
    ) {
        let Some(Task::Read(read)) = context.shared.tasks.get_mut(task) else {
            unreachable!("a piece of a read names its task");
        };
        if let Part::Data { buffer: place, .. } = &mut read.parts[usize::from(part)] {
            *place = buffer;
        }
        if let Err(error) = result {
            read.failed = Some(error);
        }
        read.pieces_left -= 1;
        if read.pieces_left > 0 {
            return;
        }
        let Some(Task::Read(read)) = context.shared.tasks.remove(task) else {
            unreachable!("the task was there a moment ago");
        };
        self.inflight.end(read.sequence);
        let missing = read.parts.iter().any(|part| matches!(part, Part::Data { buffer: None, .. }));
        match read.failed.or(missing.then_some(IoError::Device)) {
            None => {
                let segments = read.parts.into_iter().map(Part::into_segment).collect();
                context.out.push(Effect::Reply { id: read.id, result: IoResult::Read(segments) });
            }
            Some(error) => {
                for part in read.parts {
                    if let Part::Data { buffer: Some(buffer), .. } = part {
                        context.buffers.put(buffer);
                    }
                }
                context.reply(read.id, Err(error), &mut self.counters);
            }
        }
        self.io_ended(context);
    }
}

impl Part {
    fn into_segment(self) -> ReadSegment {
        match self {
            Self::Hole { length } => ReadSegment::Hole { length },
            Self::Data { buffer: Some(buffer), start, length } => ReadSegment::Data { buffer, start, length },
            Self::Data { buffer: None, .. } => unreachable!("a read that succeeded has all its data"),
        }
    }
}
