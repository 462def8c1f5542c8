//! Templates: `/v1/snapshots`.

use crate::error::Error;
use crate::http::Client;
use model::rest::{SaveTemplate, Template};
use reqwest::Method;

impl Client {
    /// Keeps a capsule as a template; the capsule stays what it is. `overwrite` replaces one of the same name.
    pub async fn save_template(&self, wish: &SaveTemplate, overwrite: bool) -> Result<Template, Error> {
        let query: &[(&str, &str)] = if overwrite { &[("overwrite", "true")] } else { &[] };
        self.fetch(self.request_with(Method::POST, &["snapshots"], query).json(wish)).await
    }

    /// The team's and the platform's, newest first.
    pub async fn templates(&self) -> Result<Vec<Template>, Error> {
        self.fetch(self.request(Method::GET, &["snapshots"])).await
    }

    /// Gives a template up, by name or id. Capsules made of it are not touched.
    pub async fn delete_template(&self, name: &str) -> Result<(), Error> {
        self.send(self.request(Method::DELETE, &["snapshots", name])).await.map(drop)
    }
}
