//! What was measured: every run of every round, what the parts tell besides, and medians with their spread.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fio::Figures;

/// One run of one workload on one target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Its round, from 1.
    pub(crate) round: u32,
    pub(crate) workload: String,
    pub(crate) target: String,
    pub(crate) figures: Figures,
}

/// Something that could not be measured, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Missing {
    pub(crate) name: String,
    pub(crate) why: String,
}

/// The median of some figures, the least and the largest of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of figures in any order; none if there are none, or one is not finite.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        let spread = Spread { median: f64::midpoint(low, high), min, max };
        (min.is_finite() && max.is_finite()).then_some(spread)
    }
}

/// A run's results.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Every run of every round, in order.
    pub(crate) runs: Vec<Run>,
    /// What each part tells besides, by its name.
    #[serde(default)]
    pub(crate) parts: Map<String, Value>,
    /// What could not be measured.
    #[serde(default)]
    pub(crate) missing: Vec<Missing>,
}

impl Results {
    /// Notes one run.
    pub(crate) fn push(&mut self, round: u32, workload: &str, target: &str, figures: Figures) {
        self.runs.push(Run { round, workload: workload.into(), target: target.into(), figures });
    }

    /// Notes what could not be measured.
    pub(crate) fn lacks(&mut self, name: &str, error: &anyhow::Error) {
        println!("{name} FAILED {error:#}");
        self.missing.push(Missing { name: name.into(), why: format!("{error:#}") });
    }

    /// The rounds there are, in order.
    pub(crate) fn rounds(&self) -> Vec<u32> {
        let mut rounds: Vec<u32> = self.runs.iter().map(|run| run.round).collect();
        rounds.sort_unstable();
        rounds.dedup();
        rounds
    }

    /// One workload on one target, round by round.
    fn of(&self, workload: &str, target: &str) -> Vec<&Run> {
        self.runs.iter().filter(|run| run.workload == workload && run.target == target).collect()
    }

    /// The figures of one round.
    pub(crate) fn round(&self, round: u32, workload: &str, target: &str) -> Option<&Figures> {
        self.of(workload, target).into_iter().find(|run| run.round == round).map(|run| &run.figures)
    }

    /// One figure of one workload on one target over all rounds.
    pub(crate) fn spread(&self, workload: &str, target: &str, figure: impl Fn(&Figures) -> f64) -> Option<Spread> {
        Spread::of(self.of(workload, target).into_iter().map(|run| figure(&run.figures)))
    }

    /// The round whose rate is the median, so that figures that belong together stay together.
    pub(crate) fn median(&self, workload: &str, target: &str) -> Option<&Figures> {
        let mut all: Vec<&Figures> = self.of(workload, target).into_iter().map(|run| &run.figures).collect();
        all.sort_by(|left, right| left.iops.total_cmp(&right.iops));
        all.get(all.len() / 2).copied()
    }

    /// The workloads there are, in the order in which they were first run.
    pub(crate) fn workloads(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for run in &self.runs {
            if !names.contains(&run.workload.as_str()) {
                names.push(&run.workload);
            }
        }
        names
    }

    /// What a part tells at this place (a JSON pointer): a number, or one for each round.
    pub(crate) fn told(&self, pointer: &str) -> Option<Spread> {
        let (part, rest) = pointer.trim_start_matches('/').split_once('/')?;
        match self.parts.get(part)?.pointer(&format!("/{rest}"))? {
            Value::Array(all) => Spread::of(all.iter().filter_map(Value::as_f64)),
            one => Spread::of(one.as_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_spread_is_the_middle_and_both_ends() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([1.0, f64::NAN]), None);
    }

    fn results() -> Results {
        let mut results = Results::default();
        for (round, iops) in [(1, 100.0), (2, 300.0), (3, 200.0)] {
            results.push(round, "read", "acre", Figures { iops, p50_micros: iops / 2.0, ..Figures::default() });
        }
        results.parts.insert("idle".into(), json!({"percent": [0.1, 0.3, 0.2], "volumes": 100, "deep": {"er": 7}}));
        results
    }

    #[test]
    fn figures_of_the_median_round_stay_together() {
        let results = results();
        let median = results.median("read", "acre").expect("there are rounds");
        assert_eq!((median.iops, median.p50_micros), (200.0, 100.0));
        assert_eq!(results.spread("read", "acre", |figures| figures.iops).map(|spread| spread.max), Some(300.0));
        assert!(results.median("read", "disk").is_none());
        assert_eq!((results.rounds(), results.workloads()), (vec![1, 2, 3], vec!["read"]));
    }

    #[test]
    fn parts_tell_numbers_and_numbers_for_each_round() {
        let results = results();
        assert_eq!(results.told("/idle/volumes").map(|spread| spread.median), Some(100.0));
        assert_eq!(results.told("/idle/deep/er").map(|spread| spread.median), Some(7.0));
        assert_eq!(results.told("/idle/percent"), Some(Spread { median: 0.2, min: 0.1, max: 0.3 }));
        assert_eq!(results.told("/idle/nothing"), None);
    }

    #[test]
    fn results_come_back_from_their_json_as_they_were() {
        let results = results();
        let text = serde_json::to_string(&results).expect("JSON");
        let back: Results = serde_json::from_str(&text).expect("the same again");
        assert_eq!(serde_json::to_string(&back).expect("JSON"), text);
    }
}
