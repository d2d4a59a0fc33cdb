//! Logical disks on demand: planned, prepared at the node, recorded, and announced to agents (D9, D10).

use crate::engine::{After, Command, Controller};
use crate::state::{DiskCondition, Growth, GrowthFailure};
use model::{DiskId, IoError, LogicalDiskId, LogicalDiskLayout, PoolId, UNIT_BYTES};
use pool::{default_growth_bytes, plan};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use store::Key;
use store::records::Record;
use wire::{AgentId, CommandId, ControllerMessage, NodeCommand, NodeOrder};

/// How long a pool that could not grow waits before it is tried again.
const GROWTH_RETRY: Duration = Duration::from_secs(10);

impl Controller {
    /// What a pool's disks hold, at its RAID level, in bytes.
    pub(crate) fn pool_capacity_bytes(&self, pool_id: PoolId) -> u64 {
        self.disks_of(pool_id).map(|(_, disk)| disk.capacity_bytes()).sum()
    }

    /// By how much a pool grows at a time, in bytes.
    pub(crate) fn growth_bytes(&self, pool_id: PoolId) -> u64 {
        let own = self.pools.get(&pool_id).and_then(|pool| pool.record.growth_bytes);
        own.unwrap_or_else(|| default_growth_bytes(self.pool_capacity_bytes(pool_id)))
    }

    pub(crate) fn disks_of(&self, pool_id: PoolId) -> impl Iterator<Item = (&DiskId, &crate::state::Disk)> {
        self.disks.iter().filter(move |(_, disk)| disk.record.pool == pool_id)
    }

    pub(crate) fn disks_are_opening(&self, pool_id: PoolId) -> bool {
        self.disks_of(pool_id).any(|(_, disk)| matches!(disk.condition, DiskCondition::Opening))
    }

    /// Whether a disk of the pool has a free chunklet.
    pub(crate) fn can_grow(&self, pool_id: PoolId) -> bool {
        self.disks_of(pool_id).any(|(_, disk)| disk.is_online() && disk.chunklets.free() > 0)
    }

    /// How many units the pool could still make logical disks of.
    pub(crate) fn growable_units(&self, pool_id: PoolId) -> u64 {
        let free = |disk: &crate::state::Disk| u64::from(disk.chunklets.free()) * disk.chunklets.chunklet_bytes();
        self.disks_of(pool_id).filter(|(_, disk)| disk.is_online()).map(|(_, disk)| free(disk)).sum::<u64>()
            / UNIT_BYTES
    }

    /// Begins to grow the pool, unless it is growing; whether more space is on its way.
    pub(crate) fn grow(&mut self, pool_id: PoolId) -> bool {
        match self.pools.get(&pool_id).map(|pool| &pool.growth) {
            Some(Growth::Idle) => self.grow_by(pool_id, self.growth_bytes(pool_id), BTreeSet::new()),
            Some(Growth::Preparing { .. } | Growth::Recording) => true,
            Some(Growth::Blocked { .. }) | None => false,
        }
    }

    /// Begins to grow before the last free unit is given out, so that streams do not wait.
    pub(crate) fn grow_ahead(&mut self, pool_id: PoolId) {
        let Some(pool) = self.pools.get(&pool_id) else { return };
        let idle = matches!(pool.growth, Growth::Idle) && !pool.logical_disks.is_empty();
        if idle && pool.allocator.free_units() * UNIT_BYTES < self.growth_bytes(pool_id) / 4 && !self.metadata_is_low()
        {
            self.grow(pool_id);
        }
    }

    fn grow_by(&mut self, pool_id: PoolId, growth_bytes: u64, avoided: BTreeSet<DiskId>) -> bool {
        let online = self.disks_of(pool_id).filter(|(id, disk)| disk.is_online() && !avoided.contains(id));
        let maps: Vec<_> = online.map(|(_, disk)| &disk.chunklets).collect();
        let id = self.counters.logical_disk.next();
        let raid = self.pools[&pool_id].record.raid;
        let Some(layout) = plan(id, pool_id, raid, growth_bytes, &maps) else { return false };
        self.counters.logical_disk = id;
        self.counters_changed = true;
        for chunklet in layout.rows.iter().flatten() {
            let disk = self.disks.get_mut(&chunklet.disk).expect("a plan names disks it was given");
            disk.chunklets.take(chunklet.byte_offset).expect("a plan names free chunklets");
        }
        let commands = self.prepare(pool_id, &layout);
        let pool = self.pools.get_mut(&pool_id).expect("the caller found it");
        pool.growth = Growth::Preparing { layout, commands, failed: None, avoided };
        if self.config.nodes.is_empty() {
            self.preparations_done(pool_id);
        }
        true
    }

