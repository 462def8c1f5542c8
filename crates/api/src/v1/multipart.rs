//! Uploads: a form with the parts `path` and `file`.

use crate::body::unreadable;
use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::Limited;
use model::{Code, Error};
use multer::{Constraints, Field, Multipart, SizeLimit};

/// Longest value of the part `path`.
const PATH_BYTES_MAX: u64 = 8_192;

/// A file on its way.
pub(crate) struct Upload {
    pub(crate) path: String,
    pub(crate) content: BoxStream<'static, Result<Bytes, Error>>,
}

/// Reads as far as the file's first byte. With a limit, `file` may also come before `path`: it is then kept in
/// memory. Without one that is an error.
pub(crate) async fn parse(request: Request, limit: Option<u64>) -> Result<Upload, Error> {
    let mut form = form(request, limit)?;
    let mut path = None;
    while let Some(field) = form.next_field().await.map_err(|e| broken(&e))? {
        match (field.name(), path.take()) {
            (Some("path"), _) => path = Some(field.text().await.map_err(|e| broken(&e))?),
            (Some("file"), Some(path)) => return Ok(Upload { path, content: content(field) }),
            (Some("file"), None) if limit.is_some() => return file_first(field, form).await,
            (Some("file"), None) => return Err(Error::invalid("the part path must come before the part file")),
            (_, other) => path = other,
        }
    }
    Err(Error::invalid("the parts path and file are needed"))
}

fn form(request: Request, limit: Option<u64>) -> Result<Multipart<'static>, Error> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let boundary = header(CONTENT_TYPE).and_then(|value| multer::parse_boundary(value).ok());
    let boundary = boundary.ok_or_else(|| Error::invalid("the body must be multipart/form-data with a boundary"))?;
    let announced = header(CONTENT_LENGTH).and_then(|value| value.parse::<u64>().ok());
    let body = match limit {
        Some(limit) if announced.is_some_and(|length| length > limit) => {
            return Err(Error::new(Code::TooLarge, format!("the request is over {limit} bytes")));
        }
        Some(limit) => Body::new(Limited::new(request.into_body(), usize::try_from(limit).unwrap_or(usize::MAX))),
        None => request.into_body(),
    };
    let constraints = Constraints::new().size_limit(SizeLimit::new().for_field("path", PATH_BYTES_MAX));
    Ok(Multipart::with_constraints(body.into_data_stream(), boundary, constraints))
}

async fn file_first(field: Field<'static>, mut form: Multipart<'static>) -> Result<Upload, Error> {
    let chunks: Vec<Bytes> = content(field).try_collect().await?;
    while let Some(field) = form.next_field().await.map_err(|e| broken(&e))? {
        if field.name() == Some("path") {
            let path = field.text().await.map_err(|e| broken(&e))?;
            return Ok(Upload { path, content: stream::iter(chunks).map(Ok).boxed() });
        }
    }
    Err(Error::invalid("the part path is missing"))
}

fn content(field: Field<'static>) -> BoxStream<'static, Result<Bytes, Error>> {
    field.map_err(|error| broken(&error)).boxed()
}

fn broken(error: &multer::Error) -> Error {
    match error {
        multer::Error::StreamReadFailed(cause) => unreadable(&**cause),
        multer::Error::FieldSizeExceeded { .. } => Error::invalid("the part path is too long"),
        error => Error::invalid(format!("the form is not valid: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &str) -> Request {
        let request = Request::builder().header(CONTENT_TYPE, "multipart/form-data; boundary=B");
        request.body(Body::from(body.replace('\n', "\r\n"))).unwrap_or_default()
    }

    const PATH: &str = "--B\nContent-Disposition: form-data; name=\"path\"\n\n/tmp/a\n";
    const FILE: &str = "--B\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\n\nhello\n";

    #[tokio::test]
    async fn both_orders_and_every_mistake() {
        let long = format!("{PATH}{}--B--\n", FILE.replace("hello", &"x".repeat(2_000)));
        for (body, limit, want) in [
            (format!("{PATH}{FILE}--B--\n"), Some(1_000), Ok("hello")),
            (format!("{PATH}{FILE}--B--\n"), None, Ok("hello")),
            (format!("{FILE}{PATH}--B--\n"), Some(1_000), Ok("hello")),
            (format!("{FILE}{PATH}--B--\n"), None, Err(Code::InvalidRequest)),
            (format!("{PATH}--B--\n"), None, Err(Code::InvalidRequest)),
            (format!("{FILE}--B--\n"), Some(1_000), Err(Code::InvalidRequest)),
            (format!("{PATH}{FILE}"), None, Err(Code::InvalidRequest)),
            (String::new(), None, Err(Code::InvalidRequest)),
            (long, Some(1_000), Err(Code::TooLarge)),
        ] {
            let got = async {
                let upload = parse(request(&body), limit).await?;
                assert_eq!(upload.path, "/tmp/a");
                let chunks: Vec<Bytes> = upload.content.try_collect().await?;
                Ok::<_, Error>(String::from_utf8_lossy(&chunks.concat()).into_owned())
            };
            let got = got.await.map_err(|error| error.code);
            assert_eq!(got, want.map(str::to_owned), "{body}");
        }
    }
}
