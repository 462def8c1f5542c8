//! What is known about a capsule across restarts of the agent: one file per capsule, replaced whole.

use crate::durable::{Draft, draft_of};
use model::{CapsuleId, CapsuleStatus, EndReason, Lifetime};
use network::{Cidr, Policy};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

/// Beginning of the name of a forgotten capsule's directory.
const GONE: &str = ".gone-";
/// Name of the file in a capsule's directory.
const FILE: &str = "record.json";

/// What the guest is told about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User of calls that name none.
    pub default_user: String,
    /// Directory of calls that name none; empty = the user's home.
    pub default_workdir: String,
    /// Environment of every process.
    pub envs: BTreeMap<String, String>,
    /// Secret of the guest daemon.
    pub access_token: String,
}

/// What it may reach: written into the record itself, where earlier agents wrote `allow_internet` alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// Whether addresses in neither list are reached, private ones apart.
    pub allow_internet: bool,
    /// Blocks that are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_out: Vec<Cidr>,
    /// Blocks that are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_out: Vec<Cidr>,
}

impl Egress {
    /// For its network slot.
    pub fn policy(&self) -> Policy {
        Policy { allow_internet: self.allow_internet, allow: self.allow_out.clone(), deny: self.deny_out.clone() }
    }
}

impl From<Policy> for Egress {
    fn from(Policy { allow_internet, allow, deny }: Policy) -> Self {
        Self { allow_internet, allow_out: allow, deny_out: deny }
    }
}

/// A size of VM of one template. Generations are made per class.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Class {
    /// The template.
    pub template: Uuid,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
}

impl Class {
    /// What a capsule is of that asks for nothing else.
    pub fn usual() -> Self {
        Self {
            template: model::TemplateId::MINIMAL.uuid(),
            vcpus: model::limits::VCPUS_DEFAULT,
            memory_mb: model::limits::MEMORY_MB_DEFAULT,
        }
    }

    /// Whether VMs of both have the same size.
    pub fn has_size_of(&self, other: &Self) -> bool {
        (self.vcpus, self.memory_mb) == (other.vcpus, other.memory_mb)
    }
}

/// A stable point of a capsule's life. Only these are written: what happens between two of them is undone or
/// repeated after a crash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Place {
    /// In this VM.
    Running {
        /// Its id.
        vm: Uuid,
        /// Its network slot.
        slot: u16,
        /// The generation it began as; none after a template's first boot.
        base: Option<Uuid>,
        /// It was resumed from this generation, which is nobody else's.
        #[serde(default)]
        resumed: bool,
        /// It booted from that generation's disk; otherwise its memory is a private map of the generation's.
        #[serde(default)]
        booted: bool,
    },
    /// In this generation.
    Paused {
        /// Its id.
        generation: Uuid,
    },
    /// Nowhere any more.
    Lost,
}

/// A capsule on this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `cl-…`.
    pub id: CapsuleId,
    /// Its size and template.
    pub class: Class,
    /// The snapshot it began as a clone of; else it began as its class does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Uuid>,
    /// Root disk in MiB.
    pub disk_size_mb: u32,
    /// When it ends by itself.
    pub lifetime: Lifetime,
    /// What the guest is told.
    pub identity: Identity,
    /// What it may reach.
    #[serde(flatten)]
    pub egress: Egress,
    /// Unix time in milliseconds.
    pub created_unix_ms: u64,
    /// Versions it runs on.
    pub versions: BTreeMap<String, String>,
    /// Why it does not run.
    pub reason: Option<EndReason>,
    /// Where it is.
    pub place: Place,
}

impl Record {
    /// The status this place means.
    pub fn status(&self) -> CapsuleStatus {
        match self.place {
            Place::Running { .. } => CapsuleStatus::Running,
            Place::Paused { .. } => CapsuleStatus::Paused,
            Place::Lost => CapsuleStatus::Error,
        }
    }

