//! The agent: dispatches events to the volumes it has attached.

use crate::context::{AgentConfig, Context, PieceOwner, Shared};
use crate::counters::Counters;
use crate::event::{Effect, Event, HostId, IoKind, IoRequest, IoResult, VolumeSlot};
use crate::memory::{self, Touched};
use crate::session::turn_away;
use crate::slab::Slab;
use crate::volume::{Leaving, Volume};
use model::{BufferPool, Epoch, IoError, Time, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;
use wire::{Access, AgentMessage, AttachError, ControllerMessage, NodeReply, RequestId};

/// The agent engine. One per data thread; it owns the volumes attached through it.
#[derive(Debug, Default)]
pub struct Agent {
    shared: Shared,
    volumes: Slab<Volume>,
    by_volume: BTreeMap<VolumeId, VolumeSlot>,
    by_epoch: BTreeMap<Epoch, VolumeSlot>,
    attaching: BTreeMap<VolumeId, (RequestId, Vec<HostId>)>,
    shutting_down: bool,
    /// Of volumes that are detached.
    past: Counters,
}

/// What one attached volume does and holds; for metrics.
#[derive(Clone, Debug)]
pub struct VolumeReport {
    /// The volume.
    pub volume: VolumeId,
    /// How many hosts have it open.
    pub hosts: u32,
    /// Its counters since it was attached.
    pub counters: Counters,
    /// What its table occupies, in bytes.
    pub table_bytes: usize,
    /// How many pages it holds.
    pub table_pages: usize,
    /// Granted regions that are not mapped.
    pub granted_regions: u64,
}

impl Agent {
    /// An agent with nothing attached.
    #[must_use]
    pub fn new(config: AgentConfig) -> Self {
        Self { shared: Shared::new(config), ..Self::default() }
    }

    /// Takes in one event. What is to be done is added to `out`.
    pub fn step(&mut self, now: Time, event: Event, buffers: &mut BufferPool, out: &mut Vec<Effect>) {
        let touched = self.touched(&event);
        self.take_in(now, event, buffers, out);
        match touched {
            Touched::Nothing => return,
            Touched::One(slot) => {
                if let Some(volume) = self.volumes.get_mut(slot.0) {
                    self.shared.count_table(volume);
                }
            }
            Touched::All => {
                for slot in self.by_volume.values() {
                    if let Some(volume) = self.volumes.get_mut(slot.0) {
                        self.shared.count_table(volume);
                    }
                }
            }
        }
        memory::make_room(&mut Context { now, shared: &mut self.shared, buffers, out }, &mut self.volumes);
    }

    /// Which tables the event may change.
    fn touched(&self, event: &Event) -> Touched {
        let slot = match event {
            Event::Io(request) => Some(request.volume),
            Event::FromNode(reply) => self.shared.pieces.get(reply.id.0 as u32).map(|piece| piece.slot),
            Event::FromController(message) => match message {
                ControllerMessage::Page { epoch, .. }
                | ControllerMessage::SnapshotPage { epoch, .. }
                | ControllerMessage::Granted { epoch, .. }
                | ControllerMessage::Committed { epoch, .. }
                | ControllerMessage::Order { epoch, .. } => self.by_epoch.get(epoch).copied(),
                ControllerMessage::Attached { .. }
                | ControllerMessage::Detached { .. }
                | ControllerMessage::LogicalDisk { .. } => None,
            },
            Event::HostAttach { .. } | Event::HostDetach { .. } => None,
            Event::Tick | Event::Shutdown => return Touched::All,
        };
        slot.map_or(Touched::Nothing, Touched::One)
    }

    fn take_in(&mut self, now: Time, event: Event, buffers: &mut BufferPool, out: &mut Vec<Effect>) {
        let mut context = Context { now, shared: &mut self.shared, buffers, out };
        match event {
            Event::Io(request) => match self.volumes.get_mut(request.volume.0) {
                Some(volume) if volume.leaving.is_none() => {
                    volume.submit(&mut context, request);
                    volume.commit_if_many(&mut context);
                }
                _ => refuse(&mut context, request),
            },
            Event::FromNode(reply) => {
                let NodeReply { id, result, buffer } = reply;
                let Some(piece) = context.shared.pieces.remove(id.0 as u32) else { return };
                let Some(volume) = self.volumes.get_mut(piece.slot.0) else { return };
                match piece.owner {
                    PieceOwner::Read { task, part } => {
                        volume.read_piece_done(&mut context, task, part, result, buffer);
                    }
                    PieceOwner::Write { task } => volume.write_piece_done(&mut context, task, piece.disk, result),
                    PieceOwner::Edge { task, last } => volume.edge_read(&mut context, task, last, result, buffer),
                    PieceOwner::MergeRead { task, part } => volume.merge_read(&mut context, task, part, result, buffer),
                    PieceOwner::MergeWrite { task } => volume.merge_written(&mut context, task, piece.disk, result),
                    PieceOwner::Flush { round } => volume.disk_flushed(&mut context, round, result),
                }
                volume.commit_if_many(&mut context);
            }
            Event::FromController(message) => self.from_controller(now, message, buffers, out),
            Event::HostAttach { host, volume } => self.host_attach(now, host, volume, buffers, out),
            Event::HostDetach { host } => {
                for (_, hosts) in self.attaching.values_mut() {
                    hosts.retain(|waiting| *waiting != host);
                }
                for slot in self.by_volume.values() {
                    if let Some(volume) = self.volumes.get_mut(slot.0) {
                        volume.dismiss(&context, host);
                    }
                }
            }
            Event::Tick => {
                for slot in self.by_volume.values() {
                    if let Some(volume) = self.volumes.get_mut(slot.0) {
                        volume.tick(&mut context);
                    }
                }
            }
            Event::Shutdown => {
                self.shutting_down = true;
                for slot in self.by_volume.values() {
                    if let Some(volume) = self.volumes.get_mut(slot.0) {
                        volume.shutting_down = true;
                        volume.evict_hosts(&mut context);
                        if volume.leaving.is_none() {
                            volume.leave(&mut context, None);
                        }
                    }
                }
            }
        }
    }

    fn host_attach(
        &mut self,
        now: Time,
        host: HostId,
        volume: VolumeId,
        buffers: &mut BufferPool,
        out: &mut Vec<Effect>,
    ) {
        let mut context = Context { now, shared: &mut self.shared, buffers, out };
        if self.shutting_down {
            return turn_away(&mut context, vec![host], AttachError::Unavailable);
        }
        if let Some(attached) = self.by_volume.get(&volume).and_then(|slot| self.volumes.get_mut(slot.0)) {
            attached.admit(&mut context, host);
            return;
        }
        if let Some((_, hosts)) = self.attaching.get_mut(&volume) {
            return hosts.push(host);
        }
        self.attach(now, volume, vec![host], buffers, out);
    }

    fn attach(
        &mut self,
        now: Time,
        volume: VolumeId,
        hosts: Vec<HostId>,
        buffers: &mut BufferPool,
        out: &mut Vec<Effect>,
    ) {
        let mut context = Context { now, shared: &mut self.shared, buffers, out };
        let request = context.shared.request_id();
        self.attaching.insert(volume, (request, hosts));
        context.to_controller(AgentMessage::Attach { request, volume, access: Access::ReadWrite });
    }

    fn from_controller(
        &mut self,
        now: Time,
        message: ControllerMessage,
        buffers: &mut BufferPool,
        out: &mut Vec<Effect>,
    ) {
        let mut context = Context { now, shared: &mut self.shared, buffers, out };
        match message {
            ControllerMessage::Attached { request, result } => self.attached(now, request, result, buffers, out),
            ControllerMessage::Detached { epoch } => self.detached(now, epoch, buffers, out),
            ControllerMessage::LogicalDisk { layout } => context.shared.learn(layout),
            ControllerMessage::Page { request, epoch, page, runs, absent_until } => {
                if let Some(volume) = volume_of(&self.by_epoch, &mut self.volumes, epoch) {
                    volume.page_arrived(&mut context, request, page, &runs, absent_until);
                    volume.leave_when_quiet(&mut context);
                }
            }
            ControllerMessage::SnapshotPage { request, epoch, page, found } => {
                if let Some(volume) = volume_of(&self.by_epoch, &mut self.volumes, epoch) {
                    volume.snapshot_page_arrived(&mut context, request, page, found);
                    volume.leave_when_quiet(&mut context);
                }
            }
            ControllerMessage::Granted { request, epoch, result } => {
                match volume_of(&self.by_epoch, &mut self.volumes, epoch) {
                    Some(volume) => {
                        volume.granted(&mut context, request, result);
                        volume.leave_when_quiet(&mut context);
                    }
                    // The session has ended meanwhile, and its grants with it.
                    None => drop(result),
                }
            }
            ControllerMessage::Committed { request, epoch, result } => {
                if let Some(volume) = volume_of(&self.by_epoch, &mut self.volumes, epoch) {
                    volume.committed(&mut context, request, result);
                }
            }
            ControllerMessage::Order { command, epoch, order } => {
                match volume_of(&self.by_epoch, &mut self.volumes, epoch) {
                    Some(volume) => volume.obey(&mut context, command, order),
                    None => {
                        let outcome = wire::OrderOutcome::NoSession;
                        context.to_controller(AgentMessage::OrderDone { command, epoch, outcome });
                    }
                }
            }
        }
    }

    fn attached(
        &mut self,
        now: Time,
        request: RequestId,
        result: Result<wire::Attachment, AttachError>,
        buffers: &mut BufferPool,
        out: &mut Vec<Effect>,
    ) {
        let Some(volume) = self.attaching.iter().find(|(_, (sent, _))| *sent == request).map(|(volume, _)| *volume)
        else {
            return;
        };
        let (_, hosts) = self.attaching.remove(&volume).expect("found a moment ago");
        let mut context = Context { now, shared: &mut self.shared, buffers, out };
        let attachment = match result {
            Ok(attachment) => attachment,
            Err(error) => return turn_away(&mut context, hosts, error),
        };
        for layout in &attachment.layouts {
            context.shared.learn(std::sync::Arc::clone(layout));
        }
        let epoch = attachment.credentials.epoch;
        context.shared.table_added();
        let index = self.volumes.insert(Volume::new(VolumeSlot(0), attachment, now));
        let slot = VolumeSlot(index);
        let attached = self.volumes.get_mut(index).expect("inserted a moment ago");
        attached.slot = slot;
        self.by_volume.insert(volume, slot);
        self.by_epoch.insert(epoch, slot);
        attached.settle(&mut context);
        for host in hosts {
            attached.admit(&mut context, host);
        }
        if self.shutting_down {
            attached.shutting_down = true;
            attached.evict_hosts(&mut context);
            attached.leave(&mut context, None);
        }
    }

    fn detached(&mut self, now: Time, epoch: Epoch, buffers: &mut BufferPool, out: &mut Vec<Effect>) {
        let Some(slot) = self.by_epoch.get(&epoch).copied() else { return };
        let leaving = self.volumes.get(slot.0).is_some_and(|volume| volume.leaving == Some(Leaving::Detaching));
        if !leaving {
            return;
        }
        self.by_epoch.remove(&epoch);
        let volume = self.volumes.remove(slot.0).expect("seen a moment ago");
        self.by_volume.remove(&volume.attachment.volume);
        self.shared.table_removed(&volume);
        self.past.add(&volume.counters);
        if !volume.waiting_hosts.is_empty() {
            if self.shutting_down {
                let mut context = Context { now, shared: &mut self.shared, buffers, out };
                turn_away(&mut context, volume.waiting_hosts, AttachError::Unavailable);
            } else {
                self.attach(now, volume.attachment.volume, volume.waiting_hosts, buffers, out);
            }
        }
    }

    /// When [`Event::Tick`] is wanted next; `None` while nothing is due without another event.
    #[must_use]
    pub fn next_deadline(&self, now: Time) -> Option<Time> {
        let commit_after = Duration::from_nanos(self.shared.config.commit_after_nanos);
        let linger = Duration::from_nanos(self.shared.config.linger_nanos);
        self.volumes.iter().filter_map(|(_, volume)| volume.next_deadline(now, commit_after, linger)).min()
    }

    /// Whether nothing is attached or under way any more.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.volumes.len() == 0 && self.attaching.is_empty()
    }

    /// What every attached volume does.
    #[must_use]
    pub fn reports(&self) -> Vec<VolumeReport> {
        self.volumes
            .iter()
            .map(|(_, volume)| VolumeReport {
                volume: volume.attachment.volume,
                hosts: volume.hosts.len() as u32,
                counters: volume.counters,
                table_bytes: volume.table.resident_bytes(),
                table_pages: volume.table.held_pages(),
                granted_regions: volume.grants.regions(),
            })
            .collect()
    }

    /// What the tables of all its volumes may take, in bytes.
    #[must_use]
    pub fn table_bytes_max(&self) -> usize {
        self.shared.config.table_bytes_max
    }

    /// What of that they take, in bytes.
    #[must_use]
    pub fn table_bytes_used(&self) -> usize {
        self.shared.memory.used()
    }

    /// Table pages evicted so far.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.shared.memory.evictions()
    }

    /// What its tables take, counted anew: walks every table. For tests.
    #[must_use]
    pub fn table_bytes_recounted(&self) -> usize {
        self.volumes.iter().map(|(_, volume)| volume.table.recounted_bytes()).sum()
    }

    /// The counters of volumes that were detached, summed up.
    #[must_use]
    pub fn past_counters(&self) -> Counters {
        self.past
    }
}

fn volume_of<'a>(
    by_epoch: &BTreeMap<Epoch, VolumeSlot>,
    volumes: &'a mut Slab<Volume>,
    epoch: Epoch,
) -> Option<&'a mut Volume> {
    volumes.get_mut(by_epoch.get(&epoch)?.0)
}

fn refuse(context: &mut Context<'_>, request: IoRequest) {
    if let IoKind::Write { data, .. } = request.kind {
        context.buffers.put(data);
    }
    context.out.push(Effect::Reply { id: request.id, result: IoResult::Failed(IoError::ShuttingDown) });
}
