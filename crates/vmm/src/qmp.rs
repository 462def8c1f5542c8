//! QEMU's control protocol: JSON lines over a Unix socket, one command at a time.
//!
//! A task reads all the time, whether or not anyone waits: QEMU buffers without bound what its client does not read,
//! and guests can cause events.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;

use crate::limits;

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// QEMU refused.
    #[error("{command}: {description}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's words.
        description: String,
    },
    /// The connection cannot be used any more.
    #[error("{command}: {broken}")]
    Broken {
        /// The command.
        command: &'static str,
        /// Why not.
        broken: Broken,
    },
    /// No answer in time; the command may still be carried out.
    #[error("{command}: no answer within {} s", limit.as_secs())]
    TimedOut {
        /// The command.
        command: &'static str,
        /// The time.
        limit: Duration,
    },
    /// The command could not be sent.
    #[error("{command}: {source}")]
    Send {
        /// The command.
        command: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The answer is not what the command's documentation promises.
    #[error("{command}: unexpected answer: {source}")]
    Answer {
        /// The command.
        command: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

/// Why a connection cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// QEMU ended or closed it.
    #[error("the connection is closed")]
    Closed,
    /// A line beyond [`limits::LINE_BYTES`].
    #[error("QEMU sent an overlong line")]
    LineTooLong,
    /// A line that is no message.
    #[error("QEMU sent something that is not QMP")]
    Garbage,
}

/// Something that happened in QEMU.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, such as `STOP`.
    pub name: String,
    /// Details, by event.
    pub data: Value,
}

/// Any line QEMU sends.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<ErrorBody>,
    id: Option<u64>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Debug, Deserialize)]
struct ErrorBody {
    desc: String,
}

#[derive(Serialize)]
struct Request<'a, A> {
    execute: &'static str,
    arguments: &'a A,
    id: u64,
}

type Answer = Result<Value, String>;

/// What the reading task and the callers share.
#[derive(Debug)]
struct Shared {
    pending: Mutex<Option<(u64, oneshot::Sender<Answer>)>>,
    broken: OnceLock<Broken>,
    events: Mutex<Option<broadcast::Sender<Event>>>,
}

/// A connection to one QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    writer: tokio::sync::Mutex<Writer>,
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

#[derive(Debug)]
struct Writer {
    half: OwnedWriteHalf,
    next_id: u64,
}

