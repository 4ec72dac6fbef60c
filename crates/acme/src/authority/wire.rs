//! How requests go to the authority: each over a connection of its own, with the certificates that the machine trusts or
//! those of a file.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use pontoon_config::EtcdTls;
use pontoon_lease::http::Client;

use super::patience;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Wire {
    client: Client,
    retry_after: Arc<Mutex<Option<Duration>>>,
}

impl Wire {
    pub(super) fn new(ca: Option<&Path>, retry_after: Arc<Mutex<Option<Duration>>>) -> Result<Wire, String> {
        let files = EtcdTls {
            ca: ca.map(Path::to_owned),
            client: None,
        };
        let client = Client::with_files(TIMEOUT, files)?;
        Ok(Wire { client, retry_after })
    }
}

impl HttpClient for Wire {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (client, retry_after) = (self.client.clone(), Arc::clone(&self.retry_after));
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let asks_only = head.method == Method::GET;
            let url = head.uri.to_string();
            let body = body.collect().await.map_err(|never| Error::Other(never.into()))?;
            let ask = Request::from_parts(head, body.to_bytes().to_vec());
            let answer = client
                .send(ask)
                .await
                .map_err(|fault| Error::Other(fault.into()))?;
            let said = answer.headers().get(RETRY_AFTER);
            let said = said.and_then(|value| patience(value.to_str().ok()?));
            *retry_after.lock().unwrap_or_else(PoisonError::into_inner) = said;
            // A directory has no other way to say that it is none.
            if asks_only && !answer.status().is_success() {
                return Err(Error::Other(format!("{url} answers {}", answer.status()).into()));
            }
            let answer: Response<Full<Bytes>> = answer.map(|body| Full::new(body.into()));
            Ok(answer.into())
        })
    }
}
