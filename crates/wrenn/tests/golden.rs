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

/// What the doctor says of this machine.
fn examined(dir: &Path, env: &[(&str, &str)]) -> io::Result<serde_json::Value> {
    let output = wrenn(dir, &["doctor", "--json", "--listen", "127.0.0.1:0"], env)?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn check<'a>(report: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let mut checks = report["checks"].as_array().into_iter().flatten();
    checks.find(|check| check["name"] == name).unwrap_or(&serde_json::Value::Null)
}

#[test]
fn doctor_gives_stable_objects() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let report = examined(dir.path(), &[])?;
    assert!(report["ok"].is_boolean());
    let checks: Vec<_> = report["checks"].as_array().into_iter().flatten().collect();
    let names: Vec<_> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
    insta::assert_snapshot!(names.join(" "));
    for check in checks {
        assert!(["ok", "warn", "fail"].iter().any(|verdict| check["verdict"] == *verdict), "{check}");
        assert_eq!(check["verdict"] != "ok", check["remedy"].is_string(), "{check}");
    }
    Ok(())
}

#[test]
fn doctor_misses_tools() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let report = examined(dir.path(), &[("PATH", "/nowhere")])?;
    assert_eq!(report["ok"], false);
    let qemu = check(&report, "qemu");
    assert_eq!(qemu["verdict"], "fail");
    assert!(qemu["remedy"].as_str().is_some_and(|remedy| remedy.contains("qemu-system-x86")), "{qemu}");
    let packages = check(&report, "packages");
    assert!(packages["found"].as_str().is_some_and(|found| found.contains("qemu-system-x86")), "{packages}");
    Ok(())
}

#[test]
fn doctor_fails_for_what_up_cannot_work_with() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    // unix(7): a socket below this path is too long to be bound.
    let deep = dir.path().join("x".repeat(100));
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" doctor --listen 127.0.0.1:0", env!("CARGO_BIN_EXE_wrenn")])
        .env("WRENN_DIR", &deep)
        .output()?;
    assert_eq!(output.status.code(), Some(1));
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for name in ["open_files", "directory"] {
        let line = text.lines().position(|line| line.starts_with(&format!("fail  {name} ")));
        let remedy = line.and_then(|line| text.lines().nth(line + 1)).unwrap_or_default();
        assert!(remedy.trim_start().starts_with('→'), "{name}: {text}");
        assert!(error.starts_with("error: this machine is not ready: ") && error.contains(name), "{error}");
    }
    assert!(!deep.exists());
    Ok(())
}

#[test]
fn doctor_mends_what_it_can_and_says_so() -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir()?;
    let dir = home.path().join("data");
    std::fs::create_dir(&dir)?;
    // A platform's, not just any.
    std::fs::write(dir.join("instance"), "abc")?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))?;
    assert_eq!(check(&examined(&dir, &[])?, "directory")["verdict"], "warn");
    // On a host of its own, whose settings are sealed: only the directory of this test is changed.
    let script = format!(
        "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && \
         exec {} doctor --fix --json --listen 127.0.0.1:0",
        env!("CARGO_BIN_EXE_wrenn")
    );
    let output =
        Command::new("unshare").args(["--net", "--mount", "sh", "-c", &script]).env("WRENN_DIR", &dir).output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let fix = format!("chmod 700 {}", dir.display());
    let changes: Vec<_> = report["changes"].as_array().into_iter().flatten().collect();
    assert!(changes.iter().any(|change| change["check"] == "directory" && change["fix"] == *fix), "{report}");
    assert_eq!(check(&report, "directory")["verdict"], "ok");
    // Which no capsule's network could be set up with.
    assert_eq!(check(&report, "slot")["verdict"], "fail");
    assert_eq!(check(&examined(&dir, &[])?, "directory")["verdict"], "ok");
    Ok(())
}

#[test]
fn doctor_believes_a_boot_and_not_a_device() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let qemu_version = check(&examined(dir.path(), &[])?, "qemu")["found"].clone();
    // A machine without the device has nothing to believe.
    let has_kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    for (boot_id, kvm, verdict, found) in [
        (&*boot_id, true, "ok", "qemu-kvm: a guest boots with KVM"),
        (&*boot_id, false, "warn", "KVM is there, but no guest boots: emulated (qemu-tcg)"),
        ("another", true, "warn", "KVM is there, but no guest has tried it since this machine booted"),
    ] {
        let trial = format!("qemu-kvm ({})", qemu_version.as_str().unwrap_or_default());
        let remembered = serde_json::json!({"boot_id": boot_id, "boots": {trial: kvm}});
        std::fs::write(dir.path().join("tier.json"), remembered.to_string())?;
        let report = examined(dir.path(), &[])?;
        let isolation = check(&report, "isolation");
        if has_kvm {
            assert_eq!((&isolation["verdict"], &isolation["found"]), (&verdict.into(), &found.into()));
        } else {
            assert_eq!(isolation["verdict"], "warn");
            assert!(isolation["found"].as_str().is_some_and(|found| found.contains("/dev/kvm")), "{isolation}");
        }
    }
    Ok(())
}
