//! Exact texts of the command line: errors, hints, exit codes (help texts: docs/cli.md). `INSTA_UPDATE=always` accepts new ones.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs the program in an environment of its own, with an empty data directory.
fn wrenn(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_wrenn"))
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("WRENN_DIR", dir)
        .envs(env.iter().copied())
        .output()
}

/// What a user sees, with everything that differs between machines replaced.
fn transcript(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> io::Result<String> {
    let output = wrenn(dir, args, env)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&*dir.to_string_lossy(), "$WRENN_DIR");
    let code = output.status.code().unwrap_or(-1);
    Ok(format!("$ wrenn {}\n{}{}[exit {code}]\n", args.join(" "), text(&output.stdout), text(&output.stderr)))
}

const ID: &str = "cl-0000000000000000000000001";

#[test]
fn command_lines_that_are_wrong() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let rows: [&[&str]; 11] = [
        &["fly"],
        &["capsule", "get", "cl-1"],
        &["capsule", "rm"],
        &["capsule", "exec", ID],
        &["capsule", "exec", "--timeout", "0", ID, "true"],
        &["capsule", "exec", "--tag", "x", ID, "true"],
        &["capsule", "create", "--env", "=x"],
        &["capsule", "create", "--deny-out", "example.com"],
        &["capsule", "network", ID, "--reset", "--no-internet"],
        &["capsule", "metrics", ID, "--range", "3m"],
        &["up", "--listen", "here"],
    ];
    let all = rows.iter().map(|args| transcript(dir.path(), args, &[])).collect::<io::Result<Vec<_>>>()?;
    insta::assert_snapshot!(all.join("\n"));
    Ok(())
}

#[test]
fn no_credentials() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut all = transcript(dir.path(), &["capsule", "list"], &[])?;
    all += &transcript(dir.path(), &["--json", "capsule", "list"], &[])?;
    std::fs::write(dir.path().join("credentials.json"), "{}")?;
    all += &transcript(dir.path(), &["capsule", "list"], &[])?;
    insta::assert_snapshot!(all);
    Ok(())
}

#[test]
fn no_server() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let to = |url: &'static str| [("WRENN_API_KEY", "wrn_0"), ("WRENN_BASE_URL", url)];
    // Port 1 (tcpmux) is one nobody listens on.
    let nobody = to("http://127.0.0.1:1");
    let mut all = String::new();
    for args in [
        &["capsule", "list"] as &[&str],
        &["--json", "capsule", "list"],
        &["why", ID],
        &["capsule", "exec", ID, "--", "true"],
        &["capsule", "create"],
    ] {
        all += &transcript(dir.path(), args, &nobody)?;
    }
    all += &transcript(dir.path(), &["capsule", "list"], &to("localhost:8000"))?;
    insta::assert_snapshot!(all);
    Ok(())
}

#[test]
fn copies_that_make_no_sense() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let env = [("WRENN_API_KEY", "wrn_0"), ("WRENN_BASE_URL", "http://127.0.0.1:1")];
    let guest = format!("{ID}:/tmp/x");
    let here = dir.path().to_string_lossy();
    let missing = format!("{here}/missing");
    let mut all = String::new();
    for (from, to) in
        [("a", "b"), (&*guest, &*guest), (&*here, &*guest), (&*missing, &*guest), ("-", &*format!("{ID}:"))]
    {
        all += &transcript(dir.path(), &["capsule", "cp", from, to], &env)?;
    }
    insta::assert_snapshot!(all.replace(&*here, "$WRENN_DIR"));
    Ok(())
}

#[test]
fn down_needs_a_platform_and_deletes_nothing_foreign() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let missing: PathBuf = dir.path().join("missing");
    let all = transcript(&missing, &["down"], &[])? + &transcript(dir.path(), &["down", "--purge"], &[])?;
    insta::assert_snapshot!(all);
    assert!(dir.path().exists());
    Ok(())
}

#[test]
fn doctor_gives_stable_objects() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let output = wrenn(dir.path(), &["doctor", "--json", "--listen", "127.0.0.1:0"], &[])?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert!(report["ok"].is_boolean());
    let names: Vec<_> = report["checks"].as_array().into_iter().flatten().map(|check| check["name"].as_str()).collect();
    let want = [
        "privileges",
        "qemu",
        "isolation",
        "memory",
        "cgroups",
        "nftables",
        "tun",
        "ip_forward",
        "egress",
        "port",
        "clones",
        "space",
    ];
    assert_eq!(names, want.map(Some));
    Ok(())
}
