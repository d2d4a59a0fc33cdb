//! A blocking connection to one NBD export, ours or somebody else's.

use crate::config::Address;
use crate::tls;
use api::Error;
use model::ByteRange;
use nbd::ErrorCode;
use nbd::client::{Client, ClientConfig, ClientEvent, Opened, Outcome, Reply};
use nbd::protocol::{BASE_ALLOCATION, transmission_flags};
use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a server may be silent while it owes an answer. A server that grows a pool may take its time.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// What one call of the socket reads at most.
const INPUT_BYTES: usize = 256 << 10;

trait Socket: Read + Write + Send {}
impl<T: Read + Write + Send> Socket for T {}

/// Where an export is, and how to reach it.
#[derive(Clone, Debug)]
pub(super) struct Export {
    pub(super) address: Address,
    pub(super) name: String,
    /// Who may have signed the server's certificate: STARTTLS is asked for then.
    pub(super) ca: Option<PathBuf>,
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "export {:?} at {}", self.name, self.address)
    }
}

/// An open export.
pub(super) struct Link {
    client: Client,
    socket: Box<dyn Socket>,
    export: Export,
    opened: Opened,
    input: Vec<u8>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.export)
    }
}

impl Link {
    /// Connects and opens the export.
    pub(super) fn open(export: &Export) -> Result<Self, Error> {
        let unreachable = |why: &dyn fmt::Display| {
            Error::unavailable(format!("cannot reach {export}: {why}; name another place with --nbd"))
        };
        let socket: Box<dyn Socket> = match &export.address {
            Address::Unix(path) => {
                let socket = UnixStream::connect(path).map_err(|error| unreachable(&error))?;
                socket.set_read_timeout(Some(SILENCE_MAX)).map_err(|error| unreachable(&error))?;
                socket.set_write_timeout(Some(SILENCE_MAX)).map_err(|error| unreachable(&error))?;
                Box::new(socket)
            }
            Address::Tcp(host_port) => {
                let socket = TcpStream::connect(host_port).map_err(|error| unreachable(&error))?;
                socket.set_nodelay(true).map_err(|error| unreachable(&error))?;
                socket.set_read_timeout(Some(SILENCE_MAX)).map_err(|error| unreachable(&error))?;
                socket.set_write_timeout(Some(SILENCE_MAX)).map_err(|error| unreachable(&error))?;
                Box::new(socket)
            }
            Address::Tls(_) => {
                return Err(unreachable(&"write HOST:PORT; NBD asks for TLS by itself when --ca is given"));
            }
        };
        let config = ClientConfig { tls: export.ca.is_some(), ..ClientConfig::new(export.name.clone()) };
        let mut link = Self {
            client: Client::new(config),
            socket,
            export: export.clone(),
            opened: Opened::default(),
            input: vec![0; INPUT_BYTES],
        };
        loop {
            match link.event()? {
                ClientEvent::Opened(opened) => {
                    link.opened = opened;
                    return Ok(link);
                }
                ClientEvent::UpgradeTls => link.upgrade()?,
                ClientEvent::Failed(error) => return Err(link.failed(&error)),
                ClientEvent::Reply(_) => return Err(link.failed(&"a reply in the handshake")),
            }
        }
    }

    fn upgrade(&mut self) -> Result<(), Error> {
        let Some(ca) = &self.export.ca else { return Err(self.failed(&"TLS that nobody asked for")) };
        let config = tls::client_config(ca).map_err(|error| Error::invalid(format!("{error:#}")))?;
        let host = match &self.export.address {
            Address::Tcp(host_port) | Address::Tls(host_port) => host_port.as_str(),
            Address::Unix(_) => "localhost",
        };
        let name = tls::server_name(host).map_err(|error| Error::invalid(format!("{error:#}")))?;
        let session = rustls::ClientConnection::new(Arc::new(config), name).map_err(|error| self.failed(&error))?;
        let plain = std::mem::replace(&mut self.socket, Box::new(std::io::Cursor::new(Vec::new())));
        self.socket = Box::new(rustls::StreamOwned::new(session, plain));
        self.client.tls_upgraded();
        Ok(())
    }

