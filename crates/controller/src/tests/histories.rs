//! Random histories of agents, operators, crashes and failing stores: the audit is clean at every step, and every volume
//! maps exactly what was committed.

use super::world::{AGENT, Host, MIB, OTHER, World, drop_of};
use crate::{Config, Event};
use api::{Request, VolumeCreate, VolumeResize};
use model::{DiskRegion, VolumeId};
use proptest::prelude::*;
use std::collections::BTreeMap;
use store::StoreError;
use wire::{AgentId, AgentMessage, ControllerMessage, MapCommit, Order, OrderOutcome};

#[derive(Clone, Debug)]
enum Step {
    Create {
        name: u8,
        region_log2: u32,
        limit: bool,
    },
    Attach {
        name: u8,
        agent: bool,
    },
    Grant {
        name: u8,
        regions: u32,
        urgent: u32,
    },
    Map {
        name: u8,
        regions: Vec<u64>,
    },
    Trim {
        name: u8,
        from: u64,
        count: u64,
    },
    /// Maps and trims in one commit.
    Both {
        name: u8,
        map: u64,
        trim: u64,
    },
    Return {
        name: u8,
        count: usize,
    },
    GiveUpUntaken {
        name: u8,
    },
    Detach {
        name: u8,
    },
    AgentGone {
        agent: bool,
    },
    Delete {
        name: u8,
    },
    Shrink {
        name: u8,
        size_log2: u32,
    },
    Crash,
    FailNextCommit {
        full: bool,
    },
    Later,
}

fn any_step() -> impl Strategy<Value = Step> {
    let name = 0_u8..4;
    prop_oneof![
        4 => (name.clone(), 14_u32..19, any::<bool>())
            .prop_map(|(name, region_log2, limit)| Step::Create { name, region_log2, limit }),
        4 => (name.clone(), any::<bool>()).prop_map(|(name, agent)| Step::Attach { name, agent }),
        8 => (name.clone(), 1_u32..300, 0_u32..20)
            .prop_map(|(name, regions, urgent)| Step::Grant { name, regions, urgent }),
        10 => (name.clone(), prop::collection::vec(0_u64..5000, 1..30))
            .prop_map(|(name, regions)| Step::Map { name, regions }),
        5 => (name.clone(), 0_u64..5000, 1_u64..2000).prop_map(|(name, from, count)| Step::Trim { name, from, count }),
        5 => (name.clone(), 0_u64..5000, 0_u64..5000).prop_map(|(name, map, trim)| Step::Both { name, map, trim }),
        3 => (name.clone(), 1_usize..50).prop_map(|(name, count)| Step::Return { name, count }),
        2 => name.clone().prop_map(|name| Step::GiveUpUntaken { name }),
        3 => name.clone().prop_map(|name| Step::Detach { name }),
        1 => any::<bool>().prop_map(|agent| Step::AgentGone { agent }),
        2 => name.clone().prop_map(|name| Step::Delete { name }),
        1 => (name, 16_u32..30).prop_map(|(name, size_log2)| Step::Shrink { name, size_log2 }),
        2 => Just(Step::Crash),
        2 => any::<bool>().prop_map(|full| Step::FailNextCommit { full }),
        1 => Just(Step::Later),
    ]
}

/// What is known of one volume from outside.
struct Known {
    id: VolumeId,
    region_log2: u32,
    regions: u64,
    map: BTreeMap<u64, DiskRegion>,
    host: Option<Host>,
}

struct History {
    world: World,
    volumes: BTreeMap<u8, Known>,
}

const SIZE_BYTES: u64 = 1 << 40;

impl History {
    fn new() -> Self {
        Self::with(Config::default())
    }

    #[cfg(feature = "planted")]
    fn with_bug(bug: crate::Bug) -> Self {
        Self::with(Config { planted: crate::Planted::with(bug), ..Config::default() })
    }

    fn with(config: Config) -> Self {
        let mut world = World::with(config);
        world.make_pool(24);
        world.add_disk("second", 40).unwrap();
        Self { world, volumes: BTreeMap::new() }
    }

