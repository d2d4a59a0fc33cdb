//! Listening sockets.

use crate::system;
use std::fs::{File, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// How many connections may wait to be accepted; the system's own limit may be lower.
const BACKLOG: i32 = 1024;
/// The first descriptor that socket activation hands over.
const ACTIVATED_FIRST: RawFd = 3;

/// A listening socket. Clones are the same; closed with the last of them, which also removes a Unix socket's file.
#[derive(Clone, Debug)]
pub struct Listener(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    descriptor: OwnedFd,
    /// The address it listens on; `None` for a Unix socket.
    tcp: Option<SocketAddr>,
    file: Option<SocketFile>,
}

/// A Unix socket's file, by path and by identity: another's at the same path is not ours to remove.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Listener {
    /// Listens on a TCP address; port 0 picks one, which [`Listener::tcp_address`] tells.
    ///
    /// # Errors
    /// Those of bind(2).
    #[allow(clippy::disallowed_methods)] // Sockets are what this crate is for.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        // The standard library sets SO_REUSEADDR.
        let listener = TcpListener::bind(address)?;
        system::listen(listener.as_fd(), BACKLOG)?;
        Self::adopt(listener.into())
    }

    /// Listens on a Unix socket that only our own user may connect to. The file of a listener that is gone is
    /// replaced.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] when somebody answers there, or something else than a socket lies there; else
    /// those of bind(2).
    pub fn unix(path: &Path) -> io::Result<Self> {
        let socket = File::from(system::unix_socket()?);
        // The mode of the socket is what its file is made with, so there is no moment at which others may connect.
        socket.set_permissions(Permissions::from_mode(0o600))?;
        match system::bind_unix(socket.as_fd(), path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                std::fs::remove_file(path)?;
                system::bind_unix(socket.as_fd(), path)?;
            }
            bound => bound?,
        }
        system::listen(socket.as_fd(), BACKLOG)?;
        let metadata = std::fs::symlink_metadata(path)?;
        let file = SocketFile { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() };
        Ok(Self(Arc::new(Inner { descriptor: socket.into(), tcp: None, file: Some(file) })))
    }

    /// Takes over a socket that listens already.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when it is no socket.
    pub fn adopt(descriptor: OwnedFd) -> io::Result<Self> {
        let file = File::from(descriptor);
        if !file.metadata()?.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a listener must be a socket"));
        }
        let listener = TcpListener::from(OwnedFd::from(file));
        let tcp = listener.local_addr().ok();
        Ok(Self(Arc::new(Inner { descriptor: listener.into(), tcp, file: None })))
    }

    /// The sockets that the service manager listens on for us (socket activation: `LISTEN_PID`, `LISTEN_FDS`). Only
    /// the first call gets them; none when there are none.
    ///
    /// # Errors
    /// When the environment promises sockets that are not there.
    pub fn activated() -> io::Result<Vec<Self>> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
        if number("LISTEN_PID") != Some(std::process::id()) || TAKEN.swap(true, SeqCst) {
            return Ok(Vec::new());
        }
        let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok()).unwrap_or(0);
        let taken_over = (ACTIVATED_FIRST..ACTIVATED_FIRST.saturating_add(count)).map(|descriptor| {
            // SAFETY: the environment says that these are for us, and nobody comes past the flag above a second time.
            let socket = unsafe { system::inherited(descriptor) };
            Self::adopt(socket?)
        });
        taken_over.collect()
    }

    /// The TCP address it listens on; `None` for a Unix socket.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.0.tcp
    }

    pub(crate) fn is_tcp(&self) -> bool {
        self.0.tcp.is_some()
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.descriptor.as_raw_fd()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(file) = &self.file
            && let Ok(metadata) = std::fs::symlink_metadata(&file.path)
            && (metadata.dev(), metadata.ino()) == (file.device, file.inode)
        {
            // Whoever cannot remove it leaves a stale file, which the next listener replaces.
            let _ = std::fs::remove_file(&file.path);
        }
    }
}

/// Whether a socket's file lies at the path that nobody listens behind.
fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
