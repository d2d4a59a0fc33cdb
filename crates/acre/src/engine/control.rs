//! The controller thread: the controller engine over the metadata store.
//!
//! It takes in whatever has come, lets the engine decide, makes all that is to be durable so in one transaction, and only
//! then lets anything out that depends on it.

use crate::engine::catalog::Catalog;
use crate::engine::data::DataMessage;
use crate::engine::disks;
use crate::engine::mailbox::Mailbox;
use controller::{AlertChange, ApiId, Config, Controller, Effect, Event, Survivors};
use model::Time;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use store::{Batch, MetaStore, StoreError};
use tokio::sync::oneshot;
use wire::{AgentId, AgentMessage, NodeId, NodeReport};

/// How many messages one round takes in before it commits.
const MESSAGES_A_ROUND: usize = 1024;
/// How often the room of the metadata store is looked at.
const SPACE_EVERY: Duration = Duration::from_secs(5);

/// The answer to an operator.
pub(crate) type Answer = Result<api::Response, api::Error>;

/// What the controller thread is told.
pub(crate) enum ControlMessage {
    /// From an agent.
    FromAgent(AgentId, AgentMessage),
    /// From a shard of the node.
    FromNode(NodeId, NodeReport),
    /// From an operator.
    Api(api::Request, oneshot::Sender<Answer>),
    /// A disk failed.
    DiskFailed(model::DiskId),
    /// Everybody else has ended.
    Shutdown,
}

/// The controller thread's state.
pub(crate) struct ControlThread {
    config: Config,
    /// There, but for the moments in which it is replaced.
    controller: Option<Controller>,
    store: Box<dyn MetaStore + Send>,
    threads: Vec<Mailbox<DataMessage>>,
    catalog: Catalog,
    published: Option<u64>,
    answers: BTreeMap<ApiId, oneshot::Sender<Answer>>,
    /// Answers that go out once the catalog is as they say.
    owed: Vec<(oneshot::Sender<Answer>, Answer)>,
    next_api: u64,
    timer: Option<Time>,
    space_at: Time,
    started: Instant,
    batches: Vec<(controller::BatchId, Batch)>,
    /// What the engine wants done, in the order in which it said so; one of them may make it want more.
    effects: VecDeque<Effect>,
    performing: bool,
    /// Told once, when every disk is in service and every former session is closed.
    settled: Option<Sender<()>>,
}

impl ControlThread {
    /// Recovers the controller from the store.
    ///
    /// # Errors
    /// When the store cannot be read, or holds what cannot be right.
    pub(crate) fn new(
        config: Config,
        store: Box<dyn MetaStore + Send>,
        threads: Vec<Mailbox<DataMessage>>,
        catalog: Catalog,
        started: Instant,
        settled: Sender<()>,
    ) -> Result<Self, StoreError> {
        let controller = Controller::recover(config.clone(), &*store, Survivors::default())?;
        let mut thread = Self {
            config,
            controller: Some(controller),
            store,
            threads,
            catalog,
            published: None,
            answers: BTreeMap::new(),
            owed: Vec::new(),
            next_api: 0,
            timer: None,
            space_at: Time(0),
            started,
            batches: Vec::new(),
            effects: VecDeque::new(),
            performing: false,
            settled: Some(settled),
        };
        thread.look_at_space();
        thread.begin();
        thread.settle();
        Ok(thread)
    }

    /// Serves until told to end.
    pub(crate) fn run(&mut self, messages: &Receiver<ControlMessage>) {
        loop {
            let now = self.clock();
            let due = self.timer.into_iter().chain([self.space_at]).min().unwrap_or(now);
            let first = match messages.recv_timeout(due.since(now)) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let rest = std::iter::from_fn(|| messages.try_recv().ok());
            for message in first.into_iter().chain(rest.take(MESSAGES_A_ROUND)) {
                match message {
                    ControlMessage::Shutdown => return,
                    ControlMessage::FromAgent(agent, message) => self.step(Event::FromAgent(agent, message)),
                    ControlMessage::FromNode(node, report) => self.step(Event::FromNode(node, report)),
                    ControlMessage::DiskFailed(disk) => self.step(Event::DiskFailed(disk)),
                    ControlMessage::Api(request, answer) => {
                        self.next_api += 1;
                        let id = ApiId(self.next_api);
                        self.answers.insert(id, answer);
                        self.step(Event::Api(id, request));
                    }
                }
            }
            let now = self.clock();
            if self.timer.is_some_and(|at| at <= now) {
                self.timer = None;
                self.step(Event::Timer);
            }
            if self.space_at <= now {
                self.look_at_space();
            }
            self.settle();
        }
    }

