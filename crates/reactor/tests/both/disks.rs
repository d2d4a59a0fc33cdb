//! Files: what is written is read, and every failure is told.

use crate::{completion, completions, on_both_backends, patterned};
use model::{BufferPool, IoBuffer};
use reactor::{File, OpenOptions, Operation, Payload, Reactor};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

const DIRECT: OpenOptions = OpenOptions { direct: true, create: true, read_only: false, exclusive: false };
const CACHED: OpenOptions = OpenOptions { direct: false, ..DIRECT };

fn file_in(directory: &TempDir, options: OpenOptions) -> File {
    File::open(&directory.path().join("disk"), options).expect("a file")
}

fn write(reactor: &mut Reactor, file: &File, token: u64, buffer: IoBuffer, offset: u64) {
    let length = buffer.len();
    let (file, buffer) = (file.clone(), Arc::new(buffer));
    reactor.submit(token, Operation::Write { file, buffer, start: 0, length, offset });
}

fn read(reactor: &mut Reactor, file: &File, token: u64, length: usize, offset: u64) {
    let (file, buffer) = (file.clone(), IoBuffer::zeroed(length));
    reactor.submit(token, Operation::Read { file, buffer, start: 0, length, offset });
}

#[test]
fn what_was_written_and_synced_is_read_again() {
    for options in [DIRECT, CACHED] {
        on_both_backends(|mut reactor| {
            let directory = tempfile::tempdir().unwrap();
            let file = file_in(&directory, options);
            write(&mut reactor, &file, 1, patterned(1 << 20, 1), 8192);
            let done = completion(&mut reactor);
            assert_eq!((done.token, done.result.unwrap()), (1, 1 << 20));
            assert!(matches!(done.payload, Payload::Shared(_)));
            reactor.submit(2, Operation::DataSync { file: file.clone() });
            assert_eq!(completion(&mut reactor).result.unwrap(), 0);
            assert_eq!(file.size_bytes().unwrap(), 8192 + (1 << 20));
            read(&mut reactor, &file, 3, 1 << 20, 8192);
            let done = completion(&mut reactor);
            assert_eq!(done.result.unwrap(), 1 << 20);
            assert!(done.payload.into_buffer().unwrap().bytes() == patterned(1 << 20, 1).bytes());
            assert_eq!(reactor.in_flight(), 0);
        });
    }
}

#[test]
fn a_part_of_a_buffer_is_read_and_written_and_the_rest_left_alone() {
    on_both_backends(|mut reactor| {
        let directory = tempfile::tempdir().unwrap();
        let file = file_in(&directory, DIRECT);
        let buffer = Arc::new(patterned(16 << 10, 4));
        let part = Operation::Write { file: file.clone(), buffer, start: 4096, length: 8192, offset: 0 };
        reactor.submit(1, part);
        assert_eq!(completion(&mut reactor).result.unwrap(), 8192);
        let buffer = IoBuffer::zeroed(16 << 10);
        reactor.submit(2, Operation::Read { file, buffer, start: 8192, length: 4096, offset: 4096 });
        let buffer = completion(&mut reactor).payload.into_buffer().unwrap();
        assert!(buffer.bytes()[8192..12288] == patterned(16 << 10, 4).bytes()[8192..12288]);
        assert!(buffer.bytes()[..8192].iter().chain(&buffer.bytes()[12288..]).all(|byte| *byte == 0));
    });
}

#[test]
fn buffers_of_registered_slabs_and_adopted_files_do_what_others_do() {
    on_both_backends(|mut reactor| {
        let directory = tempfile::tempdir().unwrap();
        let file = file_in(&directory, DIRECT);
        reactor.adopt(&file).unwrap();
        let mut pool = BufferPool::with_slabs(0, 2);
        // The second pool's slab is not registered, and has the number of one that is.
        let mut foreign = BufferPool::with_slabs(0, 1);
        let mut buffers: Vec<_> = [4096, 64 << 10, 1 << 20, 1 << 20, 4096].map(|bytes| pool.take(bytes)).into();
        while let Some(slab) = pool.next_slab() {
            reactor.register(slab).unwrap();
        }
        buffers.extend([foreign.take(64 << 10), IoBuffer::zeroed(8192)]);
        assert_eq!(
            buffers.iter().map(IoBuffer::slab).collect::<Vec<_>>()[2..],
            [Some(0), Some(1), Some(0), Some(0), None]
        );
        let (mut offset, mut places) = (0, Vec::new());
        for (index, mut buffer) in buffers.into_iter().enumerate() {
            let length = buffer.len();
            buffer.bytes_mut().copy_from_slice(patterned(length, index as u64).bytes());
            write(&mut reactor, &file, index as u64, buffer, offset);
            places.push((offset, length));
            offset += length as u64;
        }
        let mut written = completions(&mut reactor, places.len());
        assert!(
            written.iter().zip(&places).all(|(done, (_, length))| *done.result.as_ref().unwrap() as usize == *length)
        );
        // Back into another buffer each: the next larger one has room for the smaller.
        let mut buffers: Vec<_> = written.drain(..).map(|done| shared(done.payload)).collect();
        for (index, (offset, length)) in places.iter().enumerate() {
            let place = buffers.iter().rposition(|buffer| buffer.len() >= *length).unwrap();
            let mut buffer = buffers.remove(place);
            buffer.bytes_mut().fill(0xee);
            let file = file.clone();
            let (length, offset) = (*length, *offset);
            reactor.submit(index as u64, Operation::Read { file, buffer, start: 0, length, offset });
            let done = completion(&mut reactor);
            assert_eq!(done.result.unwrap() as usize, length);
            let buffer = done.payload.into_buffer().unwrap();
            assert!(buffer.bytes()[..length] == *patterned(length, index as u64).bytes(), "piece {index}");
            buffers.push(buffer);
        }
    });
}

