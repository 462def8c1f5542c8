//! What callers of [`Fleet`](crate::Fleet) ask for and get.

use chrono::{DateTime, Utc};
use hostlink::AgentLink;
use model::{Capsule, CapsuleId, CapsuleStatus, Egress, Error, HostId, Lifetime, Secret};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A capsule to be. Numbers and maps have been through `model::check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Name of a template of the team or of the platform.
    pub template: String,
    /// Absent = the template's.
    pub vcpus: Option<u32>,
    /// In MiB; absent = the template's.
    pub memory_mb: Option<u32>,
    /// In MiB; absent = the template's, which is the least.
    pub disk_mb: Option<u32>,
    /// When it ends by itself.
    pub lifetime: Lifetime,
    /// Labels.
    pub metadata: BTreeMap<String, String>,
    /// Environment of every command, on top of the template's.
    pub envs: BTreeMap<String, String>,
    /// Whose habits it follows.
    pub surface: Surface,
    /// What it may reach.
    pub egress: Egress,
}

/// Through which API a capsule is made; it decides the default user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// The template's default user in his home.
    Wrenn,
    /// `user` in `/home/user`.
    E2b,
}

/// How to bring a paused capsule back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resume {
    /// Give the saved memory up and boot from the disk.
    pub discard_memory: bool,
    /// Absent = as before the pause.
    pub lifetime: Option<Lifetime>,
}

/// How to make clones of a running capsule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// How many.
    pub count: u32,
    /// Absent = as the capsule's.
    pub lifetime: Option<Lifetime>,
    /// For all of it; a clone that does not run by then is given up.
    pub limit: Duration,
}

/// How to keep a capsule as a template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SaveTemplate {
    /// Its name; absent = `template-` and eight digits. It has been through `model::check`.
    pub name: Option<String>,
    /// Keep the disk only.
    pub discard_memory: bool,
    /// Take the place of the team's template of this name.
    pub overwrite: bool,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// No operation is under way.
    Settled,
    /// It runs, or it does not and nothing is under way that would change that.
    Running,
    /// It has moved since it had this revision.
    Past(u64),
}

/// Which capsules to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Any of these; empty = all that are neither stopped nor failed.
    pub states: Vec<CapsuleStatus>,
    /// All of these labels.
    pub metadata: BTreeMap<String, String>,
    /// Made from this template.
    pub template: Option<String>,
    /// Asked for at this time or later.
    pub created_after: Option<DateTime<Utc>>,
    /// Most capsules to answer; 0 = as many as a page may have.
    pub limit: u32,
    /// Where the last page ended.
    pub cursor: Option<Cursor>,
    /// By default the newest come first.
    pub oldest_first: bool,
}

/// Where a page ended. Its text means nothing to anybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) id: CapsuleId,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.created_at.timestamp_micros(), self.id.digits())
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (micros, digits) = text.split_once('-')?;
            let created_at = DateTime::from_timestamp_micros(i64::from_str_radix(micros, 16).ok()?)?;
            Some(Self { created_at, id: CapsuleId::parse_lenient(digits).ok()? })
        };
        parse().ok_or_else(|| Error::invalid("this page token is not one of ours"))
    }
}

/// Some capsules, and where the next ones begin.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In the order asked for.
    pub capsules: Vec<Capsule>,
    /// Absent on the last page.
    pub next: Option<Cursor>,
}

/// How the port proxy gets to a capsule.
#[derive(Clone)]
pub struct Route {
    /// It takes connections only while running.
    pub status: CapsuleStatus,
    /// To the agent of its host.
    pub link: AgentLink,
    /// Secret of the guest daemon's API.
    pub access_token: Secret,
    /// When it ends by itself.
    pub lifetime: Lifetime,
}

/// A host on this machine.
#[derive(Debug, Clone)]
pub struct LocalHost {
    /// Where its agent listens.
    pub socket: PathBuf,
    /// Which host it is; the same after every start.
    pub id: HostId,
    /// What its agent shows when it calls back.
    pub token: Secret,
}
