//! Bodies as streams of bytes, inflated where the client compressed them.

use std::io::{self, Write as _};
use std::pin::Pin;

use axum::body::Body;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures_util::{Stream, StreamExt as _, stream};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use super::refusal::Refusal;
use crate::limits;

pub(super) type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The content of a request body; `Content-Encoding` covers it as a whole.
pub(super) fn content(headers: &HeaderMap, body: Body) -> Result<ByteStream, Refusal> {
    let plain: ByteStream = Box::pin(body.into_data_stream().map(|chunk| chunk.map_err(io::Error::other)));
    match headers
        .get(CONTENT_ENCODING)
        .map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase())
        .as_deref()
    {
        None | Some("" | "identity") => Ok(plain),
        Some("gzip") => Ok(inflate(plain)),
        Some(other) => Err(Refusal::bad_request(format!("unsupported Content-Encoding: {other}"))),
    }
}

/// The same, its end told one poll later than its last bytes. multer 3.1.0 polls twice while it looks for the first boundary
/// and takes a body for cut off that came whole in between.
pub(super) fn late_end(content: ByteStream) -> ByteStream {
    Box::pin(content.chain(stream::once(tokio::task::yield_now()).filter_map(async |()| None)))
}

struct Inflate {
    compressed: ByteStream,
    chunk: Bytes,
    /// None once the end has been seen.
    decoder: Option<MultiGzDecoder<Vec<u8>>>,
}

fn inflate(compressed: ByteStream) -> ByteStream {
    let state = Inflate { compressed, chunk: Bytes::new(), decoder: Some(MultiGzDecoder::new(Vec::new())) };
    Box::pin(stream::try_unfold(
        state,
        |mut state| async move { Ok(state.next().await?.map(|inflated| (inflated, state))) },
    ))
}

impl Inflate {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.chunk.is_empty() {
                match self.compressed.next().await.transpose()? {
                    Some(chunk) => self.chunk = chunk,
                    None => return self.finish(),
                }
            }
            let Some(decoder) = &mut self.decoder else { return Ok(None) };
            let step = self.chunk.split_to(self.chunk.len().min(limits::INFLATE_STEP));
            decoder.write_all(&step)?;
            let inflated = std::mem::take(decoder.get_mut());
            if !inflated.is_empty() {
                return Ok(Some(inflated.into()));
            }
        }
    }

    fn finish(&mut self) -> io::Result<Option<Bytes>> {
        let Some(decoder) = self.decoder.take() else { return Ok(None) };
        let rest = decoder.finish()?;
        Ok((!rest.is_empty()).then(|| rest.into()))
    }
}
