//! Export and import against a server in memory.

mod images;
mod stand_in;

use super::*;
use api::ErrorKind;
use stand_in::StandIn;
use std::path::PathBuf;

const SIZE: usize = (1 << 20) + 512;

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    /// Writes a few pieces here and there, some of them zeroes.
    fn scribble(&mut self, bytes: &mut [u8]) {
        for _ in 0..1 + self.below(12) {
            let length = (1 + self.below(64)) * 512;
            let start = self.below((bytes.len() - length) / 512) * 512;
            let zero = self.below(3) == 0;
            for byte in &mut bytes[start..start + length] {
                *byte = if zero { 0 } else { self.below(255) as u8 + 1 };
            }
        }
    }
}

fn out(from: &StandIn, snapshot: &str, since: Option<&str>, file: &str) -> Result<ExportReport, Error> {
    let file = Some(from.folder.path().join(file));
    let (snapshot, since) = (snapshot.into(), since.map(str::to_owned));
    export(from, &Export { snapshot, since, file, nbd: from.nbd(), ca: None }, &mut Vec::new())
}

fn what(to: &StandIn, source: PathBuf, volume: &str) -> Import {
    Import {
        source: source.display().to_string(),
        format: None,
        volume: volume.into(),
        pool: None,
        region_bytes: None,
        resume: false,
        nbd: to.nbd(),
        ca: None,
    }
}

fn into(from: &StandIn, to: &StandIn, file: &str, volume: &str) -> Result<ImportReport, Error> {
    import(to, &what(to, from.folder.path().join(file), volume))
}

fn resume(from: &StandIn, to: &StandIn, file: &str, volume: &str) -> Result<ImportReport, Error> {
    import(to, &Import { resume: true, ..what(to, from.folder.path().join(file), volume) })
}

/// Two servers; the first with a volume "demo" and snapshots @0 and @1, exported to `full` and `step`.
fn pair() -> (StandIn, StandIn) {
    let (from, to, mut dice) = (StandIn::start(1), StandIn::start(2), Dice(77));
    from.make("demo", vec![0; SIZE]);
    from.change("demo", |bytes| (0..4).for_each(|_| dice.scribble(bytes)));
    from.take("demo@0");
    from.change("demo", |bytes| (0..4).for_each(|_| dice.scribble(bytes)));
    from.take("demo@1");
    out(&from, "demo@0", None, "full").unwrap();
    out(&from, "demo@1", Some("demo@0"), "step").unwrap();
    (from, to)
}

#[test]
fn a_full_stream_and_twenty_incremental_ones_rebuild_every_snapshot() {
    let (from, to, mut dice) = (StandIn::start(1), StandIn::start(2), Dice(5));
    from.make("demo", vec![0; SIZE]);
    from.change("demo", |bytes| dice.scribble(bytes));
    from.take("demo@0");
    let report = out(&from, "demo@0", None, "0").unwrap();
    assert_eq!(report.zero_bytes, 0, "a full stream does not speak of zeroes");
    into(&from, &to, "0", "copy").unwrap();
    assert_eq!(to.bytes("copy@0"), from.bytes("demo@0"));
    for step in 1..=20 {
        if step % 5 == 0 {
            let size = SIZE + dice.below(256) * 512;
            from.change("demo", |bytes| bytes.resize(size, 0));
        }
        from.change("demo", |bytes| dice.scribble(bytes));
        let (base, name, file) = (format!("{}", step - 1), format!("demo@{step}"), format!("{step}"));
        from.take(&name);
        out(&from, &name, Some(&base), &file).unwrap();
        into(&from, &to, &file, "copy").unwrap();
        assert!(to.bytes("copy") == from.bytes("demo"), "step {step}");
        assert!(to.bytes(&format!("copy@{step}")) == from.bytes(&name), "step {step}");
    }
    assert_eq!(to.names(), ["copy"]);
}

