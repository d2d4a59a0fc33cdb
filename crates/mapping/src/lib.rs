//! Table pages, extents and layer stacks; resolves reads and writes.
//!
//! - [`table`]: a volume's volatile table at an agent, page by page.
//! - [`page`]: one table page as runs.
//! - [`view`]: what a lookup answers, without allocating.
//! - [`stack`]: how writes, trims and snapshots change the layers of one region.
//! - [`diff`]: what changed between two views of a region.
//! - [`resolve`]: where the bytes of a read come from, where those of a write go.
//!
//! What is durable of this is encoded by `store`.
//!
//! Everything here is data and functions of it. No I/O, no clock, no rights, no allocation of disk space: who may change
//! a page, and where a new region comes from, is the agent's and the controller's to know.
#![forbid(unsafe_code)]

pub mod diff;
pub mod page;
pub mod resolve;
pub mod stack;
pub mod table;
pub mod view;

pub use diff::changed_blocks;
pub use page::{Nearest, TablePage};
pub use resolve::{
    BlockStatus, BlockStatuses, Fault, Segment, Segments, Source, Step, Steps, WriteSegment, WriteSegments,
    WriteTarget, resolve_read, resolve_write,
};
pub use stack::{Dropped, Drops, REGION_LAYERS_MAX};
pub use table::{Evicted, PageRef, PageTable, WriteOutcome, ZeroOutcome};
pub use view::{EntryView, Extent};
