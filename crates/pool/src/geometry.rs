//! Where the bytes of a logical disk lie on physical disks.
//!
//! Called for each I/O, so nothing here allocates, and a logical disk one chunklet wide costs one division.

use model::{ChunkletAddress, DiskId, LogicalDiskLayout, RaidLevel};

/// Part of a range of a logical disk: bytes that are contiguous on one physical disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The physical disk.
    pub disk: DiskId,
    /// Where on it, in bytes.
    pub byte_offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// The pieces of a range, in its order.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    layout: &'a LogicalDiskLayout,
    width: u64,
    byte_offset: u64,
    end: u64,
}

/// Where bytes `byte_offset .. byte_offset + length` of the logical disk lie: each a read's one source and, without
/// redundancy, a write's one target. Neighbours on one disk are merged.
///
/// # Panics
/// The iterator does, when the range leaves the logical disk.
#[must_use]
pub fn resolve(layout: &LogicalDiskLayout, byte_offset: u64, length: u64) -> Pieces<'_> {
    let width = layout.rows.first().map_or(1, Vec::len) as u64;
    Pieces { layout, width, byte_offset, end: byte_offset + length }
}

impl Pieces<'_> {
    /// The bytes from `byte_offset` on that share its chunklet and step.
    fn at(&self, byte_offset: u64) -> Piece {
        match self.layout.raid {
            RaidLevel::Raid0 if self.width == 1 => self.linear(byte_offset),
            RaidLevel::Raid0 => self.striped(byte_offset),
        }
    }

    fn chunklet(&self, row: u64, column: u64) -> ChunkletAddress {
        let row = self.layout.rows.get(row as usize).expect("a range lies within its logical disk");
        row[column as usize]
    }

    fn linear(&self, byte_offset: u64) -> Piece {
        let size = self.layout.chunklet_bytes;
        let (row, within) = (byte_offset / size, byte_offset % size);
        let chunklet = self.chunklet(row, 0);
        Piece { disk: chunklet.disk, byte_offset: chunklet.byte_offset + within, length: size - within }
    }

    fn striped(&self, byte_offset: u64) -> Piece {
        let step = u64::from(self.layout.step_bytes);
        let row_bytes = self.layout.chunklet_bytes * self.width;
        let (row, within_row) = (byte_offset / row_bytes, byte_offset % row_bytes);
        let (steps, within_step) = (within_row / step, within_row % step);
        let chunklet = self.chunklet(row, steps % self.width);
        let byte_offset = chunklet.byte_offset + steps / self.width * step + within_step;
        Piece { disk: chunklet.disk, byte_offset, length: step - within_step }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.byte_offset >= self.end {
            return None;
        }
        let mut piece = self.at(self.byte_offset);
        while self.byte_offset + piece.length < self.end {
            let next = self.at(self.byte_offset + piece.length);
            if next.disk != piece.disk || next.byte_offset != piece.byte_offset + piece.length {
                break;
            }
            piece.length += next.length;
        }
        piece.length = piece.length.min(self.end - self.byte_offset);
        self.byte_offset += piece.length;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{LogicalDiskId, PoolId};
    use proptest::prelude::*;

    const CHUNKLET: u64 = 1 << 20;
    const STEP: u64 = 64 << 10;

    fn layout(rows: Vec<Vec<(u32, u64)>>) -> LogicalDiskLayout {
        let chunklet = |(disk, slot)| ChunkletAddress { disk: DiskId(disk), byte_offset: slot * CHUNKLET };
        LogicalDiskLayout {
            id: LogicalDiskId(1),
            pool: PoolId(1),
            raid: RaidLevel::Raid0,
            step_bytes: STEP as u32,
            chunklet_bytes: CHUNKLET,
            rows: rows.into_iter().map(|row| row.into_iter().map(chunklet).collect()).collect(),
        }
    }

    /// Every 16 KiB of the logical disk dealt out by hand.
    fn naive(layout: &LogicalDiskLayout) -> Vec<(DiskId, u64)> {
        let mut units = Vec::new();
        for row in &layout.rows {
            for step in 0..CHUNKLET / STEP {
                for chunklet in row {
                    for unit in 0..STEP / (16 << 10) {
                        units.push((chunklet.disk, chunklet.byte_offset + step * STEP + unit * (16 << 10)));
                    }
                }
            }
        }
        units
    }

    proptest! {
        #[test]
        fn pieces_agree_with_dealing_out_by_hand(
            width in 1_usize..4, rows in 1_u64..4, scattered in any::<bool>(), start in 0_u64..12 << 20, length in 1_u64..4 << 20,
        ) {
            let row = |row: u64| (0..width as u32).map(|disk| (disk, if scattered { 3 * row + 1 } else { row + 1 })).collect();
            let layout = layout((0..rows).map(row).collect());
            let total = layout.data_bytes();
            let start = start % total;
            let end = (start + length).min(total);
            let units = naive(&layout);
            let mut at = start;
            let mut last: Option<Piece> = None;
            for piece in resolve(&layout, start, end - start) {
                prop_assert!(piece.length > 0);
                for offset in (0..piece.length).step_by(4096).chain([piece.length - 1]) {
                    let (disk, byte_offset) = units[((at + offset) / (16 << 10)) as usize];
                    prop_assert_eq!((piece.disk, piece.byte_offset + offset), (disk, byte_offset + (at + offset) % (16 << 10)));
                }
                if let Some(last) = last {
                    prop_assert!(last.disk != piece.disk || last.byte_offset + last.length != piece.byte_offset, "merged");
                }
                at += piece.length;
                last = Some(piece);
            }
            prop_assert_eq!(at, end);
        }
    }

    #[test]
    fn neighbouring_chunklets_of_a_linear_disk_are_one_piece() {
        let layout = layout(vec![vec![(1, 1)], vec![(1, 2)], vec![(1, 9)]]);
        let pieces: Vec<_> = resolve(&layout, 4096, 3 * CHUNKLET - 4096).collect();
        assert_eq!(
            pieces,
            [
                Piece { disk: DiskId(1), byte_offset: CHUNKLET + 4096, length: 2 * CHUNKLET - 4096 },
                Piece { disk: DiskId(1), byte_offset: 9 * CHUNKLET, length: CHUNKLET },
            ]
        );
        assert_eq!(resolve(&layout, 5, 0).next(), None);
    }
}
