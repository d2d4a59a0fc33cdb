//! The audit: every unit has exactly one owner, and every count is right.
//!
//! Owners are counted into bitmaps first; only when something is wrong are the tables read again to say whose it is.

use super::owners::{BranchAudit, Counted, Seen};
use super::units::UnitMap;
use api::{AuditFinding, AuditReport, FindingKind};
use model::{
    BranchId, DiskId, Epoch, Generation, LogicalDiskId, LogicalDiskLayout, PageIndex, UNIT_BYTES, UnitIndex, UnitRun,
    VolumeId,
};
use pool::{ChunkletMap, Page, UNITS_PER_PAGE};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use store::keys::Tag;
use store::records::{
    BranchRecord, DiskRecord, GrantRecord, JobRecord, Record, SessionRecord, SnapshotRecord, UnitCount, VolumeProgress,
    VolumeRecord,
};
use store::table::places_of;
use store::{Key, KeyRange, StoreError, StoreView, codec, table};

/// Owners are named for the first so many findings.
const NAMED_MAX: usize = 64;

/// Checks a whole store.
///
/// # Errors
/// [`StoreError::Failed`] when it cannot be read. What is read and wrong is in the report.
pub fn audit(view: &(impl StoreView + ?Sized)) -> Result<AuditReport, StoreError> {
    let mut audit = Audit { report: AuditReport { clean: true, ..AuditReport::default() }, ..Audit::default() };
    audit.load(view)?;
    audit.check_chunklets();
    audit.count_grants();
    audit.count_maps(view)?;
    audit.compare();
    audit.check_counts();
    audit.name_owners(view)?;
    let Audit { mut report, problems, .. } = audit;
    for problem in problems {
        report.add(problem);
    }
    Ok(report)
}

#[derive(Default)]
struct Audit {
    report: AuditReport,
    problems: Vec<AuditFinding>,
    disks: BTreeMap<DiskId, DiskRecord>,
    logical_disks: BTreeMap<LogicalDiskId, LogicalDiskLayout>,
    volumes: BTreeMap<VolumeId, VolumeRecord>,
    names: BTreeMap<Vec<u8>, VolumeId>,
    branches: BTreeMap<BranchId, BranchRecord>,
    progress: BTreeMap<VolumeId, VolumeProgress>,
    snapshots: BTreeMap<VolumeId, SnapshotRecord>,
    usage: BTreeMap<BranchId, BTreeMap<(Generation, Generation), u64>>,
    purges: BTreeMap<BranchId, (Generation, PageIndex)>,
    sessions: BTreeMap<Epoch, SessionRecord>,
    grants: Vec<(Epoch, UnitRun)>,
    shrinking: BTreeSet<VolumeId>,
    allocated: UnitMap,
    granted: UnitMap,
    mapped: UnitMap,
    counted: BTreeMap<VolumeId, u64>,
}

fn finding(kind: FindingKind, run: Option<UnitRun>, message: String) -> AuditFinding {
    AuditFinding {
        kind,
        logical_disk: run.map(|run| run.logical_disk.0),
        unit: run.map(|run| run.start.0),
        units: run.map_or(0, |run| run.count),
        message,
    }
}

impl Audit {
    fn problem(&mut self, kind: FindingKind, run: Option<UnitRun>, message: String) {
        self.problems.push(finding(kind, run, message));
    }

    /// Reads everything but the tables.
    fn load(&mut self, view: &(impl StoreView + ?Sized)) -> Result<(), StoreError> {
        for tag in [
            Tag::Disk,
            Tag::LogicalDisk,
            Tag::Allocation,
            Tag::Volume,
            Tag::VolumeName,
            Tag::Branch,
            Tag::VolumeProgress,
            Tag::Snapshot,
            Tag::Usage,
            Tag::Session,
            Tag::Grant,
            Tag::Job,
        ] {
            view.scan(&KeyRange::tag(tag), &mut |key, value| {
                let read = match Key::decode(key) {
                    Some(key) => self.take_in(key, value).map_err(|error| error.to_string()),
                    None => Err(format!("a key of {tag:?} cannot be read")),
                };
                if let Err(message) = read {
                    self.problem(FindingKind::Unreadable, None, message);
                }
                ControlFlow::Continue(())
            })?;
        }
        self.report.volumes = self.volumes.len() as u32;
        self.report.logical_disks = self.logical_disks.len() as u32;
        Ok(())
    }

