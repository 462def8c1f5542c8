//! Finding the template a request names.

use crate::Fleet;
use model::{Error, TeamId, Template, check};

/// Names under which SDKs ask for the template that every installation has.
const ALIASES: [&str; 2] = ["base", "minimal-ubuntu"];
const MINIMAL: &str = "minimal";

impl Fleet {
    /// What a team can make capsules from: its own templates and the platform's.
    pub async fn templates(&self, team: TeamId) -> Result<Vec<Template>, Error> {
        Ok(self.store().templates(team).await?)
    }

    /// A template by name. A template of the team that is really called like an alias goes before it.
    pub async fn template(&self, team: TeamId, name: &str) -> Result<Template, Error> {
        if !check::is_safe_name(name) {
            return Err(Error::invalid("template: expected letters, digits, `.`, `_` and `-`, at most 64"));
        }
        let mut found = self.store().template(team, name).await?;
        if found.is_none() && ALIASES.contains(&name) {
            found = self.store().template(team, MINIMAL).await?;
        }
        found.ok_or_else(|| Error::not_found(format_args!("template {name:?}")))
    }
}
