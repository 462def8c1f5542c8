//! Capsules as text.

use crate::failure::Outcome;
use crate::output::{self, Output};
use chrono::{DateTime, TimeDelta, Utc};
use client::Client;
use model::Egress;
use model::egress::Block;
use model::rest::Capsule;
use serde::Serialize;

/// An object rather than a bare array, so that it can grow.
#[derive(Debug, Serialize)]
pub struct List {
    /// As the API orders them.
    pub capsules: Vec<Capsule>,
}

/// Those that have not ended.
pub async fn list(client: &Client, out: Output) -> Outcome {
    let list = List { capsules: client.list().await? };
    if list.capsules.is_empty() && !out.json {
        out.note("no capsules; `wrenn capsule create` makes one");
        return Ok(());
    }
    let now = Utc::now();
    Ok(out.result(&list, |list| {
        output::table(
            ["ID", "STATUS", "TEMPLATE", "VCPUS", "MEMORY", "ISOLATION", "AGE"],
            list.capsules.iter().map(|capsule| row(capsule, now)),
        )
    })?)
}

/// One id on each line.
pub fn ids(list: &List) -> String {
    list.capsules.iter().map(|capsule| capsule.id.to_string()).collect::<Vec<_>>().join("\n")
}

fn row(capsule: &Capsule, now: DateTime<Utc>) -> [String; 7] {
    [
        capsule.id.to_string(),
        capsule.status.to_string(),
        capsule.template.clone(),
        capsule.vcpus.to_string(),
        format!("{} MiB", capsule.memory_mb),
        capsule.isolation.clone(),
        age(now - capsule.created_at),
    ]
}

/// All that is known about one.
pub fn capsule(capsule: &Capsule) -> String {
    let time = |time: Option<DateTime<Utc>>| time.map(|time| time.to_rfc3339()).unwrap_or_default();
    let idle = match capsule.timeout_sec {
        0 => "never paused by itself".to_owned(),
        s => format!("paused after {s} s without activity"),
    };
    let labels: Vec<_> = capsule.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
    output::pairs([
        ("id", capsule.id.to_string()),
        ("status", capsule.status.to_string()),
        ("reason", capsule.reason.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("template", capsule.template.clone()),
        (
            "size",
            format!("{} vCPU, {} MiB memory, {} MiB disk", capsule.vcpus, capsule.memory_mb, capsule.disk_size_mb),
        ),
        ("isolation", capsule.isolation.clone()),
        ("idle", idle),
        ("network", network(&capsule.network)),
        ("created", time(Some(capsule.created_at))),
        ("started", time(capsule.started_at)),
        ("last active", time(capsule.last_active_at)),
        ("labels", labels.join(" ")),
    ])
}

/// What one may reach.
pub fn network(egress: &Egress) -> String {
    let list = |word: &str, blocks: &[Block]| {
        let blocks: Vec<_> = blocks.iter().map(ToString::to_string).collect();
        (!blocks.is_empty()).then(|| format!("{word} {}", blocks.join(" ")))
    };
    let rest = if egress.allow_internet { "the Internet" } else { "nothing" };
    let said = [list("reaches", &egress.allow_out), list("not", &egress.deny_out), Some(format!("otherwise {rest}"))];
    match said {
        [None, None, _] => rest.to_owned(),
        said => said.into_iter().flatten().collect::<Vec<_>>().join(", "),
    }
}

/// The two largest units are enough to recognise a capsule by.
pub fn age(age: TimeDelta) -> String {
    let s = age.num_seconds().max(0);
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min", s / 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        for (allow_internet, allow, deny, text) in [
            (true, vec![], vec![], "the Internet"),
            (false, vec![], vec![], "nothing"),
            (true, vec![], vec!["8.8.8.8"], "not 8.8.8.8/32, otherwise the Internet"),
            (false, vec!["10.1.0.0/16", "1.1.1.1"], vec![], "reaches 10.1.0.0/16 1.1.1.1/32, otherwise nothing"),
        ] {
            assert_eq!(network(&Egress { allow_internet, allow_out: list(&allow), deny_out: list(&deny) }), text);
        }
    }

    #[test]
    fn ages() {
        for (s, text) in [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7_260, "2 h 1 min"), (90_000, "1 d 1 h")] {
            assert_eq!(age(TimeDelta::seconds(s)), text);
        }
    }
}
