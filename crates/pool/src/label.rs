//! The label that says whose a physical disk is. One block of 4 KiB, at the start of the disk and again near its end:
//!
//! ```text
//! 0    magic "ACREDISK"
//! 8    format version: u32      (all numbers little-endian)
//! 12   sector size: u32
//! 16   cluster: u128
//! 32   disk: u32
//! 36   zeroes: u32
//! 40   size of the disk: u64
//! 48   size of a chunklet: u64
//! 56   zeroes
//! 4092 CRC-32C of bytes 0 .. 4092: u32
//! ```

use model::{ClusterId, DiskId};

/// The size of a label, in bytes.
pub const LABEL_BYTES: usize = 4096;
/// How much of a disk's start [`judge`] looks at, in bytes.
pub const HEAD_BYTES: usize = 1 << 20;
/// How much of a disk's end is kept for the label's copy, in bytes; what [`judge`] looks at may be 4 KiB more.
pub const TAIL_BYTES: usize = 64 << 10;
/// The newest label format this program knows.
pub const LABEL_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"ACREDISK";
const CHECKSUM_AT: usize = LABEL_BYTES - 4;

/// Whose a disk is, and what it was when it was claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskLabel {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its id there.
    pub disk: DiskId,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// The size of its chunklets, in bytes.
    pub chunklet_bytes: u64,
    /// Its sector size, in bytes: 512 or 4,096.
    pub sector_bytes: u32,
}

/// Where the tail that [`judge`] looks at starts, in bytes; the label's copy is its first block.
#[must_use]
pub fn tail_start(size_bytes: u64) -> u64 {
    size_bytes.saturating_sub(TAIL_BYTES as u64) / LABEL_BYTES as u64 * LABEL_BYTES as u64
}

/// Where the label and its copy go on a disk of `size_bytes`, in bytes.
#[must_use]
pub fn label_offsets(size_bytes: u64) -> [u64; 2] {
    [0, tail_start(size_bytes)]
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"))
}

fn checksum(block: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &block[..CHECKSUM_AT]) as u32
}

/// What one block says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LabelBlock {
    /// A label.
    Label(DiskLabel),
    /// A label of a format newer than [`LABEL_VERSION`].
    Newer(u32),
    /// It starts as a label does, but is damaged.
    Damaged,
    /// Anything else.
    NoLabel,
}

