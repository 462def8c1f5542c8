//! The bytes of a file on their way to a client: read, compressed if wanted, in memory that is used again.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write as _};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::{Buf as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use rustix::io::{ReadWriteFlags, preadv2};

use super::encoding::Encoding;
use crate::daemon::{Interrupted, blocking};
use crate::limits;

/// What was read already, then the file from where it stands; `left` bytes at most.
pub(super) struct Reader {
    pub begin: Bytes,
    pub file: Option<File>,
    pub left: u64,
}

/// The whole of it, as fast as the client takes it.
pub(super) fn answer(reader: Reader, encoding: Encoding) -> Response {
    let gzip = match encoding {
        Encoding::Identity => None,
        // The fastest level: the network is close.
        Encoding::Gzip => Some(GzEncoder::new(Vec::new(), Compression::fast())),
    };
    let source = Source { reader, gzip, buffers: Default::default(), over: false };
    let chunks = stream::try_unfold(source, |mut source| async move {
        if let Some(chunk) = source.next_at_once() {
            return Ok(Some((chunk, source)));
        }
        blocking(move || match source.next() {
            Ok(chunk) => Ok::<_, Broken>(chunk.map(|chunk| (chunk, source))),
            Err(error) => Err(Broken(error)),
        })
        .await
    });
    Body::from_stream(chunks).into_response()
}

/// The rest of a file could not be read: the connection breaks off, since the status has been sent.
#[derive(Debug, thiserror::Error)]
#[error("reading the file: {0}")]
struct Broken(io::Error);

impl From<Interrupted> for Broken {
    fn from(interrupted: Interrupted) -> Self {
        Self(io::Error::other(interrupted))
    }
}

impl Reader {
    /// What the page cache holds; an error where the disk, or a read that blocks, must be asked (`preadv2(2)`,
    /// `RWF_NOWAIT`).
    fn read_cached(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const WHERE_IT_STANDS: u64 = u64::MAX;
        let Some(file) = self.file.as_ref().filter(|_| self.begin.is_empty()) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let length = bounded(self.left, buffer.len());
        let mut slices = [IoSliceMut::new(&mut buffer[..length])];
        let count = preadv2(file, &mut slices, WHERE_IT_STANDS, ReadWriteFlags::NOWAIT)?;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = bounded(self.left, buffer.len());
        let count = match (&mut self.file, self.begin.is_empty()) {
            (None, true) => 0,
            (Some(file), true) => file.read(&mut buffer[..length])?,
            (_, false) => {
                let count = length.min(self.begin.len());
                self.begin.copy_to_slice(&mut buffer[..count]);
                count
            }
        };
        self.left -= count as u64;
        Ok(count)
    }
}

fn bounded(left: u64, length: usize) -> usize {
    usize::try_from(left).map_or(length, |left| left.min(length))
}

struct Source {
    reader: Reader,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// Memory is used again as soon as nobody holds what was read into it.
    buffers: [BytesMut; 2],
    over: bool,
}

impl Source {
    /// A chunk that needs neither a disk nor much of a processor.
    fn next_at_once(&mut self) -> Option<Bytes> {
        if self.gzip.is_some() {
            return None;
        }
        self.fill(Reader::read_cached).ok().filter(|chunk| !chunk.is_empty())
    }

    fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.over {
            let chunk = self.fill(Reader::read)?;
            self.over = chunk.is_empty();
            let ready = match (self.gzip.take(), self.over) {
                (None, _) => chunk,
                (Some(gzip), true) => gzip.finish()?.into(),
                (Some(mut gzip), false) => {
                    gzip.write_all(&chunk)?;
                    let ready = std::mem::take(gzip.get_mut());
                    self.gzip = Some(gzip);
                    ready.into()
                }
            };
            if !ready.is_empty() {
                return Ok(Some(ready));
            }
        }
        Ok(None)
    }

    /// What one read brings, in the buffer the connection has had longer to let go of; nothing at the end.
    fn fill(&mut self, read: impl Fn(&mut Reader, &mut [u8]) -> io::Result<usize>) -> io::Result<Bytes> {
        let buffer = &mut self.buffers[0];
        buffer.resize(limits::READ_CHUNK, 0);
        let count = loop {
            match read(&mut self.reader, buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        buffer.truncate(count);
        let chunk = buffer.split().freeze();
        self.buffers.rotate_left(1);
        Ok(chunk)
    }
}
