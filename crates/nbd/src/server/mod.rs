//! One client's connection as the server sees it.
//!
//! The owner drives it in rounds. After anything has happened — bytes came, a reply was given, output was sent, a
//! question was answered — it takes [`Connection::next_event`] until there is none, then sends what
//! [`Connection::take_output`] gives and receives into what [`Connection::wanted_receive`] gives. No target means that
//! the connection does not want to hear more for now: that is the back pressure which keeps its memory bounded.

mod config;
mod event;
mod handshake;
mod input;
mod options;
mod output;
mod replies;
mod slots;
mod transmission;
mod validate;

#[cfg(test)]
mod tests;

pub use config::{ExportError, ExportInfo, Limits, ServerConfig, TlsPolicy};
pub use event::{
    CONTEXTS_MAX, CloseReason, ContextIndex, ContextSet, ContextStatus, EXTENTS_MAX, Event, ReadSegment, Request,
    RequestId, RequestKind, Violation,
};
pub use input::ReceiveTarget;
pub use output::OutputBatch;

use handshake::Question;
use input::{Destination, Input};
use model::{BufferPool, Time};
use output::Output;
use slots::Slots;
use std::sync::Arc;
use transmission::Incoming;

/// One client's connection, from the greeting to the last reply.
#[derive(Debug)]
pub struct Connection {
    config: Arc<ServerConfig>,
    phase: Phase,
    deadline: Time,
    secured: bool,
    shutting_down: bool,
    negotiated: Negotiated,
    options_seen: u32,
    export: ExportInfo,
    input: Input,
    incoming: Incoming,
    /// The last request was a large write, and the next may well be one too.
    large_writes: bool,
    /// The next request has to wait until replies are given or sent.
    held_back: bool,
    slots: Slots,
    output: Output,
}

/// What the connection waits for.
#[derive(Debug)]
enum Phase {
    /// The client's flags.
    ClientFlags,
    /// An option.
    Options,
    /// The owner's answer to a question that an option raised.
    Question(Question),
    /// The acknowledgement of STARTTLS to be sent.
    TlsAcknowledged,
    /// The owner to have done the TLS handshake.
    TlsHandshake,
    /// Requests.
    Transmission,
    /// The last replies to be given and sent. Nothing more is understood.
    Draining(CloseReason),
    /// The owner to take the last event.
    Ending(CloseReason),
    /// Nothing.
    Closed,
}

/// How requests and replies look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Style {
    /// Compact requests, simple replies.
    #[default]
    Simple,
    /// Compact requests, chunked replies.
    Structured,
    /// Extended headers both ways.
    Extended,
}

/// What the handshake settled.
#[derive(Debug, Default)]
struct Negotiated {
    fixed_newstyle: bool,
    no_zeroes: bool,
    style: Style,
    /// The metadata contexts chosen, and the export they were chosen for.
    contexts: Vec<String>,
    contexts_export: String,
}

