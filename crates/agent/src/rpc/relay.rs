//! Passing calls on to the guest: its answers and errors go back unchanged, and end with its life.

use super::missing;
use crate::limits;
use crate::shared::Lease;
use bytes::Bytes;
use connectrpc::client::ServerStream;
use connectrpc::{ConnectError, ErrorCode, InboundStream, Response, ServiceResult, ServiceStream, StreamMessage};
use futures_util::{Stream, StreamExt, stream};
use guestlink::FileError;
use http::StatusCode;
use proto::hostagent::v1 as wire;
use proto::process;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// A unary call with an embedded guest request.
macro_rules! unary {
    ($service:expr, $request:expr, $client:ident, $method:ident) => {{
        let request = $request.to_owned_message();
        let to = $crate::rpc::convert::target(request.target.as_option())?;
        let lease = $service.lease(&to.sandbox_id).await?;
        let inner = $crate::rpc::relay::required(request.request)?;
        let call = lease.guest.envd.$client().$method(inner, guestlink::timed_options(&to.user));
        let answer = $crate::rpc::relay::until_gone(&lease, call).await?;
        connectrpc::Response::ok(answer.into_owned())
    }};
}
pub(super) use unary;

/// The embedded guest request.
pub fn required<M: Default>(field: buffa::MessageField<M, buffa::Inline<M>>) -> Result<M, ConnectError> {
    field.into_option().ok_or_else(|| missing("request"))
}

/// The capsule stopped running under the call.
pub fn gone() -> ConnectError {
    ConnectError::new(ErrorCode::Aborted, "the capsule stopped running during the call")
}

/// The call's answer, unless the guest's life ends first.
pub async fn until_gone<T>(
    lease: &Lease,
    call: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    tokio::select! {
        answer = call => answer,
        () = lease.guest.gone.cancelled() => Err(gone()),
    }
}

/// A guest's stream as the agent's, message by message and without decoding them.
pub fn server_stream<B, V, M>(opened: ServerStream<B, V>, lease: Lease) -> Response<ServiceStream<StreamMessage<M>>>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
    V: buffa::MessageView<'static, Owned = M> + Send + Sync + 'static,
    M: buffa::HasMessageView<View<'static> = V> + DeserializeOwned + Send + Sync + 'static,
{
    let (sender, receiver) = mpsc::channel(limits::STREAM_BUFFER);
    tokio::spawn(forward(opened, lease, sender));
    let messages = stream::unfold(receiver, |mut receiver| async {
        let (message, _room) = receiver.recv().await?;
        Some((message, receiver))
    });
    Response::new(Box::pin(messages))
}

/// A message on its way, with its share of [`limits::STREAM_BYTES`].
type Buffered<M> = (Result<StreamMessage<M>, ConnectError>, Option<OwnedSemaphorePermit>);

/// Until the stream ends, its reader leaves, or the guest's life ends. Waits while the reader is slow.
async fn forward<B, V, M>(mut from: ServerStream<B, V>, lease: Lease, to: mpsc::Sender<Buffered<M>>)
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
    V: buffa::MessageView<'static, Owned = M> + Send + Sync + 'static,
    M: buffa::HasMessageView<View<'static> = V> + DeserializeOwned + Send + Sync + 'static,
{
    let room = Arc::new(Semaphore::new(limits::STREAM_BYTES as usize));
    let failure = loop {
        let next = tokio::select! {
            next = from.message::<M>() => next,
            () = lease.guest.gone.cancelled() => break gone(),
            () = to.closed() => return,
        };
        let message = match next {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(error) => break error,
        };
        let bytes = u32::try_from(message.bytes().len()).unwrap_or(u32::MAX).min(limits::STREAM_BYTES);
        let passed = async {
            let permit = room.clone().acquire_many_owned(bytes).await.ok();
            to.send((Ok(message), permit)).await
        };
        tokio::select! {
            sent = passed => if sent.is_err() { return },
            () = lease.guest.gone.cancelled() => break gone(),
            () = to.closed() => return,
        }
    };
    // A reader that is slow keeps nothing of a life that ended.
    drop((from, lease));
    let _ = to.send((Err(failure), None)).await;
}

