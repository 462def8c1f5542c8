//! What `--fix` may do: load a module, set a kernel setting until the next boot, close the data directory to others, or
//! add to another firewall the rule that the finding names. It installs nothing and restarts nothing.

use super::programs::run;
use serde::{Serialize, Serializer};
use std::fmt;
use std::path::PathBuf;

/// Settings of the kernel, `sysctl` as files.
pub const PROC_SYS: &str = "/proc/sys";

/// One change of the machine. Shown as the command that does the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// Loads kernel modules.
    Load(&'static [&'static str]),
    /// Writes a value into a file under `/proc/sys`.
    Set {
        /// The file.
        file: PathBuf,
        /// The value.
        value: u64,
    },
    /// Nobody but root may enter this directory.
    Close(PathBuf),
    /// Runs a shell command.
    Run(String),
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(modules) => write!(f, "modprobe -a {}", modules.join(" ")),
            Self::Set { file, value } => {
                let key = file.strip_prefix(PROC_SYS).unwrap_or(file).display();
                write!(f, "sysctl -w {key}={value}")
            }
            Self::Close(directory) => write!(f, "chmod 700 {}", directory.display()),
            Self::Run(command) => f.write_str(command),
        }
    }
}

impl Serialize for Fix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Fix {
    /// Does it. Doing it twice does no harm.
    pub fn apply(&self) -> Result<(), String> {
        use std::os::unix::fs::PermissionsExt as _;
        let told = |error: std::io::Error| error.to_string();
        match self {
            Self::Load(modules) => run("modprobe", &[&["-a"], *modules].concat()).map(drop).map_err(told),
            Self::Set { file, value } => std::fs::write(file, value.to_string()).map_err(told),
            Self::Close(directory) => {
                std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).map_err(told)
            }
            Self::Run(command) => run("sh", &["-c", command]).map(drop).map_err(told),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_as_commands() {
        let rows = [
            (Fix::Load(&["tun", "veth"]), "modprobe -a tun veth"),
            (
                Fix::Set { file: "/proc/sys/net/ipv4/conf/eth0.5/forwarding".into(), value: 1 },
                "sysctl -w net/ipv4/conf/eth0.5/forwarding=1",
            ),
            (Fix::Close("/var/lib/wrenn".into()), "chmod 700 /var/lib/wrenn"),
            (Fix::Run("ufw route allow from 240.0.0.0/4".to_owned()), "ufw route allow from 240.0.0.0/4"),
        ];
        for (fix, text) in rows {
            assert_eq!(fix.to_string(), text);
        }
    }

    #[test]
    fn a_change_is_made_or_the_tool_says_why_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        Fix::Set { file: file.path().to_owned(), value: 7 }.apply().unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "7");
        assert_eq!(Fix::Run("echo no such thing >&2; exit 3".to_owned()).apply(), Err("no such thing".to_owned()));
        assert!(Fix::Load(&["no_such_module"]).apply().is_err());
    }
}
