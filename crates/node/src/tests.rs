//! The node against its promises, and against a naive model of fencing.

use crate::{Effect, Event, Node, Operation, Planted};
use model::{ClusterId, DiskId, Epoch, IoBuffer, IoError, Term, Time};
use std::sync::Arc;
use wire::{
    AgentId, CommandId, Credentials, DiskOperation, NodeCommand, NodeOrder, NodeReply, NodeReport, NodeRequest,
    NodeRequestId,
};

const CLUSTER: ClusterId = ClusterId(7);
const DISK: DiskId = DiskId(1);
const AGENT: AgentId = AgentId(3);
const SIZE_BYTES: u64 = 1 << 20;

fn step(node: &mut Node, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    node.step(Time(0), event, &mut effects);
    effects
}

fn command(node: &mut Node, number: u64, order: NodeOrder) -> Vec<Effect> {
    step(node, Event::FromController(NodeCommand { command: CommandId(number), term: Term(1), order }))
}

fn node_with(planted: Planted, sector_bytes: u32) -> Node {
    let mut node = Node::with_planted(CLUSTER, planted);
    let effects = command(&mut node, 1, NodeOrder::AddDisk { disk: DISK, size_bytes: SIZE_BYTES, sector_bytes });
    assert!(reported(&effects, 1, Ok(())));
    node
}

fn node() -> Node {
    node_with(Planted::default(), 512)
}

fn credentials(epoch: u64) -> Credentials {
    Credentials { cluster: CLUSTER, term: Term(1), epoch: Epoch(epoch) }
}

fn ask(node: &mut Node, credentials: Credentials, disk: DiskId, operation: DiskOperation) -> Vec<Effect> {
    let request = NodeRequest { id: NodeRequestId(9), credentials, disk, operation };
    step(node, Event::FromAgent(AGENT, request))
}

fn write(offset: u64, length: u32) -> DiskOperation {
    DiskOperation::Write { offset, start: 0, length, buffer: Arc::new(IoBuffer::zeroed(4096)) }
}

fn read(offset: u64, length: u32) -> DiskOperation {
    DiskOperation::Read { offset, length, buffer: IoBuffer::zeroed(4096) }
}

fn refusal(effects: &[Effect]) -> Option<IoError> {
    match effects {
        [Effect::ToAgent(AGENT, NodeReply { id: NodeRequestId(9), result: Err(error), .. })] => Some(*error),
        _ => None,
    }
}

fn started(effects: Vec<Effect>) -> (crate::DiskIoId, Operation) {
    match <[Effect; 1]>::try_from(effects) {
        Ok([Effect::DiskIo { id, operation, .. }]) => (id, operation),
        other => panic!("one disk operation expected, not {other:?}"),
    }
}

fn complete(node: &mut Node, id: crate::DiskIoId, result: Result<(), IoError>) -> Vec<Effect> {
    step(node, Event::DiskCompleted { id, result, buffer: None })
}

fn reported(effects: &[Effect], number: u64, result: Result<(), IoError>) -> bool {
    let wanted = NodeReport { command: CommandId(number), result };
    effects.iter().any(|effect| matches!(effect, Effect::ToController(report) if *report == wanted))
}

#[test]
fn a_read_comes_back_with_its_buffer() {
    let mut node = node();
    let (id, operation) = started(ask(&mut node, credentials(1), DISK, read(512, 1024)));
    let Operation::Read { offset: 512, length: 1024, mut buffer } = operation else { panic!("{operation:?}") };
    buffer.bytes_mut()[0] = 42;
    let effects = step(&mut node, Event::DiskCompleted { id, result: Ok(()), buffer: Some(buffer) });
    assert!(matches!(
        &effects[..],
        [Effect::ToAgent(AGENT, NodeReply { id: NodeRequestId(9), result: Ok(()), buffer: Some(buffer) })]
            if buffer.bytes()[0] == 42
    ));
    assert_eq!(node.in_flight(), 0);
}

#[test]
fn strangers_and_stale_holders_are_refused_before_anything_else_is_looked_at() {
    let mut node = node();
    let stranger = Credentials { cluster: ClusterId(8), ..credentials(1) };
    assert_eq!(refusal(&ask(&mut node, stranger, DiskId(99), write(1, 1))), Some(IoError::Fenced));
    command(&mut node, 2, NodeOrder::Fence { floor: Epoch(5), epochs: vec![Epoch(8)] });
    for (epoch, refused) in [(4, true), (5, false), (7, false), (8, true), (9, false)] {
        let effects = ask(&mut node, credentials(epoch), DISK, read(0, 512));
        assert_eq!(refusal(&effects) == Some(IoError::Fenced), refused, "epoch {epoch}");
    }
    let newer = Credentials { term: Term(2), ..credentials(9) };
    assert_eq!(refusal(&ask(&mut node, newer, DISK, DiskOperation::Flush)), None);
    let older = ask(&mut node, credentials(9), DISK, DiskOperation::Flush);
    assert_eq!(refusal(&older), Some(IoError::Fenced), "a newer term raises the node's own");
    let effects = command(&mut node, 3, NodeOrder::RemoveDisk { disk: DISK });
    assert!(reported(&effects, 3, Err(IoError::Fenced)), "an older controller commands nothing");
}

