//! Every decoder of the store as a plain function of bytes. None may panic; what decodes must encode to the same
//! meaning again. The fuzz targets and the tests call these.

use crate::keys::Key;
use crate::records::{
    BranchRecord, Counters, DiskRecord, GrantRecord, JobRecord, MetaRecord, PoolRecord, Record, SessionRecord,
    VolumeProgress, VolumeRecord,
};
use crate::{codec, table};
use model::{LogicalDiskLayout, VolumeId};
use std::fmt::Debug;

/// Keys.
pub fn key(bytes: &[u8]) {
    if let Some(key) = Key::decode(bytes) {
        assert_eq!(key.encode(), bytes, "a key has one encoding");
    }
}

fn one<R: Record + PartialEq + Debug>(bytes: &[u8]) {
    // Fuzzers do not guess checksums: what follows the first byte is sealed for them.
    for candidate in [bytes.to_vec(), codec::seal(bytes)] {
        if let Ok(record) = R::decode(&candidate) {
            assert_eq!(R::decode(&record.encode()), Ok(record), "a record comes back");
        }
    }
}

/// Records of every kind.
pub fn record(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind % 12 {
        0 => one::<MetaRecord>(rest),
        1 => one::<Counters>(rest),
        2 => one::<PoolRecord>(rest),
        3 => one::<DiskRecord>(rest),
        4 => one::<LogicalDiskLayout>(rest),
        5 => one::<VolumeRecord>(rest),
        6 => one::<BranchRecord>(rest),
        7 => one::<VolumeProgress>(rest),
        8 => one::<SessionRecord>(rest),
        9 => one::<GrantRecord>(rest),
        10 => one::<JobRecord>(rest),
        _ => one::<VolumeId>(rest),
    }
}

/// Table pages and deltas.
pub fn table_page(bytes: &[u8]) {
    for candidate in [bytes.to_vec(), codec::seal(bytes)] {
        if let Ok((size, runs)) = table::decode(&candidate) {
            assert!(table::runs_are_sane(size, &runs), "what decodes is sane");
            assert_eq!(table::decode(&table::encode(size, &runs)), Ok((size, runs)), "a page comes back");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            super::key(&bytes);
            super::record(&bytes);
            super::table_page(&bytes);
        }
    }
}