    fn take_in(&mut self, key: Key<'_>, value: &[u8]) -> Result<(), StoreError> {
        match key {
            Key::Disk(id) => drop(self.disks.insert(id, DiskRecord::decode(value)?)),
            Key::LogicalDisk(id) => drop(self.logical_disks.insert(id, LogicalDiskLayout::decode(value)?)),
            Key::Allocation(id, index) => {
                let page = Page::decode(codec::open("an allocation page", value)?);
                let page = page.map_err(|error| StoreError::Corrupt(format!("page {index} of {id}: {error}")))?;
                self.allocated.set_page(id, index, page);
            }
            Key::Volume(id) => drop(self.volumes.insert(id, VolumeRecord::decode(value)?)),
            Key::VolumeName(name) => drop(self.names.insert(name.to_vec(), VolumeId::decode(value)?)),
            Key::Branch(id) => drop(self.branches.insert(id, BranchRecord::decode(value)?)),
            Key::VolumeProgress(id) => drop(self.progress.insert(id, VolumeProgress::decode(value)?)),
            Key::Session(epoch) => drop(self.sessions.insert(epoch, SessionRecord::decode(value)?)),
            Key::Grant(epoch, logical_disk, start) => {
                let GrantRecord { count } = GrantRecord::decode(value)?;
                self.grants.push((epoch, UnitRun { logical_disk, start, count }));
            }
            Key::Job(_) => match JobRecord::decode(value)? {
                JobRecord::Shrink { volume, .. } => drop(self.shrinking.insert(volume)),
                JobRecord::Purge { branch, view, next_page } => drop(self.purges.insert(branch, (view, next_page))),
                JobRecord::Delete { .. } | JobRecord::Flatten { .. } => {}
            },
            Key::Snapshot(id) => drop(self.snapshots.insert(id, SnapshotRecord::decode(value)?)),
            Key::Usage(branch, holder, bucket) => {
                let UnitCount(units) = UnitCount::decode(value)?;
                self.usage.entry(branch).or_default().insert((holder, bucket), units);
            }
            Key::Meta | Key::Counters | Key::Pool(_) | Key::Schedule(_) | Key::Table(..) => {}
        }
        Ok(())
    }

    fn check_chunklets(&mut self) {
        let mut maps = BTreeMap::new();
        for (id, disk) in &self.disks {
            match ChunkletMap::new(*id, disk.size_bytes, disk.chunklet_bytes) {
                Ok(map) => drop(maps.insert(*id, map)),
                Err(error) => self.problems.push(finding(FindingKind::Chunklet, None, error.to_string())),
            }
        }
        for (id, layout) in &self.logical_disks {
            for chunklet in layout.rows.iter().flatten() {
                let taken = match maps.get_mut(&chunklet.disk) {
                    Some(map) if map.chunklet_bytes() == layout.chunklet_bytes => {
                        map.take(chunklet.byte_offset).map_err(|error| format!("{id}: {error}"))
                    }
                    Some(_) => Err(format!("{id} has chunklets of another size than {}", chunklet.disk)),
                    None => Err(format!("{id} has a chunklet on {}, which does not exist", chunklet.disk)),
                };
                if let Err(message) = taken {
                    self.problems.push(finding(FindingKind::Chunklet, None, message));
                }
            }
        }
        for (name, volume) in &self.names {
            let known = self.volumes.get(volume).is_some_and(|record| record.name.as_bytes() == name.as_slice());
            if !known {
                let message = format!("the name {:?} is not {volume}'s", String::from_utf8_lossy(name));
                self.problems.push(finding(FindingKind::Unreadable, None, message));
            }
        }
    }

    fn is_within(&self, run: UnitRun) -> bool {
        let end = u64::from(run.start.0) + u64::from(run.count);
        self.logical_disks.get(&run.logical_disk).is_some_and(|layout| end <= layout.data_bytes() / UNIT_BYTES)
    }

