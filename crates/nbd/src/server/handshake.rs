//! The handshake: flags, options, and the questions they raise.

use super::options::{ContextQueries, ExportQuery};
use super::{
    CONTEXTS_MAX, CloseReason, Connection, Event, ExportError, ExportInfo, Phase, Step, Style, TlsPolicy, Violation,
};
use crate::protocol::{
    BASE_ALLOCATION, EXPORT_NAME_ZEROES_BYTES, GREETING_MAGIC, OPTION_HEADER_BYTES, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    STRING_BYTES_MAX, handshake_flags, info, option, option_reply, transmission_flags,
};

/// An option that waits for the owner's answer.
#[derive(Debug)]
pub(super) enum Question {
    /// LIST.
    List,
    /// INFO or GO, and what was asked.
    Export(u32, ExportQuery),
    /// EXPORT_NAME.
    ExportName(String),
    /// LIST_META_CONTEXT or SET_META_CONTEXT, and what was asked.
    Contexts(u32, ContextQueries),
}

impl Connection {
    pub(super) fn greet(&mut self) {
        let batch = self.output.batch();
        batch.put_header(&GREETING_MAGIC.to_be_bytes());
        batch.put_header(&OPTION_MAGIC.to_be_bytes());
        batch.put_header(&(handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES).to_be_bytes());
    }

    pub(super) fn client_flags_step(&mut self) -> Step {
        let Some(flags) = self.input.bytes().first_chunk::<4>() else { return Step::Starved };
        let flags = u32::from_be_bytes(*flags);
        self.input.consume(4);
        let (fixed, no_zeroes) = (u32::from(handshake_flags::FIXED_NEWSTYLE), u32::from(handshake_flags::NO_ZEROES));
        if flags & !(fixed | no_zeroes) != 0 {
            return self.violated(Violation::ClientFlags);
        }
        self.negotiated.fixed_newstyle = flags & fixed != 0;
        self.negotiated.no_zeroes = flags & no_zeroes != 0;
        self.phase = Phase::Options;
        Step::Again
    }

    pub(super) fn option_step(&mut self) -> Step {
        self.held_back = self.output.header_bytes() > self.config.limits.reply_header_bytes;
        if self.held_back {
            return Step::Starved;
        }
        let Some(header) = self.input.bytes().first_chunk::<OPTION_HEADER_BYTES>() else { return Step::Starved };
        let (magic, rest) = header.split_at(8);
        let (code, length) = rest.split_at(4);
        let (code, length) = (be32(code), be32(length));
        if magic != OPTION_MAGIC.to_be_bytes() {
            return self.violated(Violation::OptionMagic);
        }
        if length > self.config.limits.option_bytes {
            return self.violated(Violation::OptionTooLong);
        }
        if self.options_seen == self.config.limits.options {
            return self.violated(Violation::TooManyOptions);
        }
        let message_bytes = OPTION_HEADER_BYTES + length as usize;
        let Some(data) = self.input.bytes().get(OPTION_HEADER_BYTES..message_bytes) else { return Step::Starved };
        self.options_seen += 1;
        // Options are rare and short: their data is copied, so that what answers them is free to change the connection.
        let data = data.to_vec();
        self.input.consume(message_bytes);
        self.dispatch_option(code, &data)
    }

