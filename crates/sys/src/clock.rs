//! Whether the system clock can be believed (adjtimex(2)).

use std::io;

/// Whether something, an NTP client as a rule, keeps the clock right: the kernel's `STA_UNSYNC` is clear.
pub fn is_synchronised() -> io::Result<bool> {
    // SAFETY: a structure of integers, for which all zeros is a valid value; no `modes` means that nothing is set.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: reads and writes one `timex`, which outlives the call.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(state.status & libc::STA_UNSYNC == 0) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernels_answer_agrees() {
        // SAFETY: a structure of integers, for which all zeros is a valid value.
        let mut state: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: reads and writes one `timex`, which outlives the call.
        let result = unsafe { libc::adjtimex(&raw mut state) };
        // `TIME_ERROR` has other reasons, too, but a clock that nobody keeps right is always one.
        assert!(super::is_synchronised().unwrap() || result == libc::TIME_ERROR);
    }
}
