//! Disks as the operating system shows them: opened, judged by their labels, labelled, released.

use crate::patience::patiently;
use controller::DiskInspection;
use model::ClusterId;
use pool::label::{HEAD_BYTES, TAIL_BYTES, tail_start};
use pool::{DiskLabel, Judgement, judge, label_offsets};
use reactor::{File, OpenOptions};
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The smallest disk worth having, in bytes.
const DISK_BYTES_MIN: u64 = 64 << 20;

/// Opens what is to be a disk (makes the file, given a size and none there) and says what it is.
pub(crate) fn inspect(path: &str, size_bytes: Option<u64>, cluster: ClusterId) -> Result<DiskInspection, String> {
    let made = make(Path::new(path), size_bytes)?;
    let path = fs::canonicalize(path).map_err(|error| said(path, "cannot be found", &error))?;
    let inspected = inspect_existing(&path, cluster);
    if made && inspected.is_err() {
        // Nobody else can have put anything there meanwhile that matters.
        let _ = fs::remove_file(&path);
    }
    inspected
}

fn make(path: &Path, size_bytes: Option<u64>) -> Result<bool, String> {
    let shown = path.display().to_string();
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(size_bytes) = size_bytes else {
                return Err(format!("{shown} does not exist; name its size to have the file made: {shown}:100G"));
            };
            let size_bytes = size_bytes / 4096 * 4096;
            if size_bytes < DISK_BYTES_MIN {
                return Err(format!("{shown}: {size_bytes} bytes are too few for a disk; the least is 64 MiB"));
            }
            // Tenants' bytes are nobody else's to read.
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            file.and_then(|file| file.set_len(size_bytes)).map_err(|error| said(&shown, "cannot be made", &error))?;
            Ok(true)
        }
        Err(error) => Err(said(&shown, "cannot be looked at", &error)),
    }
}

fn inspect_existing(path: &Path, cluster: ClusterId) -> Result<DiskInspection, String> {
    let shown = path.display().to_string();
    let kind = fs::metadata(path).map_err(|error| said(&shown, "cannot be looked at", &error))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(format!("{shown} is neither a file nor a block device"));
    }
    let options = OpenOptions { direct: true, exclusive: true, ..OpenOptions::default() };
    let file = patiently(|| File::open(path, options)).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => format!("{shown} is in use by somebody else (mounted, or served already)"),
        _ => said(&shown, "cannot be opened", &error),
    })?;
    let size_bytes = file.size_bytes().map_err(|error| said(&shown, "has no size", &error))? / 4096 * 4096;
    if size_bytes < DISK_BYTES_MIN {
        return Err(format!("{shown} has {size_bytes} bytes: too few for a disk; the least is 64 MiB"));
    }
    let (head, tail) = ends(path, size_bytes).map_err(|error| said(&shown, "cannot be read", &error))?;
    let judgement = judge(&head, &tail, cluster);
    let sector_bytes = if file.alignment_bytes() > 512 { 4096 } else { 512 };
    Ok(DiskInspection { path: shown, judgement, size_bytes, sector_bytes })
}

fn ends(path: &Path, size_bytes: u64) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let file = fs::File::open(path)?;
    let mut head = vec![0; HEAD_BYTES.min(size_bytes as usize)];
    file.read_exact_at(&mut head, 0)?;
    let start = tail_start(size_bytes);
    let mut tail = vec![0; ((size_bytes - start) as usize).min(TAIL_BYTES + 4096)];
    file.read_exact_at(&mut tail, start)?;
    Ok((head, tail))
}

/// Writes a disk's label and its copy, durably.
pub(crate) fn write_label(path: &str, label: &DiskLabel) -> Result<(), String> {
    write_blocks(path, label.size_bytes, &label.encode()).map_err(|error| said(path, "cannot be labelled", &error))
}

fn write_blocks(path: &str, size_bytes: u64, block: &[u8]) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    for offset in label_offsets(size_bytes) {
        file.write_all_at(block, offset)?;
        file.sync_all()?;
    }
    // The file itself may be new: its name is made durable too.
    if let Some(folder) = PathBuf::from(path).parent()
        && !folder.as_os_str().is_empty()
    {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Opens a disk for I/O once for each of `count` shards, if its label is still the one it was given.
///
/// The kernel reports a write that was lost once to each opening, so no shard's flush may use up another's report. The
/// first opening holds the claim on the disk.
pub(crate) fn open(path: &str, label: &DiskLabel, count: usize) -> Result<Vec<File>, String> {
    let found = inspect_existing(Path::new(path), label.cluster)?;
    match found.judgement {
        Judgement::Ours { label: found, mend } if found == *label => {
            if mend {
                tracing::warn!(path, "one copy of the disk's label was damaged and is written again");
                write_label(path, label)?;
            }
        }
        Judgement::Ours { label: found, .. } => {
            return Err(format!("{path} is {} of this cluster, not {} as expected", found.disk, label.disk));
        }
        other => return Err(format!("{path} does not carry the label of {} any more ({other:?})", label.disk)),
    }
    let open = |index| {
        let options = OpenOptions { direct: true, exclusive: index == 0, ..OpenOptions::default() };
        patiently(|| File::open(Path::new(path), options)).map_err(|error| said(path, "cannot be opened", &error))
    };
    (0..count).map(open).collect()
}

/// Wipes a disk's labels: it belongs to nobody any more.
pub(crate) fn release(path: &str) -> Result<(), String> {
    let size = fs::metadata(path).and_then(|metadata| {
        if metadata.file_type().is_file() {
            Ok(metadata.len())
        } else {
            File::open(Path::new(path), OpenOptions { read_only: true, ..OpenOptions::default() })?.size_bytes()
        }
    });
    size.and_then(|size| write_blocks(path, size / 4096 * 4096, &[0; 4096]))
        .map_err(|error| said(path, "cannot be wiped", &error))
}

fn said(path: &str, what: &str, error: &io::Error) -> String {
    format!("{path} {what}: {error}")
}
