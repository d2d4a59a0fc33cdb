//! The node engine: performs I/O on physical disks and fences stale holders.
