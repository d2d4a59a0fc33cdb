//! What goes wrong: stores that fail, agents that die or lie, answers that get lost.

use super::world::{AGENT, Host, OTHER, World, drop_of};
use crate::Event;
use api::{ErrorKind, FindingKind, Request, VolumeCreate};
use model::{EntryRun, Epoch, Generation, LogicalDiskId, MapEntry, PageIndex, UnitIndex, UnitRun};
use store::keys::Tag;
use store::{Batch, Key, KeyRange, MetaStore, StoreError, StoreView};
use wire::{AgentMessage, CommitError, ControllerMessage, MapCommit, NodeOrder, PageDelta, RequestId};

fn mapped(world: &mut World) -> Host {
    let volume = world.create("a", 1 << 40);
    let mut host = world.attach(AGENT, volume);
    world.grant(&mut host, 64, 16).unwrap();
    world.map(&mut host, &[0, 1, 2]).unwrap();
    host
}

#[test]
fn a_commit_that_is_repeated_gets_the_same_answer() {
    let mut world = World::with_pool(64);
    let mut host = mapped(&mut world);
    let (commit, placed) = host.map_commit(&[10, 11]);
    assert_eq!(world.commit_as(&host, RequestId(900), commit.clone()), Ok(()));
    assert_eq!(world.commit_as(&host, RequestId(900), commit.clone()), Ok(()), "4");
    assert_eq!(
        world.commit_as(&host, RequestId(901), commit),
        Err(CommitError::Refused),
        "another of the same is a lie"
    );
    host.placed(placed, true);
    assert_eq!(world.fetch(&host, 0).0, host.map);
    world.assert_clean();
}

#[test]
fn commits_that_contradict_what_was_granted_change_nothing() {
    let mut world = World::with_pool(64);
    let mut host = mapped(&mut world);
    let size = host.attachment.region_size;
    let (good, placed) = host.map_commit(&[20]);
    host.placed(placed, false);
    let mine = host.map[&0];
    let entry = |unit: u32, count: u16| EntryRun {
        first: 20,
        count,
        entry: MapEntry::full(
            model::DiskRegion { logical_disk: mine.logical_disk, unit: UnitIndex(unit) },
            size,
            Generation(1),
            Generation(1),
        ),
    };
    let page = |page: u32, run: EntryRun| vec![PageDelta { page: PageIndex(page), runs: vec![run] }];
    let run = |start: u32, count: u32| UnitRun { logical_disk: mine.logical_disk, start: UnitIndex(start), count };
    let granted = good.takes[0];
    let lies = [
        ("takes what is its own already", MapCommit { takes: vec![host.units(mine)], ..MapCommit::default() }),
        ("takes twice", MapCommit { takes: vec![granted, granted], ..MapCommit::default() }),
        ("takes nothing of nowhere", MapCommit { takes: vec![run(u32::MAX, u32::MAX)], ..MapCommit::default() }),
        ("frees what is free", MapCommit { drops: vec![drop_of(run(60_000, 4))], ..MapCommit::default() }),
        (
            "frees twice",
            MapCommit { drops: vec![drop_of(host.units(mine)), drop_of(host.units(mine))], ..MapCommit::default() },
        ),
        (
            "frees nowhere",
            MapCommit {
                drops: vec![drop_of(UnitRun { logical_disk: LogicalDiskId(99), ..granted })],
                ..MapCommit::default()
            },
        ),
        ("maps what it was not granted", MapCommit { pages: page(0, entry(40_000, 1)), ..MapCommit::default() }),
        ("maps what it does not take", MapCommit { pages: good.pages.clone(), ..MapCommit::default() }),
        (
            "maps what it frees",
            MapCommit {
                pages: page(0, entry(mine.unit.0, 1)),
                drops: vec![drop_of(host.units(mine))],
                ..MapCommit::default()
            },
        ),
        ("maps beyond the volume", MapCommit { pages: page(u32::MAX, entry(mine.unit.0, 1)), ..MapCommit::default() }),
        ("maps beyond the page", MapCommit { pages: page(0, entry(mine.unit.0, 2000)), ..MapCommit::default() }),
        (
            "names a page twice",
            MapCommit {
                pages: [page(0, entry(mine.unit.0, 1)), page(0, entry(mine.unit.0, 1))].concat(),
                ..MapCommit::default()
            },
        ),
    ];
    for (what, lie) in lies {
        assert_eq!(world.commit_map(&host, lie), Err(CommitError::Refused), "{what}");
    }
    assert_eq!(world.fetch(&host, 0).0, host.map);
    world.assert_clean();
    assert_eq!(world.commit_map(&host, good), Ok(()), "and the session goes on");
    world.assert_clean();
}

