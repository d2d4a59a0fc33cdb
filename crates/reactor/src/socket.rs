//! Connections.

use crate::system;
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// One end of a connection: a stream socket, or a pair of descriptors to read from and to write to. Clones are the
/// same end, which is closed with the last of them (those in flight included). May move to another thread's reactor
/// when no operation on it is in flight.
#[derive(Clone)]
pub struct Socket(Arc<Inner>);

struct Inner {
    receive: Direction,
    /// `None`: the same as `receive`.
    send: Option<Direction>,
    drained: AtomicBool,
}

struct Direction {
    descriptor: OwnedFd,
    is_socket: bool,
}

/// A descriptor for one direction, and whether it takes recv(2) and sendmsg(2).
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) descriptor: RawFd,
    pub(crate) is_socket: bool,
}

impl Direction {
    fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let file = std::fs::File::from(descriptor);
        let is_socket = file.metadata()?.file_type().is_socket();
        system::set_blocking(file.as_raw_fd(), true)?;
        Ok(Self { descriptor: file.into(), is_socket })
    }

    fn way(&self) -> Way {
        Way { descriptor: self.descriptor.as_raw_fd(), is_socket: self.is_socket }
    }
}

impl Socket {
    /// Takes over a connected stream socket, or anything else that can be read from and written to.
    ///
    /// # Errors
    /// When the descriptor tells nothing about itself.
    pub fn adopt(descriptor: OwnedFd) -> io::Result<Self> {
        Ok(Self::new(Direction::new(descriptor)?, None))
    }

    /// Takes over a pair of pipes (or anything else): one to read from, one to write to.
    ///
    /// # Errors
    /// As [`Socket::adopt`].
    pub fn adopt_pair(receive: OwnedFd, send: OwnedFd) -> io::Result<Self> {
        Ok(Self::new(Direction::new(receive)?, Some(Direction::new(send)?)))
    }

    /// The process's standard input and output as one connection.
    ///
    /// # Errors
    /// When either is closed.
    pub fn standard_streams() -> io::Result<Self> {
        let receive = io::stdin().as_fd().try_clone_to_owned()?;
        Self::adopt_pair(receive, io::stdout().as_fd().try_clone_to_owned()?)
    }

    /// Two ends of one connection within this process.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        Ok((Self::adopt(one.into())?, Self::adopt(other.into())?))
    }

    /// Connects to a Unix socket; blocks meanwhile.
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn connect_unix(path: &Path) -> io::Result<Self> {
        Self::adopt(UnixStream::connect(path)?.into())
    }

    /// Connects over TCP; blocks meanwhile.
    ///
    /// # Errors
    /// Those of connect(2).
    #[allow(clippy::disallowed_methods)] // Sockets are what this crate is for.
    pub fn connect_tcp(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Self::adopt(stream.into())
    }

    /// A connection that a listener has taken.
    pub(crate) fn accepted(descriptor: OwnedFd, tcp: bool) -> Self {
        let descriptor = if tcp {
            let stream = TcpStream::from(descriptor);
            // It fails where the peer is gone already, which the first receive tells.
            let _ = stream.set_nodelay(true);
            stream.into()
        } else {
            descriptor
        };
        Self::new(Direction { descriptor, is_socket: true }, None)
    }

    fn new(receive: Direction, send: Option<Direction>) -> Self {
        Self(Arc::new(Inner { receive, send, drained: AtomicBool::new(false) }))
    }

    /// Ends the stream in both directions: a pending receive completes with 0 bytes, the peer sees the end. Without
    /// effect on what is not a socket.
    pub fn shutdown(&self) {
        for direction in [Some(&self.0.receive), self.0.send.as_ref()].into_iter().flatten() {
            if direction.is_socket
                && let Ok(descriptor) = direction.descriptor.try_clone()
            {
                // It fails where the connection is at its end already.
                let _ = UnixStream::from(descriptor).shutdown(Shutdown::Both);
            }
        }
    }

    /// The peer's address, for people: `192.0.2.1:10809`, or `local`.
    #[must_use]
    pub fn peer(&self) -> String {
        let stream = self.0.receive.descriptor.try_clone().map(TcpStream::from);
        let address = stream.and_then(|stream| stream.peer_addr());
        address.map_or_else(|_| "local".to_owned(), |address| address.to_string())
    }

    pub(crate) fn receive_way(&self) -> Way {
        self.0.receive.way()
    }

    pub(crate) fn send_way(&self) -> Way {
        self.0.send.as_ref().unwrap_or(&self.0.receive).way()
    }

    /// Whether the last receive got less than it had room for, so that the next one will probably have to wait.
    pub(crate) fn is_drained(&self) -> bool {
        self.0.drained.load(Relaxed)
    }

    pub(crate) fn set_drained(&self, drained: bool) {
        self.0.drained.store(drained, Relaxed);
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.receive_way().descriptor)
    }
}