    fn host(&mut self, name: u8) -> Option<(&mut World, &mut Host)> {
        let host = self.volumes.get_mut(&name)?.host.as_mut()?;
        Some((&mut self.world, host))
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Create { name, region_log2, limit } => self.create(*name, *region_log2, *limit),
            Step::Attach { name, agent } => self.attach(*name, if *agent { AGENT } else { OTHER }),
            Step::Grant { name, regions, urgent } => self.grant(*name, *regions, *urgent),
            Step::Map { name, regions } => {
                self.make_ready(*name, regions.len());
                if let Some((world, host)) = self.host(*name) {
                    let _ = world.map(host, regions);
                }
            }
            Step::Trim { name, from, count } => {
                if let Some((world, host)) = self.host(*name) {
                    let _ = world.trim(host, &(*from..from + count).collect::<Vec<_>>());
                }
            }
            Step::Both { name, map, trim } => self.both(*name, *map, *trim),
            Step::Return { name, count } => self.give_back(*name, *count),
            Step::GiveUpUntaken { name } => {
                if let Some((world, host)) = self.host(*name)
                    && let Some(place) = host.free.pop()
                {
                    let commit = MapCommit { drops: vec![drop_of(host.units(place))], ..MapCommit::default() };
                    if world.commit_map(host, commit).is_err() {
                        host.free.push(place);
                    }
                }
            }
            Step::Detach { name } => {
                if let Some(known) = self.volumes.get_mut(name)
                    && let Some(host) = known.host.take()
                {
                    known.map = host.map.clone();
                    self.world.detach(host);
                }
            }
            Step::AgentGone { agent } => self.agent_gone(if *agent { AGENT } else { OTHER }),
            Step::Delete { name } => self.delete(*name),
            Step::Shrink { name, size_log2 } => self.shrink(*name, *size_log2),
            Step::Crash => {
                self.forget_hosts(|_| true);
                self.world.crash();
            }
            Step::FailNextCommit { full } => {
                let error = if *full { StoreError::Full } else { StoreError::Failed("a test".into()) };
                self.world.store.fail_commits(Some(error));
            }
            Step::Later => self.world.later(30_000_000_000),
        }
    }

    fn create(&mut self, name: u8, region_log2: u32, limit: bool) {
        let create = VolumeCreate {
            name: format!("v{name}"),
            size_bytes: SIZE_BYTES,
            region_bytes: Some(1 << region_log2),
            limit_bytes: limit.then_some(8 * MIB),
            ..VolumeCreate::default()
        };
        let result = self.world.ask(Request::VolumeCreate(create));
        if let Ok(api::Response::Volume(volume)) = result {
            let regions = SIZE_BYTES >> region_log2;
            let known = Known { id: VolumeId(volume.id), region_log2, regions, map: BTreeMap::new(), host: None };
            assert!(self.volumes.insert(name, known).is_none(), "two volumes of one name");
        }
    }

    fn attach(&mut self, name: u8, agent: AgentId) {
        let Some(known) = self.volumes.get_mut(&name) else { return };
        let request = self.world.request_attach(agent, known.id);
        let result = self.world.attached(agent, request).expect("an attachment is answered");
        match result {
            Ok(attachment) => {
                assert!(known.host.is_none(), "two sessions at once");
                let mut host = Host::new(agent, attachment);
                host.map = known.map.clone();
                known.host = Some(host);
            }
            Err(_) => assert!(known.host.is_some() || self.world.recoveries > 0, "refused without a reason"),
        }
    }

    /// So that most steps find something to do: a volume, a session, and enough regions if there are any.
    fn make_ready(&mut self, name: u8, regions: usize) {
        if !self.volumes.contains_key(&name) {
            self.create(name, 14 + u32::from(name) * 2, false);
        }
        if self.volumes.get(&name).is_some_and(|known| known.host.is_none()) {
            self.attach(name, if name.is_multiple_of(2) { AGENT } else { OTHER });
        }
        if self.host(name).is_some_and(|(_, host)| host.free.len() < regions) {
            self.grant(name, regions as u32, regions as u32);
        }
    }

    fn grant(&mut self, name: u8, regions: u32, urgent: u32) {
        let Some((world, host)) = self.host(name) else { return };
        let request = world.request_grant(host, regions, urgent);
        // Should others be asked to return what they do not use, they do.
        self.answer_recalls();
        let Some((world, host)) = self.host(name) else { return };
        world.granted(host, request).expect("a grant is answered").ok();
    }

    fn answer_recalls(&mut self) {
        for known in self.volumes.values_mut() {
            let Some(host) = &mut known.host else { continue };
            let epoch = host.epoch();
            let order = self.world.take(host.agent, |message| match message {
                ControllerMessage::Order { command, epoch: of, order: Order::ReturnGrants } if *of == epoch => {
                    Some(*command)
                }
                _ => None,
            });
            if let Some(command) = order {
                let places = std::mem::take(&mut host.free);
                let runs = places.into_iter().map(|place| host.units(place)).collect();
                self.world.send(host.agent, AgentMessage::ReturnGrant { epoch, runs });
                let outcome = OrderOutcome::Done;
                self.world.send(host.agent, AgentMessage::OrderDone { command, epoch, outcome });
            }
        }
    }

    fn both(&mut self, name: u8, map: u64, trim: u64) {
        let Some((world, host)) = self.host(name) else { return };
        // (One page once: two pages of one commit must differ.)
        if map == trim {
            return;
        }
        let trimmed = host.trim_commit(&[trim]);
        let (mut commit, placed) = host.map_commit(&[map]);
        commit.drops = trimmed.drops;
        for delta in trimmed.pages {
            match commit.pages.iter_mut().find(|page| page.page == delta.page) {
                Some(page) => {
                    page.runs.extend(delta.runs);
                    page.runs.sort_by_key(|run| run.first);
                }
                None => commit.pages.push(delta),
            }
        }
        commit.pages.sort_by_key(|page| page.page);
        let done = world.commit_map(host, commit).is_ok();
        host.placed(placed, done);
        if done {
            host.map.remove(&trim);
        }
    }

    fn give_back(&mut self, name: u8, count: usize) {
        let Some((world, host)) = self.host(name) else { return };
        let from = host.free.len().saturating_sub(count);
        let places = host.free.split_off(from);
        let runs = places.into_iter().map(|place| host.units(place)).collect();
        let epoch = host.epoch();
        world.send(host.agent, AgentMessage::ReturnGrant { epoch, runs });
    }

    fn forget_hosts(&mut self, gone: impl Fn(AgentId) -> bool) {
        for known in self.volumes.values_mut() {
            if known.host.as_ref().is_some_and(|host| gone(host.agent))
                && let Some(host) = known.host.take()
            {
                known.map = host.map;
            }
        }
    }

    fn agent_gone(&mut self, agent: AgentId) {
        self.forget_hosts(|of| of == agent);
        self.world.event(Event::AgentGone(agent));
        self.world.inbox.remove(&agent);
    }

    fn delete(&mut self, name: u8) {
        let Some(known) = self.volumes.get_mut(&name).filter(|known| known.host.is_none()) else { return };
        let id = known.id;
        let result = self.world.ask(Request::VolumeDelete { name: format!("v{name}"), force: false, snapshots: false });
        if result.is_ok() {
            self.volumes.remove(&name);
            let request = self.world.request_attach(AGENT, id);
            assert!(self.world.attached(AGENT, request).expect("answered").is_err());
        }
    }

    fn shrink(&mut self, name: u8, size_log2: u32) {
        let Some(known) = self.volumes.get_mut(&name).filter(|known| known.host.is_none()) else { return };
        let resize = VolumeResize { size_bytes: 1 << size_log2, shrink: true };
        let result = self.world.ask(Request::VolumeResize { name: format!("v{name}"), resize });
        if result.is_ok() {
            known.regions = (1_u64 << size_log2).div_ceil(1 << known.region_log2);
            let regions = known.regions;
            known.map.retain(|region, _| *region < regions);
        }
        // Back to its size, so that the rest of the history applies.
        let resize = VolumeResize { size_bytes: SIZE_BYTES, shrink: false };
        let _ = self.world.ask(Request::VolumeResize { name: format!("v{name}"), resize });
    }

    fn check(&mut self) {
        self.world.assert_clean();
        let mut mapped = 0;
        for known in self.volumes.values() {
            let map = known.host.as_ref().map_or(&known.map, |host| &host.map);
            mapped += map.len() as u64 * (1_u64 << known.region_log2);
        }
        assert_eq!(self.world.pool().used_bytes, mapped, "usage is what was committed");
        for known in self.volumes.values_mut() {
            let Some(host) = &known.host else { continue };
            for page in 0..5 {
                let expected: BTreeMap<u64, DiskRegion> =
                    host.map.range(page * 1024..(page + 1) * 1024).map(|(region, place)| (*region, *place)).collect();
                if page * 1024 < SIZE_BYTES >> known.region_log2 {
                    assert_eq!(self.world.fetch(host, page as u32).0, expected);
                }
            }
        }
    }
}

