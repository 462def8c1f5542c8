//! How long the steps of a start took, one after another.

use std::time::{Duration, Instant};

/// A watch that is read after every step.
#[derive(Debug, Clone)]
pub struct Laps {
    last: Instant,
    taken: Vec<(&'static str, Duration)>,
}

impl Laps {
    /// The first step begins.
    pub fn begin() -> Self {
        Self { last: Instant::now(), taken: Vec::new() }
    }

    /// The step called `name` has ended, and the next one begins.
    pub fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.taken.push((name, now - self.last));
        self.last = now;
    }

    /// What has passed since the last step was none: the next one begins now.
    pub fn skip(&mut self) {
        self.last = Instant::now();
    }

    /// The steps so far.
    pub fn taken(&self) -> &[(&'static str, Duration)] {
        &self.taken
    }
}
