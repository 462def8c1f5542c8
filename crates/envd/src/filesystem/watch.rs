//! Watching a directory (inotify(7)).

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use connectrpc::ConnectError;
use futures_util::{Stream, stream};
use proto::filesystem::watch_dir_response::{Event, KeepAlive, StartEvent};
use proto::filesystem::{EventType, FilesystemEvent, WatchDirResponse};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::entry::entry;
use super::error::FsError;
use crate::daemon::blocking;
use crate::limits;
use crate::users::Names;

mod polled;
pub use polled::Watchers;

/// `statfs` types of NFS, CIFS, SMB, SMB2 and FUSE: no event comes for what others change there.
const NETWORK_FILE_SYSTEMS: [u32; 5] = [0x6969, 0xFF53_4D42, 0x517B, 0xFE53_4D42, 0x6573_5546];

/// What clients are told of. Not the end of writing: one small write is one event.
const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ONLYDIR);

/// What a client asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct What {
    pub(super) recursive: bool,
    pub(super) include_entry: bool,
    pub(super) allow_network_mounts: bool,
}

/// One watched directory, with everything below it when recursive.
pub(super) struct Watch {
    root: PathBuf,
    what: What,
    descriptor: Arc<AsyncFd<OwnedFd>>,
    /// Path below the root, by watch descriptor.
    directories: HashMap<i32, PathBuf>,
    /// Found while a new directory was searched; the kernel may report their creation as well.
    announced: HashSet<PathBuf>,
}

impl Watch {
    /// Begins to watch. Blocks; must run inside the runtime.
    pub(super) fn open(root: PathBuf, what: What) -> Result<Self, FsError> {
        let failed = |error: std::io::Error| FsError::io(&root, error);
        if !fs::metadata(&root).map_err(failed)?.is_dir() {
            return Err(FsError::NotADirectory(root));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the magic numbers have 32 bits
        let kind = rustix::fs::statfs(&root).map_err(|errno| failed(errno.into()))?.f_type as u32;
        if NETWORK_FILE_SYSTEMS.contains(&kind) && !what.allow_network_mounts {
            return Err(FsError::NetworkMount(root));
        }
        let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(std::io::Error::from)
            .and_then(|fd| sys::readiness::watch(fd, Interest::READABLE))
            .map_err(failed)?;
        let mut watch = Self {
            root,
            what,
            descriptor: Arc::new(descriptor),
            directories: HashMap::new(),
            announced: HashSet::new(),
        };
        watch.add(Path::new(""), &mut |_| {})?;
        Ok(watch)
    }

    /// Watches a directory below the root, and, if recursive, all below it; tells `found` of every entry there.
    fn add(&mut self, relative: &Path, found: &mut impl FnMut(&Path)) -> Result<(), FsError> {
        let mut pending = vec![relative.to_owned()];
        while let Some(relative) = pending.pop() {
            if self.directories.len() >= limits::WATCHED_DIRECTORIES {
                return Err(FsError::TooMany("directories to watch"));
            }
            let path = self.root.join(&relative);
            // A link to a directory is an entry, not a subdirectory; only the root may be one.
            let flags = if relative.as_os_str().is_empty() { EVENTS } else { EVENTS.union(WatchFlags::DONT_FOLLOW) };
            match inotify::add_watch(self.descriptor.get_ref(), &path, flags) {
                Ok(number) => self.directories.insert(number, relative.clone()),
                Err(Errno::NOENT | Errno::NOTDIR) if !relative.as_os_str().is_empty() => continue,
                Err(Errno::NOSPC) => return Err(FsError::TooMany("directories to watch")),
                Err(errno) => return Err(FsError::io(path, errno.into())),
            };
            if !self.what.recursive {
                return Ok(());
            }
            for child in fs::read_dir(&path).into_iter().flatten().flatten() {
                let relative = relative.join(child.file_name());
                found(&relative);
                if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                    pending.push(relative);
                }
            }
        }
        Ok(())
    }

    /// Returns when events may be queued. The descriptor stays ready until [`Self::drain`] has emptied it.
    pub(super) async fn wait(&self) {
        wait(&self.descriptor).await;
    }

