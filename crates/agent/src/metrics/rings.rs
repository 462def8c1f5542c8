//! What was measured of one capsule: every point of the last minutes, averages of the time before.
//!
//! Points are told apart by their milliseconds and lie in the order of their times. An average covers an interval of the
//! wall clock, so a capsule that did not run leaves a gap, not zeros.

use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Memory as a guest reports it, in bytes. Not to be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestMemory {
    /// In use, page cache apart.
    pub used: u64,
    /// Page cache.
    pub cache: u64,
}

/// One measurement, or the average of several.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub struct Point {
    /// Unix time in milliseconds; an average has that of its last point.
    pub unix_ms: u64,
    /// Processor time in basis points: 10,000 = all vCPUs all the time.
    pub cpu_bp: u64,
    /// What the VM occupies of its host's memory.
    pub memory_bytes: u64,
    /// What its root disk occupies.
    pub disk_bytes: u64,
    /// Sent since the capsule was created; an average has that of its last point.
    pub sent_bytes: u64,
    /// Received, likewise.
    pub received_bytes: u64,
    /// As the guest says, where it has said anything.
    pub guest: Option<GuestMemory>,
}

/// A point in a file: thousands of them repeat no names.
type Row = (u64, u64, u64, u64, u64, u64, Option<(u64, u64)>);

impl From<Row> for Point {
    fn from((unix_ms, cpu_bp, memory_bytes, disk_bytes, sent_bytes, received_bytes, guest): Row) -> Self {
        let guest = guest.map(|(used, cache)| GuestMemory { used, cache });
        Self { unix_ms, cpu_bp, memory_bytes, disk_bytes, sent_bytes, received_bytes, guest }
    }
}

impl From<Point> for Row {
    fn from(point: Point) -> Self {
        let Point { unix_ms, cpu_bp, memory_bytes, disk_bytes, sent_bytes, received_bytes, guest } = point;
        let guest = guest.map(|GuestMemory { used, cache }| (used, cache));
        (unix_ms, cpu_bp, memory_bytes, disk_bytes, sent_bytes, received_bytes, guest)
    }
}

/// The three tiers of one capsule. At most [`limits::POINTS`], [`limits::HALF_MINUTES`] and [`limits::FIVE_MINUTES`] points.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rings {
    points: VecDeque<Point>,
    half_minutes: Averages<30_000>,
    five_minutes: Averages<300_000>,
}

impl Rings {
    /// Adds what was measured last. Should the wall clock have gone back, what it now calls the future is forgotten.
    pub fn push(&mut self, point: Point) {
        append(&mut self.points, point, limits::POINTS);
        self.half_minutes.push(point, limits::HALF_MINUTES);
        self.five_minutes.push(point, limits::FIVE_MINUTES);
    }

    /// What was measured within `window` before `now_ms`, oldest first, of the finest tier that reaches so far back.
    pub fn within(&self, window: Duration, now_ms: u64) -> Vec<Point> {
        let since = now_ms.saturating_sub(u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
        let wanted = |point: &Point| point.unix_ms >= since;
        if window <= limits::POINTS_REACH {
            self.points.iter().copied().filter(wanted).collect()
        } else if window <= limits::HALF_MINUTES_REACH {
            self.half_minutes.iter().filter(wanted).collect()
        } else {
            self.five_minutes.iter().filter(wanted).collect()
        }
    }

    /// The newest point.
    pub fn last(&self) -> Option<&Point> {
        self.points.back()
    }

    /// Out of a file, which may hold anything: in order and within bounds again.
    pub fn restored(self) -> Self {
        Self {
            points: in_order(self.points, limits::POINTS),
            half_minutes: self.half_minutes.restored(limits::HALF_MINUTES),
            five_minutes: self.five_minutes.restored(limits::FIVE_MINUTES),
        }
    }
}

/// Averages over intervals of `MS` milliseconds. The newest may not be over yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Averages<const MS: u64> {
    over: VecDeque<Point>,
    newest: Option<Mean>,
}

