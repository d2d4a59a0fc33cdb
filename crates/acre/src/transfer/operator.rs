//! What export and import ask the server for, each question with the one kind of answer it has.

use crate::client::Client;
use crate::config::Address;
use api::{
    Diff, DiffQuery, Error, ErrorKind, Request, Response, Snapshot, SnapshotIdentity, SnapshotState, Status, Volume,
};

/// Somebody who answers operators: a server, or a stand-in in tests.
pub trait Operator {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The server's own.
    fn ask(&self, request: &Request) -> Result<Response, Error>;
}

impl Operator for Client {
    fn ask(&self, request: &Request) -> Result<Response, Error> {
        self.request(request)
    }
}

fn astray() -> Error {
    Error::internal("the server answered another question than was asked")
}

pub(super) fn status(server: &dyn Operator) -> Result<Box<Status>, Error> {
    match server.ask(&Request::Status)? {
        Response::Status(status) => Ok(status),
        _ => Err(astray()),
    }
}

pub(super) fn snapshot(server: &dyn Operator, name: &str) -> Result<Snapshot, Error> {
    match server.ask(&Request::SnapshotShow { name: name.into() })? {
        Response::Snapshot(snapshot) => Ok(snapshot),
        _ => Err(astray()),
    }
}

/// The snapshots of a volume that can be read, the oldest first.
pub(super) fn snapshots(server: &dyn Operator, volume: &str) -> Result<Vec<Snapshot>, Error> {
    match server.ask(&Request::SnapshotList { volume: Some(volume.into()) })? {
        Response::Snapshots(mut snapshots) => {
            snapshots.retain(|snapshot| snapshot.state == SnapshotState::Ready);
            Ok(snapshots)
        }
        _ => Err(astray()),
    }
}

/// Asks for something that is answered with a volume.
pub(super) fn volume(server: &dyn Operator, request: &Request) -> Result<Volume, Error> {
    match server.ask(request)? {
        Response::Volume(volume) => Ok(volume),
        _ => Err(astray()),
    }
}

pub(super) fn find_volume(server: &dyn Operator, name: &str) -> Result<Option<Volume>, Error> {
    match volume(server, &Request::VolumeShow { name: name.into() }) {
        Ok(volume) => Ok(Some(volume)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn diff(server: &dyn Operator, query: DiffQuery) -> Result<Diff, Error> {
    match server.ask(&Request::Diff(query))? {
        Response::Diff(diff) => Ok(diff),
        _ => Err(astray()),
    }
}

/// The server's cluster, as a number.
pub(super) fn cluster(server: &dyn Operator) -> Result<u128, Error> {
    let status = status(server)?;
    u128::from_str_radix(&status.cluster, 16)
        .map_err(|_| Error::internal(format!("the server's cluster id {:?} is no number", status.cluster)))
}

/// Which content a snapshot of that cluster holds: that of another one if an import took it.
pub(super) fn identity(cluster: u128, snapshot: &Snapshot) -> SnapshotIdentity {
    snapshot.imported_from.unwrap_or(SnapshotIdentity { cluster, snapshot: snapshot.id })
}

/// Where the server behind `client` serves NBD, if one can tell from here: a Unix socket if it is asked through one.
///
/// # Errors
/// When it cannot be told, or when the server cannot be asked.
pub fn nbd_address(client: &Client) -> Result<Address, Error> {
    let listeners = status(client)?.listeners;
    let nbd: Vec<Address> = (listeners.iter().filter(|listener| listener.protocol == "nbd"))
        .filter_map(|listener| listener.address.parse().ok())
        .collect();
    let is_near = match &client.address {
        Address::Unix(_) => true,
        Address::Tcp(host_port) | Address::Tls(host_port) => {
            let host = host_port.rsplit_once(':').map_or("", |(host, _)| host);
            matches!(host, "localhost" | "127.0.0.1" | "[::1]")
        }
    };
    let reachable = nbd.iter().find(|address| matches!(address, Address::Unix(path) if path.exists()));
    let found = if is_near {
        reachable.or_else(|| nbd.iter().find(|address| !matches!(address, Address::Unix(_))))
    } else {
        None
    };
    found.cloned().ok_or_else(|| {
        Error::invalid(format!(
            "where {} serves NBD cannot be told from here; say it with --nbd unix:PATH or --nbd HOST:PORT",
            client.address
        ))
    })
}
