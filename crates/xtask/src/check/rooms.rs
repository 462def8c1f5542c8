//! The rooms and the edges between them.

use serde_json::Value;

use super::Violations;
use crate::Outcome;

/// A crate of the workspace with its direct dependencies; those of its tests and build script do not count.
#[derive(Debug)]
pub struct Room {
    pub name: String,
    pub dependencies: Vec<String>,
}

/// All rooms from top to bottom. A room may depend on rooms behind it in this list only.
const ORDER: &[&str] = &[
    "xtask",
    "sim",
    "wrenn",
    "server",
    "api",
    "agent",
    "fleet",
    "identity",
    "store",
    "bus",
    "edge",
    "hostlink",
    "lifecycle",
    "client",
    "model",
    "keeper",
    "guestlink",
    "vmm",
    "network",
    "memory",
    "disk",
    "image",
    "envd",
    "dial",
    "proto",
    "listen",
    "telemetry",
    "sys",
];

const WEB: &[&str] = &["axum", "hyper", "reqwest", "tower-http", "tokio-tungstenite"];
const SQL: &[&str] = &["sea-orm", "sea-orm-migration", "sqlx"];
const RPC: &[&str] = &["connectrpc", "proto"];

/// Who must never know what: room, then lists of crates it may not depend on directly.
const FORBIDDEN: &[(&str, &[&[&str]])] = &[
    ("sim", &[SQL, WEB, RPC, &["disk", "image", "keeper", "memory", "network", "sys", "vmm"]]),
    ("wrenn", &[SQL, &["fleet", "store", "network", "vmm", "memory"]]),
    ("api", &[SQL, &["agent", "store"]]),
    ("fleet", &[SQL, WEB]),
    ("identity", &[SQL, WEB, &["fleet", "lifecycle"]]),
    ("edge", &[SQL, &["fleet", "identity", "store"]]),
    ("hostlink", &[SQL, &["fleet", "store"]]),
    ("agent", &[SQL, &["api", "fleet", "identity", "store"]]),
    ("keeper", &[RPC, &["agent", "model"]]),
    ("guestlink", &[&["agent", "hostlink", "vmm"]]),
    ("vmm", &[&["disk", "memory", "model", "network"]]),
    ("memory", &[&["model", "vmm"]]),
    ("disk", &[&["model", "vmm"]]),
    ("network", &[&["model", "vmm"]]),
    ("image", &[RPC, &["model", "vmm"]]),
    ("store", &[WEB, &["agent", "hostlink"]]),
    ("lifecycle", &[SQL, WEB, RPC, &["chrono", "futures-util", "rand", "tokio", "uuid"]]),
    ("model", &[SQL, WEB, RPC, &["tokio"]]),
    ("client", &[SQL, &["axum", "fleet", "server"]]),
];

/// Rooms of `cargo metadata --no-deps`.
pub fn read(metadata: &Value) -> Outcome<Vec<Room>> {
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    Ok(packages.iter().filter_map(room).collect())
}

fn room(package: &Value) -> Option<Room> {
    let dependencies = package["dependencies"].as_array()?.iter().filter(|dependency| dependency["kind"].is_null());
    Some(Room {
        name: package["name"].as_str()?.to_owned(),
        dependencies: dependencies.filter_map(|dependency| Some(dependency["name"].as_str()?.to_owned())).collect(),
    })
}

/// INV-01.
pub fn downwards(rooms: &[Room]) -> Violations {
    let level = |name: &str| ORDER.iter().position(|room| *room == name);
    let mut violations = Vec::new();
    for room in rooms {
        let Some(own) = level(&room.name) else {
            violations.push(format!("{} has no place in the order of rooms", room.name));
            continue;
        };
        for dependency in room.dependencies.iter().filter(|name| level(name).is_some_and(|other| other <= own)) {
            violations.push(format!("{} depends on {dependency}, which is not below it", room.name));
        }
    }
    violations
}

/// INV-02.
pub fn unknowing(rooms: &[Room]) -> Violations {
    let mut violations = Vec::new();
    for room in rooms {
        let rules = FORBIDDEN.iter().filter(|(name, _)| *name == room.name);
        for forbidden in rules.flat_map(|(_, lists)| lists.iter().copied().flatten()) {
            if room.dependencies.iter().any(|dependency| dependency == forbidden) {
                violations.push(format!("{} must never know {forbidden}", room.name));
            }
        }
    }
    violations
}

/// INV-12.
pub fn light_xtask(rooms: &[Room]) -> Violations {
    let xtask = rooms.iter().filter(|room| room.name == "xtask" && room.dependencies.len() > 2);
    xtask.map(|room| format!("xtask depends on {}", room.dependencies.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn planted(edges: &[(&str, &str)]) -> Vec<Room> {
        let packages: Vec<Value> = edges
            .iter()
            .map(|(from, to)| {
                let dependencies = [json!({"name": to, "kind": null}), json!({"name": "store", "kind": "dev"})];
                json!({"name": from, "dependencies": dependencies})
            })
            .collect();
        read(&json!({ "packages": packages })).unwrap()
    }

    #[test]
    fn finds_planted_edges() {
        let cases: &[(&str, &str, usize, usize)] = &[
            ("model", "fleet", 1, 0),
            ("vmm", "sys", 0, 0),
            ("vmm", "network", 0, 1),
            ("api", "store", 0, 1),
            ("lifecycle", "tokio", 0, 1),
            ("newcomer", "sys", 1, 0),
            ("client", "model", 0, 0),
        ];
        for (from, to, upward, forbidden) in cases {
            let rooms = planted(&[(from, to)]);
            assert_eq!(downwards(&rooms).len(), *upward, "{from} → {to}");
            assert_eq!(unknowing(&rooms).len(), *forbidden, "{from} → {to}");
        }
    }

    #[test]
    fn finds_a_heavy_xtask() {
        let room = |count| Room { name: "xtask".into(), dependencies: vec!["serde_json".into(); count] };
        assert!(light_xtask(&[room(2)]).is_empty());
        assert_eq!(light_xtask(&[room(3)]).len(), 1);
    }

    #[test]
    fn every_rule_names_a_room() {
        for (room, _) in FORBIDDEN {
            assert!(ORDER.contains(room), "{room}");
        }
    }
}
