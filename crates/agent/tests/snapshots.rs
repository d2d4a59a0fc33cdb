//! What an agent does for snapshots: one sentence a test.
#![allow(missing_docs)]

mod cluster;

use agent::{Event, HostId, IoKind};
use cluster::{Cluster, Outcome, Owner, write};
use model::{Generation, IoError, RegionSize};
use wire::{AgentMessage, CommandId, Order, OrderOutcome};

fn small() -> Cluster {
    Cluster::new(64 << 20, RegionSize::DEFAULT, 4096, 7)
}

#[test]
fn a_write_after_a_snapshot_moves_only_its_blocks_and_the_snapshot_keeps_the_old_ones() {
    let mut cluster = small();
    cluster.write(0, &[1; 65536]);
    cluster.snapshot();
    let (writes, reads) = (cluster.writes, cluster.reads);
    assert_eq!(cluster.write(8192, &[2; 4096]), Outcome::Done);
    assert_eq!((cluster.writes - writes, cluster.reads - reads), (1, 0));
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert_eq!(cluster.mapped_units(), 8);
    assert_eq!(cluster.read(4096, 12288), [vec![1; 4096], vec![2; 4096], vec![1; 4096]].concat());
    assert_eq!(cluster.read_snapshot(0)[..65536], [1; 65536]);
    cluster.restart_agent();
    assert_eq!(cluster.read(4096, 12288), [vec![1; 4096], vec![2; 4096], vec![1; 4096]].concat());
}

#[test]
fn a_write_of_less_than_a_block_is_merged_with_what_shows_below() {
    let mut cluster = small();
    cluster.write(0, &[1; 65536]);
    cluster.snapshot();
    assert_eq!(cluster.write(5000, &[2; 10]), Outcome::Done);
    let mut expected = vec![1; 65536];
    expected[5000..5010].fill(2);
    assert_eq!(cluster.read(0, 65536), expected);
    assert_eq!(cluster.read_snapshot(0)[..65536], [1; 65536]);
    cluster.trim(4096, 4096);
    expected[4096..8192].fill(0);
    assert_eq!(cluster.read(0, 65536), expected);
    cluster.write(5000, &[3; 10]);
    expected[5000..5010].fill(3);
    assert_eq!(cluster.read(0, 65536), expected, "a trimmed block is zeroes around what is written");
}

#[test]
fn a_trim_of_what_a_snapshot_sees_takes_no_space_and_a_whole_one_drops_the_place() {
    let mut cluster = small();
    cluster.write(0, &vec![1; 1 << 20]);
    cluster.snapshot();
    cluster.trim(4096, 8192);
    cluster.run(IoKind::Flush);
    assert_eq!(cluster.mapped_units(), 64);
    assert_eq!(cluster.read(0, 16384), [vec![1; 4096], vec![0; 8192], vec![1; 4096]].concat());
    cluster.trim(0, 1 << 20);
    cluster.run(IoKind::Flush);
    assert!(cluster.pages.values().all(|page| page.runs().next().is_none()), "nothing of the live end is mapped");
    assert_eq!(cluster.mapped_units(), 64, "the snapshot holds it all");
    assert_eq!(cluster.read_snapshot(0)[..1 << 20], vec![1; 1 << 20]);
    cluster.delete_newest_snapshot();
    assert_eq!(cluster.mapped_units(), 0);
}

#[test]
fn writes_after_a_snapshot_land_beside_one_another() {
    let mut cluster = small();
    cluster.write(0, &vec![1; 1 << 20]);
    cluster.snapshot();
    for region in [3_u64, 4, 5, 6] {
        cluster.write(region << 16, &[2; 4096]);
    }
    cluster.run(IoKind::Flush);
    let page = &cluster.pages[&model::PageIndex(0)];
    let place = |slot| mapping::stack::write_layer(&page.entry(slot).to_stack(cluster.region_size), Generation(1));
    let first = place(3).expect("written");
    for (index, slot) in [4, 5, 6].into_iter().enumerate() {
        assert_eq!(place(slot), Some(first.offset_by(index as u32 + 1, cluster.region_size)));
    }
}