/// How a history goes wrong, if it does.
#[cfg(feature = "planted")]
fn goes_wrong(bug: crate::Bug, cases: u32) -> bool {
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let config = Config { cases, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&prop::collection::vec(any_step(), 20..150), |steps| {
        let mut history = History::with_bug(bug);
        for step in &steps {
            history.apply(step);
            history.check();
        }
        Ok(())
    });
    outcome.is_err()
}

/// What the audit and the comparison of maps can see of the bugs that can be planted. (The others show in the bytes that
/// hosts read, which only the simulator has.)
#[cfg(feature = "planted")]
#[test]
fn planted_bugs_are_found() {
    use crate::Bug;
    for bug in [
        Bug::GrantNotRecorded,
        Bug::TakenForgotten,
        Bug::FreesForgotten,
        Bug::UsageForgotten,
        Bug::FoldDropsDelta,
        Bug::AnswerBeforeCommit,
        Bug::GrantBeforeCommit,
    ] {
        assert!(goes_wrong(bug, 200), "{bug:?} is not found");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 500, ..ProptestConfig::default() })]
    #[test]
    fn every_unit_has_one_owner_whatever_happens(steps in prop::collection::vec(any_step(), 1..150)) {
        let mut history = History::new();
        for step in &steps {
            history.apply(step);
            history.check();
        }
    }
}
