//! `wrenn capsule exec`: as if the command ran here, without its stdin.

use crate::cli::ExecArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Output};
use client::Client;
use model::Code;
use model::rest::{ExecRequest, ExecResult};
use std::io::{self, Write};
use std::process::ExitCode;

/// Runs or starts the command. The exit code is the command's own.
pub async fn run(client: &Client, args: ExecArgs, out: Output) -> Outcome<ExitCode> {
    let mut command = args.command.into_iter();
    let request = ExecRequest {
        cmd: command.next().unwrap_or_default(),
        args: command.collect(),
        timeout_sec: Some(args.timeout.into()),
        background: args.background,
        tag: args.tag,
        envs: args.env.into_iter().collect(),
        cwd: args.cwd,
        user: args.user,
    };
    if request.background {
        let started = client.start(args.id, &request).await.map_err(infrastructure)?;
        out.result(&started, |started| started.pid.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let result = client.exec(args.id, &request).await.map_err(infrastructure)?;
    if out.json {
        output::object(&result)?;
    } else {
        pass_on(&result)?;
    }
    Ok(exit_code(result.exit_code))
}

/// A script must be able to tell a failing command from a failing platform, so none of the usual codes will do.
fn infrastructure(error: client::Error) -> Failure {
    let timed_out = error.code() == Some(Code::Timeout);
    Failure::from(error).exit(if timed_out { Exit::ExecTimedOut } else { Exit::ExecFailed })
}

fn pass_on(result: &ExecResult) -> Outcome {
    let output = client::Output::of(result)
        .ok_or_else(|| Failure::new(Exit::ExecFailed, "the server's answer is not encoded as it says"))?;
    io::stdout().write_all(&output.stdout)?;
    io::stdout().flush()?;
    io::stderr().write_all(&output.stderr)?;
    if result.truncated {
        let mib = model::limits::EXEC_OUTPUT_BYTES_MAX >> 20;
        writeln!(
            io::stderr(),
            "warning: output beyond {mib} MiB was cut; write it to a file and use `wrenn capsule cp`"
        )?;
    }
    Ok(())
}

fn exit_code(code: i32) -> ExitCode {
    match u8::try_from(code) {
        Ok(code) => code.into(),
        Err(_) => Exit::ExecSignalled.into(),
    }
}