#[test]
fn a_frozen_volume_holds_writes_and_trims_and_serves_reads_and_flushes() {
    let mut cluster = small();
    cluster.write(0, &[1; 8192]);
    assert_eq!(cluster.freeze(), OrderOutcome::Done);
    assert_eq!((cluster.mapped_units(), cluster.flushes), (0, 0), "writes are not held for as long as a flush takes");
    let held = cluster.submit(write(0, &[2; 4096], false));
    let trim = cluster.submit(IoKind::Zero { offset: 4096, length: 4096, fua: true, keep_space: false });
    let later = cluster.submit(write(0, &[3; 512], true));
    assert_eq!(cluster.read(0, 8192), vec![1; 8192]);
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert_eq!(cluster.run(IoKind::Prefetch { offset: 0, length: 1 << 20 }), Outcome::Done);
    cluster.pass(60_000_000_000);
    assert!(cluster.done.is_empty(), "a volume does not go on by itself");
    assert_eq!(cluster.begin(), OrderOutcome::Done);
    assert_eq!(cluster.mapped_units(), 4, "what was answered is committed, and nothing else");
    assert_eq!(cluster.done.remove(&held), Some(Outcome::Done), "writes go on");
    cluster.record_snapshot();
    assert_eq!(cluster.thaw(), OrderOutcome::Done);
    cluster.settle();
    for id in [trim, later] {
        assert_eq!(cluster.done.remove(&id), Some(Outcome::Done));
    }
    assert_eq!(cluster.read(0, 8192), [vec![3; 512], vec![2; 3584], vec![0; 4096]].concat(), "in their order");
    assert_eq!(cluster.read_snapshot(0)[..8192], [1; 8192]);
    assert_eq!(cluster.thaw(), OrderOutcome::Done, "to thaw twice changes nothing");
}

#[test]
fn a_freeze_waits_for_writes_that_have_begun_even_for_those_that_wait_for_space() {
    let mut cluster = small();
    cluster.run(IoKind::Prefetch { offset: 0, length: 4096 });
    cluster.grant_units_max = 4;
    let first = cluster.submit(write(0, &vec![1; 1 << 20], false));
    cluster.order(1, Order::Freeze { begin: Some(Generation(2)) });
    let second = cluster.submit(write(1 << 20, &[2; 4096], false));
    cluster.settle();
    assert_eq!(cluster.orders_done, [(CommandId(1), OrderOutcome::Done)]);
    assert_eq!(cluster.frozen_early, 1, "the snapshot need not wait for the last commit's answer");
    assert!(cluster.done.remove(&first).is_some());
    cluster.record_snapshot();
    assert_eq!(cluster.thaw(), OrderOutcome::Done);
    assert_eq!(cluster.done.remove(&second), Some(Outcome::Done));
}

#[test]
fn writes_go_on_before_any_disk_is_flushed_for_the_snapshot() {
    let mut cluster = small();
    cluster.write(0, &[1; 8192]);
    cluster.order(1, Order::Freeze { begin: Some(Generation(2)) });
    cluster.slow_flushes = true;
    assert_eq!(cluster.write(0, &[2; 4096]), Outcome::Done);
    let durable = cluster.submit(write(4096, &[3; 4096], true));
    let flush = cluster.submit(IoKind::Flush);
    cluster.settle();
    assert_eq!((cluster.flushes, cluster.commits), (0, 0));
    assert!(!cluster.done.contains_key(&flush), "what is flushed now comes behind the snapshot");
    cluster.slow_flushes = false;
    cluster.settle();
    assert_eq!(cluster.orders_done, [(CommandId(1), OrderOutcome::Done)]);
    assert_eq!((cluster.flushes, cluster.commits), (1, 1), "nothing younger than the snapshot is committed before it");
    cluster.record_snapshot();
    assert!(!cluster.done.contains_key(&flush) && !cluster.done.contains_key(&durable));
    assert_eq!(cluster.thaw(), OrderOutcome::Done);
    assert_eq!(cluster.done.remove(&flush), Some(Outcome::Done));
    assert_eq!(cluster.done.remove(&durable), Some(Outcome::Done));
    assert_eq!(cluster.read_snapshot(0)[..8192], [1; 8192]);
    cluster.restart_agent();
    assert_eq!(cluster.read(0, 8192), [[2; 4096], [3; 4096]].concat());
}