impl Qmp {
    /// Takes over a fresh connection: awaits the greeting for so long, and enters command mode.
    pub(crate) async fn open(stream: UnixStream, limit: Duration) -> Result<Self, QmpError> {
        const COMMAND: &str = "qmp_capabilities";
        let (read, half) = stream.into_split();
        let mut reader = BufReader::new(read);
        let greeting = tokio::time::timeout(limit, read_message(&mut reader)).await;
        match greeting {
            Err(_) => return Err(QmpError::TimedOut { command: COMMAND, limit }),
            Ok(Err(broken)) => return Err(QmpError::Broken { command: COMMAND, broken }),
            Ok(Ok(message)) if message.greeting.is_none() => {
                return Err(QmpError::Broken { command: COMMAND, broken: Broken::Garbage });
            }
            Ok(Ok(_)) => {}
        }
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            broken: OnceLock::new(),
            events: Mutex::new(Some(broadcast::Sender::new(limits::EVENTS))),
        });
        let reader = tokio::spawn(read_all(reader, shared.clone()));
        let qmp = Self { writer: tokio::sync::Mutex::new(Writer { half, next_id: 1 }), shared, reader };
        qmp.execute::<Value>(COMMAND, &Value::Object(serde_json::Map::new())).await?;
        Ok(qmp)
    }

    /// Carries out a command within [`limits::COMMAND`].
    pub(crate) async fn execute<T: DeserializeOwned>(
        &self,
        command: &'static str,
        arguments: &impl Serialize,
    ) -> Result<T, QmpError> {
        self.run(command, arguments, None, Some(limits::COMMAND)).await
    }

    /// The same, and QEMU gets a duplicate of `fd` with it (`SCM_RIGHTS`).
    pub(crate) async fn execute_with_fd<T: DeserializeOwned>(
        &self,
        command: &'static str,
        arguments: &impl Serialize,
        fd: BorrowedFd<'_>,
    ) -> Result<T, QmpError> {
        self.run(command, arguments, Some(fd), Some(limits::COMMAND)).await
    }

    /// Carries out a command that takes as long as it takes.
    pub(crate) async fn execute_unlimited<T: DeserializeOwned>(
        &self,
        command: &'static str,
        arguments: &impl Serialize,
    ) -> Result<T, QmpError> {
        self.run(command, arguments, None, None).await
    }

    /// Events from now on. The receiver is closed when the connection is.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        let events = self.shared.events.lock().unwrap_or_else(PoisonError::into_inner);
        // A sender of its own that is dropped at once gives a receiver that says "closed".
        events.as_ref().map_or_else(|| broadcast::Sender::new(1).subscribe(), broadcast::Sender::subscribe)
    }

    async fn run<T: DeserializeOwned>(
        &self,
        command: &'static str,
        arguments: &impl Serialize,
        fd: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
    ) -> Result<T, QmpError> {
        let answer = self.exchange(command, arguments, fd);
        let answer = match limit {
            None => answer.await?,
            Some(limit) => {
                tokio::time::timeout(limit, answer).await.map_err(|_| QmpError::TimedOut { command, limit })??
            }
        };
        let value = answer.map_err(|description| QmpError::Refused { command, description })?;
        serde_json::from_value(value).map_err(|source| QmpError::Answer { command, source })
    }

    /// Sends one command and awaits its answer. The lock is held all the while: answers carry ids, so that one that comes
    /// after its caller gave up is not taken for the next one's.
    async fn exchange(
        &self,
        command: &'static str,
        arguments: &impl Serialize,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Answer, QmpError> {
        let mut writer = self.writer.lock().await;
        let id = writer.next_id;
        writer.next_id += 1;
        let request = Request { execute: command, arguments, id };
        let mut line = serde_json::to_vec(&request).map_err(|source| QmpError::Answer { command, source })?;
        line.push(b'\n');
        let (sender, receiver) = oneshot::channel();
        *self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, sender));
        let broken = || QmpError::Broken { command, broken: *self.shared.broken.get().unwrap_or(&Broken::Closed) };
        if self.shared.broken.get().is_some() {
            return Err(broken());
        }
        if let Err(source) = send(&writer.half, &line, fd).await {
            return Err(if source.kind() == io::ErrorKind::BrokenPipe {
                broken()
            } else {
                QmpError::Send { command, source }
            });
        }
        receiver.await.map_err(|_| broken())
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Sends the whole line; the descriptor goes with its first byte.
async fn send(half: &OwnedWriteHalf, mut line: &[u8], mut fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let stream: &UnixStream = half.as_ref();
    while !line.is_empty() {
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds = fd.as_slice();
                if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                Ok(sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?)
            })
            .await?;
        fd = None;
        line = line.get(sent..).unwrap_or_default();
    }
    Ok(())
}

async fn read_all(mut reader: BufReader<OwnedReadHalf>, shared: Arc<Shared>) {
    let broken = loop {
        match read_message(&mut reader).await {
            Ok(message) => deliver(message, &shared),
            Err(broken) => break broken,
        }
    };
    let _ = shared.broken.set(broken);
    // Whoever waits for an answer or an event learns that there will be none.
    shared.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
    shared.events.lock().unwrap_or_else(PoisonError::into_inner).take();
}

fn deliver(message: Message, shared: &Shared) {
    if let Some(name) = message.event {
        tracing::debug!(event = name, data = %message.data, "QEMU event");
        if let Some(events) = &*shared.events.lock().unwrap_or_else(PoisonError::into_inner) {
            // Nobody listening is no error.
            let _ = events.send(Event { name, data: message.data });
        }
        return;
    }
    let mut pending = shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, sender)) = pending.take_if(|(id, _)| Some(*id) == message.id) {
        let answer = message.error.map_or_else(|| Ok(message.result.unwrap_or_default()), |error| Err(error.desc));
        let _ = sender.send(answer);
    }
}

