//! The io_uring backend.

use crate::flight::{Flight, Verdict};
use crate::operation::{Completion, Operation, Payload};
use crate::registered::Registered;
use crate::slab::Slab;
use crate::{File, ReactorError, Waker};
use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe, cqueue, opcode, types};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// The reactor's own entries, which belong to no flight.
const ALARM: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;
/// Completions that the ring has room for, as a multiple of its submissions; more are kept by the kernel.
const COMPLETIONS_PER_SUBMISSION: u32 = 8;
/// How long a dropped reactor waits for what is in flight before it leaks it.
const DRAIN_STEP: Duration = Duration::from_millis(100);
const DRAIN_STEPS_MAX: u32 = 50;
/// How long a ring may take to tell of its alarm when it is made.
const TRIAL: Duration = Duration::from_secs(2);

pub(crate) struct Uring {
    /// Dropped before the flights are: with the ring gone no new submission can reach them.
    ring: IoUring,
    flights: Slab<Flight>,
    /// Entries that found no room in the ring.
    backlog: VecDeque<Entry>,
    /// What has completed and was not handed out yet.
    ready: Vec<Completion>,
    /// What a look at the ring has found; kept for its memory.
    reaped: Vec<cqueue::Entry>,
    waker: Waker,
    /// The kernel knows receives that begin by waiting.
    poll_first: bool,
    registered: Registered,
    /// Entries handed to the ring since it was last looked at whose completion comes with their handing over, and for which
    /// alone nobody wants to return from a wait. May be less than there are, never more: a wait must not be for what does
    /// not come.
    prompt: usize,
}

impl Uring {
    pub(crate) fn new(depth: u32, waker: Waker) -> Result<Self, ReactorError> {
        let (ring, poll_first) = set_up(depth).map_err(|error| ReactorError::NoUring(error.to_string()))?;
        require(&ring).map_err(ReactorError::NoUring)?;
        let mut uring = Self {
            ring,
            flights: Slab::new(),
            backlog: VecDeque::new(),
            ready: Vec::new(),
            reaped: Vec::new(),
            waker,
            poll_first,
            registered: Registered::default(),
            prompt: 0,
        };
        uring.watch_alarm();
        uring.try_out().map_err(|error| ReactorError::NoUring(error.to_string()))?;
        Ok(uring)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flights.taken() + self.ready.len()
    }

    pub(crate) fn submit(&mut self, token: u64, operation: Operation) {
        if let Some(result) = operation.result_at_once() {
            self.ready.push(Completion { token, result, payload: operation.into_payload() });
            return;
        }
        let (id, flight) = self.flights.take();
        flight.begin(token, operation);
        let prompt = flight.is_prompt();
        let entry = flight.entry(self.poll_first, &self.registered).user_data(id);
        self.push(entry);
        self.prompt += usize::from(prompt);
    }

    /// Makes a slab's memory known to the kernel.
    pub(crate) fn register(&mut self, slab: model::Slab) -> io::Result<()> {
        self.registered.add_slab(&self.ring.submitter(), slab)
    }

    /// Makes a file known to the kernel until [`Uring::forget`].
    pub(crate) fn adopt(&mut self, file: &File) -> io::Result<()> {
        self.registered.add_file(&self.ring.submitter(), file)
    }

    pub(crate) fn forget(&mut self, file: &File) -> io::Result<()> {
        self.registered.remove_file(&self.ring.submitter(), file)
    }

    pub(crate) fn cancel(&mut self, token: u64) {
        self.cancel_where(|flight| flight.token == token);
    }

    fn cancel_where(&mut self, wanted: impl Fn(&Flight) -> bool) {
        let mut cancels = Vec::new();
        for (id, flight) in self.flights.iter_mut().filter(|(_, flight)| wanted(flight)) {
            flight.cancelled = true;
            cancels.push(opcode::AsyncCancel::new(id).build().user_data(CANCEL));
        }
        for entry in cancels {
            self.push(entry);
        }
    }