    /// Where it is once its VM is gone without having been saved: back where it was last resumed from, if it was.
    pub fn without_vm(&self) -> Place {
        match self.place {
            Place::Running { base: Some(generation), resumed: true, .. } | Place::Paused { generation } => {
                Place::Paused { generation }
            }
            _ => Place::Lost,
        }
    }
}

/// What [`Records::list`] found.
#[derive(Debug, Default)]
pub struct Listing {
    /// Every readable record.
    pub records: Vec<Record>,
    /// Names of those that could not be read. What they own is unknown, so nothing may be cleaned up.
    pub damaged: Vec<String>,
}

/// The next record of a capsule, durable but not in its place yet. Dropped, it is as if it had not been, and neither had a
/// capsule that has no other.
#[derive(Debug)]
pub struct RecordDraft {
    // In this order: the file goes before the directory it is in.
    draft: Draft,
    _home: Home,
}

/// Directory of a capsule. Dropped, it goes if nothing is in it.
#[derive(Debug)]
struct Home(PathBuf);

impl RecordDraft {
    /// Makes it the capsule's record, durably. After an error it may be or not.
    pub fn commit(self) -> io::Result<()> {
        self.draft.commit()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Where records are kept: `DIR/ID/record.json`.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
    /// A directory is not removed while something is put into it.
    beside: Arc<Mutex<()>>,
}

impl Records {
    /// Opens the directory, which is made if missing.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, beside: Arc::default() })
    }

    /// Writes the next record of this capsule, which counts once it is committed.
    pub fn draft(&self, record: &Record) -> io::Result<RecordDraft> {
        let home = Home(self.dir.join(record.id.to_string()));
        match fs::create_dir(&home.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
            Ok(()) => File::open(&self.dir)?.sync_all()?,
        }
        let draft = Draft::write(home.0.join(FILE), &serde_json::to_vec_pretty(record)?)?;
        Ok(RecordDraft { draft, _home: home })
    }

