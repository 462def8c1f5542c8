//! VMs kept restored and stopped, so that a create only has to let one run.

use crate::host::Host;
use crate::limits;
use crate::record::Class;
use crate::vm::Vm;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

/// Ready VMs by class.
pub struct Ready {
    /// How many of each class that is in use.
    per_class: usize,
    shelf: Mutex<HashMap<Class, Stock>>,
}

#[derive(Default)]
struct Stock {
    vms: Vec<Vm>,
    being_made: usize,
}

impl Stock {
    fn is_empty(&self) -> bool {
        self.vms.is_empty() && self.being_made == 0
    }
}

impl Ready {
    /// Keeps this many per class.
    pub fn new(per_class: usize) -> Self {
        Self { per_class, shelf: Mutex::default() }
    }

    /// One that is ready and still alive.
    pub fn take(&self, host: &Arc<Host>, class: &Class) -> Option<Vm> {
        let mut shelf = self.lock();
        let vms = &mut shelf.get_mut(class)?.vms;
        while let Some(vm) = vms.pop() {
            if vm.alive() {
                return Some(vm);
            }
            let owner = host.clone();
            host.tasks.spawn(async move { vm.end(&owner).await });
        }
        None
    }

    /// Ends those of a template that is gone.
    pub async fn forget(&self, host: &Arc<Host>, template: Uuid) {
        let unwanted: Vec<Vm> = {
            let mut shelf = self.lock();
            let of_template = shelf.iter_mut().filter(|(class, _)| class.template == template);
            let vms = of_template.flat_map(|(_, stock)| std::mem::take(&mut stock.vms)).collect();
            shelf.retain(|_, stock| !stock.is_empty());
            vms
        };
        for vm in unwanted {
            vm.end(host).await;
        }
    }

    /// Makes what is missing of this class, in the background.
    pub fn refill(&self, host: &Arc<Host>, class: &Class) {
        if host.drain.switch.is_on() {
            return;
        }
        let missing = {
            let mut shelf = self.lock();
            let all: usize = shelf.values().map(|stock| stock.vms.len() + stock.being_made).sum();
            let stock = shelf.entry(class.clone()).or_default();
            let missing = self.per_class.saturating_sub(stock.vms.len() + stock.being_made);
            let missing = missing.min(limits::READY_TOTAL.saturating_sub(all));
            stock.being_made += missing;
            missing
        };
        for _ in 0..missing {
            let (host, class) = (host.clone(), class.clone());
            let task = host.tasks.clone();
            task.spawn(async move { Box::pin(host.ready.make(&host, class)).await });
        }
    }

    async fn make(&self, host: &Arc<Host>, class: Class) {
        let made = async {
            let generation = host.classes.generation(host, &class).await?;
            let mut vm = Vm::restore(host, &class, generation, Uuid::now_v7()).await?;
            match vm.rehearse().await {
                Ok(()) => Ok(vm),
                Err(failure) => {
                    vm.end(host).await;
                    Err(failure)
                }
            }
        };
        let made = Box::pin(made).await;
        let unwanted = {
            let mut shelf = self.lock();
            let wanted =
                !host.stopping.is_cancelled() && !host.drain.switch.is_on() && host.has_template(class.template);
            let stock = shelf.entry(class).or_default();
            stock.being_made -= 1;
            let unwanted = match made {
                Ok(vm) if wanted => {
                    stock.vms.push(vm);
                    None
                }
                Ok(vm) => Some(vm),
                Err(failure) => {
                    tracing::warn!(%failure, "a VM could not be made ready");
                    None
                }
            };
            shelf.retain(|_, stock| !stock.is_empty());
            unwanted
        };
        if let Some(vm) = unwanted {
            vm.end(host).await;
        }
    }

    /// Ends all of them, and says how many there were.
    pub async fn clear(&self, host: &Arc<Host>) -> usize {
        let vms: Vec<Vm> = self.lock().values_mut().flat_map(|stock| stock.vms.drain(..)).collect();
        let count = vms.len();
        for vm in vms {
            vm.end(host).await;
        }
        count
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Class, Stock>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
