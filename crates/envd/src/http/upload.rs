//! `POST /files`: writes files in place, as the body arrives.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode, Uri};
use serde::Serialize;
use tokio::task::JoinHandle;

use super::auth::FileQuery;
use super::body;
use super::refusal::Refusal;
use crate::daemon::{Daemon, blocking};
use crate::filesystem::{FsError, make_parents, metadata};
use crate::users::User;
use crate::{limits, paths};

/// A file that was written.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    path: String,
    name: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

/// Takes `multipart/form-data` with parts named `file`, or the content itself as `application/octet-stream`.
pub(super) async fn upload(
    State(daemon): State<Arc<Daemon>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Vec<Written>>, Refusal> {
    let query = FileQuery::of(&uri)?;
    query.authorise(&daemon, &headers, "write")?;
    let metadata = requested_metadata(&headers)?;
    let content = body::content(&headers, body)?;
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let username = query.username.clone();
    let (user, workdir) = blocking({
        let daemon = Arc::clone(&daemon);
        move || {
            let user = daemon.user(username.as_deref()).map_err(Refusal::from)?;
            Ok::<_, Refusal>((user, daemon.settings.read(|settings| settings.workdir.clone())))
        }
    })
    .await?;
    let mut upload = Upload { user, workdir, metadata, seen: HashSet::new(), written: Vec::new() };
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        "multipart/form-data" => {
            let boundary =
                multer::parse_boundary(content_type).map_err(|error| Refusal::bad_request(error.to_string()))?;
            upload.parts(multer::Multipart::new(body::late_end(content), boundary), &query.path).await?;
        }
        "application/octet-stream" if query.path.is_empty() => {
            return Err(Refusal::bad_request("an octet-stream upload needs the query parameter path"));
        }
        "application/octet-stream" => upload.file(&query.path, content).await?,
        other => return Err(Refusal::bad_request(format!("unsupported Content-Type: '{other}'"))),
    }
    Ok(Json(upload.written))
}

/// `X-Metadata-<key>: <value>`, keys in lower case.
fn requested_metadata(headers: &HeaderMap) -> Result<BTreeMap<String, String>, Refusal> {
    let mut metadata = BTreeMap::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix("x-metadata-") else { continue };
        let value = value.to_str().ok().filter(|value| value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        let value = value.ok_or_else(|| Refusal::bad_request(format!("metadata '{key}' is not printable ASCII")))?;
        if key.is_empty() || key.len() > limits::METADATA_KEY {
            return Err(Refusal::bad_request("a metadata key must have 1 to 246 bytes"));
        }
        metadata.insert(key.to_owned(), value.to_owned());
    }
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > limits::METADATA_BYTES {
        return Err(Refusal::bad_request("metadata must not exceed 4096 bytes"));
    }
    Ok(metadata)
}

struct Upload {
    user: User,
    workdir: Option<PathBuf>,
    metadata: BTreeMap<String, String>,
    seen: HashSet<PathBuf>,
    written: Vec<Written>,
}

impl Upload {
    /// A `path` in the query names the one file; else each part's file name does, directories included.
    async fn parts(&mut self, mut parts: multer::Multipart<'_>, path: &str) -> Result<(), Refusal> {
        while let Some(part) = parts.next_field().await.map_err(broken)? {
            if part.name() != Some("file") {
                continue;
            }
            let target = match (path, part.file_name()) {
                ("", Some(name)) => name.to_owned(),
                ("", None) => {
                    return Err(Refusal::bad_request("a part without a file name needs the query parameter path"));
                }
                (path, _) => path.to_owned(),
            };
            if self.written.len() >= limits::UPLOAD_FILES {
                return Err(Refusal::bad_request("too many files in one upload"));
            }
            self.file(&target, part).await?;
        }
        Ok(())
    }

