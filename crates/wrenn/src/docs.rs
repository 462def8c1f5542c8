//! docs/cli.md is written by the command line's own definition, so that it cannot be wrong.

use crate::cli::Cli;
use crate::exit::Exit;
use clap::{Command, CommandFactory};
use std::fmt::Write as _;
use std::path::Path;

const INTRO: &str = "\
# Command line

Written by `UPDATE_DOCS=1 cargo test -p wrenn --bin wrenn docs`; a test compares it with the program.

- Results go to stdout, everything else to stderr. `capsule exec` passes the command's own output on, byte for byte.
- `--json` prints one object; its fields are stable: new ones may appear, none changes its meaning. Failures are then
  `{\"error\": {\"code\", \"message\", \"hint\", \"request_id\"}}` on stderr; `code` is one of [errors.md](errors.md), or null
  when no server was asked. A wrong command line is always reported as text.
- The API's address and key are `WRENN_BASE_URL` and `WRENN_API_KEY`; what is unset comes from `credentials.json` in the
  data directory, which `wrenn up` writes.
- Capsule ids may be given with or without `cl-`.
- Only `up`, `down`, `doctor` and `agent` need root.
";

fn page() -> String {
    let mut page = format!("{INTRO}\n## Exit codes\n\n| code | meaning |\n|---|---|\n| 0 | It worked. |\n");
    for exit in Exit::ALL {
        let _ = writeln!(page, "| {} | {} |", exit.code(), exit.meaning());
    }
    page.push_str("\n`capsule exec` otherwise ends with the exit code of the command it ran.\n");
    let mut root = Cli::command();
    root.build();
    describe(&root, "wrenn", &mut page);
    page
}

fn describe(command: &Command, name: &str, page: &mut String) {
    let help = command.clone().bin_name(name).term_width(100).render_help().to_string();
    let help: Vec<_> = help.trim().lines().map(str::trim_end).collect();
    let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n"));
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        describe(sub, &format!("{name} {}", sub.get_name()), page);
    }
}

#[test]
fn docs_are_the_programs() -> std::io::Result<()> {
    let path = Path::new("../../docs/cli.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, page())?;
    }
    assert_eq!(std::fs::read_to_string(path)?, page(), "run `UPDATE_DOCS=1 cargo test -p wrenn --bin wrenn docs`");
    Ok(())
}
