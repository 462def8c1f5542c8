//! `POST /v1/capsules/{id}/exec`: run a command, in the foreground or not.

use crate::auth::Caller;
use crate::body::json;
use crate::failure::Failure;
use crate::params::Id;
use crate::state::ApiState;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fleet::{Command, ExecOutput};
use http::StatusCode;
use model::rest::{Encoding, ExecRequest, ExecResult, ExecStarted};
use model::{CapsuleId, Error, check};
use std::time::Duration;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route("/v1/capsules/{id}/exec", post(exec))
}

async fn exec(State(state): State<ApiState>, caller: Caller, Id(id): Id, body: Body) -> Result<Response, Failure> {
    let guest = state.fleet.guest(caller.team, id).await?;
    let asked: ExecRequest = json(body).await?;
    let limit = Duration::from_secs(check::exec_timeout_s(asked.timeout_sec)?.into());
    let (background, cmd) = (asked.background, asked.cmd.clone());
    let command = parse(asked)?;
    if background {
        let started = guest.start_background(&command).await?;
        let answer = ExecStarted { sandbox_id: id, cmd, pid: started.pid, tag: started.tag };
        return Ok((StatusCode::ACCEPTED, Json(answer)).into_response());
    }
    let output = guest.exec(&command, limit).await?;
    Ok(Json(result(id, cmd, &output)).into_response())
}

fn parse(asked: ExecRequest) -> Result<Command, Error> {
    let nul = |text: &String| text.contains('\0');
    if asked.cmd.is_empty() {
        return Err(Error::invalid("cmd is missing"));
    }
    if nul(&asked.cmd) || asked.args.iter().any(nul) || asked.cwd.as_ref().is_some_and(nul) {
        return Err(Error::invalid("cmd, args and cwd cannot contain NUL"));
    }
    check::envs(&asked.envs)?;
    let tag = asked.tag.filter(|tag| !tag.is_empty());
    let tag = if asked.background { Some(tag.unwrap_or_else(random_tag)) } else { tag };
    Ok(Command {
        cmd: asked.cmd,
        args: asked.args,
        envs: asked.envs,
        cwd: asked.cwd.filter(|cwd| !cwd.is_empty()),
        user: asked.user.filter(|user| !user.is_empty()),
        tag,
        stdin: false,
    })
}

fn random_tag() -> String {
    format!("proc-{:08x}", rand::random::<u32>())
}

/// Text when both streams are, else both in base64.
fn result(sandbox_id: CapsuleId, cmd: String, output: &ExecOutput) -> ExecResult {
    let (stdout, stderr, encoding) = match (str::from_utf8(&output.stdout), str::from_utf8(&output.stderr)) {
        (Ok(stdout), Ok(stderr)) => (stdout.to_owned(), stderr.to_owned(), Encoding::Utf8),
        _ => (STANDARD.encode(&output.stdout), STANDARD.encode(&output.stderr), Encoding::Base64),
    };
    ExecResult {
        sandbox_id,
        cmd,
        stdout,
        stderr,
        exit_code: output.exit_code,
        duration_ms: output.duration_ms,
        encoding,
        truncated: output.truncated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_binary_stream_makes_both_base64() {
        let output =
            |stdout: &[u8]| ExecOutput { stdout: stdout.to_vec(), stderr: b"e".to_vec(), ..Default::default() };
        let id = CapsuleId::random();
        let text = result(id, String::new(), &output("ä".as_bytes()));
        assert_eq!((text.stdout.as_str(), text.stderr.as_str(), text.encoding), ("ä", "e", Encoding::Utf8));
        let binary = result(id, String::new(), &output(&[0xff]));
        assert_eq!(
            (binary.stdout.as_str(), binary.stderr.as_str(), binary.encoding),
            ("/w==", "ZQ==", Encoding::Base64)
        );
    }
}
