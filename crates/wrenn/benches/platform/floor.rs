//! What the machine allows: the same guest in bare QEMU, with nothing of the platform around it but the calls that
//! cannot be left out.

use crate::platform::Platform;
use guestlink::{Envd, Init};
use memory::{Base, Draft, Generation, Seal};
use network::{Adoption, Network, NetworkOptions, Orphans, Resolvers, Slot};
use std::cmp::Reverse;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::spawn::{Process, Spawn, Stream};
use vmm::qemu::{Accelerator, Qemu};
use vmm::{Dirty, Mac, Machine, MachineSpec, Memory, Nic, Since, Start, Vmm};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Size of a page.
pub const PAGE: usize = 4096;

/// Bare QEMU on the platform's own template generation.
pub struct Floor {
    qemu: Qemu,
    network: Network,
    template: Arc<Generation>,
    /// What the last round saved.
    last: Arc<Generation>,
    modules: PathBuf,
    dir: PathBuf,
}

/// A restored VM.
pub struct Bare {
    process: Process,
    machine: Box<dyn Machine>,
    slot: Slot,
    envd: Envd,
    base: Base,
    spec: MachineSpec,
}

impl Floor {
    /// Uses the generation and kernel of a running platform.
    pub async fn open(platform: &Platform) -> Result<Self> {
        let pool = platform.dir.join("pool");
        let template = template(&pool.join("generations"))?;
        let dir = pool.join("bench");
        std::fs::create_dir_all(&dir)?;
        let options = NetworkOptions {
            instance: "bnch".parse()?,
            wrenn_dir: dir.clone(),
            ready_slots: 2,
            resolvers: Resolvers::Host,
        };
        let adoption: Adoption = Network::open(options).await?;
        Ok(Self {
            qemu: Qemu::find(None, accelerator(&template))?,
            network: adoption.finish(Orphans::Remove).await,
            last: template.clone(),
            template,
            modules: modules_disk(&pool.join("artifacts"))?,
            dir,
        })
    }

    /// Ends what [`Self::open`] made.
    pub async fn close(self) -> Result<()> {
        self.network.destroy_all().await?;
        std::fs::remove_dir_all(&self.dir)?;
        Ok(())
    }

    /// From nothing to the end of the first `sh -c true`.
    pub async fn restore_and_exec(&self) -> Result<Duration> {
        let started = Instant::now();
        let bare = self.restore(&self.template).await?;
        sh(&bare.envd, "true").await?;
        let took = started.elapsed();
        self.end(bare).await?;
        Ok(took)
    }

    /// Restores a VM, runs a command in it and saves it durably; then restores what was saved until that has run a
    /// command. The next round goes on with it, so that it is as many generations away from the template as the
    /// platform's capsule.
    pub async fn save_and_restore(&mut self) -> Result<(Duration, Duration)> {
        let bare = self.restore(&self.last).await?;
        sh(&bare.envd, "true").await?;
        bare.envd.prepare().await?;
        self.flush()?;
        let started = Instant::now();
        let generation = self.save(&bare).await?;
        let saved = started.elapsed();
        self.end(bare).await?;
        let started = Instant::now();
        let bare = self.restore(&generation).await?;
        sh(&bare.envd, "true").await?;
        let restored = started.elapsed();
        self.end(bare).await?;
        let old = std::mem::replace(&mut self.last, generation);
        if old.id() != self.template.id() {
            std::fs::remove_dir_all(old.dir())?;
        }
        Ok((saved, restored))
    }

    /// A VM that has run these scripts and stands still.
    pub async fn stopped(&self, scripts: [&str; 2]) -> Result<Bare> {
        let bare = self.restore(&self.template).await?;
        for script in scripts {
            sh(&bare.envd, script).await?;
        }
        bare.machine.pause().await?;
        Ok(bare)
    }

    /// How long it takes to save its device state and nothing else.
    pub async fn save_devices(&self, bare: &Bare) -> Result<Duration> {
        let state = self.dir.join("state");
        let started = Instant::now();
        bare.machine.save(&bare.spec, &state, &self.template.memory_path(), Since::Start).await?;
        let took = started.elapsed();
        std::fs::remove_file(&state)?;
        Ok(took)
    }

    /// Where so many pages lie that it has changed: those of the longest stretches, ascending.
    pub async fn changed_pages(&self, bare: &Bare, count: usize) -> Result<Vec<u64>> {
        let generation = self.save(bare).await?;
        let mut extents = generation.manifest().extents.clone();
        std::fs::remove_dir_all(generation.dir())?;
        extents.sort_unstable_by_key(|extent| Reverse(extent.pages));
        let pages = extents.iter().flat_map(|extent| extent.first..extent.first + extent.pages);
        let mut pages: Vec<u64> = pages.take(count).collect();
        pages.sort_unstable();
        if pages.len() == count { Ok(pages) } else { Err(format!("only {} pages changed", pages.len()).into()) }
    }

    /// How long it takes to copy as many pages of anonymous memory, one by one, to these places of a clone of the template's
    /// memory.
    pub fn copy_pages(&self, places: &[u64]) -> Result<Duration> {
        let path = self.dir.join("memory");
        disk::clone_file(&self.template.memory_path(), &path)?;
        let clone = File::options().write(true).open(&path)?;
        // Not zeros, which would be no memory yet.
        let pages = vec![[1_u8; PAGE]; places.len()];
        let started = Instant::now();
        for (place, page) in places.iter().zip(&pages) {
            clone.write_all_at(page, place * memory::PAGE_BYTES)?;
        }
        let took = started.elapsed();
        std::fs::remove_file(&path)?;
        Ok(took)
    }

