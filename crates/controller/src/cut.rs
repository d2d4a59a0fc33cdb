//! Cuts: snapshots of several volumes at one common moment.
//!
//! First the volumes' agents make durable what they have, so that little is left. Then writes are held; once they are on
//! every volume, each begins its next generation and lets them go on at once, above what it noted for the snapshot. What
//! was noted is committed behind them, and when the last commit of it has come the snapshots become durable, all in one
//! batch. An agent commits nothing else before it hears how that ended, so that nothing younger becomes part of them.
//!
//! A cut that is given up after a generation was begun leaves its number passed over: `docs/snapshots.md` has what may
//! happen when, and why that is right.

use crate::branches::{LIVE, Snapshot};
use crate::engine::{After, Command, Controller, View};
use crate::event::ApiId;
use crate::operator::Outcome;
use crate::planted::Bug;
use api::{Error, SnapshotCreate, split_snapshot_name};
use model::{BranchId, ClusterId, Epoch, Generation, Time, VolumeId};
use std::collections::BTreeSet;
use std::time::Duration;
use store::Key;
use store::records::{Record, SnapshotRecord};
use wire::{AgentId, CommandId, ControllerMessage, Order, OrderOutcome};

/// How long agents have for their part in a cut.
const CUT_PATIENCE: Duration = Duration::from_secs(30);

/// How far a cut is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Agents commit what they have; writes go on.
    Preparing,
    /// Agents hold writes, until all of them do.
    Holding,
    /// The next generations are told to begin: writes go on, and what the snapshots see is being committed.
    Committing,
    /// The snapshots are in a batch.
    Taken,
}

/// Snapshots of several volumes on their way.
#[derive(Debug)]
pub(crate) struct Cut {
    reply_to: ApiId,
    /// The volumes, and what their snapshots are to be called.
    snapshots: Vec<(VolumeId, String)>,
    scheduled: bool,
    created_unix_seconds: u64,
    imported_from: Option<(ClusterId, u32)>,
    stage: Stage,
    /// The sessions of those volumes that are attached.
    holders: Vec<(VolumeId, Epoch, AgentId)>,
    /// Agents that have not done what the stage is for.
    waiting: BTreeSet<CommandId>,
    deadline: Time,
}

impl Controller {
    /// Begins a cut: every volume that is attached is frozen first.
    pub(crate) fn snapshot_create(
        &mut self,
        id: ApiId,
        create: &SnapshotCreate,
        scheduled: bool,
        now_unix_seconds: u64,
    ) -> Outcome {
        let most = SnapshotCreate::SNAPSHOTS_MAX;
        if create.snapshots.is_empty() || create.snapshots.len() > most {
            let count = create.snapshots.len();
            return Err(Error::invalid(format!("a cut goes through 1 to {most} volumes, not {count}")));
        }
        self.check_metadata()?;
        let mut snapshots: Vec<(VolumeId, String)> = Vec::new();
        for full in &create.snapshots {
            let (volume, name) = split_snapshot_name(full)?;
            let volume_id = self.find_volume(volume)?;
            if snapshots.iter().any(|(other, _)| *other == volume_id) {
                return Err(Error::invalid(format!("volume {volume:?} is named twice; name each volume once")));
            }
            if self.snapshot_named(volume_id, name).is_some() {
                return Err(Error::exists(format!("there is a snapshot {full:?} already; choose another name")));
            }
            self.check_unoccupied(volume_id)?;
            if self.branches[&self.volumes[&volume_id].branch_id()].record.generation >= Generation(u32::MAX - 2) {
                return Err(Error::invalid(format!("volume {volume:?} has had all the snapshots it can; clone it")));
            }
            snapshots.push((volume_id, name.to_owned()));
        }
        if create.imported_from.is_some() && snapshots.len() != 1 {
            return Err(Error::invalid("an import takes a snapshot of one volume, the one it made"));
        }
        let imported_from = create.imported_from.map(|from| (ClusterId(from.cluster), from.snapshot));
        let cut = self.next_id();
        let mut holders = Vec::new();
        for (volume, _) in &snapshots {
            self.volumes.get_mut(volume).expect("it was found above").cut = Some(cut);
            if let Some((epoch, agent)) = self.live_holder(*volume) {
                holders.push((*volume, epoch, agent));
            }
        }
        let deadline = self.now + CUT_PATIENCE;
        self.wake_at(deadline);
        let state = Cut {
            reply_to: id,
            snapshots,
            scheduled,
            created_unix_seconds: now_unix_seconds,
            imported_from,
            stage: Stage::Preparing,
            holders,
            waiting: BTreeSet::new(),
            deadline,
        };
        self.cuts.insert(cut, state);
        self.order_cut(cut, Stage::Preparing, |_| Order::Commit);
        Ok(None)
    }

