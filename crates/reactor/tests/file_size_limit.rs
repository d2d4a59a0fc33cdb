//! A file that must not grow further. Alone in its process, whose limit it lowers.

use model::IoBuffer;
use reactor::{Backend, File, OpenOptions, Operation, Reactor, ReactorConfig};
use std::sync::Arc;

const LIMIT_BYTES: u64 = 64 << 10;

#[test]
fn a_write_over_the_file_size_limit_fails_and_the_process_lives_on() {
    let directory = tempfile::tempdir().unwrap();
    let options = OpenOptions { create: true, ..OpenOptions::default() };
    let limit = libc::rlimit { rlim_cur: LIMIT_BYTES, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit is a whole rlimit, borrowed for the call.
    let lowered = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
    assert_eq!(lowered, 0);
    for (name, backend) in [("uring", Backend::Auto), ("fallback", Backend::Fallback)] {
        let file = File::open(&directory.path().join(name), options).unwrap();
        let mut reactor = Reactor::new(ReactorConfig { queue_depth: 8, backend }).unwrap();
        // The first write is cut short by the limit, and its rest fails; the second fails at once.
        for offset in [LIMIT_BYTES - 4096, LIMIT_BYTES] {
            let (file, buffer) = (file.clone(), Arc::new(IoBuffer::zeroed(8192)));
            reactor.submit(1, Operation::Write { file, buffer, start: 0, length: 8192, offset });
            let mut found = Vec::new();
            while found.is_empty() {
                reactor.wait(None, &mut found).unwrap();
            }
            let error = found.remove(0).result.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}");
        }
        assert_eq!(file.size_bytes().unwrap(), LIMIT_BYTES);
    }
}
