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
    duration.as_secs_f64() * 1000.0
}

fn rounded(value: f64, places: i32) -> f64 {
    let scale = 10_f64.powi(places);
    (value * scale).round() / scale
}

impl Figure {
    /// Must be at most `factor` times the reference.
    pub fn ratio(name: &'static str, value: Duration, reference: Duration, factor: f64) -> Self {
        let ratio = value.as_secs_f64() / reference.as_secs_f64();
        Self::new(name, ms(value), "ms", Some(ms(reference)), format!("ratio <= {factor}"), ratio <= factor)
    }

    /// Must be at most `margin` above the reference.
    pub fn above(name: &'static str, value: Duration, reference: Duration, margin: Duration) -> Self {
        let goal = format!("<= reference + {} ms", margin.as_millis());
        Self::new(name, ms(value), "ms", Some(ms(reference)), goal, value <= reference + margin)
    }

    /// Must be at most `limit`.
    pub fn limit(name: &'static str, value: Duration, limit: Duration) -> Self {
        Self::new(name, ms(value), "ms", None, format!("<= {} ms", limit.as_millis()), value <= limit)
    }

    /// A rate that must be at least this share of the reference.
    pub fn share(name: &'static str, value: f64, unit: &'static str, reference: f64, share: f64) -> Self {
        Self::new(name, value, unit, Some(reference), format!("ratio >= {share}"), value / reference >= share)
    }

    /// Must be at least `least`.
    pub fn at_least(name: &'static str, value: f64, unit: &'static str, least: f64) -> Self {
        Self::new(name, value, unit, None, format!(">= {least} {unit}"), value >= least)
    }

    /// Must be at most `most`.
    pub fn at_most(name: &'static str, value: f64, unit: &'static str, most: f64) -> Self {
        Self::new(name, value, unit, None, format!("<= {most} {unit}"), value <= most)
    }

    fn new(name: &'static str, value: f64, unit: &'static str, reference: Option<f64>, goal: String, ok: bool) -> Self {
        let ratio = reference.map(|reference| rounded(value / reference, 2));
        Self { name, value: rounded(value, 1), unit, reference: reference.map(|r| rounded(r, 1)), ratio, goal, ok }
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
        let unit = figure.unit;
        let reference = figure.reference.map(|r| format!("  reference {r} {unit}")).unwrap_or_default();
        let ratio = figure.ratio.map(|r| format!("  ratio {r}")).unwrap_or_default();
        let verdict = if figure.ok { "ok" } else { "MISSED" };
        println!("{:<22} {:>8} {unit}{reference}{ratio}  goal {}  {verdict}", figure.name, figure.value, figure.goal);
    }
}
