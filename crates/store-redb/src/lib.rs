//! The metadata store on redb: one file, no server.
//!
//! [`RedbStore`] turns each call of `commit` into one redb transaction, durable when it returns. What keys and values
//! mean is not known here. Three decisions of its own:
//!
//! - **Recovery.** A plain redb commit syncs once, and after a crash the whole file is read to find out what is free; a
//!   commit for quick repair syncs twice and needs no such walk. Small files take the first, large ones the second, so
//!   that start-up stays well under a second at any size ([`WALKED_BYTES_MAX`]).
//! - **Failure.** When a write fails before anything was synced, nothing has happened: the file is opened again and the
//!   store goes on. When the header or a sync fails, nobody can know what the device holds: the store refuses
//!   everything from then on, and starting again finds out.
//! - **Reads** see the last commit through a view that is kept between commits.
#![forbid(unsafe_code)]

mod disk;
mod failure;
mod file;
mod store;
mod view;

pub use disk::MetadataDisk;
pub use file::MetadataFile;
pub use store::{CACHE_BYTES, LAYOUT_VERSION, RedbStore, WALKED_BYTES_MAX};
