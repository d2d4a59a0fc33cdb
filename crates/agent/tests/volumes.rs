//! An agent serves a volume: what it promises, one sentence a test.
#![allow(missing_docs)]

mod cluster;

use agent::IoKind;
use cluster::{Cluster, FOREIGN, Outcome, write};
use model::{IoError, RegionSize};
use wire::{CommandId, Order, OrderOutcome};

fn small() -> Cluster {
    Cluster::new(64 << 20, RegionSize::DEFAULT, 4096, 7)
}

#[test]
fn a2_a_first_write_takes_one_region_and_a1_a_rewrite_takes_nothing() {
    let mut cluster = small();
    assert_eq!(cluster.write(4096, &[1; 4096]), Outcome::Done);
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert_eq!((cluster.mapped_units(), cluster.commits), (4, 1));
    assert_eq!(cluster.write(4096, &[2; 4096]), Outcome::Done);
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert_eq!((cluster.mapped_units(), cluster.commits), (4, 1), "P8: with nothing new, a flush is a device flush");
    assert_eq!(cluster.flushes, 2);
    assert_eq!(cluster.read(0, 16384), [vec![0; 4096], vec![2; 4096], vec![0; 8192]].concat());
}

#[test]
fn a7_d3_reads_of_unwritten_space_touch_no_device() {
    let mut cluster = small();
    assert_eq!(cluster.read(12345, 70000), vec![0; 70000]);
    assert_eq!(cluster.reads, 0);
}

#[test]
fn no_foreign_bytes_show_around_a_write_of_less_than_a_block() {
    let mut cluster = small();
    assert_eq!(cluster.write(100_001, &[7; 3]), Outcome::Done);
    let mut expected = vec![0; 65536];
    expected[100_001 - 65536..100_004 - 65536].fill(7);
    assert_eq!(cluster.read(65536, 65536), expected);
    assert!(cluster.media.contains(&FOREIGN));
}

#[test]
fn a8_zeroes_take_no_space_and_give_it_back() {
    let mut cluster = small();
    assert_eq!(cluster.write(0, &vec![0; 1 << 20]), Outcome::Done);
    cluster.run(IoKind::Flush);
    assert_eq!((cluster.mapped_units(), cluster.writes), (0, 0));
    cluster.write(0, &vec![5; 1 << 20]);
    cluster.run(IoKind::Flush);
    assert_eq!((cluster.mapped_units(), cluster.writes), (64, 1), "a stream is one write to one extent");
    cluster.write(0, &vec![0; 1 << 20]);
    cluster.run(IoKind::Flush);
    assert_eq!((cluster.mapped_units(), cluster.read(0, 1 << 20)), (0, vec![0; 1 << 20]));
}

#[test]
fn a10_trim_gives_space_back_and_reads_zero_to_the_byte() {
    let mut cluster = small();
    cluster.write(0, &vec![5; 1 << 20]);
    assert_eq!(cluster.trim(1, (1 << 20) - 2), Outcome::Done);
    cluster.run(IoKind::Flush);
    let mut expected = vec![0; 1 << 20];
    expected[0] = 5;
    *expected.last_mut().expect("not empty") = 5;
    assert_eq!(cluster.read(0, 1 << 20), expected);
    assert_eq!(cluster.mapped_units(), 8, "the two regions at the ends");
    cluster.trim(0, 64 << 20);
    cluster.run(IoKind::Flush);
    assert_eq!(cluster.mapped_units(), 0);
}

#[test]
fn space_that_is_kept_is_assigned_and_reads_zero() {
    let mut cluster = small();
    cluster.write(0, &[9; 4096]);
    cluster.run(IoKind::Zero { offset: 0, length: 1 << 20, fua: true, keep_space: true });
    assert_eq!(cluster.mapped_units(), 64);
    assert_eq!(cluster.read(0, 1 << 20), vec![0; 1 << 20]);
    let granted = cluster.units.iter().filter(|owner| **owner == cluster::Owner::Granted).count();
    cluster.write(0, &vec![1; 1 << 20]);
    cluster.run(IoKind::Flush);
    assert_eq!(cluster.mapped_units(), 64);
    assert!(granted >= cluster.units.iter().filter(|owner| **owner == cluster::Owner::Granted).count());
}

#[test]
fn fault_1_a_full_pool_fails_allocating_writes_and_nothing_else() {
    let mut cluster = Cluster::new(64 << 20, RegionSize::DEFAULT, 64, 3);
    cluster.write(0, &vec![1; 1 << 20]);
    assert_eq!(cluster.write(8 << 20, &[2; 4096]), Outcome::Failed(IoError::OutOfSpace));
    assert_eq!(cluster.write(4096, &[3; 4096]), Outcome::Done);
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert_eq!(cluster.read(0, 8192), [vec![1; 4096], vec![3; 4096]].concat());
    assert_eq!(cluster.write(8 << 20, &[0; 4096]), Outcome::Done, "zeroes need no space");
    assert_eq!(cluster.trim(0, 65536), Outcome::Done);
    assert_eq!(
        cluster.write(8 << 20, &[2; 4096]),
        Outcome::Done,
        "what was trimmed serves, without a flush by the host"
    );
    assert_eq!(cluster.read(8 << 20, 4096), vec![2; 4096]);
}

