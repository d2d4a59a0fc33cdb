//! The agent engine: serves hosts from a volatile mapping table.