#[test]
fn the_pause_is_counted_from_the_hold_to_the_next_generation_whatever_comes_behind_it() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    cluster.order(1, Order::Freeze { begin: None });
    cluster.pass(3_000_000);
    cluster.slow_flushes = true;
    cluster.order(2, Order::Begin { generation: Generation(2) });
    cluster.pass(50_000_000);
    cluster.slow_flushes = false;
    cluster.settle();
    cluster.record_snapshot();
    assert_eq!(cluster.thaw(), OrderOutcome::Done);
    let counters = cluster.agent.reports()[0].counters;
    assert_eq!((counters.pauses, counters.pause_nanos, counters.pause_nanos_max), (1, 3_000_000, 3_000_000));
    // One that is given up counts up to there.
    cluster.order(3, Order::Freeze { begin: None });
    cluster.pass(5_000_000);
    cluster.give_snapshot_up();
    assert_eq!(cluster.thaw(), OrderOutcome::Done);
    let counters = cluster.agent.reports()[0].counters;
    assert_eq!((counters.pauses, counters.pause_nanos, counters.pause_nanos_max), (2, 8_000_000, 5_000_000));
}

#[test]
fn a_round_under_way_when_the_next_generation_begins_goes_first_and_takes_the_snapshot_with_it_when_it_fails() {
    for fails in [false, true] {
        let mut cluster = small();
        cluster.write(0, &[1; 4096]);
        cluster.slow_flushes = true;
        let first = cluster.submit(IoKind::Flush);
        cluster.settle();
        cluster.write(4096, &[1; 4096]);
        let second = cluster.submit(IoKind::Flush);
        cluster.order(1, Order::Freeze { begin: Some(Generation(2)) });
        cluster.write(0, &[2; 8192]);
        cluster.fail_commits = u32::from(fails);
        cluster.slow_flushes = false;
        cluster.settle();
        let ended = if fails { Outcome::Failed(IoError::Device) } else { Outcome::Done };
        assert_eq!([first, second].map(|flush| cluster.done.remove(&flush)), [Some(ended.clone()), Some(ended)]);
        let outcome = if fails { OrderOutcome::Failed } else { OrderOutcome::Done };
        assert_eq!(cluster.orders_done, [(CommandId(1), outcome)]);
        if fails {
            cluster.give_snapshot_up();
        } else {
            cluster.record_snapshot();
            assert_eq!(cluster.read_snapshot(0)[..8192], [1; 8192]);
        }
        assert_eq!(cluster.thaw(), OrderOutcome::Done);
        assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
        assert_eq!(cluster.mapped_units(), if fails { 4 } else { 8 }, "what no snapshot sees is not kept");
        cluster.restart_agent();
        assert_eq!(cluster.read(0, 8192), [2; 8192]);
    }
}

#[test]
fn a_generation_without_a_snapshot_is_passed_over() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    cluster.fail_commits = 1;
    assert_eq!(cluster.freeze(), OrderOutcome::Done);
    assert_eq!(cluster.begin(), OrderOutcome::Failed);
    assert_eq!(cluster.write(4096, &[2; 4096]), Outcome::Done, "above what might have been a snapshot's");
    let next = Order::Thaw { generation: Generation(2), frozen_through: Generation(1) };
    assert_eq!(cluster.obeyed(next), OrderOutcome::Failed, "a snapshot of what is not durable is refused");
    cluster.give_snapshot_up();
    assert_eq!(cluster.thaw(), OrderOutcome::Done);
    assert_eq!(cluster.write(0, &[3; 65536]), Outcome::Done);
    cluster.run(IoKind::Flush);
    assert_eq!(cluster.mapped_units(), 4, "nothing is frozen");
    cluster.snapshot();
    assert_eq!(cluster.read_snapshot(0)[..65536], [3; 65536]);
}

