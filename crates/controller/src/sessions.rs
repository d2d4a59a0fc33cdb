//! Sessions: attachments, their ends, and fences around those that ended badly.

use crate::engine::{After, Command, Controller};
use crate::state::{AttachRequest, Session, SessionStage};
use model::{BranchId, Epoch, Generation, LogicalDiskId, VolumeId};
use std::collections::BTreeSet;
use std::time::Duration;
use store::records::{Record, SessionRecord};
use store::{Key, KeyRange};
use wire::{AgentId, AttachError, Attachment, ControllerMessage, Credentials, NodeOrder, OrderOutcome, RequestId};

/// How long after a node failed to fence it is asked again.
pub(crate) const FENCE_RETRY: Duration = Duration::from_secs(1);
/// The most attachments that wait at once.
const ATTACHES_MAX: usize = 4096;

impl Controller {
    pub(crate) fn attach(&mut self, wanted: AttachRequest) {
        let refuse = |controller: &mut Self, error| {
            let message = ControllerMessage::Attached { request: wanted.request, result: Err(error) };
            controller.to_agent(wanted.agent, message);
        };
        let (session, has_job) = match (self.volumes.get(&wanted.volume), self.snapshots.get(&wanted.volume)) {
            (Some(volume), _) if !volume.record.deleting => {
                if volume.ordered {
                    return refuse(self, AttachError::Busy);
                }
                (volume.session, volume.job.is_some() || volume.cut.is_some())
            }
            (None, Some(snapshot)) if !snapshot.record.deleted && snapshot.visible => (snapshot.session, false),
            _ => return refuse(self, AttachError::NoSuchVolume),
        };
        match session.and_then(|epoch| self.sessions.get(&epoch)).map(|session| session.stage) {
            Some(SessionStage::Opening | SessionStage::Live) => return refuse(self, AttachError::Busy),
            // A former holder may still write: not before every node refuses it.
            Some(SessionStage::Fencing | SessionStage::Closing) => {}
            None if has_job => {}
            None => return self.open_session(&wanted),
        }
        if self.attaches.len() >= ATTACHES_MAX {
            return refuse(self, AttachError::Unavailable);
        }
        self.attaches.push_back(wanted);
    }

    /// The session that has a volume or a snapshot, or had it until it is fenced.
    pub(crate) fn session_of(&mut self, id: VolumeId) -> Option<&mut Option<Epoch>> {
        match self.volumes.get_mut(&id) {
            Some(volume) => Some(&mut volume.session),
            None => self.snapshots.get_mut(&id).map(|snapshot| &mut snapshot.session),
        }
    }

    fn open_session(&mut self, wanted: &AttachRequest) {
        let Some(view) = self.view_of(wanted.volume) else { return };
        let (of_snapshot, pool) = match self.snapshots.get(&wanted.volume) {
            Some(snapshot) => (true, self.volumes.get(&snapshot.record.volume)),
            None => (false, self.volumes.get(&wanted.volume)),
        };
        let Some(pool) = pool.map(|volume| volume.record.pool) else { return };
        let epoch = self.counters.epoch.next();
        self.counters.epoch = epoch;
        self.counters_changed = true;
        *self.session_of(wanted.volume).expect("it has a view") = Some(epoch);
        let term = self.counters.term;
        let read_only = wanted.read_only || of_snapshot;
        let session = Session {
            agent: wanted.agent,
            volume: wanted.volume,
            branch: view.branch(),
            of_snapshot,
            pool,
            term,
            read_only,
            begun: view.generation(),
            near: None,
            stage: SessionStage::Opening,
        };
        self.sessions.insert(epoch, session);
        let record = SessionRecord { volume: wanted.volume, agent: wanted.agent.0, term, read_only };
        self.batch.put(Key::Session(epoch), record.encode());
        self.after.push(After::Attached { agent: wanted.agent, request: wanted.request, epoch });
    }

    /// A session's record is durable: its agent may begin.
    pub(crate) fn attached(&mut self, agent: AgentId, request: RequestId, epoch: Epoch) {
        let Some(session) = self.sessions.get_mut(&epoch) else { return };
        if session.stage != SessionStage::Opening {
            return;
        }
        session.stage = SessionStage::Live;
        let session = &self.sessions[&epoch];
        let (Some(view), Some(pool)) = (self.view_of(session.volume), self.pools.get(&session.pool)) else { return };
        let frozen_through = match self.branches.get(&view.branch()) {
            Some(branch) if !session.of_snapshot => branch.record.frozen_through,
            _ => view.generation(),
        };
        let read_only = self.volumes.get(&session.volume).is_some_and(|volume| volume.record.read_only);
        // (Of a volume that nobody has attached a snapshot is taken at once, whatever its last session left in a cache.)
        let of_branch = |(branch, _): &(BranchId, Generation)| {
            let volume = self.branches.get(branch).and_then(|branch| self.volumes.get(&branch.record.volume));
            volume.map_or(&[][..], |volume| &volume.progress.logical_disks)
        };
        let written: BTreeSet<LogicalDiskId> = view.chain.iter().flat_map(of_branch).copied().collect();
        let attachment = Attachment {
            volume: session.volume,
            branch: view.branch(),
            credentials: Credentials { cluster: self.cluster, term: session.term, epoch },
            size_bytes: view.size_bytes,
            region_size: view.region_size,
            generation: view.generation(),
            frozen_through,
            read_only: read_only || session.read_only,
            layouts: pool.logical_disks.values().cloned().collect(),
            written: written.into_iter().collect(),
        };
        let volume = session.volume;
        self.to_agent(agent, ControllerMessage::Attached { request, result: Ok(attachment) });
        self.flatten_attached(volume);
        self.shrink_attached(volume);
    }