    fn dispatch_option(&mut self, code: u32, data: &[u8]) -> Step {
        if !self.negotiated.fixed_newstyle && code != option::EXPORT_NAME {
            return self.violated(Violation::NotFixedNewstyle);
        }
        if self.config.tls == TlsPolicy::Require && !self.secured {
            match code {
                option::STARTTLS | option::ABORT => {}
                option::EXPORT_NAME => return self.violated(Violation::TlsRequired),
                _ => return self.refuse(code, option_reply::ERR_TLS_REQD, "this server requires TLS"),
            }
        }
        match code {
            option::EXPORT_NAME => self.export_name_option(data),
            option::ABORT => {
                self.option_reply(code, option_reply::ACK, &[]);
                self.phase = Phase::Draining(CloseReason::Aborted);
                Step::Again
            }
            option::INFO | option::GO => self.export_option(code, data),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts_option(code, data),
            option::LIST | option::STARTTLS | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS
                if !data.is_empty() =>
            {
                self.refuse(code, option_reply::ERR_INVALID, "this option takes no data")
            }
            option::LIST => {
                self.phase = Phase::Question(Question::List);
                Step::Event(Event::ListExports)
            }
            option::STARTTLS => self.starttls_option(code),
            option::STRUCTURED_REPLY if self.negotiated.style == Style::Extended => {
                self.refuse(code, option_reply::ERR_EXT_HEADER_REQD, "extended headers are already agreed on")
            }
            option::STRUCTURED_REPLY => {
                self.negotiated.style = Style::Structured;
                self.option_reply(code, option_reply::ACK, &[]);
                Step::Again
            }
            option::EXTENDED_HEADERS => {
                self.negotiated.style = Style::Extended;
                self.option_reply(code, option_reply::ACK, &[]);
                Step::Again
            }
            _ => self.refuse(code, option_reply::ERR_UNSUP, "this option is unknown here"),
        }
    }

    fn starttls_option(&mut self, code: u32) -> Step {
        if self.secured {
            return self.refuse(code, option_reply::ERR_INVALID, "TLS is already in use");
        }
        if self.config.tls == TlsPolicy::Off {
            return self.refuse(code, option_reply::ERR_POLICY, "this server offers no TLS here");
        }
        // A client waits for the acknowledgement. Whatever is here already was put there by someone else, to be taken
        // for something said under TLS.
        if !self.input.bytes().is_empty() {
            return self.violated(Violation::PlaintextAfterStarttls);
        }
        self.option_reply(code, option_reply::ACK, &[]);
        self.phase = Phase::TlsAcknowledged;
        Step::Again
    }

    /// The TLS handshake is done: what comes from here on is plaintext out of TLS. Everything agreed before is
    /// forgotten, but for the client's flags, which are not sent again.
    ///
    /// # Panics
    /// When there was no [`Event::UpgradeTls`].
    pub fn tls_upgraded(&mut self) {
        match self.phase {
            Phase::TlsHandshake => {}
            Phase::Draining(_) | Phase::Ending(_) | Phase::Closed => return,
            _ => panic!("TLS was upgraded unasked"),
        }
        self.secured = true;
        self.negotiated.style = Style::Simple;
        self.negotiated.contexts.clear();
        self.negotiated.contexts_export.clear();
        self.phase = Phase::Options;
    }

    fn export_name_option(&mut self, data: &[u8]) -> Step {
        if self.negotiated.style == Style::Extended {
            return self.violated(Violation::ExportNameAfterExtendedHeaders);
        }
        let Some(name) = text(data) else { return self.violated(Violation::ExportName) };
        self.phase = Phase::Question(Question::ExportName(name.clone()));
        Step::Event(Event::OpenExport { name })
    }

    fn export_option(&mut self, code: u32, data: &[u8]) -> Step {
        match ExportQuery::parse(data) {
            Err(refusal) => self.refuse(code, refusal.reply, refusal.message),
            Ok(query) => {
                let name = query.name.clone();
                self.phase = Phase::Question(Question::Export(code, query));
                Step::Event(if code == option::GO { Event::OpenExport { name } } else { Event::QueryExport { name } })
            }
        }
    }

    fn contexts_option(&mut self, code: u32, data: &[u8]) -> Step {
        if code == option::SET_META_CONTEXT {
            // A failed choice replaces an earlier one just as a good one does.
            self.negotiated.contexts.clear();
            if self.negotiated.style == Style::Simple {
                return self.refuse(code, option_reply::ERR_INVALID, "metadata contexts need structured replies");
            }
        }
        match ContextQueries::parse(data, self.config.limits.context_queries) {
            Err(refusal) => self.refuse(code, refusal.reply, refusal.message),
            Ok(queries) => {
                let event = Event::ResolveContexts {
                    name: queries.name.clone(),
                    queries: queries.foreign(),
                    all: code == option::LIST_META_CONTEXT && queries.queries.is_empty(),
                };
                self.phase = Phase::Question(Question::Contexts(code, queries));
                Step::Event(event)
            }
        }
    }

