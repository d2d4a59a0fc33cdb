//! From the virtual disk to the image's bytes: L1 table, L2 table, cluster.

use crate::header::{Header, double, unsupported};
use crate::{Qcow2Error, ReadAt};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

/// Host offsets in entries of both tables.
const OFFSET_BITS: u64 = 0x00ff_ffff_ffff_fe00;
/// In an L2 entry: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// In an L2 entry of version 3 without subclusters: it reads as zeroes, whatever else it says.
const ZERO: u64 = 1;
/// How many L1 entries are kept.
const L1_WINDOW: u64 = 512;

/// What a piece of the virtual disk holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Zeroes: nothing is there, or it is marked so.
    Zero,
    /// Bytes as they lie in the image from this byte on.
    Raw {
        /// Where.
        host_offset: u64,
    },
    /// One cluster, compressed.
    Compressed {
        /// Where it begins.
        host_offset: u64,
        /// It is no longer than this, in bytes.
        host_bytes_max: u64,
    },
}

/// A piece of the virtual disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// What it holds.
    pub content: Content,
}

/// An open image.
#[derive(Debug)]
pub struct Reader<R> {
    image: R,
    header: Header,
    /// Some L1 entries: the index of the first, and their bytes.
    l1: (u64, Vec<u8>),
    /// One L2 table: where it lies, and its bytes.
    l2: (u64, Vec<u8>),
    /// One cluster, decompressed: where it lies compressed, and its bytes.
    cluster: (u64, Vec<u8>),
}

impl<R: ReadAt> Reader<R> {
    /// Reads and judges the header.
    ///
    /// # Errors
    /// When this is no image, or none that can be read here.
    pub fn open(mut image: R) -> Result<Self, Qcow2Error> {
        let header = Header::read(&mut image)?;
        Ok(Self { image, header, l1: (0, Vec::new()), l2: (0, Vec::new()), cluster: (0, Vec::new()) })
    }

    /// The size of the virtual disk, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    /// The piece that begins at `offset`; none at the end of the virtual disk.
    ///
    /// # Errors
    /// When the image's tables cannot be read or make no sense.
    pub fn extent_at(&mut self, offset: u64) -> Result<Option<Extent>, Qcow2Error> {
        let size_bytes = self.header.size_bytes;
        let mut found: Option<Extent> = None;
        let mut at = offset;
        while at < size_bytes {
            let mut next = self.piece_at(at)?;
            next.length = next.length.min(size_bytes - at);
            at += next.length;
            match &mut found {
                None => found = Some(next),
                Some(extent) if continues(extent, &next) => extent.length += next.length,
                Some(_) => break,
            }
            // A table at a time is enough for data; zeroes may go on for as long as they like.
            let limit = self.header.cluster_bytes() * self.header.entries_per_table();
            if found.is_some_and(|extent| extent.content != Content::Zero && extent.length >= limit) {
                break;
            }
        }
        Ok(found)
    }

    /// Reads bytes of an extent, from `skip` bytes behind its beginning on.
    ///
    /// # Errors
    /// When they cannot be read, are cut off, or cannot be decompressed.
    ///
    /// # Panics
    /// When `skip` and the buffer reach beyond the extent.
    pub fn read(&mut self, extent: &Extent, skip: u64, buffer: &mut [u8]) -> Result<(), Qcow2Error> {
        let end = skip.checked_add(buffer.len() as u64);
        assert!(end.is_some_and(|end| end <= extent.length), "only what the extent holds is read");
        match extent.content {
            Content::Zero => buffer.fill(0),
            Content::Raw { host_offset } => read_all(&mut self.image, host_offset + skip, buffer)?,
            Content::Compressed { host_offset, host_bytes_max } => {
                self.decompress(host_offset, host_bytes_max)?;
                let inside = (extent.offset % self.header.cluster_bytes() + skip) as usize;
                buffer.copy_from_slice(&self.cluster.1[inside..inside + buffer.len()]);
            }
        }
        Ok(())
    }

    /// What is at `offset`, up to the end of its cluster or subcluster, or of its table when there is none.
    fn piece_at(&mut self, offset: u64) -> Result<Extent, Qcow2Error> {
        let cluster_bytes = self.header.cluster_bytes();
        let table_bytes = cluster_bytes * self.header.entries_per_table();
        let table = self.l1_entry(offset / table_bytes)? & OFFSET_BITS;
        if table == 0 {
            let length = table_bytes - offset % table_bytes;
            return Ok(Extent { offset, length, content: Content::Zero });
        }
        self.load_l2(table)?;
        let entry_at = (offset % table_bytes / cluster_bytes * self.header.entry_bytes()) as usize;
        let entry = double(&self.l2.1, entry_at);
        let inside = offset % cluster_bytes;
        if entry & COMPRESSED != 0 {
            let content = self.compressed(entry)?;
            return Ok(Extent { offset, length: cluster_bytes - inside, content });
        }
        let host = entry & OFFSET_BITS;
        if !host.is_multiple_of(cluster_bytes) {
            return Err(Qcow2Error::Damaged { at: table, what: "an L2 table names a cluster that is not aligned" });
        }
        if self.header.extended_l2 {
            return self.subcluster(offset, host, double(&self.l2.1, entry_at + 8), table);
        }
        let is_zero = host == 0 || self.header.version >= 3 && entry & ZERO != 0;
        let content = if is_zero { Content::Zero } else { Content::Raw { host_offset: host + inside } };
        Ok(Extent { offset, length: cluster_bytes - inside, content })
    }

