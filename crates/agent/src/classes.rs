//! Size classes: the generation that new capsules of one template and size are cloned from.
//!
//! A class boots once, the first time it is used; its generation is kept, bounded, the least recently used going
//! first.

use crate::failure::Failure;
use crate::host::Host;
use crate::limits;
use crate::record::Class;
use crate::vm::Vm;
use memory::Generation;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::OnceCell;
use uuid::Uuid;

/// Label of a generation that belongs to a class: the class as JSON.
const LABEL: &str = "class";

#[derive(Default)]
struct Entry {
    generation: Arc<OnceCell<Arc<Generation>>>,
    used: Option<Instant>,
}

/// The classes of this host.
#[derive(Default)]
pub struct Classes(Mutex<HashMap<Class, Entry>>);

impl Classes {
    /// Takes over the class generations on the shelf that this host's VMM can load; says which they are.
    pub async fn adopt(&self, host: &Arc<Host>) -> Vec<Uuid> {
        let mut kept = Vec::new();
        for id in host.shelf.list().unwrap_or_default() {
            let Ok(generation) = host.open_generation(id).await else { continue };
            let label = generation.manifest().labels.get(LABEL).and_then(|text| serde_json::from_str(text).ok());
            if let Some(class) = label.filter(|class: &Class| host.has_template(class.template))
                && host.compatible(&generation).is_ok()
                && generation.manifest().labels.get("artifacts") == Some(&host.artifacts.key)
            {
                let cell = self.cell(&class);
                if cell.set(generation).is_ok() {
                    kept.push(id);
                }
            }
        }
        kept
    }

    /// The class's generation, made now if there is none. Concurrent callers wait for one boot.
    pub async fn generation(&self, host: &Arc<Host>, class: &Class) -> Result<Arc<Generation>, Failure> {
        loop {
            let cell = self.cell(class);
            let made = cell.get_or_try_init(|| boot(host, class)).await.cloned()?;
            // Its template may be gone since.
            if !host.has_template(class.template) {
                let _ = host.shelf.remove(made.id());
                return Err(Failure::Template(class.template));
            }
            // It may have taken so long that it was given up for those used since.
            if self.is_used(class, &cell) {
                self.forget_oldest(host, class);
                return Ok(made);
            }
        }
    }

    /// Whether the class's generation exists.
    pub fn has(&self, class: &Class) -> bool {
        self.lock().get(class).is_some_and(|entry| entry.generation.initialized())
    }

    /// Whether a generation belongs to a class.
    pub fn owns(&self, id: Uuid) -> bool {
        self.lock().values().any(|entry| entry.generation.get().is_some_and(|generation| generation.id() == id))
    }

    /// Gives up the generations of a template that is gone.
    pub fn forget(&self, host: &Host, template: Uuid) {
        let unwanted = self.lock().extract_if(|class, _| class.template == template).collect::<Vec<_>>();
        for generation in unwanted.iter().filter_map(|(_, entry)| entry.generation.get()) {
            let _ = host.shelf.remove(generation.id());
        }
    }

    fn cell(&self, class: &Class) -> Arc<OnceCell<Arc<Generation>>> {
        let mut map = self.lock();
        let entry = map.entry(class.clone()).or_default();
        entry.used = Some(Instant::now());
        entry.generation.clone()
    }

    /// Says that the class is used now; false if it has another cell, or none, by now.
    fn is_used(&self, class: &Class, cell: &Arc<OnceCell<Arc<Generation>>>) -> bool {
        let mut map = self.lock();
        let Some(entry) = map.get_mut(class).filter(|entry| Arc::ptr_eq(&entry.generation, cell)) else { return false };
        entry.used = Some(Instant::now());
        true
    }

    /// Drops what could not be made, and the class used longest ago once there are too many; never `keep`.
    fn forget_oldest(&self, host: &Host, keep: &Class) {
        let mut map = self.lock();
        // A cell somebody else holds is being made.
        map.retain(|_, entry| entry.generation.initialized() || Arc::strong_count(&entry.generation) > 1);
        loop {
            let made = || map.iter().filter(|(_, entry)| entry.generation.initialized());
            let oldest = made().filter(|(class, _)| *class != keep).min_by_key(|(_, entry)| entry.used);
            let Some(oldest) = oldest.map(|(class, _)| class.clone()).filter(|_| made().count() > limits::CLASSES)
            else {
                return;
            };
            if let Some(generation) = map.remove(&oldest).and_then(|entry| entry.generation.get().cloned()) {
                let _ = host.shelf.remove(generation.id());
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Class, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first boot of a class, saved once its guest is ready and warm.
async fn boot(host: &Arc<Host>, class: &Class) -> Result<Arc<Generation>, Failure> {
    let disk = host.template_disk(class.template).await?;
    let mut vm = Vm::boot(host, class, &disk, Uuid::now_v7()).await?;
    let saved = async {
        vm.warm_up().await?;
        let label = serde_json::to_string(class).map_err(Failure::at("naming the class"))?;
        let labels = BTreeMap::from([(LABEL.to_owned(), label), ("artifacts".to_owned(), host.artifacts.key.clone())]);
        vm.save(host, labels).await
    };
    let result = saved.await.map_err(|failure| vm.explain(failure));
    vm.end(host).await;
    result
}
