//! Reading big-endian fields, one place for both ends.

/// The big-endian number of `BYTES` bytes at `at`, if there is one.
pub(crate) fn number<const BYTES: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(BYTES)?)?;
    Some(field.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
