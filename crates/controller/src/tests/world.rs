//! A shell in a few lines: commits to a store in memory, a node that does as it is told, agents that only remember.

use crate::inspect::audit;
use crate::{AlertChange, ApiId, BatchId, Config, Controller, DiskInspection, Effect, Event, Survivors};
use api::{Request, Response, VolumeCreate};
use model::{
    ClusterId, DiskRegion, Epoch, Generation, IoError, MapEntry, PageIndex, RegionIndex, Time, UnitIndex, UnitRun,
    VolumeId,
};
use pool::Judgement;
use std::collections::{BTreeMap, VecDeque};
use store::{Batch, MemoryStore, MetaStore, StoreError};
use wire::{
    Access, AgentId, AgentMessage, Attachment, CommitError, ControllerMessage, GrantError, MapCommit, NodeId,
    NodeOrder, NodeReport, PageDelta, RequestId,
};

pub(super) const AGENT: AgentId = AgentId(1);
pub(super) const OTHER: AgentId = AgentId(2);
pub(super) const MIB: u64 = 1 << 20;

pub(super) struct World {
    pub(super) store: MemoryStore,
    pub(super) controller: Controller,
    pub(super) config: Config,
    pub(super) now: Time,
    events: VecDeque<Event>,
    commits: Vec<(BatchId, Batch)>,
    pub(super) inbox: BTreeMap<AgentId, Vec<ControllerMessage>>,
    pub(super) replies: BTreeMap<ApiId, Result<Response, api::Error>>,
    pub(super) alerts: Vec<AlertChange>,
    pub(super) orders: Vec<NodeOrder>,
    /// The terms of these orders.
    pub(super) terms: Vec<model::Term>,
    pub(super) timer: Option<Time>,
    /// What the node says to the next preparations.
    pub(super) prepare_results: VecDeque<IoError>,
    /// The node says nothing to fences until this is cleared.
    pub(super) hold_fences: bool,
    held_fences: Vec<Event>,
    /// The node says nothing to preparations until this is cleared.
    pub(super) hold_preparations: bool,
    held_preparations: Vec<Event>,
    pub(super) judgement: Judgement,
    pub(super) recoveries: u32,
    /// How many pairs scans found so far.
    pub(super) pairs_read: usize,
    /// How many batches were committed so far.
    pub(super) batches: usize,
    last_request: u64,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Config { new_cluster: ClusterId(7), ..Config::default() })
    }

    pub(super) fn with(config: Config) -> Self {
        let store = MemoryStore::new();
        let controller = Controller::recover(config.clone(), &store, Survivors::default()).unwrap();
        let mut world = Self {
            store,
            controller,
            config,
            now: Time(0),
            events: VecDeque::new(),
            commits: Vec::new(),
            inbox: BTreeMap::new(),
            replies: BTreeMap::new(),
            alerts: Vec::new(),
            orders: Vec::new(),
            terms: Vec::new(),
            timer: None,
            prepare_results: VecDeque::new(),
            hold_fences: false,
            held_fences: Vec::new(),
            hold_preparations: false,
            held_preparations: Vec::new(),
            judgement: Judgement::Blank,
            recoveries: 0,
            pairs_read: 0,
            batches: 0,
            last_request: 0,
        };
        world.start();
        world
    }

    /// A pool on one disk of so many MiB (and two for its labels).
    pub(super) fn with_pool(disk_mib: u64) -> Self {
        let mut world = Self::new();
        world.make_pool(disk_mib);
        world
    }

    pub(super) fn make_pool(&mut self, disk_mib: u64) {
        let create = api::PoolCreate { name: "default".into(), ..api::PoolCreate::default() };
        self.ask(Request::PoolCreate(create)).unwrap();
        self.add_disk("disk", disk_mib).unwrap();
    }

    pub(super) fn add_disk(&mut self, path: &str, mib: u64) -> Result<Response, api::Error> {
        let size_bytes = Some((mib + 2) * MIB);
        self.ask(Request::DiskAdd(api::DiskAdd { path: path.into(), size_bytes, ..api::DiskAdd::default() }))
    }

    fn start(&mut self) {
        let mut out = Vec::new();
        self.controller.start(self.now, &mut out);
        self.perform(out);
        self.settle();
    }

    /// The process dies; another starts.
    pub(super) fn crash(&mut self) {
        self.events.clear();
        self.commits.clear();
        self.held_fences.clear();
        self.inbox.clear();
        self.controller = Controller::recover(self.config.clone(), &self.store, Survivors::default()).unwrap();
        self.start();
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::ToAgent(agent, message) => self.inbox.entry(agent).or_default().push(message),
                Effect::ToNode(node, command) => {
                    self.terms.push(command.term);
                    self.node(node, command.command, command.order);
                }
                Effect::Commit { id, batch } => self.commits.push((id, batch)),
                Effect::Scan { id, ranges } => {
                    let result = crate::perform_scan(&self.store, &ranges);
                    self.pairs_read += result.iter().flatten().map(|scan| scan.pairs.len()).sum::<usize>();
                    self.events.push_back(Event::Scanned { id, result });
                }
                Effect::Reply(id, result) => assert!(self.replies.insert(id, result).is_none(), "answered twice"),
                Effect::Inspect { reply_to, inspection } => {
                    let result = crate::inspect::answer(&self.store, &inspection);
                    self.replies.insert(reply_to, result);
                }
                Effect::SetTimer(time) => self.timer = Some(time),
                Effect::InspectDisk { ticket, path, size_bytes } => {
                    let size_bytes = size_bytes.unwrap_or(1 << 30);
                    let found = DiskInspection { path, judgement: self.judgement, size_bytes, sector_bytes: 512 };
                    self.events.push_back(Event::DiskInspected { ticket, result: Ok(found) });
                }
                Effect::WriteLabel { ticket, .. } => {
                    self.events.push_back(Event::LabelWritten { ticket, result: Ok(()) });
                }
                Effect::OpenDisk { disk, .. } => self.events.push_back(Event::DiskOpened { disk, result: Ok(()) }),
                Effect::ReleaseDisk { .. } | Effect::Attach(_) => {}
                Effect::Alert(change) => self.alerts.push(change),
            }
        }
    }

    fn node(&mut self, node: NodeId, command: wire::CommandId, order: NodeOrder) {
        let fails = matches!(order, NodeOrder::Prepare { .. }).then(|| self.prepare_results.pop_front()).flatten();
        let report = Event::FromNode(node, NodeReport { command, result: fails.map_or(Ok(()), Err) });
        if matches!(order, NodeOrder::Fence { .. }) && self.hold_fences {
            self.held_fences.push(report);
        } else if matches!(order, NodeOrder::Prepare { .. }) && self.hold_preparations {
            self.held_preparations.push(report);
        } else {
            self.events.push_back(report);
        }
        self.orders.push(order);
    }

    pub(super) fn let_fences_go(&mut self) {
        self.hold_fences = false;
        self.events.extend(std::mem::take(&mut self.held_fences));
        self.settle();
    }

    pub(super) fn let_preparations_go(&mut self) {
        self.hold_preparations = false;
        self.events.extend(std::mem::take(&mut self.held_preparations));
        self.settle();
    }

    /// Goes on until nothing moves any more.
    pub(super) fn settle(&mut self) {
        loop {
            while let Some(event) = self.events.pop_front() {
                let mut out = Vec::new();
                self.controller.step(self.now, event, &mut out);
                self.perform(out);
            }
            if self.commits.is_empty() {
                break;
            }
            self.commit();
        }
        self.controller.assert_consistent();
    }

    fn commit(&mut self) {
        let (ids, batches): (Vec<_>, Vec<_>) = std::mem::take(&mut self.commits).into_iter().unzip();
        self.batches += batches.len();
        match self.store.commit(&batches) {
            Ok(()) => self.events.extend(ids.into_iter().map(Event::Committed)),
            Err(error) => self.replace_controller(ids[0], error),
        }
    }

    fn replace_controller(&mut self, id: BatchId, error: StoreError) {
        let mut out = Vec::new();
        self.controller.step(self.now, Event::CommitFailed(id, error), &mut out);
        self.perform(out);
        self.commits.clear();
        let fresh = Controller::recover(self.config.clone(), &MemoryStore::new(), Survivors::default()).unwrap();
        let survivors = std::mem::replace(&mut self.controller, fresh).salvage();
        self.controller = Controller::recover(self.config.clone(), &self.store, survivors).unwrap();
        self.recoveries += 1;
        // What fails now would fail for ever: the trouble is over before the next attempt.
        self.store.fail_commits(None);
        let mut out = Vec::new();
        self.controller.start(self.now, &mut out);
        self.perform(out);
    }

    pub(super) fn event(&mut self, event: Event) {
        self.events.push_back(event);
        self.settle();
    }

    /// One event is handled and nothing is committed yet.
    pub(super) fn event_without_commit(&mut self, event: Event) {
        let mut out = Vec::new();
        self.controller.step(self.now, event, &mut out);
        self.perform(out);
    }

    pub(super) fn later(&mut self, nanoseconds: u64) {
        self.now = Time(self.now.0 + nanoseconds);
        self.event(Event::Timer);
    }

    pub(super) fn ask(&mut self, request: Request) -> Result<Response, api::Error> {
        let id = self.ask_later(request);
        self.settle();
        self.replies.remove(&id).expect("the operator is answered")
    }

    /// An operator's request whose answer may take something else.
    pub(super) fn ask_later(&mut self, request: Request) -> ApiId {
        let id = ApiId(self.next());
        self.events.push_back(Event::Api(id, request));
        id
    }

    fn next(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    pub(super) fn create(&mut self, name: &str, size_bytes: u64) -> VolumeId {
        self.create_with(VolumeCreate { name: name.into(), size_bytes, ..VolumeCreate::default() })
    }

    pub(super) fn create_with(&mut self, create: VolumeCreate) -> VolumeId {
        match self.ask(Request::VolumeCreate(create)) {
            Ok(Response::Volume(volume)) => VolumeId(volume.id),
            other => panic!("a volume is created: {other:?}"),
        }
    }

    pub(super) fn pool(&mut self) -> api::Pool {
        match self.ask(Request::PoolShow { name: "default".into() }) {
            Ok(Response::Pool(pool)) => pool,
            other => panic!("the pool is shown: {other:?}"),
        }
    }

    pub(super) fn volume(&mut self, name: &str) -> api::Volume {
        match self.ask(Request::VolumeShow { name: name.into() }) {
            Ok(Response::Volume(volume)) => volume,
            other => panic!("the volume is shown: {other:?}"),
        }
    }

    pub(super) fn send(&mut self, agent: AgentId, message: AgentMessage) {
        self.event(Event::FromAgent(agent, message));
    }

    /// Takes the first message to `agent` that `pick` wants.
    pub(super) fn take<T>(&mut self, agent: AgentId, pick: impl Fn(&ControllerMessage) -> Option<T>) -> Option<T> {
        let inbox = self.inbox.entry(agent).or_default();
        let index = inbox.iter().position(|message| pick(message).is_some())?;
        pick(&inbox.remove(index))
    }

    pub(super) fn request_attach(&mut self, agent: AgentId, volume: VolumeId) -> RequestId {
        let request = RequestId(self.next());
        self.send(agent, AgentMessage::Attach { request, volume, access: Access::ReadWrite });
        request
    }

    pub(super) fn attached(
        &mut self,
        agent: AgentId,
        wanted: RequestId,
    ) -> Option<Result<Attachment, wire::AttachError>> {
        self.take(agent, |message| match message {
            ControllerMessage::Attached { request, result } if *request == wanted => Some(result.clone()),
            _ => None,
        })
    }

    pub(super) fn attach(&mut self, agent: AgentId, volume: VolumeId) -> Host {
        let request = self.request_attach(agent, volume);
        let attachment = self.attached(agent, request).expect("answered").expect("attached");
        Host::new(agent, attachment)
    }

    pub(super) fn request_grant(&mut self, host: &Host, regions: u32, urgent: u32) -> RequestId {
        let request = RequestId(self.next());
        let epoch = host.epoch();
        self.send(host.agent, AgentMessage::RequestGrant { request, epoch, regions, urgent });
        request
    }

    pub(super) fn granted(&mut self, host: &mut Host, wanted: RequestId) -> Option<Result<u32, GrantError>> {
        let result = self.take(host.agent, |message| match message {
            ControllerMessage::Granted { request, result, .. } if *request == wanted => Some(result.clone()),
            _ => None,
        })?;
        Some(result.map(|runs| host.take_grant(&runs)))
    }

    pub(super) fn grant(&mut self, host: &mut Host, regions: u32, urgent: u32) -> Result<u32, GrantError> {
        let request = self.request_grant(host, regions, urgent);
        self.granted(host, request).expect("answered")
    }

    pub(super) fn commit_map(&mut self, host: &Host, commit: MapCommit) -> Result<(), CommitError> {
        let request = RequestId(self.next());
        self.commit_as(host, request, commit)
    }

    pub(super) fn commit_as(&mut self, host: &Host, request: RequestId, commit: MapCommit) -> Result<(), CommitError> {
        let epoch = host.epoch();
        self.send(host.agent, AgentMessage::Commit { request, epoch, commit });
        self.committed(host, request).expect("answered")
    }

    pub(super) fn committed(&mut self, host: &Host, wanted: RequestId) -> Option<Result<(), CommitError>> {
        self.take(host.agent, |message| match message {
            ControllerMessage::Committed { request, result, .. } if *request == wanted => Some(*result),
            _ => None,
        })
    }

    /// Maps `regions` to granted regions.
    pub(super) fn map(&mut self, host: &mut Host, regions: &[u64]) -> Result<(), CommitError> {
        let (commit, placed) = host.map_commit(regions);
        let result = self.commit_map(host, commit);
        host.placed(placed, result.is_ok());
        result
    }

    /// Trims `regions`.
    pub(super) fn trim(&mut self, host: &mut Host, regions: &[u64]) -> Result<(), CommitError> {
        let commit = host.trim_commit(regions);
        let result = self.commit_map(host, commit);
        if result.is_ok() {
            host.map.retain(|region, _| !regions.contains(region));
        }
        result
    }

    /// The page as the controller tells it, region by region, and the next page there may be.
    pub(super) fn fetch(&mut self, host: &Host, page: u32) -> (BTreeMap<u64, DiskRegion>, u32) {
        let request = RequestId(self.next());
        let epoch = host.epoch();
        self.send(host.agent, AgentMessage::FetchPage { request, epoch, page: PageIndex(page) });
        let (runs, until) = self
            .take(host.agent, |message| match message {
                ControllerMessage::Page { request: of, runs, absent_until, .. } if *of == request => {
                    Some((runs.clone(), absent_until.0))
                }
                _ => None,
            })
            .expect("the page is answered");
        let mut regions = BTreeMap::new();
        for run in runs {
            for slot in 0..run.count {
                let entry = store::table::entry_at(&run.entry, slot, host.attachment.region_size);
                if let MapEntry::Layers(layers) = entry
                    && let model::Place::Region(place) = layers[0].place
                {
                    regions.insert(PageIndex(page).region(run.first + slot).0, place);
                }
            }
        }
        (regions, until)
    }

    pub(super) fn detach(&mut self, host: Host) {
        let epoch = host.epoch();
        self.send(host.agent, AgentMessage::Detach { epoch });
        self.take(host.agent, |message| {
            matches!(message, ControllerMessage::Detached { epoch: of } if *of == epoch).then_some(())
        })
        .expect("detached");
    }

    pub(super) fn audit(&self) -> api::AuditReport {
        audit(&self.store).unwrap()
    }

    #[track_caller]
    pub(super) fn assert_clean(&self) {
        let report = self.audit();
        assert!(report.clean, "the audit finds: {:#?}", report.findings);
    }
}

