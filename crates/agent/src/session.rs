//! A session's life: hosts come and go, the controller gives orders, the volume is detached.

use crate::context::Context;
use crate::event::{Effect, HostId};
use crate::flush::Waiter;
use crate::volume::{Held, Leaving, Volume};
use model::{ByteRange, IoError, Time};
use std::time::Duration;
use wire::{AgentMessage, AttachError, CommandId, Order, OrderOutcome};

impl Volume {
    /// A host wants in; `false` when it has to wait until the volume is attached anew.
    pub(crate) fn admit(&mut self, context: &mut Context<'_>, host: HostId) -> bool {
        match self.leaving {
            Some(Leaving::Draining { order: None }) => self.leaving = None,
            Some(_) => {
                self.waiting_hosts.push(host);
                return false;
            }
            None => {}
        }
        self.hosts.insert(host);
        self.idle_since = None;
        context.out.push(Effect::HostAttached { host, result: Ok(self.host_volume()) });
        true
    }

    /// A host is gone; whether this volume had it.
    pub(crate) fn dismiss(&mut self, context: &Context<'_>, host: HostId) -> bool {
        self.waiting_hosts.retain(|waiting| *waiting != host);
        let had = self.hosts.remove(&host);
        if had && self.hosts.is_empty() {
            self.idle_since = Some(context.now);
        }
        had
    }

    pub(crate) fn obey(&mut self, context: &mut Context<'_>, command: CommandId, order: Order) {
        match order {
            Order::ReturnGrants => {
                let runs = self.grants.drain();
                self.grants.scarce = true;
                if !runs.is_empty() {
                    let epoch = self.attachment.credentials.epoch;
                    context.to_controller(AgentMessage::ReturnGrant { epoch, runs });
                }
                if self.changes.has_freed() || self.flush.is_freeing() {
                    self.flush_for(context, Waiter::Order(command));
                } else {
                    self.order_done(context, command, OrderOutcome::Done);
                }
            }
            Order::Commit => self.flush_for(context, Waiter::Order(command)),
            Order::Resize { size_bytes } => self.resize(context, command, size_bytes),
            Order::SetReadOnly { read_only } => {
                self.attachment.read_only = read_only;
                self.draining.push(command);
                self.io_ended(context);
            }
            Order::Freeze { begin } => self.freeze(context, command, begin),
            Order::Begin { generation } => self.begin(context, command, generation),
            Order::Thaw { generation, frozen_through } => self.thaw(context, command, generation, frozen_through),
            Order::SetFrozen { frozen_through } => self.set_frozen(context, command, frozen_through),
            Order::Flatten { through } => self.flatten(context, command, through),
            Order::StopFlattening => {
                self.end_flattens(context);
                self.order_done(context, command, OrderOutcome::Done);
            }
            Order::Release { force } => {
                if !self.hosts.is_empty() && !force {
                    let outcome = OrderOutcome::Busy { hosts: self.hosts.len() as u32 };
                    return self.order_done(context, command, outcome);
                }
                match self.leaving {
                    // It is on its way out already; the controller hears of that before it hears of the order.
                    Some(Leaving::Detaching) => self.order_done(context, command, OrderOutcome::NoSession),
                    // An earlier order has it drained. It is still a session, and not to be taken for gone.
                    Some(Leaving::Draining { order: Some(_) }) => {
                        self.order_done(context, command, OrderOutcome::Failed);
                    }
                    None | Some(Leaving::Draining { order: None }) => {
                        self.evict_hosts(context);
                        self.leave(context, Some(command));
                    }
                }
            }
        }
    }

    fn resize(&mut self, context: &mut Context<'_>, command: CommandId, size_bytes: u64) {
        let before = std::mem::replace(&mut self.attachment.size_bytes, size_bytes);
        if size_bytes >= before {
            return self.order_done(context, command, OrderOutcome::Done);
        }
        let range = ByteRange::new(size_bytes, before - size_bytes);
        self.held.push_back(Held::Shrink { command, range });
        self.retry_held(context);
    }

