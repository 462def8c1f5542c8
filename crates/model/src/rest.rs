//! Bodies of the REST API, shared by server and client.

use crate::egress::Egress;
use crate::error::{Code, Error};
use crate::ids::{CapsuleId, TemplateId};
use crate::metrics::Range;
use crate::status::{CapsuleStatus, EndReason};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A capsule as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capsule {
    /// `cl-…`.
    pub id: CapsuleId,
    /// Where it is in its life.
    pub status: CapsuleStatus,
    /// Name of the template it was made from.
    pub template: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Root disk in MiB.
    pub disk_size_mb: u32,
    /// Inactivity in seconds until it is paused; 0 = never.
    pub timeout_sec: u32,
    /// What separates it from its host: `firecracker`, `qemu-kvm` or `qemu-tcg`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub isolation: String,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// Last change of its status.
    pub last_updated: DateTime<Utc>,
    /// When it first ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// Last activity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_active_at: Option<DateTime<Utc>>,
    /// Why it stopped running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndReason>,
    /// What it may reach.
    #[serde(default, skip_serializing_if = "Egress::is_default")]
    pub network: Egress,
    /// User labels and the versions it runs on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// `POST /v1/capsules`. Numbers are signed so that a negative one is an error with a message, not a parse failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateCapsule {
    /// Template name; `minimal` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Virtual CPUs; 0 or absent = default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<i64>,
    /// Memory in MiB; 0 or absent = default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<i64>,
    /// Root disk in MiB, at least the template's; 0 or absent = that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_size_mb: Option<i64>,
    /// Inactivity until it is paused; 0 or absent = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<i64>,
    /// User labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Environment of every command.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// What it may reach; absent = the Internet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
}

/// `PUT /v1/capsules/{id}/network`: replaces all that was said before, so a field that is not known is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Whether addresses in neither list are reached, private ones apart; absent = they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_internet: Option<bool>,
    /// IPv4 addresses and blocks that are reached whatever `deny_out` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_out: Vec<String>,
    /// Those that are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_out: Vec<String>,
}

impl Network {
    /// What it asks for.
    pub fn parse(&self) -> Result<Egress, Error> {
        let (allow, deny) = (("allow_out", self.allow_out.as_slice()), ("deny_out", self.deny_out.as_slice()));
        Egress::parse(self.allow_internet.unwrap_or(true), allow, deny)
    }
}

/// `POST /v1/capsules/{id}/fork`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkCapsule {
    /// How many clones, 1 to 20; absent = 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
}

/// One clone of a fork: `{"capsule": …}`, or `{"error": {"code", "message"}}` where it could not be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forked {
    /// It runs.
    Capsule(Box<Capsule>),
    /// It does not.
    Error {
        /// What kind of error.
        code: Code,
        /// What happened.
        message: String,
    },
}

/// What capsules are made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// `tpl-…`.
    pub id: TemplateId,
    /// Unique within its team.
    pub name: String,
    /// What it has.
    #[serde(rename = "type")]
    pub kind: TemplateKind,
    /// Virtual CPUs of its capsules.
    pub vcpus: u32,
    /// Their memory in MiB.
    pub memory_mb: u32,
    /// Their root disk in MiB, at least.
    pub disk_size_mb: u32,
    /// Bytes on disk, those included that it shares with others.
    pub size_bytes: u64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Everybody's.
    pub platform: bool,
    /// It cannot be deleted by the caller.
    pub protected: bool,
}

/// What a template has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TemplateKind {
    /// A disk: its capsules boot, once for each size.
    Base,
    /// Memory and processes too: its capsules go on from there, in its size.
    Snapshot,
}

/// `POST /v1/snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveTemplate {
    /// The capsule, running or paused; it stays what it is.
    pub sandbox_id: CapsuleId,
    /// Absent = `template-` and eight digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `false` = keep the disk only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<bool>,
}

