//! Random histories against a vector of bytes: every read right, every flush durable, every unit with one owner.
#![allow(missing_docs)]

mod cluster;

use agent::IoKind;
use cluster::{Cluster, Outcome, write};
use model::RegionSize;
use proptest::prelude::*;
use wire::{CommandId, Order, OrderOutcome};

const VOLUME_BYTES: u64 = 2 << 20;

#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: u64,
        length: u64,
        value: u8,
        holes: bool,
        fua: bool,
    },
    Zero {
        offset: u64,
        length: u64,
        keep_space: bool,
    },
    Read {
        offset: u64,
        length: u64,
    },
    Flush,
    Settle,
    Restart,
    FailCommit,
    FailWrite,
    /// A snapshot is taken; or given up, when what it is to see cannot be committed.
    Snapshot,
    /// One of this volume alone, with a write behind it that waits for nobody.
    SnapshotUnderWrites {
        offset: u64,
        length: u64,
        value: u8,
    },
    DeleteSnapshot,
    /// Copies everything that snapshots see.
    Flatten,
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    let grain = prop::sample::select(vec![1_u64, 512, 4096, 65536]);
    (grain, 0..VOLUME_BYTES, 1_u64..200_000).prop_map(|(grain, offset, length)| {
        let offset = offset / grain * grain;
        (offset, (length.div_ceil(grain) * grain).min(VOLUME_BYTES - offset))
    })
}

fn step(snapshots: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (range(), 1..=255_u8, any::<bool>(), prop::bool::weighted(0.1)).prop_map(
            |((offset, length), value, holes, fua)| Step::Write { offset, length, value, holes, fua }
        ),
        4 => (range(), prop::bool::weighted(0.1)).prop_map(
            |((offset, length), keep_space)| Step::Zero { offset, length, keep_space }
        ),
        4 => range().prop_map(|(offset, length)| Step::Read { offset, length }),
        2 => Just(Step::Flush),
        2 => Just(Step::Settle),
        1 => Just(Step::Restart),
        1 => Just(Step::FailCommit),
        1 => Just(Step::FailWrite),
        snapshots => Just(Step::Snapshot),
        1 => (range(), 1..=255_u8).prop_map(
            |((offset, length), value)| Step::SnapshotUnderWrites { offset, length, value }
        ),
        1 => Just(Step::DeleteSnapshot),
        1 => Just(Step::Flatten),
    ]
}

fn data(length: u64, value: u8, holes: bool) -> Vec<u8> {
    let mut data = vec![value; length as usize];
    if holes {
        for (index, byte) in data.iter_mut().enumerate() {
            if index / 4096 % 3 != 1 {
                *byte = 0;
            }
        }
    }
    data
}

