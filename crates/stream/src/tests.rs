//! Streams that come back, and streams that must not.

use crate::fuzzing::{again, stream};
use crate::*;
use model::RegionSize;
use proptest::prelude::*;

fn header(kind: Kind, size_bytes: u64) -> Header {
    Header {
        kind,
        volume: "demo".into(),
        snapshot: "tuesday".into(),
        identity: Identity { cluster: 7 << 100, snapshot: 12 },
        created_unix_seconds: 1_800_000_000,
        size_bytes,
        region_size: RegionSize::DEFAULT,
    }
}

fn base() -> Base {
    Base {
        identity: Identity { cluster: 7 << 100, snapshot: 11 },
        name: "monday".into(),
        created_unix_seconds: 1_799_000_000,
        size_bytes: 1 << 20,
    }
}

/// A small stream with every kind of record.
fn sample() -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::begin(&header(Kind::Incremental(base()), (1 << 20) + 512), &mut out).unwrap();
    encoder.data(8192, &[5; 4096], &mut out).unwrap();
    encoder.zero(16384, 65536, &mut out).unwrap();
    encoder.checkpoint(1 << 19, &mut out).unwrap();
    encoder.data(1 << 20, &[6; 512], &mut out).unwrap();
    let totals = encoder.end(&mut out);
    let expected = Totals { data_bytes: 4608, zero_bytes: 65536, records: 4, stream_bytes: out.len() as u64 };
    assert_eq!(totals, expected);
    out
}

#[test]
fn a_stream_comes_back_byte_for_byte() {
    let bytes = sample();
    assert_eq!(again(&bytes), Ok(bytes));
}

#[test]
fn a_stream_cut_anywhere_is_refused() {
    let bytes = sample();
    for length in 0..bytes.len() {
        let refused = again(&bytes[..length]);
        assert!(matches!(refused, Err(StreamError::Truncated { at }) if at <= length as u64), "{length}: {refused:?}");
    }
    assert!(matches!(again(&[&bytes[..], &[0]].concat()), Err(StreamError::Trailing { .. })));
}

#[test]
fn a_stream_with_any_bit_flipped_is_refused() {
    let bytes = sample();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(again(&flipped).is_err(), "bit {bit}");
    }
}

/// Where each record of `bytes` begins, and where the last ends.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let (mut decoder, mut at) = (Decoder::new(), 0);
    let mut found = Vec::new();
    while decoder.wants() > 0 {
        let piece = &bytes[at..at + decoder.wants()];
        at += piece.len();
        if decoder.take(piece).unwrap().is_some() {
            found.push(at);
        }
    }
    found
}

#[test]
fn records_that_are_missing_doubled_or_exchanged_are_noticed() {
    let bytes = sample();
    let at = boundaries(&bytes);
    let records: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
    let head = &bytes[..at[0]];
    for index in 0..records.len() - 1 {
        let mut missing = records.clone();
        missing.remove(index);
        let mut doubled = records.clone();
        doubled.insert(index, records[index]);
        let mut exchanged = records.clone();
        exchanged.swap(index, index + 1);
        for wrong in [missing, doubled, exchanged] {
            let wrong = [head, &wrong.concat()].concat();
            assert!(again(&wrong).is_err(), "record {index}");
        }
    }
}

#[test]
fn a_newer_version_is_told_from_damage_and_from_other_files() {
    let mut newer = sample();
    newer[8] = 2;
    let refused = again(&newer).unwrap_err();
    assert_eq!(refused, StreamError::NewerVersion { found: 2 });
    assert!(refused.to_string().contains("version 2") && refused.to_string().contains("newer acre"));
    assert_eq!(again(&[0; 4096]), Err(StreamError::NotAStream));
}