    /// Answers [`Event::ListExports`] with names and descriptions.
    ///
    /// # Panics
    /// When that was not the question.
    pub fn exports_listed<S: AsRef<str>>(&mut self, exports: impl IntoIterator<Item = (S, S)>) {
        match self.take_question() {
            None => {}
            Some(Question::List) => {
                for (name, description) in exports {
                    let (name, description) = (name.as_ref().as_bytes(), description.as_ref().as_bytes());
                    let name_bytes = (name.len() as u32).to_be_bytes();
                    self.option_reply(option::LIST, option_reply::SERVER, &[&name_bytes, name, description]);
                }
                self.option_reply(option::LIST, option_reply::ACK, &[]);
            }
            Some(other) => panic!("exports were listed in answer to {other:?}"),
        }
    }

    /// Answers [`Event::QueryExport`] and [`Event::OpenExport`].
    ///
    /// # Panics
    /// When neither was the question, or the export is not one the protocol can describe.
    pub fn export_opened(&mut self, answer: Result<ExportInfo, ExportError>) {
        if let Ok(export) = &answer {
            assert!(export.is_sayable(), "an export has names and block sizes the protocol can say: {export:?}");
        }
        match (self.take_question(), answer) {
            (None, _) => {}
            (Some(Question::ExportName(_)), Err(error)) => {
                self.phase = Phase::Ending(CloseReason::ExportRefused(error));
            }
            (Some(Question::ExportName(name)), Ok(export)) => {
                let flags = self.transmission_flags(&export, &name);
                let batch = self.output.batch();
                batch.put_header(&export.size_bytes.to_be_bytes());
                batch.put_header(&flags.to_be_bytes());
                if !self.negotiated.no_zeroes {
                    batch.put_header(&[0; EXPORT_NAME_ZEROES_BYTES]);
                }
                self.begin_transmission(export, &name);
            }
            (Some(Question::Export(code, _)), Err(error)) => self.refuse_export(code, error),
            (Some(Question::Export(code, query)), Ok(export)) => {
                self.describe_export(code, &query, &export);
                self.option_reply(code, option_reply::ACK, &[]);
                if code == option::GO {
                    self.begin_transmission(export, &query.name);
                }
            }
            (Some(other), _) => panic!("an export was opened in answer to {other:?}"),
        }
    }