fn run(steps: Vec<Step>, region_size: RegionSize, units: u32, seed: u64) {
    // Half of them with memory for tables, half with none but for what cannot go.
    let table_bytes_max = [usize::MAX, 1][(seed >> 7 & 1) as usize];
    let mut cluster = Cluster::with_tables(VOLUME_BYTES, region_size, units, seed, table_bytes_max);
    let mut model = vec![0_u8; VOLUME_BYTES as usize];
    let roomy = u64::from(units) * model::UNIT_BYTES >= 32 * VOLUME_BYTES;
    let mut pending = Vec::new();
    let mut snapshots: Vec<Vec<u8>> = Vec::new();
    let mut flattens = 0;
    for step in steps {
        match step {
            Step::Write { offset, length, value, holes, fua } => {
                let data = data(length, value, holes);
                let id = cluster.submit(write(offset, &data, fua));
                pending.push((id, offset, Some(data), length));
            }
            Step::Zero { offset, length, keep_space } => {
                let id = cluster.submit(IoKind::Zero { offset, length, fua: false, keep_space });
                pending.push((id, offset, None, length));
            }
            Step::Read { .. } | Step::Flush | Step::Settle | Step::Restart => {
                settle(&mut cluster, &mut model, &mut pending, roomy);
            }
            Step::FailCommit => cluster.fail_commits = 1,
            Step::FailWrite => cluster.fail_writes = 1,
            Step::Snapshot | Step::SnapshotUnderWrites { .. } => {}
            Step::Flatten => {
                flattens += 1;
                cluster.order(9, Order::Flatten { through: cluster.frozen_through });
            }
            Step::DeleteSnapshot if snapshots.pop().is_some() => cluster.delete_newest_snapshot(),
            Step::DeleteSnapshot => {}
        }
        match step {
            Step::Read { offset, length } => {
                let expected = &model[offset as usize..(offset + length) as usize];
                assert!(cluster.read(offset, length as u32) == expected, "read {length} at {offset}");
            }
            Step::Flush => drop(cluster.run(IoKind::Flush)),
            Step::Restart => {
                cluster.fail_commits = 0;
                assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
                cluster.restart_agent();
                assert!(cluster.read(0, VOLUME_BYTES as u32) == model, "ACKED_FLUSH_IS_DURABLE");
                cluster.audit();
            }
            Step::Snapshot => {
                assert_eq!(cluster.freeze(), OrderOutcome::Done);
                take_in(&mut cluster, &mut model, &mut pending, roomy);
                assert!(cluster.read(0, VOLUME_BYTES as u32) == model, "reads go on while the volume is frozen");
                let held = cluster.submit(write(0, &[0xa5; 4096], false));
                pending.push((held, 0, Some(vec![0xa5; 4096]), 4096));
                cluster.settle();
                assert!(!cluster.done.contains_key(&held), "a volume that holds still is not written");
                let begin = Order::Begin { generation: cluster.generation.next() };
                let begun = cluster.obeyed(begin);
                // (Short of space, or of memory for tables, they wait for a commit, and so for the snapshot.)
                let waits = !roomy || table_bytes_max == 1;
                assert!(waits || cluster.done.contains_key(&held), "writes do not wait for the snapshot");
                end_cut(&mut cluster, &mut snapshots, begun, std::slice::from_ref(&model));
            }
            Step::SnapshotUnderWrites { offset, length, value } => {
                settle(&mut cluster, &mut model, &mut pending, roomy);
                let before = model.clone();
                let first = cluster.submit(write(offset, &vec![value; length as usize], false));
                pending.push((first, offset, Some(vec![value; length as usize]), length));
                cluster.order(7, Order::Freeze { begin: Some(cluster.generation.next()) });
                let data = vec![value ^ 1; length as usize];
                let second = (cluster.submit(write(offset, &data, false)), offset, Some(data), length);
                cluster.settle();
                // What a failed write left can be told only when nothing was written there since.
                let known = cluster.done.get(&first).is_none_or(|outcome| *outcome == Outcome::Done);
                let (_, begun) = *cluster.orders_done.iter().rev().find(|(id, _)| *id == CommandId(7)).expect("ended");
                // The first may not have begun when writes were held; the second certainly had not.
                let mut after = before.clone();
                after[offset as usize..(offset + length) as usize].fill(value);
                let possible = [before, after];
                end_cut(&mut cluster, &mut snapshots, begun, if known { &possible } else { &[] });
                pending.push(second);
            }
            _ => {}
        }
        // One of them at a time: reading all of them takes long.
        if !snapshots.is_empty() && cluster.random(4) == 0 {
            let index = cluster.random(snapshots.len());
            assert!(cluster.read_snapshot(index) == snapshots[index], "SNAPSHOT_NEVER_CHANGES");
            if pending.is_empty() {
                changed_agrees(&mut cluster, &model, index, &snapshots[index]);
            }
        }
        for _ in 0..cluster.random(4) {
            cluster.advance();
        }
    }
    settle(&mut cluster, &mut model, &mut pending, roomy);
    let flattened = cluster.orders_done.iter().filter(|(command, _)| *command == CommandId(9)).count();
    assert_eq!(flattened, flattens, "FAULT_ALWAYS_ENDS: a flattening never ended");
    assert!(cluster.read(0, VOLUME_BYTES as u32) == model, "the whole volume at the end");
    status_agrees(&mut cluster, &model);
    cluster.fail_commits = 0;
    while let Some(seen) = snapshots.pop() {
        assert!(cluster.read_snapshot(snapshots.len()) == seen, "SNAPSHOT_NEVER_CHANGES");
        changed_agrees(&mut cluster, &model, snapshots.len(), &seen);
        cluster.delete_newest_snapshot();
    }
    assert_eq!(cluster.trim(0, VOLUME_BYTES), Outcome::Done);
    assert_eq!(cluster.run(IoKind::Flush), Outcome::Done);
    assert_eq!(cluster.mapped_units(), 0, "a trimmed volume holds nothing");
}

type Pending = Vec<(agent::IoId, u64, Option<Vec<u8>>, u64)>;

