//! One measured figure and its goal.

use serde::Serialize;
use std::time::Duration;

/// A figure. Serialised as every benchmark of the project prints it.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// `group.what`.
    pub name: &'static str,
    /// What was measured.
    pub value: f64,
    /// Unit of `value` and `reference`.
    pub unit: &'static str,
    /// What the machine allows, measured in the same run; absent for a plain limit.
    pub reference: Option<f64>,
    /// `value / reference`.
    pub ratio: Option<f64>,
    /// What has to hold.
    pub goal: String,
    /// Whether it does.
    pub ok: bool,
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

impl Figure {
    /// Must be at most `factor` times the reference.
    pub fn ratio(name: &'static str, value: Duration, reference: Duration, factor: f64) -> Self {
        let ratio = value.as_secs_f64() / reference.as_secs_f64();
        Self::new(name, value, Some(reference), format!("ratio <= {factor}"), ratio <= factor)
    }

    /// Must be at most `margin` above the reference.
    pub fn above(name: &'static str, value: Duration, reference: Duration, margin: Duration) -> Self {
        let goal = format!("<= reference + {} ms", margin.as_millis());
        Self::new(name, value, Some(reference), goal, value <= reference + margin)
    }

    /// Must be at most `limit`.
    pub fn limit(name: &'static str, value: Duration, limit: Duration) -> Self {
        Self::new(name, value, None, format!("<= {} ms", limit.as_millis()), value <= limit)
    }

    fn new(name: &'static str, value: Duration, reference: Option<Duration>, goal: String, ok: bool) -> Self {
        let ratio = reference.map(|reference| (value.as_secs_f64() / reference.as_secs_f64() * 100.0).round() / 100.0);
        Self { name, value: ms(value), unit: "ms", reference: reference.map(ms), ratio, goal, ok }
    }

    /// The part of the name before the dot.
    pub fn group(&self) -> &str {
        self.name.split('.').next().unwrap_or(self.name)
    }
}

/// The middle one.
pub fn median(durations: &[Duration]) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// One line each, or one JSON object each.
pub fn print(figures: &[Figure], json: bool) {
    for figure in figures {
        if json {
            println!("{}", serde_json::to_string(figure).unwrap_or_default());
            continue;
        }
        let reference = figure.reference.map(|r| format!("  reference {r} ms")).unwrap_or_default();
        let ratio = figure.ratio.map(|r| format!("  ratio {r}")).unwrap_or_default();
        let verdict = if figure.ok { "ok" } else { "MISSED" };
        println!("{:<22} {:>8} ms{reference}{ratio}  goal {}  {verdict}", figure.name, figure.value, figure.goal);
    }
}
