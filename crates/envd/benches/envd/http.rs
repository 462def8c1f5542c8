//! The client of every measurement, the same for the daemon and its references: plain sockets, large buffers.

use std::io::{self, Read, Write};
use std::net::TcpStream;

const BUFFER_BYTES: usize = 1 << 20;

/// One request on a connection of its own; answers the bytes of the body, chunk sizes included.
pub fn request(
    address: &str,
    head: &str,
    body: &[u8],
    send: impl FnOnce(&mut TcpStream) -> io::Result<()>,
) -> io::Result<u64> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    write!(socket, "{head}\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    socket.write_all(body)?;
    send(&mut socket)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut head = Vec::new();
    let mut after_head = loop {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&buffer[..count]);
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break (head.len() - end - 4) as u64;
        }
    };
    if !head.starts_with(b"HTTP/1.1 20") {
        return Err(io::Error::other(String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned()));
    }
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok(after_head),
            count => after_head += count as u64,
        }
    }
}

/// A body of this length, of which nothing is said.
pub fn zeros(bytes: u64) -> impl FnOnce(&mut TcpStream) -> io::Result<()> {
    move |socket| {
        io::copy(&mut io::repeat(0).take(bytes), &mut io::BufWriter::with_capacity(BUFFER_BYTES, socket)).map(drop)
    }
}
