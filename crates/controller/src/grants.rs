//! Region grants: limits are checked, space is found or made, and what others do not use is recalled when it is short.

use crate::engine::{After, Command, Controller};
use crate::planted::Bug;
use crate::state::{GrantRequest, Pool, Recall, SessionStage};
use api::AlertKind;
use model::{ByteSize, Epoch, PoolId, RegionSize, UNIT_BYTES, UnitRun, VolumeId};
use pool::Wish;
use std::collections::BTreeMap;
use std::time::Duration;
use store::Key;
use store::records::{GrantRecord, Record};
use wire::{AgentId, CommandId, ControllerMessage, GrantError, Order};

/// The most requests of one session that wait at once.
const WAITING_MAX: usize = 16;
/// How long other sessions may take to give back what they do not use.
const RECALL_PATIENCE: Duration = Duration::from_secs(5);

/// What becomes of a request for a grant.
enum Decision {
    /// It is answered.
    Answer(Result<Vec<UnitRun>, GrantError>),
    /// Something is under way that may help.
    Wait,
}

/// What is known of a request's session.
struct Asking {
    volume: VolumeId,
    pool: PoolId,
    region_size: RegionSize,
    near: Option<UnitRun>,
}

/// How many regions limits leave, and whose limit it is.
struct Headroom {
    regions: u64,
    limit: Option<GrantError>,
}

impl Controller {
    pub(crate) fn grant_requested(&mut self, request: GrantRequest) {
        let Some(session) = self.live_session(request.agent, request.epoch).filter(|session| !session.read_only) else {
            return self.answer_grant(&request, Err(GrantError::Fenced));
        };
        let pool_id = session.pool;
        let Some(pool) = self.pools.get_mut(&pool_id) else { return };
        if pool.waiting.iter().filter(|waiting| waiting.epoch == request.epoch).count() >= WAITING_MAX {
            return self.answer_grant(&request, Err(GrantError::Unavailable));
        }
        pool.waiting.push_back(request);
        self.serve_waiting(pool_id);
    }

    /// Answers what waits for space, oldest first, until one has to go on waiting.
    pub(crate) fn serve_waiting(&mut self, pool_id: PoolId) {
        while let Some(request) = self.pools.get_mut(&pool_id).and_then(|pool| pool.waiting.pop_front()) {
            match self.decide(&request) {
                Decision::Answer(result) => self.answer_grant(&request, result),
                Decision::Wait => {
                    // (decide() may have marked what waits at the front; this is still the oldest.)
                    if let Some(pool) = self.pools.get_mut(&pool_id) {
                        let recalled = request.recalled || pool.recall.is_some();
                        pool.waiting.push_front(GrantRequest { recalled, ..request });
                    }
                    return;
                }
            }
        }
        self.grow_ahead(pool_id);
    }

    fn answer_grant(&mut self, request: &GrantRequest, result: Result<Vec<UnitRun>, GrantError>) {
        let (agent, epoch, request) = (request.agent, request.epoch, request.request);
        match result {
            Ok(runs) if self.config.planted.has(Bug::GrantBeforeCommit) => {
                self.to_agent(agent, ControllerMessage::Granted { request, epoch, result: Ok(runs) });
            }
            Ok(runs) => self.after.push(After::Granted { agent, request, epoch, runs }),
            Err(error) => self.to_agent(agent, ControllerMessage::Granted { request, epoch, result: Err(error) }),
        }
    }

    fn decide(&mut self, request: &GrantRequest) -> Decision {
        let session = self.live_session(request.agent, request.epoch);
        let Some((session, volume)) = session.and_then(|session| Some((session, self.volumes.get(&session.volume)?)))
        else {
            return Decision::Answer(Err(GrantError::Fenced));
        };
        let region_size = volume.record.region_size;
        let asking = Asking { volume: session.volume, pool: session.pool, region_size, near: session.near };
        if self.metadata_is_low() {
            self.review_metadata();
            return Decision::Answer(Err(GrantError::MetadataFull));
        }
        let headroom = self.headroom(request.epoch, &asking);
        if headroom.regions == 0 {
            let error = headroom.limit.unwrap_or(GrantError::PoolLimit);
            if error == GrantError::PoolLimit && self.recall(request, asking.pool) {
                return Decision::Wait;
            }
            self.limit_reached(&asking, error);
            return Decision::Answer(Err(error));
        }
        self.find_space(request, &asking, headroom.regions)
    }

