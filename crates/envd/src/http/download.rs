//! `GET /files`: a file, whole or in part, compressed if the client likes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::{Buf as _, Bytes};
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LAST_MODIFIED,
    VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};

use super::auth::FileQuery;
use super::encoding::{self, Encoding};
use super::range::{self, Wanted};
use super::reading::{Reader, answer};
use super::refusal::Refusal;
use crate::daemon::{Daemon, blocking};
use crate::filesystem::FsError;
use crate::{limits, paths};

/// Serves a file.
pub(super) async fn download(
    State(daemon): State<Arc<Daemon>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let query = FileQuery::of(&uri)?;
    query.authorise(&daemon, &headers, "read")?;
    let (found, path) = blocking(move || {
        let user = daemon.user(query.username.as_deref()).map_err(FsError::from)?;
        let workdir = daemon.settings.read(|settings| settings.workdir.clone());
        let path = paths::resolve(&query.path, &user.home, workdir.as_deref()).map_err(FsError::from)?;
        Found::open(&path).map(|found| (found, path))
    })
    .await?;
    let encoding = encoding::choose(&headers)
        .ok_or_else(|| Refusal::new(StatusCode::NOT_ACCEPTABLE, "no acceptable encoding; have gzip and identity"))?;
    let mut response = found.answer(&headers, encoding)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let content_type = mime_guess::from_path(&path).first_raw().unwrap_or("application/octet-stream");
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_DISPOSITION, disposition(&name));
    Ok(response)
}

/// An opened regular file.
struct Found {
    content: Content,
    modified: Option<SystemTime>,
}

enum Content {
    /// Small, and read already.
    Whole(Bytes),
    /// Of this size when it was opened.
    Sized(File, u64),
    /// Longer than its size says, like most of `/proc`: what was read, and the rest.
    Unsized(Bytes, File),
}

impl Found {
    /// Looks before it opens: opening a device can have effects, and a pipe would wait for a writer.
    fn open(path: &Path) -> Result<Self, FsError> {
        let failed = |error| FsError::io(path, error);
        let check = |metadata: &fs::Metadata| match metadata {
            metadata if metadata.is_dir() => Err(FsError::IsADirectory(path.to_owned())),
            metadata if !metadata.is_file() => Err(FsError::NotRegular(path.to_owned())),
            _ => Ok(()),
        };
        check(&fs::metadata(path).map_err(failed)?)?;
        let no_waiting = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits();
        let mut file =
            OpenOptions::new().read(true).custom_flags(no_waiting.cast_signed()).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        check(&metadata)?;
        let content = if metadata.len() > limits::WHOLE_FILE as u64 {
            Content::Sized(file, metadata.len())
        } else {
            // The size is not to be trusted: 0 in /proc, a page in /sys.
            let mut start = Vec::new();
            (&mut file).take(limits::WHOLE_FILE as u64 + 1).read_to_end(&mut start).map_err(failed)?;
            let whole = start.len() <= limits::WHOLE_FILE;
            if whole { Content::Whole(start.into()) } else { Content::Unsized(start.into(), file) }
        };
        Ok(Self { content, modified: metadata.modified().ok() })
    }

    fn answer(self, headers: &HeaderMap, encoding: Encoding) -> Result<Response, Refusal> {
        let size = match &self.content {
            Content::Whole(bytes) => Some(bytes.len() as u64),
            Content::Sized(_, size) => Some(*size),
            Content::Unsized(..) => None,
        };
        if encoding == Encoding::Gzip {
            let mut response = answer(self.content.reader(0, None)?, encoding);
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            return Ok(response);
        }
        let wanted = size.map_or(Wanted::Whole, |size| range::wanted(headers, size, self.modified));
        let mut response = match (wanted, size) {
            (Wanted::NotModified, _) => StatusCode::NOT_MODIFIED.into_response(),
            (Wanted::Unsatisfiable, size) => {
                let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
                insert(&mut response, CONTENT_RANGE, format!("bytes */{}", size.unwrap_or_default()));
                response
            }
            (Wanted::Part { start, length }, size) => {
                let mut response = answer(self.content.reader(start, Some(length))?, encoding);
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                insert(&mut response, CONTENT_LENGTH, length.to_string());
                let (end, size) = (start + length - 1, size.unwrap_or_default());
                insert(&mut response, CONTENT_RANGE, format!("bytes {start}-{end}/{size}"));
                response
            }
            (Wanted::Whole, size) => {
                let mut response = answer(self.content.reader(0, size)?, encoding);
                if let Some(size) = size {
                    insert(&mut response, CONTENT_LENGTH, size.to_string());
                }
                response
            }
        };
        if size.is_some() {
            insert(&mut response, ACCEPT_RANGES, "bytes".to_owned());
        }
        if let Some(modified) = self.modified {
            insert(&mut response, LAST_MODIFIED, httpdate::fmt_http_date(modified));
        }
        Ok(response)
    }
}

impl Content {
    /// From `start` on, `length` bytes or to the end.
    fn reader(self, start: u64, length: Option<u64>) -> Result<Reader, Refusal> {
        let left = length.unwrap_or(u64::MAX);
        Ok(match self {
            Self::Whole(mut begin) => {
                begin.advance(usize::try_from(start).unwrap_or(usize::MAX).min(begin.len()));
                Reader { begin, file: None, left }
            }
            Self::Sized(mut file, _) => {
                file.seek(SeekFrom::Start(start))
                    .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
                Reader { begin: Bytes::new(), file: Some(file), left }
            }
            Self::Unsized(begin, file) => Reader { begin, file: Some(file), left },
        })
    }
}

fn insert(response: &mut Response, name: http::HeaderName, value: String) {
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
        response.headers_mut().insert(name, value);
    }
}

/// `inline; filename=…` (RFC 6266); names beyond ASCII by RFC 8187.
fn disposition(name: &str) -> HeaderValue {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte);
    let value = if !name.is_empty() && name.bytes().all(is_token) {
        format!("inline; filename={name}")
    } else if name.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        format!("inline; filename=\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        let encoded: String = name
            .bytes()
            .map(|byte| if is_token(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect();
        format!("inline; filename*=utf-8''{encoded}")
    };
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("inline"))
}
