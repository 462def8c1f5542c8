//! A subscription as the message stream a client sees.

use std::time::Duration;

use connectrpc::ConnectError;
use futures_util::{Stream, stream};
use proto::process::ProcessEvent;
use proto::process::process_event::data_event::Output;
use proto::process::process_event::{DataEvent, Event, KeepAlive, StartEvent};
use tokio::sync::mpsc;

use super::audience::News;

enum Next {
    Start,
    News,
    /// The process was killed by its time limit: after the end, the stream fails.
    Expired,
    Nothing,
}

/// Start, output, keep-alives, end. Dropping it detaches the client and does nothing to the process.
pub(super) fn events(
    pid: u32,
    news: mpsc::Receiver<News>,
    keepalive: Duration,
) -> impl Stream<Item = Result<ProcessEvent, ConnectError>> + Send {
    stream::unfold((Next::Start, news), move |(next, mut news)| async move {
        match next {
            Next::Start => {
                let start = StartEvent { pid, ..Default::default() };
                Some((Ok(event(start)), (Next::News, news)))
            }
            Next::News => match tokio::time::timeout(keepalive, news.recv()).await {
                Err(_silence) => Some((Ok(event(KeepAlive::default())), (Next::News, news))),
                Ok(Some(item)) => {
                    let (event, next) = message(item);
                    Some((Ok(event), (next, news)))
                }
                Ok(None) => Some((Err(ConnectError::internal("the output was cut off")), (Next::Nothing, news))),
            },
            Next::Expired => {
                Some((Err(ConnectError::deadline_exceeded("the process ran out of time")), (Next::Nothing, news)))
            }
            Next::Nothing => None,
        }
    })
}

fn message(news: News) -> (ProcessEvent, Next) {
    let output = match news {
        News::Stdout(bytes) => Output::Stdout(bytes.into()),
        News::Stderr(bytes) => Output::Stderr(bytes.into()),
        News::Pty(bytes) => Output::Pty(bytes.into()),
        News::End(end) => {
            let next = if end.timed_out { Next::Expired } else { Next::Nothing };
            return (event(end.event()), next);
        }
    };
    (event(DataEvent { output: Some(output), ..Default::default() }), Next::News)
}

fn event(event: impl Into<Event>) -> ProcessEvent {
    ProcessEvent { event: Some(event.into()), ..Default::default() }
}
