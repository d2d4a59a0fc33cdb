//! What fuzz targets call: any bytes are refused, or mean the same thing after a round trip.

use crate::codec::{apply_delta, decode_delta, decode_page, encode_delta, encode_page};
use model::RegionSize;

/// Takes `data` for a page (its first byte chooses a region size).
///
/// # Panics
/// When a page that decodes does not survive encoding, which is what the fuzzer looks for.
pub fn page(data: &[u8]) {
    let Some((size, bytes)) = split(data) else { return };
    if let Ok(runs) = decode_page(bytes, size) {
        let encoded = encode_page(&runs, size);
        assert_eq!(encoded, bytes, "a page has one encoding");
        assert_eq!(decode_page(&encoded, size).as_ref(), Ok(&runs), "a page reads back as it was written");
        assert_eq!(encode_page(&apply_delta(&[], &runs, size), size), bytes, "a table holds what the page says");
    }
}

/// Takes `data` for a delta (its first byte chooses a region size).
///
/// # Panics
/// As [`page`].
pub fn delta(data: &[u8]) {
    let Some((size, bytes)) = split(data) else { return };
    if let Ok(runs) = decode_delta(bytes, size) {
        let encoded = encode_delta(&runs, size);
        assert_eq!(encoded, bytes, "a delta has one encoding");
        assert_eq!(decode_delta(&encoded, size).as_ref(), Ok(&runs), "a delta reads back as it was written");
        let once = apply_delta(&[], &runs, size);
        assert_eq!(apply_delta(&once, &runs, size), once, "applying a delta twice is applying it once");
    }
}

fn split(data: &[u8]) -> Option<(RegionSize, &[u8])> {
    let (choice, bytes) = data.split_first()?;
    let log2 = RegionSize::MIN.log2() + u32::from(*choice) % (RegionSize::MAX.log2() - RegionSize::MIN.log2() + 1);
    Some((RegionSize::from_bytes(1 << log2)?, bytes))
}
