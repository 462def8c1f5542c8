//! Every bound of the client.

use std::time::Duration;

/// Time to connect. A server that listens answers in milliseconds; a wrong address should not cost a minute.
pub const CONNECT: Duration = Duration::from_secs(5);
/// Time for one ordinary call: the longest hold of the server ([`model::limits::WAIT_MAX`]) and room to answer.
pub const CALL: Duration = Duration::from_secs(90);
/// Time a foreground exec may take beyond its own limit: the hold for a resume, and room to answer.
pub const EXEC_MARGIN: Duration = Duration::from_mins(1);
/// Largest error body that is read.
pub const ERROR_BODY_BYTES_MAX: usize = 64 << 10;
/// Largest JSON answer: both outputs of an exec at their limit, in base64, and the rest.
pub const ANSWER_BYTES_MAX: usize = 3 * model::limits::EXEC_OUTPUT_BYTES_MAX;
/// First pause between two looks at a status; grows to [`POLL_MAX`].
pub const POLL_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two looks at a status.
pub const POLL_MAX: Duration = Duration::from_secs(1);
/// Largest credentials file that is read.
pub const CREDENTIALS_BYTES_MAX: u64 = 64 << 10;
