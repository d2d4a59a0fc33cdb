//! The goals about snapshots and clones (P6, P7 and P11), and whether a run meets them.

use serde_json::{Map, Value};

use crate::goals::Verdict;
use crate::rounds::Medians;

/// What is asked for: no less than, or no more than.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// Judges every goal for which there are figures.
pub(crate) fn judge(medians: &Medians, further: &Map<String, Value>) -> Vec<Verdict> {
    let rate = |workload: &'static str, target: &'static str| Some(medians.get(&(workload, target))?.iops);
    let own = |workload, other| Some(rate(workload, "acre")? / rate(other, "acre")?);
    let over = |workload, target, theirs| Some(rate(workload, "acre")? / rate(theirs, target)?);
    let told = |part: &str, name: &str| further.get(part)?.get(name)?.as_f64();
    let mut verdicts = Vec::new();
    let mut judged = |id, goal: &str, seen: Option<f64>, bound: Bound| {
        let Some(seen) = seen else { return };
        let (goal, met) = match bound {
            Bound::AtLeast(wanted) => (format!("{goal} ≥ {wanted}"), seen >= wanted),
            Bound::AtMost(wanted) => (format!("{goal} ≤ {wanted}"), seen <= wanted),
        };
        verdicts.push(Verdict { id, goal, seen, met });
    };
    for (depth, rewrite, first, series, clone) in [
        ("QD1", "rewrite-4k-qd1", "snap1-4k-qd1", "series-4k-qd1", "clone-4k-qd1"),
        ("QD16", "rewrite-4k-qd16", "snap1-4k-qd16", "series-4k-qd16", "clone-4k-qd16"),
    ] {
        for (when, workload) in [("1st snapshot", first), ("series", series)] {
            judged("P6", &format!("{when}, {depth}, over own rewrite"), own(workload, rewrite), Bound::AtLeast(0.6));
            let goal = format!("{when}, {depth}, over qcow2's after its own");
            judged("P6", &goal, over(workload, "qcow2", workload), Bound::AtLeast(10.0));
            let goal = format!("{when}, {depth}, over an extended_l2 overlay");
            judged("P6", &goal, over(workload, "qcow2-ext", clone), Bound::AtLeast(2.0));
        }
        judged("P7", &format!("clone, {depth}, writes over own rewrite"), own(clone, rewrite), Bound::AtLeast(0.6));
        let goal = format!("clone, {depth}, writes over an extended_l2 overlay");
        judged("P7", &goal, over(clone, "qcow2-ext", clone), Bound::AtLeast(2.0));
    }
    for (depth, origin, clone, fragmented) in [
        ("QD1", "read-origin-qd1", "read-clone-qd1", "read-fragmented-qd1"),
        ("QD16", "read-origin-qd16", "read-clone-qd16", "read-fragmented-qd16"),
    ] {
        judged(
            "P7",
            &format!("fresh clone, {depth}, reads over its origin's"),
            own(clone, origin),
            Bound::AtLeast(0.9),
        );
        let goal = format!("fragmented clone, {depth}, reads over its origin's");
        judged("P7", &goal, own(fragmented, origin), Bound::AtLeast(0.9));
    }
    let mut at_most = |goal: &str, part, name, wanted| judged("P11", goal, told(part, name), Bound::AtMost(wanted));
    at_most("longest write over a cut, median, ms", "pause", "longest_write_millis", 5.0);
    at_most("longest write over a cut, worst, ms", "pause", "longest_write_millis_max", 5.0);
    at_most("snapshot of a fully mapped volume, ms", "table", "full_create_millis", 5.0);
    at_most("the same over that of an empty volume", "table", "full_over_empty", 1.25);
    at_most("page fetch at the end of the chain over its start", "table", "chain_fetch_growth", 1.25);
    at_most("commit at the end of the chain over its start", "table", "chain_commit_growth", 1.25);
    verdicts
}