    /// How many regions the limits of the volume and of its pool leave (D7, D8).
    fn headroom(&self, epoch: Epoch, asking: &Asking) -> Headroom {
        let (volume, pool) = (&self.volumes[&asking.volume], &self.pools[&asking.pool]);
        let held_bytes = volume.used_bytes() + self.grants.units_of(epoch) * UNIT_BYTES;
        let left = |limit: Option<u64>, used: u64| {
            limit.map_or(u64::MAX, |limit| limit.saturating_sub(used) / asking.region_size.bytes())
        };
        let of_volume = left(volume.record.limit_bytes, held_bytes);
        let of_pool = left(pool.record.limit_bytes, pool.committed_bytes());
        if of_volume <= of_pool {
            Headroom { regions: of_volume, limit: Some(GrantError::VolumeLimit) }
        } else {
            Headroom { regions: of_pool, limit: Some(GrantError::PoolLimit) }
        }
    }

    fn limit_reached(&mut self, asking: &Asking, error: GrantError) {
        let (volume, pool) = (&self.volumes[&asking.volume].record, &self.pools[&asking.pool].record);
        match error {
            GrantError::VolumeLimit => {
                let (name, limit) = (volume.name.clone(), ByteSize(volume.limit_bytes.unwrap_or(0)));
                let message = format!("volume {name:?} is at its limit of {limit}; trim it or raise the limit");
                self.raise(AlertKind::VolumeLimit, &name, message);
            }
            GrantError::PoolLimit => {
                let (name, limit) = (pool.name.clone(), ByteSize(pool.limit_bytes.unwrap_or(0)));
                let message = format!("pool {name:?} is at its limit of {limit}; trim, delete or raise the limit");
                self.raise(AlertKind::PoolLimit, &name, message);
            }
            GrantError::PoolFull => {
                let name = pool.name.clone();
                let capacity = ByteSize(self.pool_capacity_bytes(asking.pool));
                let message =
                    format!("pool {name:?} is full ({capacity} in use or granted); trim, delete or add a disk");
                self.raise(AlertKind::PoolFull, &name, message);
            }
            GrantError::MetadataFull | GrantError::Fenced | GrantError::Unavailable => {}
        }
    }

    fn find_space(&mut self, request: &GrantRequest, asking: &Asking, headroom: u64) -> Decision {
        let units = asking.region_size.units();
        let most = u64::from((self.config.grant_units_max / units).max(1));
        let growable = self.growable_units(asking.pool);
        let pool = self.pools.get_mut(&asking.pool).expect("a session's pool exists");
        // Near the end, nobody takes so much that nothing is left for others.
        let fair = (pool.allocator.free_units() + growable) / 8 / u64::from(units);
        let need = u64::from(request.urgent.max(1)).min(headroom).min(most);
        let wanted = u64::from(request.regions).clamp(need, most.max(need)).min(fair.max(need)).min(headroom);
        let wish = Wish { units_per_region: units, regions: wanted as u32, near: asking.near };
        let runs = pool.allocator.allocate(wish);
        let got: u64 = runs.iter().map(|run| u64::from(run.count / units)).sum();
        if got < need {
            if self.more_may_come(request, asking.pool) {
                self.undo(asking.pool, &runs);
                return Decision::Wait;
            }
            if got == 0 {
                self.limit_reached(asking, GrantError::PoolFull);
                return Decision::Answer(Err(GrantError::PoolFull));
            }
        }
        self.record_grant(request.epoch, asking.pool, &runs);
        Decision::Answer(Ok(runs))
    }

    fn undo(&mut self, pool_id: PoolId, runs: &[UnitRun]) {
        let pool = self.pools.get_mut(&pool_id).expect("a session's pool exists");
        for run in runs {
            pool.allocator.free(*run).expect("it was allocated a moment ago");
        }
    }

    /// Whether something is under way, or has now been begun, that may bring more space.
    fn more_may_come(&mut self, request: &GrantRequest, pool_id: PoolId) -> bool {
        if self.grow(pool_id) || self.disks_are_opening(pool_id) {
            return true;
        }
        let ending = |stage| matches!(stage, SessionStage::Fencing | SessionStage::Closing);
        let quarantined = self.pools[&pool_id].allocator.quarantined_units() > 0;
        let sessions_end = self.sessions.iter().any(|(epoch, session)| {
            session.pool == pool_id && ending(session.stage) && self.grants.units_of(*epoch) > 0
        });
        quarantined || sessions_end || self.recall(request, pool_id)
    }

