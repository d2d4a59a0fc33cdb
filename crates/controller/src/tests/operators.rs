//! Pools, disks and volumes as operators make, change and delete them.

use super::world::{AGENT, MIB, OTHER, World};
use api::{ErrorKind, Request, Response, VolumeCreate, VolumeResize, VolumeSet};
use model::VolumeId;
use pool::Judgement;
use wire::{AgentMessage, AttachError, ControllerMessage, Order, OrderOutcome};

fn kind(result: Result<Response, api::Error>) -> ErrorKind {
    result.expect_err("it is refused").kind
}

#[test]
fn a_volume_is_created_attached_mapped_and_found_again_after_a_crash() {
    let mut world = World::with_pool(64);
    let volume = world.create("demo", 1 << 50);
    assert_eq!(world.pool().used_bytes, 0, "D1: a petabyte uses no space");
    assert!(world.controller.exports().named("demo").is_some());
    let mut host = world.attach(AGENT, volume);
    assert!(host.attachment.written.is_empty(), "nothing of it can lie in a disk's cache");
    assert_eq!(world.grant(&mut host, 16, 4), Ok(16));
    world.map(&mut host, &[0, 1, 5, 5000]).unwrap();
    assert_eq!(world.pool().used_bytes, (4 * 64) << 10);
    world.assert_clean();
    let map = host.map.clone();
    world.crash();
    world.assert_clean();
    let pool = world.pool();
    assert_eq!(
        (pool.used_bytes, pool.granted_bytes),
        ((4 * 64) << 10, 0),
        "3: what was granted and not mapped is free"
    );
    let host = world.attach(OTHER, volume);
    let disks: Vec<_> = host.attachment.layouts.iter().map(|layout| layout.id).collect();
    assert_eq!(host.attachment.written, disks, "what a former session wrote may, and nowhere else");
    let (page, until) = world.fetch(&host, 0);
    assert_eq!(page, map.range(..1024).map(|(region, place)| (*region, *place)).collect());
    assert_eq!(until, 4, "the pages in between are absent");
    assert_eq!(world.fetch(&host, 4).0.len(), 1);
    assert_eq!(world.fetch(&host, 5), (Default::default(), (1_u64 << 50 >> 26) as u32));
}

#[test]
fn names_sizes_and_regions_that_make_no_sense_are_refused() {
    let mut world = World::with_pool(64);
    let create = |name: &str, size_bytes, region_bytes| {
        Request::VolumeCreate(VolumeCreate { name: name.into(), size_bytes, region_bytes, ..VolumeCreate::default() })
    };
    for (request, expected) in [
        (create("a/b", MIB, None), ErrorKind::Invalid),
        (create("a", 0, None), ErrorKind::Invalid),
        (create("a", 1000, None), ErrorKind::Invalid),
        (create("a", MIB, Some(5000)), ErrorKind::Invalid),
        (create("a", 1 << 63, None), ErrorKind::Invalid),
        (create("a", 1 << 62, Some(16 << 10)), ErrorKind::Invalid),
        (Request::VolumeShow { name: "a".into() }, ErrorKind::NotFound),
        (Request::PoolShow { name: "a".into() }, ErrorKind::NotFound),
        (Request::DiskShow { id: 9 }, ErrorKind::NotFound),
    ] {
        assert_eq!(kind(world.ask(request.clone())), expected, "{request:?}");
    }
    world.create("a", MIB);
    assert_eq!(kind(world.ask(create("a", MIB, None))), ErrorKind::Exists);
}

#[test]
fn a_disk_that_holds_something_is_taken_only_by_force() {
    let mut world = World::with_pool(64);
    world.judgement = Judgement::Foreign;
    assert_eq!(kind(world.add_disk("foreign", 64)), ErrorKind::NeedsForce);
    world.judgement = Judgement::Newer { version: 9 };
    assert_eq!(kind(world.add_disk("newer", 64)), ErrorKind::Invalid);
    world.judgement = Judgement::Foreign;
    let add = api::DiskAdd { path: "foreign".into(), force: true, ..api::DiskAdd::default() };
    assert!(world.ask(Request::DiskAdd(add)).is_ok());
    world.judgement = Judgement::Blank;
    assert_eq!(kind(world.add_disk("disk", 64)), ErrorKind::Exists);
    assert_eq!(kind(world.add_disk("tiny", 0)), ErrorKind::Invalid);
    let Ok(Response::Disks(disks)) = world.ask(Request::DiskList { pool: None }) else { panic!("disks are listed") };
    assert_eq!(disks.iter().map(|disk| disk.path.as_str()).collect::<Vec<_>>(), ["disk", "foreign"]);
    assert!(disks.iter().all(|disk| disk.state == api::DiskState::Online));
}

