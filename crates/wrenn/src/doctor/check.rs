//! What a check is and what it can say.

use super::Plan;
use super::fix::Fix;
use serde::Serialize;
use std::pin::Pin;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but slower, weaker or with a limit.
    Warn,
    /// `wrenn up` cannot work like this.
    Fail,
}

impl Verdict {
    /// As it is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What a check found. Anything but [`Verdict::Ok`] has a remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub verdict: Verdict,
    /// What there is.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What `--fix` would do about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fixes: Vec<Fix>,
}

impl Finding {
    /// All is well.
    pub fn ok(found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, found: found.into(), remedy: None, fixes: Vec::new() }
    }

    /// It works, but.
    pub fn warn(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, found: found.into(), remedy: Some(remedy.into()), fixes: Vec::new() }
    }

    /// It cannot work.
    pub fn fail(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(found, remedy) }
    }

    /// What there is, on one line: tools may say more.
    pub fn line(&self) -> String {
        self.found.lines().map(str::trim).collect::<Vec<_>>().join("; ")
    }

    /// The same, which these mend: safe, and gone with the next boot or taken back by one command.
    pub fn fixed_by(self, fixes: impl IntoIterator<Item = Fix>) -> Self {
        Self { fixes: fixes.into_iter().collect(), ..self }
    }

    /// A warning whose remedy is what `--fix` does.
    pub fn warn_fixable(found: impl Into<String>, fix: Fix) -> Self {
        Self::warn(found, fix.to_string()).fixed_by([fix])
    }

    /// A failure whose remedy is what `--fix` does.
    pub fn fail_fixable(found: impl Into<String>, fix: Fix) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn_fixable(found, fix) }
    }
}

/// A finding under way.
pub type Examination<'a> = Pin<Box<dyn Future<Output = Finding> + 'a>>;

/// One thing that is looked at. docs/doctor.md is made of these.
#[derive(Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "texts of docs/doctor.md"))]
pub struct Check {
    /// Its name, which never changes.
    pub name: &'static str,
    /// What is looked at, and what for.
    pub about: &'static str,
    /// What is warned of; empty = nothing.
    pub warns: &'static str,
    /// What it fails for; empty = nothing.
    pub fails: &'static str,
    /// Gathers the facts and judges them. Changes nothing on the machine.
    pub examine: fn(&Plan) -> Examination<'_>,
}
