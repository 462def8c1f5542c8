//! `wrenn capsule cp`: one regular file, streamed either way.

use crate::cli::{CpArgs, capsule_id};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Output};
use client::{Client, Download};
use model::CapsuleId;
use serde::Serialize;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// `-`: stdin or stdout.
    Standard,
    /// A file or directory here.
    Local(PathBuf),
    /// A path in a capsule.
    Guest(CapsuleId, String),
}

impl Place {
    /// `ID:PATH` is a capsule's only when what precedes the colon is an id, so `C:\x` and `a:b` stay local.
    fn parse(text: &str) -> Self {
        match text.split_once(':').and_then(|(id, path)| Some((capsule_id(id).ok()?, path))) {
            Some((id, path)) => Self::Guest(id, path.to_owned()),
            None if text == "-" => Self::Standard,
            None => Self::Local(text.into()),
        }
    }
}

#[derive(Debug, Serialize)]
struct Copied {
    from: String,
    to: String,
    /// Unknown when it came from stdin.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

/// Copies.
pub async fn run(client: &Client, args: &CpArgs, out: Output) -> Outcome {
    let bytes = match (Place::parse(&args.from), Place::parse(&args.to)) {
        (Place::Guest(id, path), to @ (Place::Local(_) | Place::Standard)) => {
            Some(download(client, id, &path, to).await?)
        }
        (from @ (Place::Local(_) | Place::Standard), Place::Guest(id, path)) => upload(client, &from, id, path).await?,
        (Place::Guest(..), Place::Guest(..)) => return Err(usage("both sides are capsules")),
        _ => return Err(usage("neither side is a capsule")),
    };
    if out.json {
        output::object(&Copied { from: args.from.clone(), to: args.to.clone(), bytes })?;
    }
    Ok(())
}

fn usage(what: &str) -> Failure {
    Failure::new(Exit::Usage, what)
        .hint("one side is a file, the other CAPSULE:PATH, as in `wrenn capsule cp notes.txt cl-…:/root/`")
}

async fn upload(client: &Client, from: &Place, id: CapsuleId, path: String) -> Outcome<Option<u64>> {
    let Place::Local(file) = from else {
        if path.ends_with('/') || path.is_empty() {
            return Err(Failure::new(Exit::Usage, "stdin has no name: give the whole path in the capsule"));
        }
        let stdin = standard(io::stdin()).map_err(|error| Failure::path("read", Path::new("stdin"), &error))?;
        return Ok(client.write_file(id, &path, stdin).await.map(|()| None)?);
    };
    let path = match file.file_name() {
        Some(name) if path.is_empty() || path.ends_with('/') => format!("{path}{}", name.to_string_lossy()),
        _ => path,
    };
    let source = File::open(file).await.map_err(|error| Failure::path("read", file, &error))?;
    let facts = source.metadata().await.map_err(|error| Failure::path("read", file, &error))?;
    if facts.is_dir() {
        return Err(directory(&file.display().to_string()));
    }
    client.write_file(id, &path, source).await?;
    Ok(Some(facts.len()))
}

fn directory(path: &str) -> Failure {
    Failure::new(Exit::Usage, format_args!("{path} is a directory; cp copies single files"))
        .hint("pack it: `tar c DIR | wrenn capsule cp - CAPSULE:/tmp/x.tar`")
}

async fn download(client: &Client, id: CapsuleId, path: &str, to: Place) -> Outcome<u64> {
    let source = client.read_file(id, path).await?;
    let Place::Local(target) = to else {
        let name = Path::new("stdout");
        let mut stdout = standard(io::stdout()).map_err(|error| Failure::path("write", name, &error))?;
        return receive(source, &mut stdout, name).await;
    };
    let target = if target.is_dir() { target.join(base_name(path)?) } else { target };
    // A device or pipe is written to; only a regular file is replaced, and only by a whole one.
    if target.exists() && !target.is_file() {
        let mut file = File::create(&target).await.map_err(|error| Failure::path("write", &target, &error))?;
        return receive(source, &mut file, &target).await;
    }
    let partial = partial_name(&target)?;
    let result = replace(source, &partial, &target).await;
    if result.is_err() {
        let _ = tokio::fs::remove_file(&partial).await;
    }
    result
}

async fn replace(source: Download, partial: &Path, target: &Path) -> Outcome<u64> {
    let mut file = File::create(partial).await.map_err(|error| Failure::path("write", partial, &error))?;
    let bytes = receive(source, &mut file, partial).await?;
    drop(file);
    tokio::fs::rename(partial, target).await.map_err(|error| Failure::path("write", target, &error))?;
    Ok(bytes)
}

async fn receive(mut source: Download, sink: &mut (impl AsyncWrite + Unpin), name: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    while let Some(chunk) = source.chunk().await? {
        sink.write_all(&chunk).await.map_err(|error| Failure::path("write", name, &error))?;
        bytes += chunk.len() as u64;
    }
    sink.flush().await.map_err(|error| Failure::path("write", name, &error))?;
    Ok(bytes)
}

/// A standard stream as a file: unbuffered, and without the lines that `std` waits for.
fn standard(stream: impl AsFd) -> io::Result<File> {
    let owned = stream.as_fd().try_clone_to_owned()?;
    Ok(File::from_std(owned.into()))
}

fn base_name(path: &str) -> Outcome<&str> {
    let name = path.rsplit('/').next().unwrap_or_default();
    if matches!(name, "" | "." | "..") { Err(directory(path)) } else { Ok(name) }
}

/// Beside the target, so that the rename stays on one file system; with our process id, so that two copies do not meet.
fn partial_name(target: &Path) -> Outcome<PathBuf> {
    let name = target.file_name().ok_or_else(|| directory(&target.display().to_string()))?;
    let mut partial = OsString::from(".");
    partial.push(name);
    partial.push(format!(".{}.part", std::process::id()));
    Ok(target.with_file_name(partial))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let id = CapsuleId::random();
        let rows = [
            (format!("{id}:/a:b"), Place::Guest(id, "/a:b".to_owned())),
            (format!("{}:x", id.digits()), Place::Guest(id, "x".to_owned())),
            ("a:b".to_owned(), Place::Local("a:b".into())),
            ("-".to_owned(), Place::Standard),
        ];
        for (text, place) in rows {
            assert_eq!(Place::parse(&text), place, "{text}");
        }
    }
}