#[test]
fn a_pool_goes_only_when_its_volumes_are_gone() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", MIB);
    let delete = || Request::PoolDelete { name: "default".into() };
    assert_eq!(kind(world.ask(delete())), ErrorKind::Busy);
    let mut host = world.attach(AGENT, volume);
    world.grant(&mut host, 4, 4).unwrap();
    world.map(&mut host, &[1, 2]).unwrap();
    world.detach(host);
    world.ask(Request::VolumeDelete { name: "a".into(), force: false, snapshots: false }).unwrap();
    world.ask(delete()).unwrap();
    assert!(world.store.len() <= 2, "only the cluster and its counters are left");
    world.crash();
    assert_eq!(kind(world.ask(delete())), ErrorKind::NotFound);
}

#[test]
fn renaming_frees_the_old_name_and_keeps_the_volume() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", MIB);
    let version = world.controller.catalog_version();
    let rename = api::VolumeRename { new_name: "b".into() };
    world.ask(Request::VolumeRename { name: "a".into(), rename }).unwrap();
    assert!(world.controller.catalog_version() > version);
    assert_eq!(world.volume("b").id, volume.0);
    let again = world.create("a", MIB);
    assert_ne!(again, volume);
    world.crash();
    assert_eq!((world.volume("a").id, world.volume("b").id), (again.0, volume.0));
    world.assert_clean();
}

#[test]
fn deleting_frees_the_name_at_once_and_all_the_space_in_the_end() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", 1 << 40);
    let mut host = world.attach(AGENT, volume);
    for page in 0..40_u64 {
        world.grant(&mut host, 4, 4).unwrap();
        world.map(&mut host, &[page * 5000, page * 5000 + 1]).unwrap();
    }
    world.detach(host);
    assert!(world.pool().used_bytes > 0);
    let id = world.ask_later(Request::VolumeDelete { name: "a".into(), force: false, snapshots: false });
    // The first events, without the job: then the process dies.
    world.settle();
    assert_eq!(world.replies.remove(&id), Some(Ok(Response::Done)));
    world.crash();
    assert_eq!(world.pool().used_bytes, 0);
    assert_eq!(world.pool().free_bytes, world.pool().capacity_bytes);
    assert_eq!(kind(world.ask(Request::VolumeShow { name: "a".into() })), ErrorKind::NotFound);
    world.assert_clean();
    let attach = world.request_attach(AGENT, volume);
    assert_eq!(world.attached(AGENT, attach), Some(Err(AttachError::NoSuchVolume)));
}

fn order(world: &mut World, agent: wire::AgentId) -> (wire::CommandId, model::Epoch, Order) {
    let order = world.take(agent, |message| match message {
        ControllerMessage::Order { command, epoch, order } => Some((*command, *epoch, *order)),
        _ => None,
    });
    order.expect("an order was given")
}

#[test]
fn deleting_an_attached_volume_asks_its_agent_first() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", MIB);
    let host = world.attach(AGENT, volume);
    let id = world.ask_later(Request::VolumeDelete { name: "a".into(), force: false, snapshots: false });
    world.settle();
    let (command, epoch, given) = order(&mut world, AGENT);
    assert_eq!(given, Order::Release { force: false });
    world.send(AGENT, AgentMessage::OrderDone { command, epoch, outcome: OrderOutcome::Busy { hosts: 2 } });
    assert_eq!(kind(world.replies.remove(&id).unwrap()), ErrorKind::Busy);
    let id = world.ask_later(Request::VolumeDelete { name: "a".into(), force: true, snapshots: false });
    world.settle();
    let (command, epoch, given) = order(&mut world, AGENT);
    assert_eq!(given, Order::Release { force: true });
    let attach = world.request_attach(OTHER, volume);
    assert_eq!(world.attached(OTHER, attach), Some(Err(AttachError::Busy)), "nobody slips in meanwhile");
    world.detach(host);
    world.send(AGENT, AgentMessage::OrderDone { command, epoch, outcome: OrderOutcome::Done });
    assert!(world.replies.remove(&id).unwrap().is_ok());
    world.assert_clean();
}

fn resize(name: &str, size_bytes: u64, shrink: bool) -> Request {
    Request::VolumeResize { name: name.into(), resize: VolumeResize { size_bytes, shrink } }
}

#[test]
fn growing_an_attached_volume_is_durable_before_its_agent_hears_of_it() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", MIB);
    let _host = world.attach(AGENT, volume);
    let id = world.ask_later(resize("a", 2 * MIB, false));
    world.settle();
    assert!(world.replies.is_empty());
    let (command, epoch, given) = order(&mut world, AGENT);
    assert_eq!(given, Order::Resize { size_bytes: 2 * MIB });
    world.send(AGENT, AgentMessage::OrderDone { command, epoch, outcome: OrderOutcome::Done });
    assert!(world.replies.remove(&id).unwrap().is_ok());
    assert_eq!(world.volume("a").size_bytes, 2 * MIB);
}

