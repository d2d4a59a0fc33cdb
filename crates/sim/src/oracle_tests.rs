//! The oracle, judged by histories written out by hand.

use crate::oracle::{Ending, Oracle};
use crate::stamp::{self, SECTOR};
use crate::verdict::Invariant;
use model::VolumeId;

const VOLUME: VolumeId = VolumeId(1);

fn oracle() -> Oracle {
    Oracle::new(VOLUME, &[(0, 16)])
}

fn wrote(oracle: &mut Oracle, from: u64, to: u64, number: u32) {
    oracle.write_begins(from, number, 0, 1, false);
    oracle.write_ends(to, number, Ending::Done, false);
}

/// What a read from `from` to `to` that sees `write` (zero: zeroes) is told.
fn sees(oracle: &mut Oracle, from: u64, to: u64, write: u32) -> Result<(), Invariant> {
    let mut bytes = [0; SECTOR];
    if write > 0 {
        stamp::fill(&mut bytes, VOLUME, write, 0);
    }
    oracle.read_begins(from, 1000);
    oracle.read_ends(to, 1000, 0, Some(&bytes)).map_err(|violation| violation.invariant)
}

#[test]
fn a_read_sees_the_last_write_and_nothing_older() {
    let mut oracle = oracle();
    assert_eq!(sees(&mut oracle, 1, 2, 0), Ok(()));
    wrote(&mut oracle, 3, 4, 1);
    wrote(&mut oracle, 5, 6, 2);
    assert_eq!(sees(&mut oracle, 7, 8, 2), Ok(()));
    assert_eq!(sees(&mut oracle, 9, 10, 1), Err(Invariant::ReadsSeeTheLastWrite));
    assert_eq!(sees(&mut oracle, 11, 12, 0), Err(Invariant::ReadsSeeTheLastWrite));
}

#[test]
fn overlapping_writes_have_one_order_and_reads_do_not_change_their_mind() {
    let mut oracle = oracle();
    oracle.write_begins(1, 1, 0, 1, false);
    oracle.write_begins(2, 2, 0, 1, false);
    oracle.write_ends(3, 1, Ending::Done, false);
    oracle.write_ends(4, 2, Ending::Done, false);
    assert_eq!(sees(&mut oracle, 5, 6, 1), Ok(()));
    assert_eq!(sees(&mut oracle, 7, 8, 1), Ok(()));
    assert_eq!(sees(&mut oracle, 9, 10, 2), Err(Invariant::ReadsSeeTheLastWrite));
}

#[test]
fn a_write_in_flight_may_come_and_go_until_it_ends() {
    let mut oracle = oracle();
    oracle.write_begins(1, 1, 0, 1, false);
    assert_eq!(sees(&mut oracle, 2, 3, 1), Ok(()));
    assert_eq!(sees(&mut oracle, 4, 5, 0), Ok(()));
    oracle.write_ends(6, 1, Ending::Done, false);
    assert_eq!(sees(&mut oracle, 7, 8, 0), Err(Invariant::ReadsSeeTheLastWrite));
}

#[test]
fn a_crash_may_take_what_was_not_flushed_and_nothing_else() {
    let history = |flush: bool| {
        let mut oracle = oracle();
        wrote(&mut oracle, 1, 2, 1);
        if flush {
            oracle.flushed(3);
        }
        wrote(&mut oracle, 4, 5, 2);
        oracle.crash(6, true);
        oracle
    };
    for seen in [1, 2] {
        assert_eq!(sees(&mut history(true), 7, 8, seen), Ok(()));
    }
    assert_eq!(sees(&mut history(true), 7, 8, 0), Err(Invariant::AckedFlushIsDurable));
    assert_eq!(sees(&mut history(false), 7, 8, 0), Ok(()));
}

#[test]
fn a_flush_does_not_cover_what_was_acknowledged_after_it_was_asked_for() {
    let mut oracle = oracle();
    oracle.write_begins(1, 1, 0, 1, false);
    let flush_asked = 2;
    oracle.write_ends(3, 1, Ending::Done, false);
    oracle.flushed(flush_asked);
    oracle.crash(4, true);
    assert_eq!(sees(&mut oracle, 5, 6, 0), Ok(()));
}

