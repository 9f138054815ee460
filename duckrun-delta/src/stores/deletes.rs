//! Deletes one by one where Azure's Blob Batch is refused, as OneLake does.
//!
//! `object_store` deletes from Azure by batches only. So its HTTP client is wrapped: a batch that the service does not know is
//! taken apart, its deletes are sent one after the other, and their answers are put together as the answer to a batch.

use std::fmt::Write as _;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpRequestBody, HttpResponse, HttpService, ReqwestConnector,
};

/// Makes the usual client, wrapped.
#[derive(Debug, Default)]
pub(super) struct SingleDeletes(ReqwestConnector);

impl HttpConnector for SingleDeletes {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Singly(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct Singly(HttpClient);

const BOUNDARY: &str = "duckrun_single_deletes";

#[async_trait]
impl HttpService for Singly {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let batch = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "comp=batch"));
        let body = if batch { request.body().as_bytes().cloned() } else { None };
        let Some(body) = body else { return self.0.execute(request).await };
        let (uri, mut headers) = (request.uri().clone(), request.headers().clone());
        let answer = self.0.execute(request).await?;
        // The service does not know batches, or not here. Anything else (throttling, credentials) is an answer.
        if !matches!(answer.status().as_u16(), 400 | 404 | 405 | 409 | 501) {
            return Ok(answer);
        }
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Ok(answer) };
        headers.remove("content-type");
        headers.remove("content-length");
        let mut answers = String::new();
        for (id, path) in targets(&String::from_utf8_lossy(&body)).into_iter().enumerate() {
            let mut single = HttpRequest::new(HttpRequestBody::empty());
            let (Ok(method), Ok(target)) = ("DELETE".parse(), format!("{scheme}://{authority}{path}").parse()) else {
                return Ok(answer);
            };
            *single.method_mut() = method;
            *single.uri_mut() = target;
            // A bearer token is the same for every request. A key's signature is not: then the service says no, as it did.
            *single.headers_mut() = headers.clone();
            let status = self.0.execute(single).await?.status().as_u16();
            if status == 401 || status == 403 {
                return Ok(answer);
            }
            let _ = write!(
                answers,
                "--{BOUNDARY}\r\nContent-Type: application/http\r\nContent-ID: {id}\r\n\r\nHTTP/1.1 {status} single\r\n\r\n\r\n"
            );
        }
        let _ = write!(answers, "--{BOUNDARY}--\r\n");
        let mut together = HttpResponse::new(answers.into());
        if let Ok(kind) = format!("multipart/mixed; boundary={BOUNDARY}").parse() {
            together.headers_mut().insert("content-type", kind);
        }
        Ok(together)
    }
}

/// Path and query of each delete in a batch, in order.
fn targets(batch: &str) -> Vec<&str> {
    batch.lines().filter_map(|line| line.strip_prefix("DELETE ")?.strip_suffix(" HTTP/1.1")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, TryStreamExt};
    use object_store::azure::MicrosoftAzureBuilder;
    use object_store::path::Path;
    use object_store::{Error, ObjectStore};
    use std::sync::{Arc, Mutex};

    /// Knows single deletes only, and only of the objects `a` and `b c`.
    #[derive(Debug, Clone, Default)]
    struct OneLake(Arc<Mutex<Vec<String>>>);

    #[async_trait]
    impl HttpService for OneLake {
        async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
            let line = format!("{} {}", request.method(), request.uri().path());
            assert_eq!(request.headers().get("authorization").unwrap().to_str().unwrap(), "Bearer token");
            let mut answer = HttpResponse::new(String::new().into());
            let code = match (line.as_str(), request.method().as_str()) {
                (_, "POST") => "400",
                ("DELETE /ws/item/Tables/a" | "DELETE /ws/item/Tables/b%20c", _) => "202",
                _ => "404",
            };
            self.0.lock().unwrap().push(line);
            *answer.status_mut() = code.parse().unwrap();
            Ok(answer)
        }
    }

    impl HttpConnector for OneLake {
        fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
            Ok(HttpClient::new(Singly(HttpClient::new(self.clone()))))
        }
    }

    #[tokio::test]
    async fn a_refused_batch_is_sent_one_by_one() {
        let service = OneLake::default();
        let store = MicrosoftAzureBuilder::new()
            .with_url("abfss://ws@onelake.dfs.fabric.microsoft.com/item")
            .with_bearer_token_authorization("token")
            .with_http_connector(service.clone())
            .build()
            .unwrap();
        let paths = ["item/Tables/a", "item/Tables/b c", "item/Tables/gone"].map(|p| Ok(Path::parse(p).unwrap()));
        let done: Vec<_> = store.delete_stream(futures::stream::iter(paths).boxed()).collect().await;
        assert!(done[0].is_ok() && done[1].is_ok(), "{done:?}");
        assert!(matches!(done[2], Err(Error::NotFound { .. })), "{done:?}");
        assert_eq!(service.0.lock().unwrap().len(), 4);
        let one = futures::stream::once(async { Ok(Path::from("item/Tables/a")) }).boxed();
        assert_eq!(store.delete_stream(one).try_collect::<Vec<_>>().await.unwrap().len(), 1);
    }
}