    /// The session `epoch`, if it is `agent`'s and live.
    pub(crate) fn live_session(&self, agent: AgentId, epoch: Epoch) -> Option<&Session> {
        let session = self.sessions.get(&epoch).filter(|session| session.agent == agent)?;
        (session.stage == SessionStage::Live).then_some(session)
    }

    pub(crate) fn detach(&mut self, agent: AgentId, epoch: Epoch) {
        match self.sessions.get_mut(&epoch) {
            Some(session) if session.agent == agent && session.stage == SessionStage::Live => {
                // Its agent has drained it, so nothing of it can still be on its way to a disk.
                self.close_session(epoch, Some(agent));
            }
            // The nodes refuse it by now or soon: to its agent it is over.
            Some(session)
                if session.agent == agent && matches!(session.stage, SessionStage::Fencing | SessionStage::Closing) =>
            {
                self.to_agent(agent, ControllerMessage::Detached { epoch });
            }
            Some(_) => {}
            None => self.to_agent(agent, ControllerMessage::Detached { epoch }),
        }
    }

    pub(crate) fn agent_gone(&mut self, agent: AgentId) {
        self.agents.remove(&agent);
        self.attaches.retain(|wanted| wanted.agent != agent);
        let mut epochs = Vec::new();
        for (epoch, session) in &mut self.sessions {
            if session.agent == agent && matches!(session.stage, SessionStage::Live | SessionStage::Opening) {
                session.stage = SessionStage::Fencing;
                epochs.push(*epoch);
            }
        }
        self.orders_lost(&epochs);
        self.cuts_lost(&epochs);
        self.fence(epochs);
    }

    /// Orders to sessions that are over will not be answered by them any more.
    fn orders_lost(&mut self, epochs: &[Epoch]) {
        let lost: Vec<_> = (self.commands.iter())
            .filter_map(|(id, command)| Some((*id, command.epoch().filter(|epoch| epochs.contains(epoch))?)))
            .collect();
        for (id, epoch) in lost {
            self.order_done(id, epoch, OrderOutcome::NoSession);
        }
    }

    /// Has every node refuse these sessions; then their grants go back.
    pub(crate) fn fence(&mut self, epochs: Vec<Epoch>) {
        if epochs.is_empty() {
            return;
        }
        let nodes: BTreeSet<_> = self.config.nodes.iter().copied().collect();
        let command = self.next_command();
        let floor = self.fence_floor();
        self.to_nodes(command, &NodeOrder::Fence { floor, epochs: epochs.clone() });
        if nodes.is_empty() {
            return self.fenced(&epochs);
        }
        self.commands.insert(command, Command::Fence { epochs, nodes });
    }

    /// No session below this is live or will be.
    pub(crate) fn fence_floor(&self) -> Epoch {
        let live =
            |session: &&(&Epoch, &Session)| matches!(session.1.stage, SessionStage::Live | SessionStage::Opening);
        self.sessions.iter().find(|session| live(&session)).map_or(self.counters.epoch.next(), |(epoch, _)| *epoch)
    }

    /// Every node refuses these sessions: nothing of theirs can reach a disk any more.
    pub(crate) fn fenced(&mut self, epochs: &[Epoch]) {
        for epoch in epochs {
            if self.sessions.get(epoch).is_some_and(|session| session.stage == SessionStage::Fencing) {
                self.close_session(*epoch, None);
            }
        }
    }

    /// Ends a session for good: what it was granted and did not map is free again.
    fn close_session(&mut self, epoch: Epoch, agent: Option<AgentId>) {
        let session = self.sessions.get_mut(&epoch).expect("the caller found it");
        session.stage = SessionStage::Closing;
        let (pool_id, volume_id) = (session.pool, session.volume);
        let runs = self.grants.forget(epoch);
        if let Some(pool) = self.pools.get_mut(&pool_id) {
            pool.granted_units -= runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
            pool.waiting.retain(|request| request.epoch != epoch);
        }
        self.touched_pools.insert(pool_id);
        self.touched_volumes.insert(volume_id);
        self.batch.delete_range(KeyRange::grants(epoch));
        self.batch.delete(Key::Session(epoch));
        self.free_units(pool_id, runs);
        self.after.push(After::SessionClosed { epoch, agent });
    }

    pub(crate) fn session_closed(&mut self, epoch: Epoch, agent: Option<AgentId>) {
        if let Some(agent) = agent {
            self.to_agent(agent, ControllerMessage::Detached { epoch });
        }
        let Some(session) = self.sessions.remove(&epoch) else { return };
        if let Some(slot) = self.session_of(session.volume)
            && *slot == Some(epoch)
        {
            *slot = None;
        }
        self.orders_lost(&[epoch]);
        self.start_jobs_of(session.volume);
        self.start_purge(session.branch);
        self.serve_waiting(session.pool);
        self.retry_attaches();
    }

    /// Tries again to attach what waited.
    pub(crate) fn retry_attaches(&mut self) {
        for wanted in std::mem::take(&mut self.attaches) {
            self.attach(wanted);
        }
    }

    /// Whether nobody has, or may still be writing to, a volume.
    pub(crate) fn is_unattached(&self, volume: VolumeId) -> bool {
        self.volumes.get(&volume).is_none_or(|volume| volume.session.is_none())
    }
}
