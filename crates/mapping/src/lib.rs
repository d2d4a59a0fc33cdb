//! Table pages, extents and layer stacks; resolves reads and writes.
