//! One host's connection at a data thread: its socket, its protocol session and its volume.

use crate::engine::catalog::volume_of;
use crate::engine::status::Gathering;
use crate::engine::tls::TlsStream;
use agent::{HostId, IoId, VolumeSlot};
use model::VolumeId;
use nbd::server::{Connection, ContextIndex, OutputBatch, ReceiveTarget, RequestId};
use reactor::{Gather, Socket};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most slices one send gathers.
pub(crate) const SLICES_MAX: usize = 512;
/// Ciphertext is received in steps of so many bytes.
pub(crate) const TLS_RECEIVE_BYTES: usize = 64 << 10;
/// Plaintext is encrypted in steps of so many bytes.
pub(crate) const TLS_SEND_BYTES: usize = 256 << 10;

/// How far a host's export is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Export {
    /// None chosen.
    None,
    /// It asked for this one, which belongs to another thread: to be moved there once nothing is being sent.
    Moving { name: String, thread: usize },
    /// The agent has been asked.
    Attaching { name: String, volume: VolumeId },
    /// Its I/O goes to this volume.
    Open { volume: VolumeId, slot: VolumeSlot },
}

/// What is being received into.
pub(crate) enum Receiving {
    /// Nothing.
    No,
    /// The protocol's own buffer, lent to the reactor.
    Plain(ReceiveTarget),
    /// A buffer for ciphertext.
    Tls,
}

/// One connection.
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) socket: Socket,
    pub(crate) connection: Connection,
    pub(crate) tls: Option<TlsStream>,
    pub(crate) tls_pending: bool,
    /// The exports a client certificate opens; all of them without such a rule.
    pub(crate) allowed: Option<Arc<BTreeSet<String>>>,
    pub(crate) export: Export,
    /// The snapshots that metadata contexts are about, by the contexts' names.
    pub(crate) snapshots: BTreeMap<String, VolumeId>,
    /// Status requests that are answered in part.
    pub(crate) gathering: BTreeMap<RequestId, Gathering>,
    pub(crate) receiving: Receiving,
    pub(crate) sending: bool,
    /// I/O at the agent that has not been answered.
    pub(crate) io_in_flight: u32,
    /// The protocol has ended; what remains is to send the last bytes and wait for I/O in flight.
    pub(crate) closing: bool,
    pub(crate) detached: bool,
    pub(crate) peer: String,
}

impl Host {
    pub(crate) fn new(id: HostId, socket: Socket, connection: Connection) -> Self {
        let peer = socket.peer();
        Self {
            id,
            socket,
            connection,
            tls: None,
            tls_pending: false,
            allowed: None,
            export: Export::None,
            snapshots: BTreeMap::new(),
            gathering: BTreeMap::new(),
            receiving: Receiving::No,
            sending: false,
            io_in_flight: 0,
            closing: false,
            detached: false,
            peer,
        }
    }

    /// Whether this client may know of the export. Whom a volume is opened to, its snapshots are too.
    pub(crate) fn may_see(&self, name: &str) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| is_opened(allowed, name))
    }

    /// Whether nothing of it is lent to anybody: it can be moved or dropped.
    pub(crate) fn is_at_rest(&self) -> bool {
        !self.sending && matches!(self.receiving, Receiving::No)
    }
}

/// Whether rules that name `allowed` open this export.
fn is_opened(allowed: &BTreeSet<String>, name: &str) -> bool {
    allowed.contains(name) || allowed.contains(volume_of(name))
}

/// How many bits of an I/O's name are its request's.
const REQUEST_BITS: u32 = 24;

/// The name of a request at the agent: the host's place here, the metadata context it is about if it is about one, and the
/// request's place in its connection.
///
/// # Panics
/// When a connection has more requests than its limit of some hundreds.
pub(crate) fn io_id(host: u32, request: RequestId, context: Option<ContextIndex>) -> IoId {
    assert!(request.0 < 1 << REQUEST_BITS, "a connection's requests are few");
    let part = context.map_or(0, |context| u64::from(context.0) + 1);
    IoId(u64::from(host) << 32 | part << REQUEST_BITS | u64::from(request.0))
}

/// The host's place, the request and the metadata context of an I/O.
pub(crate) fn of_io(id: IoId) -> (u32, RequestId, Option<ContextIndex>) {
    let part = (id.0 as u32 >> REQUEST_BITS) as u8;
    let request = RequestId(id.0 as u32 & ((1 << REQUEST_BITS) - 1));
    ((id.0 >> 32) as u32, request, part.checked_sub(1).map(ContextIndex))
}

/// A batch of replies on its way.
pub(crate) struct SendBatch(pub(crate) OutputBatch);

impl Gather for SendBatch {
    fn each_slice<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8])) {
        self.0.slices().for_each(visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_is_known_by_its_host_its_request_and_its_context() {
        for context in [None, Some(ContextIndex(0)), Some(ContextIndex(15))] {
            let (host, request) = (u32::MAX, RequestId(255));
            assert_eq!(of_io(io_id(host, request, context)), (host, request, context));
        }
    }

    #[test]
    fn whom_a_volume_is_opened_to_its_snapshots_are_too_and_not_the_other_way_round() {
        let allowed: BTreeSet<String> = ["web".into(), "db@nightly".into()].into();
        for (name, is_it) in [
            ("web", true),
            ("web@mon", true),
            ("web2", false),
            ("web2@mon", false),
            ("db", false),
            ("db@nightly", true),
            ("db@other", false),
        ] {
            assert_eq!(is_opened(&allowed, name), is_it, "{name}");
        }
    }
}