    fn clock(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn look_at_space(&mut self) {
        self.space_at = self.clock() + SPACE_EVERY;
        match self.store.space() {
            Ok(space) => self.step(Event::Space(space)),
            Err(error) => tracing::warn!("the metadata store does not tell its room: {error}"),
        }
    }

    fn step(&mut self, event: Event) {
        let (now, mut effects) = (self.clock(), Vec::new());
        if let Some(controller) = &mut self.controller {
            controller.step(now, event, &mut effects);
        }
        self.perform(effects);
    }

    fn begin(&mut self) {
        let (now, mut effects) = (self.clock(), Vec::new());
        if let Some(controller) = &mut self.controller {
            controller.start(now, &mut effects);
        }
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        self.effects.extend(effects);
        if std::mem::replace(&mut self.performing, true) {
            return;
        }
        while let Some(effect) = self.effects.pop_front() {
            self.perform_one(effect);
        }
        self.performing = false;
    }

    fn perform_one(&mut self, effect: Effect) {
        match effect {
            Effect::ToAgent(AgentId(index), message) => {
                self.threads[index as usize].post(DataMessage::ToAgent(message));
            }
            Effect::ToNode(NodeId(index), command) => {
                self.threads[index as usize].post(DataMessage::ToNode(command));
            }
            Effect::Commit { id, batch } => self.batches.push((id, batch)),
            Effect::Scan { id, ranges } => {
                let result = controller::perform_scan(&*self.store, &ranges);
                self.step(Event::Scanned { id, result });
            }
            Effect::Reply(id, answer) => {
                if let Some(waiting) = self.answers.remove(&id) {
                    self.owed.push((waiting, answer));
                }
            }
            Effect::Inspect { reply_to, inspection } => self.inspect(reply_to, inspection),
            Effect::SetTimer(at) => self.timer = Some(at),
            Effect::InspectDisk { ticket, path, size_bytes } => {
                let result = disks::inspect(&path, size_bytes, self.config.new_cluster);
                self.step(Event::DiskInspected { ticket, result });
            }
            Effect::WriteLabel { ticket, path, label } => {
                let result = disks::write_label(&path, &label);
                self.step(Event::LabelWritten { ticket, result });
            }
            Effect::OpenDisk { disk, path, label } => {
                let result = disks::open(&path, &label, self.threads.len()).map(|files| {
                    for (thread, file) in self.threads.iter().zip(files) {
                        thread.post(DataMessage::Disk(disk, file));
                    }
                });
                if let Err(reason) = &result {
                    tracing::error!(%disk, "{reason}; what lies on it is out of reach until it is back");
                }
                self.step(Event::DiskOpened { disk, result });
            }
            Effect::Attach(volume) => {
                let thread = volume.0 as usize % self.threads.len();
                self.threads[thread].post(DataMessage::Attach(volume));
            }
            Effect::ReleaseDisk { disk, path } => {
                for thread in &self.threads {
                    thread.post(DataMessage::DiskReleased(disk));
                }
                if let Err(reason) = disks::release(&path) {
                    tracing::warn!(%disk, "{reason}");
                }
            }
            Effect::Alert(AlertChange::Raised(alert)) => tracing::warn!("{}", alert.message),
            Effect::Alert(AlertChange::Cleared(alert)) => tracing::info!("no longer: {}", alert.message),
        }
    }

    /// Audits and maps read a state of the store that stays as it is, on a thread of their own.
    #[allow(clippy::disallowed_methods)]
    fn inspect(&mut self, reply_to: ApiId, inspection: controller::Inspection) {
        let Some(waiting) = self.answers.remove(&reply_to) else { return };
        match self.store.snapshot() {
            Ok(view) => {
                std::thread::spawn(move || {
                    let _ = waiting.send(controller::inspect::answer(&*view, &inspection));
                });
            }
            Err(error) => {
                let _ = waiting.send(Err(api::Error::unavailable(error.to_string())));
            }
        }
    }

    /// Commits what is to be durable, until nothing more is; then lets hosts know of what changed.
    fn settle(&mut self) {
        while !self.batches.is_empty() {
            let (ids, batches): (Vec<_>, Vec<_>) = std::mem::take(&mut self.batches).into_iter().unzip();
            match self.store.commit(&batches) {
                Ok(()) => ids.into_iter().for_each(|id| self.step(Event::Committed(id))),
                Err(error) => self.salvage(ids[0], error),
            }
        }
        let Some(controller) = &self.controller else { return };
        if controller.is_settled()
            && let Some(settled) = self.settled.take()
        {
            // Whoever waited may have given up waiting.
            let _ = settled.send(());
        }
        let version = controller.catalog_version();
        if self.published != Some(version) {
            self.published = Some(version);
            self.publish(controller.exports());
        }
        // Whoever hears that a volume is there finds its export, too.
        for (waiting, answer) in self.owed.drain(..) {
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(answer);
        }
    }

    /// A commit failed: nothing of it happened. The engine, which has run ahead, is made anew from the store; what it
    /// owes to agents and operators it takes along.
    fn salvage(&mut self, first: controller::BatchId, error: StoreError) {
        tracing::error!("a commit of the metadata store failed: {error}");
        self.step(Event::CommitFailed(first, error));
        self.batches.clear();
        self.effects.clear();
        let Some(controller) = self.controller.take() else { return };
        match Controller::recover(self.config.clone(), &*self.store, controller.salvage()) {
            Ok(controller) => {
                self.controller = Some(controller);
                self.begin();
            }
            Err(error) => {
                // Nothing is lost by stopping dead: all that was answered is durable, and a restart reads it again.
                tracing::error!("the metadata store cannot be read any more, so this process ends: {error}");
                std::process::abort();
            }
        }
    }

    fn publish(&self, exports: Arc<controller::Exports>) {
        self.catalog.publish(exports);
        for thread in &self.threads {
            thread.post(DataMessage::CatalogChanged);
        }
    }
}
