//! The metadata store on redb, one file and no server.