#[test]
fn a_commit_that_fails_is_an_error_once_and_made_good_by_the_next_flush() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    cluster.fail_commits = 1;
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Failed(IoError::Device));
    cluster.trim(0, 4096);
    cluster.write(1 << 20, &[2; 4096]);
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert_eq!(cluster.mapped_units(), 4);
    cluster.restart_agent();
    assert_eq!(cluster.read(0, 4096), vec![0; 4096]);
    assert_eq!(cluster.read(1 << 20, 4096), vec![2; 4096]);
}

#[test]
fn a_failed_device_flush_commits_nothing() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    cluster.fail_flushes = 1;
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Failed(IoError::Device));
    assert_eq!((cluster.commits, cluster.mapped_units()), (0, 0), "MAP_NEVER_AHEAD_OF_DATA");
}

#[test]
fn a_session_s_first_flush_covers_what_a_session_before_it_left_in_the_disks_caches() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    cluster.write(0, &[2; 4096]);
    cluster.replace_agent();
    assert_eq!(cluster.read(0, 4096), vec![2; 4096], "in place, and in the disk's cache only");
    let before = cluster.flushes;
    cluster.fail_flushes = 1;
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Failed(IoError::Device));
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert_eq!(cluster.flushes, before + 2, "ACKED_FLUSH_IS_DURABLE");
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert_eq!(cluster.flushes, before + 2, "once is enough");
}

#[test]
fn fault_39_a_write_with_fua_is_durable_alone() {
    let mut cluster = small();
    assert_eq!(cluster.run(write(8192, &[4; 512], true)), Outcome::Done);
    cluster.restart_agent();
    assert_eq!(cluster.read(8192, 512), vec![4; 512]);
}

#[test]
fn old_changes_are_committed_unasked_and_an_idle_volume_is_detached() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    cluster.pass(6_000_000_000);
    assert_eq!(cluster.mapped_units(), 4);
    cluster.step(agent::Event::HostDetach { host: agent::HostId(1) });
    cluster.pass(3_000_000_000);
    assert!(cluster.detached && cluster.agent.is_drained());
}

#[test]
fn fault_22_a_volume_that_shrinks_gives_back_what_lies_beyond_and_refuses_io_there() {
    let mut cluster = small();
    cluster.write(0, &vec![1; 8 << 20]);
    cluster.order(5, Order::Resize { size_bytes: (1 << 20) + 512 });
    assert_eq!(cluster.run(IoKind::Read { offset: 1 << 20, length: 4096 }), Outcome::Failed(IoError::Invalid));
    assert_eq!(cluster.orders_done, [(CommandId(5), OrderOutcome::Done)]);
    assert_eq!(cluster.mapped_units(), 68);
    cluster.order(6, Order::Resize { size_bytes: 2 << 20 });
    assert_eq!(cluster.read((1 << 20) + 512, 65536), vec![0; 65536]);
    assert_eq!(cluster.read((1 << 20) - 512, 1024), vec![1; 1024]);
}

#[test]
fn a_volume_in_use_is_released_only_by_force() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    cluster.order(1, Order::Release { force: false });
    cluster.settle();
    assert_eq!(cluster.orders_done, [(CommandId(1), OrderOutcome::Busy { hosts: 1 })]);
    cluster.order(2, Order::Release { force: true });
    cluster.settle();
    assert!(cluster.detached && cluster.evicted.len() == 1);
    assert_eq!(cluster.mapped_units(), 4, "what was written is committed on the way out");
}

#[test]
fn a_volume_does_not_leave_behind_what_it_holds_while_that_is_tried_again() {
    let mut cluster = small();
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    // Both wait for the same page; the trim ends first, and nothing else is in flight then.
    let trim = cluster.submit(IoKind::Zero { offset: 0, length: 65536, fua: false, keep_space: false });
    let write = cluster.submit(write(1 << 20, &[1; 4096], false));
    cluster.order(1, Order::Release { force: true });
    cluster.settle();
    for id in [trim, write] {
        assert_eq!(cluster.done.get(&id), Some(&Outcome::Done), "FAULT_ALWAYS_ENDS");
    }
    assert!(cluster.detached);
    assert_eq!(cluster.mapped_units(), 4);
}

#[test]
fn grants_go_back_when_space_is_short_elsewhere() {
    let mut cluster = small();
    cluster.write(0, &[1; 4096]);
    cluster.order(1, Order::ReturnGrants);
    cluster.settle();
    assert_eq!(cluster.orders_done, [(CommandId(1), OrderOutcome::Done)]);
    let granted = cluster.units.iter().filter(|owner| **owner == cluster::Owner::Granted).count();
    assert_eq!(granted, 4, "only the region that waits for its commit");
    cluster.write(1 << 20, &[1; 4096]);
    cluster.run(IoKind::Flush);
    assert_eq!(cluster.mapped_units(), 8);
}
