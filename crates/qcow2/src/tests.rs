//! Images made by hand: what qemu-img makes is compared end to end.

use crate::fuzzing::{Memory, image};
use crate::*;
use proptest::prelude::*;

const CLUSTER: usize = 512;

/// A version 3 image of `size` bytes in clusters of 512: header, L1 at cluster 1, one L2 at cluster 2, data behind.
fn plain(size: u64, entries: &[u64], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 3 * CLUSTER];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[7] = 3;
    bytes[23] = 9;
    bytes[24..32].copy_from_slice(&size.to_be_bytes());
    bytes[39] = 4;
    bytes[40..48].copy_from_slice(&(CLUSTER as u64).to_be_bytes());
    bytes[103] = 112;
    bytes[CLUSTER..CLUSTER + 8].copy_from_slice(&((2 * CLUSTER as u64) | (1 << 63)).to_be_bytes());
    for (index, entry) in entries.iter().enumerate() {
        bytes[2 * CLUSTER + index * 8..][..8].copy_from_slice(&entry.to_be_bytes());
    }
    bytes.extend_from_slice(data);
    bytes
}

fn host(cluster: u64) -> u64 {
    (cluster * CLUSTER as u64) | (1 << 63)
}

fn refused(bytes: Vec<u8>) -> String {
    Reader::open(Memory(bytes)).expect_err("it is refused").to_string()
}

#[test]
fn clusters_that_follow_one_another_are_one_extent_and_the_rest_is_zeroes() {
    let data = [[1; 512], [2; 512], [3; 512]].concat();
    let bytes = plain(100_000, &[0, host(3), host(4), host(3) | 1, host(5)], &data);
    let mut reader = Reader::open(Memory(bytes)).unwrap();
    let zero = |offset, length| Extent { offset, length, content: Content::Zero };
    assert_eq!(reader.extent_at(0).unwrap(), Some(zero(0, 512)));
    let found = reader.extent_at(512).unwrap().unwrap();
    assert_eq!(found, Extent { offset: 512, length: 1024, content: Content::Raw { host_offset: 1536 } });
    let mut middle = [0; 4];
    reader.read(&found, 510, &mut middle).unwrap();
    assert_eq!(middle, [1, 1, 2, 2]);
    assert_eq!(reader.extent_at(1536).unwrap(), Some(zero(1536, 512)), "marked as zeroes");
    assert_eq!(reader.extent_at(2048).unwrap().unwrap().length, 512);
    assert_eq!(reader.extent_at(2560).unwrap(), Some(zero(2560, 100_000 - 2560)), "over tables that are not there");
    assert_eq!(reader.extent_at(100_000).unwrap(), None);
}

#[test]
fn a_compressed_cluster_is_decompressed() {
    let plaintext: Vec<u8> = (0..512_u32).map(|index| (index / 7) as u8).collect();
    let packed = miniz_oxide::deflate::compress_to_vec(&plaintext, 6);
    let place = 3 * CLUSTER as u64 + 5;
    let bytes = plain(1024, &[(1 << 62) | place], &[&[9; 5][..], &packed].concat());
    let mut reader = Reader::open(Memory(bytes.clone())).unwrap();
    let extent = reader.extent_at(0).unwrap().unwrap();
    assert_eq!(extent.length, 512);
    let mut piece = [0; 100];
    reader.read(&extent, 200, &mut piece).unwrap();
    assert_eq!(piece, plaintext[200..300]);
    let mut damaged = Reader::open(Memory(bytes[..bytes.len() - 20].to_vec())).unwrap();
    assert!(matches!(damaged.read(&extent, 0, &mut piece), Err(Qcow2Error::Damaged { .. })));
}

#[test]
fn what_is_not_supported_is_refused_and_says_how_to_go_on() {
    let change = |at: usize, value: u8| {
        let mut bytes = plain(1024, &[], &[]);
        bytes[at] = value;
        refused(bytes)
    };
    assert!(change(7, 4).contains("version 4"));
    assert!(change(35, 2).contains("encrypted"));
    assert!(change(79, 4).contains("another file"));
    assert!(change(79, 2).contains("corrupt"));
    assert!(change(78, 1).contains("not known here"));
    assert!(change(79, 4).contains("qemu-img convert"));
    let mut backed = plain(1024, &[], &[]);
    backed[15] = 200;
    backed[19] = 8;
    backed[200..208].copy_from_slice(b"base.img");
    assert!(refused(backed).contains("base.img"));
    let mut zstd = plain(1024, &[(1 << 62) | 1536], &[0; 512]);
    (zstd[79], zstd[104]) = (8, 1);
    let error = Reader::open(Memory(zstd)).unwrap().extent_at(0).unwrap_err();
    assert!(error.to_string().contains("zstd") && error.to_string().contains("qemu-img convert"));
}

#[test]
fn an_image_that_is_cut_off_or_contradicts_itself_is_damaged() {
    let whole = plain(1024, &[host(3), host(4)], &[7; 1024]);
    let mut cut = Reader::open(Memory(whole[..4 * CLUSTER + 100].to_vec())).unwrap();
    let extent = cut.extent_at(0).unwrap().unwrap();
    assert!(cut.read(&extent, 0, &mut [0; 512]).is_ok());
    assert!(cut.read(&extent, 512, &mut [0; 512]).unwrap_err().to_string().contains("cut off"));
    for (at, value) in [(23, 8), (23, 22), (24, 0x70), (47, 1), (36, 0xff), (39, 0)] {
        let mut wrong = whole.clone();
        wrong[at] = value;
        assert!(refused(wrong).contains("damaged"), "byte {at}");
    }
    let mut astray = Reader::open(Memory(plain(1024, &[host(900)], &[]))).unwrap();
    let extent = astray.extent_at(0).unwrap().unwrap();
    assert!(astray.read(&extent, 0, &mut [0; 512]).is_err());
}

proptest! {
    #[test]
    fn no_image_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        image(&bytes);
    }

    #[test]
    fn no_table_makes_the_reader_panic(
        shape in any::<[u8; 2]>(),
        entries in prop::collection::vec((0_u64..12, 0_u8..8), 64..200),
    ) {
        let entry = |(cluster, flags): &(u64, u8)| {
            ((u64::from(*flags) << 61) | (cluster << (9 + ((shape[0] >> 2) & 3))) | u64::from(flags & 1)).to_be_bytes()
        };
        let tables: Vec<u8> = entries.iter().flat_map(entry).collect();
        image(&[&shape[..], &tables.repeat(3)].concat());
    }
}