#[test]
fn a_snapshot_that_goes_while_another_is_taken_frees_nothing_that_the_other_sees() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    assert_eq!(cluster.freeze(), OrderOutcome::Done);
    assert_eq!(cluster.begin(), OrderOutcome::Done);
    assert_eq!(cluster.obeyed(Order::SetFrozen { frozen_through: Generation(0) }), OrderOutcome::Done);
    cluster.write(0, &[2; 4096]);
    cluster.record_snapshot();
    assert_eq!(cluster.thaw(), OrderOutcome::Done);
    assert_eq!(cluster.read_snapshot(0)[..4096], [1; 4096]);
}

#[test]
fn a_begin_whose_device_flush_fails_commits_nothing() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    cluster.fail_flushes = 1;
    assert_eq!(cluster.freeze(), OrderOutcome::Done);
    assert_eq!(cluster.begin(), OrderOutcome::Failed);
    assert_eq!(cluster.commits, 0);
    cluster.give_snapshot_up();
    assert_eq!(cluster.thaw(), OrderOutcome::Done);
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert_eq!(cluster.commits, 1);
}

#[test]
fn a_session_that_is_fenced_while_a_snapshot_is_taken_ends() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    cluster.fenced = true;
    cluster.order(1, Order::Freeze { begin: Some(Generation(2)) });
    let held = cluster.submit(write(0, &[2; 4096], true));
    cluster.settle();
    assert!(cluster.done.contains_key(&held));
    assert!(cluster.detached && cluster.agent.is_drained(), "no thaw is waited for");
}

#[test]
fn a_thaw_gives_up_a_freeze_that_is_under_way() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    let reading = cluster.submit(IoKind::Read { offset: 0, length: 4096 });
    let writing = cluster.submit(write(0, &[2; 4096], false));
    cluster.order(1, Order::Freeze { begin: None });
    cluster.order(2, Order::Thaw { generation: Generation(1), frozen_through: Generation(0) });
    cluster.order(3, Order::Freeze { begin: Some(Generation(2)) });
    cluster.order(4, Order::Freeze { begin: None });
    cluster.settle();
    let expected = [
        (CommandId(1), OrderOutcome::Failed),
        (CommandId(2), OrderOutcome::Done),
        (CommandId(4), OrderOutcome::Failed),
        (CommandId(3), OrderOutcome::Done),
    ];
    assert_eq!(cluster.orders_done, expected);
    assert!(cluster.done.contains_key(&reading) && cluster.done.contains_key(&writing));
    assert_eq!(cluster.mapped_units(), 4);
}

#[test]
fn a_region_assigned_for_a_write_that_failed_is_not_left_behind_the_snapshot() {
    let mut cluster = small();
    cluster.fail_writes = 1;
    assert_eq!(cluster.write(0, &[1; 4096]), Outcome::Failed(IoError::Device));
    let granted = |cluster: &Cluster| cluster.units.iter().filter(|owner| **owner == Owner::Granted).count();
    let before = granted(&cluster);
    cluster.snapshot();
    assert_eq!((cluster.mapped_units(), granted(&cluster)), (0, before));
    assert_eq!(cluster.obeyed(Order::ReturnGrants), OrderOutcome::Done);
    assert_eq!(granted(&cluster), 0, "it is among what can be given back");
    assert_eq!(cluster.write(0, &[2; 4096]), Outcome::Done);
    assert_eq!(cluster.read(0, 8192), [vec![2; 4096], vec![0; 4096]].concat());
}