    /// The subcluster at `offset`: each cluster has 32, with a bit for being there and one for being zeroes.
    fn subcluster(&self, offset: u64, host: u64, bits: u64, table: u64) -> Result<Extent, Qcow2Error> {
        let subcluster_bytes = self.header.cluster_bytes() / 32;
        let inside = offset % self.header.cluster_bytes();
        let index = inside / subcluster_bytes;
        let (is_there, is_zero) = (bits >> index & 1 == 1, bits >> (index + 32) & 1 == 1);
        let content = match (is_there, is_zero) {
            (true, true) => {
                return Err(Qcow2Error::Damaged { at: table, what: "a subcluster is both data and zeroes" });
            }
            (true, false) if host == 0 => {
                return Err(Qcow2Error::Damaged { at: table, what: "a subcluster has data and its cluster no place" });
            }
            (true, false) => Content::Raw { host_offset: host + inside },
            (false, _) => Content::Zero,
        };
        Ok(Extent { offset, length: subcluster_bytes - inside % subcluster_bytes, content })
    }

    fn compressed(&self, entry: u64) -> Result<Content, Qcow2Error> {
        if self.header.zstd {
            return Err(unsupported("has clusters compressed with zstd"));
        }
        let offset_bits = 62 - (self.header.cluster_bits - 8);
        let host_offset = entry & ((1 << offset_bits) - 1);
        let sectors = ((entry & (COMPRESSED - 1)) >> offset_bits) + 1;
        Ok(Content::Compressed { host_offset, host_bytes_max: sectors * 512 - host_offset % 512 })
    }

    fn l1_entry(&mut self, index: u64) -> Result<u64, Qcow2Error> {
        let (first, bytes) = &mut self.l1;
        let held = bytes.len() as u64 / 8;
        if index < *first || index >= *first + held {
            *first = index;
            // The header made sure that the table holds this index.
            let wanted = (self.header.l1_entries - index).min(L1_WINDOW);
            bytes.clear();
            bytes.resize((wanted * 8) as usize, 0);
            if let Err(error) = read_all(&mut self.image, self.header.l1_offset + index * 8, bytes) {
                bytes.clear();
                return Err(error);
            }
        }
        Ok(double(bytes, ((index - *first) * 8) as usize))
    }

    fn load_l2(&mut self, table: u64) -> Result<(), Qcow2Error> {
        if self.l2.0 == table {
            return Ok(());
        }
        let cluster_bytes = self.header.cluster_bytes();
        if !table.is_multiple_of(cluster_bytes) {
            return Err(Qcow2Error::Damaged { at: self.header.l1_offset, what: "an L2 table is not aligned" });
        }
        self.l2.0 = 0;
        self.l2.1.resize(cluster_bytes as usize, 0);
        read_all(&mut self.image, table, &mut self.l2.1)?;
        self.l2.0 = table;
        Ok(())
    }

    fn decompress(&mut self, host_offset: u64, host_bytes_max: u64) -> Result<(), Qcow2Error> {
        if self.cluster.0 == host_offset && !self.cluster.1.is_empty() {
            return Ok(());
        }
        let cluster_bytes = self.header.cluster_bytes() as usize;
        self.cluster.1.clear();
        // The last compressed cluster of an image is not padded to a whole sector.
        let mut bytes = vec![0; host_bytes_max as usize];
        let there = self.image.read_at(host_offset, &mut bytes);
        let there = there.map_err(|error| Qcow2Error::Unreadable { at: host_offset, error })?;
        let mut out = vec![0; cluster_bytes];
        let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (_, _, made) = decompress(&mut DecompressorOxide::new(), &bytes[..there], &mut out, 0, flags);
        // The end mark may lie beyond what the entry counts: a full cluster is what matters.
        if made != cluster_bytes {
            return Err(Qcow2Error::Damaged { at: host_offset, what: "a compressed cluster does not decompress" });
        }
        self.cluster = (host_offset, out);
        Ok(())
    }
}

/// Whether `next` is more of the same.
fn continues(extent: &Extent, next: &Extent) -> bool {
    match (extent.content, next.content) {
        (Content::Zero, Content::Zero) => true,
        (Content::Raw { host_offset }, Content::Raw { host_offset: then }) => host_offset + extent.length == then,
        _ => false,
    }
}

fn read_all(image: &mut impl ReadAt, at: u64, buffer: &mut [u8]) -> Result<(), Qcow2Error> {
    let there = image.read_at(at, buffer).map_err(|error| Qcow2Error::Unreadable { at, error })?;
    if there < buffer.len() {
        return Err(Qcow2Error::Damaged { at, what: "it is cut off here" });
    }
    Ok(())
}
