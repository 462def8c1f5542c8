//! The keeper as a program of its own: `wrenn-keeper keeper SPEC`, the same words as `wrenn keeper SPEC`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [word, spec] = args.as_slice() else {
        eprintln!("usage: wrenn-keeper keeper SPEC");
        return ExitCode::from(2);
    };
    if word != "keeper" {
        eprintln!("usage: wrenn-keeper keeper SPEC");
        return ExitCode::from(2);
    }
    match keeper::run(Path::new(spec)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keeper: {error}");
            ExitCode::FAILURE
        }
    }
}
