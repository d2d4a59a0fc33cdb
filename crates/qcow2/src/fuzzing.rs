//! The reader as a plain function of bytes, for fuzz targets and tests. It may not panic, and its extents must follow one
//! another without end or overlap.

use crate::{ReadAt, Reader};
use std::io;

/// An image in memory.
#[derive(Clone, Debug)]
pub struct Memory(pub Vec<u8>);

impl ReadAt for Memory {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let length = buffer.len().min(self.0.len() - start);
        buffer[..length].copy_from_slice(&self.0[start..start + length]);
        Ok(length)
    }
}

/// No more extents are looked at, whatever the image claims.
const EXTENTS_MAX: usize = 1024;

/// Images: `bytes` as they are, and `bytes` as tables behind a sound header.
pub fn image(bytes: &[u8]) {
    walk(bytes.to_vec());
    let Some((&[shape, size], rest)) = bytes.split_first_chunk::<2>() else { return };
    walk(dress(shape, size, rest));
}

/// A header that says so: an L1 table, and everything else, in 512-byte clusters or, with subclusters, in those of 16 KiB.
fn dress(shape: u8, size: u8, rest: &[u8]) -> Vec<u8> {
    let (extended, version) = (shape & 1 == 1, if shape & 3 == 0 { 2_u32 } else { 3 });
    let cluster_bits = if extended { 14_u32 } else { 9 + u32::from(shape >> 2 & 3) };
    let cluster_bytes = 1_usize << cluster_bits;
    let mut image = vec![0; cluster_bytes];
    image[..4].copy_from_slice(&crate::MAGIC);
    image[4..8].copy_from_slice(&version.to_be_bytes());
    image[20..24].copy_from_slice(&cluster_bits.to_be_bytes());
    image[24..32].copy_from_slice(&(u64::from(size) << 10).to_be_bytes());
    image[36..40].copy_from_slice(&16_u32.to_be_bytes());
    image[40..48].copy_from_slice(&(cluster_bytes as u64).to_be_bytes());
    image[79] = if extended { 16 } else { 0 };
    image[103] = 112;
    image.extend_from_slice(rest);
    image.resize(image.len().max(cluster_bytes + 128), 0);
    image
}

fn walk(bytes: Vec<u8>) {
    let Ok(mut reader) = Reader::open(Memory(bytes)) else { return };
    let (mut at, mut piece) = (0, [0; 4096]);
    for _ in 0..EXTENTS_MAX {
        let Ok(Some(extent)) = reader.extent_at(at) else { return };
        assert!(extent.offset == at && extent.length > 0, "extents follow one another");
        at += extent.length;
        assert!(at <= reader.size_bytes(), "an extent lies inside the virtual disk");
        let length = extent.length.min(4096) as usize;
        // Whatever is wrong with it is an error, and the next extent is looked at all the same.
        let _ = reader.read(&extent, 0, &mut piece[..length]);
        let _ = reader.read(&extent, extent.length - length as u64, &mut piece[..length]);
    }
}
