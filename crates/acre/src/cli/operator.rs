//! The operator's commands: each one request and one answer.

use super::output::{print, print_json};
use super::{
    AuditArguments, Connection, DiskCommand, Leaf, Output, PoolCommand, RaidArgument, TopConnection, VolumeCommand,
    map, table,
};
use crate::serve;
use api::{
    AuditReport, DiskAdd, Error, PoolCreate, Raid, Request, Response, VolumeCreate, VolumeRename, VolumeResize,
    VolumeSet, check_name,
};
use model::ByteSize;
use std::io::Write;

/// What an audit that found something exits with.
const AUDIT_FOUND: u8 = api::ErrorKind::Corrupt.exit_code();

fn bytes(size: Option<ByteSize>) -> Option<u64> {
    size.map(|size| size.0)
}

/// Asks and prints the answer.
fn ask(request: Request, connection: Connection, top: TopConnection, out: &mut dyn Write) -> Result<u8, Error> {
    let (client, output) = connection.over(top)?;
    let response = client.request(&request)?;
    show(&request, &response, output, out)?;
    Ok(0)
}

fn show(request: &Request, response: &Response, output: Output, out: &mut dyn Write) -> Result<(), Error> {
    if output == Output::Json {
        return match response {
            Response::Done => Ok(()),
            Response::Pool(pool) => print_json(out, pool),
            Response::Pools(pools) => print_json(out, pools),
            Response::Disk(disk) => print_json(out, disk),
            Response::Disks(disks) => print_json(out, disks),
            Response::Volume(volume) => print_json(out, volume),
            Response::Volumes(volumes) => print_json(out, volumes),
            Response::Snapshot(snapshot) => print_json(out, snapshot),
            Response::Snapshots(snapshots) => print_json(out, snapshots),
            Response::Diff(diff) => print_json(out, diff),
            Response::Schedule(schedule) => print_json(out, schedule),
            Response::Schedules(schedules) => print_json(out, schedules),
            Response::VolumeMap(map) => print_json(out, map),
            Response::Status(status) => print_json(out, status),
            Response::Audit(report) => print_json(out, report),
        };
    }
    match response {
        Response::Done => print(out, done(request)),
        Response::Pool(pool) => print(out, &table::pool(pool)),
        Response::Pools(pools) => print(out, &table::pools(pools)),
        Response::Disk(disk) => print(out, &table::disk(disk)),
        Response::Disks(disks) => print(out, &table::disks(disks)),
        Response::Volume(volume) => print(out, &table::volume(volume)),
        Response::Volumes(volumes) => print(out, &table::volumes(volumes)),
        Response::Snapshot(snapshot) => print_json(out, snapshot),
        Response::Snapshots(snapshots) => print_json(out, snapshots),
        Response::Diff(diff) => print_json(out, diff),
        Response::Schedule(schedule) => print_json(out, schedule),
        Response::Schedules(schedules) => print_json(out, schedules),
        Response::VolumeMap(map) => print(out, &table::volume_map(map)),
        Response::Status(status) => print(out, &table::status(status)),
        Response::Audit(report) => print(out, &table::audit(report)),
    }
}

fn done(request: &Request) -> &'static str {
    match request {
        Request::PoolDelete { .. } | Request::VolumeDelete { .. } => "deleted",
        _ => "done",
    }
}

pub(super) fn pool(command: PoolCommand, top: TopConnection, out: &mut dyn Write) -> Result<u8, Error> {
    let (request, connection) = match command {
        PoolCommand::Create(leaf) => {
            let what = leaf.what;
            check_name("pool", &what.name)?;
            let RaidArgument::Raid0 = what.raid;
            let pool = PoolCreate {
                name: what.name,
                raid: Raid::Raid0,
                warn_bytes: bytes(what.warn),
                limit_bytes: bytes(what.limit),
                growth_bytes: bytes(what.growth),
            };
            (Request::PoolCreate(pool), leaf.connection)
        }
        PoolCommand::List(leaf) => (Request::PoolList, leaf.connection),
        PoolCommand::Show(leaf) => (Request::PoolShow { name: leaf.what.name }, leaf.connection),
        PoolCommand::Delete(leaf) => (Request::PoolDelete { name: leaf.what.name }, leaf.connection),
    };
    ask(request, connection, top, out)
}

