//! Files: streams in both directions, directories.

use super::{CHUNK_BYTES_MAX, Guest, call};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use model::{Error, rest};
use proto::filesystem as wire;
use proto::hostagent::v1 as agent;
use proto::hostagent::v1::write_file_request::{Content, Meta};
use std::pin::pin;
use tokio::sync::mpsc;

/// Pieces of an upload held between its reader and its sender.
const UPLOAD_QUEUE: usize = 8;

/// Content of a file, in pieces of at most 64 KiB.
pub type FileContent = BoxStream<'static, Result<Bytes, Error>>;

/// A piece of an upload. The end is said, not implied by a closed queue: a file whose reader failed or was
/// dropped must never look complete to the guest.
enum Piece {
    Bytes(Bytes),
    End,
}

impl Guest {
    /// Reads a file. Errors about the path are returned before the first piece.
    pub async fn read_file(&self, path: &str) -> Result<FileContent, Error> {
        let request = agent::ReadFileRequest {
            target: Some(self.target(None)).into(),
            path: path.to_owned(),
            ..Default::default()
        };
        let answer = self.link.streams().read_file(request).await.map_err(|e| hostlink::error(&e))?;
        let content = stream::unfold(Some(answer), |answer| async {
            let mut answer = answer?;
            match answer.message::<agent::ReadFileResponse>().await {
                Ok(message) => message.map(|m| (Ok(Bytes::from(m.to_owned_message().chunk)), Some(answer))),
                Err(error) => Some((Err(hostlink::error(&error)), None)),
            }
        })
        // An empty file has ended already when the caller asks for its first piece.
        .fuse();
        let mut content = content.boxed();
        let first = content.next().await.transpose()?;
        Ok(stream::iter(first.map(Ok)).chain(content).boxed())
    }

    /// Writes a file and its missing parent directories, replacing what was there. When `body` fails the upload is
    /// broken off and its error returned.
    pub async fn write_file<S, E>(&self, path: &str, body: S) -> Result<(), Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<Error>,
    {
        let (pieces, queue) = mpsc::channel(UPLOAD_QUEUE);
        let mut sending = pin!(self.send_file(path, queue));
        tokio::select! {
            answer = &mut sending => return answer,
            read = feed(body, pieces) => read?,
        }
        sending.await
    }

    async fn send_file(&self, path: &str, queue: mpsc::Receiver<Piece>) -> Result<(), Error> {
        let meta = Meta { target: Some(self.target(None)).into(), path: path.to_owned(), ..Default::default() };
        let chunks = stream::unfold(queue, |mut queue| async {
            match queue.recv().await {
                Some(Piece::Bytes(bytes)) => Some((Content::Chunk(bytes.into()), queue)),
                Some(Piece::End) => None,
                None => std::future::pending().await,
            }
        });
        let requests = stream::iter([Content::from(meta)])
            .chain(chunks)
            .map(|content| agent::WriteFileRequest { content: Some(content), ..Default::default() });
        let answer = self.link.streams().write_file(requests).await;
        answer.map(drop).map_err(|e| hostlink::error(&e))
    }

    /// A directory's entries, in walk order. `depth` 1 = direct children.
    pub async fn list_dir(&self, path: &str, depth: u32) -> Result<Vec<rest::FileEntry>, Error> {
        let request = agent::ListDirRequest {
            target: Some(self.target(None)).into(),
            request: Some(wire::ListDirRequest { path: path.to_owned(), depth, ..Default::default() }).into(),
            ..Default::default()
        };
        let answer = self.link.rpc().list_dir_with_options(request, call()).await;
        let entries = answer.map_err(|e| hostlink::error(&e))?.into_owned().entries;
        Ok(entries.into_iter().map(entry).collect())
    }

    /// One entry.
    pub async fn stat(&self, path: &str) -> Result<rest::FileEntry, Error> {
        let request = agent::StatRequest {
            target: Some(self.target(None)).into(),
            request: Some(wire::StatRequest { path: path.to_owned(), ..Default::default() }).into(),
            ..Default::default()
        };
        let answer = self.link.rpc().stat_with_options(request, call()).await;
        let entry = answer.map_err(|e| hostlink::error(&e))?.into_owned().entry.into_option();
        Ok(self::entry(entry.unwrap_or_default()))
    }

    /// Makes a directory and its missing parents; [`model::Code::Conflict`] when it exists.
    pub async fn make_dir(&self, path: &str) -> Result<rest::FileEntry, Error> {
        let request = agent::MakeDirRequest {
            target: Some(self.target(None)).into(),
            request: Some(wire::MakeDirRequest { path: path.to_owned(), ..Default::default() }).into(),
            ..Default::default()
        };
        let answer = self.link.rpc().make_dir_with_options(request, call()).await;
        let entry = answer.map_err(|e| hostlink::error(&e))?.into_owned().entry.into_option();
        Ok(self::entry(entry.unwrap_or_default()))
    }

    /// Removes a file, or a directory with all it holds.
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        let request = agent::RemoveRequest {
            target: Some(self.target(None)).into(),
            request: Some(wire::RemoveRequest { path: path.to_owned(), ..Default::default() }).into(),
            ..Default::default()
        };
        let answer = self.link.rpc().remove_with_options(request, call()).await;
        answer.map(drop).map_err(|e| hostlink::error(&e))
    }
}

/// Cuts a body into pieces; ends early, and well, when nobody takes them any more: then the answer says why.
async fn feed<S, E>(body: S, pieces: mpsc::Sender<Piece>) -> Result<(), Error>
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: Into<Error>,
{
    let mut body = pin!(body);
    while let Some(bytes) = body.next().await {
        let mut bytes = bytes.map_err(Into::into)?;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX));
            if pieces.send(Piece::Bytes(piece)).await.is_err() {
                return Ok(());
            }
        }
    }
    // Nobody takes it = the answer is there already.
    let _ = pieces.send(Piece::End).await;
    Ok(())
}

fn entry(entry: wire::EntryInfo) -> rest::FileEntry {
    let kind = match entry.r#type.as_known() {
        _ if entry.symlink_target.is_some() => rest::FileType::Symlink,
        Some(wire::FileType::FILE_TYPE_FILE) => rest::FileType::File,
        Some(wire::FileType::FILE_TYPE_DIRECTORY) => rest::FileType::Directory,
        Some(wire::FileType::FILE_TYPE_SYMLINK) => rest::FileType::Symlink,
        _ => rest::FileType::Unknown,
    };
    rest::FileEntry {
        name: entry.name,
        path: entry.path,
        kind,
        size: entry.size,
        mode: entry.mode,
        permissions: entry.permissions,
        owner: entry.owner,
        group: entry.group,
        modified_at: entry.modified_time.as_option().map_or(0, |time| time.seconds),
        symlink_target: entry.symlink_target,
    }
}
