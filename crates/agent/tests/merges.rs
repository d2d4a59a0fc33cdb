//! What an agent does about deep stacks of layers: one sentence a test.
#![allow(missing_docs)]

mod cluster;

use agent::IoKind;
use cluster::{Cluster, Outcome};
use model::{IoError, RegionSize};
use wire::{Order, OrderOutcome};

fn small() -> Cluster {
    Cluster::new(64 << 20, RegionSize::DEFAULT, 4096, 7)
}

/// A region with `layers` layers, one block each, over a first one that is whole.
fn deep(cluster: &mut Cluster, layers: u8) {
    cluster.write(0, &[1; 65536]);
    for layer in 1..layers {
        cluster.snapshot();
        assert_eq!(cluster.write(u64::from(layer) * 4096, &[layer + 1; 4096]), Outcome::Done);
    }
}

fn layers(cluster: &Cluster) -> usize {
    let page = &cluster.pages[&model::PageIndex(0)];
    page.entry(0).to_stack(cluster.region_size).len()
}

#[test]
fn a_write_that_finds_seven_layers_waits_for_their_merge() {
    let mut cluster = small();
    cluster.agent_grants_scarce();
    deep(&mut cluster, 7);
    cluster.run(IoKind::Flush);
    assert_eq!(layers(&cluster), 7, "without room to spare nothing is merged in the background");
    cluster.snapshot();
    let expected: Vec<u8> =
        (0..16).flat_map(|block| vec![if block == 0 || block > 6 { 1 } else { block + 1 }; 4096]).collect();
    assert_eq!(cluster.write(60_000, &[9; 10]), Outcome::Done);
    let mut now = expected.clone();
    now[60_000..60_010].fill(9);
    assert_eq!(cluster.read(0, 65536), now);
    cluster.run(IoKind::Flush);
    assert_eq!(layers(&cluster), 1);
    assert_eq!(cluster.read_snapshot(6)[..65536], expected);
    assert_eq!(cluster.read_snapshot(0)[..65536], [1; 65536]);
    assert_eq!(cluster.mapped_units(), 8 * 4);
    cluster.restart_agent();
    assert_eq!(cluster.read(0, 65536), now);
}

#[test]
fn zeroes_and_trims_of_a_full_stack_need_neither_merge_nor_space() {
    let mut cluster = small();
    cluster.agent_grants_scarce();
    deep(&mut cluster, 7);
    cluster.snapshot();
    assert_eq!(cluster.obeyed(Order::ReturnGrants), OrderOutcome::Done);
    cluster.grant_units_max = 0;
    let reads = cluster.reads;
    assert_eq!(cluster.write(4096, &[0; 8192]), Outcome::Done);
    assert_eq!(cluster.trim(16384, 4096), Outcome::Done);
    assert_eq!(cluster.reads, reads);
    assert_eq!(cluster.write(20480, &[5; 4096]), Outcome::Failed(IoError::OutOfSpace));
    assert_eq!(cluster.trim(20481, 10), Outcome::Failed(IoError::OutOfSpace), "a part of a block is written");
    assert_eq!(cluster.read(4096, 16384), [vec![0; 8192], vec![4; 4096], vec![0; 4096]].concat());
    assert_eq!(cluster.write(5000, &[0; 9]), Outcome::Done, "a part of zeroes is zeroes");
    assert_eq!(cluster.trim(5000, 100), Outcome::Done);
    cluster.grant_units_max = u32::MAX;
    assert_eq!(cluster.write(20480, &[5; 4096]), Outcome::Done);
    cluster.run(IoKind::Flush);
    assert_eq!(cluster.read(4096, 20480), [vec![0; 8192], vec![4; 4096], vec![0; 4096], vec![5; 4096]].concat());
}

