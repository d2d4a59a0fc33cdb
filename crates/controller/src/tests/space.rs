//! Space: grants, limits, growth, recalls.

use super::world::{AGENT, MIB, OTHER, World};
use crate::AlertChange;
use api::{AlertKind, Request, VolumeCreate, VolumeSet};
use model::IoError;
use store::Space;
use wire::{AgentMessage, ControllerMessage, GrantError, Order, OrderOutcome};

#[test]
fn a_pool_starts_with_no_logical_disk_and_grows_on_demand() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", 1 << 40);
    assert_eq!(world.pool().logical_disks, 0);
    let mut host = world.attach(AGENT, volume);
    world.grant(&mut host, 1, 1).unwrap();
    assert!(world.pool().logical_disks > 0);
    let announced = world.take(AGENT, |message| matches!(message, ControllerMessage::LogicalDisk { .. }).then_some(()));
    assert!(announced.is_some(), "D9");
}

#[test]
fn a_stream_gets_one_run_after_another() {
    let mut world = World::with_pool(1024);
    let volume = world.create("a", 1 << 40);
    let mut host = world.attach(AGENT, volume);
    world.grant(&mut host, 64, 64).unwrap();
    world.grant(&mut host, 64, 64).unwrap();
    let size = host.attachment.region_size;
    let contiguous = host.free.windows(2).filter(|pair| pair[0].offset_by(1, size) == pair[1]).count();
    assert_eq!(contiguous, 127);
}

#[test]
fn preparing_that_fails_is_tried_with_less() {
    let mut world = World::new();
    let create = api::PoolCreate { name: "default".into(), growth_bytes: Some(32 * MIB), ..api::PoolCreate::default() };
    world.ask(Request::PoolCreate(create)).unwrap();
    world.add_disk("one", 64).unwrap();
    world.add_disk("two", 16).unwrap();
    world.prepare_results.extend([IoError::OutOfSpace; 5]);
    let volume = world.create("a", 1 << 40);
    let mut host = world.attach(AGENT, volume);
    assert_eq!(world.grant(&mut host, 1, 1), Ok(1));
    world.assert_clean();
}

#[test]
fn a_pool_that_cannot_grow_says_so_and_tries_again_later() {
    let mut world = World::with_pool(64);
    world.prepare_results.extend([IoError::OutOfSpace; 8]);
    let volume = world.create("a", 1 << 40);
    let mut host = world.attach(AGENT, volume);
    assert_eq!(world.grant(&mut host, 1, 1), Err(GrantError::PoolFull));
    assert_eq!(world.volume("a").state, api::VolumeState::Full);
    world.prepare_results.clear();
    assert_eq!(world.grant(&mut host, 1, 1), Err(GrantError::PoolFull));
    world.later(20_000_000_000);
    assert_eq!(world.grant(&mut host, 1, 1), Ok(1));
    assert_eq!(world.volume("a").state, api::VolumeState::Online);
}

#[test]
fn a_full_pool_refuses_only_what_needs_space() {
    let mut world = World::with_pool(16);
    let volume = world.create("a", 1 << 40);
    let mut host = world.attach(AGENT, volume);
    let mut next = 0;
    let refused = loop {
        match world.grant(&mut host, 100, 1) {
            Ok(count) => {
                let regions: Vec<u64> = (next..next + u64::from(count)).collect();
                world.map(&mut host, &regions).unwrap();
                next += u64::from(count);
            }
            Err(error) => break error,
        }
    };
    assert_eq!(refused, GrantError::PoolFull);
    assert_eq!(next, (16 * MIB) >> 16, "FULL_IS_HARMLESS: every region was given out first");
    assert_eq!((world.pool().free_bytes, world.pool().state), (0, api::PoolState::Full));
    world.trim(&mut host, &[3, 4]).unwrap();
    assert_eq!(world.pool().free_bytes, 2 << 16);
    assert_eq!(world.pool().state, api::PoolState::Healthy);
    assert_eq!(world.grant(&mut host, 100, 1), Ok(1), "A10: what was trimmed is given out again");
    world.detach(host);
    world.ask(Request::VolumeDelete { name: "a".into(), force: false, snapshots: false }).unwrap();
    assert_eq!(world.pool().free_bytes, world.pool().capacity_bytes);
    world.assert_clean();
}