    /// Forgets a capsule, durably and at once: what else lies in its directory goes afterwards. Forgetting an unknown one
    /// succeeds.
    pub fn remove(&self, id: CapsuleId) -> io::Result<()> {
        let _alone = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        let grave = self.dir.join(format!("{GONE}{id}"));
        let _ = fs::remove_dir_all(&grave);
        match fs::rename(self.dir.join(id.to_string()), &grave) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => return Ok(()),
            Ok(()) => File::open(&self.dir)?.sync_all()?,
        }
        // What cannot be removed now is swept by the next start.
        let _ = fs::remove_dir_all(grave);
        Ok(())
    }

    /// Removes what is left of capsules that were forgotten, and of records that were never committed.
    pub fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if is_gone(&entry) {
                fs::remove_dir_all(entry.path())?;
            } else {
                let _ = fs::remove_file(draft_of(&entry.path().join(FILE)));
                // Which it is not, unless its first record is the one that was never committed.
                let _ = fs::remove_dir(entry.path());
            }
        }
        Ok(())
    }

    /// Puts another file beside the record of this capsule, unless that is gone. It goes with the record; a crash of the
    /// machine may take it.
    pub fn write_beside(&self, id: CapsuleId, name: &str, bytes: &[u8]) -> io::Result<()> {
        let _alone = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = self.dir.join(id.to_string());
        let temporary = dir.join(format!(".{name}.new"));
        match fs::write(&temporary, bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written.and_then(|()| fs::rename(&temporary, dir.join(name))),
        }
    }

    /// A file beside the record of this capsule, of which no more than `most` bytes are read.
    pub fn read_beside(&self, id: CapsuleId, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.dir.join(id.to_string()).join(name))?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Every record. One that cannot be read is counted and left alone.
    pub fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.dir)? {
            let dir = entry?;
            if is_gone(&dir) {
                continue;
            }
            let path = dir.path().join(FILE);
            match fs::read(&path) {
                Ok(bytes) => match serde_json::from_slice(&bytes) {
                    Ok(record) => listing.records.push(record),
                    Err(error) => {
                        listing.damaged.push(dir.file_name().to_string_lossy().into_owned());
                        tracing::error!(path = %path.display(), %error, "capsule record is damaged");
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(listing)
    }
}

fn is_gone(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(GONE)
}

#[cfg(test)]
impl Record {
    /// One as a test needs it.
    pub fn sample(place: Place) -> Self {
        Self {
            id: CapsuleId::random(),
            class: Class { template: Uuid::nil(), vcpus: 1, memory_mb: 512 },
            snapshot: None,
            disk_size_mb: 5_120,
            lifetime: Lifetime::FOREVER,
            identity: Identity::default(),
            egress: Policy::default().into(),
            created_unix_ms: 1,
            versions: BTreeMap::new(),
            reason: None,
            place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_before_there_were_lists_are_read() {
        let mut now = Record::sample(Place::Lost);
        now.egress.allow_internet = false;
        let text = serde_json::to_value(&now).unwrap();
        assert_eq!((&text["allow_internet"], text.get("allow_out")), (&serde_json::json!(false), None), "as before");
        assert_eq!(serde_json::from_value::<Record>(text).unwrap(), now);
        now.egress.allow_out = vec!["10.0.0.0/8".parse().unwrap()];
        assert_eq!(serde_json::from_value::<Record>(serde_json::to_value(&now).unwrap()).unwrap(), now);
    }

    #[test]
    fn records_survive_and_damaged_ones_are_left_alone() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let records = Records::open(dir.path().join("capsules"))?;
        let running = Record::sample(Place::Running {
            vm: Uuid::from_u128(7),
            slot: 3,
            base: Some(Uuid::nil()),
            resumed: true,
            booted: false,
        });
        let mut paused = Record::sample(Place::Paused { generation: Uuid::from_u128(8) });
        records.draft(&running)?.commit()?;
        records.draft(&paused)?.commit()?;
        paused.reason = Some(EndReason::Ttl);
        records.draft(&paused)?.commit()?;
        fs::create_dir_all(dir.path().join("capsules/broken"))?;
        fs::write(dir.path().join("capsules/broken/record.json"), b"{\"id\":")?;
        let Listing { records: mut listed, damaged } = records.list()?;
        assert_eq!(damaged, ["broken"]);
        listed.sort_by_key(|r| r.status() != CapsuleStatus::Running);
        assert_eq!(listed, [running.clone(), paused.clone()]);
        records.write_beside(running.id, "more", b"1234")?;
        assert_eq!(records.read_beside(running.id, "more", 3)?, b"123");
        records.remove(running.id)?;
        records.remove(running.id)?;
        records.write_beside(running.id, "more", b"nothing to be beside of")?;
        assert!(!dir.path().join("capsules").join(running.id.to_string()).exists());
        assert_eq!(records.list()?.records.len(), 1);
        // A removal that a crash cut short.
        fs::create_dir(dir.path().join("capsules/.gone-x"))?;
        fs::write(dir.path().join("capsules/.gone-x/record.json"), b"{}")?;
        assert_eq!(records.list()?.damaged, ["broken"]);
        // Drafts of a capsule that is none yet, and of one that stays what it is: given up, and cut short by a crash.
        let unborn = Record::sample(Place::Lost);
        drop(records.draft(&unborn)?);
        drop(records.draft(&Record { reason: None, ..paused.clone() })?);
        assert!(!dir.path().join("capsules").join(unborn.id.to_string()).exists());
        assert_eq!(records.list()?.records, [paused.clone()]);
        std::mem::forget(records.draft(&unborn)?);
        std::mem::forget(records.draft(&Record { reason: None, ..paused.clone() })?);
        assert_eq!(records.list()?.records, [paused.clone()]);
        records.sweep()?;
        assert!(!dir.path().join("capsules").join(unborn.id.to_string()).exists());
        assert_eq!(records.list()?.records, [paused.clone()]);
        assert_eq!(fs::read_dir(dir.path().join("capsules").join(paused.id.to_string()))?.count(), 1);
        assert!(!dir.path().join("capsules/.gone-x").exists());
        assert!(dir.path().join("capsules/broken/record.json").exists());
        Ok(())
    }
}
