//! What the command line asks for.

use sim::{PlantedBug, Scenario, Settings};

pub(crate) const USAGE: &str = "\
usage: sim --seeds N [--first S]     runs N seeds from S (0) on
       sim --seeds A..B              runs the seeds from A to before B
       sim --seed S [--trace]        runs one seed, and prints its events
       sim --crash-every S [--step K]  runs one seed once for every Kth effect, killed or cut off there
       sim --planted NAME|all [--seeds N]  sees that planted bugs are found
       sim --list                    names scenarios and bugs
  each with [--scenario NAME] [--keep-going]; without a scenario every seed has its own";

/// How many seeds a run takes when it is not told.
const SEEDS: u64 = 2_000;

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    List,
    One(u64),
    Many(u64, u64),
    Planted(u64, u64),
    CrashEvery(u64),
}

/// The command line, understood.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    pub(crate) mode: Mode,
    pub(crate) scenario: Option<Scenario>,
    pub(crate) planted: Option<PlantedBug>,
    pub(crate) crash_at: Option<(u64, bool)>,
    pub(crate) printed: bool,
    pub(crate) step: u64,
    pub(crate) failures_max: usize,
}

impl Arguments {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self {
            mode: Mode::Many(0, SEEDS),
            scenario: None,
            planted: None,
            crash_at: None,
            printed: false,
            step: 1,
            failures_max: 1,
        };
        let (mut first, mut count, mut plant) = (0, None, false);
        let mut power_cut = false;
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--seeds" => {
                    let seeds = value()?;
                    if let Some((from, to)) = seeds.split_once("..") {
                        first = number(from)?;
                        count = Some(number(to)?.saturating_sub(first));
                    } else {
                        count = Some(number(&seeds)?);
                    }
                }
                "--first" => first = number(&value()?)?,
                "--seed" => parsed.mode = Mode::One(number(&value()?)?),
                "--crash-every" => parsed.mode = Mode::CrashEvery(number(&value()?)?),
                "--crash-at" => parsed.crash_at = Some((number(&value()?)?, false)),
                "--power-cut" => power_cut = true,
                "--step" => parsed.step = number(&value()?)?.max(1),
                "--scenario" => {
                    let name = value()?;
                    let unknown = || format!("no scenario is called {name:?}");
                    parsed.scenario = Some(Scenario::named(&name).ok_or_else(unknown)?);
                }
                "--planted" => {
                    plant = true;
                    let name = value()?;
                    if name != "all" {
                        let unknown = || format!("no bug is called {name:?}");
                        parsed.planted = Some(PlantedBug::named(&name).ok_or_else(unknown)?);
                    }
                }
                "--trace" => parsed.printed = true,
                "--keep-going" => parsed.failures_max = 20,
                "--list" => parsed.mode = Mode::List,
                _ => return Err(format!("{argument:?} is not understood")),
            }
        }
        parsed.crash_at = parsed.crash_at.map(|(at, _)| (at, power_cut));
        parsed.mode = match parsed.mode {
            Mode::Many(..) if plant => Mode::Planted(first, count.unwrap_or(SEEDS)),
            Mode::Many(..) => Mode::Many(first, count.unwrap_or(SEEDS)),
            other => other,
        };
        Ok(parsed)
    }

    /// The settings of one seed.
    pub(crate) fn settings(&self, seed: u64) -> Settings {
        let scenario = self.scenario.unwrap_or_else(|| Scenario::of_seed(seed));
        Settings { scenario, planted: self.planted, crash_after: self.crash_at, printed: false }
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.replace('_', "").parse().map_err(|_| format!("{text:?} is not a number"))
}
