//! The NBD protocol, both directions of a session, without I/O.