/// Answer of `GET /v1/capsules/{id}/metrics`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The capsule.
    pub sandbox_id: CapsuleId,
    /// As asked.
    pub range: Range,
    /// Oldest first. There are none of the time in which it did not run.
    pub points: Vec<MetricPoint>,
}

/// What a capsule used at one time, or on average since the point before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MetricPoint {
    /// Unix time in whole seconds: several points may share one.
    pub timestamp_unix: u64,
    /// Unix time in milliseconds, no two points the same.
    pub timestamp_ms: u64,
    /// Processor time; 100 = all vCPUs all the time.
    pub cpu_pct: f64,
    /// What its VM occupies of its host's memory: all the guest has touched, what it freed since among it, and the VMM.
    pub mem_bytes: u64,
    /// What its root disk occupies, the template's part included.
    pub disk_bytes: u64,
    /// Sent through its network card since it was created.
    pub net_sent_bytes: u64,
    /// Received, likewise.
    pub net_received_bytes: u64,
    /// Memory in use, page cache apart, as the guest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_mem_used_bytes: Option<u64>,
    /// Page cache, as the guest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_mem_cache_bytes: Option<u64>,
}

/// `POST /v1/capsules/{id}/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Executable, found in `PATH`.
    pub cmd: String,
    /// Its arguments, passed verbatim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Foreground: limit in seconds; 0 or absent = default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<i64>,
    /// Answer as soon as it has started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub background: bool,
    /// Name to find it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// More environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User to run as; the template's default user when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// How the outputs in an [`ExecResult`] are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// Both are text.
    #[serde(rename = "utf-8")]
    Utf8,
    /// At least one is not text; both are base64.
    #[serde(rename = "base64")]
    Base64,
}

/// Answer of a foreground exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    /// The capsule.
    pub sandbox_id: CapsuleId,
    /// As asked.
    pub cmd: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code; -1 when a signal ended it.
    pub exit_code: i32,
    /// How long it ran.
    pub duration_ms: u64,
    /// Of `stdout` and `stderr`.
    pub encoding: Encoding,
    /// Output was cut at the limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Answer of a background exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStarted {
    /// The capsule.
    pub sandbox_id: CapsuleId,
    /// As asked.
    pub cmd: String,
    /// Process id in the guest.
    pub pid: u32,
    /// Name to find it by.
    pub tag: String,
}

/// A process of a capsule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the guest.
    pub pid: u32,
    /// Name to find it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Executable.
    pub cmd: String,
    /// Arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
}

/// `GET …/processes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessList {
    /// Live ones.
    pub processes: Vec<Process>,
}

/// `POST …/files/{read,mkdir,remove}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRequest {
    /// Path in the guest; relative to the user's home.
    pub path: String,
}

/// `POST …/files/list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRequest {
    /// Directory in the guest.
    pub path: String,
    /// 0 or absent = direct children.
    #[serde(default)]
    pub depth: Option<u32>,
}

/// Kind of a [`FileEntry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileType {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Anything else.
    Unknown,
}

/// A file of a capsule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Last component of the path.
    pub name: String,
    /// As listed.
    pub path: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: FileType,
    /// Bytes.
    pub size: i64,
    /// Permission bits.
    pub mode: u32,
    /// As in `ls -l`.
    pub permissions: String,
    /// Owner's name, or number.
    pub owner: String,
    /// Group's name, or number.
    pub group: String,
    /// Unix seconds; 0 when unknown.
    pub modified_at: i64,
    /// Where a link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
}

/// Answer of `files/list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileList {
    /// In walk order.
    pub entries: Vec<FileEntry>,
}

/// Answer of `files/mkdir`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMade {
    /// The new directory.
    pub entry: FileEntry,
}

/// What `wrenn up` leaves for its user in `credentials.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Where the API is, without `/v1`.
    pub base_url: String,
    /// `wrn_` + 32 hex.
    pub api_key: String,
    /// The same secret as `e2b_` + 32 hex.
    pub e2b_api_key: String,
    /// Of the local administrator.
    pub email: String,
    /// Of the local administrator.
    pub password: String,
}
