//! Periods and rules as people write them: `15m`, `7d`, `7d:hourly`.

use api::KeepRule;
use std::fmt;
use std::str::FromStr;

/// Units, the largest first, by their seconds.
const UNITS: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
/// Words for how many of the snapshots of a time are kept, by the seconds of which one is.
const WORDS: [(&str, u64); 5] =
    [("all", 0), ("hourly", 3600), ("daily", 86_400), ("weekly", 604_800), ("monthly", 30 * 86_400)];

/// A length of time in seconds that reads and prints as a number and a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Period(pub u64);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown: String = text.chars().take(64).collect();
            format!("{shown:?} is no length of time; write a number and a unit, such as 30s, 15m, 24h, 7d or 2w")
        };
        let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit)).ok_or_else(wrong)?;
        let number = &text[..text.len() - unit.len()];
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(*factor).filter(|seconds| *seconds > 0).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS.iter().find(|(_, factor)| self.0.is_multiple_of(*factor)).unwrap_or(&("s", 1));
        // Two weeks are written in days, like all that is not a whole number of weeks: easier to compare.
        let (unit, factor) = if *unit == "w" { ("d", 86_400) } else { (*unit, *factor) };
        f.pad(&format!("{}{unit}", self.0 / factor))
    }
}

/// A rule, as `WITHIN:EACH`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule(pub KeepRule);

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(64).collect();
        let (within, each) = text.split_once(':').ok_or_else(|| {
            format!("{shown:?} is no rule; write for how long and how many, such as 24h:all, 7d:hourly or 90d:6h")
        })?;
        let Period(within_seconds) = within.parse()?;
        let word = WORDS.iter().find(|(word, _)| *word == each).map(|(_, seconds)| *seconds);
        let each_seconds = match word {
            Some(seconds) => seconds,
            None => each.parse::<Period>().map(|period| period.0).map_err(|_| {
                format!("{shown:?} does not say how many: all, hourly, daily, weekly, monthly or one each 6h")
            })?,
        };
        Ok(Self(KeepRule { within_seconds, each_seconds }))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = Period(self.0.within_seconds);
        match WORDS.iter().find(|(_, seconds)| *seconds == self.0.each_seconds) {
            Some((word, _)) => write!(f, "{within}:{word}"),
            None => write!(f, "{within}:{}", Period(self.0.each_seconds)),
        }
    }
}

/// Rules as they are given: `24h:all,7d:hourly`.
#[must_use]
pub fn rules(keep: &[KeepRule]) -> String {
    let rules: Vec<String> = keep.iter().map(|rule| Rule(*rule).to_string()).collect();
    rules.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_read_as_people_write_them_and_print_so_too() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("24h", 86_400), ("7d", 604_800), ("2w", 1_209_600)] {
            assert_eq!(text.parse(), Ok(Period(seconds)), "{text}");
        }
        for (seconds, text) in [(90, "90s"), (900, "15m"), (86_400, "1d"), (1_209_600, "14d"), (5400, "90m")] {
            assert_eq!(Period(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(Period(seconds)));
        }
        for wrong in ["", "m", "15", "15 m", "-1m", "+1m", "1.5h", "0s", "15M", "99999999999999999999s", "ü", "1ü"] {
            assert!(wrong.parse::<Period>().unwrap_err().contains("15m"), "{wrong}");
        }
        assert!("9999999999999999999w".parse::<Period>().is_err());
    }

    #[test]
    fn rules_read_as_people_write_them_and_print_so_too() {
        for (text, within_seconds, each_seconds) in
            [("1d:all", 86_400, 0), ("7d:hourly", 604_800, 3600), ("90d:6h", 90 * 86_400, 21_600)]
        {
            let rule = Rule(KeepRule { within_seconds, each_seconds });
            assert_eq!(text.parse(), Ok(rule));
            assert_eq!(rule.to_string(), text);
        }
        for wrong in ["", "7d", "hourly", "7d:", ":all", "7d:often", "7d:all:all", "x:all"] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
        let keep = ["24h:all", "365d:monthly"].map(|text| text.parse::<Rule>().unwrap().0);
        assert_eq!(rules(&keep), "1d:all,365d:monthly");
    }
}
