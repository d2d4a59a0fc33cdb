//! The header: what the stream is of, and what it builds on.

use crate::state::crc32c;
use crate::{CHECKSUM_BYTES, HEADER_BYTES_MAX, MAGIC, NAME_BYTES_MAX, StreamError, VERSION};
use model::{RegionSize, SECTOR_BYTES, VOLUME_BYTES_MAX};

/// What tells version and length.
pub(crate) const PREFIX_BYTES: usize = 16;
/// Everything before the names.
const FIXED_BYTES: usize = 112;

/// Which snapshot a content is of: the cluster it was first taken in, and its id there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// The cluster.
    pub cluster: u128,
    /// The snapshot's id.
    pub snapshot: u32,
}

/// The snapshot that an incremental stream builds on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    /// Which it is.
    pub identity: Identity,
    /// Its name, without the volume's.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub created_unix_seconds: u64,
    /// The volume's size then, in bytes.
    pub size_bytes: u64,
}

/// What a stream holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// All of a snapshot. What no record names is zeroes.
    Full,
    /// What changed since a base. What no record names is as it was in the base, or zeroes beyond its size.
    Incremental(Base),
}

/// What a stream says of itself before its records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// What it holds.
    pub kind: Kind,
    /// The volume's name.
    pub volume: String,
    /// The snapshot's name, without the volume's.
    pub snapshot: String,
    /// Which it is.
    pub identity: Identity,
    /// When it was taken, in seconds since 1970.
    pub created_unix_seconds: u64,
    /// The volume's size then, in bytes.
    pub size_bytes: u64,
    /// The size of the volume's regions.
    pub region_size: RegionSize,
}

impl Header {
    /// What it builds on, if it is incremental.
    #[must_use]
    pub fn base(&self) -> Option<&Base> {
        match &self.kind {
            Kind::Full => None,
            Kind::Incremental(base) => Some(base),
        }
    }

    /// Whether both are of the same snapshot on the same base, whatever these are called by now.
    #[must_use]
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        let key = |header: &Self| {
            let base = header.base().map(|base| (base.identity, base.size_bytes));
            (header.identity, header.size_bytes, base)
        };
        key(self) == key(other)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, StreamError> {
        let unfit = |what| StreamError::Unfit { offset: 0, what };
        let base = self.base();
        let names = [self.volume.as_str(), self.snapshot.as_str(), base.map_or("", |base| base.name.as_str())];
        let expected = if base.is_some() { 3 } else { 2 };
        if names[..expected].iter().any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
            return Err(unfit("a name is empty or too long"));
        }
        if !is_size(self.size_bytes) || base.is_some_and(|base| !is_size(base.size_bytes)) {
            return Err(unfit("the volume's size is no size of a volume"));
        }
        let length = FIXED_BYTES + names.iter().map(|name| name.len()).sum::<usize>() + CHECKSUM_BYTES;
        let mut out = Vec::with_capacity(length);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((length as u32).to_le_bytes());
        out.push(if base.is_some() { 2 } else { 1 });
        out.push(0);
        out.push(self.region_size.log2() as u8);
        out.extend([0; 5]);
        out.extend(self.size_bytes.to_le_bytes());
        put_view(&mut out, self.identity, self.created_unix_seconds);
        put_view(
            &mut out,
            base.map(|base| base.identity).unwrap_or_default(),
            base.map_or(0, |base| base.created_unix_seconds),
        );
        out.extend(base.map_or(0, |base| base.size_bytes).to_le_bytes());
        for name in names {
            out.extend((name.len() as u16).to_le_bytes());
        }
        out.extend([0; 2]);
        for name in names {
            out.extend(name.as_bytes());
        }
        let checksum = crc32c(0, &[&out]);
        out.extend(checksum.to_le_bytes());
        Ok(out)
    }

    /// How long the header is whose first [`PREFIX_BYTES`] these are.
    pub(crate) fn length(prefix: &[u8]) -> Result<usize, StreamError> {
        let mut fields = Fields(prefix);
        if fields.raw::<8>() != Some(MAGIC) {
            return Err(StreamError::NotAStream);
        }
        let (Some(version), Some(length)) = (fields.u32(), fields.u32()) else { return Err(damaged("it is short")) };
        match version {
            0 => return Err(damaged("the header has no version")),
            VERSION => {}
            found => return Err(StreamError::NewerVersion { found }),
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !(FIXED_BYTES + CHECKSUM_BYTES..=HEADER_BYTES_MAX).contains(&length) {
            return Err(damaged("the header's length makes no sense"));
        }
        Ok(length)
    }

    /// Reads a whole header.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StreamError> {
        if Self::length(bytes)? != bytes.len() {
            return Err(damaged("the header's length makes no sense"));
        }
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(|| damaged("it is short"))?;
        if crc32c(0, &[body]) != u32::from_le_bytes(*checksum) {
            return Err(damaged("the header's checksum is wrong"));
        }
        let header = Self::read(&mut Fields(&body[PREFIX_BYTES..])).ok_or_else(|| damaged("a field of the header"))?;
        // One header, one encoding: what was reserved must be as this version leaves it.
        match header.encode() {
            Ok(again) if again == bytes => Ok(header),
            _ => Err(damaged("a field of the header is out of range")),
        }
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [kind, _, region_log2, ..] = fields.raw::<8>()?;
        let region_size = 1_u64.checked_shl(region_log2.into()).and_then(RegionSize::from_bytes)?;
        let size_bytes = fields.u64()?;
        let (identity, created_unix_seconds) = fields.view()?;
        let (base_identity, base_created) = fields.view()?;
        let base_size = fields.u64()?;
        let lengths = [fields.u16()?, fields.u16()?, fields.u16()?];
        fields.u16()?;
        let (volume, snapshot, base) = (fields.name(lengths[0])?, fields.name(lengths[1])?, fields.name(lengths[2])?);
        let kind = match kind {
            1 => Kind::Full,
            2 => Kind::Incremental(Base {
                identity: base_identity,
                name: base,
                created_unix_seconds: base_created,
                size_bytes: base_size,
            }),
            _ => return None,
        };
        Some(Self { kind, volume, snapshot, identity, created_unix_seconds, size_bytes, region_size })
    }
}

fn damaged(what: &'static str) -> StreamError {
    StreamError::Damaged { at: 0, what }
}

fn is_size(bytes: u64) -> bool {
    bytes <= VOLUME_BYTES_MAX && bytes.is_multiple_of(SECTOR_BYTES)
}

fn put_view(out: &mut Vec<u8>, identity: Identity, created_unix_seconds: u64) {
    out.extend(identity.cluster.to_le_bytes());
    out.extend(identity.snapshot.to_le_bytes());
    out.extend([0; 4]);
    out.extend(created_unix_seconds.to_le_bytes());
}

/// Numbers one after the other.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    fn raw<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.raw().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.raw().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.raw().map(u64::from_le_bytes)
    }

    fn view(&mut self) -> Option<(Identity, u64)> {
        let (cluster, snapshot) = (self.raw().map(u128::from_le_bytes)?, self.u32()?);
        self.u32()?;
        Some((Identity { cluster, snapshot }, self.u64()?))
    }

    fn name(&mut self, length: u16) -> Option<String> {
        let (bytes, rest) = self.0.split_at_checked(length.into())?;
        self.0 = rest;
        String::from_utf8(bytes.to_vec()).ok()
    }
}
