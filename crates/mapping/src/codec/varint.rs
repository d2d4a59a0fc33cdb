//! Varints: LEB128, in the one shortest form.

/// Appends `value`.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the zigzag form of `value`.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// How many bytes `value` takes.
pub(super) fn length(value: u64) -> usize {
    (64 - value.leading_zeros()).div_ceil(7).max(1) as usize
}

/// Why no varint could be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum VarintError {
    /// The bytes end within it.
    Truncated,
    /// It has more bits than any value here, or more bytes than it needs.
    Malformed,
}

/// Takes a value of at most 42 bits off the front of `bytes`: more than any field holds, and far from overflow.
pub(super) fn take(bytes: &mut &[u8]) -> Result<u64, VarintError> {
    let mut value = 0;
    for index in 0..6_u32 {
        let (&byte, rest) = bytes.split_first().ok_or(VarintError::Truncated)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let is_shortest = byte != 0 || index == 0;
            return if is_shortest { Ok(value) } else { Err(VarintError::Malformed) };
        }
    }
    Err(VarintError::Malformed)
}

/// Takes a zigzag value off the front of `bytes`.
pub(super) fn take_signed(bytes: &mut &[u8]) -> Result<i64, VarintError> {
    let value = take(bytes)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_varint_reads_back_and_takes_as_many_bytes_as_said(value in 0_u64..1 << 42, signed in -(1_i64 << 40)..1 << 40) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            prop_assert_eq!(bytes.len(), length(value));
            put_signed(&mut bytes, signed);
            let mut rest = bytes.as_slice();
            prop_assert_eq!((take(&mut rest), take_signed(&mut rest), rest.len()), (Ok(value), Ok(signed), 0));
        }
    }

    #[test]
    fn a_varint_longer_than_needed_or_without_end_is_refused() {
        assert_eq!(take(&mut [0x80, 0x00].as_slice()), Err(VarintError::Malformed));
        assert_eq!(take(&mut [0xff; 6].as_slice()), Err(VarintError::Malformed));
        assert_eq!(take(&mut [0xff; 5].as_slice()), Err(VarintError::Truncated));
        assert_eq!(take(&mut [0x00].as_slice()), Ok(0));
    }
}