#[test]
fn a_copy_of_a_copy_takes_the_streams_of_the_first() {
    let (from, to) = pair();
    let third = StandIn::start(3);
    into(&from, &to, "full", "copy").unwrap();
    out(&to, "copy@0", None, "again").unwrap();
    into(&to, &third, "again", "copy").unwrap();
    into(&from, &third, "step", "copy").unwrap();
    assert!(third.bytes("copy@1") == from.bytes("demo@1"));
    // And back: what the first server lost is restored, and goes on from there.
    out(&third, "copy@1", Some("0"), "back").unwrap();
    into(&from, &to, "step", "copy").unwrap();
    assert!(into(&third, &to, "back", "copy").unwrap().was_there, "the same content by another way");
}

#[test]
fn an_export_that_breaks_is_gone_on_with_and_ends_in_the_same_bytes() {
    let (from, _) = pair();
    for (snapshot, since, whole) in [("demo@0", None, "full"), ("demo@1", Some("demo@0"), "step")] {
        let (mut attempts, mut resumed) = (0, 0);
        let report = loop {
            from.break_after(Some(60_000 + attempts * 20_000));
            match out(&from, snapshot, since, "again") {
                Ok(report) => break report,
                Err(error) => assert_eq!(error.kind, ErrorKind::Unavailable, "{error}"),
            }
            assert!(!from.folder.path().join("again").exists());
            attempts += 1;
            resumed =
                resumed.max(std::fs::metadata(from.folder.path().join("again.partial")).map_or(0, |file| file.len()));
        };
        from.break_after(None);
        assert!(attempts > 1 && report.resumed_bytes > 0 && resumed > 0, "{attempts} {report:?}");
        let read = |file: &str| std::fs::read(from.folder.path().join(file)).unwrap();
        assert!(read("again") == read(whole), "{snapshot}");
        std::fs::remove_file(from.folder.path().join("again")).unwrap();
    }
}

#[test]
fn a_partial_file_goes_on_behind_its_last_whole_record_whatever_became_of_its_end() {
    let (from, _) = pair();
    let path = |file: &str| from.folder.path().join(file);
    let whole = std::fs::read(path("full")).unwrap();
    for cut in [0, 5, 100, 200, whole.len() / 2, whole.len() - 1, whole.len()] {
        std::fs::write(path("again.partial"), &whole[..cut]).unwrap();
        out(&from, "demo@0", None, "again").unwrap();
        assert!(std::fs::read(path("again")).unwrap() == whole, "cut at {cut}");
        std::fs::remove_file(path("again")).unwrap();
    }
    let mut spoilt = whole.clone();
    spoilt[whole.len() / 2] ^= 1;
    std::fs::write(path("again.partial"), &spoilt).unwrap();
    out(&from, "demo@0", None, "again").unwrap();
    assert!(std::fs::read(path("again")).unwrap() == whole, "spoilt in the middle");
}

#[test]
fn files_that_are_there_are_not_written_over() {
    let (from, _) = pair();
    let refused = out(&from, "demo@0", None, "full").unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Exists);
    std::fs::copy(from.folder.path().join("step"), from.folder.path().join("other.partial")).unwrap();
    let refused = out(&from, "demo@0", None, "other").unwrap_err();
    assert!(refused.kind == ErrorKind::Exists && refused.message.contains("demo@1"), "{refused}");
    std::fs::write(from.folder.path().join("mine.partial"), vec![9; 500]).unwrap();
    assert!(out(&from, "demo@0", None, "mine").unwrap_err().message.contains("delete it"));
}

#[test]
fn a_new_volume_bears_its_name_only_when_it_is_complete() {
    let (from, to) = pair();
    let whole = std::fs::read(from.folder.path().join("full")).unwrap();
    for cut in [whole.len() / 2, whole.len() - 1] {
        std::fs::write(from.folder.path().join("cut"), &whole[..cut]).unwrap();
        let refused = if cut == whole.len() - 1 { resume } else { into }(&from, &to, "cut", "copy").unwrap_err();
        assert!(refused.kind == ErrorKind::Corrupt && refused.message.contains("--resume"), "{refused}");
        assert_eq!(to.names(), ["copy.importing"]);
        assert_eq!(to.snapshots("copy.importing"), 0);
    }
    let refused = into(&from, &to, "full", "copy").unwrap_err();
    assert!(refused.kind == ErrorKind::Exists && refused.message.contains("--resume"), "{refused}");
    resume(&from, &to, "full", "copy").unwrap();
    assert_eq!(to.names(), ["copy"]);
    assert!(to.bytes("copy@0") == from.bytes("demo@0"));
    assert_eq!(into(&from, &to, "full", "copy").unwrap_err().kind, ErrorKind::Exists);
}

