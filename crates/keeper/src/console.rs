//! A VMM's console: the last of it kept, all of it readable as it comes.
//!
//! On `console.sock` a reader gets one line of JSON ([`ConsoleHead`]), what is kept, and then what comes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, broadcast};

use crate::limits;
use crate::records::{CONSOLE, Running};

/// The last bytes of a stream.
#[derive(Debug)]
pub(crate) struct Ring {
    bytes: VecDeque<u8>,
    bound: usize,
    /// Bytes that came before those kept.
    dropped: u64,
}

impl Ring {
    pub(crate) fn new(bound: usize) -> Self {
        Self { bytes: VecDeque::new(), bound, dropped: 0 }
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend(chunk);
        let excess = self.bytes.len().saturating_sub(self.bound);
        self.bytes.drain(..excess);
        self.dropped += excess as u64;
    }

    fn contents(&self) -> Vec<u8> {
        self.bytes.iter().copied().collect()
    }

    /// The last `bytes` as text; what is not UTF-8 is replaced.
    pub(crate) fn tail(&self, bytes: usize) -> String {
        let skipped = self.bytes.len().saturating_sub(bytes);
        let tail: Vec<u8> = self.bytes.iter().skip(skipped).copied().collect();
        String::from_utf8_lossy(&tail).into_owned()
    }
}

/// First line a console reader gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleHead {
    /// Whose console it is.
    pub running: Running,
    /// Output before the first byte that follows, no longer kept.
    pub dropped_bytes: u64,
}

/// Ring and readers of one console. Used by one task, so a reader misses nothing between what is kept and what comes.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) ring: Ring,
    output: broadcast::Sender<Arc<[u8]>>,
    places: Arc<Semaphore>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self {
            ring: Ring::new(limits::CONSOLE_BYTES),
            output: broadcast::Sender::new(limits::CONSOLE_LAG),
            places: Arc::new(Semaphore::new(limits::CONSOLE_READERS as usize)),
        }
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.ring.push(chunk);
        // No reader is no error.
        let _ = self.output.send(chunk.into());
    }

    /// Ends the stream and waits until every reader has got all of it.
    pub(crate) async fn close(self) {
        drop(self.output);
        // An error would mean that the semaphore is closed, which nothing does.
        let _all = self.places.acquire_many(limits::CONSOLE_READERS).await;
    }

    /// Serves one more reader, or closes it when there are enough.
    pub(crate) fn serve(&self, mut stream: UnixStream, running: Running) {
        let Ok(place) = self.places.clone().try_acquire_owned() else { return };
        let head = ConsoleHead { running, dropped_bytes: self.ring.dropped };
        let (kept, mut output) = (self.ring.contents(), self.output.subscribe());
        tokio::spawn(async move {
            let _place = place;
            let mut line = serde_json::to_vec(&head).unwrap_or_default();
            line.push(b'\n');
            if stream.write_all(&line).await.is_err() || stream.write_all(&kept).await.is_err() {
                return;
            }
            let (mut input, mut stream) = stream.split();
            let mut ignored = [0; 1];
            loop {
                // Readers say nothing; reading notices that one has left.
                tokio::select! {
                    chunk = output.recv() => match chunk {
                        Ok(chunk) if stream.write_all(&chunk).await.is_ok() => {}
                        _ => return,
                    },
                    _ = input.read(&mut ignored) => return,
                }
            }
        });
    }
}

/// A console being read: what was kept when it was opened, then what came since, to the VMM's end.
#[derive(Debug)]
pub struct Console {
    /// What it is.
    pub head: ConsoleHead,
    /// The output.
    pub output: BufReader<UnixStream>,
}

/// Opens the console of the machine in `dir`.
pub async fn console(dir: &Path) -> io::Result<Console> {
    let directory = std::fs::File::open(dir)?;
    // Short whatever the directory is called: a socket's path has at most 107 bytes (unix(7)).
    let stream = UnixStream::connect(format!("/proc/self/fd/{}/{CONSOLE}", directory.as_raw_fd())).await?;
    let mut output = BufReader::new(stream);
    let mut line = Vec::new();
    (&mut output).take(limits::RECORD_BYTES).read_until(b'\n', &mut line).await?;
    Ok(Console { head: serde_json::from_slice(&line)?, output })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_end_and_counts_the_rest() {
        let mut ring = Ring::new(8);
        ring.push(b"abc");
        assert_eq!((ring.tail(2).as_str(), ring.dropped), ("bc", 0));
        ring.push(b"defghij");
        assert_eq!((ring.contents().as_slice(), ring.dropped), (&b"cdefghij"[..], 2));
        ring.push(&[b'x'; 100]);
        assert_eq!((ring.tail(100).as_str(), ring.dropped), ("xxxxxxxx", 102));
        ring.push(&[0xff]);
        assert_eq!(ring.tail(2), "x\u{fffd}");
    }
}