#[test]
fn ranges_outside_the_disk_or_its_sectors_are_refused_without_overflow() {
    let mut node = node_with(Planted::default(), 4096);
    let buffer = || Arc::new(IoBuffer::zeroed(8192));
    for operation in [
        read(SIZE_BYTES, 4096),
        read(u64::MAX - 4095, 4096),
        read(512, 4096),
        read(0, 512),
        read(0, 0),
        read(0, 8192),
        DiskOperation::Write { offset: 0, start: 4096, length: 8192, buffer: buffer() },
        DiskOperation::Write { offset: 0, start: 512, length: 4096, buffer: buffer() },
        DiskOperation::Write { offset: 0, start: u32::MAX, length: u32::MAX, buffer: buffer() },
        DiskOperation::Discard { offset: 4096, length: u64::MAX - 4095 },
        DiskOperation::Discard { offset: 4096, length: 1 },
    ] {
        assert_eq!(refusal(&ask(&mut node, credentials(1), DISK, operation)), Some(IoError::Invalid));
    }
    started(ask(&mut node, credentials(1), DISK, read(SIZE_BYTES - 4096, 4096)));
}

#[test]
fn a_fence_is_done_only_when_nothing_of_the_fenced_is_in_flight() {
    let mut node = node();
    let (first, _) = started(ask(&mut node, credentials(1), DISK, write(0, 512)));
    let (second, _) = started(ask(&mut node, credentials(1), DISK, write(0, 512)));
    let (other, _) = started(ask(&mut node, credentials(2), DISK, write(0, 512)));
    assert!(command(&mut node, 2, NodeOrder::Fence { floor: Epoch(2), epochs: vec![] }).is_empty());
    assert!(!reported(&complete(&mut node, first, Ok(())), 2, Ok(())));
    assert!(reported(&complete(&mut node, second, Err(IoError::Device)), 2, Ok(())));
    assert!(!reported(&complete(&mut node, other, Ok(())), 2, Ok(())), "the living session is not waited for");
}

#[test]
fn a_failed_flush_fails_its_disk_for_writers_but_not_for_readers() {
    let mut node = node();
    let (failing, _) = started(ask(&mut node, credentials(1), DISK, DiskOperation::Flush));
    let (overlapping, _) = started(ask(&mut node, credentials(2), DISK, DiskOperation::Flush));
    let effects = complete(&mut node, failing, Err(IoError::Device));
    assert!(matches!(effects[0], Effect::DiskFailed(DISK)));
    assert_eq!(refusal(&complete(&mut node, overlapping, Ok(()))), Some(IoError::Device));
    for operation in [write(0, 512), DiskOperation::Flush, DiskOperation::Discard { offset: 0, length: 512 }] {
        assert_eq!(refusal(&ask(&mut node, credentials(2), DISK, operation)), Some(IoError::Device));
    }
    started(ask(&mut node, credentials(2), DISK, read(0, 512)));
    command(&mut node, 2, NodeOrder::RemoveDisk { disk: DISK });
    command(&mut node, 3, NodeOrder::AddDisk { disk: DISK, size_bytes: SIZE_BYTES, sector_bytes: 512 });
    assert_eq!(refusal(&ask(&mut node, credentials(2), DISK, write(0, 512))), Some(IoError::Device));
}

#[test]
fn a_flush_failed_on_another_shard_counts_here() {
    let mut node = node();
    let (flush, _) = started(ask(&mut node, credentials(1), DISK, DiskOperation::Flush));
    assert!(step(&mut node, Event::DiskFailed(DISK)).is_empty());
    assert_eq!(refusal(&complete(&mut node, flush, Ok(()))), Some(IoError::Device));
    assert_eq!(refusal(&ask(&mut node, credentials(1), DISK, write(0, 512))), Some(IoError::Device));
}

