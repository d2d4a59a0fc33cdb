//! What sectors hold: every sector a host writes says whose it is, which write it belongs to and where.
//!
//! A stamped sector is one 16-byte stamp, 32 times over: a torn or mixed sector is none. What no host wrote yet is the
//! canary: a disk is full of it from the start, so that a byte nobody wrote under the current owner gives itself away.

use model::VolumeId;

/// One sector, in bytes.
pub const SECTOR: usize = 512;

const STAMP_MAGIC: u16 = 0xac5e;
/// The byte that disks are full of before anyone writes.
pub const CANARY: u8 = 0xe7;

/// What a sector says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Zeroes.
    Zero,
    /// Written by a host.
    Stamp {
        /// The volume it was written to.
        volume: VolumeId,
        /// The write, counted over all volumes from 1 on.
        write: u32,
        /// The sector of the volume it was written to, modulo 2^48.
        sector: u64,
    },
    /// Never written by any host.
    Canary,
    /// Nothing that one writer left.
    Torn,
}

/// Fills `bytes` (whole sectors) with the stamps of a write.
pub fn fill(bytes: &mut [u8], volume: VolumeId, write: u32, first_sector: u64) {
    for (index, sector) in bytes.chunks_exact_mut(SECTOR).enumerate() {
        let mut stamp = [0_u8; 16];
        stamp[0..2].copy_from_slice(&STAMP_MAGIC.to_le_bytes());
        stamp[2..10].copy_from_slice(&(first_sector + index as u64).to_le_bytes());
        stamp[8..12].copy_from_slice(&volume.0.to_le_bytes());
        stamp[12..16].copy_from_slice(&write.to_le_bytes());
        sector[..16].copy_from_slice(&stamp);
        for filled in [16, 32, 64, 128, 256] {
            sector.copy_within(0..filled, filled);
        }
    }
}

/// What one sector says.
#[must_use]
pub fn read(sector: &[u8]) -> Content {
    if sector[16..SECTOR] != sector[..SECTOR - 16] {
        return Content::Torn;
    }
    let stamp = &sector[..16];
    if stamp == [0; 16] {
        return Content::Zero;
    }
    if stamp == [CANARY; 16] {
        return Content::Canary;
    }
    if stamp[0..2] != STAMP_MAGIC.to_le_bytes() {
        return Content::Torn;
    }
    let number = |range: std::ops::Range<usize>| {
        let mut bytes = [0; 8];
        bytes[..range.len()].copy_from_slice(&stamp[range]);
        u64::from_le_bytes(bytes)
    };
    Content::Stamp { volume: VolumeId(number(8..12) as u32), write: number(12..16) as u32, sector: number(2..8) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_a_mixture_is_torn() {
        let mut bytes = [0; 2 * SECTOR];
        assert_eq!(read(&bytes[..SECTOR]), Content::Zero);
        fill(&mut bytes, VolumeId(3), 77, (5 << 30) + 1);
        let second = Content::Stamp { volume: VolumeId(3), write: 77, sector: (5 << 30) + 2 };
        assert_eq!(read(&bytes[SECTOR..]), second);
        bytes[700] ^= 1;
        assert_eq!(read(&bytes[SECTOR..]), Content::Torn);
        assert_eq!(read(&[CANARY; SECTOR]), Content::Canary);
    }
}
