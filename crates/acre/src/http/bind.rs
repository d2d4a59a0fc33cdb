//! Listening sockets of the operator API.

use crate::config::Address;
use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// A socket that listens for operators.
#[derive(Debug)]
pub enum ApiListener {
    /// A Unix socket, whose file goes with it.
    Unix(UnixListener, SocketFile),
    /// A TCP socket, and where it listens.
    Tcp(TcpListener, SocketAddr),
}

/// The file of a Unix socket; removed when dropped, if it is still the same.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // Its absence is all that is wanted.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

impl ApiListener {
    /// Where it listens, as clients write it.
    #[must_use]
    pub fn address(&self) -> Address {
        match self {
            Self::Unix(_, file) => Address::Unix(file.path.clone()),
            Self::Tcp(_, address) => Address::Tcp(address.to_string()),
        }
    }
}

/// Listens on `address`: on a Unix socket only our own user may connect to, or on every TCP address its host stands for.
///
/// # Errors
/// When somebody else listens there, or it cannot be had.
pub fn bind(address: &Address) -> Result<Vec<ApiListener>> {
    match address {
        Address::Unix(path) => {
            let listener = bind_unix(path).with_context(|| format!("cannot listen on {address}"))?;
            let inode = std::fs::symlink_metadata(path)?.ino();
            Ok(vec![ApiListener::Unix(listener, SocketFile { path: std::path::absolute(path)?, inode })])
        }
        Address::Tcp(host_port) => {
            let addresses = Address::resolve(host_port).map_err(anyhow::Error::msg)?;
            addresses.into_iter().map(bind_tcp).collect()
        }
        Address::Tls(_) => bail!("listen on HOST:PORT; whether it speaks TLS is told by --tls"),
    }
}

fn bind_tcp(address: SocketAddr) -> Result<ApiListener> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    Ok(ApiListener::Tcp(listener, bound))
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before it has a name, so that there is no moment at which others may connect.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    let name = SocketAddrUnix::new(path)?;
    match rustix::net::bind(&socket, &name) {
        Err(rustix::io::Errno::ADDRINUSE) if is_stale(path) => {
            std::fs::remove_file(path)?;
            rustix::net::bind(&socket, &name)?;
        }
        bound => bound?,
    }
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Whether a socket lies there that nobody listens on any more.
fn is_stale(path: &Path) -> bool {
    // Connecting to anything but a socket is refused too.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_socket_is_private_replaces_a_dead_one_and_respects_a_live_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        let address = Address::Unix(path.clone());
        let listener = bind(&address).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(bind(&address).is_err());
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(bind(&address).is_err());
        assert!(path.exists());
    }
}
