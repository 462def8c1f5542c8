//! `wrenn down`: nothing of this data directory runs afterwards.

use crate::cli::{DownArgs, Global};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::instance::{self, Instance};
use crate::output::Output;
use crate::up::platform;
use serde::Serialize;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Serialize)]
struct Ended {
    dir: PathBuf,
    purged: bool,
}

/// Ends the platform and every VM of this data directory; with `--purge`, deletes the directory too.
pub async fn run(global: &Global, args: &DownArgs) -> Outcome {
    let dir = global.data_dir();
    if !instance::is_ours(&dir) {
        return Err(Failure::new(Exit::NotFound, format_args!("there is no platform at {}", dir.display()))
            .hint("name its directory with --dir"));
    }
    if args.purge && !args.yes && !agreed(&dir) {
        return Err(Failure::plain("not purged").hint("`--yes` deletes without asking"));
    }
    // Capsules that are about to be deleted need not be saved first.
    instance::end(&dir, args.purge)?;
    {
        let _instance = Instance::take(&dir)?;
        platform::teardown(&dir, args.purge).await?;
    }
    if args.purge {
        instance::purge(&dir)?;
    }
    let ended = Ended { dir, purged: args.purge };
    Ok(Output { json: global.json }.result(&ended, |ended| {
        let what = if ended.purged { "and deleted" } else { "kept its data" };
        format!("ended {}, {what}", ended.dir.display())
    })?)
}

fn agreed(dir: &Path) -> bool {
    if !io::stdin().is_terminal() {
        return false;
    }
    let _ = write!(io::stderr(), "Delete {} with all capsules and keys? [y/N] ", dir.display());
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
