//! One seed, from its plan to its verdict.

use crate::plan::Plan;
use crate::planted::PlantedBug;
use crate::scenario::Scenario;
use crate::verdict::{Invariant, Violation};
use crate::world::{Counts, World};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What to run, besides the seed.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What the run is about.
    pub scenario: Scenario,
    /// A bug to be found.
    pub planted: Option<PlantedBug>,
    /// The first crash comes after this effect, instead of where the plan has it; with a power cut, or not.
    pub crash_after: Option<(u64, bool)>,
    /// Print every event to standard error.
    pub printed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { scenario: Scenario::Any, planted: None, crash_after: None, printed: false }
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// The trace, as one number.
    pub trace_hash: u64,
    /// What the run did.
    pub counts: Counts,
}

/// Runs one seed.
#[must_use]
pub fn run_seed(seed: u64, settings: Settings) -> Outcome {
    let mut plan = Plan::draw(seed, settings.scenario);
    plan.planted = settings.planted;
    if let Some((after_effects, power_cut)) = settings.crash_after {
        plan.strikes = 0;
        plan.crashes = vec![crate::plan::CrashPlan { after_effects, power_cut }];
    }
    let mut world = World::new(plan, settings.printed);
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run())).err();
    if let Some(panic) = panicked {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let words = words.unwrap_or_else(|| "a panic without words".to_owned());
        // Assertions of the engines bear the names of the invariants they guard.
        let invariant = Invariant::ALL.into_iter().find(|invariant| words.contains(invariant.name()));
        world.fail(Violation::new(invariant.unwrap_or(Invariant::NoPanic), words));
    }
    Outcome { violation: world.verdict.take(), trace_hash: world.trace.hash(), counts: world.counts }
}
