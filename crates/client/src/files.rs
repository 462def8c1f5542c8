//! Files of a capsule. Contents are streamed: neither side holds a whole file.

use crate::error::Error;
use crate::http::{Client, SourceFault};
use bytes::Bytes;
use futures_util::TryStreamExt;
use model::CapsuleId;
use model::rest::{FileEntry, FileList, FileMade, ListRequest, PathRequest};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Method, RequestBuilder, Response};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

/// Streams end when they end: only a day without an end counts as a fault.
const STREAM_LIMIT: Duration = Duration::from_hours(24);

/// The contents of a file on their way here.
#[derive(Debug)]
pub struct Download {
    client: Client,
    response: Response,
}

impl Download {
    /// The next bytes; `None` at the end of the file. An error means that what came before is not the whole file.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.response.chunk().await.map_err(|error| self.client.transport_error(&error))
    }
}

impl Client {
    /// Begins to read a regular file.
    pub async fn read_file(&self, id: CapsuleId, path: &str) -> Result<Download, Error> {
        let call =
            self.files(id, &["stream", "read"]).timeout(STREAM_LIMIT).json(&PathRequest { path: path.to_owned() });
        Ok(Download { client: self.clone(), response: self.send(call).await? })
    }

    /// Writes a file, replacing what is there and making missing directories.
    pub async fn write_file<R>(&self, id: CapsuleId, path: &str, contents: R) -> Result<(), Error>
    where
        R: AsyncRead + Send + 'static,
    {
        let contents =
            ReaderStream::new(contents).map_err(|error| SourceFault { kind: error.kind(), message: error.to_string() });
        // The server takes `path` only before `file`: it streams, and cannot hold the file until it knows where to.
        let form = Form::new()
            .text("path", path.to_owned())
            .part("file", Part::stream(Body::wrap_stream(contents)).file_name("upload"));
        self.send(self.files(id, &["stream", "write"]).timeout(STREAM_LIMIT).multipart(form)).await.map(drop)
    }

    /// What a directory holds, `depth` levels deep; 1 = its direct children.
    pub async fn list_dir(&self, id: CapsuleId, path: &str, depth: u32) -> Result<Vec<FileEntry>, Error> {
        let list = ListRequest { path: path.to_owned(), depth: Some(depth) };
        let answer: FileList = self.fetch(self.files(id, &["list"]).json(&list)).await?;
        Ok(answer.entries)
    }

    /// Makes a directory and those above it.
    pub async fn make_dir(&self, id: CapsuleId, path: &str) -> Result<FileEntry, Error> {
        let answer: FileMade =
            self.fetch(self.files(id, &["mkdir"]).json(&PathRequest { path: path.to_owned() })).await?;
        Ok(answer.entry)
    }

    /// Removes a file, or a directory with all it holds.
    pub async fn remove_file(&self, id: CapsuleId, path: &str) -> Result<(), Error> {
        self.send(self.files(id, &["remove"]).json(&PathRequest { path: path.to_owned() })).await.map(drop)
    }

    fn files(&self, id: CapsuleId, route: &[&str]) -> RequestBuilder {
        let id = id.to_string();
        self.request(Method::POST, &[&["capsules", &id, "files"], route].concat())
    }
}
