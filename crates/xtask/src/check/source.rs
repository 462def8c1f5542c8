//! Invariants on the text of tracked files.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Violations;
use crate::{Outcome, process, workspace};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 80;

/// Spelled in two pieces, so that this file does not violate its own rule.
const UNFINISHED: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")];
const REGISTRIES: &[&str] = &[
    concat!("deb.", "debian.org"),
    concat!("security.", "debian.org"),
    concat!("archive.", "ubuntu.com"),
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("pypi", ".org"),
    concat!("files.", "pythonhosted.org"),
    concat!("registry.", "npmjs.org"),
];
const IMPURE: &[&str] = &[
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "Utc::now",
    "rand::",
    "tokio::",
    "async fn",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
];
/// `std::process::Command` and tokio's.
const PROCESSES: &[&str] = &["Command::new(", "tokio::process"];
/// Rooms that may start processes.
const STARTERS: &[&str] = &["sys", "image", "xtask"];

/// A tracked text file; `path` is relative to the checkout.
#[derive(Debug)]
pub struct SourceFile {
    pub path: String,
    pub text: String,
}

impl SourceFile {
    /// The crate it belongs to.
    fn room(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }

    fn extension(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    fn is_rust(&self) -> bool {
        self.extension() == "rs" && self.room().is_some()
    }

    /// Code of the product, not of its tests.
    fn is_product(&self) -> bool {
        self.is_rust() && self.path.split('/').nth(2) == Some("src")
    }

    /// Lines with any of the patterns, as violations. The unit tests at the end of a file are left out on demand.
    fn find(&self, patterns: &[&str], with_tests: bool) -> Violations {
        let text =
            if with_tests { &self.text } else { self.text.split("#[cfg(test)]\nmod ").next().unwrap_or_default() };
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//") || with_tests);
        lines
            .filter_map(|(index, line)| {
                let pattern = patterns.iter().find(|pattern| line.contains(**pattern))?;
                Some(format!("{}:{}: {pattern}", self.path, index + 1))
            })
            .collect()
    }
}

/// Files git tracks or would track, without those that are not text.
pub fn read(root: &Path) -> Outcome<Vec<SourceFile>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let listing = process::output(&mut git)?;
    let file = |path: &str| Some(SourceFile { path: path.to_owned(), text: fs::read_to_string(root.join(path)).ok()? });
    Ok(listing.lines().filter_map(file).collect())
}

/// INV-03: every manifest but that of sys takes the workspace's lints, which forbid `unsafe`.
pub fn no_unsafe(files: &[SourceFile]) -> Violations {
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        let holds = match file.room() {
            None => file.path != "Cargo.toml" || file.text.contains("unsafe_code = \"forbid\""),
            Some(room) => room == "sys" || file.text.contains("[lints]\nworkspace = true"),
        };
        if !holds {
            violations.push(format!("{} does not forbid unsafe code", file.path));
        }
    }
    violations
}

/// INV-04.
pub fn pure_lifecycle(files: &[SourceFile]) -> Violations {
    let lifecycle = files.iter().filter(|file| file.is_product() && file.room() == Some("lifecycle"));
    lifecycle.flat_map(|file| file.find(IMPURE, false)).collect()
}

/// INV-05.
pub fn no_stray_processes(files: &[SourceFile]) -> Violations {
    let others =
        files.iter().filter(|file| file.is_product() && file.room().is_some_and(|room| !STARTERS.contains(&room)));
    others.flat_map(|file| file.find(PROCESSES, false)).collect()
}

/// INV-06.
pub fn short_files(files: &[SourceFile]) -> Violations {
    let counted = files.iter().filter(|file| file.is_rust()).map(|file| (file, file.text.lines().count()));
    counted
        .filter(|(_, lines)| *lines > MAX_FILE_LINES)
        .map(|(file, lines)| format!("{} has {lines} lines", file.path))
        .collect()
}

/// INV-07.
pub fn short_functions(files: &[SourceFile]) -> Violations {
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        for (line, length) in functions(&file.text).into_iter().filter(|(_, length)| *length > MAX_FUNCTION_LINES) {
            violations.push(format!("{}:{line}: function of {length} lines", file.path));
        }
    }
    violations
}

/// First line and length of each function with a body of its own lines. Relies on rustfmt, which closes a body with
/// a brace as far right as the line that opened the signature.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate().filter(|(_, line)| opens_function(line)) {
        let signature_end = lines[start..].iter().position(|line| line.ends_with(['{', ';', '}']));
        let Some(body) = signature_end.map(|offset| start + offset).filter(|end| lines[*end].ends_with('{')) else {
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let closes = |line: &&str| line.strip_prefix(indent).is_some_and(|rest| rest == "}");
        if let Some(offset) = lines[body + 1..].iter().position(closes) {
            found.push((start + 1, body + 1 + offset - start + 1));
        }
    }
    found
}

fn opens_function(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.by_ref().find(|word| !is_qualifier(word)) == Some("fn") && words.next().is_some()
}

