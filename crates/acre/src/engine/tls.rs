//! TLS over a connection's byte stream: ciphertext in and out, plaintext for the protocol.

use rustls::ServerConnection;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// Plaintext is decrypted in steps of so many bytes.
const STEP_BYTES: usize = 64 << 10;

/// One client's TLS.
pub(crate) struct TlsStream {
    connection: ServerConnection,
    plaintext: Vec<u8>,
    consumed: usize,
}

impl TlsStream {
    pub(crate) fn new(config: Arc<rustls::ServerConfig>) -> Result<Self, rustls::Error> {
        let mut connection = ServerConnection::new(config)?;
        connection.set_buffer_limit(None);
        Ok(Self { connection, plaintext: Vec::new(), consumed: 0 })
    }

    /// Takes ciphertext from the socket; plaintext is then to be had from [`TlsStream::plaintext`].
    pub(crate) fn received(&mut self, mut ciphertext: &[u8]) -> io::Result<()> {
        while !ciphertext.is_empty() {
            self.connection.read_tls(&mut ciphertext)?;
            let state = self
                .connection
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let start = self.plaintext.len();
                self.plaintext.resize(start + left.min(STEP_BYTES), 0);
                let read = self.connection.reader().read(&mut self.plaintext[start..])?;
                self.plaintext.truncate(start + read);
                left -= read;
            }
        }
        Ok(())
    }

    /// Decrypted bytes that were not taken yet.
    pub(crate) fn plaintext(&self) -> &[u8] {
        &self.plaintext[self.consumed..]
    }

    pub(crate) fn take_plaintext(&mut self, bytes: usize) {
        self.consumed += bytes;
        if self.consumed == self.plaintext.len() {
            self.plaintext.clear();
            self.consumed = 0;
        }
    }

    /// Whether the handshake is over.
    pub(crate) fn is_up(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// Encrypts `plaintext`.
    pub(crate) fn send(&mut self, plaintext: &[u8]) -> io::Result<()> {
        self.connection.writer().write_all(plaintext)
    }

    /// Tells the peer that nothing follows.
    pub(crate) fn close(&mut self) {
        self.connection.send_close_notify();
    }

    /// Ciphertext for the socket; empty when there is none.
    pub(crate) fn ciphertext(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut out)?;
        }
        Ok(out)
    }

    /// The certificate that the client proved to hold.
    pub(crate) fn client_certificate(&self) -> Option<Vec<u8>> {
        Some(self.connection.peer_certificates()?.first()?.as_ref().to_vec())
    }
}
