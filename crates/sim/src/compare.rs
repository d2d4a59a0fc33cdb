//! Hosts that ask what changed since a snapshot, through its metadata context, while others write.

use crate::door::{CHANGED, CHANGED_SINCE, NOW_ZERO};
use crate::host::{self, Asked, Draw, Host, Request};
use crate::oracle::Tick;
use crate::random::Random;
use crate::stamp::SECTOR;
use crate::verdict::{Invariant, Violation};
use crate::world::World;
use nbd::Extent;
use nbd::client::{ClientConfig, Style};

impl World {
    /// Now and then somebody asks what changed since a new snapshot.
    pub(crate) fn add_comparing_host(&mut self, volume: usize, snapshot: usize) {
        let mut random = Random::new(self.plan.seed ^ (snapshot as u64) << 32 ^ 0xc0a1_5ced_0000_0005);
        if random.below(3) > 0 {
            return;
        }
        let mut host = Host::new(volume, 1, random.between(3, 12) as u32);
        host.since = Some(snapshot);
        self.hosts.push(host);
        self.nudge(self.hosts.len() - 1, random.delay(20 * self.plan.think_nanos));
    }

    /// How a host introduces itself.
    pub(crate) fn introduction(&mut self, index: usize, name: &str) -> ClientConfig {
        let snapshot = self.hosts[index].since.map(|since| &self.volumes[since]);
        let full = snapshot.filter(|snapshot| snapshot.id.is_some()).map(|snapshot| &snapshot.name);
        let Some((_, short)) = full.and_then(|full| full.split_once('@')) else {
            // (With the snapshot gone, it has nothing more to ask of its own.)
            if self.hosts[index].since.take().is_some() {
                self.hosts[index].operations_left = 0;
            }
            return host::client_config(name, &mut self.random);
        };
        let mut config = ClientConfig::new(name);
        config.style =
            if self.hosts[index].operations_left.is_multiple_of(2) { Style::Structured } else { Style::Extended };
        config.contexts = vec![format!("{CHANGED_SINCE}{short}")];
        config
    }

    pub(crate) fn draw_comparison(&mut self, index: usize, since: usize) -> Draw {
        let host = &mut self.hosts[index];
        if host.client.opened().is_none_or(|opened| opened.contexts.is_empty()) {
            // It was renamed or deleted in between.
            host.operations_left = 0;
            return Draw { asked: Asked::Flush, first: 0, count: 0, flags: 0, payload: Vec::new() };
        }
        self.next_number += 1;
        let (first, count) = host::draw_range(&mut self.random, &self.volumes[host.volume].plan.windows, 4096);
        let asked = Asked::Changed { number: self.next_number, first, since };
        Draw { asked, first, count, flags: 0, payload: Vec::new() }
    }

    /// Whether a request is about a snapshot that may be gone.
    pub(crate) fn may_lack_snapshot(&self, request: &Request) -> bool {
        let Asked::Changed { since, .. } = request.asked else { return false };
        self.volumes[since].id.is_none() || self.volumes[since].unsettled
    }

    /// What certainly changed is called changed, and nothing that holds data zero.
    pub(crate) fn judge_changed(
        &mut self,
        volume: usize,
        since: usize,
        invoked: Tick,
        first: u64,
        extents: &[Extent],
    ) -> Result<(), Violation> {
        let (volume, snapshot) = (&self.volumes[volume], &self.volumes[since]);
        if snapshot.id.is_none() || snapshot.unsettled || volume.unsettled {
            return Ok(());
        }
        self.counts.views.changed += 1;
        let told = |sector: u64, why: &str| {
            let detail = format!("{} sector {sector} {why}, asked what changed since {}", volume.name, snapshot.name);
            Err(Violation::new(Invariant::DiffMissesNothing, detail))
        };
        let mut at = first * SECTOR as u64;
        for extent in extents {
            let (from, to) = (at.div_ceil(SECTOR as u64), (at + extent.length_bytes) / SECTOR as u64);
            let count = to.saturating_sub(from);
            let missed = || snapshot.oracle.must_differ(&volume.oracle, invoked, from, count);
            if extent.flags & CHANGED == 0
                && let Some(sector) = missed()
            {
                return told(sector, "differs and is called unchanged");
            }
            if extent.flags & NOW_ZERO != 0
                && let Some(sector) = volume.oracle.must_hold_data(invoked, from, count)
            {
                return told(sector, "holds data and is called zero");
            }
            at += extent.length_bytes;
        }
        Ok(())
    }
}
