//! Files over real HTTP: the RPC service, transfers, watchers.

mod support;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use support::{Daemon, Result, eventually, kinds, text};

async fn fs(daemon: &Daemon, method: &str, message: Value) -> Result<std::result::Result<Value, String>> {
    daemon.rpc(&format!("filesystem.Filesystem/{method}"), message).await
}

/// A multipart body of `file` parts: name, content.
fn multipart(parts: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, content) in parts {
        let head = format!("--xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n");
        body.extend(head.as_bytes());
        body.extend(*content);
        body.extend(b"\r\n");
    }
    body.extend(b"--xx--\r\n");
    ("multipart/form-data; boundary=xx".into(), body)
}

fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}

async fn upload(daemon: &Daemon, query: &str, parts: &[(&str, &[u8])]) -> Result<support::Reply> {
    let (content_type, body) = multipart(parts);
    daemon
        .http(daemon.request(Method::POST, &format!("/files{query}")).header("content-type", content_type), body)
        .await
}

#[tokio::test]
async fn directories_are_made_moved_listed_and_removed() -> Result {
    let daemon = Daemon::start()?;
    let (a, file) = (daemon.file("a/b/c"), daemon.file("file"));
    std::fs::write(&file, "12345")?;
    let made = fs(&daemon, "MakeDir", json!({"path": a})).await??;
    assert_eq!(made["entry"]["type"], "FILE_TYPE_DIRECTORY");
    assert_eq!(made["entry"]["permissions"], "drwxr-xr-x");
    for (method, path, code) in [
        ("MakeDir", a.clone(), "already_exists"),
        ("MakeDir", file.clone(), "invalid_argument"),
        ("MakeDir", format!("{file}/x"), "invalid_argument"),
        ("Stat", daemon.file("missing"), "not_found"),
        ("Stat", "~other/x".into(), "invalid_argument"),
        ("ListDir", daemon.file("missing"), "not_found"),
        ("ListDir", file.clone(), "invalid_argument"),
    ] {
        assert_eq!(fs(&daemon, method, json!({"path": path})).await?, Err(code.into()), "{method} {path}");
    }
    let (source, destination) = (json!(daemon.file("missing")), json!(daemon.file("x")));
    let moved = fs(&daemon, "Move", json!({"source": source, "destination": destination})).await?;
    assert_eq!(moved, Err("not_found".into()));
    let destination = daemon.file("a/new/file");
    let moved = fs(&daemon, "Move", json!({"source": file, "destination": destination})).await??;
    assert_eq!((&moved["entry"]["size"], &moved["entry"]["path"]), (&json!("5"), &json!(destination)));

    symlink("b", daemon.file("a/link"))?;
    let listed = fs(&daemon, "ListDir", json!({"path": daemon.file("a"), "depth": 5})).await??;
    let names: Vec<_> = listed["entries"].as_array().into_iter().flatten().map(|entry| text(&entry["path"])).collect();
    let expected = ["a/b", "a/b/c", "a/link", "a/new", "a/new/file"].map(|name| daemon.file(name));
    assert_eq!(names, expected);
    let link = &listed["entries"][2];
    assert_eq!((&link["type"], &link["mode"]), (&json!("FILE_TYPE_DIRECTORY"), &json!(0o755)));
    assert_eq!(link["symlinkTarget"], daemon.file("a/b"));

    for _ in 0..2 {
        assert_eq!(fs(&daemon, "Remove", json!({"path": daemon.file("a")})).await?, Ok(json!({})));
    }
    assert!(!daemon.path().join("a").exists());
    Ok(())
}

#[tokio::test]
async fn an_upload_names_its_files_and_owns_them() -> Result {
    let mut daemon = Daemon::start()?;
    let (one, two) = (daemon.file("new/dir/one"), daemon.file("two"));
    std::fs::write(&two, "longer than before")?;
    std::fs::set_permissions(&two, std::fs::Permissions::from_mode(0o600))?;
    daemon.as_user("root")?;
    let reply = upload(&daemon, "?username=nobody", &[(&one, b"1"), (&two, b"22")]).await?;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    assert_eq!(
        reply.json(),
        json!([{"path": one, "name": "one", "type": "file"}, {"path": two, "name": "two", "type": "file"}])
    );
    assert_eq!((std::fs::read(&one)?, std::fs::read(&two)?), (b"1".to_vec(), b"22".to_vec()));
    let entry = &fs(&daemon, "Stat", json!({"path": one})).await??["entry"];
    assert_eq!((&entry["owner"], &entry["permissions"]), (&json!("nobody"), &json!("-rw-r--r--")));
    assert_eq!(fs(&daemon, "Stat", json!({"path": daemon.file("new")})).await??["entry"]["owner"], "nobody");
    // In place: the mode of an existing file stays.
    let entry = &fs(&daemon, "Stat", json!({"path": two})).await??["entry"];
    assert_eq!((&entry["owner"], &entry["permissions"]), (&json!("nobody"), &json!("-rw-------")));

    for (query, parts, status) in [
        (String::new(), vec![(one.as_str(), b"".as_slice()), (one.as_str(), b"")], 400),
        (format!("?path={}", daemon.path().display()), vec![("x", b"".as_slice())], 400),
        ("?path=/dev/null".into(), vec![("x", b"".as_slice())], 400),
        ("?path=x&username=no-such-user".into(), vec![("x", b"".as_slice())], 401),
        ("?path=~other/x".into(), vec![("x", b"".as_slice())], 400),
    ] {
        let reply = upload(&daemon, &query, &parts).await?;
        assert_eq!((reply.status.as_u16(), &reply.json()["code"]), (status, &json!(status)), "{query}");
    }
    Ok(())
}

