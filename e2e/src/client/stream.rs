//! Where a server listens, and a connection to it.

use std::io::{Read, Result, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl Endpoint {
    /// Connects; reads that wait longer than 30 s fail, so that a silent server fails a test instead of hanging it.
    pub fn connect(&self) -> Result<Stream> {
        let stream = match self {
            Endpoint::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        };
        stream.set_patience(Duration::from_secs(30))?;
        Ok(stream)
    }
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Stream {
    /// A second handle on the same connection, for a thread that only reads.
    pub fn duplicate(&self) -> Result<Stream> {
        Ok(match self {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
        })
    }

    /// Sets how long a write may wait.
    pub fn set_write_patience(&self, patience: Duration) -> Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_write_timeout(Some(patience)),
            Stream::Tcp(stream) => stream.set_write_timeout(Some(patience)),
        }
    }

    /// Sets how long a read may wait.
    pub fn set_patience(&self, patience: Duration) -> Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_read_timeout(Some(patience)),
            Stream::Tcp(stream) => stream.set_read_timeout(Some(patience)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(bytes),
            Stream::Tcp(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