#[test]
fn a_disk_out_of_service_or_unknown_is_a_failed_device() {
    let mut node = node();
    assert_eq!(refusal(&ask(&mut node, credentials(1), DiskId(2), read(0, 512))), Some(IoError::Device));
    assert!(reported(&command(&mut node, 2, NodeOrder::RemoveDisk { disk: DiskId(2) }), 2, Err(IoError::Device)));
    assert!(reported(&command(&mut node, 3, NodeOrder::RemoveDisk { disk: DISK }), 3, Ok(())));
    assert_eq!(refusal(&ask(&mut node, credentials(1), DISK, read(0, 512))), Some(IoError::Device));
    let prepare = NodeOrder::Prepare { disk: DISK, ranges: vec![(0, 512)] };
    assert!(reported(&command(&mut node, 4, prepare), 4, Err(IoError::Device)));
    let shrunk = NodeOrder::AddDisk { disk: DISK, size_bytes: SIZE_BYTES / 2, sector_bytes: 512 };
    assert!(reported(&command(&mut node, 5, shrunk), 5, Err(IoError::Invalid)));
}

#[test]
fn chunklets_are_prepared_when_every_range_is() {
    let mut node = node();
    let ranges = vec![(0, 4096), (8192, 4096)];
    let effects = command(&mut node, 2, NodeOrder::Prepare { disk: DISK, ranges: ranges.clone() });
    let ids: Vec<_> = effects
        .iter()
        .map(|effect| match effect {
            Effect::DiskIo { id, disk: DISK, operation: Operation::Allocate { offset, length } } => {
                assert!(ranges.contains(&(*offset, *length)));
                *id
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(complete(&mut node, ids[1], Err(IoError::OutOfSpace)).is_empty());
    assert!(reported(&complete(&mut node, ids[0], Ok(())), 2, Err(IoError::OutOfSpace)));
    let beyond = NodeOrder::Prepare { disk: DISK, ranges: vec![(0, 512), (SIZE_BYTES, 512)] };
    assert!(reported(&command(&mut node, 3, beyond), 3, Err(IoError::Invalid)));
    let nothing = NodeOrder::Prepare { disk: DISK, ranges: vec![] };
    assert!(reported(&command(&mut node, 4, nothing), 4, Ok(())));
}

#[test]
fn counters_tell_what_was_asked_of_a_disk() {
    let mut node = node();
    let (id, _) = started(ask(&mut node, credentials(1), DISK, write(0, 1024)));
    complete(&mut node, id, Err(IoError::Device));
    started(ask(&mut node, credentials(1), DISK, read(0, 512)));
    ask(&mut node, credentials(1), DISK, read(SIZE_BYTES, 512));
    let (disk, counters, failed) = node.counters().next().expect("one disk");
    assert_eq!((disk, failed), (DISK, false));
    assert_eq!((counters.writes, counters.write_bytes, counters.errors), (1, 1024, 1));
    assert_eq!((counters.reads, counters.read_bytes, counters.flushes), (1, 512, 0));
}

/// A small generator of its own: the node depends on no randomness.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn fencing_agrees_with_a_naive_model_over_random_histories() {
    for seed in 0..200 {
        let mut state = seed;
        let mut node = node();
        let mut floor = 0;
        let mut fenced: Vec<u64> = Vec::new();
        let mut flying: Vec<(u64, crate::DiskIoId)> = Vec::new();
        let mut waiting: Vec<u64> = Vec::new();
        for number in 10..400 {
            let is_fenced = |epoch: u64, floor: u64, fenced: &[u64]| epoch < floor || fenced.contains(&epoch);
            let effects = match next(&mut state) % 8 {
                0 => {
                    floor = floor.max(next(&mut state) % 400 / 2);
                    let epoch = floor + next(&mut state) % 20;
                    fenced.push(epoch);
                    waiting.push(number);
                    let order = NodeOrder::Fence { floor: Epoch(floor), epochs: vec![Epoch(epoch)] };
                    command(&mut node, number, order)
                }
                1..=4 => {
                    let epoch = floor + next(&mut state) % 24;
                    let effects = ask(&mut node, credentials(epoch), DISK, read(0, 512));
                    if is_fenced(epoch, floor, &fenced) {
                        assert_eq!(refusal(&effects), Some(IoError::Fenced));
                    } else {
                        flying.push((epoch, started(effects).0));
                    }
                    continue;
                }
                _ if !flying.is_empty() => {
                    let index = next(&mut state) as usize % flying.len();
                    complete(&mut node, flying.swap_remove(index).1, Ok(()))
                }
                _ => continue,
            };
            let drained = !flying.iter().any(|(epoch, _)| is_fenced(*epoch, floor, &fenced));
            for number in std::mem::take(&mut waiting) {
                assert_eq!(reported(&effects, number, Ok(())), drained, "seed {seed}");
                if !drained {
                    waiting.push(number);
                }
            }
        }
    }
}