fn is_qualifier(word: &str) -> bool {
    word.starts_with("pub")
        || word.ends_with(')')
        || matches!(word, "const" | "async" | "unsafe" | "extern" | "\"C\"" | "default")
}

/// INV-08.
pub fn finished(files: &[SourceFile]) -> Violations {
    files.iter().filter(|file| !is_lock(file)).flat_map(|file| file.find(UNFINISHED, true)).collect()
}

/// INV-09.
pub fn portable(files: &[SourceFile]) -> Violations {
    let root = workspace::root();
    let root = root.to_string_lossy();
    let mut patterns = REGISTRIES.to_vec();
    patterns.push(&root);
    files.iter().filter(|file| file.path != "Cargo.lock").flat_map(|file| file.find(&patterns, true)).collect()
}

fn is_lock(file: &SourceFile) -> bool {
    file.extension() == "lock" || file.path.ends_with("-lock.json")
}

/// INV-13.
pub fn introduced(files: &[SourceFile]) -> Violations {
    let roots = files.iter().filter(|file| {
        file.is_product() && (file.path.ends_with("/src/lib.rs") || file.path.ends_with("/src/main.rs"))
    });
    roots
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| format!("{} has no introduction", file.path))
        .collect()
}

/// INV-14: of `crates/A/tests/b.rs::name` in a document there is the file, and the function in it.
pub fn named_tests(files: &[SourceFile]) -> Violations {
    let exists = |path: &str, name: &str| {
        files.iter().any(|file| file.path == path && file.text.contains(&format!("fn {name}(")))
    };
    let documents = files.iter().filter(|file| file.extension() == "md");
    let named = documents.flat_map(|file| {
        let quoted = file.text.split('`').skip(1).step_by(2);
        quoted.filter_map(|text| text.split_once(".rs::")).map(move |test| (file, test))
    });
    named
        .filter(|(_, (path, name))| !exists(&format!("{path}.rs"), name))
        .map(|(file, (path, name))| format!("{}: there is no {path}.rs::{name}", file.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> [SourceFile; 1] {
        [SourceFile { path: path.to_owned(), text: text.to_owned() }]
    }

    type Rule = fn(&[SourceFile]) -> Violations;

    #[test]
    fn finds_planted_violations_and_nothing_else() {
        let long_file = "x\n".repeat(MAX_FILE_LINES + 1);
        let long_function =
            format!("    pub async fn f(\n        a: u8,\n    ) {{\n{}    }}\n", "        a;\n".repeat(80));
        let short = format!("fn f() {{}}\nfn g();\nfn h() {{\n{}}}\n", "    a;\n".repeat(78));
        let stray = format!("let c = {}\"ls\");", PROCESSES[0]);
        let in_tests = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{stray}\n}}\n");
        let unfinished = format!("// {}: later", UNFINISHED[0]);
        let host = format!("http://{}/x", REGISTRIES[0]);
        let cases: &[(Rule, &str, &str, usize)] = &[
            (no_unsafe, "crates/vmm/Cargo.toml", "[package]\n", 1),
            (no_unsafe, "crates/vmm/Cargo.toml", "[lints]\nworkspace = true\n", 0),
            (no_unsafe, "crates/sys/Cargo.toml", "[package]\n", 0),
            (pure_lifecycle, "crates/lifecycle/src/lib.rs", "let t = Instant::now();", 1),
            (pure_lifecycle, "crates/lifecycle/src/lib.rs", "// not even tokio::time", 0),
            (pure_lifecycle, "crates/agent/src/lib.rs", "let t = Instant::now();", 0),
            (no_stray_processes, "crates/agent/src/lib.rs", &stray, 1),
            (no_stray_processes, "crates/agent/src/lib.rs", &in_tests, 0),
            (no_stray_processes, "crates/agent/tests/a.rs", &stray, 0),
            (no_stray_processes, "crates/image/src/lib.rs", &stray, 0),
            (short_files, "crates/a/src/lib.rs", &long_file, 1),
            (short_files, "docs/a.md", &long_file, 0),
            (short_functions, "crates/a/src/lib.rs", &long_function, 1),
            (short_functions, "crates/a/src/lib.rs", &short, 0),
            (finished, "docs/a.md", &unfinished, 1),
            (portable, "deploy/a.conf", &host, 1),
            (portable, "Cargo.lock", &host, 0),
            (introduced, "crates/a/src/lib.rs", "mod a;", 1),
            (introduced, "crates/a/src/lib.rs", "//! A.", 0),
            (named_tests, "docs/a.md", "`x` and `crates/a/tests/b.rs::gone`", 1),
            (named_tests, "docs/a.md", "crates/a.rs::not_quoted", 0),
        ];
        for (rule, path, text, violations) in cases {
            assert_eq!(
                rule(&file(path, text)).len(),
                *violations,
                "{path}: {}",
                text.lines().next().unwrap_or_default()
            );
        }
    }

    #[test]
    fn measures_functions() {
        let text = "impl A {\n    fn f(&self) {\n        if a {\n        }\n    }\n\n    fn g() -> u8 {\n        1\n    }\n}\n";
        assert_eq!(functions(text), [(2, 4), (7, 3)]);
    }
}