#[test]
fn sessions_of_others_and_of_nobody_are_fenced() {
    let mut world = World::with_pool(64);
    let host = mapped(&mut world);
    let epoch = host.epoch();
    for (agent, epoch) in [(OTHER, epoch), (AGENT, Epoch(77))] {
        let request = RequestId(500);
        world.send(agent, AgentMessage::Commit { request, epoch, commit: MapCommit::default() });
        let answer = world.take(agent, |message| match message {
            ControllerMessage::Committed { result, .. } => Some(*result),
            _ => None,
        });
        assert_eq!(answer, Some(Err(CommitError::Fenced)));
    }
    let runs = vec![host.units(host.free[0])];
    world.send(OTHER, AgentMessage::ReturnGrant { epoch, runs });
    world.assert_clean();
}

#[test]
fn a_unit_given_up_before_it_was_ever_taken_leaves_its_grant() {
    let mut world = World::with_pool(64);
    let mut host = mapped(&mut world);
    let before = world.pool();
    let place = host.free.pop().unwrap();
    let taken = host.free.pop().unwrap();
    let units = [host.units(place), host.units(taken)];
    let commit = MapCommit {
        takes: vec![units[1]],
        drops: units.iter().map(|run| drop_of(*run)).collect(),
        ..MapCommit::default()
    };
    assert_eq!(world.commit_map(&host, commit), Ok(()));
    let after = world.pool();
    assert_eq!((before.used_bytes, before.granted_bytes - after.granted_bytes), (after.used_bytes, 2 << 16));
    world.assert_clean();
}

#[test]
fn the_units_of_a_dead_agent_return_only_when_every_node_refuses_it() {
    let mut world = World::with_pool(64);
    let host = mapped(&mut world);
    let volume = host.attachment.volume;
    world.hold_fences = true;
    world.event(Event::AgentGone(AGENT));
    assert!(world.pool().granted_bytes > 0, "5");
    let waiting = world.request_attach(OTHER, volume);
    assert!(world.attached(OTHER, waiting).is_none(), "STALE_HOLDER_IS_REFUSED before there is another");
    world.let_fences_go();
    assert_eq!(world.pool().granted_bytes, 0);
    let attachment = world.attached(OTHER, waiting).expect("answered").expect("attached");
    assert!(attachment.credentials.epoch > host.epoch());
    let fenced = |order: &NodeOrder| matches!(order, NodeOrder::Fence { epochs, .. } if epochs.contains(&host.epoch()));
    assert!(world.orders.iter().any(fenced));
    world.assert_clean();
}

#[test]
fn after_a_crash_nobody_attaches_before_former_sessions_are_fenced() {
    let mut world = World::with_pool(64);
    let host = mapped(&mut world);
    world.hold_fences = true;
    world.crash();
    assert!(!world.controller.is_settled());
    let waiting = world.request_attach(OTHER, host.attachment.volume);
    assert!(world.attached(OTHER, waiting).is_none());
    world.let_fences_go();
    assert!(world.controller.is_settled());
    assert!(world.attached(OTHER, waiting).expect("answered").is_ok());
    assert_eq!(world.pool().granted_bytes, 0);
    world.assert_clean();
}

#[test]
fn a_full_store_aborts_cleanly_and_sessions_live_on() {
    let mut world = World::with_pool(64);
    let mut host = mapped(&mut world);
    for error in [StoreError::Full, StoreError::Failed("a test".into())] {
        let (commit, placed) = host.map_commit(&[100, 200]);
        world.store.fail_commits(Some(error.clone()));
        let expected = if error == StoreError::Full { CommitError::MetadataFull } else { CommitError::Unavailable };
        assert_eq!(world.commit_map(&host, commit.clone()), Err(expected), "44");
        world.assert_clean();
        host.placed(placed.clone(), false);
        assert_eq!(world.fetch(&host, 0).0, host.map, "nothing of it happened");
        assert_eq!(world.commit_map(&host, commit), Ok(()), "and the same may be sent again");
        host.free.retain(|free| placed.iter().all(|(_, place)| place != free));
        host.placed(placed.clone(), true);
        world.trim(&mut host, &[100, 200]).unwrap();
    }
    assert_eq!(world.recoveries, 2);
    world.store.fail_commits(Some(StoreError::Failed("a test".into())));
    let create = VolumeCreate { name: "b".into(), size_bytes: 512, ..VolumeCreate::default() };
    assert_eq!(world.ask(Request::VolumeCreate(create.clone())).unwrap_err().kind, ErrorKind::Unavailable);
    world.ask(Request::VolumeCreate(create)).unwrap();
    world.assert_clean();
    world.detach(host);
    assert_eq!(world.pool().granted_bytes, 0);
    world.assert_clean();
}