async fn read_message(reader: &mut BufReader<OwnedReadHalf>) -> Result<Message, Broken> {
    let mut line = Vec::new();
    let read = reader.take(limits::LINE_BYTES).read_until(b'\n', &mut line).await;
    match read {
        Ok(0) | Err(_) => Err(Broken::Closed),
        Ok(count) if line.last() != Some(&b'\n') => {
            Err(if count as u64 == limits::LINE_BYTES { Broken::LineTooLong } else { Broken::Closed })
        }
        Ok(_) => serde_json::from_slice(&line).map_err(|_| Broken::Garbage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use tokio::io::AsyncWriteExt;

    const GREETING: &[u8] = b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n{\"return\": {}, \"id\": 1}\r\n";

    /// Opens a connection to a QEMU that says `bytes` and closes, and carries out one command.
    async fn told(bytes: &[u8]) -> Result<Value, QmpError> {
        let (ours, mut theirs) = UnixStream::pair().map_err(|source| QmpError::Send { command: "pair", source })?;
        let script = bytes.to_vec();
        let qemu = tokio::spawn(async move {
            let _ = theirs.write_all(&script).await;
            let _ = theirs.shutdown().await;
            // Commands are read, or sending them would fail before the answers are seen.
            let _ = tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await;
        });
        let result = async { Qmp::open(ours, limits::CONNECT).await?.execute("query-status", &json!({})).await }.await;
        qemu.abort();
        result
    }

    #[tokio::test]
    async fn whatever_qemu_says_is_an_answer_or_a_typed_error() {
        let broken = |result: Result<Value, QmpError>| match result {
            Err(QmpError::Broken { broken, .. }) => Some(broken),
            _ => None,
        };
        let after = |bytes: &[u8]| [GREETING, bytes].concat();
        assert_eq!(broken(told(b"").await), Some(Broken::Closed));
        assert_eq!(broken(told(b"HTTP/1.1 400 Bad Request\r\n").await), Some(Broken::Garbage));
        assert_eq!(broken(told(b"{\"event\": \"STOP\"}\n").await), Some(Broken::Garbage));
        assert_eq!(broken(told(&after(b"")).await), Some(Broken::Closed));
        assert_eq!(broken(told(&after(b"{\"return\": {}, \"id\"")).await), Some(Broken::Closed));
        assert_eq!(broken(told(&after(b"[1]\n")).await), Some(Broken::Garbage));
        let overlong = vec![b' '; usize::try_from(limits::LINE_BYTES).unwrap_or_default() + 1];
        assert_eq!(broken(told(&after(&overlong)).await), Some(Broken::LineTooLong));
    }

    /// The first command of a connection has id 1, so ours has 2. An answer cannot come before its command: these come late.
    #[tokio::test]
    async fn answers_belong_to_their_commands() -> Result<(), Box<dyn std::error::Error>> {
        let (ours, theirs) = UnixStream::pair()?;
        let qemu = tokio::spawn(async move {
            let mut theirs = BufReader::new(theirs);
            theirs.write_all(b"{\"QMP\": {}}\n").await?;
            let mut line = String::new();
            while theirs.read_line(&mut line).await? > 0 {
                let request: Value = serde_json::from_str(&line)?;
                let answer = match request["execute"].as_str() {
                    Some("refused") => {
                        json!({ "error": { "class": "GenericError", "desc": "no" }, "id": request["id"] })
                    }
                    _ => json!({ "return": { "for": request["execute"] }, "id": request["id"] }),
                };
                let noise =
                    "{\"event\": \"STOP\", \"timestamp\": {}}\n{\"return\": {}, \"id\": 999}\n{\"return\": 1}\n";
                theirs.write_all(format!("{noise}{answer}\n").as_bytes()).await?;
                line.clear();
            }
            Ok::<_, io::Error>(())
        });
        let qmp = Qmp::open(ours, limits::CONNECT).await?;
        let mut events = qmp.events();
        for command in ["one", "two"] {
            assert_eq!(qmp.execute::<Value>(command, &json!({})).await?, json!({ "for": command }));
        }
        let refused = qmp.execute::<Value>("refused", &json!({})).await;
        assert!(matches!(refused, Err(QmpError::Refused { description, .. }) if description == "no"));
        assert_eq!(events.recv().await?.name, "STOP");
        drop(qmp);
        qemu.await??;
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_bytes_hang_or_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                let _ = runtime.block_on(told(&[GREETING, &bytes[..], b"\n"].concat()));
            }
        }
    }
}