#[test]
fn imports_that_break_at_any_time_are_gone_on_with() {
    let (from, to) = pair();
    let repeat = |file: &str| {
        let mut attempts = 0;
        loop {
            to.break_after(Some(attempts * 40_000));
            let outcome = if attempts == 0 { into(&from, &to, file, "copy") } else { resume(&from, &to, file, "copy") };
            to.break_after(None);
            match outcome {
                Ok(report) => break (attempts, report),
                Err(error) => assert_eq!(error.kind, ErrorKind::Unavailable, "{error}"),
            }
            attempts += 1;
        }
    };
    assert!(repeat("full").0 > 2);
    assert!(to.bytes("copy@0") == from.bytes("demo@0"));
    assert!(repeat("step").0 > 2);
    assert!(to.bytes("copy@1") == from.bytes("demo@1") && to.bytes("copy") == from.bytes("demo@1"));
    assert!(into(&from, &to, "step", "copy").unwrap().was_there, "once more does nothing");
}

#[test]
fn an_incremental_stream_is_applied_to_its_base_and_to_nothing_else() {
    let (from, to) = pair();
    assert_eq!(into(&from, &to, "step", "copy").unwrap_err().kind, ErrorKind::NotFound);
    to.make("copy", from.bytes("demo@0"));
    to.take("copy@0");
    let refused = into(&from, &to, "step", "copy").unwrap_err();
    assert!(refused.message.contains("is a copy of that one") && refused.message.contains("copy@0"), "{refused}");
    into(&from, &to, "full", "copy2").unwrap();
    to.take("copy2@1");
    let refused = into(&from, &to, "step", "copy2").unwrap_err();
    assert!(refused.kind == ErrorKind::Exists && refused.message.contains("rename or delete"), "{refused}");
}

#[test]
fn a_volume_that_was_written_to_is_left_alone_until_it_is_rolled_back() {
    let (from, to) = pair();
    into(&from, &to, "full", "copy").unwrap();
    // The first block that the stream does not speak of.
    let (old, new) = (from.bytes("demo@0"), from.bytes("demo@1"));
    let same = old.chunks(4096).zip(new.chunks(4096)).position(|(old, new)| old == new).unwrap();
    to.change("copy", |bytes| bytes[same * 4096] ^= 1);
    let before = to.bytes("copy");
    let refused = into(&from, &to, "step", "copy").unwrap_err();
    assert!(
        refused.kind == ErrorKind::NeedsForce && refused.message.contains("acre volume rollback copy@0"),
        "{refused}"
    );
    assert!(to.bytes("copy") == before, "nothing was written");
    let refused = resume(&from, &to, "step", "copy").unwrap_err();
    assert!(refused.message.contains("no doing of this stream"), "{refused}");
    assert_eq!(to.snapshots("copy"), 1);
    to.rollback("copy@0");
    into(&from, &to, "step", "copy").unwrap();
    assert!(to.bytes("copy") == new);
    to.change("copy", |bytes| bytes[0] ^= 1);
    let refused = into(&from, &to, "step", "copy").unwrap_err();
    assert!(refused.message.contains("acre volume rollback copy@1"), "{refused}");
}

#[test]
fn a_damaged_stream_makes_no_snapshot() {
    let (from, to) = pair();
    into(&from, &to, "full", "copy").unwrap();
    let whole = std::fs::read(from.folder.path().join("step")).unwrap();
    for place in [whole.len() / 2, whole.len() - 2] {
        let mut spoilt = whole.clone();
        spoilt[place] ^= 4;
        std::fs::write(from.folder.path().join("spoilt"), spoilt).unwrap();
        let refused = resume(&from, &to, "spoilt", "copy").unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Corrupt, "{refused}");
        assert_eq!(to.snapshots("copy"), 1);
    }
    resume(&from, &to, "step", "copy").unwrap();
    assert!(to.bytes("copy@1") == from.bytes("demo@1"));
}