    /// Writes out what the pool still owes its disk, so that a measurement pays for its own writes only.
    pub fn flush(&self) -> Result<()> {
        let exit = Spawn::new("sync").arg("--file-system").arg(&self.dir).inherit_env().spawn()?.wait()?;
        if exit.success() { Ok(()) } else { Err(format!("sync ended with {exit:?}").into()) }
    }

    async fn restore(&self, generation: &Arc<Generation>) -> Result<Bare> {
        let slot = self.network.acquire().await?;
        let runtime = self.dir.join(format!("run{}", slot.index()));
        let _ = std::fs::remove_dir_all(&runtime);
        std::fs::create_dir_all(&runtime)?;
        let root_disk = self.dir.join(format!("disk-{}", uuid::Uuid::now_v7()));
        disk::clone_file(&generation.disk_path().ok_or("no disk")?, &root_disk)?;
        let spec = MachineSpec {
            vcpus: 1,
            memory_bytes: generation.manifest().memory_bytes,
            memory: Memory::File(generation.memory_path()),
            root_disk,
            modules_disk: Some(self.modules.clone()),
            network: Some(Nic { tap: network::TAP.to_owned(), mac: Mac(network::GUEST_MAC) }),
            runtime_dir: runtime.clone(),
            confinement: None,
        };
        let command = self.qemu.command(&spec, &Start::Load)?;
        let process = Spawn::new(&command.program)
            .args(&command.args)
            .cwd(&command.cwd)
            .inherit_env()
            .enter_namespace(slot.namespace_fd()?)
            .stdout(Stream::Null)
            .spawn()?;
        let machine = self.qemu.connect(&runtime, Duration::from_secs(20)).await?;
        machine.load(&spec, &generation.state_path()).await?;
        machine.resume().await?;
        let dialler = slot.dialler();
        let open = move || {
            let dialler = dialler.clone();
            async move { dialler.dial(guestlink::PORT).await }
        };
        let envd = Envd::new(dial::Dialler::new(open), String::new());
        let init = Init { timestamp: chrono::Utc::now().to_rfc3339(), ..Init::default() };
        envd.init(&init, Duration::from_secs(20)).await?;
        Ok(Bare { process, machine, slot, envd, base: Base::Generation(generation.clone()), spec })
    }

    async fn save(&self, bare: &Bare) -> Result<Arc<Generation>> {
        let (dir, base) = (self.dir.clone(), bare.base.clone());
        let draft = tokio::task::spawn_blocking(move || Draft::begin(&dir, &base)).await??;
        bare.machine.pause().await?;
        disk::clone_file(&bare.spec.root_disk, &draft.disk_path())?;
        bare.machine.save(&bare.spec, &draft.state_path(), &draft.memory_path(), Since::Start).await?;
        let dirty = self.qemu.dirty();
        let pid = bare.process.pid();
        let committed = tokio::task::spawn_blocking(move || {
            let filled = match dirty {
                Dirty::InProcess => draft.copy_dirty(pid)?,
                Dirty::Written => draft.written_by_vmm()?,
            };
            filled.commit(Seal::default())
        });
        let (generation, _) = committed.await??;
        Ok(Arc::new(generation))
    }

    /// Ends a VM of [`Self::stopped`].
    pub async fn end(&self, mut bare: Bare) -> Result<()> {
        let _ = bare.machine.quit().await;
        bare.process.kill()?;
        bare.process.wait()?;
        self.network.release(bare.slot);
        std::fs::remove_file(bare.spec.root_disk)?;
        Ok(())
    }
}

async fn sh(envd: &Envd, script: &str) -> Result<()> {
    use proto::process::{ProcessConfig, StartRequest};
    let process = ProcessConfig {
        cmd: "/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        ..Default::default()
    };
    let request = StartRequest { process: process.into(), stdin: Some(false), ..Default::default() };
    let mut stream = envd.process().start_with_options(request, guestlink::options("root")).await?;
    while stream.message().await?.is_some() {}
    Ok(())
}

/// What the platform used; its state loads in nothing else.
fn accelerator(template: &Generation) -> Accelerator {
    if template.manifest().compatibility.contains("qemu-kvm") { Accelerator::Kvm } else { Accelerator::Tcg }
}

/// The generation of the default size class.
fn template(dir: &Path) -> Result<Arc<Generation>> {
    for entry in std::fs::read_dir(dir)? {
        let Ok(generation) = Generation::open(&entry?.path()) else { continue };
        let class = generation.manifest().labels.get("class").cloned().unwrap_or_default();
        if class.contains("\"memory_mb\":512") && class.contains("\"vcpus\":1") {
            return Ok(Arc::new(generation));
        }
    }
    Err("the platform has no template generation".into())
}

fn modules_disk(artifacts: &Path) -> Result<PathBuf> {
    for entry in std::fs::read_dir(artifacts)? {
        let path = entry?.path().join("modules.img");
        if path.exists() {
            return Ok(path);
        }
    }
    Err("no modules disk".into())
}