    /// Has the space of a layout's chunklets made sure of. One shard does it for all: they have the same disks.
    fn prepare(&mut self, pool_id: PoolId, layout: &LogicalDiskLayout) -> BTreeSet<CommandId> {
        let mut ranges: BTreeMap<DiskId, Vec<(u64, u64)>> = BTreeMap::new();
        for chunklet in layout.rows.iter().flatten() {
            let of_disk = ranges.entry(chunklet.disk).or_default();
            match of_disk.last_mut() {
                Some((start, length)) if *start + *length == chunklet.byte_offset => *length += layout.chunklet_bytes,
                _ => of_disk.push((chunklet.byte_offset, layout.chunklet_bytes)),
            }
        }
        let Some(node) = self.config.nodes.first().copied() else { return BTreeSet::new() };
        let mut commands = BTreeSet::new();
        for (disk, ranges) in ranges {
            let id = self.next_command();
            commands.insert(id);
            self.commands.insert(id, Command::Prepare { pool: pool_id, disk });
            let order = NodeOrder::Prepare { disk, ranges };
            let command = NodeCommand { command: id, term: self.counters.term, order };
            self.effects.push(crate::event::Effect::ToNode(node, command));
        }
        commands
    }

    /// One disk's chunklets are prepared, or not.
    pub(crate) fn prepared(&mut self, pool_id: PoolId, disk: DiskId, id: CommandId, result: Result<(), IoError>) {
        let Some(pool) = self.pools.get_mut(&pool_id) else { return };
        let Growth::Preparing { commands, failed, .. } = &mut pool.growth else { return };
        commands.remove(&id);
        let done = commands.is_empty();
        match result {
            Ok(()) => {}
            Err(IoError::OutOfSpace) => *failed = failed.or(Some(GrowthFailure::OutOfSpace(disk))),
            Err(_) => *failed = Some(GrowthFailure::Device),
        }
        if result.is_err_and(|error| error == IoError::Device) {
            self.disk_failed(disk);
        }
        if done {
            self.preparations_done(pool_id);
        }
    }

    fn preparations_done(&mut self, pool_id: PoolId) {
        let Some(pool) = self.pools.get_mut(&pool_id) else { return };
        let Growth::Preparing { layout, failed, avoided, .. } = std::mem::replace(&mut pool.growth, Growth::Recording)
        else {
            return;
        };
        match failed {
            None => self.record_logical_disk(pool_id, layout),
            Some(failure) => self.growth_failed(pool_id, &layout, failure, avoided),
        }
    }

    fn record_logical_disk(&mut self, pool_id: PoolId, layout: LogicalDiskLayout) {
        let id = layout.id;
        self.batch.put(Key::LogicalDisk(id), layout.encode());
        let pool = self.pools.get_mut(&pool_id).expect("the caller found it");
        pool.logical_disks.insert(id, Arc::new(layout));
        self.after.push(After::Grown(pool_id, id));
    }

    /// Tries with less, or without the disk that refused; or gives up for a while.
    fn growth_failed(
        &mut self,
        pool_id: PoolId,
        layout: &LogicalDiskLayout,
        failure: GrowthFailure,
        mut avoided: BTreeSet<DiskId>,
    ) {
        for chunklet in layout.rows.iter().flatten() {
            if let Some(disk) = self.disks.get_mut(&chunklet.disk) {
                disk.chunklets.give_back(chunklet.byte_offset).expect("it was taken for this");
            }
        }
        let growth_bytes = match failure {
            GrowthFailure::OutOfSpace(_) if layout.rows.len() > 1 => layout.data_bytes() / 2,
            GrowthFailure::OutOfSpace(disk) => {
                avoided.insert(disk);
                self.growth_bytes(pool_id)
            }
            GrowthFailure::Device => layout.data_bytes(),
        };
        if self.grow_by(pool_id, growth_bytes, avoided) {
            return;
        }
        let until = self.now + GROWTH_RETRY;
        self.wake_at(until);
        let pool = self.pools.get_mut(&pool_id).expect("the caller found it");
        pool.growth = Growth::Blocked { until };
        self.serve_waiting(pool_id);
    }

    /// A new logical disk is durable: agents hear of it, and whoever waited for space goes on.
    pub(crate) fn grown(&mut self, pool_id: PoolId, id: LogicalDiskId) {
        let Some(pool) = self.pools.get_mut(&pool_id) else { return };
        pool.growth = Growth::Idle;
        let Some(layout) = pool.logical_disks.get(&id).cloned() else { return };
        pool.allocator.add_disk(id, layout.data_units());
        let agents: BTreeSet<AgentId> =
            self.sessions.values().filter(|session| session.pool == pool_id).map(|session| session.agent).collect();
        for agent in agents {
            self.to_agent(agent, ControllerMessage::LogicalDisk { layout: Arc::clone(&layout) });
        }
        self.touched_pools.insert(pool_id);
        self.serve_waiting(pool_id);
    }
}
