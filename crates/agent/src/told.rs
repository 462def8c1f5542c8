//! What a guest is told when it starts, and what it is made to run before anybody uses it.

use crate::limits;
use crate::record::Record;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use guestlink::{Envd, Init};
use network::Metadata;
use sha2::{Digest, Sha512};

/// Why a VM is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// As a new capsule: it gets an identity of its own.
    Clone,
    /// As the capsule it was.
    Resume,
}

/// Everything a capsule's guest is told. One that has just booted has no name yet; one that goes on may have changed it.
pub fn init(record: &Record, purpose: Purpose, booted: bool) -> Init {
    let name = (booted || purpose == Purpose::Clone).then(|| record.id.to_string());
    Init {
        access_token: record.identity.access_token.clone(),
        default_user: record.identity.default_user.clone(),
        default_workdir: record.identity.default_workdir.clone(),
        env_vars: record.identity.envs.clone(),
        sandbox_id: record.id.to_string(),
        template_id: record.class.template.to_string(),
        hostname: name.unwrap_or_default(),
        clone: purpose == Purpose::Clone,
        ..moment()
    }
}

/// What a guest finds at the metadata address.
pub fn metadata(record: &Record) -> Metadata {
    Metadata {
        instance_id: record.id.to_string(),
        environment_id: record.class.template.to_string(),
        log_address: None,
        access_token_hash: Some(hex::encode(Sha512::digest(&record.identity.access_token))),
    }
}

/// The time, as guests are told it.
pub fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

/// What every guest needs after it stood still: the time, and randomness nobody else has.
pub fn moment() -> Init {
    let entropy: [u8; 64] = rand::random();
    Init { timestamp: now(), entropy: BASE64.encode(entropy), ..Init::default() }
}

/// Runs a shell command in the guest and waits for its end; answers its exit code, if the guest tells one.
pub async fn run_to_end(envd: &Envd, command: &str) -> Result<Option<i32>, connectrpc::ConnectError> {
    use proto::process::process_event::Event;
    use proto::process::{ProcessConfig, StartRequest};
    let process = ProcessConfig {
        cmd: "/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), command.to_owned()],
        ..Default::default()
    };
    let request = StartRequest { process: process.into(), stdin: Some(false), ..Default::default() };
    let options = guestlink::options("root").with_timeout(limits::GUEST_READY);
    let mut stream = envd.process().start_with_options(request, options).await?;
    let mut code = None;
    while let Some(message) = stream.message().await? {
        let event = message.to_owned_message().event.into_option().and_then(|event| event.event);
        if let Some(Event::End(end)) = event {
            code = Some(end.exit_code);
        }
    }
    Ok(code)
}