impl DiskLabel {
    /// Its block.
    #[must_use]
    pub fn encode(&self) -> [u8; LABEL_BYTES] {
        let mut block = [0; LABEL_BYTES];
        block[..8].copy_from_slice(MAGIC);
        block[8..12].copy_from_slice(&LABEL_VERSION.to_le_bytes());
        block[12..16].copy_from_slice(&self.sector_bytes.to_le_bytes());
        block[16..32].copy_from_slice(&self.cluster.0.to_le_bytes());
        block[32..36].copy_from_slice(&self.disk.0.to_le_bytes());
        block[40..48].copy_from_slice(&self.size_bytes.to_le_bytes());
        block[48..56].copy_from_slice(&self.chunklet_bytes.to_le_bytes());
        let checksum = checksum(&block);
        block[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// What the first 4 KiB of `block` say.
    #[must_use]
    pub fn decode(block: &[u8]) -> LabelBlock {
        if block.len() < LABEL_BYTES || &block[..8] != MAGIC {
            return LabelBlock::NoLabel;
        }
        let version = u32_at(block, 8);
        if version > LABEL_VERSION {
            return LabelBlock::Newer(version);
        }
        let label = Self {
            cluster: ClusterId(u128::from_le_bytes(block[16..32].try_into().expect("sixteen bytes"))),
            disk: DiskId(u32_at(block, 32)),
            size_bytes: u64_at(block, 40),
            chunklet_bytes: u64_at(block, 48),
            sector_bytes: u32_at(block, 12),
        };
        let sane = matches!(label.sector_bytes, 512 | 4096)
            && label.chunklet_bytes >= crate::chunklets::CHUNKLET_BYTES_MIN
            && label.chunklet_bytes.is_multiple_of(crate::chunklets::CHUNKLET_BYTES_MIN);
        if version == 0 || checksum(block) != u32_at(block, CHECKSUM_AT) || !sane {
            return LabelBlock::Damaged;
        }
        LabelBlock::Label(label)
    }
}

/// Whose a disk seems to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// It holds nothing at either end: free to be claimed.
    Blank,
    /// It is a disk of this cluster.
    Ours {
        /// Its label.
        label: DiskLabel,
        /// One of the two copies is missing or damaged and should be written again.
        mend: bool,
    },
    /// It is a disk of another cluster: not to be touched unless forced.
    OtherCluster(DiskLabel),
    /// It holds something else, or a label beyond reading: not to be touched unless forced.
    Foreign,
    /// A newer version labelled it: never to be touched.
    Newer {
        /// Its label's format version.
        version: u32,
    },
}

/// Judges a disk by its first MiB and its end from [`tail_start`] on (a smaller disk: by all of it).
#[must_use]
pub fn judge(head: &[u8], tail: &[u8], cluster: ClusterId) -> Judgement {
    let copies = [DiskLabel::decode(head), DiskLabel::decode(tail)];
    for copy in copies {
        if let LabelBlock::Newer(version) = copy {
            return Judgement::Newer { version };
        }
    }
    let labels: Vec<DiskLabel> = copies
        .iter()
        .filter_map(|copy| if let LabelBlock::Label(label) = copy { Some(*label) } else { None })
        .collect();
    match labels.as_slice() {
        // The copies are written first to last: should they differ, the first is the younger.
        [label, ..] if label.cluster == cluster => Judgement::Ours { label: *label, mend: labels != [*label; 2] },
        [label, ..] => Judgement::OtherCluster(*label),
        [] if head.iter().chain(tail).all(|byte| *byte == 0) => Judgement::Blank,
        [] => Judgement::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: ClusterId = ClusterId(7);

    fn label(cluster: ClusterId) -> DiskLabel {
        DiskLabel { cluster, disk: DiskId(3), size_bytes: 1 << 30, chunklet_bytes: 32 << 20, sector_bytes: 512 }
    }

    fn disk(head_label: Option<DiskLabel>, tail_label: Option<DiskLabel>) -> (Vec<u8>, Vec<u8>) {
        let (mut head, mut tail) = (vec![0; HEAD_BYTES], vec![0; TAIL_BYTES]);
        if let Some(label) = head_label {
            head[..LABEL_BYTES].copy_from_slice(&label.encode());
        }
        if let Some(label) = tail_label {
            tail[..LABEL_BYTES].copy_from_slice(&label.encode());
        }
        (head, tail)
    }

    #[test]
    fn a_disk_is_judged_by_both_copies() {
        let judge_disk = |(head, tail): (Vec<u8>, Vec<u8>)| judge(&head, &tail, US);
        assert_eq!(judge_disk(disk(None, None)), Judgement::Blank);
        let ours = label(US);
        assert_eq!(judge_disk(disk(Some(ours), Some(ours))), Judgement::Ours { label: ours, mend: false });
        assert_eq!(judge_disk(disk(None, Some(ours))), Judgement::Ours { label: ours, mend: true });
        let other = label(ClusterId(8));
        assert_eq!(judge_disk(disk(Some(other), Some(other))), Judgement::OtherCluster(other));
    }

    #[test]
    fn anything_else_on_a_disk_is_foreign() {
        let (mut head, tail) = disk(None, None);
        head[HEAD_BYTES - 1] = 1;
        assert_eq!(judge(&head, &tail, US), Judgement::Foreign);
        let (mut head, tail) = disk(Some(label(US)), None);
        head[20] ^= 1;
        assert_eq!(judge(&head, &tail, US), Judgement::Foreign, "a damaged label is nobody's to write over");
    }

    #[test]
    fn a_newer_label_is_never_ours_to_touch() {
        let (mut head, tail) = disk(Some(label(US)), Some(label(US)));
        head[8] = 9;
        assert_eq!(judge(&head, &tail, US), Judgement::Newer { version: 9 });
    }

    #[test]
    fn labels_stay_within_the_disk_and_apart_from_chunklets() {
        for size in [3_u64 << 20, (3 << 20) + 512, 1 << 30] {
            let [first, second] = label_offsets(size);
            assert!(first == 0 && second % 4096 == 0 && second + LABEL_BYTES as u64 <= size);
            assert!(size - second >= TAIL_BYTES as u64);
        }
    }
}