impl<const MS: u64> Averages<MS> {
    fn push(&mut self, point: Point, most: usize) {
        while self.over.back().is_some_and(|last| last.unix_ms >= point.unix_ms) {
            self.over.pop_back();
        }
        match &mut self.newest {
            Some(mean) if mean.last.unix_ms / MS == point.unix_ms / MS => mean.add(point),
            newest => {
                let before = newest.replace(Mean::of(point)).filter(|mean| mean.last.unix_ms < point.unix_ms);
                if let Some(mean) = before {
                    // The newest counts as one.
                    append(&mut self.over, mean.point(), most.saturating_sub(1));
                }
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = Point> {
        self.over.iter().copied().chain(self.newest.as_ref().map(Mean::point))
    }

    fn restored(self, most: usize) -> Self {
        let newest = self.newest.filter(|mean| mean.count > 0);
        let mut over = in_order(self.over, most.saturating_sub(1));
        while over.back().is_some_and(|last| newest.as_ref().is_some_and(|mean| last.unix_ms >= mean.last.unix_ms)) {
            over.pop_back();
        }
        Self { over, newest }
    }
}

/// Sums of the points of one interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Mean {
    last: Point,
    count: u64,
    cpu_bp: u64,
    memory_bytes: u64,
    disk_bytes: u64,
    guests: u64,
    guest_used: u64,
    guest_cache: u64,
}

impl Mean {
    fn of(point: Point) -> Self {
        let mut mean = Self {
            last: point,
            count: 0,
            cpu_bp: 0,
            memory_bytes: 0,
            disk_bytes: 0,
            guests: 0,
            guest_used: 0,
            guest_cache: 0,
        };
        mean.add(point);
        mean
    }

    fn add(&mut self, point: Point) {
        self.last = point;
        self.count = self.count.saturating_add(1);
        self.cpu_bp = self.cpu_bp.saturating_add(point.cpu_bp);
        self.memory_bytes = self.memory_bytes.saturating_add(point.memory_bytes);
        self.disk_bytes = self.disk_bytes.saturating_add(point.disk_bytes);
        if let Some(GuestMemory { used, cache }) = point.guest {
            self.guests = self.guests.saturating_add(1);
            self.guest_used = self.guest_used.saturating_add(used);
            self.guest_cache = self.guest_cache.saturating_add(cache);
        }
    }

    fn point(&self) -> Point {
        let over = |sum: u64, count: u64| sum.checked_div(count).unwrap_or_default();
        let (used, cache) = (over(self.guest_used, self.guests), over(self.guest_cache, self.guests));
        Point {
            cpu_bp: over(self.cpu_bp, self.count),
            memory_bytes: over(self.memory_bytes, self.count),
            disk_bytes: over(self.disk_bytes, self.count),
            guest: (self.guests > 0).then_some(GuestMemory { used, cache }),
            ..self.last
        }
    }
}

fn append(points: &mut VecDeque<Point>, point: Point, most: usize) {
    while points.back().is_some_and(|last| last.unix_ms >= point.unix_ms) {
        points.pop_back();
    }
    while points.len() >= most {
        points.pop_front();
    }
    points.push_back(point);
}

fn in_order(points: VecDeque<Point>, most: usize) -> VecDeque<Point> {
    let mut ordered = VecDeque::new();
    for point in points {
        append(&mut ordered, point, most);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point(unix_ms: u64, seed: u64) -> Point {
        Point {
            unix_ms,
            cpu_bp: seed % 10_001,
            memory_bytes: seed * 4_096,
            disk_bytes: seed * 512,
            sent_bytes: unix_ms,
            received_bytes: unix_ms * 2,
            guest: (!seed.is_multiple_of(3)).then_some(GuestMemory { used: seed, cache: seed * 2 }),
        }
    }

    fn ordered(points: &[Point]) -> bool {
        points.is_sorted_by(|a, b| a.unix_ms < b.unix_ms)
    }

    fn tiers(rings: &Rings) -> [Vec<Point>; 3] {
        [
            rings.points.iter().copied().collect(),
            rings.half_minutes.iter().collect(),
            rings.five_minutes.iter().collect(),
        ]
    }

    /// The averages that the points themselves lead to, by another way.
    fn expected(points: &[Point], width_ms: u64) -> Vec<Point> {
        let mean = |points: &[Point]| {
            let n = points.len() as u64;
            let guests: Vec<_> = points.iter().filter_map(|point| point.guest).collect();
            let of_guests = |get: fn(&GuestMemory) -> u64| guests.iter().map(get).sum::<u64>() / guests.len() as u64;
            Point {
                cpu_bp: points.iter().map(|point| point.cpu_bp).sum::<u64>() / n,
                memory_bytes: points.iter().map(|point| point.memory_bytes).sum::<u64>() / n,
                disk_bytes: points.iter().map(|point| point.disk_bytes).sum::<u64>() / n,
                guest: (!guests.is_empty())
                    .then(|| GuestMemory { used: of_guests(|g| g.used), cache: of_guests(|g| g.cache) }),
                ..points[points.len() - 1]
            }
        };
        points.chunk_by(|a, b| a.unix_ms / width_ms == b.unix_ms / width_ms).map(mean).collect()
    }

    #[test]
    fn a_clock_that_goes_back_within_an_interval() {
        let mut rings = Rings::default();
        for at in [2_402_586, 2_700_000, 2_402_587, 2_400_000] {
            rings.push(point(at, 1));
        }
        let [fine, half, five] = tiers(&rings);
        assert!(ordered(&fine) && ordered(&half) && ordered(&five));
    }

    proptest! {
        /// Steps of half a second to minutes, as between a pause and a resume.
        #[test]
        fn averages_are_those_of_their_points(
            steps in proptest::collection::vec((prop_oneof![4 => Just(500_u64), 1 => 1..900_000_u64], any::<u32>()), 1..3_000),
        ) {
            let (mut rings, mut pushed, mut now) = (Rings::default(), Vec::new(), 1_700_000_000_000);
            for (step, seed) in steps {
                now += step;
                pushed.push(point(now, seed.into()));
                rings.push(point(now, seed.into()));
            }
            let newest = |mut all: Vec<Point>, most: usize| all.split_off(all.len().saturating_sub(most));
            let [fine, half, five] = tiers(&rings);
            prop_assert_eq!(fine, newest(pushed.clone(), limits::POINTS));
            prop_assert_eq!(half, newest(expected(&pushed, 30_000), limits::HALF_MINUTES));
            prop_assert_eq!(five, newest(expected(&pushed, 300_000), limits::FIVE_MINUTES));
            let text = serde_json::to_vec(&rings).unwrap();
            prop_assert!(text.len() as u64 <= limits::METRICS_FILE_BYTES);
            let read: Rings = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(read.restored(), rings);
        }

        #[test]
        fn whatever_the_clock_does_order_and_bounds_hold(
            times in proptest::collection::vec(0..10_000_000_u64, 1..3_000),
            window_ms in 0..100_000_000_u64,
        ) {
            let mut rings = Rings::default();
            for at in &times {
                rings.push(point(*at, *at));
                prop_assert_eq!(rings.last().map(|point| point.unix_ms), Some(*at));
            }
            let [fine, half, five] = tiers(&rings);
            prop_assert!(ordered(&fine) && ordered(&half) && ordered(&five));
            prop_assert!(fine.len() <= limits::POINTS && half.len() <= limits::HALF_MINUTES && five.len() <= limits::FIVE_MINUTES);
            let within = rings.within(Duration::from_millis(window_ms), 10_000_000);
            prop_assert!(within.iter().all(|point| point.unix_ms + window_ms >= 10_000_000) && ordered(&within));
        }

        #[test]
        fn whatever_a_file_holds_order_and_bounds_hold(times in proptest::collection::vec(any::<u64>(), 0..4_000)) {
            let all: VecDeque<_> = times.iter().map(|at| Point { unix_ms: *at, ..point(0, 7) }).collect();
            let newest = all.back().map(|last| Mean { count: u64::from(times.len() % 2 == 0), ..Mean::of(*last) });
            let rings = Rings {
                points: all.clone(),
                half_minutes: Averages { over: all.clone(), newest: newest.clone() },
                five_minutes: Averages { over: all, newest },
            };
            let [fine, half, five] = tiers(&rings.restored());
            prop_assert!(ordered(&fine) && ordered(&half) && ordered(&five));
            prop_assert!(fine.len() <= limits::POINTS && half.len() <= limits::HALF_MINUTES && five.len() <= limits::FIVE_MINUTES);
        }
    }

    #[test]
    fn the_tier_follows_from_how_far_back_it_reaches() {
        let mut rings = Rings::default();
        for n in 0..2_400 {
            rings.push(point(n * 500, n));
        }
        for (minutes, count, step_ms) in [
            (5, 600, 500),
            (10, 1_200, 500),
            (60, 40, 30_000),
            (120, 40, 30_000),
            (360, 4, 300_000),
            (1_440, 4, 300_000),
        ] {
            let points = rings.within(Duration::from_mins(minutes), 1_199_999);
            assert_eq!((points.len(), points[1].unix_ms - points[0].unix_ms), (count, step_ms), "{minutes}");
        }
    }
}