    /// Begins a stage: gives every session of the cut its order. Without any, the stage is over.
    fn order_cut(&mut self, cut_id: u64, stage: Stage, order: impl Fn(Generation) -> Order) {
        let Some(cut) = self.cuts.get_mut(&cut_id) else { return };
        cut.stage = stage;
        for (volume, epoch, agent) in cut.holders.clone() {
            let Some(next) = self.next_generation(volume) else { continue };
            let order = order(next);
            if let Order::Begin { generation } | Order::Freeze { begin: Some(generation) } = order
                && let Some(session) = self.sessions.get_mut(&epoch)
            {
                session.begun = generation;
            }
            let command = self.next_command();
            self.commands.insert(command, Command::Cut { epoch, cut: cut_id });
            if let Some(cut) = self.cuts.get_mut(&cut_id) {
                cut.waiting.insert(command);
            }
            self.to_agent(agent, ControllerMessage::Order { command, epoch, order });
        }
        self.next_of_cut(cut_id);
    }

    fn next_generation(&self, volume: VolumeId) -> Option<Generation> {
        let branch = self.volumes.get(&volume)?.branch_id();
        Some(self.branches.get(&branch)?.record.generation.next())
    }

    /// Goes on with a cut when every agent has done its part of the stage.
    fn next_of_cut(&mut self, cut_id: u64) {
        let Some(cut) = self.cuts.get(&cut_id).filter(|cut| cut.waiting.is_empty()) else { return };
        match cut.stage {
            Stage::Preparing => {
                // A volume that was detached meanwhile has nothing in flight, and nobody attaches it before the end.
                let is_live =
                    |(_, epoch, agent): &(VolumeId, Epoch, AgentId)| self.live_session(*agent, *epoch).is_some();
                let holders: Vec<_> = cut.holders.iter().copied().filter(is_live).collect();
                let alone = holders.len() == 1 || self.config.planted.has(Bug::BeginsBeforeAllHold);
                if let Some(cut) = self.cuts.get_mut(&cut_id) {
                    cut.holders = holders;
                }
                if alone {
                    // Nobody else has to hold writes first, so that they need not wait for us.
                    self.order_cut(cut_id, Stage::Committing, |generation| Order::Freeze { begin: Some(generation) });
                } else {
                    self.order_cut(cut_id, Stage::Holding, |_| Order::Freeze { begin: None });
                }
            }
            Stage::Holding => {
                let is_live =
                    |(_, epoch, agent): &(VolumeId, Epoch, AgentId)| self.live_session(*agent, *epoch).is_some();
                if !cut.holders.iter().all(is_live) {
                    return self.give_up_cut(cut_id, "a host's session ended while it was taken");
                }
                self.order_cut(cut_id, Stage::Committing, |generation| Order::Begin { generation });
                if self.config.planted.has(Bug::SnapshotBeforeCommits) {
                    self.take_cut(cut_id);
                }
            }
            Stage::Committing => self.take_cut(cut_id),
            Stage::Taken => {}
        }
    }

    /// An agent has done what a cut's stage asks of it, or could not.
    pub(crate) fn cut_told(&mut self, cut_id: u64, command: CommandId, epoch: Epoch, outcome: OrderOutcome) {
        let Some(cut) = self.cuts.get_mut(&cut_id) else { return };
        cut.waiting.remove(&command);
        let has_begun = cut.stage == Stage::Committing;
        let is_done = match outcome {
            OrderOutcome::Done => true,
            // It was taken, so that what follows is durable no sooner than it. (Refused, it never will be.)
            OrderOutcome::Committing { request } => has_begun && self.has_taken(epoch, request),
            // It was detached in order before it held anything: everything of it is durable.
            OrderOutcome::NoSession => !has_begun && !self.sessions.contains_key(&epoch),
            OrderOutcome::Busy { .. } | OrderOutcome::Failed => false,
        };
        if is_done {
            if outcome == OrderOutcome::NoSession
                && let Some(cut) = self.cuts.get_mut(&cut_id)
            {
                cut.holders.retain(|(_, of, _)| *of != epoch);
            }
            self.next_of_cut(cut_id);
        } else {
            let lost = outcome == OrderOutcome::NoSession;
            let why = if lost { "a host's session was lost" } else { "a disk or the metadata store failed" };
            self.give_up_cut(cut_id, &format!("{why} while it was taken"));
        }
    }

    /// Sessions are lost, and with them what was answered and not committed: a cut through their volumes would lack it.
    pub(crate) fn cuts_lost(&mut self, epochs: &[Epoch]) {
        let is_lost =
            |cut: &Cut| cut.stage != Stage::Taken && cut.holders.iter().any(|(_, epoch, _)| epochs.contains(epoch));
        let lost: Vec<u64> = self.cuts.iter().filter(|(_, cut)| is_lost(cut)).map(|(id, _)| *id).collect();
        for cut in lost {
            self.give_up_cut(cut, "a host's session was lost while it was taken");
        }
    }

