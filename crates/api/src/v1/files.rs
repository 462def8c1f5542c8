//! `/v1/capsules/{id}/files`: read, write, list, make, remove.

use super::multipart;
use crate::auth::Caller;
use crate::body::json;
use crate::failure::Failure;
use crate::params::Id;
use crate::state::ApiState;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use model::rest::{FileList, FileMade, ListRequest, PathRequest};
use model::{Error, limits};

pub(crate) fn routes() -> Router<ApiState> {
    let files = |rest: &str| format!("/v1/capsules/{{id}}/files/{rest}");
    Router::new()
        .route(&files("write"), post(write))
        .route(&files("stream/write"), post(write_stream))
        .route(&files("read"), post(read))
        .route(&files("stream/read"), post(read))
        .route(&files("list"), post(list))
        .route(&files("mkdir"), post(make_dir))
        .route(&files("remove"), post(remove))
}

async fn write(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id,
    request: Request,
) -> Result<StatusCode, Failure> {
    let guest = state.fleet.guest(caller.team, id).await?;
    let upload = multipart::parse(request, Some(limits::FILE_WRITE_BYTES_MAX)).await?;
    guest.write_file(&path(&upload.path)?, upload.content).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// As large as the disk allows; `path` must precede `file`.
async fn write_stream(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id,
    request: Request,
) -> Result<StatusCode, Failure> {
    let guest = state.fleet.guest(caller.team, id).await?;
    let upload = multipart::parse(request, None).await?;
    guest.write_file(&path(&upload.path)?, upload.content).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn read(State(state): State<ApiState>, caller: Caller, Id(id): Id, body: Body) -> Result<Response, Failure> {
    let guest = state.fleet.guest(caller.team, id).await?;
    let asked: PathRequest = json(body).await?;
    let content = guest.read_file(&path(&asked.path)?).await?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], Body::from_stream(content)).into_response())
}

async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id,
    body: Body,
) -> Result<Json<FileList>, Failure> {
    let guest = state.fleet.guest(caller.team, id).await?;
    let asked: ListRequest = json(body).await?;
    let depth = asked.depth.unwrap_or(0).max(1);
    Ok(Json(FileList { entries: guest.list_dir(&path(&asked.path)?, depth).await? }))
}

async fn make_dir(
    State(state): State<ApiState>,
    caller: Caller,
    Id(id): Id,
    body: Body,
) -> Result<Json<FileMade>, Failure> {
    let guest = state.fleet.guest(caller.team, id).await?;
    let asked: PathRequest = json(body).await?;
    Ok(Json(FileMade { entry: guest.make_dir(&path(&asked.path)?).await? }))
}

/// The guest takes the removal of what is not there for done; this API promises 404.
async fn remove(State(state): State<ApiState>, caller: Caller, Id(id): Id, body: Body) -> Result<StatusCode, Failure> {
    let guest = state.fleet.guest(caller.team, id).await?;
    let asked: PathRequest = json(body).await?;
    let path = path(&asked.path)?;
    guest.stat(&path).await?;
    guest.remove(&path).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A path is the guest's business, `..` included; only what no kernel accepts is refused here.
fn path(path: &str) -> Result<String, Error> {
    match path {
        "" => Err(Error::invalid("path is missing")),
        path if path.contains('\0') => Err(Error::invalid("path cannot contain NUL")),
        path if path.len() > 4_096 => Err(Error::invalid("path is longer than 4096 bytes")),
        path => Ok(path.to_owned()),
    }
}