#[test]
fn faults_detaches_and_returns_outlive_a_failed_commit() {
    let mut world = World::with_pool(64);
    let mut host = mapped(&mut world);
    let epoch = host.epoch();
    let (fetch, page) = (RequestId(801), PageIndex(0));
    let returned = host.free.pop().unwrap();
    let runs = vec![host.units(returned)];
    let granted = world.pool().granted_bytes;
    world.store.fail_commits(Some(StoreError::Full));
    world.event_without_commit(Event::FromAgent(AGENT, AgentMessage::FetchPage { request: fetch, epoch, page }));
    world.event_without_commit(Event::FromAgent(AGENT, AgentMessage::ReturnGrant { epoch, runs }));
    world.settle();
    assert_eq!(world.recoveries, 1);
    let answer = world.take(AGENT, |message| match message {
        ControllerMessage::Page { request, runs, .. } if *request == fetch => Some(runs.len()),
        _ => None,
    });
    assert!(answer.is_some(), "FAULT_ALWAYS_ENDS");
    assert_eq!(world.pool().granted_bytes, granted - (1 << 16), "what was returned is returned after all");
    world.store.fail_commits(Some(StoreError::Full));
    world.detach(host);
    assert_eq!(world.pool().granted_bytes, 0);
    world.assert_clean();
}

