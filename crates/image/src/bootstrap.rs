//! Everything that is asked of `mmdebstrap`: download the kernel package, make the `minimal` root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Options, debs, files, sources, tool};

/// The release guests run; the snapshots' compatibility depends on it, so it does not follow the host's.
pub const SUITE: &str = "bookworm";
/// Meta package of the guest kernel.
pub const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// What the `minimal` template has beyond Debian's minimum.
const PACKAGES: &str = "bash,ca-certificates,coreutils,curl,git,iproute2,iputils-ping,kmod,less,netcat-openbsd,procps,\
    python-is-python3,python3,python3-pip,python3-venv,sudo,unzip,xz-utils";
/// Kept out of the image: megabytes that a program does not read.
const DPKG_OPTIONS: &[&str] = &[
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/man/*",
    // A guest's package manager need not sync: the disk becomes durable as a whole, or not at all.
    "force-unsafe-io",
];
const FINISH_ROOT: &str = include_str!("finish-root.sh");
const DOWNLOAD_KERNEL: &str = include_str!("download-kernel.sh");
/// Lines a run for the `minimal` root writes, about; only for the progress bar.
const USUAL_LINES: f32 = 1450.0;
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Everything that shapes the `minimal` root, as text for a key.
pub fn recipe() -> String {
    format!("{SUITE}\n{PACKAGES}\n{}\n{FINISH_ROOT}", DPKG_OPTIONS.join("\n"))
}

/// Makes the root file system of the `minimal` template in `tree`, which must not exist; `work` takes scratch files.
pub fn minimal_root(
    options: &Options,
    work: &Path,
    tree: &Path,
    mut progress: impl FnMut(f32, &str),
) -> Result<(), Error> {
    let packages = options.packages_dir();
    files::create_dir(&packages)?;
    let finish = script(work, "finish-root.sh", FINISH_ROOT)?;
    let mut command = mmdebstrap(&["--variant=minbase", "--skip=essential/unlink"]);
    command.arg(format!("--include={PACKAGES}"));
    command.args(DPKG_OPTIONS.iter().map(|option| format!("--dpkgopt={option}")));
    // Packages of former runs are offered to apt, which verifies them, and all are kept for the next.
    command.args([
        "--setup-hook=mkdir -p \"$1/var/cache/apt/archives\"",
        "--setup-hook=sync-in . /var/cache/apt/archives",
    ]);
    command
        .arg("--customize-hook=rm -rf \"$1/var/cache/apt/archives/partial\"; rm -f \"$1/var/cache/apt/archives/lock\"");
    command.arg("--customize-hook=sync-out /var/cache/apt/archives .");
    command.arg(format!("--customize-hook={}", finish.display()));
    command.arg(SUITE).arg(tree).args(mirrors(options, work)?).current_dir(&packages);
    let mut lines = 0.0;
    tool::MMDEBSTRAP.watch(&mut command, |line| {
        lines += 1.0;
        progress(f32::min(lines / USUAL_LINES, 0.99), doing(line));
    })
}

/// Downloads the newest guest kernel into `work` and returns the package file.
pub fn download_kernel(options: &Options, work: &Path) -> Result<PathBuf, Error> {
    let packages = options.packages_dir();
    files::create_dir(&packages)?;
    let download = script(work, "download-kernel.sh", DOWNLOAD_KERNEL)?;
    let into = work.join("package");
    files::create_dir(&into)?;
    let mut command = mmdebstrap(&["--variant=custom"]);
    command.env("WRENN_KERNEL_PACKAGE", KERNEL_PACKAGE).env("WRENN_PACKAGES", &packages);
    command.arg(format!("--customize-hook={}", download.display()));
    // Nothing is bootstrapped: only apt, configured for the guest's release, is wanted.
    command.arg(SUITE).arg("/dev/null").args(mirrors(options, work)?).current_dir(&into);
    tool::MMDEBSTRAP.run(&mut command)?;
    files::list(&into)?.pop().ok_or(Error::NoKernelPackage { package: KERNEL_PACKAGE })
}

fn mmdebstrap(options: &[&str]) -> Command {
    let mut command = tool::MMDEBSTRAP.command();
    command.args(["--verbose", "--mode=root", "--architectures=amd64", "--aptopt=Acquire::Languages \"none\""]);
    command.args(options);
    if Path::new(KEYRING).exists() {
        command.arg(format!("--keyring={KEYRING}"));
    }
    command
}

/// Positional arguments that name the package sources; none means the tool's default mirror.
fn mirrors(options: &Options, work: &Path) -> Result<Option<PathBuf>, Error> {
    let text = match &options.source {
        crate::Source::Apt => sources::of_host(SUITE)?,
        crate::Source::Local(dir) => Some(debs::repository(dir, SUITE, &work.join("repository"))?),
    };
    let path = work.join("guest.sources");
    text.map(|text| files::write(&path, text).map(|()| path)).transpose()
}

/// Writes an executable hook; mmdebstrap runs it outside the new root with that root's path as argument.
fn script(work: &Path, name: &str, text: &str) -> Result<PathBuf, Error> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = work.join(name);
    files::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(Error::io("chmod", &path))?;
    std::path::absolute(&path).map_err(Error::io("resolve", &path))
}

/// Two words for a line of apt's or dpkg's output.
fn doing(line: &str) -> &'static str {
    match line.split_whitespace().next() {
        Some(word) if word.starts_with("Get:") => "downloading packages",
        Some("Selecting" | "Preparing" | "Unpacking") => "unpacking packages",
        Some("Setting" | "Processing" | "Updating") => "configuring packages",
        _ => "installing packages",
    }
}
