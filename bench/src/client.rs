//! A small NBD client: it connects, stays, and reads a block at a time, for what fio cannot do.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Fixed newstyle, no zeroes.
const CLIENT_FLAGS: u32 = 3;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;

/// A connection to an export; only simple replies are asked for.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    cookie: u64,
}

impl Client {
    /// Connects and enters the transmission phase.
    pub(crate) fn connect(socket: &Path, export: &str) -> Result<Client> {
        let mut stream = UnixStream::connect(socket)?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        ensure!(greeting.starts_with(b"NBDMAGICIHAVEOPT"), "this is no NBD server");
        let mut hello = CLIENT_FLAGS.to_be_bytes().to_vec();
        hello.extend(go(export)?);
        stream.write_all(&hello)?;
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head)?;
            let magic = u64::from_be_bytes(head[..8].try_into()?);
            let kind = u32::from_be_bytes(head[12..16].try_into()?);
            let length = u32::from_be_bytes(head[16..].try_into()?);
            ensure!(magic == OPTION_REPLY_MAGIC && length <= 4096, "the server answers an option with nonsense");
            let mut data = vec![0; length as usize];
            stream.read_exact(&mut data)?;
            ensure!(kind >> 31 == 0, "{export}: refused: {}", String::from_utf8_lossy(&data));
            if kind == REPLY_ACK {
                return Ok(Client { stream, cookie: 0 });
            }
        }
    }

    /// Reads so many bytes.
    pub(crate) fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>> {
        self.cookie += 1;
        self.stream.write_all(&read_request(self.cookie, offset, length))?;
        let mut head = [0; 16];
        self.stream.read_exact(&mut head).context("the server has hung up")?;
        let error = u32::from_be_bytes(head[4..8].try_into()?);
        ensure!(head[..4] == SIMPLE_REPLY_MAGIC.to_be_bytes() && head[8..] == self.cookie.to_be_bytes(), "no reply");
        ensure!(error == 0, "a read at {offset} failed with error {error}");
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data)?;
        Ok(data)
    }
}

/// The option that asks for an export, and for nothing about it.
fn go(export: &str) -> Result<Vec<u8>> {
    let length = u32::try_from(export.len())?;
    let mut option = OPTION_MAGIC.to_be_bytes().to_vec();
    option.extend(OPTION_GO.to_be_bytes());
    option.extend((length + 6).to_be_bytes());
    option.extend(length.to_be_bytes());
    option.extend(export.as_bytes());
    option.extend([0, 0]);
    Ok(option)
}

fn read_request(cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
    request.extend([0, 0, 0, 0]);
    request.extend(cookie.to_be_bytes());
    request.extend(offset.to_be_bytes());
    request.extend(length.to_be_bytes());
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_requests_are_as_long_as_the_protocol_says() {
        assert_eq!(go("demo").expect("a name").len(), 16 + 4 + 4 + 2);
        assert_eq!(read_request(1, 4096, 512).len(), 28);
    }
}