#[test]
fn shrinking_needs_to_be_meant_and_takes_back_what_lies_beyond() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", 300 * MIB);
    let mut host = world.attach(AGENT, volume);
    world.grant(&mut host, 16, 16).unwrap();
    world.map(&mut host, &[0, 15, 16, 17, 2000, 4000]).unwrap();
    world.detach(host);
    assert_eq!(kind(world.ask(resize("a", MIB, false))), ErrorKind::NeedsForce);
    assert_eq!(kind(world.ask(resize("a", MIB + 512, true))), ErrorKind::Invalid);
    world.ask(resize("a", MIB + 4096, true)).unwrap();
    assert_eq!(world.volume("a").used_bytes, (3 * 64) << 10);
    world.assert_clean();
    world.crash();
    world.assert_clean();
    let host = world.attach(AGENT, volume);
    assert_eq!(world.fetch(&host, 0).0.into_keys().collect::<Vec<_>>(), [0, 15, 16]);
    world.detach(host);
    let mut host = world.attach(AGENT, volume);
    world.grant(&mut host, 1, 1).unwrap();
    let id = world.ask_later(resize("a", MIB, true));
    world.settle();
    let (command, epoch, given) = order(&mut world, AGENT);
    assert_eq!(given, Order::Resize { size_bytes: MIB });
    host.map = world.fetch(&host, 0).0;
    world.trim(&mut host, &[16]).unwrap();
    world.send(AGENT, AgentMessage::OrderDone { command, epoch, outcome: OrderOutcome::Done });
    assert!(world.replies.remove(&id).unwrap().is_ok());
    assert_eq!(world.volume("a").size_bytes, MIB);
    world.assert_clean();
}

#[test]
fn an_order_to_an_agent_that_dies_ends_too() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", 10 * MIB);
    let _host = world.attach(AGENT, volume);
    let grow = world.ask_later(resize("a", 20 * MIB, false));
    world.settle();
    world.event(crate::Event::AgentGone(AGENT));
    assert!(world.replies.remove(&grow).unwrap().is_ok());
    let _host = world.attach(OTHER, volume);
    let delete = world.ask_later(Request::VolumeDelete { name: "a".into(), force: false, snapshots: false });
    world.settle();
    world.event(crate::Event::AgentGone(OTHER));
    assert!(world.replies.remove(&delete).unwrap().is_ok());
    assert_eq!(world.pool().volumes, 0);
    world.assert_clean();
}

#[test]
fn limits_and_access_are_changed_and_remembered() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", 10 * MIB);
    let set = VolumeSet { warn_bytes: Some(MIB), limit_bytes: Some(2 * MIB), read_only: Some(true) };
    world.ask(Request::VolumeSet { name: "a".into(), set }).unwrap();
    world.crash();
    let shown = world.volume("a");
    assert_eq!((shown.warn_bytes, shown.limit_bytes, shown.read_only), (Some(MIB), Some(2 * MIB), true));
    let host = world.attach(AGENT, volume);
    assert!(host.attachment.read_only && world.controller.exports().named("a").unwrap().read_only);
    let set = VolumeSet { limit_bytes: Some(0), read_only: Some(false), ..VolumeSet::default() };
    world.ask(Request::VolumeSet { name: "a".into(), set }).unwrap();
    assert_eq!(order(&mut world, AGENT).2, Order::SetReadOnly { read_only: false });
    assert_eq!(world.volume("a").limit_bytes, None);
}

#[test]
fn the_map_shows_extents_and_how_scattered_they_are() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", 1 << 30);
    let mut host = world.attach(AGENT, volume);
    world.grant(&mut host, 16, 16).unwrap();
    host.free.reverse();
    world.map(&mut host, &[0, 1, 2, 3]).unwrap();
    host.free.reverse();
    world.map(&mut host, &[4, 5]).unwrap();
    let query = api::VolumeMapQuery::default();
    let Ok(Response::VolumeMap(map)) = world.ask(Request::VolumeMap { name: "a".into(), query }) else {
        panic!("the map is shown")
    };
    assert_eq!((map.mapped_regions, map.mapped_extents), (6, 3));
    assert!((map.fragmentation - 2.0 / 5.0).abs() < 1e-9);
    let lengths: Vec<_> = map.extents.iter().map(|extent| extent.length_bytes >> 16).collect();
    assert_eq!(lengths, [4, 1, 1, (1 << 14) - 6]);
    assert_eq!(map.extents[0].physical.len(), 1);
    let query = api::VolumeMapQuery { offset: 4 << 16, limit: Some(1) };
    let Ok(Response::VolumeMap(part)) = world.ask(Request::VolumeMap { name: "a".into(), query }) else {
        panic!("the map is shown")
    };
    assert_eq!((part.extents.len(), part.extents[0].offset_bytes, part.next_offset_bytes), (1, 4 << 16, Some(5 << 16)));
    assert_eq!(part.mapped_regions, 6);
}

#[test]
fn status_and_audit_are_answered() {
    let mut world = World::with_pool(64);
    world.create("a", MIB);
    let Ok(Response::Status(status)) = world.ask(Request::Status) else { panic!("status") };
    assert_eq!((status.pools.len(), status.disks, status.volumes), (1, 1, 1));
    let Ok(Response::Audit(report)) = world.ask(Request::Audit) else { panic!("audit") };
    assert!(report.clean);
    let attach = world.request_attach(AGENT, VolumeId(99));
    assert_eq!(world.attached(AGENT, attach), Some(Err(AttachError::NoSuchVolume)));
}
