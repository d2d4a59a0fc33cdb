//! What every start sees to: the default pool, its disks, and at the first start the volume `demo`.

use crate::config::DiskSpec;
use crate::control::ControlPlane;
use crate::datadir::DataDirectory;
use anyhow::{Context, Result};
use api::{DiskAdd, Error, ErrorKind, PoolCreate, Request, Response, VolumeCreate};
use controller::DEFAULT_POOL;
use std::path::{Path, PathBuf};

/// The first volume.
const VOLUME: &str = "demo";
/// Its size, in bytes.
const VOLUME_BYTES: u64 = 1 << 40;

/// Adds the disks of the command line that are not known yet; the first start makes the default pool, a disk if none was
/// given, and the first volume. A start that was cut short is taken up where it ended.
pub(super) async fn prepare(data: &DataDirectory, disks: &[DiskSpec], plane: &dyn ControlPlane) -> Result<()> {
    let is_first = !data.is_ready();
    if is_first {
        let pool = PoolCreate { name: DEFAULT_POOL.into(), ..PoolCreate::default() };
        tolerate(ErrorKind::Exists, plane.request(Request::PoolCreate(pool)).await)?;
    }
    let known = match plane.request(Request::DiskList { pool: None }).await? {
        Response::Disks(disks) => disks,
        _ => return Err(Error::internal("the engine answered another question than was asked").into()),
    };
    for disk in disks {
        let path = settle(&disk.path)?;
        if !known.iter().any(|known| Path::new(&known.path) == path) {
            add(plane, &path, disk.size_bytes).await.with_context(|| format!("--disk {}", disk.path.display()))?;
        }
    }
    if is_first {
        if disks.is_empty() && known.is_empty() {
            let path = data.first_disk();
            // One that a start which was cut short has made keeps its size.
            let size_bytes = if path.exists() { None } else { Some(data.first_disk_bytes()?) };
            add(plane, &path, size_bytes).await?;
        }
        let volume = VolumeCreate { name: VOLUME.into(), size_bytes: VOLUME_BYTES, ..VolumeCreate::default() };
        tolerate(ErrorKind::Exists, plane.request(Request::VolumeCreate(volume)).await)?;
        data.set_ready()?;
    }
    Ok(())
}

/// The volumes there are, for the lines to paste.
pub(super) async fn volume_names(plane: &dyn ControlPlane) -> Result<Vec<String>> {
    match plane.request(Request::VolumeList { pool: None }).await? {
        Response::Volumes(volumes) => Ok(volumes.into_iter().map(|volume| volume.name).collect()),
        _ => Err(Error::internal("the engine answered another question than was asked").into()),
    }
}

async fn add(plane: &dyn ControlPlane, path: &Path, size_bytes: Option<u64>) -> Result<()> {
    let path = path.to_str().with_context(|| format!("{} is not valid UTF-8", path.display()))?.to_owned();
    let disk = DiskAdd { pool: Some(DEFAULT_POOL.into()), path, size_bytes, force: false };
    plane.request(Request::DiskAdd(disk)).await?;
    Ok(())
}

/// The path as the engine knows it, whether the file is there or not.
fn settle(path: &Path) -> Result<PathBuf> {
    if let Ok(found) = std::fs::canonicalize(path) {
        return Ok(found);
    }
    let absolute = std::path::absolute(path)?;
    let folder = absolute.parent().and_then(|folder| std::fs::canonicalize(folder).ok());
    Ok(match (folder, absolute.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => absolute,
    })
}

fn tolerate(kind: ErrorKind, outcome: Result<Response, Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if error.kind != kind => Err(error),
        _ => Ok(()),
    }
}