/// The buffer of a write, once it is over.
fn shared(payload: Payload) -> IoBuffer {
    let Payload::Shared(buffer) = payload else { panic!("{payload:?}") };
    Arc::try_unwrap(buffer).expect("nobody else holds it")
}

#[test]
fn a_forgotten_file_is_closed_and_its_descriptor_serves_the_next_one() {
    on_both_backends(|mut reactor| {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..3 {
            let path = directory.path().join(format!("disk-{round}"));
            let exclusive = OpenOptions { exclusive: true, ..DIRECT };
            let file = File::open(&path, exclusive).unwrap();
            reactor.adopt(&file).unwrap();
            write(&mut reactor, &file, 1, patterned(4096, round), 0);
            completion(&mut reactor).result.unwrap();
            assert!(File::open(&path, exclusive).is_err(), "it is held");
            reactor.forget(&file).unwrap();
            // Forgotten it still works.
            read(&mut reactor, &file, 2, 4096, 0);
            let buffer = completion(&mut reactor).payload.into_buffer().unwrap();
            assert!(buffer.bytes() == patterned(4096, round).bytes());
            drop(file);
            let again = File::open(&path, exclusive).expect("nobody holds it any more");
            assert_eq!(again.size_bytes().unwrap(), 4096);
        }
    });
}

#[test]
fn ten_thousand_operations_are_in_flight_over_a_queue_of_sixty_four() {
    const COUNT: u64 = 10_000;
    on_both_backends(|mut reactor| {
        let directory = tempfile::tempdir().unwrap();
        let file = file_in(&directory, CACHED);
        for index in 0..COUNT {
            write(&mut reactor, &file, index, patterned(4096, index), index * 4096);
        }
        assert_eq!(reactor.in_flight(), COUNT as usize);
        for (index, done) in completions(&mut reactor, COUNT as usize).into_iter().enumerate() {
            assert_eq!((done.token, done.result.unwrap()), (index as u64, 4096));
        }
        for index in 0..COUNT {
            read(&mut reactor, &file, index, 4096, index * 4096);
        }
        for done in completions(&mut reactor, COUNT as usize) {
            assert_eq!(done.result.unwrap(), 4096);
            assert!(done.payload.into_buffer().unwrap().bytes() == patterned(4096, done.token).bytes());
        }
    });
}