#[test]
fn a_merge_that_cannot_read_fails_the_write_that_waited_and_loses_nothing() {
    let mut cluster = small();
    cluster.agent_grants_scarce();
    deep(&mut cluster, 7);
    cluster.snapshot();
    let before = cluster.read(0, 65536);
    cluster.fail_reads = 1;
    assert_eq!(cluster.write(0, &[9; 4096]), Outcome::Failed(IoError::Device));
    assert_eq!(cluster.read(0, 65536), before);
    cluster.fail_writes = 1;
    assert_eq!(cluster.write(0, &[9; 4096]), Outcome::Failed(IoError::Device));
    assert_eq!(cluster.read(0, 65536), before);
    assert_eq!(cluster.write(0, &[9; 4096]), Outcome::Done);
    cluster.run(IoKind::Flush);
    assert_eq!(cluster.read(0, 65536), [vec![9; 4096], before[4096..].to_vec()].concat());
}

#[test]
fn a_stack_of_five_layers_is_merged_when_hosts_are_quiet() {
    let mut cluster = small();
    deep(&mut cluster, 4);
    cluster.run(IoKind::Flush);
    assert_eq!(layers(&cluster), 4);
    let before = cluster.read(0, 65536);
    cluster.snapshot();
    cluster.write(32768, &[5; 4096]);
    for _ in 0..64 {
        cluster.pass(10_000_000);
        assert_eq!(cluster.read(0, 4096), before[..4096]);
    }
    cluster.run(IoKind::Flush);
    assert_eq!(layers(&cluster), 5, "while a host asks for something every ten milliseconds, it has the disks");
    cluster.pass(20_000_000);
    cluster.run(IoKind::Flush);
    assert_eq!(layers(&cluster), 1);
    let now = [before[..32768].to_vec(), vec![5; 4096], before[36864..].to_vec()].concat();
    assert_eq!(cluster.read(0, 65536), now);
    assert_eq!(cluster.read_snapshot(3)[..65536], before);
    cluster.restart_agent();
    assert_eq!(cluster.read(0, 65536), now);
}

#[test]
fn full_stacks_are_merged_while_hosts_ask_and_take_a_part_of_the_disks_only() {
    let mut cluster = small();
    let regions = 32_u64;
    cluster.write(0, &vec![1; 65536 * regions as usize]);
    for layer in 1..7_u8 {
        cluster.snapshot();
        for region in 0..regions {
            assert_eq!(cluster.write(region * 65536 + u64::from(layer) * 4096, &[layer + 1; 4096]), Outcome::Done);
        }
    }
    let merged = |cluster: &Cluster| cluster.agent.reports()[0].counters.regions_merged;
    let before = merged(&cluster);
    for _ in 0..320 {
        assert_eq!(cluster.read(0, 4096), [1; 4096]);
    }
    assert_eq!(merged(&cluster) - before, 20, "one for sixteen requests");
    // A snapshot later, those that were merged take writes at once, and the others after a merge.
    cluster.snapshot();
    for region in 0..regions {
        assert_eq!(cluster.write(region * 65536, &[8; 4096]), Outcome::Done);
    }
    assert_eq!(merged(&cluster), u64::from(regions as u32));
}

#[test]
fn blocks_that_are_zeroes_stay_zeroes_without_a_bit_through_a_merge() {
    let mut cluster = small();
    deep(&mut cluster, 4);
    cluster.trim(40960, 8192);
    cluster.snapshot();
    cluster.write(32768, &[5; 4096]);
    cluster.pass(20_000_000);
    cluster.run(IoKind::Flush);
    assert_eq!(layers(&cluster), 1);
    let Outcome::Status(extents) = cluster.run(IoKind::Status { offset: 0, length: 65536, extents_max: 9 }) else {
        panic!("a status was refused")
    };
    assert_eq!(extents, [(40960, false), (8192, true), (16384, false)]);
    assert_eq!(cluster.read(40960, 8192), vec![0; 8192]);
}

#[test]
fn a_merge_hides_no_change() {
    let mut cluster = small();
    deep(&mut cluster, 4);
    cluster.snapshot();
    cluster.write(32768, &[5; 4096]);
    cluster.pass(20_000_000);
    cluster.run(IoKind::Flush);
    assert_eq!(layers(&cluster), 1);
    let extents = cluster.changed_since(3);
    let mut at = 0;
    let covered = extents.iter().any(|(length, changed, _)| {
        at += length;
        *changed && at - length <= 32768 && at >= 36864
    });
    assert!(covered, "{extents:?}");
}