#[test]
fn space_kept_above_a_snapshot_is_space_of_its_own() {
    let mut cluster = small();
    cluster.write(0, &[1; 131072]);
    cluster.snapshot();
    cluster.run(IoKind::Zero { offset: 4096, length: 126976, fua: true, keep_space: true });
    assert_eq!(cluster.mapped_units(), 16);
    assert_eq!(cluster.read(0, 131072), [vec![1; 4096], vec![0; 126976]].concat());
    assert_eq!(cluster.obeyed(Order::ReturnGrants), OrderOutcome::Done);
    cluster.grant_units_max = 0;
    assert_eq!(cluster.write(0, &[2; 131072]), Outcome::Done, "no space is needed any more");
    assert_eq!(cluster.read_snapshot(0)[..131072], [1; 131072]);
}

#[test]
fn a_session_that_ends_while_frozen_refuses_what_it_holds() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    assert_eq!(cluster.freeze(), OrderOutcome::Done);
    let held = cluster.submit(write(0, &[2; 4096], false));
    cluster.step(Event::Shutdown);
    cluster.settle();
    assert_eq!(cluster.done.remove(&held), Some(Outcome::Failed(IoError::ShuttingDown)));
    assert!(cluster.detached && cluster.agent.is_drained());
}

#[test]
fn a_shutdown_in_the_middle_of_a_freeze_ends_both() {
    let mut cluster = small();
    let first = cluster.submit(write(0, &[1; 4096], false));
    cluster.order(1, Order::Freeze { begin: None });
    let second = cluster.submit(write(0, &[2; 4096], false));
    cluster.step(Event::Shutdown);
    cluster.settle();
    assert!(cluster.done.contains_key(&first) && cluster.done.contains_key(&second));
    assert!(cluster.detached && cluster.agent.is_drained());
    assert_eq!(cluster.orders_done.len(), 1, "the order is answered: {:?}", cluster.orders_done);
}

#[test]
fn a_frozen_volume_without_hosts_stays_until_it_is_thawed() {
    let mut cluster = small();
    assert_eq!(cluster.freeze(), OrderOutcome::Done);
    cluster.step(Event::HostDetach { host: HostId(1) });
    cluster.pass(10_000_000_000);
    assert!(!cluster.detached);
    assert_eq!(cluster.thaw(), OrderOutcome::Done);
    cluster.pass(0);
    assert!(cluster.detached);
}

#[test]
fn once_the_newest_snapshot_is_gone_its_layers_are_written_in_place_again() {
    let mut cluster = small();
    cluster.write(0, &[1; 65536]);
    cluster.snapshot();
    cluster.delete_newest_snapshot();
    let commits = cluster.commits;
    assert_eq!(cluster.write(0, &[2; 65536]), Outcome::Done);
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert_eq!((cluster.mapped_units(), cluster.commits), (4, commits));
}

#[test]
fn a_shrink_goes_on_while_a_volume_is_being_frozen() {
    let mut cluster = small();
    cluster.write(0, &vec![1; 2 << 20]);
    let writing = cluster.submit(write(1 << 20, &vec![2; 1 << 20], false));
    cluster.order(1, Order::Resize { size_bytes: (1 << 20) + 512 });
    cluster.order(2, Order::Freeze { begin: None });
    cluster.settle();
    assert!(cluster.done.contains_key(&writing));
    assert_eq!(cluster.orders_done.len(), 2, "{:?}", cluster.orders_done);
    cluster.order(3, Order::Resize { size_bytes: 1 << 20 });
    cluster.settle();
    assert_eq!(cluster.orders_done.len(), 2, "once it is frozen, a shrink waits");
    assert_eq!(cluster.thaw(), OrderOutcome::Done);
    assert!(cluster.orders_done.contains(&(CommandId(3), OrderOutcome::Done)));
}