    async fn file<E: std::error::Error>(
        &mut self,
        path: &str,
        mut content: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), Refusal> {
        let path = paths::resolve(path, &self.user.home, self.workdir.as_deref()).map_err(FsError::from)?;
        if !self.seen.insert(path.clone()) {
            return Err(Refusal::bad_request(format!("two files for one path: '{}'", path.display())));
        }
        let (target, user, metadata) = (path.clone(), self.user.clone(), self.metadata.clone());
        let file = blocking(move || create(&target, &user, &metadata)).await?;
        let failed = |error| FsError::io(&path, error);
        let (mut writer, mut buffer) = (Writer::Idle(file, Vec::new()), Vec::new());
        while let Some(chunk) = content.next().await {
            let mut chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    // Who is told that it failed may try again: nothing of this one may be written after that.
                    writer.rest().await.map_err(failed)?;
                    return Err(broken(error));
                }
            };
            while !chunk.is_empty() {
                let room = limits::WRITE_CHUNK - buffer.len();
                buffer.extend_from_slice(&chunk.split_to(chunk.len().min(room)));
                if buffer.len() == limits::WRITE_CHUNK {
                    (writer, buffer) = writer.write(buffer).await.map_err(failed)?;
                }
            }
        }
        if !buffer.is_empty() {
            (writer, _) = writer.write(buffer).await.map_err(failed)?;
        }
        writer.rest().await.map_err(failed)?;
        self.written.push(Written {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            path: path.to_string_lossy().into_owned(),
            r#type: "file",
            metadata: self.metadata.clone(),
        });
        Ok(())
    }
}

/// Writes one buffer while another fills. Each write but the last is a whole [`limits::WRITE_CHUNK`]: a small file is one
/// write, hence one event for whoever watches it, and those of a large one begin where the page cache can take large folios.
enum Writer {
    /// With the buffer that was written last.
    Idle(File, Vec<u8>),
    Busy(JoinHandle<io::Result<(File, Vec<u8>)>>),
}

impl Writer {
    /// Begins to write what is in `full`, once the write before it has ended; answers an empty buffer.
    async fn write(self, mut full: Vec<u8>) -> io::Result<(Self, Vec<u8>)> {
        let (mut file, empty) = self.rest().await?;
        let write = tokio::task::spawn_blocking(move || {
            file.write_all(&full)?;
            full.clear();
            Ok((file, full))
        });
        Ok((Self::Busy(write), empty))
    }

    /// Returns when nothing is being written.
    async fn rest(self) -> io::Result<(File, Vec<u8>)> {
        match self {
            Self::Idle(file, buffer) => Ok((file, buffer)),
            Self::Busy(write) => write.await.map_err(io::Error::other)?,
        }
    }
}

/// Whatever broke is the client's doing: it left, or sent something else than it announced.
fn broken(error: impl std::error::Error) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, format!("reading the upload: {error}"))
}

/// Opens the target for writing, in the order watchers expect: a new file is created, then given to its owner; an
/// existing one is given first and truncated in place, which keeps its inode, links and mode.
fn create(path: &Path, user: &User, metadata: &BTreeMap<String, String>) -> Result<File, FsError> {
    let failed = |error| FsError::io(path, error);
    make_parents(path, user)?;
    let mut options = OpenOptions::new();
    let no_waiting = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits().cast_signed();
    options.write(true).mode(0o666).custom_flags(no_waiting);
    let file = match options.clone().create_new(true).open(path) {
        Ok(file) => {
            fchown(&file, Some(user.uid), Some(user.gid)).map_err(failed)?;
            file
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => return Err(FsError::IsADirectory(path.to_owned())),
                Ok(metadata) if !metadata.is_file() => return Err(FsError::NotRegular(path.to_owned())),
                Ok(_) => chown(path, Some(user.uid), Some(user.gid)).map_err(failed)?,
                // A link to nothing yet: its target is created.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
            options.create(true).truncate(true).open(path).map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    metadata::replace(&file, metadata).map_err(|errno| failed(errno.into()))?;
    Ok(file)
}