#[test]
fn two_volumes_compete_for_one_pool_and_unused_grants_are_recalled() {
    let mut world = World::with_pool(16);
    let (one, two) = (world.create("one", 1 << 40), world.create("two", 1 << 40));
    let (mut first, mut second) = (world.attach(AGENT, one), world.attach(OTHER, two));
    while world.grant(&mut first, 1000, 1).is_ok() {}
    let request = world.request_grant(&second, 10, 10);
    assert_eq!(world.granted(&mut second, request), None, "it waits");
    let (command, epoch) = world
        .take(AGENT, |message| match message {
            ControllerMessage::Order { command, epoch, order: Order::ReturnGrants } => Some((*command, *epoch)),
            _ => None,
        })
        .expect("the other is asked");
    let runs = first.free.drain(..100).collect::<Vec<_>>();
    let runs = runs.into_iter().map(|place| first.units(place)).collect();
    world.send(AGENT, AgentMessage::ReturnGrant { epoch, runs });
    world.send(AGENT, AgentMessage::OrderDone { command, epoch, outcome: OrderOutcome::Done });
    assert!(matches!(world.granted(&mut second, request), Some(Ok(10..))));
    world.assert_clean();
}

#[test]
fn a_recall_that_nobody_answers_ends() {
    let mut world = World::with_pool(16);
    let (one, two) = (world.create("one", 1 << 40), world.create("two", 1 << 40));
    let (mut first, mut second) = (world.attach(AGENT, one), world.attach(OTHER, two));
    while world.grant(&mut first, 1000, 1).is_ok() {}
    let request = world.request_grant(&second, 10, 10);
    world.later(6_000_000_000);
    assert_eq!(world.granted(&mut second, request), Some(Err(GrantError::PoolFull)), "FAULT_ALWAYS_ENDS");
    let request = world.request_grant(&second, 10, 10);
    world.event(crate::Event::AgentGone(AGENT));
    assert!(matches!(world.granted(&mut second, request), Some(Ok(10..))), "the dead leave room");
    world.assert_clean();
}

#[test]
fn limits_of_volumes_and_pools_hold_and_warn_once() {
    let mut world = World::with_pool(64);
    let create = VolumeCreate {
        name: "a".into(),
        size_bytes: 1 << 40,
        warn_bytes: Some(MIB),
        limit_bytes: Some(2 * MIB),
        ..VolumeCreate::default()
    };
    let volume = world.create_with(create);
    let mut host = world.attach(AGENT, volume);
    assert_eq!(world.grant(&mut host, 1000, 1), Ok(32), "D7: up to the limit and no further");
    assert_eq!(world.grant(&mut host, 1000, 1), Err(GrantError::VolumeLimit));
    world.map(&mut host, &(0..20).collect::<Vec<_>>()).unwrap();
    world.map(&mut host, &(20..32).collect::<Vec<_>>()).unwrap();
    let raised = |world: &World, wanted: AlertKind| {
        let raised = |change: &&AlertChange| matches!(change, AlertChange::Raised(alert) if alert.kind == wanted);
        world.alerts.iter().filter(raised).count()
    };
    assert_eq!(raised(&world, AlertKind::VolumeWarning), 1);
    assert_eq!(raised(&world, AlertKind::VolumeLimit), 1);
    assert_eq!(world.volume("a").alerts.len(), 2);
    assert_eq!(world.volume("a").used_bytes, 2 * MIB);
    world.trim(&mut host, &(0..20).collect::<Vec<_>>()).unwrap();
    assert!(world.volume("a").alerts.is_empty());
    assert!(matches!(world.grant(&mut host, 1, 1), Ok(1..)));
    let set = VolumeSet { warn_bytes: Some(1), ..VolumeSet::default() };
    world.ask(Request::VolumeSet { name: "a".into(), set }).unwrap();
    assert_eq!(raised(&world, AlertKind::VolumeWarning), 2);
}