    fn count_grants(&mut self) {
        for (epoch, run) in std::mem::take(&mut self.grants) {
            if !self.is_within(run) {
                self.problem(
                    FindingKind::OutOfRange,
                    Some(run),
                    format!("granted to {epoch}, beyond its logical disk"),
                );
                continue;
            }
            if !self.sessions.contains_key(&epoch) {
                self.problem(FindingKind::Leak, Some(run), format!("granted to {epoch}, which does not exist"));
            }
            self.report.granted_units += u64::from(run.count);
            for double in self.granted.add(run) {
                self.problem(FindingKind::Double, Some(double), format!("granted to {epoch} and to another session"));
            }
        }
    }

    /// Counts, branch by branch, what its views hold. A clone comes after what it is a clone of.
    fn count_maps(&mut self, view: &(impl StoreView + ?Sized)) -> Result<(), StoreError> {
        let mut counted: BTreeMap<BranchId, Counted> = BTreeMap::new();
        let ids: Vec<BranchId> = self.branches.keys().copied().collect();
        for id in ids {
            let record = self.branches[&id].clone();
            let Some(volume) = self.volumes.get(&record.volume) else {
                self.problem(FindingKind::Unreadable, None, format!("{id} is no volume's"));
                continue;
            };
            let (name, size) = (volume.name.clone(), volume.region_size);
            let is_live = volume.branch == id && !volume.deleting && !self.shrinking.contains(&record.volume);
            let regions = is_live.then(|| size.regions_in(volume.size_bytes));
            let inherited = record
                .origin
                .map_or(0, |(origin, at)| counted.get(&origin).map_or(0, |counted| counted.referenced(at)));
            let of_branch = self.snapshots.values().filter(|snapshot| snapshot.branch == id);
            let snapshots = of_branch.map(|snapshot| snapshot.generation).collect();
            let purge = self.purges.get(&id).copied();
            let branch = BranchAudit::new(view, id, &record, size, snapshots, purge)?;
            let found = branch.count(view, regions, &mut |seen| match seen {
                Seen::Own(run) => self.count_place(record.volume, &name, run),
                Seen::Wrong(kind, run, what) => self.problem(kind, run, format!("volume {name:?}: {what}")),
            })?;
            let found = branch.finish(found, inherited);
            let stored = branch.normal(&self.usage.get(&id).cloned().unwrap_or_default());
            if stored != branch.normal(&found.usage) {
                let message = format!(
                    "volume {name:?}: the views of {id} hold {:?}, and the records say {stored:?} (holder, bucket: units)",
                    branch.normal(&found.usage)
                );
                self.problem(FindingKind::Count, None, message);
            }
            counted.insert(id, found);
        }
        self.find_strays(view)
    }

    /// Tables of branches that do not exist.
    fn find_strays(&mut self, view: &(impl StoreView + ?Sized)) -> Result<(), StoreError> {
        let mut strays = BTreeSet::new();
        view.scan(&KeyRange::tag(Tag::Table), &mut |key, _| {
            match Key::decode(key) {
                Some(Key::Table(branch, ..)) if self.branches.contains_key(&branch) => {}
                Some(Key::Table(branch, ..)) => drop(strays.insert(Some(branch))),
                _ => drop(strays.insert(None)),
            }
            ControlFlow::Continue(())
        })?;
        for stray in strays {
            let what = stray.map_or("a key of a table cannot be read".into(), |id| format!("{id} is no volume's"));
            self.problem(FindingKind::Unreadable, None, what);
        }
        Ok(())
    }

    fn count_place(&mut self, id: VolumeId, name: &str, units: UnitRun) {
        if !self.is_within(units) {
            let message = format!("mapped by volume {name:?}, beyond its logical disk");
            return self.problem(FindingKind::OutOfRange, Some(units), message);
        }
        self.report.mapped_units += u64::from(units.count);
        *self.counted.entry(id).or_default() += u64::from(units.count);
        for double in self.mapped.add(units) {
            self.problem(FindingKind::Double, Some(double), format!("mapped by volume {name:?} and once more"));
        }
    }