/// What a snapshot is to see is durable, or could not be made so; then the volume is thawed.
fn end_cut(cluster: &mut Cluster, snapshots: &mut Vec<Vec<u8>>, begun: OrderOutcome, possible: &[Vec<u8>]) {
    if begun == OrderOutcome::Done {
        // A flush that is asked for now must not bring anything younger into it.
        let flush = cluster.submit(IoKind::Flush);
        cluster.settle();
        cluster.record_snapshot();
        snapshots.push(cluster.read_snapshot(snapshots.len()));
        let is_one = possible.is_empty() || possible.contains(snapshots.last().expect("it was pushed"));
        assert!(is_one, "the snapshot sees what was answered before, and nothing younger");
        assert_eq!(cluster.thaw(), OrderOutcome::Done);
        assert!(
            cluster.done.remove(&flush).is_some(),
            "FAULT_ALWAYS_ENDS: a flush waits for the snapshot, and no longer"
        );
    } else {
        cluster.give_snapshot_up();
        assert_eq!(cluster.thaw(), OrderOutcome::Done);
    }
}

/// Everything under way ends; the model takes it in, in the order of submission.
fn settle(cluster: &mut Cluster, model: &mut [u8], pending: &mut Pending, roomy: bool) {
    cluster.settle();
    take_in(cluster, model, pending, roomy);
    assert!(pending.is_empty(), "FAULT_ALWAYS_ENDS");
}

/// The model takes in what has ended, in the order of submission.
fn take_in(cluster: &mut Cluster, model: &mut [u8], pending: &mut Pending, roomy: bool) {
    for (id, offset, data, length) in std::mem::take(pending) {
        let range = offset as usize..(offset + length) as usize;
        let Some(outcome) = cluster.done.remove(&id) else {
            pending.push((id, offset, data, length));
            continue;
        };
        match outcome {
            Outcome::Done => match data {
                Some(data) => model[range].copy_from_slice(&data),
                None => model[range].fill(0),
            },
            // A write that failed (or whose flush did) is old or new, byte for byte: whatever it is now, it stays.
            Outcome::Failed(error) => {
                assert!(!roomy || error != model::IoError::OutOfSpace);
                let now = cluster.read(offset, length as u32);
                model[range].copy_from_slice(&now);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn status_agrees(cluster: &mut Cluster, model: &[u8]) {
    let mut at = 0_u64;
    while at < VOLUME_BYTES {
        let length = VOLUME_BYTES - at;
        let Outcome::Status(extents) = cluster.run(IoKind::Status { offset: at, length, extents_max: 3 }) else {
            panic!("a status was refused")
        };
        assert!(!extents.is_empty());
        for (length, zero) in extents {
            let bytes = &model[at as usize..(at + length) as usize];
            assert!(!zero || bytes.iter().all(|byte| *byte == 0), "a hole holds data");
            at += length;
        }
    }
}

/// Nothing that differs from a snapshot is taken for unchanged, and what is told to be zeroes is.
fn changed_agrees(cluster: &mut Cluster, model: &[u8], snapshot: usize, seen: &[u8]) {
    let since = cluster.snapshots[snapshot].id;
    let mut at = 0;
    while at < VOLUME_BYTES {
        let kind = IoKind::Changed { offset: at, length: VOLUME_BYTES - at, since, extents_max: 5 };
        let Outcome::Changed(extents) = cluster.run(kind) else { panic!("what changed was refused") };
        assert!(!extents.is_empty());
        for (length, changed, zero) in extents {
            let range = at as usize..(at + length) as usize;
            assert!(changed || model[range.clone()] == seen[range.clone()], "a change at {at} is missed");
            assert!(!zero || model[range].iter().all(|byte| *byte == 0), "a hole holds data");
            at += length;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_roomy_pool(steps in prop::collection::vec(step(2), 1..60), seed: u64, log2 in 14_u32..=20) {
        run(steps, RegionSize::from_bytes(1 << log2).expect("a region size"), 4096, seed);
    }

    #[test]
    fn a_pool_that_is_often_full(steps in prop::collection::vec(step(2), 1..60), seed: u64) {
        run(steps, RegionSize::MIN, 48, seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn deep_stacks(steps in prop::collection::vec(step(16), 1..80), seed: u64) {
        run(steps, RegionSize::DEFAULT, 1 << 14, seed);
    }

    #[test]
    fn deep_stacks_of_large_regions_in_a_pool_that_is_often_full(
        steps in prop::collection::vec(step(10), 1..80),
        seed: u64,
    ) {
        run(steps, RegionSize::from_bytes(1 << 18).expect("a region size"), 256, seed);
    }
}
