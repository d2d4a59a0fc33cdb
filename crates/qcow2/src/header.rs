//! The image's header, and what of it this reader can deal with.

use crate::{MAGIC, Qcow2Error, ReadAt};
use model::VOLUME_BYTES_MAX;

/// The header of version 3 up to its compression type.
const HEADER_BYTES: usize = 105;
/// That of version 2.
const HEADER_BYTES_V2: usize = 72;
/// The largest L1 table, in bytes; QEMU takes no larger one either.
const L1_BYTES_MAX: u64 = 32 << 20;

/// Incompatible features.
mod feature {
    /// Reference counts may be wrong; nobody needs them to read.
    pub(super) const DIRTY: u64 = 1 << 0;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const EXTERNAL_DATA: u64 = 1 << 2;
    pub(super) const COMPRESSION_TYPE: u64 = 1 << 3;
    pub(super) const EXTENDED_L2: u64 = 1 << 4;
}

/// What the header says that reading needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) size_bytes: u64,
    pub(crate) l1_entries: u64,
    pub(crate) l1_offset: u64,
    pub(crate) extended_l2: bool,
    pub(crate) zstd: bool,
}

impl Header {
    pub(crate) fn read(image: &mut impl ReadAt) -> Result<Self, Qcow2Error> {
        let mut bytes = [0; HEADER_BYTES];
        let there = image.read_at(0, &mut bytes).map_err(|error| Qcow2Error::Unreadable { at: 0, error })?;
        let damaged = |what| Qcow2Error::Damaged { at: 0, what };
        if there < HEADER_BYTES_V2 || bytes[..4] != MAGIC {
            return Err(damaged("it has no qcow2 header"));
        }
        let version = word(&bytes, 4);
        if !(2..=3).contains(&version) {
            return Err(unsupported(format!("is of qcow2 version {version}; versions 2 and 3 are known")));
        }
        let header = Self::fields(&bytes, version)?;
        refuse_backing(image, &bytes)?;
        if !(9..=21).contains(&header.cluster_bits) {
            return Err(damaged("its clusters are of no size between 512 bytes and 2 MiB"));
        }
        if header.extended_l2 && header.cluster_bits < 14 {
            return Err(damaged("its clusters are too small for subclusters"));
        }
        if header.size_bytes > VOLUME_BYTES_MAX {
            return Err(damaged("its virtual disk is larger than 4 EiB"));
        }
        if !header.l1_offset.is_multiple_of(header.cluster_bytes()) || header.l1_entries * 8 > L1_BYTES_MAX {
            return Err(damaged("its L1 table is misplaced or larger than 32 MiB"));
        }
        let mapped_by_table = header.cluster_bytes() * header.entries_per_table();
        if header.size_bytes.div_ceil(mapped_by_table) > header.l1_entries {
            return Err(damaged("its L1 table is too short for its virtual disk"));
        }
        Ok(header)
    }

    fn fields(bytes: &[u8; HEADER_BYTES], version: u32) -> Result<Self, Qcow2Error> {
        let features = if version >= 3 { double(bytes, 72) } else { 0 };
        let known = feature::DIRTY | feature::COMPRESSION_TYPE | feature::EXTENDED_L2;
        if features & feature::EXTERNAL_DATA != 0 {
            return Err(unsupported("keeps its data in another file"));
        }
        if features & feature::CORRUPT != 0 {
            return Err(Qcow2Error::Damaged { at: 72, what: "it is marked as corrupt" });
        }
        if features & !known != 0 {
            return Err(unsupported(format!("needs features that are not known here (bits {features:#x})")));
        }
        match word(bytes, 32) {
            0 => {}
            method => return Err(unsupported(format!("is encrypted (method {method})"))),
        }
        let has_compression_type = features & feature::COMPRESSION_TYPE != 0 && word(bytes, 100) > 104;
        let zstd = match bytes[104] {
            1 if has_compression_type => true,
            0 => false,
            _ if !has_compression_type => false,
            other => return Err(unsupported(format!("is compressed in an unknown way ({other})"))),
        };
        Ok(Self {
            version,
            cluster_bits: word(bytes, 20),
            size_bytes: double(bytes, 24),
            l1_entries: word(bytes, 36).into(),
            l1_offset: double(bytes, 40),
            extended_l2: features & feature::EXTENDED_L2 != 0,
            zstd,
        })
    }

    pub(crate) fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// How long an entry of an L2 table is, in bytes.
    pub(crate) fn entry_bytes(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// How many clusters one L2 table maps.
    pub(crate) fn entries_per_table(&self) -> u64 {
        self.cluster_bytes() / self.entry_bytes()
    }
}

/// An image on top of another one is not read: what it does not map is not zeroes.
fn refuse_backing(image: &mut impl ReadAt, bytes: &[u8; HEADER_BYTES]) -> Result<(), Qcow2Error> {
    let (at, length) = (double(bytes, 8), word(bytes, 16));
    if at == 0 {
        return Ok(());
    }
    let mut name = vec![0; length.min(1023) as usize];
    let there = image.read_at(at, &mut name).map_err(|error| Qcow2Error::Unreadable { at, error })?;
    let name = String::from_utf8_lossy(&name[..there]).into_owned();
    Err(unsupported(format!("lies on top of another image, {name:?}")))
}

pub(crate) fn unsupported(what: impl Into<String>) -> Qcow2Error {
    Qcow2Error::Unsupported { what: what.into() }
}

/// The number of four bytes at `at`, which is inside.
fn word(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The number of eight bytes at `at`, which is inside.
pub(crate) fn double(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
