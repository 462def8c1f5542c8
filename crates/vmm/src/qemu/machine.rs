//! A running QEMU.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::Version;
use super::arguments::ROOT_NODE;
use crate::machine::{Machine, MachineError, Since, Status, Trouble};
use crate::qmp::{Event, Qmp, QmpError};
use crate::{BootSource, MachineSpec};

/// From here on `fd:` with a regular file is deprecated in favour of `file:`.
const FILE_MIGRATION: Version = Version(9, 1);

/// A QEMU process and the connection to it.
#[derive(Debug)]
pub(super) struct QemuMachine {
    qmp: Qmp,
    version: Version,
}

#[derive(Deserialize)]
struct FdSet {
    #[serde(rename = "fdset-id")]
    id: u32,
}

#[derive(Deserialize)]
struct RunState {
    status: String,
}

impl QemuMachine {
    pub(super) fn new(qmp: Qmp, version: Version) -> Self {
        Self { qmp, version }
    }

    /// A path QEMU can open, and no other process: `/dev/fdset/ID`.
    async fn lend(&self, file: &File) -> Result<(FdSet, String), QmpError> {
        let set: FdSet = self.qmp.execute_with_fd("add-fd", &json!({}), file.as_fd()).await?;
        let path = format!("/dev/fdset/{}", set.id);
        Ok((set, path))
    }

    async fn save_devices(&self, file: &File) -> Result<(), QmpError> {
        let (set, filename) = self.lend(file).await?;
        // `live` would mean that the machine goes on elsewhere and this one gives up its disks.
        let arguments = json!({ "filename": filename, "live": false });
        let saved: Result<Value, QmpError> = self.qmp.execute_unlimited("xen-save-devices-state", &arguments).await;
        let _: Value = self.qmp.execute("remove-fd", &json!({ "fdset-id": set.id })).await?;
        saved.map(drop)
    }

    async fn start_loading(&self, file: &File) -> Result<Receiver<Event>, QmpError> {
        let capability = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        let _: Value = self.qmp.execute("migrate-set-capabilities", &capability).await?;
        let uri = if self.version >= FILE_MIGRATION {
            format!("file:{}", self.lend(file).await?.1)
        } else {
            let _: Value = self.qmp.execute_with_fd("getfd", &json!({ "fdname": "state" }), file.as_fd()).await?;
            "fd:state".to_owned()
        };
        let events = self.qmp.events();
        let _: Value = self.qmp.execute_unlimited("migrate-incoming", &json!({ "uri": uri })).await?;
        Ok(events)
    }

    /// A simple command: no arguments, no result.
    async fn simple(&self, command: &'static str, action: &'static str) -> Result<(), MachineError> {
        let result: Result<Value, QmpError> = self.qmp.execute(command, &json!({})).await;
        result.map(drop).map_err(|source| MachineError::Control { action, source: source.into() })
    }
}

#[async_trait]
impl Machine for QemuMachine {
    async fn boot(&self, _: &MachineSpec, _: &BootSource) -> Result<(), MachineError> {
        self.simple("cont", "boot").await
    }

    async fn load(&self, _: &MachineSpec, state: &Path) -> Result<(), MachineError> {
        let file = File::open(state).map_err(|source| MachineError::State { path: state.to_owned(), source })?;
        let events = self
            .start_loading(&file)
            .await
            .map_err(|source| MachineError::Control { action: "load", source: source.into() })?;
        loaded(events).await
    }

    async fn resume(&self) -> Result<(), MachineError> {
        self.simple("cont", "resume").await
    }

    async fn pause(&self) -> Result<(), MachineError> {
        self.simple("stop", "pause").await
    }

    async fn save(&self, _: &MachineSpec, state: &Path, _: &Path, _: Since) -> Result<(), MachineError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(state)
            .map_err(|source| MachineError::State { path: state.to_owned(), source })?;
        self.save_devices(&file)
            .await
            .map_err(|source| MachineError::Control { action: "save", source: source.into() })?;
        Ok(())
    }

    async fn grow_disk(&self, _: &MachineSpec, bytes: u64) -> Result<(), MachineError> {
        let arguments = json!({ "node-name": ROOT_NODE, "size": bytes });
        let grown: Result<Value, QmpError> = self.qmp.execute("block_resize", &arguments).await;
        grown.map(drop).map_err(|source| MachineError::Control { action: "grow its disk", source: source.into() })
    }

    async fn status(&self) -> Result<Status, MachineError> {
        let state: Result<RunState, QmpError> = self.qmp.execute("query-status", &json!({})).await;
        let state =
            state.map_err(|source| MachineError::Control { action: "tell its status", source: source.into() })?;
        Ok(match state.status.as_str() {
            "prelaunch" | "inmigrate" => Status::Waiting,
            "running" => Status::Running,
            "paused" | "save-vm" => Status::Paused,
            _ => Status::Stuck(state.status),
        })
    }

    async fn trouble(&self) -> Trouble {
        let mut events = self.qmp.events();
        // It may have come before anybody listened.
        if matches!(self.status().await, Ok(Status::Stuck(status)) if status == "io-error") {
            return Trouble::OutOfSpace;
        }
        loop {
            match events.recv().await {
                Ok(event)
                    if event.name == "BLOCK_IO_ERROR"
                        && event.data["nospace"] == true
                        && event.data["action"] == "stop" =>
                {
                    return Trouble::OutOfSpace;
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Trouble::Gone,
            }
        }
    }

    async fn quit(&self) -> Result<(), MachineError> {
        self.simple("quit", "end").await
    }
}

/// Waits for the end of an incoming migration. A QEMU that cannot take a state ends.
async fn loaded(mut events: Receiver<Event>) -> Result<(), MachineError> {
    loop {
        match events.recv().await {
            Ok(event) if event.name == "MIGRATION" => match event.data["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => return Err(MachineError::Load),
                _ => {}
            },
            Ok(_) => {}
            Err(RecvError::Lagged(_) | RecvError::Closed) => return Err(MachineError::Load),
        }
    }
}
