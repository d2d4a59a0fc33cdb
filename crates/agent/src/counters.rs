//! What an agent counts. Plain numbers of one thread; the shell reads them between steps.

/// Counters of one attached volume (or of all that were attached, summed up).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Reads asked for by hosts.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Bytes of them that were zeroes without asking a device.
    pub hole_bytes: u64,
    /// Writes asked for by hosts.
    pub writes: u64,
    /// Bytes of them.
    pub write_bytes: u64,
    /// Bytes of them that were zeroes and took no space.
    pub zero_write_bytes: u64,
    /// Trims and write-zeroes.
    pub zeroes: u64,
    /// Flushes asked for by hosts, FUA included.
    pub flushes: u64,
    /// Rounds of device flush (and commit) that served them.
    pub flush_rounds: u64,
    /// Commits sent to the controller.
    pub commits: u64,
    /// Regions mapped for the first time.
    pub regions_assigned: u64,
    /// Of them, those put right beside a neighbour.
    pub regions_adjoining: u64,
    /// Faults because a page was not loaded.
    pub faults_page: u64,
    /// Faults because no granted region was left.
    pub faults_grant: u64,
    /// Writes failed for want of space.
    pub out_of_space: u64,
    /// I/Os failed by a device or a fence.
    pub failed: u64,
    /// I/Os held back at least once (by overlap, fault or order).
    pub held: u64,
    /// Partial blocks merged with what was there.
    pub merges: u64,
    /// Regions whose layers were merged into one.
    pub regions_merged: u64,
    /// Table pages evicted for want of memory.
    pub evictions: u64,
    /// Rounds begun because changed pages stood in the way of that.
    pub early_commits: u64,
    /// Times writes were held for a snapshot.
    pub pauses: u64,
    /// How long, all told, in nanoseconds.
    pub pause_nanos: u64,
    /// The longest of them, in nanoseconds.
    pub pause_nanos_max: u64,
}

impl Counters {
    /// Adds `other` to these; of what is a maximum, the larger stays.
    pub fn add(&mut self, other: &Self) {
        let Self {
            reads,
            read_bytes,
            hole_bytes,
            writes,
            write_bytes,
            zero_write_bytes,
            zeroes,
            flushes,
            flush_rounds,
            commits,
            regions_assigned,
            regions_adjoining,
            faults_page,
            faults_grant,
            out_of_space,
            failed,
            held,
            merges,
            regions_merged,
            evictions,
            early_commits,
            pauses,
            pause_nanos,
            pause_nanos_max,
        } = other;
        self.reads += reads;
        self.read_bytes += read_bytes;
        self.hole_bytes += hole_bytes;
        self.writes += writes;
        self.write_bytes += write_bytes;
        self.zero_write_bytes += zero_write_bytes;
        self.zeroes += zeroes;
        self.flushes += flushes;
        self.flush_rounds += flush_rounds;
        self.commits += commits;
        self.regions_assigned += regions_assigned;
        self.regions_adjoining += regions_adjoining;
        self.faults_page += faults_page;
        self.faults_grant += faults_grant;
        self.out_of_space += out_of_space;
        self.failed += failed;
        self.held += held;
        self.merges += merges;
        self.regions_merged += regions_merged;
        self.evictions += evictions;
        self.early_commits += early_commits;
        self.pauses += pauses;
        self.pause_nanos += pause_nanos;
        self.pause_nanos_max = self.pause_nanos_max.max(*pause_nanos_max);
    }
}