/// What an agent knows of one session.
pub(super) struct Host {
    pub(super) agent: AgentId,
    pub(super) attachment: Attachment,
    pub(super) free: Vec<DiskRegion>,
    pub(super) map: BTreeMap<u64, DiskRegion>,
}

impl Host {
    pub(super) fn new(agent: AgentId, attachment: Attachment) -> Self {
        Self { agent, attachment, free: Vec::new(), map: BTreeMap::new() }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.attachment.credentials.epoch
    }

    fn take_grant(&mut self, runs: &[UnitRun]) -> u32 {
        let units = self.attachment.region_size.units();
        let mut count = 0;
        for run in runs {
            assert!(run.start.0.is_multiple_of(units) && run.count.is_multiple_of(units));
            for start in (run.start.0..run.end()).step_by(units as usize) {
                self.free.push(DiskRegion { logical_disk: run.logical_disk, unit: UnitIndex(start) });
                count += 1;
            }
        }
        count
    }

    pub(super) fn units(&self, place: DiskRegion) -> UnitRun {
        place.units(self.attachment.region_size)
    }

    fn deltas(&self, entries: &BTreeMap<u64, MapEntry>) -> Vec<PageDelta> {
        let mut pages: Vec<PageDelta> = Vec::new();
        for (region, entry) in entries {
            let (page, slot) = (RegionIndex(*region).page(), RegionIndex(*region).slot());
            let run = model::EntryRun { first: slot, count: 1, entry: entry.clone() };
            match pages.last_mut() {
                Some(last) if last.page == page => last.runs.push(run),
                _ => pages.push(PageDelta { page, runs: vec![run] }),
            }
        }
        pages
    }

