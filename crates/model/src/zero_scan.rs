//! Tells data that equals the default block (zeroes), at memory speed.

use crate::{BLOCK_BYTES, BlockRange};

/// Whether every byte is zero. Data that is not is mostly told by its first bytes.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (head, tail) = bytes.split_at(bytes.len().min(64));
    if head.iter().fold(0, |any, byte| any | byte) != 0 {
        return false;
    }
    // Larger strides than a word let the compiler use the widest registers there are.
    let chunks = tail.chunks_exact(256);
    let rest = chunks.remainder();
    chunks.into_iter().all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
        && rest.iter().fold(0, |any, byte| any | byte) == 0
}

/// The runs of blocks that hold data, of whole blocks `data`; `base` is the number of the first one.
pub fn data_runs(data: &[u8], base: u32, mut visit: impl FnMut(BlockRange)) {
    let mut open: Option<u32> = None;
    let mut block = base;
    for bytes in data.chunks_exact(BLOCK_BYTES as usize) {
        match (is_zero(bytes), open) {
            (false, None) => open = Some(block),
            (true, Some(start)) => {
                visit(BlockRange::new(start, block));
                open = None;
            }
            _ => {}
        }
        block += 1;
    }
    if let Some(start) = open {
        visit(BlockRange::new(start, block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_byte_anywhere_makes_a_block_data() {
        let mut block = vec![0_u8; 4096];
        assert!(is_zero(&block));
        for at in [0, 1, 63, 64, 65, 319, 320, 2048, 4032, 4095] {
            block[at] = 1;
            assert!(!is_zero(&block), "byte {at}");
            block[at] = 0;
        }
        for length in [0, 1, 63, 64, 65, 255, 321, 511] {
            assert!(is_zero(&vec![0; length]));
            assert!(length == 0 || !is_zero(&[vec![0; length - 1], vec![9]].concat()), "length {length}");
        }
    }

    #[test]
    fn runs_of_data_blocks_are_found_between_zero_blocks() {
        let mut data = vec![0_u8; 6 * 4096];
        data[4096] = 1;
        data[3 * 4096 - 1] = 1;
        data[5 * 4096 + 7] = 1;
        let mut runs = Vec::new();
        data_runs(&data, 10, |run| runs.push((run.start, run.end)));
        assert_eq!(runs, [(11, 13), (15, 16)]);
    }
}
