//! The daemon's state, shared by all its services.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::sync::Notify;

use crate::cgroups::Cgroups;
use crate::filesystem::Watchers;
use crate::handover::Supervisor;
use crate::metadata::{Inquiry, Metadata};
use crate::ports::Ports;
use crate::process::Table;
use crate::quiesce::{Quiesce, Sign};
use crate::settings::{Settings, SettingsStore};
use crate::users::{self, UnknownUser, User};

/// How a daemon is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The daemon's own binary, as it was started.
    pub program: PathBuf,
    /// Where the daemon keeps its own files.
    pub run_dir: PathBuf,
    /// Mount point of cgroup v2; none to run without groups.
    pub cgroup_root: Option<PathBuf>,
    /// Address on which loopback servers are offered to the host; none to offer none.
    pub forward_address: Option<IpAddr>,
    /// Whether this machine is ours: only then are its clock, host name and identity changed.
    pub owns_machine: bool,
    /// Soft and hard bound of the descriptors a user's process may have open.
    pub descriptors: (u64, u64),
}

/// Everything the services share.
pub struct Daemon {
    /// What `/init` set.
    pub settings: SettingsStore,
    /// Processes started through the daemon.
    pub processes: Arc<Table>,
    /// Groups those processes belong to.
    pub cgroups: Arc<Cgroups>,
    /// File watchers of the polling kind.
    pub watchers: Watchers,
    /// Standing still for a snapshot.
    pub quiesce: Arc<Quiesce>,
    /// Servers of the guest offered to the host.
    pub ports: Arc<Ports>,
    /// Asking the host who we are.
    pub inquiry: Inquiry,
    /// Who keeps what must outlive this daemon.
    pub supervisor: Supervisor,
    /// A newer binary is in place: this daemon is to end.
    pub replaced: Notify,
    /// One upgrade at a time, and one for each daemon: whether there was one.
    pub upgraded: tokio::sync::Mutex<bool>,
    /// One `/init` at a time.
    pub init: tokio::sync::Mutex<()>,
    /// How the daemon is run.
    pub options: Options,
}

impl Daemon {
    /// Prepares directories and groups. Blocks.
    pub fn open(options: Options, supervisor: Supervisor) -> Self {
        if let Err(error) = std::fs::create_dir_all(&options.run_dir) {
            tracing::warn!(%error, directory = %options.run_dir.display(), "run directory");
        }
        let cgroups = Arc::new(options.cgroup_root.as_deref().map_or_else(Cgroups::none, Cgroups::set_up));
        Self {
            settings: SettingsStore::open(&options.run_dir),
            processes: Arc::default(),
            quiesce: Arc::new(Quiesce::new(Arc::clone(&cgroups))),
            cgroups,
            watchers: Watchers::default(),
            inquiry: Inquiry::default(),
            ports: Arc::new(Ports::new(options.forward_address)),
            supervisor,
            replaced: Notify::new(),
            upgraded: tokio::sync::Mutex::default(),
            init: tokio::sync::Mutex::default(),
            options,
        }
    }

    /// The user a request names by Basic authentication (the password is ignored), else the default one. Blocks.
    pub fn caller(&self, headers: &HeaderMap) -> Result<User, UnknownUser> {
        self.user(basic_user(headers).as_deref())
    }

    /// The named user, else the default one. Blocks.
    pub fn user(&self, name: Option<&str>) -> Result<User, UnknownUser> {
        match name.filter(|name| !name.is_empty()) {
            Some(name) => users::find(name),
            None => users::find(&self.settings.read(|settings| settings.user.clone())),
        }
    }

    /// Publishes what programs in the guest ask for to find out where they are: as environment of later processes,
    /// and as files. Blocks.
    pub fn publish(&self, settings: &mut Settings, known: [(&str, Option<&str>); 3]) {
        for (name, value) in known.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            for product in ["WRENN", "E2B"] {
                settings.env.insert(format!("{product}_{name}"), value.to_owned());
            }
            if let Err(error) = std::fs::write(self.options.run_dir.join(format!(".WRENN_{name}")), value) {
                tracing::warn!(%error, name, "identity file");
            }
        }
    }

    /// Goes on after a restore; does nothing unless a snapshot was prepared.
    pub fn recover(&self, sign: Sign) {
        if self.quiesce.recover(sign) {
            self.ports.begin_anew();
        }
    }

    /// Takes over what the host's metadata says. Blocks.
    pub fn learn(&self, metadata: &Metadata) {
        let given = |value: &'_ String| (!value.is_empty()).then(|| value.clone());
        let (sandbox, template) = (given(&metadata.sandbox_id), given(&metadata.template_id));
        let stored = self.settings.update(|settings| {
            let known = [("SANDBOX", None), ("SANDBOX_ID", sandbox.as_deref()), ("TEMPLATE_ID", template.as_deref())];
            self.publish(settings, known);
        });
        if let Err(error) = stored {
            tracing::warn!(%error, "settings are not kept");
        }
    }
}

fn basic_user(headers: &HeaderMap) -> Option<String> {
    let (scheme, credentials) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let credentials = String::from_utf8(BASE64_STANDARD.decode(credentials.trim()).ok()?).ok()?;
    Some(credentials.split(':').next().unwrap_or_default().to_owned())
}

/// Work on a blocking thread did not finish: it panicked, or the runtime is ending.
#[derive(Debug, thiserror::Error)]
#[error("the work was interrupted")]
pub struct Interrupted;

/// Runs work that may block (files, processes) off the async threads. It goes on when the caller is dropped.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Interrupted> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Interrupted.into()))
}