    /// The export's size, in bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        self.opened.size_bytes
    }

    /// The number on the wire of the context that tells holes, if the server has it.
    pub(super) fn allocation_context(&self) -> Option<u32> {
        self.opened.contexts.iter().find(|(_, name)| *name == BASE_ALLOCATION).map(|(id, _)| *id)
    }

    /// How many requests are not answered.
    pub(super) fn requests_in_flight(&self) -> usize {
        self.client.requests_in_flight()
    }

    /// Whether writes are refused.
    pub(super) fn is_read_only(&self) -> bool {
        self.opened.flags & transmission_flags::READ_ONLY != 0
    }

    /// The least that may be read or written, in bytes.
    pub(super) fn block_bytes_min(&self) -> u64 {
        self.opened.block_sizes_bytes.map_or(1, |[minimum, ..]| minimum.max(1).into())
    }

    pub(super) fn read(&mut self, range: ByteRange) -> Result<u64, Error> {
        let cookie = self.client.read(range.start, range.length as u32, 0);
        self.send().map(|()| cookie)
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<u64, Error> {
        let cookie = self.client.write(offset, bytes, 0);
        self.send().map(|()| cookie)
    }

    pub(super) fn write_zeroes(&mut self, range: ByteRange) -> Result<u64, Error> {
        let cookie = self.client.write_zeroes(range.start, range.length, 0);
        self.send().map(|()| cookie)
    }

    pub(super) fn flush(&mut self) -> Result<u64, Error> {
        let cookie = self.client.flush();
        self.send().map(|()| cookie)
    }

    pub(super) fn block_status(&mut self, range: ByteRange) -> Result<u64, Error> {
        let cookie = self.client.block_status(range.start, range.length, 0);
        self.send().map(|()| cookie)
    }

    /// Waits for the answer to any request; what failed is an error that `what` begins.
    pub(super) fn reply(&mut self, what: &str) -> Result<Reply, Error> {
        match self.event()? {
            ClientEvent::Reply(Reply { outcome: Outcome::Failed { error, message }, .. }) => {
                let message = if message.is_empty() { error.to_string() } else { format!("{error} ({message})") };
                let message = format!("{what} {} failed: {message}", self.export);
                Err(match error {
                    ErrorCode::NoSpace => Error::out_of_space(format!("{message}; trim, delete, or add a disk")),
                    ErrorCode::NotPermitted => Error::forbidden(format!(
                        "{message}; does the volume take writes? acre volume set NAME --read-only false"
                    )),
                    _ => Error::unavailable(message),
                })
            }
            ClientEvent::Reply(reply) => Ok(reply),
            ClientEvent::Failed(error) => Err(self.failed(&error)),
            ClientEvent::Opened(_) | ClientEvent::UpgradeTls => Err(self.failed(&"a handshake behind the handshake")),
        }
    }

    /// Says goodbye.
    pub(super) fn close(mut self) {
        self.client.disconnect();
        // A server that is gone already needs no goodbye.
        let _ = self.send();
    }

    fn send(&mut self) -> Result<(), Error> {
        let bytes = self.client.take_output();
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = self.socket.write_all(&bytes).and_then(|()| self.socket.flush());
        sent.map_err(|error| self.failed(&error))
    }

    fn event(&mut self) -> Result<ClientEvent, Error> {
        loop {
            let event = self.client.next_event();
            self.send()?;
            if let Some(event) = event {
                return Ok(event);
            }
            match self.socket.read(&mut self.input) {
                Ok(0) => return Err(self.failed(&"the server closed the connection")),
                Ok(length) => self.client.received(&self.input[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Err(self.failed(&format!("no answer for {} s", SILENCE_MAX.as_secs())));
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    fn failed(&self, why: &dyn fmt::Display) -> Error {
        let hint = match &self.export.ca {
            None if why.to_string().contains("0x80000005") => {
                "; it asks for TLS: name who signed its certificate with --ca"
            }
            _ => "",
        };
        Error::unavailable(format!("the connection to {} failed: {why}{hint}", self.export))
    }
}
