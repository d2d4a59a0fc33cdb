//! Stamped sectors: every sector written says which tenant wrote it, where, and in what order. A byte of anyone else, a
//! sector in the wrong place, or half of one write and half of another cannot pass for what was written.

/// Bytes of a sector, the unit a host may address.
pub const SECTOR_BYTES: usize = 512;

/// Words of a sector.
const WORDS: usize = SECTOR_BYTES / 8;

/// What a sector was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Zeroes: never written, trimmed, or written with zeroes.
    Zero,
    /// One whole stamp.
    Stamp {
        /// Who wrote it.
        tenant: u64,
        /// The sector it was written to.
        sector: u64,
        /// Its place in the order of writes.
        sequence: u64,
    },
    /// No whole stamp: torn, mixed or foreign bytes.
    Garbage,
}

/// Fills one sector with the stamp of a tenant, a place and a sequence number.
///
/// # Panics
/// When `bytes` is not one sector long.
pub fn write(bytes: &mut [u8], tenant: u64, sector: u64, sequence: u64) {
    assert_eq!(bytes.len(), SECTOR_BYTES, "a stamp fills one sector");
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&word_of(index, tenant, sector, sequence).to_le_bytes());
    }
}

/// Reads the stamp of one sector; every byte of it must belong to it.
pub fn read(bytes: &[u8]) -> Found {
    if bytes.iter().all(|byte| *byte == 0) {
        return Found::Zero;
    }
    let mut words = [0_u64; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    }
    let (tenant, sector, sequence) = (words[0], words[1], words[2]);
    let whole = bytes.len() == SECTOR_BYTES
        && words.iter().enumerate().all(|(index, word)| *word == word_of(index, tenant, sector, sequence));
    if whole { Found::Stamp { tenant, sector, sequence } } else { Found::Garbage }
}

fn word_of(index: usize, tenant: u64, sector: u64, sequence: u64) -> u64 {
    match index {
        0 => tenant,
        1 => sector,
        2 => sequence,
        // The rest differs from word to word, so that a shifted or half-written sector shows.
        _ => (tenant ^ sector.rotate_left(17) ^ sequence.rotate_left(34)).wrapping_mul(2 * index as u64 + 1) | 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_a_torn_one_is_garbage() {
        let mut sector = [0; SECTOR_BYTES];
        assert_eq!(read(&sector), Found::Zero);
        write(&mut sector, 7, 99, 3);
        assert_eq!(read(&sector), Found::Stamp { tenant: 7, sector: 99, sequence: 3 });
        let mut other = [0; SECTOR_BYTES];
        write(&mut other, 7, 99, 4);
        sector[256..].copy_from_slice(&other[256..]);
        assert_eq!(read(&sector), Found::Garbage);
    }
}
