//! The two kinds of charts: grouped bars with the spread over the rounds, and latencies by how many stay below them.

use crate::plot::svg::{Anchor, Picture};
use crate::results::Spread;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 884.0;
const TOP: f64 = 68.0;
const BOTTOM: f64 = 322.0;
const INK: &str = "#222222";
const FAINT: &str = "#e5e7eb";
/// About how wide a letter of the legend is.
const LETTER: f64 = 7.0;

/// Bars side by side, one of each series in every group.
#[derive(Debug)]
pub(crate) struct Bars {
    pub(crate) title: String,
    /// Name and colour; the last one is labelled.
    pub(crate) series: Vec<(String, String)>,
    pub(crate) groups: Vec<Group>,
    pub(crate) logarithmic: bool,
}

/// What belongs together.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) label: String,
    /// One for each series, if it was measured.
    pub(crate) bars: Vec<Option<Spread>>,
}

impl Bars {
    /// The picture; none if nothing was measured.
    pub(crate) fn draw(&self) -> Option<String> {
        let figures: Vec<Spread> = self.groups.iter().flat_map(|group| group.bars.iter().flatten().copied()).collect();
        let largest = figures.iter().map(|spread| spread.max).max_by(f64::total_cmp)?;
        let least = figures.iter().map(|spread| spread.min).filter(|min| *min > 0.0).min_by(f64::total_cmp)?;
        let axis = if self.logarithmic { Axis::decades(least, largest) } else { Axis::linear(largest) };
        let height = |value: f64| BOTTOM - axis.share(value) * (BOTTOM - TOP);
        let mut picture = Picture::new(WIDTH, HEIGHT);
        frame(&mut picture, &self.title, &self.series);
        for mark in &axis.marks {
            picture.line((LEFT, height(*mark)), (RIGHT, height(*mark)), FAINT);
            picture.text((LEFT - 6.0, height(*mark) + 4.0), Anchor::End, 11, INK, &number(*mark));
        }
        let step = (RIGHT - LEFT) / self.groups.len() as f64;
        for (index, group) in self.groups.iter().enumerate() {
            let middle = LEFT + step * (index as f64 + 0.5);
            picture.text((middle, BOTTOM + 18.0), Anchor::Middle, 12, INK, &group.label);
            // Only those that were measured take room, so that they stand close.
            let count = group.bars.iter().flatten().count() as f64;
            let width = (step * 0.82 / self.series.len() as f64).min(34.0);
            let mut x = middle - width * count / 2.0;
            for (series, bar) in group.bars.iter().enumerate() {
                let Some(spread) = bar else { continue };
                let top = height(spread.median);
                picture.rectangle(x + 1.0, top, width - 2.0, BOTTOM - top, &self.series[series].1);
                let centre = x + width / 2.0;
                if spread.max > spread.min {
                    picture.line((centre, height(spread.min)), (centre, height(spread.max)), INK);
                }
                if series + 1 == self.series.len() {
                    let above = height(spread.max).min(top) - 5.0;
                    picture.text((centre, above), Anchor::Middle, 11, INK, &number(spread.median));
                }
                x += width;
            }
        }
        picture.line((LEFT, BOTTOM), (RIGHT, BOTTOM), INK);
        Some(picture.finish())
    }
}

/// Latencies: how many I/Os stay below which one.
#[derive(Debug)]
pub(crate) struct Curves {
    pub(crate) title: String,
    pub(crate) curves: Vec<Curve>,
}

/// One target's latencies.
#[derive(Debug)]
pub(crate) struct Curve {
    pub(crate) label: String,
    pub(crate) colour: String,
    /// A share in parts of a hundred, and the latency it stays below, in microseconds.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Where a share stands: the rarer what lies beyond, the further right, a decade as wide as the next.
fn place_of(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).log10() / 4.0
}

impl Curves {
    /// The picture; none if nothing was measured.
    pub(crate) fn draw(&self) -> Option<String> {
        let latencies = || self.curves.iter().flat_map(|curve| curve.points.iter().map(|(_, micros)| *micros));
        let axis = Axis::decades(latencies().min_by(f64::total_cmp)?, latencies().max_by(f64::total_cmp)?);
        let height = |value: f64| BOTTOM - axis.share(value) * (BOTTOM - TOP);
        let across = |percent: f64| LEFT + place_of(percent) * (RIGHT - LEFT);
        let mut picture = Picture::new(WIDTH, HEIGHT);
        let series: Vec<_> = self.curves.iter().map(|curve| (curve.label.clone(), curve.colour.clone())).collect();
        frame(&mut picture, &format!("{}, µs (logarithmic), below which so many stay", self.title), &series);
        for mark in &axis.marks {
            picture.line((LEFT, height(*mark)), (RIGHT, height(*mark)), FAINT);
            picture.text((LEFT - 6.0, height(*mark) + 4.0), Anchor::End, 11, INK, &number(*mark));
        }
        for percent in [50.0, 90.0, 99.0, 99.9, 99.99] {
            picture.line((across(percent), TOP), (across(percent), BOTTOM), FAINT);
            let anchor = if percent > 99.95 { Anchor::End } else { Anchor::Middle };
            picture.text((across(percent), BOTTOM + 18.0), anchor, 12, INK, &format!("{percent} %"));
        }
        for curve in &self.curves {
            let points: Vec<_> =
                curve.points.iter().map(|(percent, micros)| (across(*percent), height(*micros))).collect();
            picture.path(&points, &curve.colour, 2.0);
        }
        picture.line((LEFT, BOTTOM), (RIGHT, BOTTOM), INK);
        Some(picture.finish())
    }
}