#[tokio::test]
async fn content_arrives_raw_compressed_and_with_metadata() -> Result {
    let daemon = Daemon::start()?;
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 7).to_le_bytes()[0]).collect();
    let path = daemon.file("raw");
    let put = |query: String| daemon.request(Method::POST, &query).header("content-type", "application/octet-stream");
    let compressed = put(format!("/files?path={path}")).header("content-encoding", "gzip");
    let reply = daemon.http(compressed.header("X-Metadata-Color", "dark blue"), gzip(&content)?).await?;
    assert_eq!(reply.json()[0]["metadata"], json!({"color": "dark blue"}), "{reply:?}");
    assert!(std::fs::read(&path)? == content);
    let entry = fs(&daemon, "Stat", json!({"path": path})).await??;
    assert_eq!(entry["entry"]["metadata"], json!({"color": "dark blue"}));
    // Without metadata the next upload clears it.
    daemon.http(put(format!("/files?path={path}")), "x").await?;
    assert!(fs(&daemon, "Stat", json!({"path": path})).await??["entry"]["metadata"].is_null());

    let (content_type, body) = multipart(&[(&path, &content)]);
    let request = daemon.request(Method::POST, "/files").header("content-type", content_type);
    let reply = daemon.http(request.header("content-encoding", "gzip"), gzip(&body)?).await?;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(std::fs::read(&path)? == content);

    for request in [
        put("/files".into()),
        put(format!("/files?path={path}")).header("content-encoding", "br"),
        put(format!("/files?path={path}")).header("content-encoding", "gzip"),
        put(format!("/files?path={path}")).header("x-metadata-k", "v".repeat(5000)),
        daemon.request(Method::POST, &format!("/files?path={path}")),
    ] {
        assert_eq!(daemon.http(request, "plain").await?.status, StatusCode::BAD_REQUEST);
    }
    Ok(())
}

