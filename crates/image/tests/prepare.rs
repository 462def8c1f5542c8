//! Prepares the real thing with the host's package sources (or `$WRENN_ARTIFACTS`). Needs root and the tools.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use image::{Artifacts, DEFAULT_ROOT_DISK_MB, Error, Options, Outcome, Progress, RootTree, Source, Step};

#[derive(Default)]
struct Recorded(Mutex<Vec<(Step, Outcome)>>);

impl Progress for Recorded {
    fn started(&self, _: Step) {}
    fn advanced(&self, _: Step, fraction: f32, _: &str) {
        assert!((0.0..=1.0).contains(&fraction));
    }
    fn finished(&self, step: Step, outcome: Outcome) {
        self.0.lock().unwrap().push((step, outcome));
    }
}

fn prepare(options: &Options) -> (Artifacts, Vec<Step>) {
    let recorded = Recorded::default();
    let artifacts = image::prepare(options, &recorded).unwrap();
    let outcomes = recorded.0.into_inner().unwrap();
    assert_eq!(outcomes.len(), 3);
    let built = outcomes.into_iter().filter(|(_, outcome)| *outcome == Outcome::Built).map(|(step, _)| step).collect();
    (artifacts, built)
}

/// The smallest file that passes for a static program, an ELF header without program headers; never twice the same.
fn fake_envd(dir: &Path, name: &str) -> PathBuf {
    let mut header = [0; 64];
    header[..5].copy_from_slice(b"\x7fELF\x02");
    header[18] = 62;
    let path = dir.join(name);
    let unique = format!("{} {name} {:?}", std::process::id(), std::time::SystemTime::now());
    fs::write(&path, [&header[..], unique.as_bytes()].concat()).unwrap();
    path
}

/// Kept between runs, and shared with `cargo xtask test`, which prepares the other rooms' tests there.
fn shared_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("artifacts")
}

fn debugfs(image: &Path, request: &str) -> String {
    let output = Command::new("debugfs").args(["-R", request]).arg(image).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn prepares_once_then_only_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options {
        dir: shared_dir(),
        envd: fake_envd(dir.path(), "envd"),
        source: Source::from_env(),
        root_disk_mb: DEFAULT_ROOT_DISK_MB,
    };
    let (first, built) = prepare(&options);
    assert!(built.contains(&Step::Initramfs));
    assert_eq!(prepare(&options), (first.clone(), vec![]), "nothing to do the second time");

    options.envd = fake_envd(dir.path(), "envd-2");
    let (second, built) = prepare(&options);
    assert_eq!(built, [Step::Initramfs], "a new envd rebuilds only the initramfs");
    assert_ne!(second.key, first.key);
    assert_eq!((&second.kernel, &second.root_disk), (&first.kernel, &first.root_disk));

    assert_shapes(&first);
    for initramfs in [first.initramfs, second.initramfs] {
        fs::remove_dir_all(initramfs.parent().unwrap()).unwrap();
    }
}

fn assert_shapes(artifacts: &Artifacts) {
    let magic = |path: &Path, at: usize, len: usize| fs::read(path).unwrap()[at..at + len].to_vec();
    assert_eq!(magic(&artifacts.kernel, 0x202, 4), b"HdrS");
    assert_eq!(magic(&artifacts.kernel_elf, 0, 4), b"\x7fELF");
    assert_eq!(magic(&artifacts.initramfs, 0, 6), b"070701");
    assert!(debugfs(&artifacts.modules_disk, "ls -p /").contains("/modules.dep.bin/"));
    assert!(artifacts.kernel_release.ends_with("-cloud-amd64"), "{}", artifacts.kernel_release);

    let disk = fs::metadata(&artifacts.root_disk).unwrap();
    assert_eq!(disk.len(), DEFAULT_ROOT_DISK_MB << 20);
    assert!(disk.blocks() * 512 < 512 << 20, "the root disk must stay sparse");
    assert!(debugfs(&artifacts.root_disk, "cat /etc/passwd").contains("user:x:1000:1000:"));
    assert!(debugfs(&artifacts.root_disk, "stat /usr/bin/python").contains("python3"));
    assert_eq!(debugfs(&artifacts.root_disk, "cat /etc/machine-id"), "");
}

#[test]
#[ignore = "bootstraps twice; run it when package sources change"]
fn the_packages_of_one_host_suffice_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options {
        dir: dir.path().join("online"),
        envd: fake_envd(dir.path(), "envd"),
        source: Source::Apt,
        root_disk_mb: DEFAULT_ROOT_DISK_MB,
    };
    let (online, _) = prepare(&options);
    options.source = Source::Local(options.packages_dir());
    options.dir = dir.path().join("offline");
    let (offline, built) = prepare(&options);
    assert_eq!(built.len(), 3);
    assert_eq!(offline.key, online.key, "the same packages make the same artefacts");
    assert_shapes(&offline);
}

#[test]
fn refuses_an_init_that_could_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        Options { dir: dir.path().to_owned(), envd: "/bin/sh".into(), source: Source::Apt, root_disk_mb: 1024 };
    let error = image::prepare(&options, &image::NoProgress).unwrap_err();
    assert!(matches!(error, Error::Envd { .. }), "{error}");
}

#[test]
fn any_tree_becomes_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/alpine-release"), "3\n").unwrap();
    let archive = dir.path().join("root.tar");
    let status = Command::new("tar").args(["-C"]).arg(&tree).args(["-cf"]).arg(&archive).arg(".").status().unwrap();
    assert!(status.success());
    for (name, source) in [("a.img", RootTree::Directory(tree)), ("b.img", RootTree::Tar(archive))] {
        let image = dir.path().join(name);
        image::build_disk(&source, &image, 256).unwrap();
        assert_eq!(debugfs(&image, "cat /etc/alpine-release"), "3\n");
    }
}
