//! A directory of generations, and who still needs which.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use crate::limits;
use crate::staging::{self, sync_directory};

/// Generations in one directory, with counts of their users in this process; one per directory.
///
/// A running VM needs its base: not for the map, which outlives the name, but because the next generation begins as
/// a clone of it. So a generation is removed only once nobody holds a [`Pin`] on it.
#[derive(Debug, Clone)]
pub struct Shelf {
    dir: PathBuf,
    users: Arc<Mutex<HashMap<Uuid, Users>>>,
    graves: SyncSender<PathBuf>,
}

#[derive(Debug, Default)]
struct Users {
    pins: usize,
    condemned: bool,
}

/// A use of a generation; dropping it ends the use, and the generation if it was removed meanwhile.
#[derive(Debug)]
pub struct Pin {
    shelf: Shelf,
    id: Uuid,
}

impl Shelf {
    /// The generations in `dir`, which is made if it does not exist. Drafts left by a crash are removed in
    /// the background.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let shelf = Self { dir: dir.to_owned(), users: Arc::default(), graves: clear_graves(dir)? };
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(staging::PREFIX) {
                shelf.bury(entry.path());
            }
        }
        Ok(shelf)
    }

    /// The directory; drafts are begun in it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where generation `id` is, or would be.
    pub fn path(&self, id: Uuid) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// All generations, oldest first (ids are time-ordered).
    pub fn list(&self) -> io::Result<Vec<Uuid>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            ids.extend(entry?.file_name().to_str().and_then(|name| Uuid::parse_str(name).ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Keeps generation `id` until the pin is dropped; none if it is removed already, or about to be.
    pub fn pin(&self, id: Uuid) -> Option<Pin> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = users.entry(id).or_default();
        if entry.condemned || !self.path(id).is_dir() {
            return None;
        }
        entry.pins += 1;
        Some(Pin { shelf: self.clone(), id })
    }

    /// Removes generation `id`, now or when its last pin is dropped. Removing what is not there succeeds. Its space is given
    /// back in the background: that may take long.
    pub fn remove(&self, id: Uuid) -> io::Result<()> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        match users.get_mut(&id) {
            Some(entry) if entry.pins > 0 => {
                entry.condemned = true;
                Ok(())
            }
            _ => {
                users.remove(&id);
                self.erase(id)
            }
        }
    }

    /// Removes every generation that is not among `wanted`, pinned ones when their last pin is dropped; says which.
    pub fn collect(&self, wanted: &[Uuid]) -> io::Result<Vec<Uuid>> {
        let mut unwanted = self.list()?;
        unwanted.retain(|id| !wanted.contains(id));
        for id in &unwanted {
            self.remove(*id)?;
        }
        Ok(unwanted)
    }

    fn bury(&self, grave: PathBuf) {
        if let Err(error) = self.graves.try_send(grave) {
            tracing::warn!(%error, "left behind until the next start");
        }
    }

    /// Only takes its name away: a removal cut short by a crash must not leave half a generation under it, and nobody who needs the
    /// lock waits for the rest.
    fn erase(&self, id: Uuid) -> io::Result<()> {
        let grave = self.dir.join(format!("{}{id}", staging::PREFIX));
        match fs::rename(self.path(id), &grave) {
            Ok(()) => {
                self.bury(grave);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A thread that removes what it is sent, for as long as there is somebody who may send.
fn clear_graves(dir: &Path) -> io::Result<SyncSender<PathBuf>> {
    let (graves, queue) = mpsc::sync_channel::<PathBuf>(limits::GRAVES);
    let dir = dir.to_owned();
    std::thread::Builder::new().name("graves".into()).spawn(move || {
        for grave in queue {
            if let Err(error) = sync_directory(&dir).and_then(|()| fs::remove_dir_all(&grave)) {
                tracing::warn!(path = %grave.display(), %error, "left behind until the next start");
            }
        }
    })?;
    Ok(graves)
}

impl Pin {
    /// The use goes on when this process ends: the generation stays, also if it was removed meanwhile. Who wants it then
    /// says so to [`Shelf::collect`].
    pub fn outlive(self) {
        std::mem::forget(self);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut users = self.shelf.users.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = users.get_mut(&self.id) else { return };
        entry.pins -= 1;
        if entry.pins > 0 {
            return;
        }
        let condemned = entry.condemned;
        users.remove(&self.id);
        if condemned && let Err(error) = self.shelf.erase(self.id) {
            tracing::warn!(id = %self.id, %error, "a generation nobody needs could not be removed");
        }
    }
}