    fn record_grant(&mut self, epoch: Epoch, pool_id: PoolId, runs: &[UnitRun]) {
        let pool = self.pools.get_mut(&pool_id).expect("a session's pool exists");
        for run in runs {
            self.grants.add(epoch, *run);
            pool.granted_units += u64::from(run.count);
            if !self.config.planted.has(Bug::GrantNotRecorded) {
                self.batch
                    .put(Key::Grant(epoch, run.logical_disk, run.start), GrantRecord { count: run.count }.encode());
            }
        }
        if let (Some(session), Some(last)) = (self.sessions.get_mut(&epoch), runs.last()) {
            session.near = Some(*last);
        }
        self.touched_pools.insert(pool_id);
    }

    /// Whether other sessions are giving back what they do not use; asks them to, once for each request.
    fn recall(&mut self, request: &GrantRequest, pool_id: PoolId) -> bool {
        if self.pools[&pool_id].recall.is_some() {
            return true;
        }
        if request.recalled || request.urgent == 0 {
            return false;
        }
        let others: Vec<(Epoch, AgentId)> = (self.sessions.iter())
            .filter(|(epoch, session)| {
                let live = session.pool == pool_id && session.stage == SessionStage::Live;
                live && **epoch != request.epoch && self.grants.units_of(**epoch) > 0
            })
            .map(|(epoch, session)| (*epoch, session.agent))
            .collect();
        if others.is_empty() {
            return false;
        }
        let mut commands = BTreeMap::new();
        for (epoch, agent) in others {
            let command = self.next_command();
            commands.insert(command, epoch);
            self.commands.insert(command, Command::Recall { pool: pool_id, epoch });
            self.to_agent(agent, ControllerMessage::Order { command, epoch, order: Order::ReturnGrants });
        }
        let deadline = self.now + RECALL_PATIENCE;
        self.wake_at(deadline);
        let pool = self.pools.get_mut(&pool_id).expect("a session's pool exists");
        pool.recall = Some(Recall { commands, deadline });
        true
    }

    /// One session has given back what it does not use.
    pub(crate) fn recall_done(&mut self, pool_id: PoolId, command: CommandId) {
        let Some(pool) = self.pools.get_mut(&pool_id) else { return };
        let Some(recall) = &mut pool.recall else { return };
        recall.commands.remove(&command);
        if recall.commands.is_empty() {
            pool.recall = None;
            self.serve_waiting(pool_id);
        }
    }

    /// Goes on without sessions that do not answer.
    pub(crate) fn recall_timer(&mut self, pool_id: PoolId) {
        let now = self.now;
        let Some(Pool { recall: slot @ Some(_), .. }) = self.pools.get_mut(&pool_id) else { return };
        let deadline = slot.as_ref().map_or(now, |recall| recall.deadline);
        if deadline > now {
            return self.wake_at(deadline);
        }
        for command in slot.take().into_iter().flat_map(|recall| recall.commands.into_keys()) {
            self.commands.remove(&command);
        }
    }

    /// Units that a session was granted and does not want.
    pub(crate) fn grant_returned(&mut self, agent: AgentId, epoch: Epoch, runs: Vec<UnitRun>) {
        let Some(session) = self.live_session(agent, epoch) else { return };
        let (pool_id, volume_id) = (session.pool, session.volume);
        let mut returned = Vec::new();
        for run in runs {
            // A run that is not the session's is a peer's mistake, and its alone.
            let sane = run.count > 0 && self.pools[&pool_id].allocator.contains(run) && self.grants.covers(epoch, run);
            if sane {
                self.grants.remove(run, &mut self.batch);
                returned.push(run);
            }
        }
        if returned.is_empty() {
            return;
        }
        if let Some(pool) = self.pools.get_mut(&pool_id) {
            pool.granted_units -= returned.iter().map(|run| u64::from(run.count)).sum::<u64>();
        }
        if let Some(session) = self.sessions.get_mut(&epoch) {
            session.near = None;
        }
        self.touched_pools.insert(pool_id);
        self.touched_volumes.insert(volume_id);
        self.free_units(pool_id, returned.clone());
        self.after.push(After::Returned { agent, epoch, runs: returned });
    }
}
