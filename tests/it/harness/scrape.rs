//! Prometheus' text format, as far as a test needs it.

use std::collections::BTreeMap;

/// Samples of one scrape.
#[derive(Debug)]
pub(crate) struct Metrics(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// The sum over all series of this name that have these labels; 0 when there is none.
    pub(crate) fn counter(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).map(|sample| sample.value).sum()
    }

    pub(crate) fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.series(name, labels).next().is_some()
    }

    /// The value of a label of the first series of this name; empty when there is none.
    pub(crate) fn label(&self, name: &str, label: &str) -> String {
        self.series(name, &[]).find_map(|sample| sample.labels.get(label).cloned()).unwrap_or_default()
    }

    fn series(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        })
    }

    pub(super) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(Sample::parse).collect())
    }
}

impl Sample {
    /// Label values of ours contain neither commas nor quotes.
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels
            .trim_end_matches('}')
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
            .collect();
        Self { name: name.to_owned(), labels, value: value.parse().unwrap() }
    }
}
