//! Physical disks, chunklets, logical disks and the allocator.
//!
//! What is here computes and remembers; it reads and writes nothing. [`geometry`] says where a byte of a logical disk
//! lies, [`label`] whose a physical disk is, [`chunklets`] what of it is in use, [`plan`] how a pool grows, and
//! [`allocator`] which units of a pool are free.
#![forbid(unsafe_code)]

pub mod geometry;

pub use geometry::{Piece, Pieces, resolve};
