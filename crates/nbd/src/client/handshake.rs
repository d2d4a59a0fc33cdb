//! The client's side of the handshake: one option after the other, each answered before the next is sent.

use super::{Client, ClientError, ClientEvent, Step, Style};
use crate::fields::number;
use crate::protocol::{
    EXPORT_NAME_ZEROES_BYTES, GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_HEADER_BYTES, OPTION_REPLY_MAGIC,
    STRING_BYTES_MAX, handshake_flags, info, option, option_reply,
};

/// A reply to an option is no longer than this, in bytes: a few strings.
const OPTION_REPLY_BYTES_MAX: u64 = 64 << 10;
/// A server names no more contexts than this.
const CONTEXTS_MAX: usize = 64;

/// What the client waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The server's greeting.
    Greeting,
    /// The replies to this option.
    Option(u32),
    /// The answer to EXPORT_NAME.
    ExportName { zeroes: bool },
    /// Its owner to have done the TLS handshake.
    TlsHandshake,
    /// Replies to requests.
    Transmission,
    /// Nothing.
    Failed,
}

impl Client {
    pub(super) fn handshake_step(&mut self) -> (usize, Step) {
        match self.stage {
            Stage::Greeting => self.greeting_step(),
            Stage::ExportName { zeroes } => self.export_name_step(zeroes),
            Stage::Option(code) => self.option_reply_step(code),
            Stage::TlsHandshake | Stage::Transmission | Stage::Failed => (0, Step::Starved),
        }
    }

    fn greeting_step(&mut self) -> (usize, Step) {
        let (magic, version) = (number::<8>(self.input.unread(), 0), number::<8>(self.input.unread(), 8));
        let (Some(magic), Some(version), Some(flags)) = (magic, version, number::<2>(self.input.unread(), 16)) else {
            return (0, Step::Starved);
        };
        if (magic, version) != (GREETING_MAGIC, OPTION_MAGIC) {
            return (0, Step::broken("no newstyle greeting"));
        }
        let flags = flags as u16;
        let wanted = [
            (self.config.fixed_newstyle, handshake_flags::FIXED_NEWSTYLE),
            (self.config.no_zeroes, handshake_flags::NO_ZEROES),
        ];
        let agreed = wanted.iter().filter(|(wanted, _)| *wanted).fold(0, |all, (_, flag)| all | flag) & flags;
        self.output.extend(u32::from(agreed).to_be_bytes());
        let zeroes = agreed & handshake_flags::NO_ZEROES == 0;
        if agreed & handshake_flags::FIXED_NEWSTYLE == 0 {
            if self.config.tls {
                return (0, Step::broken("no fixed newstyle, and so no TLS"));
            }
            self.send_export_name(zeroes);
        } else if self.config.tls {
            self.send_option(option::STARTTLS, &[]);
        } else {
            self.negotiate_style(zeroes);
        }
        self.no_zeroes_agreed(!zeroes);
        (18, Step::Again)
    }

    fn no_zeroes_agreed(&mut self, agreed: bool) {
        self.config.no_zeroes = agreed;
    }

    /// The TLS handshake is done: what comes from here on is plaintext out of TLS.
    ///
    /// # Panics
    /// When there was no [`ClientEvent::UpgradeTls`].
    pub fn tls_upgraded(&mut self) {
        assert_eq!(self.stage, Stage::TlsHandshake, "TLS is upgraded when asked for");
        self.negotiate_style(!self.config.no_zeroes);
    }

    fn negotiate_style(&mut self, zeroes: bool) {
        match self.config.style {
            Style::Extended => self.send_option(option::EXTENDED_HEADERS, &[]),
            Style::Structured => self.send_option(option::STRUCTURED_REPLY, &[]),
            Style::Simple => self.open(zeroes),
        }
    }

    fn negotiate_contexts(&mut self) {
        if self.config.contexts.is_empty() || self.opened.style == Style::Simple {
            return self.open(!self.config.no_zeroes);
        }
        let mut data = Vec::new();
        put_string(&mut data, &self.config.export);
        data.extend((self.config.contexts.len() as u32).to_be_bytes());
        for query in &self.config.contexts {
            put_string(&mut data, query);
        }
        self.send_option(option::SET_META_CONTEXT, &data);
    }