pub(super) fn disk(command: DiskCommand, top: TopConnection, out: &mut dyn Write) -> Result<u8, Error> {
    let (request, connection) = match command {
        DiskCommand::Add(leaf) => {
            let what = leaf.what;
            // The server may have been started in another directory.
            let path = std::path::absolute(&what.disk.path).map_err(|error| Error::invalid(error.to_string()))?;
            let path = path.to_str().ok_or_else(|| Error::invalid("the path is not valid UTF-8"))?.to_owned();
            let disk = DiskAdd { pool: Some(what.pool), path, size_bytes: what.disk.size_bytes, force: what.force };
            (Request::DiskAdd(disk), leaf.connection)
        }
        DiskCommand::List(leaf) => (Request::DiskList { pool: leaf.what.pool }, leaf.connection),
        DiskCommand::Show(leaf) => (Request::DiskShow { id: leaf.what.id }, leaf.connection),
    };
    ask(request, connection, top, out)
}

pub(super) fn volume(command: VolumeCommand, top: TopConnection, out: &mut dyn Write) -> Result<u8, Error> {
    let (request, connection) = match command {
        VolumeCommand::Create(leaf) => {
            let what = leaf.what;
            check_name("volume", &what.name)?;
            let volume = VolumeCreate {
                name: what.name,
                size_bytes: what.size.0,
                pool: Some(what.pool),
                region_bytes: bytes(what.region_size),
                warn_bytes: bytes(what.warn),
                limit_bytes: bytes(what.limit),
                read_only: what.read_only,
            };
            (Request::VolumeCreate(volume), leaf.connection)
        }
        VolumeCommand::List(leaf) => (Request::VolumeList { pool: leaf.what.pool }, leaf.connection),
        VolumeCommand::Show(leaf) => (Request::VolumeShow { name: leaf.what.name }, leaf.connection),
        VolumeCommand::Set(leaf) => {
            let changes = leaf.what.changes;
            let set = VolumeSet {
                warn_bytes: changes.warn.map(|size| size.0),
                limit_bytes: changes.limit.map(|size| size.0),
                read_only: changes.read_only,
            };
            (Request::VolumeSet { name: leaf.what.name, set }, leaf.connection)
        }
        VolumeCommand::Resize(leaf) => {
            let resize = VolumeResize { size_bytes: leaf.what.size.0, shrink: leaf.what.shrink };
            (Request::VolumeResize { name: leaf.what.name, resize }, leaf.connection)
        }
        VolumeCommand::Rename(leaf) => {
            check_name("volume", &leaf.what.new_name)?;
            let rename = VolumeRename { new_name: leaf.what.new_name };
            (Request::VolumeRename { name: leaf.what.name, rename }, leaf.connection)
        }
        VolumeCommand::Delete(leaf) => {
            let what = leaf.what;
            (Request::VolumeDelete { name: what.name, force: what.force, snapshots: what.snapshots }, leaf.connection)
        }
        VolumeCommand::Map(leaf) => {
            let (client, output) = leaf.connection.over(top)?;
            let (request, response) = map::fetch(&client, leaf.what)?;
            return show(&request, &response, output, out).map(|()| 0);
        }
    };
    ask(request, connection, top, out)
}

pub(super) fn status(connection: Connection, top: TopConnection, out: &mut dyn Write) -> Result<u8, Error> {
    ask(Request::Status, connection, top, out)
}

pub(super) fn audit(leaf: Leaf<AuditArguments>, top: TopConnection, out: &mut dyn Write) -> Result<u8, Error> {
    let (client, output) = leaf.connection.over(top)?;
    let report = match super::audited(&leaf.what) {
        Some(data) => serve::audit(&data.data).map_err(super::starting)?,
        None => match client.request(&Request::Audit)? {
            Response::Audit(report) => report,
            _ => return Err(Error::internal("the server answered another question than was asked")),
        },
    };
    let code = exit_code(&report);
    show(&Request::Audit, &Response::Audit(report), output, out)?;
    Ok(code)
}

fn exit_code(report: &AuditReport) -> u8 {
    if report.clean { 0 } else { AUDIT_FOUND }
}
