//! `credentials.json`: how the owner of this installation gets in.

use crate::{StartError, file};
use identity::Identity;
use model::rest::Credentials;
use std::path::Path;

/// Makes the first account of a new installation and writes its credentials down; later keeps their address true.
pub(crate) async fn provide(identity: &Identity, directory: &Path, base_url: &str) -> Result<(), StartError> {
    let path = directory.join("credentials.json");
    if let Some(first) = identity.bootstrap().await? {
        let credentials = Credentials {
            base_url: base_url.to_owned(),
            api_key: first.key.wrenn(),
            e2b_api_key: first.key.e2b(),
            email: first.email,
            password: first.password.expose().to_owned(),
        };
        return file::write(&path, &credentials);
    }
    match file::read::<Credentials>(&path)? {
        Some(known) if known.base_url != base_url => {
            file::write(&path, &Credentials { base_url: base_url.to_owned(), ..known })
        }
        _ => Ok(()),
    }
}