    /// Answers [`Event::ResolveContexts`] with the names of the contexts found beyond `base:allocation`.
    ///
    /// # Panics
    /// When that was not the question.
    pub fn contexts_resolved<S: Into<String>>(&mut self, answer: Result<impl IntoIterator<Item = S>, ExportError>) {
        match (self.take_question(), answer) {
            (None, _) => {}
            (Some(Question::Contexts(code, _)), Err(error)) => self.refuse_export(code, error),
            (Some(Question::Contexts(code, queries)), Ok(found)) => {
                let listing = code == option::LIST_META_CONTEXT;
                let base = queries.wants_base(listing).then(|| BASE_ALLOCATION.to_owned());
                let mut names: Vec<String> = base.into_iter().collect();
                for name in found.into_iter().map(Into::into) {
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                if !listing && names.len() > CONTEXTS_MAX {
                    self.refuse(code, option_reply::ERR_TOO_BIG, "too many metadata contexts");
                    return;
                }
                for (index, name) in names.iter().enumerate() {
                    let id = if listing { 0 } else { context_id(index) };
                    self.option_reply(code, option_reply::META_CONTEXT, &[&id.to_be_bytes(), name.as_bytes()]);
                }
                self.option_reply(code, option_reply::ACK, &[]);
                if !listing {
                    self.negotiated.contexts = names;
                    self.negotiated.contexts_export = queries.name;
                }
            }
            (Some(other), _) => panic!("contexts were resolved in answer to {other:?}"),
        }
    }

    /// The question that waits, if the connection is still there to hear the answer.
    fn take_question(&mut self) -> Option<Question> {
        if matches!(self.phase, Phase::Draining(_) | Phase::Ending(_) | Phase::Closed) {
            return None;
        }
        let next = if self.shutting_down { Phase::Draining(CloseReason::ShutDown) } else { Phase::Options };
        match std::mem::replace(&mut self.phase, next) {
            Phase::Question(question) => Some(question),
            other => panic!("an answer came in {other:?}, where nothing was asked"),
        }
    }

    fn refuse_export(&mut self, code: u32, error: ExportError) {
        let reply = match error {
            // The protocol forbids to ask for TLS those who have it, and it is no longer why.
            ExportError::TlsRequired if !self.secured => option_reply::ERR_TLS_REQD,
            ExportError::Unknown => option_reply::ERR_UNKNOWN,
            ExportError::Denied | ExportError::TlsRequired | ExportError::Unavailable => option_reply::ERR_POLICY,
            ExportError::ShuttingDown => option_reply::ERR_SHUTDOWN,
        };
        self.refuse(code, reply, &error.to_string());
    }

    fn describe_export(&mut self, code: u32, query: &ExportQuery, export: &ExportInfo) {
        let flags = self.transmission_flags(export, &query.name);
        let mut say = |kind: u16, parts: [&[u8]; 3]| {
            let [first, second, third] = parts;
            self.option_reply(code, option_reply::INFO, &[&kind.to_be_bytes(), first, second, third]);
        };
        say(info::EXPORT, [&export.size_bytes.to_be_bytes(), &flags.to_be_bytes(), &[]]);
        if query.asks(info::NAME) {
            say(info::NAME, [export.name.as_bytes(), &[], &[]]);
        }
        if query.asks(info::DESCRIPTION) && !export.description.is_empty() {
            say(info::DESCRIPTION, [export.description.as_bytes(), &[], &[]]);
        }
        if query.asks(info::BLOCK_SIZE) {
            let (minimum, payload) = (export.minimum_block_bytes, self.config.limits.payload_bytes);
            let fits = export.preferred_block_bytes <= payload;
            let preferred = if fits { export.preferred_block_bytes } else { minimum.max(512) };
            let sizes = [minimum, preferred, payload].map(u32::to_be_bytes);
            self.option_reply(
                code,
                option_reply::INFO,
                &[&info::BLOCK_SIZE.to_be_bytes(), &sizes[0], &sizes[1], &sizes[2]],
            );
        }
    }

    fn transmission_flags(&self, export: &ExportInfo, asked_name: &str) -> u16 {
        use transmission_flags as flag;
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE;
        flags |= if export.read_only {
            flag::READ_ONLY
        } else {
            flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO
        };
        if export.multi_conn {
            flags |= flag::CAN_MULTI_CONN;
        }
        if self.negotiated.style != Style::Simple {
            flags |= flag::SEND_DF;
        }
        let has_contexts = !self.negotiated.contexts.is_empty() && self.negotiated.contexts_export == asked_name;
        if self.negotiated.style == Style::Extended && has_contexts {
            flags |= flag::BLOCK_STATUS_PAYLOAD;
        }
        flags
    }

    fn begin_transmission(&mut self, export: ExportInfo, asked_name: &str) {
        if self.negotiated.contexts_export != asked_name {
            self.negotiated.contexts.clear();
        }
        self.export = export;
        self.input.begin_transmission();
        self.phase = Phase::Transmission;
    }

    fn refuse(&mut self, code: u32, reply: u32, message: &str) -> Step {
        self.option_reply(code, reply, &[message.as_bytes()]);
        Step::Again
    }

    fn option_reply(&mut self, code: u32, reply: u32, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let batch = self.output.batch();
        batch.put_header(&OPTION_REPLY_MAGIC.to_be_bytes());
        batch.put_header(&code.to_be_bytes());
        batch.put_header(&reply.to_be_bytes());
        batch.put_header(&(length as u32).to_be_bytes());
        for part in parts {
            batch.put_header(part);
        }
    }
}

/// A metadata context's number on the wire. Not its index, so that a client which confuses the two is found out.
pub(super) fn context_id(index: usize) -> u32 {
    index as u32 + 1
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// A string as the protocol means it: UTF-8, no NUL, at most 4,096 bytes.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    if bytes.len() > STRING_BYTES_MAX || bytes.contains(&0) {
        return None;
    }
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}