    fn open(&mut self, zeroes: bool) {
        // EXPORT_NAME is not to be used once extended headers are agreed on.
        if self.config.by_export_name && self.opened.style != Style::Extended {
            return self.send_export_name(zeroes);
        }
        let mut data = Vec::new();
        put_string(&mut data, &self.config.export);
        let requests = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];
        data.extend((requests.len() as u16).to_be_bytes());
        data.extend(requests.iter().flat_map(|kind| kind.to_be_bytes()));
        self.send_option(option::GO, &data);
    }

    fn send_export_name(&mut self, zeroes: bool) {
        let name = self.config.export.clone();
        self.send_option(option::EXPORT_NAME, name.as_bytes());
        self.stage = Stage::ExportName { zeroes };
    }

    fn send_option(&mut self, code: u32, data: &[u8]) {
        self.output.extend(OPTION_MAGIC.to_be_bytes());
        self.output.extend(code.to_be_bytes());
        self.output.extend((data.len() as u32).to_be_bytes());
        self.output.extend_from_slice(data);
        self.stage = Stage::Option(code);
    }

    fn export_name_step(&mut self, zeroes: bool) -> (usize, Step) {
        let length = 10 + if zeroes { EXPORT_NAME_ZEROES_BYTES } else { 0 };
        if self.input.unread().len() < length {
            return (0, Step::Starved);
        }
        self.opened.size_bytes = number::<8>(self.input.unread(), 0).unwrap_or(0);
        self.opened.flags = number::<2>(self.input.unread(), 8).unwrap_or(0) as u16;
        (length, self.begin())
    }

    fn begin(&mut self) -> Step {
        self.stage = Stage::Transmission;
        Step::Event(ClientEvent::Opened(self.opened.clone()))
    }

    fn option_reply_step(&mut self, code: u32) -> (usize, Step) {
        let input = self.input.unread();
        let header = (number::<8>(input, 0), number::<4>(input, 8), number::<4>(input, 12), number::<4>(input, 16));
        let (Some(magic), Some(to), Some(kind), Some(length)) = header else { return (0, Step::Starved) };
        if magic != OPTION_REPLY_MAGIC {
            return (0, Step::broken("a reply to an option without its magic number"));
        }
        if to != u64::from(code) {
            return (0, Step::broken("a reply to another option"));
        }
        if length > OPTION_REPLY_BYTES_MAX {
            return (0, Step::broken("a reply to an option that is too long"));
        }
        let message_bytes = OPTION_REPLY_HEADER_BYTES + length as usize;
        let Some(data) = self.input.unread().get(OPTION_REPLY_HEADER_BYTES..message_bytes) else {
            return (0, Step::Starved);
        };
        let data = data.to_vec();
        let kind = kind as u32;
        let step = if kind & option_reply::ERROR_BIT == 0 {
            self.option_progress(code, kind, &data)
        } else {
            self.option_refused(code, kind, &data)
        };
        (message_bytes, step)
    }

    fn option_progress(&mut self, code: u32, kind: u32, data: &[u8]) -> Step {
        match (code, kind) {
            (option::STARTTLS, option_reply::ACK) => {
                self.stage = Stage::TlsHandshake;
                return Step::Event(ClientEvent::UpgradeTls);
            }
            (option::EXTENDED_HEADERS | option::STRUCTURED_REPLY, option_reply::ACK) => {
                let extended = code == option::EXTENDED_HEADERS;
                self.opened.style = if extended { Style::Extended } else { Style::Structured };
                self.negotiate_contexts();
            }
            (option::SET_META_CONTEXT, option_reply::META_CONTEXT) => {
                let name = data.get(4..).and_then(|name| std::str::from_utf8(name).ok());
                let (Some(id), Some(name)) = (number::<4>(data, 0), name) else {
                    return Step::broken("a malformed metadata context");
                };
                let known = self.opened.contexts.insert(id as u32, name.to_owned());
                if known.is_some() || self.opened.contexts.len() > CONTEXTS_MAX {
                    return Step::broken("a metadata context twice, or too many of them");
                }
            }
            (option::SET_META_CONTEXT, option_reply::ACK) => self.open(!self.config.no_zeroes),
            (option::GO, option_reply::INFO) => return self.export_info(data),
            (option::GO, option_reply::ACK) if self.opened.flags == 0 => {
                return Step::broken("an export opened without a word about it");
            }
            (option::GO, option_reply::ACK) => return self.begin(),
            _ => return Step::broken("a reply that does not belong to its option"),
        }
        Step::Again
    }

    fn export_info(&mut self, data: &[u8]) -> Step {
        let body = data.get(2..).unwrap_or(&[]);
        let string = || std::str::from_utf8(body).ok().filter(|name| name.len() <= STRING_BYTES_MAX).map(str::to_owned);
        match number::<2>(data, 0).map(|kind| kind as u16) {
            None => return Step::broken("an empty piece of information"),
            Some(info::EXPORT) => {
                let (Some(size), Some(flags)) = (number::<8>(body, 0), number::<2>(body, 8)) else {
                    return Step::broken("a malformed description of an export");
                };
                (self.opened.size_bytes, self.opened.flags) = (size, flags as u16);
            }
            Some(info::NAME) => self.opened.name = string(),
            Some(info::DESCRIPTION) => self.opened.description = string(),
            Some(info::BLOCK_SIZE) => {
                let sizes = (number::<4>(body, 0), number::<4>(body, 4), number::<4>(body, 8));
                let (Some(minimum), Some(preferred), Some(payload)) = sizes else {
                    return Step::broken("malformed block sizes");
                };
                self.opened.block_sizes_bytes = Some([minimum, preferred, payload].map(|size| size as u32));
            }
            Some(_) => {}
        }
        Step::Again
    }

    fn option_refused(&mut self, code: u32, reply: u32, data: &[u8]) -> Step {
        match (code, reply) {
            (option::EXTENDED_HEADERS, option_reply::ERR_UNSUP) => self.send_option(option::STRUCTURED_REPLY, &[]),
            (option::STRUCTURED_REPLY, option_reply::ERR_UNSUP) => self.open(!self.config.no_zeroes),
            (option::SET_META_CONTEXT, option_reply::ERR_UNSUP) => {
                self.opened.contexts.clear();
                self.open(!self.config.no_zeroes);
            }
            (option::GO, option_reply::ERR_UNSUP) if self.opened.style != Style::Extended => {
                self.send_export_name(!self.config.no_zeroes);
            }
            _ => {
                let message = String::from_utf8_lossy(&data[..data.len().min(STRING_BYTES_MAX)]).into_owned();
                return Step::Failed(ClientError::Refused { option: code, reply, message });
            }
        }
        Step::Again
    }
}

fn put_string(data: &mut Vec<u8>, text: &str) {
    data.extend((text.len() as u32).to_be_bytes());
    data.extend_from_slice(text.as_bytes());
}
