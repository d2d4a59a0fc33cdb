//! Flattening: a clone gets places of its own for everything it shares with its origin, and then stands alone.
//!
//! The copying is its agent's; here are the job that outlives a crash, and its end. A clone that nobody has attached is
//! attached for it, after a crash too. After a failure (of a disk, or for want of space) it goes on at the next attachment,
//! or when it is asked for again; or it is cancelled.

use crate::branches::LIVE;
use crate::engine::{After, Command, Controller};
use crate::event::Effect;
use model::{Generation, VolumeId};
use store::Key;
use store::records::{JobRecord, Record};
use wire::{ControllerMessage, Order, OrderOutcome};

impl Controller {
    /// Records the flattening of a clone in this step's batch.
    pub(crate) fn add_flatten(&mut self, volume_id: VolumeId) {
        self.counters.job += 1;
        self.counters_changed = true;
        let job = self.counters.job;
        self.batch.put(Key::Job(job), JobRecord::Flatten { volume: volume_id }.encode());
        if let Some(volume) = self.volumes.get_mut(&volume_id) {
            volume.flatten = Some(job);
        }
        self.after.push(After::Flatten(volume_id));
    }

    /// Sees to it that a clone that is to be flattened has a holder who does it.
    pub(crate) fn flatten_wanted(&mut self, volume_id: VolumeId) {
        let wanted = self.volumes.get(&volume_id).is_some_and(|volume| volume.flatten.is_some());
        // (What is left of a former session ends before it is attached.)
        if wanted && self.live_holder(volume_id).is_none() {
            self.effects.push(Effect::Attach(volume_id));
        }
        self.flatten_attached(volume_id);
    }

    /// Forgets the flattening of a clone in this step's batch. What was copied stays its own.
    pub(crate) fn cancel_flatten(&mut self, volume_id: VolumeId) {
        let Some(job) = self.volumes.get_mut(&volume_id).and_then(|volume| volume.flatten.take()) else { return };
        self.batch.delete(Key::Job(job));
        let is_its = |command: &Command| matches!(command, Command::Flatten { volume, .. } if *volume == volume_id);
        self.commands.retain(|_, command| !is_its(command));
        if let Some((epoch, agent)) = self.live_holder(volume_id) {
            let command = self.next_command();
            let order = Order::StopFlattening;
            self.after.push(After::ToAgent(agent, ControllerMessage::Order { command, epoch, order }));
        }
    }

    /// Has the holder of a clone that is being flattened copy what is shared.
    pub(crate) fn flatten_attached(&mut self, volume_id: VolumeId) {
        let Some(volume) = self.volumes.get(&volume_id).filter(|volume| volume.flatten.is_some()) else { return };
        let Some(branch) = self.branches.get(&volume.branch_id()) else { return };
        let through = branch.origin_generation();
        let under_way = self
            .commands
            .values()
            .any(|command| matches!(command, Command::Flatten { volume, .. } if *volume == volume_id));
        if let Some((epoch, agent)) = self.live_holder(volume_id).filter(|_| !under_way) {
            let command = self.next_command();
            self.commands.insert(command, Command::Flatten { epoch, volume: volume_id });
            self.to_agent(agent, ControllerMessage::Order { command, epoch, order: Order::Flatten { through } });
        }
    }

    /// The holder has copied everything, or could not.
    pub(crate) fn flatten_told(&mut self, volume_id: VolumeId, outcome: OrderOutcome) {
        match outcome {
            OrderOutcome::Done => {}
            // Its agent died over it: another goes on.
            OrderOutcome::NoSession => return self.flatten_wanted(volume_id),
            // It goes on at the next attachment: whatever is in the way may be there for long.
            OrderOutcome::Failed | OrderOutcome::Busy { .. } | OrderOutcome::Committing { .. } => return,
        }
        let Some(volume) = self.volumes.get_mut(&volume_id) else { return };
        let Some(job) = volume.flatten.take() else { return };
        let id = volume.branch_id();
        self.batch.delete(Key::Job(job));
        let Some(branch) = self.branches.get_mut(&id) else { return };
        let Some(origin) = branch.record.origin else { return };
        if branch.usage.get(&(LIVE, origin.1)).copied().unwrap_or(0) > 0 {
            // (An agent that says it is done and is not: nothing is cut loose that is still held.)
            return;
        }
        branch.record.origin = None;
        branch.record.frozen_through = Generation(0);
        self.put_branch(id);
        self.count_fork(Some(origin), false);
        self.after.push(After::TellFrozen(id));
        self.after.push(After::StartPurge(origin.0));
    }

    /// How much of a clone that is being flattened is its own, in percent.
    pub(crate) fn flatten_percent(&self, volume_id: VolumeId) -> Option<u8> {
        let volume = self.volumes.get(&volume_id).filter(|volume| volume.flatten.is_some())?;
        let branch = self.branches.get(&volume.branch_id())?;
        let shared = branch.held(LIVE, |bucket| bucket <= branch.origin_generation());
        let all = branch.held(LIVE, |_| true).max(1);
        Some(((all - shared.min(all)) * 100 / all) as u8)
    }
}
