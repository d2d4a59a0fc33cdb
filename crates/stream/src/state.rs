//! Where a stream is, for its writer and its reader alike: both check the same rules and keep the same checksums.

use crate::{BLOCK_BYTES, DATA_BYTES_MAX};
use crc_fast::{CrcAlgorithm, Digest};

/// What a stream amounts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Bytes of the volume in DATA records.
    pub data_bytes: u64,
    /// Bytes of the volume in ZERO records.
    pub zero_bytes: u64,
    /// Records, the END record left out.
    pub records: u64,
    /// Bytes of the stream so far, header and all.
    pub stream_bytes: u64,
}

/// CRC-32C of `before`, little-endian, and the parts behind it.
pub(crate) fn crc32c(before: u32, parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&before.to_le_bytes());
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize() as u32
}

/// Where a stream is, after its header and some records.
#[derive(Clone)]
pub(crate) struct State {
    /// The volume's size in bytes.
    pub(crate) size_bytes: u64,
    /// Everything in the volume before this byte has been told.
    pub(crate) position: u64,
    /// The checksum of the last record, or of the header, which that of the next one goes on from: a record that is
    /// missing, doubled or moved is seen at the next.
    pub(crate) chain: u32,
    pub(crate) totals: Totals,
    whole: Digest,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("position", &self.position).field("totals", &self.totals).finish_non_exhaustive()
    }
}

impl State {
    /// Behind this header.
    pub(crate) fn behind(header: &[u8], size_bytes: u64) -> Self {
        let mut whole = Digest::new(CrcAlgorithm::Crc64Nvme);
        whole.update(header);
        let chain = header.last_chunk().map_or(0, |checksum| u32::from_le_bytes(*checksum));
        let totals = Totals { stream_bytes: header.len() as u64, ..Totals::default() };
        Self { size_bytes, position: 0, chain, totals, whole }
    }

    /// The checksum of the whole stream so far.
    pub(crate) fn whole(&self) -> u64 {
        self.whole.finalize()
    }

    /// What is wrong with a range that would come next, if anything.
    pub(crate) fn judge(&self, offset: u64, length: u64) -> Result<(), &'static str> {
        let Some(end) = offset.checked_add(length) else { return Err("it ends beyond all offsets") };
        if length == 0 {
            Err("it is empty")
        } else if offset < self.position {
            Err("it lies before the end of the one before")
        } else if end > self.size_bytes {
            Err("it ends beyond the volume")
        } else if !offset.is_multiple_of(BLOCK_BYTES) || !(end.is_multiple_of(BLOCK_BYTES) || end == self.size_bytes) {
            Err("it is not made of whole blocks")
        } else {
            Ok(())
        }
    }

    /// The same for a range with its bytes in one record.
    pub(crate) fn judge_data(&self, offset: u64, length: usize) -> Result<(), &'static str> {
        if length > DATA_BYTES_MAX { Err("it is too long for one record") } else { self.judge(offset, length as u64) }
    }

    /// Goes behind a record: `parts` is all of it but its checksum.
    pub(crate) fn pass(&mut self, parts: &[&[u8]], checksum: u32) {
        parts.iter().for_each(|part| self.whole.update(part));
        self.whole.update(&checksum.to_le_bytes());
        self.chain = checksum;
        self.totals.stream_bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>() + 4;
        self.totals.records += 1;
    }
}