    /// Everything that the snapshots see is durable or on its way: they become so together.
    fn take_cut(&mut self, cut_id: u64) {
        let Some(cut) = self.cuts.get_mut(&cut_id) else { return };
        cut.stage = Stage::Taken;
        let (snapshots, reply_to) = (cut.snapshots.clone(), cut.reply_to);
        let (scheduled, created_unix_seconds) = (cut.scheduled, cut.created_unix_seconds);
        let imported_from = cut.imported_from;
        let mut taken = Vec::new();
        for (volume_id, name) in &snapshots {
            let Some(volume) = self.volumes.get(volume_id) else { continue };
            let (branch_id, size_bytes) = (volume.branch_id(), volume.record.size_bytes);
            self.counters.volume = self.counters.volume.next();
            self.counters_changed = true;
            let id = self.counters.volume;
            let Some(branch) = self.branches.get_mut(&branch_id) else { continue };
            let generation = branch.record.generation;
            branch.record.frozen_through = generation;
            branch.record.generation = generation.next();
            branch.snapshots.insert(generation, id);
            let record = SnapshotRecord {
                volume: *volume_id,
                branch: branch_id,
                generation,
                name: name.clone(),
                created_unix_seconds,
                size_bytes,
                scheduled,
                deleted: false,
                imported_from,
            };
            self.batch.put(Key::Snapshot(id), record.encode());
            self.put_branch(branch_id);
            self.snapshot_names.entry(*volume_id).or_default().insert(name.clone(), id);
            self.snapshots.insert(id, Snapshot { record, visible: false, session: None });
            taken.push(id);
        }
        self.after.push(After::CutDone(cut_id));
        self.after.push(After::Visible(taken.clone()));
        self.after.push(After::Reply(reply_to, View::Snapshots(taken)));
    }

    /// The snapshots are durable: everybody goes on.
    pub(crate) fn cut_done(&mut self, cut_id: u64) {
        let Some(cut) = self.cuts.remove(&cut_id) else { return };
        self.commands.retain(|_, command| !matches!(command, Command::Cut { cut, .. } if *cut == cut_id));
        for (volume, _) in &cut.snapshots {
            if let Some(volume) = self.volumes.get_mut(volume) {
                volume.cut = None;
            }
            self.tell_generation(*volume);
        }
        self.retry_attaches();
    }

    fn give_up_cut(&mut self, cut_id: u64, why: &str) {
        let Some(cut) = self.cuts.get(&cut_id) else { return };
        let reply_to = cut.reply_to;
        for (volume, ..) in cut.holders.clone() {
            self.catch_up(volume);
        }
        self.cut_done(cut_id);
        self.reply(reply_to, Err(Error::unavailable(format!("no snapshot was taken: {why}; try again"))));
    }

    /// If a volume's agent has begun a generation and there will be no snapshot of the one before, the number of that is
    /// passed over: it names no view, and what was born in it is the live end's like anything younger.
    pub(crate) fn catch_up(&mut self, volume: VolumeId) {
        let Some((epoch, _)) = self.live_holder(volume) else { return };
        let (begun, id) = (self.sessions[&epoch].begun, self.sessions[&epoch].branch);
        let Some(branch) = self.branches.get_mut(&id) else { return };
        let left = branch.record.generation;
        if begun <= left || self.config.planted.has(Bug::AbandonedNumberReused) {
            return;
        }
        branch.record.generation = begun;
        let units = branch.usage.get(&(LIVE, left)).map_or(0, |units| *units as i64);
        self.count_units(id, LIVE, left, -units);
        self.count_units(id, LIVE, begun, units);
        self.put_branch(id);
    }

    /// Tells the holder of a volume where it is; if it waits for that, it goes on.
    pub(crate) fn tell_generation(&mut self, volume: VolumeId) {
        let Some((epoch, agent)) = self.live_holder(volume) else { return };
        let branch = self.volumes.get(&volume).and_then(|volume| self.branches.get(&volume.branch_id()));
        let Some(branch) = branch else { return };
        let (generation, frozen_through) = (branch.record.generation, branch.record.frozen_through);
        let order = Order::Thaw { generation, frozen_through };
        let command = self.next_command();
        self.to_agent(agent, ControllerMessage::Order { command, epoch, order });
    }

    /// A view is gone: the live end's agent may write to what only it froze.
    pub(crate) fn tell_frozen(&mut self, branch: BranchId) {
        let Some(state) = self.branches.get(&branch).filter(|branch| !branch.record.ended) else { return };
        let (volume, frozen_through) = (state.record.volume, state.record.frozen_through);
        if let Some((epoch, agent)) = self.live_holder(volume) {
            let command = self.next_command();
            let order = Order::SetFrozen { frozen_through };
            self.to_agent(agent, ControllerMessage::Order { command, epoch, order });
        }
    }

    /// Agents that take too long are not waited for.
    pub(crate) fn cut_timer(&mut self) {
        let now = self.now;
        let late: Vec<u64> = self
            .cuts
            .iter()
            .filter(|(_, cut)| cut.deadline <= now && cut.stage != Stage::Taken)
            .map(|(id, _)| *id)
            .collect();
        for cut in late {
            self.give_up_cut(cut, "a host's agent took too long");
        }
        if let Some(deadline) = self.cuts.values().map(|cut| cut.deadline).filter(|deadline| *deadline > now).min() {
            self.wake_at(deadline);
        }
    }
}