#[test]
fn a_flattened_volume_shares_nothing_with_the_snapshots_before() {
    let mut cluster = small();
    cluster.write(0, &vec![1; 4 << 20]);
    cluster.write(30 << 20, &[2; 4096]);
    cluster.run(IoKind::Zero { offset: 40 << 20, length: 65536, fua: true, keep_space: true });
    cluster.snapshot();
    cluster.write(4096, &[3; 4096]);
    cluster.trim(1 << 20, 1 << 20);
    let before = cluster.read(0, 64 << 20);
    cluster.restart_agent_after_flush();
    assert_eq!(cluster.obeyed(Order::Flatten { through: Generation(1) }), OrderOutcome::Done);
    for page in cluster.pages.values() {
        for run in page.runs() {
            let model::MapEntry::Layers(layers) = run.entry else { continue };
            assert!(layers.iter().all(|layer| layer.born > Generation(1)));
        }
    }
    assert!(cluster.read(0, 64 << 20) == before);
    assert_eq!(cluster.mapped_units(), (64 + 2) * 4 + (48 + 2) * 4);
    cluster.restart_agent();
    assert!(cluster.read(0, 64 << 20) == before);
}

#[test]
fn a_flattening_pauses_while_the_volume_is_frozen_and_goes_on_among_writes() {
    let mut cluster = small();
    cluster.write(0, &vec![1; 4 << 20]);
    cluster.snapshot();
    cluster.order(1, Order::Flatten { through: Generation(1) });
    for _ in 0..40 {
        cluster.advance();
    }
    let mut ids = Vec::new();
    for block in 0..200_u64 {
        ids.push(cluster.submit(write(block * 20480, &[2; 4096], false)));
        cluster.advance();
    }
    cluster.snapshot();
    cluster.settle();
    assert!(ids.iter().all(|id| cluster.done.remove(id) == Some(Outcome::Done)));
    assert!(cluster.orders_done.contains(&(CommandId(1), OrderOutcome::Done)));
    assert_eq!(cluster.read_snapshot(0)[..4 << 20], vec![1; 4 << 20]);
    for page in cluster.pages.values() {
        for run in page.runs() {
            let model::MapEntry::Layers(layers) = run.entry else { continue };
            assert!(layers.iter().all(|layer| layer.born > Generation(1)));
        }
    }
    let mut expected = vec![1; 4 << 20];
    (0..200).for_each(|block| expected[block * 20480..block * 20480 + 4096].fill(2));
    assert!(cluster.read(0, 4 << 20) == expected);
}

#[test]
fn a_flattening_that_is_stopped_copies_no_more_and_keeps_what_it_copied() {
    let mut cluster = small();
    cluster.write(0, &vec![1; 4 << 20]);
    cluster.snapshot();
    let before = cluster.mapped_units();
    cluster.order(1, Order::Flatten { through: Generation(1) });
    for _ in 0..40 {
        cluster.advance();
    }
    assert_eq!(cluster.obeyed(Order::StopFlattening), OrderOutcome::Done);
    assert!(cluster.orders_done.contains(&(CommandId(1), OrderOutcome::Failed)));
    cluster.run(IoKind::Flush);
    let copied = cluster.mapped_units() - before;
    assert!((4..64 * 4).contains(&copied), "some of 64 regions, not {copied} units");
    assert!(cluster.read(0, 4 << 20) == vec![1; 4 << 20]);
    assert_eq!(cluster.obeyed(Order::Flatten { through: Generation(1) }), OrderOutcome::Done);
}

#[test]
fn a_flattening_without_space_fails_and_the_volume_stays_whole() {
    let mut cluster = Cluster::new(64 << 20, RegionSize::DEFAULT, 96, 3);
    cluster.write(0, &vec![1; 1 << 20]);
    cluster.snapshot();
    assert_eq!(cluster.obeyed(Order::Flatten { through: Generation(1) }), OrderOutcome::Failed);
    assert!(cluster.read(0, 1 << 20) == vec![1; 1 << 20]);
    cluster.trim(0, 1 << 20);
    assert_eq!(cluster.obeyed(Order::Flatten { through: Generation(1) }), OrderOutcome::Done);
}

#[test]
fn a_flattening_that_meets_a_failing_disk_fails() {
    let mut cluster = small();
    cluster.write(0, &vec![1; 1 << 20]);
    cluster.snapshot();
    cluster.fail_reads = 1;
    assert_eq!(cluster.obeyed(Order::Flatten { through: Generation(1) }), OrderOutcome::Failed);
    assert_eq!(cluster.obeyed(Order::Flatten { through: Generation(1) }), OrderOutcome::Done);
}