impl Connection {
    /// A connection just accepted at `now`; the greeting waits to be sent.
    ///
    /// # Panics
    /// When the configured limits cannot hold one request.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>, now: Time) -> Self {
        let limits = &config.limits;
        assert!(limits.requests > 0 && limits.payload_bytes > 0, "limits leave room for a request");
        let mut connection = Self {
            deadline: now + limits.handshake,
            config,
            phase: Phase::ClientFlags,
            secured: false,
            shutting_down: false,
            negotiated: Negotiated::default(),
            options_seen: 0,
            export: ExportInfo::new("", 0),
            input: Input::new(),
            incoming: Incoming::Header,
            large_writes: false,
            held_back: false,
            slots: Slots::default(),
            output: Output::default(),
        };
        connection.greet();
        connection
    }

    /// When the owner is to give up on this connection, if it is still open then: the end of the handshake's time.
    /// None in the transmission phase.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let over = matches!(self.phase, Phase::Transmission | Phase::Closed);
        let served = matches!(self.phase, Phase::Draining(CloseReason::Disconnected | CloseReason::ShutDown));
        (!over && !served).then_some(self.deadline)
    }

    /// Whether requests may come, or have come and are being answered.
    #[must_use]
    pub fn is_in_transmission(&self) -> bool {
        matches!(self.phase, Phase::Transmission)
    }

    /// Whether the client is under TLS.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        self.secured
    }

    /// Whether the last event has been given.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// How many requests wait for an answer.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.slots.count()
    }

    /// Whether no request waits for an answer and no byte waits to be sent.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.slots.count() == 0 && self.output.is_empty()
    }

    /// Whether something waits for bytes on their way to be sent: requests that are held back, or the connection's end.
    /// Else nothing but their memory does, which the next round may see to.
    #[must_use]
    pub fn waits_for_sending(&self) -> bool {
        self.held_back || self.shutting_down || !matches!(self.phase, Phase::Transmission)
    }

    /// How many bytes wait to be sent, those in flight among them.
    #[must_use]
    pub fn output_bytes(&self) -> usize {
        self.output.bytes()
    }

    /// The export, once requests may come.
    #[must_use]
    pub fn export(&self) -> &ExportInfo {
        &self.export
    }

    /// The metadata contexts that the client chose; a [`ContextIndex`] is a place in this list.
    #[must_use]
    pub fn contexts(&self) -> &[String] {
        &self.negotiated.contexts
    }

    /// The export has another size now. The client is not told; its requests are held to the new size.
    pub fn export_resized(&mut self, size_bytes: u64) {
        self.export.size_bytes = size_bytes;
    }

    /// Where the next bytes from the client are to be received. None while an earlier target is out, and while the
    /// connection wants to hear no more.
    pub fn wanted_receive(&mut self, pool: &mut BufferPool) -> Option<ReceiveTarget> {
        if self.input.lent || self.held_back {
            return None;
        }
        match self.phase {
            Phase::ClientFlags | Phase::Options => Some(self.input.lend(usize::MAX, pool)),
            Phase::Transmission => Some(match self.payload_target() {
                Some(target) => target,
                None => self.input.lend(self.stream_window_bytes(), pool),
            }),
            _ => None,
        }
    }

    /// `bytes` bytes came into `target`. Zero gives it back unused; the end of the stream is
    /// [`Connection::peer_closed`].
    pub fn received(&mut self, target: ReceiveTarget, bytes: usize) {
        match target.destination {
            Destination::Stream => self.input.take_back(target, bytes, self.config.limits.stream_bytes),
            Destination::Payload => self.payload_received(target, bytes),
        }
    }

    /// Takes bytes that were received elsewhere (from TLS, from a simulated network). Gives how many it took: fewer
    /// than all when it wants to hear no more for now, or must first give its events.
    pub fn received_bytes(&mut self, bytes: &[u8], pool: &mut BufferPool) -> usize {
        if !bytes.is_empty() && matches!(self.phase, Phase::TlsAcknowledged | Phase::TlsHandshake) {
            self.violated(Violation::PlaintextAfterStarttls);
            return bytes.len();
        }
        let Some(mut target) = self.wanted_receive(pool) else { return 0 };
        let space = target.space_mut();
        let taken = space.len().min(bytes.len());
        space[..taken].copy_from_slice(&bytes[..taken]);
        self.received(target, taken);
        taken
    }

    /// The client's end of the stream is closed: there is nobody to answer.
    pub fn peer_closed(&mut self, pool: &mut BufferPool) {
        if !matches!(self.phase, Phase::Closed | Phase::Ending(_)) {
            self.phase = Phase::Ending(CloseReason::PeerClosed);
        }
        self.output.discard(pool);
    }

    /// Takes no new requests, answers those in flight, then closes. Requests that still come are told so.
    pub fn begin_shutdown(&mut self) {
        self.shutting_down = true;
        if matches!(self.phase, Phase::ClientFlags | Phase::Options | Phase::TlsAcknowledged | Phase::TlsHandshake) {
            self.phase = Phase::Draining(CloseReason::ShutDown);
        }
    }

    /// What the owner should know or do next. None until something else has happened.
    pub fn next_event(&mut self, pool: &mut BufferPool) -> Option<Event> {
        loop {
            let step = match self.phase {
                _ if self.input.lent && !self.is_ending() => Step::Starved,
                Phase::ClientFlags => self.client_flags_step(),
                Phase::Options => self.option_step(),
                Phase::TlsAcknowledged if self.output.is_empty() => {
                    self.phase = Phase::TlsHandshake;
                    Step::Event(Event::UpgradeTls)
                }
                Phase::Transmission if self.is_shut_down() => {
                    self.phase = Phase::Ending(CloseReason::ShutDown);
                    Step::Again
                }
                Phase::Transmission => self.request_step(pool),
                Phase::Draining(reason) if self.is_drained() => {
                    self.phase = Phase::Ending(reason);
                    Step::Again
                }
                Phase::Ending(reason) => {
                    self.phase = Phase::Closed;
                    self.input.discard(pool);
                    self.discard_payload(pool);
                    Step::Event(Event::Close(reason))
                }
                Phase::Question(_)
                | Phase::TlsAcknowledged
                | Phase::TlsHandshake
                | Phase::Draining(_)
                | Phase::Closed => Step::Starved,
            };
            match step {
                Step::Event(event) => return Some(event),
                Step::Again => {}
                Step::Starved => return None,
            }
        }
    }

    fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Draining(_) | Phase::Ending(_) | Phase::TlsAcknowledged) || self.is_shut_down()
    }

    fn is_shut_down(&self) -> bool {
        self.shutting_down && self.slots.count() == self.incoming.requests() && self.output.is_empty()
    }

    /// The next bytes to send, in at most `slices_max` slices. None while an earlier batch is out.
    pub fn take_output(&mut self, slices_max: usize) -> Option<OutputBatch> {
        self.output.take(slices_max)
    }

    /// `bytes_sent` bytes of `batch` were sent; what was not is offered again.
    pub fn output_sent(&mut self, batch: OutputBatch, bytes_sent: usize, pool: &mut BufferPool) {
        self.output.sent(batch, bytes_sent, pool);
        if matches!(self.phase, Phase::Closed) {
            self.output.discard(pool);
        }
    }

    /// Moves up to `bytes_max` bytes of output to the end of `out`, as sent. Gives how many.
    pub fn write_output(&mut self, out: &mut Vec<u8>, bytes_max: usize, pool: &mut BufferPool) -> usize {
        let mut written = 0;
        while written < bytes_max {
            let Some(batch) = self.output.take(usize::MAX) else { break };
            let before = written;
            for slice in batch.slices() {
                let step = slice.len().min(bytes_max - written);
                out.extend_from_slice(&slice[..step]);
                written += step;
                if written == bytes_max {
                    break;
                }
            }
            self.output.sent(batch, written - before, pool);
        }
        written
    }

    /// Gives all its memory back to `pool`, as far as it is not lent.
    pub fn release(mut self, pool: &mut BufferPool) {
        self.input.discard(pool);
        self.discard_payload(pool);
        self.output.discard(pool);
    }

    /// Memory it holds for input and unsent replies, in bytes; what requests in flight stand for included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.input.held_bytes() + self.slots.memory_bytes() + self.output.bytes()
    }

    /// The client broke the protocol: nothing it sends is listened to any more.
    fn violated(&mut self, violation: Violation) -> Step {
        self.phase = Phase::Ending(CloseReason::Violation(violation));
        Step::Again
    }
}

/// What became of an attempt to understand the next message.
#[derive(Debug)]
enum Step {
    /// It is for the owner.
    Event(Event),
    /// It was dealt with; try the next.
    Again,
    /// Nothing to be done for now.
    Starved,
}
