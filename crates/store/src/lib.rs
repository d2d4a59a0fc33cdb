//! The metadata store: trait, key schema and in-memory reference.
