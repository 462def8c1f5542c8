//! Package sources of the guest, derived from the host's own apt configuration.
//!
//! A Debian host has mirrors that work from where it stands (a proxy, an intranet copy): those are used, with the
//! guest's release in place of the host's. Another distribution says nothing about Debian mirrors.

use std::path::Path;

use crate::{Error, Source, files, part};

const APT_DIR: &str = "/etc/apt";
const OS_RELEASE: &str = "/etc/os-release";

/// One deb822 stanza or `deb` line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    types: String,
    uris: String,
    suites: String,
    components: String,
    signed_by: Option<String>,
}

/// Bytes for a part's key: kind of source and, for a directory, its packages by name and size.
pub fn key(source: &Source) -> Result<Vec<u8>, Error> {
    let Source::Local(dir) = source else {
        return Ok(b"apt".to_vec());
    };
    let mut listing = Vec::new();
    for path in crate::debs::list(dir)? {
        let size = path.metadata().map_err(Error::io("inspect", &path))?.len();
        listing.push(format!("{} {size}", files::name(&path)));
    }
    Ok(part::digest(listing).into_bytes())
}

/// deb822 text of the host's Debian mirrors for `suite`; `None` when the host is no Debian or names none.
pub fn of_host(suite: &str) -> Result<Option<String>, Error> {
    let Ok(os_release) = files::read_text(Path::new(OS_RELEASE)) else {
        return Ok(None);
    };
    let Some(host_suite) = debian_codename(&os_release) else {
        return Ok(None);
    };
    let mut entries = Vec::new();
    for path in configuration_files()? {
        let text = files::read_text(&path)?;
        entries.extend(match path.extension() {
            Some(extension) if extension == "sources" => parse_deb822(&text),
            _ => parse_list(&text),
        });
    }
    for entry in &mut entries {
        entry.uris = reachable(&entry.uris, |list| files::read_text(Path::new(list)).ok());
    }
    let stanzas: Vec<String> = entries.iter().filter_map(|entry| stanza(entry, &host_suite, suite)).collect();
    Ok((!stanzas.is_empty()).then(|| stanzas.join("\n")))
}

fn configuration_files() -> Result<Vec<std::path::PathBuf>, Error> {
    let (main, parts) = (Path::new(APT_DIR).join("sources.list"), Path::new(APT_DIR).join("sources.list.d"));
    let mut paths = if parts.is_dir() { files::list(&parts)? } else { Vec::new() };
    paths.push(main);
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "list" || ext == "sources") && path.is_file());
    Ok(paths)
}

/// `VERSION_CODENAME` when `ID=debian`.
fn debian_codename(os_release: &str) -> Option<String> {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    (value("ID")? == "debian").then(|| value("VERSION_CODENAME"))?
}

/// Fields of each stanza; a stanza that is switched off is dropped. Continuation lines (an embedded key) are kept.
fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for block in text.split("\n\n") {
        let mut entry = Entry::default();
        let mut enabled = true;
        let mut continues_signed_by = false;
        for line in block.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with([' ', '\t']) {
                if let (true, Some(key)) = (continues_signed_by, entry.signed_by.as_mut()) {
                    key.push('\n');
                    key.push_str(line);
                }
                continue;
            }
            let Some((field, value)) = line.split_once(':') else {
                continue;
            };
            let (field, value) = (field.to_ascii_lowercase(), value.trim().to_owned());
            continues_signed_by = field == "signed-by";
            match field.as_str() {
                "types" => entry.types = value,
                "uris" => entry.uris = value,
                "suites" => entry.suites = value,
                "components" => entry.components = value,
                "signed-by" => entry.signed_by = Some(value),
                "enabled" => enabled = value != "no",
                _ => {}
            }
        }
        if enabled && !entry.uris.is_empty() {
            entries.push(entry);
        }
    }
    entries
}

