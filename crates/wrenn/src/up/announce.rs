//! What a user needs once the platform runs: address, key, and lines to paste.

use crate::failure::{Failure, Outcome};
use crate::output::Output;
use model::rest::Credentials;
use std::path::Path;

/// Prints them; as JSON, the credentials themselves.
pub fn ready(dir: &Path, out: Output) -> Outcome {
    let path = dir.join("credentials.json");
    let text = std::fs::read_to_string(&path).map_err(|error| Failure::path("read", &path, &error))?;
    let credentials: Credentials = serde_json::from_str(&text)
        .map_err(|error| Failure::plain(format_args!("{} is not a credentials file: {error}", path.display())))?;
    Ok(out.result(&credentials, |credentials| snippets(credentials, &path))?)
}

fn snippets(credentials: &Credentials, path: &Path) -> String {
    let Credentials { base_url, api_key, e2b_api_key, .. } = credentials;
    format!(
        "
API  {base_url}
key  {api_key}  (kept in {path})

E2B SDKs                                    # pip install e2b, npm install e2b
  export E2B_API_URL={base_url} E2B_SANDBOX_URL={base_url}
  export E2B_API_KEY={e2b_api_key}
  python3 -c 'from e2b import Sandbox; print(Sandbox.create().commands.run(\"uname -a\").stdout)'

Wrenn SDK                                   # pip install wrenn
  export WRENN_BASE_URL={base_url} WRENN_API_KEY={api_key}
  python3 -c 'from wrenn import Capsule; print(Capsule(wait=True).commands.run(\"uname -a\").stdout)'

Command line
  wrenn capsule create
  wrenn capsule exec ID -- uname -a

Ctrl-C pauses the capsules and stops; `wrenn up` continues, `wrenn down` ends everything.",
        path = path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        let credentials = Credentials {
            base_url: "http://127.0.0.1:8000".to_owned(),
            api_key: format!("wrn_{}", "0".repeat(32)),
            e2b_api_key: format!("e2b_{}", "0".repeat(32)),
            email: String::new(),
            password: String::new(),
        };
        insta::assert_snapshot!(snippets(&credentials, Path::new(".wrenn/credentials.json")));
    }
}