/// The target in the first message, and the guest's input in all of them.
pub async fn split_input(
    mut requests: InboundStream<wire::StreamInputRequest>,
) -> Result<(wire::Target, impl Stream<Item = process::StreamInputRequest> + Send + use<>), ConnectError> {
    let first = requests.next().await.ok_or_else(|| missing("target"))??.to_owned_message();
    let target = first.target.into_option().ok_or_else(|| missing("target"))?;
    let head = stream::iter(first.request.into_option());
    let tail = requests.take_while(|message| std::future::ready(message.is_ok())).filter_map(|message| {
        std::future::ready(message.ok().and_then(|message| message.to_owned_message().request.into_option()))
    });
    Ok((target, head.chain(tail)))
}

/// The description in the first message, and the content in the others.
pub async fn split_file(
    mut requests: InboundStream<wire::WriteFileRequest>,
) -> Result<
    (wire::write_file_request::Meta, impl Stream<Item = Result<Bytes, ConnectError>> + Send + Sync + use<>),
    ConnectError,
> {
    use wire::write_file_request::Content;
    let first = requests.next().await.ok_or_else(|| missing("meta"))??.to_owned_message();
    let Some(Content::Meta(meta)) = first.content else { return Err(missing("meta")) };
    // A channel, because the inbound stream cannot be shared between threads and a request body must.
    let (sender, receiver) = mpsc::channel(limits::UPLOAD_BUFFER);
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let item = message.and_then(|message| match message.to_owned_message().content {
                Some(Content::Chunk(chunk)) => Ok(Bytes::from(chunk)),
                _ => Err(missing("chunk")),
            });
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
    let chunks = stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|c| (c, receiver)) });
    Ok((*meta, chunks))
}

/// A file of the guest in messages of bounded size.
pub async fn read_file(lease: Lease, path: &str, user: &str) -> ServiceResult<ServiceStream<wire::ReadFileResponse>> {
    let content = tokio::select! {
        content = lease.guest.envd.read_file(path, user) => content.map_err(|error| file_error(&error))?,
        () = lease.guest.gone.cancelled() => return Err(gone()),
    };
    let ended = lease.guest.gone.clone();
    let messages = content
        .flat_map(|chunk| {
            let parts: Vec<_> = match chunk {
                Ok(bytes) => {
                    split(bytes).map(|chunk| Ok(wire::ReadFileResponse { chunk, ..Default::default() })).collect()
                }
                Err(error) => vec![Err(file_error(&error))],
            };
            stream::iter(parts)
        })
        .take_until(lease.guest.gone.clone().cancelled_owned())
        // A file that was cut off must not look like a whole one.
        .chain(stream::once(async move { ended.is_cancelled().then(|| Err(gone())) }).filter_map(std::future::ready))
        .inspect(move |_| {
            // Held by the closure until the stream is dropped.
            let _ = &lease;
        });
    Ok(Response::new(Box::pin(messages)))
}

fn split(mut bytes: Bytes) -> impl Iterator<Item = Vec<u8>> {
    std::iter::from_fn(move || {
        let part = bytes.split_to(bytes.len().min(limits::FILE_CHUNK));
        (!part.is_empty()).then(|| part.to_vec())
    })
}

/// The guest's refusal with the code its status means.
pub fn file_error(error: &FileError) -> ConnectError {
    let code = match error {
        FileError::Unreachable(_) => ErrorCode::Aborted,
        FileError::Refused { status, .. } => match *status {
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::NOT_ACCEPTABLE => {
                ErrorCode::InvalidArgument
            }
            StatusCode::FORBIDDEN => ErrorCode::PermissionDenied,
            StatusCode::NOT_FOUND => ErrorCode::NotFound,
            StatusCode::CONFLICT => ErrorCode::AlreadyExists,
            StatusCode::INSUFFICIENT_STORAGE => ErrorCode::ResourceExhausted,
            _ => ErrorCode::Internal,
        },
    };
    ConnectError::new(code, error.to_string())
}