    /// Compares, unit by unit, what is allocated with who owns it.
    fn compare(&mut self) {
        let disks: Vec<_> = self.logical_disks.iter().map(|(id, layout)| (*id, layout.data_units())).collect();
        for (id, units) in disks {
            for index in 0..units.div_ceil(UNITS_PER_PAGE) {
                self.compare_page(id, index, (units - index * UNITS_PER_PAGE).min(UNITS_PER_PAGE));
            }
        }
    }

    fn compare_page(&mut self, id: LogicalDiskId, index: u32, limit: u32) {
        let mut problems = Vec::new();
        let pages = [&self.allocated, &self.granted, &self.mapped].map(|map| map.page(id, index));
        let mut at = 0;
        while at < limit {
            let [allocated, granted, mapped] = pages.map(|page| page.is_set(at));
            let end = pages.iter().map(|page| page.run_end(at, limit)).min().expect("there are three");
            let run = UnitRun { logical_disk: id, start: UnitIndex(index * UNITS_PER_PAGE + at), count: end - at };
            let mut add = |kind, message: &str| problems.push(finding(kind, Some(run), message.to_owned()));
            match (allocated, granted, mapped) {
                (true, false, false) => add(FindingKind::Leak, "allocated, and nobody's"),
                (false, _, true) => add(FindingKind::MappedButFree, "mapped, and marked as free"),
                (false, true, false) => add(FindingKind::Double, "granted, and marked as free"),
                (true, true, true) => add(FindingKind::MappedButGranted, "mapped, and still in a grant"),
                (false, false, false) => self.report.free_units += u64::from(run.count),
                (true, true, false) | (true, false, true) => {}
            }
            at = end;
        }
        self.problems.append(&mut problems);
    }

    fn check_counts(&mut self) {
        for (id, record) in &self.volumes {
            let stored = self.progress.get(id).map_or(0, |progress| progress.mapped_units);
            let counted = self.counted.get(id).copied().unwrap_or(0);
            if stored != counted {
                let message = format!("volume {:?} maps {counted} units, and its record says {stored}", record.name);
                self.problems.push(finding(FindingKind::Count, None, message));
            }
        }
    }

    /// Says whose the units of the first findings are.
    fn name_owners(&mut self, view: &(impl StoreView + ?Sized)) -> Result<(), StoreError> {
        let wanted: Vec<(usize, UnitRun)> = (self.problems.iter().enumerate())
            .filter(|(_, problem)| {
                let kinds = [FindingKind::Double, FindingKind::MappedButFree, FindingKind::MappedButGranted];
                kinds.contains(&problem.kind)
            })
            .filter_map(|(index, problem)| {
                let (disk, unit) = (LogicalDiskId(problem.logical_disk?), UnitIndex(problem.unit?));
                Some((index, UnitRun { logical_disk: disk, start: unit, count: problem.units }))
            })
            .take(NAMED_MAX)
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut owners: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        view.scan(&KeyRange::tag(Tag::Table), &mut |key, value| {
            let Some(Key::Table(branch, page, ..)) = Key::decode(key) else { return ControlFlow::Continue(()) };
            let record = self.branches.get(&branch).and_then(|branch| self.volumes.get(&branch.volume));
            let (Some(record), Ok((_, runs))) = (record, table::decode(value)) else {
                return ControlFlow::Continue(());
            };
            for (slot, (_, units)) in
                runs.iter().flat_map(|run| places_of(run, record.region_size).map(|place| (run.first, place)))
            {
                let touches = |wanted: UnitRun| {
                    let same = units.logical_disk == wanted.logical_disk;
                    same && units.start.0 < wanted.end() && wanted.start.0 < units.end()
                };
                for (index, _) in wanted.iter().filter(|(_, wanted)| touches(*wanted)) {
                    let owner = format!("{:?} page {} slot {slot}", record.name, page.0);
                    owners.entry(*index).or_default().insert(owner);
                }
            }
            ControlFlow::Continue(())
        })?;
        for (index, owners) in owners {
            let message = &mut self.problems[index].message;
            let owners: Vec<String> = owners.into_iter().collect();
            message.push_str(&format!(" (mapped by {})", owners.join(", ")));
        }
        Ok(())
    }
}
