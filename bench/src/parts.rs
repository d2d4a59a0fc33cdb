//! The parts of the bench that are more than one workload on one volume.

mod barriers;
mod fairness;
mod idle;
mod reactors;
mod span;

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::plan::Plan;
use crate::results::Results;
use crate::{map, snapshots};

/// One part.
#[derive(Debug)]
pub(crate) struct Part {
    /// Its name on the command line and in the results file.
    pub(crate) name: &'static str,
    /// What it measures.
    pub(crate) what: &'static str,
    /// Measures, in a folder of its own; adds runs to the results and gives what it tells besides (nothing: null).
    pub(crate) run: fn(&Plan, &Path, &mut Results) -> Result<Value>,
}

/// Every part, in the order in which they are run.
pub(crate) const PARTS: &[Part] = &[
    Part { name: "barriers", what: "device flushes and commits for each flush (P8)", run: barriers::run },
    Part { name: "fairness", what: "one quiet reader beside busy connections", run: fairness::run },
    Part { name: "reactors", what: "two busy volumes on one thread and on two (P12)", run: reactors::run },
    Part { name: "idle", what: "what a server costs that nobody asks anything (P13)", run: idle::run },
    Part {
        name: "span",
        what: "reads all over a mapped TiB, memory, start after kill -9 (P9, P10, P14)",
        run: span::run,
    },
    Part { name: "copies", what: "writes and reads after snapshots and in clones (P6, P7)", run: snapshots::copies },
    Part { name: "pause", what: "how long writes stand still for a snapshot (P11)", run: snapshots::pause },
    Part { name: "table", what: "snapshots of a large volume, and chains of them (P11)", run: snapshots::table },
    Part { name: "fill", what: "what the map takes, and look-ups in it (P9, P10)", run: map::fill },
    Part { name: "start", what: "the engines' start with much mapped (P14)", run: map::start },
];
