//! What our server counts: its page in the Prometheus text format.

/// One reading of the page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Vec<(String, f64)>);

impl Metrics {
    /// Reads a page; lines that are no samples are left out.
    pub(crate) fn read(page: &str) -> Self {
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        Self(samples.filter_map(sample).collect())
    }

    /// The samples of one metric, whatever their labels, taken together.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.0.iter().filter(|(found, _)| found.split('{').next() == Some(name)).map(|(_, value)| value).sum()
    }

    /// The sample with these labels, written as they are on the page.
    pub(crate) fn labelled(&self, name: &str) -> f64 {
        self.0.iter().find(|(found, _)| found == name).map_or(0.0, |(_, value)| *value)
    }
}

/// Labels may hold spaces: the value is what follows the last one.
fn sample(line: &str) -> Option<(String, f64)> {
    let (name, value) = line.rsplit_once(' ')?;
    Some((name.to_owned(), value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_name_add_up_and_others_stay_out() {
        let page = "# TYPE acre_disk_flushes_total counter\n\
            acre_disk_flushes_total{disk=\"1\",path=\"/a b\"} 3\nacre_disk_flushes_total{disk=\"2\"} 4\n\
            acre_disk_flushes_total_of_another 100\nacre_map_commits_total 5\n\nnothing\n";
        let metrics = Metrics::read(page);
        assert_eq!(metrics.sum("acre_disk_flushes_total"), 7.0);
        assert_eq!(metrics.sum("acre_map_commits_total"), 5.0);
        assert_eq!(metrics.sum("acre_unknown"), 0.0);
        assert_eq!(metrics.labelled("acre_disk_flushes_total{disk=\"2\"}"), 4.0);
    }
}
