//! What the program's exit code says. docs/cli.md is generated from this table.

use model::Code;
use std::process::ExitCode;

macro_rules! exits {
    ($( $variant:ident, $code:literal, $meaning:literal; )*) => {
        /// Why the program ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Exit { $( #[doc = $meaning] $variant, )* }

        impl Exit {
            /// Every one, in ascending order.
            #[cfg(test)]
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// The number.
            pub const fn code(self) -> u8 {
                match self { $( Self::$variant => $code, )* }
            }

            /// For the docs.
            #[cfg(test)]
            pub const fn meaning(self) -> &'static str {
                match self { $( Self::$variant => $meaning, )* }
            }
        }
    };
}

exits! {
    Failure, 1, "It failed; stderr says why.";
    Usage, 2, "The command line is wrong.";
    NotFound, 3, "There is no such capsule, process or file.";
    WrongState, 4, "The capsule is in the wrong state for this, or something is in the way.";
    Unreachable, 5, "The API cannot be reached, or does not answer in time.";
    ExecTimedOut, 124, "`capsule exec`: the command did not end within `--timeout`.";
    ExecFailed, 125, "`capsule exec`: the platform failed, not the command.";
    ExecSignalled, 128, "`capsule exec`: a signal ended the command.";
    Interrupted, 130, "Ctrl-C before the work was done.";
}

impl Exit {
    /// For a refusal of the server.
    pub const fn of(code: Code) -> Self {
        match code {
            Code::InvalidRequest => Self::Usage,
            Code::NotFound => Self::NotFound,
            Code::Conflict | Code::InvalidState | Code::SnapshotIncompatible => Self::WrongState,
            Code::HostUnavailable | Code::Unavailable | Code::Timeout => Self::Unreachable,
            _ => Self::Failure,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
