//! Seeded clusters, failing disks, the oracle and the checkers.