#[test]
fn a_page_with_many_deltas_is_folded_and_stays_the_same() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", 1 << 40);
    let mut host = world.attach(AGENT, volume);
    world.grant(&mut host, 64, 64).unwrap();
    for region in 0..40 {
        world.map(&mut host, &[region * 7]).unwrap();
        if region % 3 == 0 {
            world.trim(&mut host, &[region * 7]).unwrap();
        }
        assert_eq!(world.fetch(&host, 0).0, host.map);
    }
    let mut keys = 0;
    let range = KeyRange::tag(Tag::Table);
    world
        .store
        .scan(&range, &mut |_, _| {
            keys += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert!(keys <= 10, "{keys} values for one page");
    world.trim(&mut host, &(0..40).map(|region| region * 7).collect::<Vec<_>>()).unwrap();
    assert!(world.fetch(&host, 0).0.is_empty());
    world.assert_clean();
}

#[test]
fn a_page_that_cannot_be_read_is_an_error_and_never_zeroes() {
    let mut world = World::with_pool(64);
    let host = mapped(&mut world);
    let mut batch = Batch::new();
    batch.put(Key::Table(host.attachment.branch, PageIndex(0), Generation(1), 1), vec![1, 2, 3]);
    world.store.commit(&[batch]).unwrap();
    let epoch = host.epoch();
    world.send(AGENT, AgentMessage::FetchPage { request: RequestId(5), epoch, page: PageIndex(0) });
    let runs = world.take(AGENT, |message| match message {
        ControllerMessage::Page { runs, .. } => Some(runs.clone()),
        _ => None,
    });
    let lost = EntryRun { first: 0, count: 1024, entry: MapEntry::Error };
    assert_eq!(runs, Some(vec![lost]), "B5");
    let report = world.audit();
    assert!(report.findings.iter().any(|finding| finding.kind == FindingKind::Unreadable));
}

#[test]
fn the_audit_finds_what_is_wrong_and_says_whose_it_is() {
    let mut world = World::with_pool(64);
    let host = mapped(&mut world);
    let other = world.create("b", 1 << 40);
    let mut second = world.attach(OTHER, other);
    world.grant(&mut second, 4, 4).unwrap();
    world.map(&mut second, &[0]).unwrap();
    world.assert_clean();
    let clean = world.store.clone();
    let size = host.attachment.region_size;
    let page = |place| {
        let entry = MapEntry::full(place, size, Generation(1), Generation(1));
        store::table::encode(size, &[EntryRun { first: 500, count: 1, entry }])
    };
    let table = |host: &Host, page| Key::Table(host.attachment.branch, PageIndex(page), Generation(1), 50);
    let kinds = |world: &World| world.audit().findings.iter().map(|finding| finding.kind).collect::<Vec<_>>();
    let mut damage = |what: &dyn Fn(&mut Batch)| {
        world.store = clean.clone();
        let mut batch = Batch::new();
        what(&mut batch);
        world.store.commit(&[batch]).unwrap();
        (kinds(&world), world.audit())
    };
    let (found, report) = damage(&|batch| batch.put(table(&second, 0), page(host.map[&0])));
    assert!(found.contains(&FindingKind::Double) && found.contains(&FindingKind::Count));
    assert!(
        report.findings.iter().any(|finding| finding.message.contains("\"a\"") && finding.message.contains("\"b\""))
    );
    let (found, _) = damage(&|batch| batch.put(table(&second, 1), page(second.free[0])));
    assert!(found.contains(&FindingKind::MappedButGranted));
    let disk = host.map[&0].logical_disk;
    let (found, _) = damage(&|batch| batch.delete(Key::Allocation(disk, 0)));
    assert!(found.contains(&FindingKind::MappedButFree));
    let (found, _) = damage(&|batch| batch.delete_range(KeyRange::grants(host.epoch())));
    assert_eq!(found, [FindingKind::Leak]);
    let far = model::DiskRegion { logical_disk: disk, unit: UnitIndex(1 << 30) };
    let (found, _) = damage(&|batch| batch.put(table(&second, 1), page(far)));
    assert!(found.contains(&FindingKind::OutOfRange));
    let (found, _) = damage(&|batch| batch.put(Key::Allocation(disk, 0), vec![9]));
    assert!(found.contains(&FindingKind::Unreadable));
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let mut world = World::with_pool(64);
    let mut batch = Batch::new();
    let newer = store::records::MetaRecord { format_version: store::FORMAT_VERSION + 1, cluster: model::ClusterId(7) };
    batch.put(Key::Meta, store::records::Record::encode(&newer));
    world.store.commit(&[batch]).unwrap();
    let refused = crate::Controller::recover(world.config.clone(), &world.store, crate::Survivors::default());
    assert!(matches!(refused.err(), Some(StoreError::NewerVersion { .. })));
}

#[test]
fn a_term_that_nodes_have_seen_outlives_the_failure_of_its_first_commit() {
    let mut world = World::with_pool(64);
    mapped(&mut world);
    world.orders.clear();
    world.terms.clear();
    world.store.fail_commits(Some(StoreError::Full));
    world.crash();
    assert_eq!(world.recoveries, 1);
    let terms = world.terms.clone();
    assert!(terms.len() > 1 && terms.windows(2).all(|pair| pair[0] == pair[1]), "{terms:?}");
    world.assert_clean();
    world.terms.clear();
    world.crash();
    assert!(world.terms[0] > terms[0]);
}

#[test]
fn folds_go_along_with_commits_or_alone_when_none_comes() {
    let mut world = World::with_pool(64);
    let volume = world.create("a", 10 << 20);
    let mut host = world.attach(AGENT, volume);
    world.grant(&mut host, 100, 0).unwrap();
    let branch = KeyRange::table(host.attachment.branch);
    let stored = |world: &World| {
        let mut pairs = 0;
        world
            .store
            .scan(&branch, &mut |_, _| {
                pairs += 1;
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        pairs
    };
    let before = world.batches;
    for region in 0..13 {
        world.map(&mut host, &[region]).unwrap();
    }
    assert_eq!((world.batches - before, stored(&world)), (13, 13), "the fold of what was durable waits");
    world.map(&mut host, &[13]).unwrap();
    assert_eq!((world.batches - before, stored(&world)), (14, 3), "and goes along with the next commit");
    for region in 14..26 {
        world.map(&mut host, &[region]).unwrap();
    }
    let (batches, deltas) = (world.batches, stored(&world));
    world.later(99_000_000);
    assert_eq!((world.batches, stored(&world)), (batches, deltas));
    assert_eq!(world.timer, Some(model::Time(world.now.0 + 1_000_000)));
    world.later(1_000_000);
    assert_eq!((world.batches, stored(&world)), (batches + 1, 2), "or alone a little later");
    assert_eq!(world.fetch(&host, 0).0, host.map);
    world.crash();
    world.assert_clean();
}