/// `deb [options] uri suite component…` lines.
fn parse_list(text: &str) -> Vec<Entry> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Entry> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    let mut words = rest.split('#').next()?.split_whitespace();
    Some(Entry {
        types: "deb".into(),
        uris: words.next()?.into(),
        suites: words.next()?.into(),
        components: words.collect::<Vec<_>>().join(" "),
        signed_by: signed_by.map(str::to_owned),
    })
}

/// The URIs that a guest can use as well: web servers, and the first one of a `mirror+file:` list of the host, which
/// is how cloud images name theirs.
fn reachable(uris: &str, read: impl Fn(&str) -> Option<String>) -> String {
    let resolved = uris.split_whitespace().filter_map(|uri| {
        let Some(list) = uri.strip_prefix("mirror+file:") else { return Some(uri.to_owned()) };
        let text = read(&format!("/{}", list.trim_start_matches('/')))?;
        let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'))?;
        first.split_whitespace().next().map(str::to_owned)
    });
    resolved.filter(|uri| uri.starts_with("http")).collect::<Vec<_>>().join(" ")
}

/// The entry as a stanza for the guest; `None` when it is not a main Debian archive of the host's release.
fn stanza(entry: &Entry, host_suite: &str, guest_suite: &str) -> Option<String> {
    let is_main = entry.components.split_whitespace().any(|component| component == "main");
    let is_binary = entry.types.split_whitespace().any(|kind| kind == "deb");
    let suites: Vec<String> = entry
        .suites
        .split_whitespace()
        .filter_map(|suite| match suite.strip_prefix(host_suite)? {
            "" | "-updates" | "-security" => Some(suite.replacen(host_suite, guest_suite, 1)),
            _ => None,
        })
        .collect();
    if !is_main || !is_binary || suites.is_empty() || entry.uris.is_empty() {
        return None;
    }
    let signed_by = entry.signed_by.iter().map(|key| format!("Signed-By: {key}\n"));
    Some(format!(
        "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\n{}",
        entry.uris,
        suites.join(" "),
        signed_by.collect::<String>(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: trixie trixie-updates trixie-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: trixie
Components: main

Types: deb
URIs: http://other.test/node
Suites: nodistro
Components: main
";

    fn guest(entries: &[Entry]) -> Vec<String> {
        entries.iter().filter_map(|entry| stanza(entry, "trixie", "bookworm")).collect()
    }

    #[test]
    fn deb822_keeps_the_mirror_and_changes_the_release() {
        let expected = "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n\
            Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";
        assert_eq!(guest(&parse_deb822(DEB822)), [expected]);
    }

    #[test]
    fn one_line_format_too() {
        let text = "# deb http://no.test/ trixie main\ndeb-src http://no.test/ trixie main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/security trixie-security main # note\n\
            deb http://pg.test/apt trixie-pgdg main\ndeb http://docker.test trixie stable\n";
        let expected = "Types: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\n\
            Components: main\nSigned-By: /k.gpg\n";
        assert_eq!(guest(&parse_list(text)), [expected]);
    }

    #[test]
    fn a_guest_gets_only_mirrors_it_can_reach() {
        let read =
            |path: &str| (path == "/etc/apt/mirrors/a.list").then(|| "# m\nhttps://m.test/debian prio:1\n".into());
        for (uris, expected) in [
            ("mirror+file:///etc/apt/mirrors/a.list", "https://m.test/debian"),
            ("mirror+file:/etc/apt/mirrors/b.list", ""),
            ("cdrom:[disk] file:/srv http://m.test/debian", "http://m.test/debian"),
        ] {
            assert_eq!(reachable(uris, read), expected);
        }
    }

    #[test]
    fn only_debian_counts() {
        assert_eq!(debian_codename("ID=debian\nVERSION_CODENAME=trixie\n").as_deref(), Some("trixie"));
        assert_eq!(debian_codename("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n"), None);
    }
}