#[test]
fn direct_io_off_its_alignment_is_refused_and_gives_its_buffer_back() {
    on_both_backends(|mut reactor| {
        let directory = tempfile::tempdir().unwrap();
        let file = file_in(&directory, DIRECT);
        if !file.is_direct() {
            return;
        }
        assert!(file.alignment_bytes() >= 512 && file.alignment_bytes() <= 4096);
        write(&mut reactor, &file, 0, patterned(8192, 1), 0);
        completion(&mut reactor).result.unwrap();
        for (start, length, offset) in [(0, 4096, 7), (0, 100, 0), (1, 4096, 0)] {
            let buffer = IoBuffer::zeroed(8192);
            reactor.submit(1, Operation::Read { file: file.clone(), buffer, start, length, offset });
            let done = completion(&mut reactor);
            assert_eq!(done.result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(done.payload.into_buffer().unwrap().len(), 8192);
        }
    });
}

#[test]
fn a_read_past_the_end_is_an_error() {
    for options in [DIRECT, CACHED] {
        on_both_backends(|mut reactor| {
            let directory = tempfile::tempdir().unwrap();
            // An end off every alignment.
            std::fs::write(directory.path().join("disk"), vec![7; 5000]).unwrap();
            let file = file_in(&directory, options);
            for (length, offset) in [(4096, 4096), (8192, 0), (4096, 1 << 30)] {
                read(&mut reactor, &file, 1, length, offset);
                let done = completion(&mut reactor);
                assert_eq!(done.result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
                assert!(matches!(done.payload, Payload::Buffer(_)));
            }
        });
    }
}

#[test]
fn a_transfer_of_nothing_completes() {
    on_both_backends(|mut reactor| {
        let directory = tempfile::tempdir().unwrap();
        let file = file_in(&directory, CACHED);
        let buffer = IoBuffer::zeroed(4096);
        reactor.submit(1, Operation::Read { file, buffer, start: 4096, length: 0, offset: 0 });
        assert_eq!(completion(&mut reactor).result.unwrap(), 0);
    });
}

#[test]
#[should_panic(expected = "of a buffer of 4096")]
fn a_range_outside_its_buffer_never_reaches_the_kernel() {
    on_both_backends(|mut reactor| {
        let directory = tempfile::tempdir().unwrap();
        let file = file_in(&directory, CACHED);
        let buffer = IoBuffer::zeroed(4096);
        reactor.submit(1, Operation::Read { file, buffer, start: 4000, length: 4096, offset: 0 });
    });
}

#[test]
fn allocation_grows_a_file_and_discard_zeroes_a_range_of_it() {
    on_both_backends(|mut reactor| {
        let directory = tempfile::tempdir().unwrap();
        let file = file_in(&directory, DIRECT);
        reactor.submit(1, Operation::Allocate { file: file.clone(), offset: 0, length: 1 << 20 });
        completion(&mut reactor).result.unwrap();
        assert_eq!(file.size_bytes().unwrap(), 1 << 20);
        write(&mut reactor, &file, 2, patterned(64 << 10, 2), 0);
        completion(&mut reactor).result.unwrap();
        reactor.submit(3, Operation::Discard { file: file.clone(), offset: 16 << 10, length: 16 << 10 });
        match completion(&mut reactor).result {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
            result => result.unwrap(),
        };
        assert_eq!(file.size_bytes().unwrap(), 1 << 20);
        read(&mut reactor, &file, 4, 64 << 10, 0);
        let found = completion(&mut reactor).payload.into_buffer().unwrap();
        let written = patterned(64 << 10, 2);
        assert!(found.bytes()[..16 << 10] == written.bytes()[..16 << 10]);
        assert!(found.bytes()[16 << 10..32 << 10].iter().all(|byte| *byte == 0));
        assert!(found.bytes()[32 << 10..] == written.bytes()[32 << 10..]);
    });
}

#[test]
fn a_full_device_tells_that_it_is_full() {
    on_both_backends(|mut reactor| {
        let full = File::open(Path::new("/dev/full"), OpenOptions::default()).unwrap();
        write(&mut reactor, &full, 1, patterned(4096, 1), 0);
        let done = completion(&mut reactor);
        assert_eq!(done.result.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(matches!(done.payload, Payload::Shared(_)));
    });
}

#[test]
fn a_write_to_a_file_opened_for_reading_and_a_sync_of_what_cannot_sync_fail() {
    on_both_backends(|mut reactor| {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("disk"), vec![7; 4096]).unwrap();
        let file = file_in(&directory, OpenOptions { read_only: true, create: false, ..CACHED });
        write(&mut reactor, &file, 1, patterned(4096, 1), 0);
        assert!(completion(&mut reactor).result.is_err());
        let null = File::open(Path::new("/dev/null"), OpenOptions::default()).unwrap();
        reactor.submit(2, Operation::DataSync { file: null });
        assert_eq!(completion(&mut reactor).result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn a_file_held_exclusively_is_refused_to_others_until_it_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let exclusive = OpenOptions { exclusive: true, ..CACHED };
    let file = file_in(&directory, exclusive);
    let again = File::open(&directory.path().join("disk"), exclusive);
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    let duplicate = file.duplicate().unwrap();
    drop(file);
    let again = File::open(&directory.path().join("disk"), exclusive);
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::ResourceBusy, "its duplicate holds it still");
    drop(duplicate);
    file_in(&directory, exclusive);
}

#[test]
fn a_file_system_without_direct_io_is_used_through_its_cache() {
    // The process file system refuses O_DIRECT.
    let options = OpenOptions { direct: true, read_only: true, ..OpenOptions::default() };
    let file = File::open(Path::new("/proc/self/stat"), options).unwrap();
    assert_eq!((file.is_direct(), file.alignment_bytes(), file.memory_alignment_bytes()), (false, 1, 1));
}