#[test]
fn a_flattening_that_meets_lost_storage_fails() {
    let mut cluster = small();
    let run = model::EntryRun { first: 9, count: 1, entry: model::MapEntry::Error };
    cluster.pages.insert(model::PageIndex(0), mapping::TablePage::from_runs(cluster.region_size, &[run]));
    assert_eq!(cluster.obeyed(Order::Flatten { through: Generation(1) }), OrderOutcome::Failed);
}

#[test]
fn a_session_that_ends_takes_its_flattening_with_it() {
    let mut cluster = small();
    cluster.write(0, &vec![1; 1 << 20]);
    cluster.snapshot();
    cluster.order(1, Order::Flatten { through: Generation(1) });
    cluster.advance();
    cluster.step(Event::Shutdown);
    cluster.settle();
    assert!(cluster.orders_done.contains(&(CommandId(1), OrderOutcome::Failed)));
    assert!(cluster.detached && cluster.agent.is_drained());
    let asked = cluster.to_controller.iter().any(|message| matches!(message, AgentMessage::Commit { .. }));
    assert!(!asked, "nothing is left to say");
}

#[test]
fn entries_in_error_fail_writes_trims_and_zeroes() {
    let mut cluster = small();
    let run = model::EntryRun { first: 0, count: 2, entry: model::MapEntry::Error };
    cluster.pages.insert(model::PageIndex(0), mapping::TablePage::from_runs(cluster.region_size, &[run]));
    assert_eq!(cluster.write(0, &[1; 4096]), Outcome::Failed(IoError::Device));
    assert_eq!(cluster.write(0, &[0; 4096]), Outcome::Failed(IoError::Device));
    assert_eq!(cluster.trim(0, 1 << 20), Outcome::Failed(IoError::Device));
    let keep = IoKind::Zero { offset: 0, length: 65536, fua: false, keep_space: true };
    assert_eq!(cluster.run(keep), Outcome::Failed(IoError::Device));
    assert_eq!(cluster.write(131072, &[1; 4096]), Outcome::Done);
}

#[test]
fn what_changed_since_a_snapshot_is_told_to_the_block_committed_or_not() {
    let mut cluster = small();
    cluster.write(0, &vec![1; 1 << 19]);
    cluster.snapshot();
    assert_eq!(cluster.changed_since(0), [(1 << 19, false, false), (1 << 19, false, true)]);
    cluster.write(8192, &[2; 512]);
    cluster.trim(65536, 8192);
    cluster.snapshot();
    cluster.write(16384, &[3; 4096]);
    cluster.write(1 << 19, &[4; 4096]);
    let since_first = [
        (8192, false, false),
        (4096, true, false),
        (4096, false, false),
        (4096, true, false),
        (45056, false, false),
        (8192, true, true),
        ((1 << 19) - 73728, false, false),
        (4096, true, false),
        ((1 << 19) - 4096, false, true),
    ];
    assert_eq!(cluster.changed_since(0), since_first);
    let since_second = [
        (16384, false, false),
        (4096, true, false),
        (45056, false, false),
        (8192, false, true),
        ((1 << 19) - 73728, false, false),
        (4096, true, false),
        ((1 << 19) - 4096, false, true),
    ];
    assert_eq!(cluster.changed_since(1), since_second);
    cluster.restart_agent_after_flush();
    assert_eq!(cluster.changed_since(0), since_first);
}

#[test]
fn a_write_that_failed_in_a_flattened_region_counts_as_a_change() {
    let mut cluster = small();
    cluster.write(0, &[1; 65536]);
    cluster.snapshot();
    assert_eq!(cluster.obeyed(Order::Flatten { through: Generation(1) }), OrderOutcome::Done);
    cluster.fail_writes = 1;
    assert_eq!(cluster.write(0, &[2; 4096]), Outcome::Failed(IoError::Device));
    assert_eq!(cluster.read(0, 4096), vec![2; 4096], "its bytes got there all the same");
    assert_eq!(cluster.changed_since(0)[0], (65536, true, false));
}

