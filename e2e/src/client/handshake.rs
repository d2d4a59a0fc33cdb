//! The handshake: options and their replies, one at a time.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

use super::session::{Framing, Session};
use super::{Endpoint, Stream, answer, option};

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// A reply longer than this is a server gone wrong.
const REPLY_BYTES_MAX: u32 = 1 << 20;

/// One reply to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionReply {
    /// The reply's type, one of [`answer`].
    pub kind: u32,
    /// What came with it.
    pub data: Vec<u8>,
}

/// A connection that is still negotiating.
#[derive(Debug)]
pub struct Handshake {
    stream: Stream,
    framing: Framing,
    contexts: Vec<(u32, String)>,
}

impl Handshake {
    /// Connects, reads the greeting and answers it (fixed newstyle, no trailing zeroes).
    pub fn open(endpoint: &Endpoint) -> Result<Handshake> {
        let stream = endpoint.connect().with_context(|| format!("cannot connect to {endpoint:?}"))?;
        Handshake::over(stream)
    }

    /// The same over a connection made by other means.
    pub fn over(mut stream: Stream) -> Result<Handshake> {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).context("no greeting")?;
        ensure!(&greeting[..8] == b"NBDMAGIC" && &greeting[8..16] == OPTION_MAGIC, "the greeting is {greeting:?}");
        ensure!(greeting[17] & 3 == 3, "the server does not offer fixed newstyle without zeroes: {greeting:?}");
        stream.write_all(&3_u32.to_be_bytes())?;
        Ok(Handshake { stream, framing: Framing::Simple, contexts: Vec::new() })
    }

    /// The connection itself, for tests that leave the protocol's path.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Sends one option without waiting for its reply.
    pub fn send(&mut self, number: u32, data: &[u8]) -> Result<()> {
        self.stream.write_all(&option_bytes(number, data))?;
        Ok(())
    }

    /// Reads one reply to an option.
    pub fn reply(&mut self, number: u32) -> Result<OptionReply> {
        let mut header = [0; 20];
        self.stream.read_exact(&mut header).context("no reply to an option")?;
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let magic = (u64::from(word(0)) << 32) | u64::from(word(4));
        ensure!(magic == REPLY_MAGIC && word(8) == number, "not a reply to option {number}: {header:?}");
        ensure!(word(16) <= REPLY_BYTES_MAX, "a reply of {} bytes", word(16));
        let mut data = vec![0; word(16) as usize];
        self.stream.read_exact(&mut data)?;
        Ok(OptionReply { kind: word(12), data })
    }

    /// Sends one option and reads its replies up to the last one (ACK or an error).
    pub fn ask(&mut self, number: u32, data: &[u8]) -> Result<Vec<OptionReply>> {
        self.send(number, data)?;
        let mut replies = Vec::new();
        loop {
            let reply = self.reply(number)?;
            let last = reply.kind == answer::ACK || reply.kind & answer::ERROR != 0;
            replies.push(reply);
            if last {
                return Ok(replies);
            }
            ensure!(replies.len() < 10_000, "endless replies to option {number}");
        }
    }

    /// Sends one option and gives the type of its last reply.
    pub fn outcome(&mut self, number: u32, data: &[u8]) -> Result<u32> {
        Ok(self.ask(number, data)?.pop().map_or(0, |reply| reply.kind))
    }

    /// Asks for structured replies, which the server must grant.
    pub fn structured(&mut self) -> Result<()> {
        let outcome = self.outcome(option::STRUCTURED_REPLY, &[])?;
        ensure!(outcome == answer::ACK, "structured replies refused: {outcome:#x}");
        self.framing = Framing::Structured;
        Ok(())
    }

    /// Asks for extended headers, which the server must grant.
    pub fn extended(&mut self) -> Result<()> {
        let outcome = self.outcome(option::EXTENDED_HEADERS, &[])?;
        ensure!(outcome == answer::ACK, "extended headers refused: {outcome:#x}");
        self.framing = Framing::Extended;
        Ok(())
    }

    /// Chooses metadata contexts of an export, by name.
    pub fn contexts(&mut self, export: &str, names: &[&str]) -> Result<()> {
        let mut data = name_bytes(export);
        data.extend((names.len() as u32).to_be_bytes());
        for name in names {
            data.extend(name_bytes(name));
        }
        for reply in self.ask(option::SET_META_CONTEXT, &data)? {
            if reply.kind == answer::META_CONTEXT && reply.data.len() >= 4 {
                let id = u32::from_be_bytes([reply.data[0], reply.data[1], reply.data[2], reply.data[3]]);
                self.contexts.push((id, String::from_utf8_lossy(&reply.data[4..]).into_owned()));
            }
        }
        ensure!(self.contexts.len() == names.len(), "asked for contexts {names:?}, got {:?}", self.contexts);
        Ok(())
    }

    /// Ends the handshake the old way: by the export's name alone.
    pub fn export_name(mut self, export: &str) -> Result<Session> {
        self.send(option::EXPORT_NAME, export.as_bytes())?;
        let mut described = [0; 10];
        self.stream.read_exact(&mut described).context("no size after EXPORT_NAME")?;
        let mut size = [0; 8];
        size.copy_from_slice(&described[..8]);
        let flags = u16::from_be_bytes([described[8], described[9]]);
        Ok(Session::new(self.stream, self.framing, u64::from_be_bytes(size), flags))
    }

    /// Ends the handshake: GO for an export.
    pub fn go(mut self, export: &str) -> Result<Session> {
        let mut data = name_bytes(export);
        // One piece of information wanted: the block size constraints.
        data.extend([0, 1, 0, 3]);
        let replies = self.ask(option::GO, &data)?;
        let last = replies.last().map_or(0, |reply| reply.kind);
        if last != answer::ACK {
            let words = replies.last().map(|reply| String::from_utf8_lossy(&reply.data).into_owned());
            bail!("export {export:?} refused: {last:#x} {}", words.unwrap_or_default());
        }
        let described = replies.iter().find(|reply| reply.kind == answer::INFO && reply.data.starts_with(&[0, 0]));
        let described = described.filter(|reply| reply.data.len() >= 12).context("no size in the reply to GO")?;
        let mut size = [0; 8];
        size.copy_from_slice(&described.data[2..10]);
        let flags = u16::from_be_bytes([described.data[10], described.data[11]]);
        Ok(Session::new(self.stream, self.framing, u64::from_be_bytes(size), flags))
    }
}

/// An option as it travels.
pub fn option_bytes(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// A name with its length before it.
fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes = (name.len() as u32).to_be_bytes().to_vec();
    bytes.extend(name.as_bytes());
    bytes
}