    /// Starts to leave: drain, commit, detach.
    pub(crate) fn leave(&mut self, context: &mut Context<'_>, order: Option<CommandId>) {
        self.leaving = Some(Leaving::Draining { order });
        self.end_flattens(context);
        if self.freeze.holds() {
            // No thaw will come: what is held is refused.
            self.retry_held(context);
        }
        self.leave_when_quiet(context);
    }

    pub(crate) fn leave_when_quiet(&mut self, context: &mut Context<'_>) {
        if matches!(self.leaving, Some(Leaving::Draining { .. })) && self.is_quiet() && self.flush.is_idle() {
            self.flush_for(context, Waiter::Leave);
        }
    }

    /// The last commit is done, or failed: then what was never flushed is lost, as it may be.
    pub(crate) fn left(&mut self, context: &mut Context<'_>, result: Result<(), IoError>) {
        let Some(Leaving::Draining { order }) = self.leaving else { return };
        if !self.is_quiet() || !self.hosts.is_empty() {
            return;
        }
        if result.is_err() && order.is_none() && !self.shutting_down {
            // Nobody waits for it to go: the changes are kept and tried again later.
            self.leaving = None;
            self.idle_since = Some(context.now);
            return;
        }
        self.leaving = Some(Leaving::Detaching);
        let epoch = self.attachment.credentials.epoch;
        context.to_controller(AgentMessage::Detach { epoch });
        self.end_freeze_order(context, OrderOutcome::NoSession);
        if let Some(command) = order {
            self.order_done(context, command, OrderOutcome::Done);
        }
    }

    /// The session is over without our doing: nothing here is current any more.
    pub(crate) fn evict_hosts(&mut self, context: &mut Context<'_>) {
        for host in std::mem::take(&mut self.hosts) {
            context.out.push(Effect::HostEvicted { host });
        }
        self.idle_since = Some(context.now);
    }

    pub(crate) fn order_done(&self, context: &mut Context<'_>, command: CommandId, outcome: OrderOutcome) {
        let epoch = self.attachment.credentials.epoch;
        context.to_controller(AgentMessage::OrderDone { command, epoch, outcome });
    }

    /// When something is due without any event.
    pub(crate) fn next_deadline(&self, context_now: Time, commit_after: Duration, linger: Duration) -> Option<Time> {
        if self.resume {
            return Some(context_now);
        }
        // While a round is under way its end decides: a deadline that has passed would only spin.
        let commit = self.changed_at.filter(|_| self.flush.is_idle()).map(|at| at + commit_after);
        let leave = if self.may_idle_out() { self.idle_since.map(|at| at + linger) } else { None };
        commit.into_iter().chain(leave).chain(self.merges.look_at).min()
    }

    /// Whether a volume without hosts leaves after a while: not in the middle of something.
    fn may_idle_out(&self) -> bool {
        self.leaving.is_none() && self.freeze.is_open() && self.flattens.is_idle()
    }

    pub(crate) fn tick(&mut self, context: &mut Context<'_>) {
        let config = context.shared.config;
        if std::mem::take(&mut self.resume) {
            self.retry_held(context);
        }
        if self.merges.look_at.is_some_and(|at| context.now >= at) {
            self.merges.look_at = None;
            self.go_on_in_background(context);
        }
        let old = self.changed_at.is_some_and(|at| context.now >= at + Duration::from_nanos(config.commit_after_nanos));
        if old && self.flush.is_idle() {
            self.flush_for(context, Waiter::Timer);
        }
        let idle = self.idle_since.is_some_and(|at| context.now >= at + Duration::from_nanos(config.linger_nanos));
        if idle && self.may_idle_out() && self.hosts.is_empty() {
            self.leave(context, None);
        }
    }

    /// Commits early when very many changes have gathered.
    pub(crate) fn commit_if_many(&mut self, context: &mut Context<'_>) {
        if self.changes.dirty_regions() >= context.shared.config.commit_regions && self.flush.is_idle() {
            self.flush_for(context, Waiter::Timer);
        }
    }
}

/// Answers hosts that waited for a volume in vain.
pub(crate) fn turn_away(context: &mut Context<'_>, hosts: Vec<HostId>, error: AttachError) {
    for host in hosts {
        context.out.push(Effect::HostAttached { host, result: Err(error) });
    }
}
