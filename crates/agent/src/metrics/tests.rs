use super::*;
use crate::record::{Place, Record};

/// `cpu_ms` of a processor's time, `at_ms` after `start`.
fn reading(start: Instant, at_ms: u64, cpu_ms: u64) -> Reading {
    let [at, cpu] = [at_ms, cpu_ms].map(Duration::from_millis);
    Reading { at: start + at, cpu, memory_bytes: 1 << 20, disk_bytes: 1 << 30 }
}

fn traffic(sent_bytes: u64) -> Traffic {
    Traffic { sent_bytes, received_bytes: sent_bytes * 2, ..Traffic::default() }
}

#[test]
fn processor_time_is_a_share_of_what_the_vcpus_had() {
    let start = Instant::now();
    for (vcpus, ms, cpu_ms, want) in [
        (1, 500, 0, 0),
        (1, 500, 250, 5_000),
        (1, 500, 500, 10_000),
        (1, 500, 900, 10_000),
        (4, 500, 1_000, 5_000),
        (0, 500, 250, 5_000),
        (1, 0, 9, 0),
    ] {
        let share = cpu_bp(reading(start, 0, 100), reading(start, ms, 100 + cpu_ms), vcpus);
        assert_eq!(share, want, "{cpu_ms} of {ms} ms on {vcpus}");
    }
    assert_eq!(cpu_bp(reading(start, 0, 9), reading(start, 5, 0), 1), 0, "another process");
}

#[test]
fn a_next_vm_goes_on_counting_and_its_start_is_no_point() {
    let (start, mut series) = (Instant::now(), Series::default());
    let memory = GuestMemory { used: 7, cache: 8 };
    for (vm, at_ms, sent) in [(1, 0, 5), (1, 500, 10), (1, 1_000, 20), (2, 1_500, 1), (2, 2_000, 3), (2, 2_500, 4)] {
        if at_ms == 1_000 {
            series.heard = Some((start, memory));
        }
        series.add(vm, 1, reading(start, at_ms, at_ms), traffic(sent), at_ms);
    }
    let points = series.kept.rings.within(Duration::from_mins(1), 0);
    let seen: Vec<_> = points.iter().map(|point| (point.unix_ms, point.sent_bytes, point.received_bytes)).collect();
    assert_eq!(seen, [(500, 10, 20), (1_000, 20, 40), (2_000, 23, 46), (2_500, 24, 48)]);
    let heard: Vec<_> = points.iter().map(|point| point.guest).collect();
    assert_eq!(heard, [None, Some(memory), None, None], "the word of a guest ends with its VM");
    assert_eq!(series.ended().traffic, traffic(24));
}

#[test]
fn what_a_guest_said_grows_old() {
    let (start, mut series) = (Instant::now(), Series::default());
    series.heard = Some((start, GuestMemory { used: 1, cache: 1 }));
    for at_ms in [0, 1_000, 14_999, 15_000] {
        series.add(1, 1, reading(start, at_ms, 0), traffic(0), at_ms);
    }
    let heard =
        series.kept.rings.within(Duration::from_mins(1), 0).iter().map(|p| p.guest.is_some()).collect::<Vec<_>>();
    assert_eq!(heard, [true, true, false]);
}

#[tokio::test]
async fn a_pause_moves_points_to_a_file_and_a_destroy_forgets_them() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path().to_owned()).unwrap();
    let [kept, gone, runs] = [Record::sample(Place::Lost), Record::sample(Place::Lost), Record::sample(Place::Lost)];
    let metrics = Metrics::default();
    let start = Instant::now();
    for record in [&kept, &gone, &runs] {
        records.draft(record).unwrap().commit().unwrap();
        let mut series = Series::default();
        for n in 0..3 {
            series.add(1, 1, reading(start, n * 500, n * 500), traffic(n), now_ms() + n);
        }
        metrics.lock().insert(record.id, series);
    }
    let all = |id| metrics.points(&records, id, Duration::from_mins(10));
    let before = all(kept.id).await;
    assert_eq!(before.len(), 2);
    records.remove(gone.id).unwrap();
    let statuses = HashMap::from([(kept.id, CapsuleStatus::Paused), (runs.id, CapsuleStatus::Running)]);
    metrics.rest(&records, &statuses).await;
    assert_eq!(metrics.lock().keys().collect::<Vec<_>>(), [&runs.id]);
    assert_eq!(all(kept.id).await, before);
    assert_eq!((all(gone.id).await.len(), all(runs.id).await.len()), (0, 2));
    assert!(!dir.path().join(gone.id.to_string()).exists());
    assert_eq!(read(&records, kept.id).traffic, traffic(2));

    for broken in ["", "{", "{\"rings\":[]}", &"[".repeat(2 << 20)] {
        records.write_beside(kept.id, FILE, broken.as_bytes()).unwrap();
        assert_eq!(all(kept.id).await, []);
    }
}
