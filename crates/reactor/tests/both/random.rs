//! Random operations against the plainest of files: a list of bytes.

use crate::{completions, on_both_backends, patterned};
use model::IoBuffer;
use proptest::prelude::*;
use reactor::{File, OpenOptions, Operation, Payload, Reactor};
use std::sync::Arc;

const BLOCK: usize = 4096;
const BLOCKS: usize = 64;

/// What to do with some blocks.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write { block: usize, blocks: usize, seed: u64 },
    Read { block: usize, blocks: usize },
    Discard { block: usize, blocks: usize },
    Sync,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = (0..BLOCKS).prop_flat_map(|block| (Just(block), 1..=(BLOCKS - block).min(20)));
    let step = prop_oneof![
        4 => (range.clone(), any::<u64>()).prop_map(|((block, blocks), seed)| Step::Write { block, blocks, seed }),
        4 => range.clone().prop_map(|(block, blocks)| Step::Read { block, blocks }),
        1 => range.prop_map(|(block, blocks)| Step::Discard { block, blocks }),
        1 => Just(Step::Sync),
    ];
    prop::collection::vec(step, 1..40)
}

/// Performs a step one block an operation, all of them in flight together.
fn perform(reactor: &mut Reactor, file: &File, expected: &mut [u8], step: Step) {
    match step {
        Step::Write { block, blocks, seed } => {
            let buffer = Arc::new(patterned(blocks * BLOCK, seed));
            expected[block * BLOCK..(block + blocks) * BLOCK].copy_from_slice(buffer.bytes());
            for index in 0..blocks {
                let (file, buffer, start) = (file.clone(), Arc::clone(&buffer), index * BLOCK);
                let offset = ((block + index) * BLOCK) as u64;
                reactor.submit(index as u64, Operation::Write { file, buffer, start, length: BLOCK, offset });
            }
            for done in completions(reactor, blocks) {
                assert_eq!(done.result.expect("written") as usize, BLOCK);
                assert!(matches!(done.payload, Payload::Shared(_)));
            }
        }
        Step::Read { block, blocks } => {
            for index in 0..blocks {
                let (file, buffer) = (file.clone(), IoBuffer::zeroed(BLOCK));
                let offset = ((block + index) * BLOCK) as u64;
                reactor.submit(index as u64, Operation::Read { file, buffer, start: 0, length: BLOCK, offset });
            }
            for (index, done) in completions(reactor, blocks).into_iter().enumerate() {
                assert_eq!(done.result.expect("read") as usize, BLOCK);
                let from = (block + index) * BLOCK;
                assert!(done.payload.into_buffer().expect("a buffer").bytes() == &expected[from..from + BLOCK]);
            }
        }
        Step::Discard { block, blocks } => {
            let (offset, length) = ((block * BLOCK) as u64, (blocks * BLOCK) as u64);
            reactor.submit(0, Operation::Discard { file: file.clone(), offset, length });
            // Whether it works is the file system's.
            if completions(reactor, 1).remove(0).result.is_ok() {
                expected[block * BLOCK..(block + blocks) * BLOCK].fill(0);
            }
        }
        Step::Sync => {
            reactor.submit(0, Operation::DataSync { file: file.clone() });
            completions(reactor, 1).remove(0).result.expect("synced");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_file_holds_what_a_list_of_bytes_would(steps in steps(), direct in any::<bool>()) {
        on_both_backends(|mut reactor| {
            let directory = tempfile::tempdir().expect("a directory");
            let options = OpenOptions { direct, create: true, ..OpenOptions::default() };
            let file = File::open(&directory.path().join("disk"), options).expect("a file");
            reactor.submit(0, Operation::Allocate { file: file.clone(), offset: 0, length: (BLOCKS * BLOCK) as u64 });
            if completions(&mut reactor, 1).remove(0).result.is_err() {
                return;
            }
            let mut expected = vec![0; BLOCKS * BLOCK];
            for step in &steps {
                perform(&mut reactor, &file, &mut expected, *step);
            }
        });
    }
}
