//! docs/doctor.md is written by the checks, so that it cannot be wrong.

use super::checks::CHECKS;
use std::path::Path;

const INTRO: &str = "\
# `wrenn doctor`

Written by `UPDATE_DOCS=1 cargo test -p wrenn --bin wrenn docs`; a test compares it with the program.

```console
$ sudo wrenn doctor [--fix] [--json]
```

One line per check: `ok`, `warn` (works, but slower, weaker or with a limit) or `fail` (`wrenn up` cannot work like this), what there is, and below it, where something is to be done, what.
It ends with 0 when no check fails, warnings or not, else with 1. Without `--fix` it changes nothing; only whether KVM works is remembered, as `wrenn up` does.

`--fix` does what is safe and easily taken back, says each thing, and then looks at everything again: it loads kernel modules, sets kernel settings until the next boot (put them into
`/etc/sysctl.d` to keep them), closes the data directory to others, and lets capsules through other firewalls by the command shown. It never installs or restarts anything. Twice does no harm.
A rule added to another firewall lasts until that one is loaded anew; ufw and firewalld keep theirs (`ufw route delete …`, `firewall-cmd --permanent --zone=trusted --remove-source=…` take it back).

With `--json` the object is `{\"ok\", \"checks\": [{\"name\", \"verdict\", \"found\", \"remedy\"?, \"fixes\"?}], \"changes\"?: [{\"check\", \"fix\", \"error\"?}]}`; `fixes` is what `--fix` would do,
`changes` what it did.

| check | looks at | warns of | fails for |
|---|---|---|---|
";

fn page() -> String {
    let rows = CHECKS
        .iter()
        .map(|check| format!("| `{}` | {} | {} | {} |\n", check.name, check.about, check.warns, check.fails));
    INTRO.to_owned() + &rows.collect::<String>()
}

#[test]
fn docs_are_the_checks() -> std::io::Result<()> {
    let path = Path::new("../../docs/doctor.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, page())?;
    }
    assert_eq!(std::fs::read_to_string(path)?, page(), "run `UPDATE_DOCS=1 cargo test -p wrenn --bin wrenn docs`");
    Ok(())
}
