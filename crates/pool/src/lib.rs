//! Physical disks, chunklets, logical disks and the allocator.