    pub(crate) fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let flushed = self.flush_backlog();
        let must_look_only = !self.ready.is_empty() || !self.backlog.is_empty() || timeout == Some(Duration::ZERO);
        let may_sleep = !must_look_only && self.waker.alarm().fall_asleep();
        let entered = flushed.and_then(|()| self.enter(may_sleep, timeout));
        self.waker.alarm().wake_up();
        self.reap();
        completions.append(&mut self.ready);
        match entered {
            Err(error) if is_passing(&error) => Ok(()),
            entered => entered,
        }
    }

    /// One system call: hands over what is queued and, if it may sleep, waits for one completion beyond those that come
    /// with the handing over.
    fn enter(&mut self, may_sleep: bool, timeout: Option<Duration>) -> io::Result<()> {
        let submitter = self.ring.submitter();
        let wanted = self.prompt + 1;
        let entered = match (may_sleep, timeout) {
            (false, _) => submitter.submit(),
            (true, None) => submitter.submit_and_wait(wanted),
            (true, Some(timeout)) => {
                let timeout = types::Timespec::from(timeout);
                submitter.submit_with_args(wanted, &types::SubmitArgs::new().timespec(&timeout))
            }
        };
        entered.map(|_| ())
    }

    /// Queues an entry; hands the queue over first where it is full.
    fn push(&mut self, entry: Entry) {
        if !self.backlog.is_empty() {
            self.backlog.push_back(entry);
        } else if !self.queue(&entry) {
            // An error comes up again in the next wait, which reports it.
            let _ = self.enter(false, None);
            if !self.queue(&entry) {
                self.backlog.push_back(entry);
            }
        }
    }

    fn queue(&mut self, entry: &Entry) -> bool {
        // SAFETY: the entry points into a flight, or to nothing. A flight stays in its slot, untouched, until the
        // kernel has completed it; where that does not come to pass, the slots are leaked (see `drop`).
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Brings the backlog into the ring, all but what fits in one last submission.
    fn flush_backlog(&mut self) -> io::Result<()> {
        while let Some(entry) = self.backlog.pop_front() {
            if self.queue(&entry) {
                continue;
            }
            self.backlog.push_front(entry);
            self.enter(false, None)?;
            if self.ring.submission().is_full() {
                break;
            }
        }
        Ok(())
    }

    /// Takes in what the kernel has completed.
    fn reap(&mut self) {
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion());
        self.prompt = 0;
        for entry in reaped.drain(..) {
            match entry.user_data() {
                CANCEL => {}
                ALARM if cqueue::more(entry.flags()) => {}
                ALARM => self.watch_alarm(),
                id => self.complete(id, entry.result()),
            }
        }
        self.reaped = reaped;
    }

    fn complete(&mut self, id: u64, result: i32) {
        let flight = self.flights.get_mut(id);
        // SAFETY: the result was read from the ring once, and its id is this flight's: ids are not used again.
        let (verdict, socket) = unsafe { flight.advance(result) };
        match verdict {
            Verdict::Again => {
                let entry = flight.entry(self.poll_first, &self.registered).user_data(id);
                self.push(entry);
            }
            Verdict::Done(result) => {
                let flight = self.flights.release(id);
                let (token, held) = (flight.token, flight.end());
                let payload = socket.map_or(held, Payload::Socket);
                self.ready.push(Completion { token, result, payload });
            }
        }
    }

    /// Has the ring tell, until further notice, of each ringing of the alarm. Nobody needs to empty its counter.
    fn watch_alarm(&mut self) {
        let counter = types::Fd(self.waker.alarm().descriptor());
        self.push(opcode::PollAdd::new(counter, libc::POLLIN as u32).multi(true).build().user_data(ALARM));
    }

    /// Whether a sleeping ring is woken by its alarm: what a kernel without it, or a filter of system calls, spoils.
    fn try_out(&mut self) -> io::Result<()> {
        self.enter(false, None)?;
        self.waker.alarm().fall_asleep();
        self.waker.wake();
        let woken = self.enter(true, Some(TRIAL));
        self.waker.alarm().wake_up();
        woken?;
        let told = self.ring.completion().next();
        if told.is_some_and(|entry| entry.user_data() == ALARM && cqueue::more(entry.flags())) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::Unsupported, "a poll that reports more than once does not work"))
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.cancel_where(|_| true);
        for _ in 0..DRAIN_STEPS_MAX {
            if self.flights.taken() == 0 {
                return;
            }
            // A reactor that cannot be entered any more leaks what it has.
            let entered = self.flush_backlog().and_then(|()| self.enter(true, Some(DRAIN_STEP)));
            if entered.is_err_and(|error| !is_passing(&error)) {
                break;
            }
            self.reap();
        }
        if self.flights.taken() > 0 {
            tracing::error!(operations = self.flights.taken(), "operations do not end; their memory is leaked");
            std::mem::forget(std::mem::replace(&mut self.flights, Slab::new()));
        }
    }
}

/// Errors of io_uring_enter that say: time over, interrupted, or first take in what has completed.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

/// Makes a ring with the best set of flags that the kernel knows; tells whether it is new enough (Linux 5.19) to know
/// receives that begin by waiting.
fn set_up(depth: u32) -> io::Result<(IoUring, bool)> {
    let builder = || {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(depth * COMPLETIONS_PER_SUBMISSION);
        builder
    };
    // From Linux 6.1: what has completed is taken in all at once, when we wait.
    let mut deferred = builder();
    deferred.setup_submit_all().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    // From Linux 5.19: it is taken in when we enter the kernel anyway, not by an interrupt.
    let mut cooperative = builder();
    cooperative.setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
    for builder in [deferred, cooperative] {
        match builder.build(depth) {
            // A flag that the kernel does not know.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            ring => return ring.map(|ring| (ring, true)),
        }
    }
    builder().build(depth).map(|ring| (ring, false))
}

/// What we rely on; the error names what is missing.
fn require(ring: &IoUring) -> Result<(), String> {
    let parameters = ring.params();
    for (present, name) in [
        (parameters.is_feature_nodrop(), "completions that are never dropped"),
        (parameters.is_feature_submit_stable(), "submissions that are copied"),
        (parameters.is_feature_fast_poll(), "polling by itself"),
        (parameters.is_feature_ext_arg(), "waiting with a timeout"),
        (parameters.is_feature_rw_cur_pos(), "reading from pipes"),
    ] {
        if !present {
            return Err(format!("no {name}"));
        }
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| error.to_string())?;
    for (code, name) in [
        (opcode::Accept::CODE, "accept"),
        (opcode::Recv::CODE, "recv"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::Read::CODE, "read"),
        (opcode::Write::CODE, "write"),
        (opcode::Writev::CODE, "writev"),
        (opcode::Fsync::CODE, "fsync"),
        (opcode::Fallocate::CODE, "fallocate"),
        (opcode::AsyncCancel::CODE, "cancel"),
        (opcode::PollAdd::CODE, "poll"),
    ] {
        if !probe.is_supported(code) {
            return Err(format!("no operation {name}"));
        }
    }
    Ok(())
}
