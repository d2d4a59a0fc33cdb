//! The connections of a data thread: accepted, driven by their protocol, moved to the thread of their volume, closed.

use crate::engine::catalog::export_info;
use crate::engine::data::{DataMessage, DataThread};
use crate::engine::host::{Export, Host, Receiving, SLICES_MAX, SendBatch, TLS_RECEIVE_BYTES, TLS_SEND_BYTES, io_id};
use crate::engine::status;
use crate::engine::tls::TlsStream;
use crate::engine::turns::Turns;
use agent::{HostId, HostVolume, IoKind, IoRequest};
use model::IoBuffer;
use nbd::server::{CloseReason, Connection, ContextSet, Event, ExportError, RequestKind};
use reactor::{Completion, Operation, Payload};
use std::sync::Arc;
use wire::AttachError;

/// Connections by a small dense index, and whose turn it is.
#[derive(Default)]
pub(crate) struct Hosts {
    slots: Vec<Option<Box<Host>>>,
    free: Vec<u32>,
    pub(crate) turns: Turns,
}

impl Hosts {
    pub(crate) fn insert(&mut self, host: Host) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[index as usize] = Some(Box::new(host));
        self.touch(index);
        index
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<Box<Host>> {
        let host = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(host)
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Host> {
        self.slots.get_mut(index as usize)?.as_deref_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn indices(&self) -> Vec<u32> {
        (0..self.slots.len() as u32).filter(|index| self.slots[*index as usize].is_some()).collect()
    }

    /// The connection has something to do.
    pub(crate) fn touch(&mut self, index: u32) {
        self.turns.touch(index);
    }

    fn find(&self, id: HostId) -> Option<u32> {
        let found = self.slots.iter().position(|host| host.as_ref().is_some_and(|host| host.id == id))?;
        Some(found as u32)
    }
}

impl DataThread {
    pub(crate) fn accepted(&mut self, listener: usize, completion: Completion) {
        if completion.is_cancelled() {
            return;
        }
        match (completion.result, completion.payload) {
            (Ok(_), Payload::Socket(socket)) => {
                if self.settings.connect() {
                    self.greet(socket);
                } else {
                    tracing::warn!(peer = %socket.peer(), "turned away: as many connections as are allowed are open");
                }
            }
            (Err(error), _) => tracing::warn!("a connection could not be accepted: {error}"),
            (Ok(_), _) => {}
        }
        self.accept(listener);
    }

    /// Starts to speak NBD on a new connection.
    pub(crate) fn greet(&mut self, socket: reactor::Socket) {
        let connection = Connection::new(Arc::clone(&self.settings.nbd), self.now);
        let deadline = connection.deadline();
        let host = Host::new(self.host_id(), socket, connection);
        let index = self.hosts.insert(host);
        if let Some(at) = deadline {
            self.handshakes.insert((at, index));
        }
    }

    /// Takes over a connection whose volume belongs here.
    pub(crate) fn adopt(&mut self, mut host: Host) {
        let Export::Moving { name, .. } = host.export.clone() else { return };
        host.export = Export::None;
        let deadline = host.connection.deadline();
        let index = self.hosts.insert(host);
        // Should the export not open, it is back in the handshake, whose time goes on.
        if let Some(at) = deadline {
            self.handshakes.insert((at, index));
        }
        self.open(index, &name);
    }

    /// Gives a connection the events it has, up to `share` of them; tells whether those were all.
    pub(crate) fn drive(&mut self, index: u32, share: usize) -> bool {
        let mut events = 0;
        loop {
            let Some(host) = self.hosts.get_mut(index) else { return true };
            if host.tls_pending && host.tls.as_ref().is_some_and(TlsStream::is_up) {
                self.tls_up(index);
                continue;
            }
            if events == share {
                return false;
            }
            if let Some(event) = host.connection.next_event(&mut self.buffers) {
                events += 1;
                self.host_event(index, event);
                continue;
            }
            let Some(tls) = host.tls.as_mut().filter(|_| !host.tls_pending && !host.closing) else { return true };
            if tls.plaintext().is_empty() {
                return true;
            }
            let taken = host.connection.received_bytes(tls.plaintext(), &mut self.buffers);
            tls.take_plaintext(taken);
            if taken == 0 {
                return true;
            }
        }
    }

    fn tls_up(&mut self, index: u32) {
        let settings = Arc::clone(&self.settings);
        let Some(host) = self.hosts.get_mut(index) else { return };
        host.tls_pending = false;
        let certificate = host.tls.as_ref().and_then(TlsStream::client_certificate);
        match settings.exports_of(certificate.as_deref()) {
            Ok(allowed) => {
                host.allowed = allowed;
                host.connection.tls_upgraded();
            }
            Err(reason) => {
                tracing::warn!(peer = %host.peer, "a TLS client is refused: {reason}");
                host.connection.peer_closed(&mut self.buffers);
            }
        }
    }

    fn host_event(&mut self, index: u32, event: Event) {
        let Some(host) = self.hosts.get_mut(index) else { return };
        match event {
            Event::ListExports => {
                let exports = self.catalog.current();
                let names: Vec<_> =
                    exports.iter().map(|export| export.name.as_str()).filter(|name| host.may_see(name)).collect();
                host.connection.exports_listed(names.into_iter().map(|name| (name, "")));
            }
            Event::QueryExport { name } => {
                let found = self.catalog.find(&name, |name| host.may_see(name));
                let answer = found
                    .map(|found| export_info(found.name, found.size_bytes, found.read_only))
                    .ok_or(ExportError::Unknown);
                host.connection.export_opened(answer);
            }
            Event::OpenExport { name } => self.open(index, &name),
            Event::ResolveContexts { name, queries, all } => {
                let found = self.catalog.find(&name, |name| host.may_see(name));
                let exports = self.catalog.current();
                let contexts = found.map(|export| {
                    status::contexts_of(&exports, &export.name, &queries, all, |name| host.may_see(name))
                });
                match contexts {
                    Some(contexts) => {
                        host.snapshots.extend(contexts.iter().cloned());
                        host.connection.contexts_resolved(Ok(contexts.into_iter().map(|(context, _)| context)));
                    }
                    None => host.connection.contexts_resolved(Err::<[String; 0], _>(ExportError::Unknown)),
                }
            }
            Event::UpgradeTls => self.upgrade(index),
            Event::Request(request) => {
                let Export::Open { slot, .. } = host.export else {
                    return host.connection.reply_error(request.id, nbd::ErrorCode::Invalid);
                };
                let id = request.id;
                match io_kind(request.kind) {
                    Asked::Io(kind) => {
                        host.io_in_flight += 1;
                        let request = IoRequest { id: io_id(index, id, None), volume: slot, kind };
                        self.agent_step(agent::Event::Io(request));
                    }
                    Asked::Status(range, contexts) => {
                        let questions = status::questions(host, index, slot, id, range, contexts);
                        host.io_in_flight += questions.len() as u32;
                        for question in questions {
                            self.agent_step(agent::Event::Io(question));
                        }
                    }
                }
            }
            Event::Close(reason) => self.close(index, reason),
        }
    }

    fn upgrade(&mut self, index: u32) {
        let settings = Arc::clone(&self.settings);
        let Some(host) = self.hosts.get_mut(index) else { return };
        let stream = settings.tls.clone().and_then(|config| TlsStream::new(config).ok());
        match stream {
            Some(stream) => {
                host.tls = Some(stream);
                host.tls_pending = true;
            }
            None => host.connection.peer_closed(&mut self.buffers),
        }
    }

    fn open(&mut self, index: u32, name: &str) {
        let (this_thread, threads) = (self.index, self.threads.len());
        let leaving = self.leaving.is_some();
        let Some(host) = self.hosts.get_mut(index) else { return };
        if leaving {
            return host.connection.export_opened(Err(ExportError::ShuttingDown));
        }
        let Some(found) = self.catalog.find(name, |name| host.may_see(name)) else {
            return host.connection.export_opened(Err(ExportError::Unknown));
        };
        let (name, volume) = (found.name, found.volume);
        let thread = volume.0 as usize % threads;
        if thread != this_thread {
            host.export = Export::Moving { name, thread };
            return;
        }
        host.export = Export::Attaching { name, volume };
        let host = host.id;
        self.agent_step(agent::Event::HostAttach { host, volume });
    }

    pub(crate) fn attached(&mut self, host_id: HostId, result: Result<HostVolume, AttachError>) {
        let Some(index) = self.hosts.find(host_id) else {
            return self.agent_step(agent::Event::HostDetach { host: host_id });
        };
        let Some(host) = self.hosts.get_mut(index) else { return };
        let Export::Attaching { name, volume: id } = host.export.clone() else { return };
        if host.closing {
            host.export = Export::None;
            self.hosts.touch(index);
            return self.agent_step(agent::Event::HostDetach { host: host_id });
        }
        match result {
            Ok(volume) => {
                let is_read_only = self.catalog.current().of(id).is_some_and(|export| export.read_only);
                let read_only = volume.read_only || is_read_only;
                let info = export_info(name, volume.size_bytes, read_only);
                host.export = Export::Open { volume: id, slot: volume.slot };
                tracing::debug!(peer = %host.peer, "opened");
                let deadline = host.connection.deadline();
                host.connection.export_opened(Ok(info));
                // A deadline that is past its use would still be a timer to set at each wait.
                if let Some(at) = deadline.filter(|_| host.connection.deadline().is_none()) {
                    self.handshakes.remove(&(at, index));
                }
            }
            Err(error) => {
                host.export = Export::None;
                let error = match error {
                    AttachError::NoSuchVolume => ExportError::Unknown,
                    AttachError::Busy | AttachError::Unavailable => ExportError::Unavailable,
                };
                host.connection.export_opened(Err(error));
            }
        }
        self.hosts.touch(index);
    }

    pub(crate) fn evicted(&mut self, id: HostId) {
        if let Some(index) = self.hosts.find(id)
            && let Some(host) = self.hosts.get_mut(index)
        {
            host.detached = true;
            host.connection.begin_shutdown();
            self.hosts.touch(index);
        }
    }

    fn close(&mut self, index: u32, reason: CloseReason) {
        let Some(host) = self.hosts.get_mut(index) else { return };
        host.closing = true;
        match reason {
            CloseReason::Violation(violation) => {
                tracing::info!(peer = %host.peer, "closed: the client broke the protocol: {violation}");
            }
            reason => tracing::debug!(peer = %host.peer, "closed: {reason}"),
        }
        if let Some(tls) = &mut host.tls {
            tls.close();
        }
        let (id, open) = (host.id, matches!(host.export, Export::Open { .. }) && !host.detached);
        if open {
            host.detached = true;
            self.agent_step(agent::Event::HostDetach { host: id });
        }
    }

    /// Sends what there is to send and receives what there is to receive; moves or drops a connection at rest.
    pub(crate) fn exchange(&mut self, index: u32, receive: u64, send: u64) {
        let Some(host) = self.hosts.get_mut(index) else { return };
        if !host.sending {
            let mut batch_is_all = false;
            let batch: Option<Box<dyn reactor::Gather>> = match &mut host.tls {
                Some(tls) => {
                    let mut plaintext = Vec::new();
                    // What the protocol said before STARTTLS was all sent before it asked for the upgrade.
                    if !host.tls_pending {
                        host.connection.write_output(&mut plaintext, TLS_SEND_BYTES, &mut self.buffers);
                    }
                    let sealed = if plaintext.is_empty() { Ok(()) } else { tls.send(&plaintext) };
                    match sealed.and_then(|()| tls.ciphertext()) {
                        Ok(bytes) if bytes.is_empty() => None,
                        Ok(bytes) => Some(Box::new(bytes)),
                        Err(_) => {
                            host.connection.peer_closed(&mut self.buffers);
                            None
                        }
                    }
                }
                None => host.connection.take_output(SLICES_MAX).map(|batch| {
                    batch_is_all = batch.slices().map(<[u8]>::len).sum::<usize>() == batch.len();
                    Box::new(SendBatch(batch)) as _
                }),
            };
            if let Some(batch) = batch {
                host.sending = true;
                let socket = host.socket.clone();
                // Where nothing waits for the end of this send, it ends no wait.
                let quiet = batch_is_all && !host.closing && !host.connection.waits_for_sending();
                self.reactor.submit(send, Operation::Send { socket, batch, quiet });
            }
        }
        let moving = matches!(host.export, Export::Moving { .. });
        // While its input is lent to a receive, a connection tells of nothing that it has heard already.
        let is_behind = self.hosts.turns.is_waiting(index);
        let Some(host) = self.hosts.get_mut(index) else { return };
        if matches!(host.receiving, Receiving::No) && !host.closing && !moving && !is_behind {
            let target = match &host.tls {
                Some(tls) if tls.plaintext().is_empty() => {
                    let buffer = self.buffers.take(TLS_RECEIVE_BYTES);
                    let end = buffer.len();
                    host.receiving = Receiving::Tls;
                    Some((buffer, 0, end))
                }
                Some(_) => None,
                None => host.connection.wanted_receive(&mut self.buffers).map(|mut target| {
                    let buffer = std::mem::replace(&mut target.buffer, IoBuffer::empty());
                    let (start, end) = (target.start, target.end);
                    host.receiving = Receiving::Plain(target);
                    (buffer, start, end)
                }),
            };
            if let Some((buffer, start, end)) = target {
                let socket = host.socket.clone();
                self.reactor.submit(receive, Operation::Receive { socket, buffer, start, end });
            }
        }
        self.part_with(index, receive);
    }

    fn part_with(&mut self, index: u32, receive: u64) {
        let Some(host) = self.hosts.get_mut(index) else { return };
        if host.closing && !host.sending {
            if !matches!(host.receiving, Receiving::No) {
                host.socket.shutdown();
                self.reactor.cancel(receive);
            } else if host.io_in_flight == 0 && !matches!(host.export, Export::Attaching { .. }) {
                let host = self.hosts.remove(index).expect("looked at a moment ago");
                host.socket.shutdown();
                host.connection.release(&mut self.buffers);
                self.settings.disconnect();
            }
            return;
        }
        if let Export::Moving { thread, .. } = host.export
            && host.is_at_rest()
            && let Some(host) = self.hosts.remove(index)
        {
            self.threads[thread].post(DataMessage::Host(host));
        }
    }
}

/// What a request comes to.
enum Asked {
    Io(IoKind),
    /// Offset, length, and whether one extent is enough; of which contexts.
    Status((u64, u64, bool), ContextSet),
}

fn io_kind(kind: RequestKind) -> Asked {
    Asked::Io(match kind {
        RequestKind::Read { offset, length } => IoKind::Read { offset, length },
        RequestKind::Write { offset, length, data, fua } => IoKind::Write { offset, length, data, fua },
        RequestKind::Flush => IoKind::Flush,
        RequestKind::Trim { offset, length, fua } => IoKind::Zero { offset, length, fua, keep_space: false },
        // Zeroing is an edit of the map here: it is always fast.
        RequestKind::WriteZeroes { offset, length, fua, no_hole, fast: _ } => {
            IoKind::Zero { offset, length, fua, keep_space: no_hole }
        }
        RequestKind::Cache { offset, length } => IoKind::Prefetch { offset, length },
        RequestKind::BlockStatus { offset, length, one, contexts } => {
            return Asked::Status((offset, length, one), contexts);
        }
    })
}