#[test]
fn a_write_with_fua_needs_no_flush() {
    let mut oracle = oracle();
    oracle.write_begins(1, 1, 0, 1, false);
    oracle.write_ends(2, 1, Ending::Done, true);
    oracle.crash(3, true);
    assert_eq!(sees(&mut oracle, 4, 5, 0), Err(Invariant::AckedFlushIsDurable));
}

#[test]
fn what_a_power_cut_left_stays_and_what_a_kill_left_may_still_go() {
    for (first_power_cut, allowed) in [(true, false), (false, true)] {
        let mut oracle = oracle();
        wrote(&mut oracle, 1, 2, 1);
        oracle.crash(3, first_power_cut);
        assert_eq!(sees(&mut oracle, 4, 5, 1), Ok(()));
        oracle.crash(6, true);
        assert_eq!(sees(&mut oracle, 7, 8, 0).is_ok(), allowed, "first crash a power cut: {first_power_cut}");
    }
}

#[test]
fn foreign_bytes_are_told_from_stale_ones() {
    let mut oracle = oracle();
    wrote(&mut oracle, 1, 2, 1);
    let mut bytes = [0; SECTOR];
    stamp::fill(&mut bytes, VolumeId(2), 1, 0);
    oracle.read_begins(3, 9);
    let violation = oracle.read_ends(4, 9, 0, Some(&bytes)).unwrap_err();
    assert_eq!(violation.invariant, Invariant::NoForeignBytes);
    assert_eq!(oracle.must_hold_data(5, 0, 16), Some(0));
}

#[test]
fn a_snapshot_holds_what_was_acknowledged_before_it_was_asked_for_and_never_changes() {
    let mut volume = oracle();
    wrote(&mut volume, 1, 2, 1);
    wrote(&mut volume, 3, 4, 2);
    let asked = 5;
    wrote(&mut volume, 6, 7, 3);
    let mut snapshot = volume.snapshot(asked, 8);
    assert_eq!(sees(&mut volume.snapshot(asked, 8), 9, 10, 1), Err(Invariant::CutIsConsistent));
    wrote(&mut volume, 9, 10, 4);
    assert_eq!(sees(&mut snapshot, 11, 12, 3), Ok(()));
    snapshot.crash(13, true);
    assert_eq!(sees(&mut snapshot, 14, 15, 2), Err(Invariant::SnapshotNeverChanges));
    assert_eq!(sees(&mut snapshot, 16, 17, 4), Err(Invariant::SnapshotNeverChanges));
}

#[test]
fn a_cut_that_holds_a_write_holds_what_had_been_acknowledged_before_it_was_sent() {
    let (mut one, mut other) = (oracle(), oracle());
    let asked = 1;
    wrote(&mut one, 2, 3, 1);
    wrote(&mut other, 4, 5, 2);
    let mut snapshots = [one.snapshot(asked, 6), other.snapshot(asked, 6)];
    assert_eq!(sees(&mut snapshots[0], 7, 8, 0), Ok(()));
    assert_eq!(sees(&mut snapshots[1], 9, 10, 2), Ok(()));
    let both = snapshots[0].moment().and(snapshots[1].moment());
    assert_eq!(both.map_err(|violation| violation.invariant), Err(Invariant::CutIsConsistent));
}

#[test]
fn a_clone_begins_as_its_snapshot_is_and_settles_on_one_content() {
    let mut volume = oracle();
    wrote(&mut volume, 1, 2, 1);
    volume.write_begins(3, 2, 0, 1, false);
    let mut clone = volume.snapshot(4, 5).descendant(VolumeId(2));
    clone.crash(6, true);
    assert_eq!(sees(&mut clone, 7, 8, 2), Ok(()));
    clone.crash(9, true);
    assert!(sees(&mut clone, 10, 11, 1).is_err());
}
