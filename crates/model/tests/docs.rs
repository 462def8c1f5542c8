//! docs/errors.md is written by the catalogue, so that it cannot be wrong.

use model::Code;
use std::path::Path;

const INTRO: &str = "\
# Errors

Written by `UPDATE_DOCS=1 cargo test -p model --test docs`; a test compares it with the catalogue.

Every error answer of the REST API has this body, whatever the route:

```json
{\"error\": {\"code\": \"not_found\", \"message\": \"capsule not found\", \"request_id\": \"req_…\", \"retryable\": false}}
```

`code` is one of the table and never changes its spelling; `message` is for people and may change. The cause of a failure is in the
server's log under `request_id`, never in the answer. `retryable` says whether the same request can succeed later. The E2B
routes answer in E2B's shape, `{\"code\": 404, \"message\": \"…\"}`.

| code | status | retryable | meaning | what to do |
|---|---|---|---|---|
";

fn page() -> String {
    let rows = Code::ALL.iter().map(|code| {
        let retryable = if code.retryable() { "yes" } else { "no" };
        format!("| `{code}` | {} | {retryable} | {} | {} |\n", code.status(), code.meaning(), code.remedy())
    });
    INTRO.to_owned() + &rows.collect::<String>()
}

#[test]
fn docs_are_the_catalogue() -> std::io::Result<()> {
    let path = Path::new("../../docs/errors.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, page())?;
    }
    assert_eq!(std::fs::read_to_string(path)?, page(), "run `UPDATE_DOCS=1 cargo test -p model --test docs`");
    Ok(())
}