#[test]
fn a_part_of_a_block_or_of_a_range_is_answered_to_the_byte() {
    let mut cluster = small();
    cluster.write(0, &[1; 65536]);
    cluster.snapshot();
    cluster.write(4096, &[2; 4096]);
    let since = cluster.snapshots[0].id;
    let kind = |offset, length, extents_max| IoKind::Changed { offset, length, since, extents_max };
    let outcome = cluster.run(kind(4000, 200, 9));
    assert_eq!(outcome, Outcome::Changed(vec![(96, false, false), (104, true, false)]));
    let outcome = cluster.run(kind(0, 64 << 20, 2));
    assert_eq!(outcome, Outcome::Changed(vec![(4096, false, false), (4096, true, false)]));
    assert_eq!(cluster.run(kind(64 << 20, 1, 2)), Outcome::Failed(IoError::Invalid));
}

#[test]
fn beyond_the_end_of_a_snapshot_all_data_is_new() {
    let mut cluster = Cluster::new(1 << 20, RegionSize::DEFAULT, 4096, 7);
    cluster.write(0, &vec![1; 1 << 20]);
    cluster.snapshot();
    cluster.size_bytes = 2 << 20;
    cluster.order(1, Order::Resize { size_bytes: 2 << 20 });
    cluster.write(1 << 20, &[1; 4096]);
    let since = cluster.snapshots[0].id;
    let outcome = cluster.run(IoKind::Changed { offset: 0, length: 2 << 20, since, extents_max: 9 });
    let expected = vec![(1 << 20, false, false), (4096, true, false), ((1 << 20) - 4096, false, true)];
    assert_eq!(outcome, Outcome::Changed(expected));
}

#[test]
fn a_snapshot_that_is_gone_is_refused_when_it_is_asked_for() {
    let mut cluster = small();
    let kind = IoKind::Changed { offset: 0, length: 1 << 20, since: model::VolumeId(77), extents_max: 9 };
    assert_eq!(cluster.run(kind), Outcome::Failed(IoError::Invalid));
}

#[test]
fn a_place_that_was_freed_and_granted_again_does_not_look_unchanged() {
    let mut cluster = Cluster::new(64 << 20, RegionSize::DEFAULT, 64, 7);
    cluster.write(0, &[1; 65536]);
    cluster.snapshot();
    let since = cluster.snapshots[0].id;
    assert_eq!(cluster.changed_since(0)[0], (65536, false, false));
    cluster.trim(0, 65536);
    cluster.run(IoKind::Flush);
    cluster.delete_newest_snapshot();
    cluster.write(0, &vec![2; 1 << 20]);
    let outcome = cluster.run(IoKind::Changed { offset: 0, length: 65536, since, extents_max: 9 });
    assert!(matches!(outcome, Outcome::Failed(IoError::Invalid) | Outcome::Changed(_)), "{outcome:?}");
    assert_ne!(outcome, Outcome::Changed(vec![(65536, false, false)]));
}

#[test]
fn many_pages_are_compared_without_being_kept() {
    let mut cluster = Cluster::new(16 << 30, RegionSize::DEFAULT, 4096, 7);
    cluster.write((16 << 30) - 4096, &[1; 4096]);
    cluster.snapshot();
    cluster.write((8 << 30) + 4096, &[2; 4096]);
    let since = cluster.snapshots[0].id;
    let (mut at, mut found) = (0, Vec::new());
    while at < 16 << 30 {
        let kind = IoKind::Changed { offset: at, length: (16 << 30) - at, since, extents_max: 1 };
        let Outcome::Changed(extents) = cluster.run(kind) else { panic!("refused") };
        let (length, changed, _) = extents[0];
        if changed {
            found.push((at, length));
        }
        at += length;
    }
    assert_eq!(found, [((8 << 30) + 4096, 4096)]);
}
