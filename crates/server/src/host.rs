//! `host.json`: which host this machine is, and what its agent shows when it calls back.

use crate::{StartError, file};
use model::{HostId, Secret};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Who the agent on this machine is to the server. The same after every start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCredentials {
    /// Which host.
    pub id: HostId,
    /// For the header `X-Host-Token`.
    pub token: Secret,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    host_id: HostId,
    token: String,
}

impl HostCredentials {
    /// Those of the data directory, made at the first call.
    pub fn of(directory: &Path) -> Result<Self, StartError> {
        let path = directory.join("host.json");
        let known = if let Some(known) = file::read::<OnDisk>(&path)? {
            known
        } else {
            let new = OnDisk { host_id: HostId::random(), token: hex::encode(rand::random::<[u8; 32]>()) };
            file::write(&path, &new)?;
            new
        };
        Ok(Self { id: known.host_id, token: Secret::new(known.token) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn they_stay_the_same_and_private() {
        let directory = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let made = HostCredentials::of(directory.path()).ok();
        assert!(made.is_some());
        assert_eq!(HostCredentials::of(directory.path()).ok(), made);
        let mode = std::fs::metadata(directory.path().join("host.json")).map(|m| m.permissions().mode() & 0o777);
        assert_eq!(mode.ok(), Some(0o600));
    }
}