#[test]
fn what_does_not_fit_is_not_encoded_and_the_stream_goes_on() {
    let mut out = Vec::new();
    let mut encoder = Encoder::begin(&header(Kind::Full, 1 << 20), &mut out).unwrap();
    encoder.data(4096, &[1; 4096], &mut out).unwrap();
    let before = out.len();
    let wrong =
        [(0, 4096), (4096, 4096), (8192, 0), (8192, 100), (8193, 4096), (1 << 20, 4096), (u64::MAX - 4095, 8192)];
    for (offset, length) in wrong {
        let refused = encoder.data(offset, &vec![1; length], &mut out);
        assert!(matches!(refused, Err(StreamError::Unfit { offset: at, .. }) if at == offset), "{offset} {length}");
        assert!(encoder.zero(offset, length as u64, &mut out).is_err(), "{offset} {length}");
    }
    assert!(encoder.data(8192, &vec![1; DATA_BYTES_MAX + 4096], &mut out).is_err());
    assert!(encoder.checkpoint(4096, &mut out).is_err() && encoder.checkpoint((1 << 20) + 1, &mut out).is_err());
    assert_eq!(out.len(), before);
    encoder.end(&mut out);
    assert_eq!(again(&out), Ok(out));
}

#[test]
fn a_header_with_names_or_sizes_that_are_none_is_not_begun() {
    let refuse = |change: &dyn Fn(&mut Header)| {
        let mut wrong = header(Kind::Incremental(base()), 1 << 20);
        change(&mut wrong);
        assert!(Encoder::begin(&wrong, &mut Vec::new()).is_err(), "{wrong:?}");
    };
    refuse(&|header| header.volume = String::new());
    refuse(&|header| header.snapshot = "s".repeat(256));
    refuse(&|header| header.size_bytes = 511);
    refuse(&|header| header.kind = Kind::Incremental(Base { name: String::new(), ..base() }));
    refuse(&|header| header.kind = Kind::Incremental(Base { size_bytes: u64::MAX, ..base() }));
}

#[test]
fn a_cut_stream_is_continued_behind_its_last_whole_record() {
    let whole = sample();
    for length in 200..whole.len() {
        let (mut decoder, mut at) = (Decoder::new(), 0);
        while decoder.wants() > 0 && at + decoder.wants() <= length {
            let wanted = decoder.wants();
            decoder.take(&whole[at..at + wanted]).unwrap();
            at += wanted;
        }
        let kept = decoder.whole_bytes() as usize;
        assert!(kept <= length);
        let mut out = whole[..kept].to_vec();
        let Some(mut encoder) = decoder.into_encoder() else { panic!("cut at {length}") };
        if encoder.position() <= 8192 {
            encoder.data(8192, &[5; 4096], &mut out).unwrap();
        }
        if encoder.position() <= 16384 {
            encoder.zero(16384, 65536, &mut out).unwrap();
        }
        if encoder.position() < 1 << 19 {
            encoder.checkpoint(1 << 19, &mut out).unwrap();
        }
        if encoder.position() <= 1 << 20 {
            encoder.data(1 << 20, &[6; 512], &mut out).unwrap();
        }
        encoder.end(&mut out);
        assert_eq!(out, whole, "cut at {length}");
    }
}

#[test]
fn a_decoder_never_wants_more_than_it_promises() {
    let mut claims = sample();
    let at = boundaries(&claims)[0];
    claims[at + 4..at + 8].copy_from_slice(&u32::MAX.to_le_bytes());
    let refused = again(&claims).unwrap_err();
    assert_eq!(
        refused,
        StreamError::Damaged { at: at as u64, what: "a record whose length does not belong to its kind" }
    );
    let mut decoder = Decoder::new();
    let mut claims = sample();
    claims[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(decoder.take(&claims[..16]).is_err());
    assert_eq!(decoder.wants(), 0, "nothing is wanted after an error");
}

proptest! {
    #[test]
    fn streams_by_any_recipe_come_back_and_show_any_flipped_bit(recipe in prop::collection::vec(any::<u8>(), 2..60)) {
        stream(&recipe);
    }
}
