//! TCP connections of a namespace: a slot that still has some is not given to another guest, which would get what they send.

use std::io;

/// Whether the calling thread's namespace has a connection that may send something, be it the rest of what was written before
/// it was closed.
pub(crate) fn any() -> io::Result<bool> {
    Ok(any_in(&std::fs::read_to_string("/proc/thread-self/net/tcp")?))
}

/// `proc_pid_net(5)`.
fn any_in(table: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let mut columns = line.split_whitespace().skip(3);
        let (state, queues) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
        let unsent = queues.split(':').next().and_then(|queue| u32::from_str_radix(queue, 16).ok());
        match state {
            // TCP_FIN_WAIT2, TCP_TIME_WAIT, TCP_CLOSE, TCP_LISTEN (`<net/tcp_states.h>`): nothing is sent from there any more.
            "05" | "06" | "07" | "0A" => false,
            // TCP_FIN_WAIT1, TCP_LAST_ACK, TCP_CLOSING: closed, and the end itself, which counts as one byte, is not acknowledged.
            "04" | "09" | "0B" => unsent.is_none_or(|bytes| bytes > 1),
            _ => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_send() {
        let table = |state: &str, unsent: u32| {
            format!(
                "  sl  local_address rem_address   st tx_queue rx_queue\n   0: 0100007F:1F90 0200007F:0050 {state} {unsent:08X}:00000000 00:0\n"
            )
        };
        for (state, unsent, sends) in [
            ("01", 0, true),
            ("02", 0, true),
            ("04", 1, false),
            ("04", 2, true),
            ("05", 0, false),
            ("06", 0, false),
            ("07", 0, false),
            ("08", 0, true),
            ("09", 1, false),
            ("09", 300, true),
            ("0A", 5, false),
            ("0B", 1, false),
        ] {
            assert_eq!(any_in(&table(state, unsent)), sends, "{state} {unsent}");
        }
        assert!(!any_in(""));
    }
}