    pub(super) fn map_commit(&mut self, regions: &[u64]) -> (MapCommit, Vec<(u64, DiskRegion)>) {
        let size = self.attachment.region_size;
        let (mut entries, mut placed, mut commit) = (BTreeMap::new(), Vec::new(), MapCommit::default());
        for region in regions {
            if self.map.contains_key(region) || entries.contains_key(region) {
                continue;
            }
            let Some(place) = self.free.pop() else { break };
            entries.insert(*region, MapEntry::full(place, size, Generation(1), Generation(1)));
            commit.takes.push(self.units(place));
            placed.push((*region, place));
        }
        commit.pages = self.deltas(&entries);
        (commit, placed)
    }

    pub(super) fn placed(&mut self, placed: Vec<(u64, DiskRegion)>, done: bool) {
        if done {
            self.map.extend(placed);
        } else {
            self.free.extend(placed.into_iter().map(|(_, place)| place));
        }
    }

    pub(super) fn trim_commit(&self, regions: &[u64]) -> MapCommit {
        let mut commit = MapCommit::default();
        let mut entries = BTreeMap::new();
        for region in regions {
            if let Some(place) = self.map.get(region)
                && entries.insert(*region, MapEntry::Zero).is_none()
            {
                commit.drops.push(drop_of(self.units(*place)));
            }
        }
        commit.pages = self.deltas(&entries);
        commit
    }
}

/// A drop of what was allocated before any snapshot.
pub(crate) fn drop_of(run: UnitRun) -> wire::Drop {
    wire::Drop { page: PageIndex(0), run, born: Generation(1) }
}
