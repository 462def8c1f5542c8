//! TCP connections of a namespace: a slot that still has some is not given to another guest, which would get what they send.

use std::io;

/// `TCP_TIME_WAIT`, `TCP_CLOSE` and `TCP_LISTEN` of `<net/tcp_states.h>`: nothing is sent from there.
const SILENT: [&str; 3] = ["06", "07", "0A"];

/// Whether the calling thread's namespace has a connection that may send something, be it the rest of what was written before
/// it was closed.
pub(crate) fn any() -> io::Result<bool> {
    Ok(any_in(&std::fs::read_to_string("/proc/thread-self/net/tcp")?))
}

/// The fourth column is the state (`proc_pid_net(5)`).
fn any_in(table: &str) -> bool {
    let states = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3));
    states.into_iter().any(|state| !SILENT.contains(&state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_send() {
        let table = |state: &str| {
            format!(
                "  sl  local_address rem_address   st tx_queue rx_queue\n   0: 0100007F:1F90 0200007F:0050 {state} 00000000:00000000\n"
            )
        };
        for (state, sends) in [("01", true), ("02", true), ("04", true), ("06", false), ("07", false), ("0A", false)] {
            assert_eq!(any_in(&table(state)), sends, "{state}");
        }
        assert!(!any_in(""));
    }
}
