//! The decoder as a plain function of bytes, for fuzz targets and tests. It may not panic; what it reads must encode to the
//! same bytes again.

use crate::{Decoder, Encoder, Item, StreamError};

/// Reads a stream to its end or to its first error. Gives every byte that an encoder makes of the same items.
pub(crate) fn again(bytes: &[u8]) -> Result<Vec<u8>, StreamError> {
    let (mut decoder, mut rest) = (Decoder::new(), bytes);
    let (mut encoder, mut out) = (None::<Encoder>, Vec::new());
    while decoder.wants() > 0 {
        let Some((piece, behind)) = rest.split_at_checked(decoder.wants()) else { return Err(decoder.truncated()) };
        rest = behind;
        let Some(item) = decoder.take(piece)? else { continue };
        match (item, &mut encoder) {
            (Item::Header(header), none) => *none = Some(Encoder::begin(&header, &mut out)?),
            (Item::Data { offset, bytes }, Some(encoder)) => encoder.data(offset, bytes, &mut out)?,
            (Item::Zero { offset, length }, Some(encoder)) => encoder.zero(offset, length, &mut out)?,
            (Item::Checkpoint { position }, Some(encoder)) => encoder.checkpoint(position, &mut out)?,
            (Item::End(totals), _) => {
                let made = encoder.take().map(|encoder| encoder.end(&mut out));
                assert_eq!(made, Some(totals), "totals come back");
            }
            (_, None) => unreachable!("the header is the first item"),
        }
        assert_eq!(decoder.whole_bytes(), out.len() as u64, "what was read is what is written");
    }
    if rest.is_empty() { Ok(out) } else { Err(StreamError::Trailing { at: decoder.whole_bytes() }) }
}

/// Streams. Fuzzers do not guess checksums: `bytes` are also taken for a recipe of records, whose stream is then spoilt.
pub fn stream(bytes: &[u8]) {
    if let Ok(out) = again(bytes) {
        assert_eq!(out, bytes, "a stream has one encoding");
    }
    let Some((recipe, [place, bit])) = bytes.split_last_chunk::<2>() else { return };
    let mut made = cook(recipe);
    assert_eq!(again(&made).as_deref(), Ok(&made[..]), "a stream comes back");
    let place = usize::from(*place) * made.len() / 256;
    made[place] ^= 1 << (bit & 7);
    assert!(again(&made).is_err(), "a flipped bit is seen");
}

/// A stream by recipe: three bytes a record.
fn cook(recipe: &[u8]) -> Vec<u8> {
    let header = crate::Header {
        kind: crate::Kind::Full,
        volume: "fuzz".into(),
        snapshot: "snapshot".into(),
        identity: crate::Identity { cluster: 1, snapshot: 2 },
        created_unix_seconds: 3,
        size_bytes: (1 << 30) + 512,
        region_size: model::RegionSize::DEFAULT,
    };
    let mut out = Vec::new();
    let mut encoder = Encoder::begin(&header, &mut out).expect("the header is sound");
    for record in recipe.as_chunks::<3>().0.iter().take(64) {
        let [kind, gap, length] = *record;
        let offset = (encoder.position() + u64::from(gap) * crate::BLOCK_BYTES).next_multiple_of(crate::BLOCK_BYTES);
        // What does not fit is refused and leaves the stream as it was.
        let _ = match kind % 3 {
            0 => encoder.data(offset, &vec![kind; usize::from(length % 8) * 4096], &mut out),
            1 => encoder.zero(offset, u64::from(length) << 12, &mut out),
            _ => encoder.checkpoint(offset, &mut out),
        };
    }
    encoder.end(&mut out);
    out
}
