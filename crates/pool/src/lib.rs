//! Physical disks, chunklets, logical disks and the allocator.
//!
//! What is here computes and remembers; it reads and writes nothing. [`geometry`] says where a byte of a logical disk
//! lies, [`label`] whose a physical disk is, [`chunklets`] what of it is in use, [`plan`] how a pool grows, and
//! [`allocator`] which units of a pool are free.
#![forbid(unsafe_code)]

pub mod allocator;
pub mod chunklets;
pub mod fuzzing;
pub mod geometry;
pub mod label;
pub mod page;
pub mod plan;

pub use allocator::{Allocator, AllocatorError, DirtyPage, Wish};
pub use chunklets::{ChunkletError, ChunkletMap};
pub use geometry::{Piece, Pieces, resolve};
pub use label::{DiskLabel, Judgement, LABEL_BYTES, judge, label_offsets};
pub use page::{Page, PageError, UNITS_PER_PAGE};
pub use plan::{GROWTH_BYTES_MAX, default_growth_bytes, plan};