    /// Takes everything the kernel has queued. Blocks only on the file system.
    pub(super) fn drain(&mut self) -> Result<Vec<FilesystemEvent>, FsError> {
        let mut events = Vec::new();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 16 * 1024];
        let descriptor = Arc::clone(&self.descriptor);
        let mut reader = inotify::Reader::new(descriptor.get_ref(), &mut buffer);
        while events.len() < limits::WATCHER_EVENTS || !reader.is_buffer_empty() {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
                    self.translate(event.wd(), event.events(), name.as_deref(), &mut events)?;
                }
                Err(Errno::AGAIN) => {
                    // Whatever was announced twice is past.
                    self.announced.clear();
                    break;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(FsError::io(&self.root, errno.into())),
            }
        }
        self.fill(&mut events);
        Ok(events)
    }

    fn translate(
        &mut self,
        number: i32,
        flags: ReadFlags,
        name: Option<&OsStr>,
        events: &mut Vec<FilesystemEvent>,
    ) -> Result<(), FsError> {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Err(FsError::TooMany("events at once"));
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.directories.remove(&number);
            return Ok(());
        }
        // Without a name it is about a watched directory itself; its parent's watch reports that too.
        let (Some(directory), Some(name)) = (self.directories.get(&number), name) else { return Ok(()) };
        let relative = directory.join(name);
        let is_new = flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        if is_new && self.announced.remove(&relative) {
            return Ok(());
        }
        events.extend(kinds(flags).map(|kind| event(&relative, kind)));
        if self.what.recursive && flags.contains(ReadFlags::ISDIR) {
            if is_new {
                let mut found = Vec::new();
                self.add(&relative, &mut |path| found.push(path.to_owned()))?;
                events.extend(found.iter().map(|path| event(path, EventType::Create)));
                self.announced.extend(found);
            } else if flags.contains(ReadFlags::MOVED_FROM) {
                self.forget(&relative);
            }
        }
        Ok(())
    }

    /// A directory that was moved away keeps its watches under names that are no longer true.
    fn forget(&mut self, relative: &Path) {
        let gone = self.directories.iter().filter(|(_, path)| path.starts_with(relative)).map(|(number, _)| *number);
        for number in gone.collect::<Vec<_>>() {
            self.directories.remove(&number);
            let _ = inotify::remove_watch(self.descriptor.get_ref(), number);
        }
    }

    fn fill(&self, events: &mut [FilesystemEvent]) {
        if self.what.include_entry && !events.is_empty() {
            let names = Names::load();
            for event in events {
                event.entry = entry(&self.root.join(&event.name), &names).ok().into();
            }
        }
    }
}

/// Readiness is looked at, not consumed: a poll after each drain finds out what is left.
async fn wait(descriptor: &AsyncFd<OwnedFd>) {
    loop {
        match descriptor.readable().await {
            Ok(mut ready) => {
                let queued = rustix::io::ioctl_fionread(descriptor.get_ref()).unwrap_or(1);
                if queued > 0 {
                    return;
                }
                ready.clear_ready();
            }
            Err(_) => return,
        }
    }
}

fn kinds(flags: ReadFlags) -> impl Iterator<Item = EventType> {
    [
        (ReadFlags::CREATE | ReadFlags::MOVED_TO, EventType::Create),
        (ReadFlags::MOVED_FROM, EventType::Rename),
        (ReadFlags::ATTRIB, EventType::Chmod),
        (ReadFlags::MODIFY, EventType::Write),
        (ReadFlags::DELETE, EventType::Remove),
    ]
    .into_iter()
    .filter(move |(bits, _)| flags.intersects(*bits))
    .map(|(_, kind)| kind)
}

fn event(relative: &Path, kind: EventType) -> FilesystemEvent {
    FilesystemEvent { name: relative.to_string_lossy().into_owned(), r#type: kind.into(), ..Default::default() }
}

/// `start`, then events and keep-alives until the client leaves.
pub(super) fn events(
    watch: Watch,
    keepalive: Duration,
) -> impl Stream<Item = Result<WatchDirResponse, ConnectError>> + Send {
    let start = VecDeque::from([response(StartEvent::default())]);
    stream::unfold((Some(watch), start), move |(watch, mut ready)| async move {
        let mut watch = watch?;
        loop {
            if let Some(message) = ready.pop_front() {
                return Some((Ok(message), (Some(watch), ready)));
            }
            if tokio::time::timeout(keepalive, watch.wait()).await.is_err() {
                return Some((Ok(response(KeepAlive::default())), (Some(watch), ready)));
            }
            let drained = blocking(move || watch.drain().map(|events| (watch, events))).await;
            match drained {
                Ok((returned, events)) => {
                    watch = returned;
                    ready.extend(events.into_iter().map(response));
                }
                Err(error) => return Some((Err(FsError::into(error)), (None, ready))),
            }
        }
    })
}

fn response(event: impl Into<Event>) -> WatchDirResponse {
    WatchDirResponse { event: Some(event.into()), ..Default::default() }
}