#[test]
fn a_pools_limit_holds_for_all_its_volumes_together() {
    let mut world = World::new();
    let create = api::PoolCreate { name: "default".into(), limit_bytes: Some(4 * MIB), ..api::PoolCreate::default() };
    world.ask(Request::PoolCreate(create)).unwrap();
    world.add_disk("disk", 64).unwrap();
    let (one, two) = (world.create("one", 1 << 40), world.create("two", 1 << 40));
    let (mut first, mut second) = (world.attach(AGENT, one), world.attach(AGENT, two));
    assert_eq!(world.grant(&mut first, 1000, 1), Ok(64));
    assert_eq!(world.grant(&mut second, 1, 0), Err(GrantError::PoolLimit), "D8");
    assert_eq!(world.pool().alerts[0].kind, AlertKind::PoolLimit);
    assert_eq!(world.pool().state, api::PoolState::Full);
}

#[test]
fn when_the_metadata_store_is_nearly_full_only_deletes_work() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", 1 << 40);
    let mut host = world.attach(AGENT, volume);
    world.grant(&mut host, 4, 4).unwrap();
    world.map(&mut host, &[1]).unwrap();
    world.event(crate::Event::Space(Space { used_bytes: 1, available_bytes: Some(100) }));
    assert_eq!(world.grant(&mut host, 4, 4), Err(GrantError::MetadataFull), "2: early and clean");
    let create = VolumeCreate { name: "b".into(), size_bytes: MIB, ..VolumeCreate::default() };
    assert_eq!(world.ask(Request::VolumeCreate(create)).unwrap_err().kind, api::ErrorKind::OutOfSpace);
    world.detach(host);
    world.ask(Request::VolumeDelete { name: "a".into(), force: false, snapshots: false }).unwrap();
    assert_eq!(world.pool().used_bytes, 0);
    world.event(crate::Event::Space(Space { used_bytes: 1, available_bytes: Some(1 << 40) }));
    world.create("b", MIB);
    let cleared = world
        .alerts
        .iter()
        .any(|change| matches!(change, AlertChange::Cleared(alert) if alert.kind == AlertKind::MetadataFull));
    assert!(cleared);
}

#[test]
fn volumes_of_different_region_sizes_share_a_pool() {
    let mut world = World::with_pool(64);
    for region_bytes in [16 << 10, 64 << 10, 4 * MIB] {
        let name = format!("v{region_bytes}");
        let create =
            VolumeCreate { name, size_bytes: 1 << 40, region_bytes: Some(region_bytes), ..VolumeCreate::default() };
        let volume = world.create_with(create);
        let mut host = world.attach(AGENT, volume);
        world.grant(&mut host, 3, 3).unwrap();
        world.map(&mut host, &[0, 7, 9]).unwrap();
    }
    assert_eq!(world.pool().used_bytes, 3 * ((16 << 10) + (64 << 10) + 4 * MIB), "C1");
    world.assert_clean();
}

#[test]
fn grants_wait_in_order_while_a_logical_disk_is_made() {
    let mut world = World::with_pool(64);
    let (one, two) = (world.create("one", 1 << 40), world.create("two", 1 << 40));
    let (mut first, mut second) = (world.attach(AGENT, one), world.attach(OTHER, two));
    world.hold_preparations = true;
    let earlier = world.request_grant(&first, 1, 1);
    let later = world.request_grant(&second, 1, 1);
    assert_eq!(world.granted(&mut first, earlier), None, "D10: queued, not refused");
    assert_eq!(world.granted(&mut second, later), None);
    assert_eq!(world.pool().logical_disks, 0);
    world.let_preparations_go();
    assert_eq!(world.granted(&mut first, earlier), Some(Ok(1)));
    assert_eq!(world.granted(&mut second, later), Some(Ok(1)));
    assert!(first.free[0].unit < second.free[0].unit, "in the order asked");
    world.assert_clean();
}

#[test]
fn a_disk_that_fails_is_left_out_when_the_pool_grows() {
    let mut world = World::with_pool(64);
    world.add_disk("second", 64).unwrap();
    world.prepare_results.push_back(IoError::Device);
    let volume = world.create("a", 1 << 40);
    let mut host = world.attach(AGENT, volume);
    assert!(world.grant(&mut host, 1, 1).is_ok());
    assert_eq!(world.pool().state, api::PoolState::Degraded);
    assert!(
        world
            .alerts
            .iter()
            .any(|change| matches!(change, AlertChange::Raised(alert) if alert.kind == AlertKind::DiskFailed))
    );
    world.assert_clean();
}