#[tokio::test]
async fn a_download_is_whole_partial_or_compressed() -> Result {
    let daemon = Daemon::start()?;
    let content: Vec<u8> = (0..2_000_000_u32).map(|number| (number / 9).to_le_bytes()[0]).collect();
    for (name, content) in [("large.bin", content.as_slice()), ("small.txt", b"0123456789"), ("empty", b"")] {
        let path = daemon.file(name);
        std::fs::write(&path, content)?;
        let get = || daemon.request(Method::GET, &format!("/files?path={path}"));
        let reply = daemon.http(get(), "").await?;
        assert!(reply.status == StatusCode::OK && reply.body == content, "{name}");
        assert_eq!(reply.header("content-length"), content.len().to_string());
        assert_eq!(reply.header("vary"), "Accept-Encoding");
        assert_eq!(reply.header("content-disposition"), format!("inline; filename={name}"));
        assert_eq!(reply.header("cache-control"), "");
        let modified = reply.header("last-modified").to_owned();
        let reply = daemon.http(get().header("if-modified-since", modified), "").await?;
        assert_eq!((reply.status, reply.body.len()), (StatusCode::NOT_MODIFIED, 0));

        let reply = daemon.http(get().header("accept-encoding", "zstd,gzip,br"), "").await?;
        assert_eq!((reply.header("content-encoding"), reply.header("content-length")), ("gzip", ""));
        let mut inflated = Vec::new();
        GzDecoder::new(&*reply.body).read_to_end(&mut inflated)?;
        assert!(inflated == content, "{name}");

        let reply = daemon.http(get().header("range", "bytes=3-6").header("accept-encoding", "gzip"), "").await?;
        if content.is_empty() {
            assert_eq!((reply.status, reply.header("content-range")), (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */0"));
        } else {
            assert_eq!((reply.status, &*reply.body), (StatusCode::PARTIAL_CONTENT, &content[3..7]));
            assert_eq!(reply.header("content-range"), format!("bytes 3-6/{}", content.len()));
        }
        let reply = daemon.http(get().header("accept-encoding", "identity;q=0, br"), "").await?;
        assert_eq!(reply.status, StatusCode::NOT_ACCEPTABLE);
    }
    Ok(())
}

#[tokio::test]
async fn only_regular_files_are_read_and_those_to_their_end() -> Result {
    let daemon = Daemon::start()?;
    let fifo = daemon.file("fifo");
    daemon.sh(&format!("mkfifo {fifo}")).await?;
    for (path, status) in [
        ("/dev/zero", 400),
        ("/dev/null", 400),
        (fifo.as_str(), 400),
        ("/etc", 400),
        ("/no/such/file", 404),
        ("~other/x", 400),
        ("/etc/passwd&username=no-such-user", 401),
    ] {
        let reply = daemon.get(&format!("/files?path={path}")).await?;
        assert_eq!((reply.status.as_u16(), &reply.json()["code"]), (status, &json!(status)), "{path}");
    }
    // Size 0, but not empty; and a page, but shorter.
    let reply = daemon.get("/files?path=/proc/sys/kernel/random/boot_id").await?;
    assert_eq!(reply.body, std::fs::read("/proc/sys/kernel/random/boot_id")?);
    let reply = daemon.get("/files?path=/sys/kernel/mm/transparent_hugepage/enabled").await?;
    assert_eq!(reply.body, std::fs::read("/sys/kernel/mm/transparent_hugepage/enabled")?);
    // More than is read ahead, of a size nobody knows.
    let reply = daemon.get("/files?path=/proc/kallsyms").await?;
    assert_eq!(reply.body.len(), std::fs::read("/proc/kallsyms")?.len());
    Ok(())
}

#[tokio::test]
async fn a_small_upload_is_three_events_and_they_are_there_at_once() -> Result {
    let daemon = Daemon::start()?;
    let directory = daemon.path().to_string_lossy().into_owned();
    let request = json!({"path": directory, "includeEntry": true});
    let id = fs(&daemon, "CreateWatcher", request).await??["watcherId"].clone();
    upload(&daemon, &format!("?path={directory}/f"), &[("x", b"content")]).await?;
    let events = fs(&daemon, "GetWatcherEvents", json!({"watcherId": id})).await??["events"].clone();
    let expected = ["CREATE", "CHMOD", "WRITE"].map(|kind| ("f".to_owned(), kind.to_owned()));
    assert_eq!(kinds(&events), expected);
    assert_eq!(events[0]["entry"]["path"], daemon.file("f"));
    assert_eq!(fs(&daemon, "GetWatcherEvents", json!({"watcherId": id})).await??, json!({}));
    assert_eq!(fs(&daemon, "RemoveWatcher", json!({"watcherId": id})).await?, Ok(json!({})));
    for method in ["RemoveWatcher", "GetWatcherEvents"] {
        assert_eq!(fs(&daemon, method, json!({"watcherId": id})).await?, Err("not_found".into()));
    }
    Ok(())
}

#[tokio::test]
async fn a_recursive_watch_follows_new_directories() -> Result {
    let daemon = Daemon::start()?;
    let root = daemon.path().join("root");
    std::fs::create_dir_all(root.join("old"))?;
    let request = json!({"path": root.to_string_lossy(), "recursive": true});
    let mut frames = daemon.stream("filesystem.Filesystem/WatchDir", request, &[]).await?;
    assert_eq!(frames.next().await?, Some(json!({"start": {}})));

    std::fs::write(root.join("old/file"), "x")?;
    std::fs::create_dir_all(root.join("a/b/c"))?;
    std::fs::write(root.join("a/b/c/deep"), "x")?;
    std::fs::rename(root.join("old/file"), root.join("moved"))?;
    std::fs::set_permissions(root.join("moved"), std::fs::Permissions::from_mode(0o600))?;
    std::fs::remove_file(root.join("moved"))?;

    let mut seen = Vec::new();
    while seen.last() != Some(&("moved".to_owned(), "REMOVE".to_owned())) {
        let message = frames.next().await?.ok_or("the stream ended")?;
        seen.extend(kinds(&json!([message["filesystem"]])));
    }
    let position = |name: &str, kind: &str| {
        let wanted = (name.to_owned(), kind.to_owned());
        assert!(seen.iter().filter(|event| **event == wanted).count() == 1, "{name} {kind}: {seen:?}");
        seen.iter().position(|event| *event == wanted)
    };
    assert!(position("old/file", "CREATE") < position("old/file", "RENAME"));
    assert!(position("a", "CREATE") < position("a/b", "CREATE"));
    assert!(position("a/b", "CREATE") < position("a/b/c", "CREATE"));
    assert!(position("moved", "CREATE") < position("moved", "CHMOD"));

    // By now the new directories are watched in their own right.
    std::fs::write(root.join("a/b/c/later"), "x")?;
    eventually(async || {
        let message = frames.next().await?.ok_or("the stream ended")?;
        Ok((message["filesystem"]["name"] == "a/b/c/later").then_some(()))
    })
    .await?;
    let error = daemon.stream("filesystem.Filesystem/WatchDir", json!({"path": "/etc/passwd"}), &[]).await?;
    assert_eq!(error.finish().await?.error, "invalid_argument");
    Ok(())
}