/// Title and legend.
fn frame(picture: &mut Picture, title: &str, series: &[(String, String)]) {
    picture.text((LEFT, 24.0), Anchor::Start, 15, INK, title);
    let mut x = LEFT;
    for (name, colour) in series {
        picture.rectangle(x, 38.0, 11.0, 11.0, colour);
        picture.text((x + 16.0, 48.0), Anchor::Start, 12, INK, name);
        x += 16.0 + name.chars().count() as f64 * LETTER + 18.0;
    }
}

/// The vertical axis.
struct Axis {
    marks: Vec<f64>,
    logarithmic: bool,
}

impl Axis {
    /// From nothing to a round number above the largest, in four to seven steps.
    fn linear(largest: f64) -> Self {
        let rough = (largest.max(f64::MIN_POSITIVE) * 1.06) / 4.0;
        let decade = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * decade).into_iter().rfind(|step| *step <= rough);
        let step = step.unwrap_or(decade);
        let count = (largest * 1.06 / step).ceil() as u32;
        Self { marks: (0..=count).map(|mark| f64::from(mark) * step).collect(), logarithmic: false }
    }

    /// Whole decades.
    fn decades(least: f64, largest: f64) -> Self {
        let (low, high) = (least.log10().floor() as i32, largest.log10().ceil() as i32);
        Self { marks: (low..=high.max(low + 1)).map(|exponent| 10_f64.powi(exponent)).collect(), logarithmic: true }
    }

    /// Where a value stands: 0 at the bottom, 1 at the top.
    fn share(&self, value: f64) -> f64 {
        let (low, high) = (self.marks[0], self.marks[self.marks.len() - 1]);
        if self.logarithmic {
            ((value.max(low).log10() - low.log10()) / (high.log10() - low.log10())).clamp(0.0, 1.0)
        } else {
            value / high
        }
    }
}

/// A number with as many digits as say something.
fn number(value: f64) -> String {
    let decimals = if value >= 100.0 || value.fract() == 0.0 {
        0
    } else if value >= 0.1 {
        1
    } else {
        3
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: f64) -> Option<Spread> {
        Some(Spread { median: value, min: value, max: value })
    }

    fn bars(values: &[Option<Spread>]) -> Bars {
        Bars {
            title: "rates".into(),
            series: values.iter().map(|_| ("name".into(), "#123456".into())).collect(),
            groups: vec![Group { label: "group".into(), bars: values.to_vec() }],
            logarithmic: false,
        }
    }

    #[test]
    fn the_axis_ends_at_a_round_number_above_everything() {
        assert_eq!(Axis::linear(131.0).marks, [0.0, 25.0, 50.0, 75.0, 100.0, 125.0, 150.0]);
        for largest in [0.003, 1.0, 7.3, 99.0, 6400.0] {
            let axis = Axis::linear(largest);
            assert!((4..=9).contains(&axis.marks.len()), "{largest}: {:?}", axis.marks);
            assert!(axis.share(largest) <= 1.0 && axis.share(largest) > 0.7, "{largest}");
        }
        assert_eq!(Axis::decades(30.0, 4000.0).marks, [10.0, 100.0, 1000.0, 10_000.0]);
    }

    #[test]
    fn a_bar_is_drawn_for_each_figure_and_its_label_says_which() {
        let text = bars(&[one(50.0), None, one(80.0)]).draw().expect("a picture");
        // The ground, three marks of the legend, two bars.
        assert_eq!(text.matches("<rect").count(), 6);
        assert!(text.contains(">80</text>"), "{text}");
        assert!(bars(&[None, None]).draw().is_none());
    }

    #[test]
    fn rare_latencies_take_as_much_room_as_common_ones() {
        assert!((place_of(99.0) - place_of(90.0) - (place_of(99.9) - place_of(99.0))).abs() < 1e-9);
        assert!((place_of(99.99) - 1.0).abs() < 1e-9);
    }
}
