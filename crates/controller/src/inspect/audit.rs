//! The audit: every unit has exactly one owner, and every count is right.
//!
//! Owners are counted into bitmaps first; only when something is wrong are the tables read again to say whose it is.

use super::units::UnitMap;
use super::{Shape, for_each_page};
use api::{AuditFinding, AuditReport, FindingKind};
use model::{
    BranchId, DiskId, Epoch, LogicalDiskId, LogicalDiskLayout, PageIndex, UNIT_BYTES, UnitIndex, UnitRun, VolumeId,
};
use pool::{ChunkletMap, Page, UNITS_PER_PAGE};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use store::keys::Tag;
use store::records::{
    BranchRecord, DiskRecord, GrantRecord, JobRecord, Record, SessionRecord, VolumeProgress, VolumeRecord,
};
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
            Key::Job(_) => {
                if let JobRecord::Shrink { volume, .. } = JobRecord::decode(value)? {
                    self.shrinking.insert(volume);
                }
            }
            Key::Meta
            | Key::Counters
            | Key::Pool(_)
            | Key::Snapshot(_)
            | Key::Usage(..)
            | Key::Schedule(_)
            | Key::Table(..) => {}
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

    fn shape_of(&self, branch: BranchId) -> Option<Shape> {
        let record = self.branches.get(&branch)?;
        let region_size = self.volumes.get(&record.volume)?.region_size;
        Some(Shape { generation: record.generation, region_size })
    }

    fn volume_of(&self, branch: BranchId) -> Option<(VolumeId, &VolumeRecord)> {
        let id = self.branches.get(&branch)?.volume;
        Some((id, self.volumes.get(&id)?))
    }

    fn count_maps(&mut self, view: &(impl StoreView + ?Sized)) -> Result<(), StoreError> {
        let shapes: BTreeMap<BranchId, Shape> =
            self.branches.keys().filter_map(|branch| Some((*branch, self.shape_of(*branch)?))).collect();
        let shape_of = |branch: BranchId| shapes.get(&branch).copied();
        for_each_page(view, &KeyRange::tag(Tag::Table), shape_of, |branch, page, runs| match runs {
            Ok(runs) => self.count_page(branch, page, &runs),
            Err(error) => {
                self.problem(FindingKind::Unreadable, None, format!("page {} of {branch}: {error}", page.0));
            }
        })
    }

    fn count_page(&mut self, branch: BranchId, page: PageIndex, runs: &[model::EntryRun]) {
        let Some((id, record)) = self.volume_of(branch) else { return };
        let (size, name) = (record.region_size, record.name.clone());
        let regions = size.regions_in(record.size_bytes);
        let may_be_longer = record.deleting || self.shrinking.contains(&id);
        for run in runs {
            let end = page.region(run.first).0 + u64::from(run.count);
            for units in table::units_of(run, size) {
                if end > regions && !may_be_longer {
                    let message = format!("mapped by volume {name:?} beyond its end, in page {}", page.0);
                    self.problem(FindingKind::OutOfRange, Some(units), message);
                }
                if !self.is_within(units) {
                    let message = format!("mapped by volume {name:?} in page {}, beyond its logical disk", page.0);
                    self.problem(FindingKind::OutOfRange, Some(units), message);
                    continue;
                }
                self.report.mapped_units += u64::from(units.count);
                *self.counted.entry(id).or_default() += u64::from(units.count);
                for double in self.mapped.add(units) {
                    self.problem(FindingKind::Double, Some(double), format!("mapped by volume {name:?} and once more"));
                }
            }
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
        let mut owners: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for_each_page(
            view,
            &KeyRange::tag(Tag::Table),
            |branch| self.shape_of(branch),
            |branch, page, runs| {
                let Some((_, record)) = self.volume_of(branch) else { return };
                for run in runs.iter().flatten() {
                    for units in table::units_of(run, record.region_size) {
                        let touches = |wanted: UnitRun| {
                            let same = units.logical_disk == wanted.logical_disk;
                            same && units.start.0 < wanted.end() && wanted.start.0 < units.end()
                        };
                        for (index, _) in wanted.iter().filter(|(_, wanted)| touches(*wanted)) {
                            let owner = format!("{:?} page {} slot {}", record.name, page.0, run.first);
                            owners.entry(*index).or_default().push(owner);
                        }
                    }
                }
            },
        )?;
        for (index, owners) in owners {
            let message = &mut self.problems[index].message;
            message.push_str(&format!(" (mapped by {})", owners.join(", ")));
        }
        Ok(())
    }
}
