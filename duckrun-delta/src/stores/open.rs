//! A store named by a URL, and the options that make it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use duckrun_core::{Error, Result, StorageOptions};
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use super::steady::Steady;
use super::tokens::{TokenProvider, Tokens};

/// A folder of a store: what a URL and its options name.
///
/// URLs: `s3://bucket/path`, `gs://bucket/path`, `az://container/path` (with `azure_storage_account_name`),
/// `abfss://container@account.dfs.core.windows.net/path`, and for OneLake
/// `abfss://workspace@onelake.dfs.fabric.microsoft.com/item/Tables` or
/// `https://onelake.dfs.fabric.microsoft.com/workspace/item/Tables`, with names or GUIDs. Options have the names that delta-rs and
/// `object_store` give them (`aws_access_key_id`, `azure_storage_account_key`, ...); what a store does not know is ignored, so
/// that one map serves several. A bearer token is `bearer_token`, `token` or `access_token`. `max_retries` (8) and
/// `retry_timeout` (60, in seconds) say how long a request is repeated after 429, 5xx, timeouts and broken connections.
#[derive(Clone)]
pub struct StoreRoot {
    url: Url,
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    options: StorageOptions,
    tokens: Option<Arc<Tokens>>,
}

impl StoreRoot {
    /// Opens a store. Nothing is asked of it yet: wrong credentials show when a table is opened.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](duckrun_core::ErrorKind::InvalidInput) for a URL or options that no store can be made of. The
    /// options' values are never part of the message.
    pub fn open(url: &str, options: &StorageOptions) -> Result<Self> {
        Self::build(url, options, None)
    }

    /// Opens a store (Azure, OneLake or Google) whose bearer tokens come from a callback: it is asked again before a token
    /// expires, and after the store has refused one.
    ///
    /// # Errors
    /// As [`open`](Self::open), and for a store that takes no bearer tokens.
    pub fn open_with_tokens(url: &str, options: &StorageOptions, tokens: Arc<dyn TokenProvider>) -> Result<Self> {
        Self::build(url, options, Some(Tokens::new(tokens)))
    }

    fn build(url: &str, options: &StorageOptions, tokens: Option<Arc<Tokens>>) -> Result<Self> {
        let parsed = Url::parse(url).map_err(|_| Error::invalid("the location is not a URL"))?;
        let bad = || {
            Error::invalid(format!(
                "no store can be made for {}:// with these options; check their names and values, and that the cargo \
                 feature of the store (s3, azure, gcs) is on",
                parsed.scheme()
            ))
        };
        let (scheme, prefix) = ObjectStoreScheme::parse(&parsed).map_err(|_| bad())?;
        let retry = retry(options)?;
        // A store's own error may repeat an option's value, so it is not handed on.
        let store: Steady = match scheme {
            #[cfg(feature = "s3")]
            ObjectStoreScheme::AmazonS3 if tokens.is_none() => {
                Steady::around(s3(url, options, retry).map_err(|_| bad())?, None)
            }
            #[cfg(feature = "azure")]
            ObjectStoreScheme::MicrosoftAzure => {
                Steady::around(azure(url, options, retry, tokens.as_ref()).map_err(|_| bad())?, tokens.clone())
            }
            #[cfg(feature = "gcs")]
            ObjectStoreScheme::GoogleCloudStorage => {
                Steady::around(google(url, options, retry, tokens.as_ref()).map_err(|_| bad())?, tokens.clone())
            }
            ObjectStoreScheme::AmazonS3 if tokens.is_some() => {
                return Err(Error::invalid("S3 takes no bearer tokens"));
            }
            _ => return Err(bad()),
        };
        Ok(Self { url: parsed, store: Arc::new(store), prefix, options: options.clone(), tokens })
    }

    /// Another folder with the same credentials: of this store, or of another bucket or container. Options are added to those
    /// that this one was opened with; with options of its own it is another client, which takes no tokens of this one's
    /// provider where it has a bearer token of its own.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn sibling(&self, url: &str, options: &StorageOptions) -> Result<Self> {
        let parsed = Url::parse(url).map_err(|_| Error::invalid("the location is not a URL"))?;
        if options.expose().next().is_none()
            && let (Some((own, _)), Some((theirs, prefix))) = (bucket(&self.url), bucket(&parsed))
            && own == theirs
        {
            return Ok(Self { url: parsed, prefix, ..self.clone() });
        }
        let same_kind = ObjectStoreScheme::parse(&parsed).ok().map(|(scheme, _)| scheme)
            == ObjectStoreScheme::parse(&self.url).ok().map(|(scheme, _)| scheme);
        let tokens = self.tokens.clone().filter(|_| same_kind && !has_bearer(options));
        Self::build(url, &self.options.clone().merge(options), tokens)
    }

    /// The options that it was opened with.
    pub fn options(&self) -> &StorageOptions {
        &self.options
    }

    /// The URL, as it was given.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The store, rooted at the bucket or container.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The folder's path in the store.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }
}

impl fmt::Debug for StoreRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may carry credentials.
        f.debug_struct("StoreRoot").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// What tells two buckets or containers apart, and the path in it: scheme and authority, and the container where it is the first
/// part of the path.
fn bucket(url: &Url) -> Option<((String, String, String), Path)> {
    let (_, prefix) = ObjectStoreScheme::parse(url).ok()?;
    let whole = Path::from_url_path(url.path()).ok()?;
    let container = whole.as_ref().strip_suffix(prefix.as_ref())?.trim_matches('/').to_owned();
    Some(((url.scheme().to_owned(), url.authority().to_owned(), container), prefix))
}

fn has_bearer(options: &StorageOptions) -> bool {
    options.expose().any(|(key, _)| BEARER.iter().any(|name| key.eq_ignore_ascii_case(name)))
}

/// The names of a bearer token, in the order in which they are looked for.
const BEARER: [&str; 4] = ["bearer_token", "token", "access_token", "azure_storage_token"];

/// How a store's client repeats requests. A commit's put is settled by us on top of it, so a minute is enough: the credentials
/// of a request must outlive its repeats.
fn retry(options: &StorageOptions) -> Result<RetryConfig> {
    let number = |name: &str, default: u64| match options.expose().find(|(key, _)| key.eq_ignore_ascii_case(name)) {
        Some((_, value)) => value
            .trim_end_matches('s')
            .parse()
            .map_err(|_| Error::invalid(format!("the storage option {name} is not a whole number"))),
        None => Ok(default),
    };
    Ok(RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: usize::try_from(number("max_retries", 8)?).unwrap_or(usize::MAX),
        retry_timeout: Duration::from_secs(number("retry_timeout", 60)?),
    })
}

/// The option's value under the first of its names.
#[cfg(any(feature = "azure", feature = "gcs"))]
fn bearer(options: &StorageOptions) -> Option<&str> {
    BEARER
        .iter()
        .find_map(|name| options.expose().find(|(key, _)| key.eq_ignore_ascii_case(name)))
        .map(|(_, value)| value)
}

#[cfg(feature = "s3")]
fn s3(url: &str, options: &StorageOptions, retry: RetryConfig) -> object_store::Result<object_store::aws::AmazonS3> {
    let mut builder = object_store::aws::AmazonS3Builder::new().with_url(url).with_retry(retry);
    for (key, value) in options.expose() {
        if let Ok(key) = key.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    builder.build()
}

#[cfg(feature = "azure")]
fn azure(
    url: &str,
    options: &StorageOptions,
    retry: RetryConfig,
    tokens: Option<&Arc<Tokens>>,
) -> object_store::Result<object_store::azure::MicrosoftAzure> {
    let mut builder = object_store::azure::MicrosoftAzureBuilder::new()
        .with_url(url)
        .with_retry(retry)
        .with_http_connector(super::deletes::SingleDeletes::default());
    for (key, value) in options.expose() {
        if let Ok(key) = key.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(token) = bearer(options) {
        builder = builder.with_bearer_token_authorization(token);
    }
    if let Some(tokens) = tokens {
        builder = builder.with_credentials(Arc::new(super::tokens::AzureTokens(tokens.clone())));
    }
    builder.build()
}

#[cfg(feature = "gcs")]
fn google(
    url: &str,
    options: &StorageOptions,
    retry: RetryConfig,
    tokens: Option<&Arc<Tokens>>,
) -> object_store::Result<object_store::gcp::GoogleCloudStorage> {
    use object_store::StaticCredentialProvider;
    use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
    let mut builder = GoogleCloudStorageBuilder::new().with_url(url).with_retry(retry);
    for (key, value) in options.expose() {
        if let Ok(key) = key.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(tokens) = tokens {
        builder = builder.with_credentials(Arc::new(super::tokens::GoogleTokens(tokens.clone())));
    } else if let Some(token) = bearer(options) {
        let credential = GcpCredential { bearer: token.to_owned() };
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)));
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_urls_and_their_folders() {
        let options = StorageOptions::default()
            .with("azure_storage_account_name", "acc")
            .with("access_token", "canary")
            .with("aws_region", "x")
            .with("aws_access_key_id", "canary")
            .with("aws_secret_access_key", "canary");
        let guid = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        for (feature, url, prefix) in [
            (cfg!(feature = "s3"), "s3://bucket/lake/x", "lake/x".to_owned()),
            (cfg!(feature = "gcs"), "gs://bucket/lake", "lake".to_owned()),
            (cfg!(feature = "azure"), "az://container/lake", "lake".to_owned()),
            (cfg!(feature = "azure"), "abfss://c@acc.dfs.core.windows.net/lake", "lake".to_owned()),
            (
                cfg!(feature = "azure"),
                &format!("abfss://{guid}@onelake.dfs.fabric.microsoft.com/{guid}/Tables"),
                format!("{guid}/Tables"),
            ),
            (
                cfg!(feature = "azure"),
                &format!("https://onelake.dfs.fabric.microsoft.com/{guid}/{guid}/Tables/t"),
                format!("{guid}/Tables/t"),
            ),
        ] {
            let opened = StoreRoot::open(url, &options);
            assert!(!format!("{opened:?}").contains("canary"), "{url}");
            match opened {
                Ok(root) => assert_eq!(root.prefix().to_string(), prefix, "{url}"),
                Err(e) => assert!(!feature, "{url}: {e}"),
            }
        }
    }

    #[test]
    fn bad_numbers_are_named_without_their_value() {
        let options = StorageOptions::default().with("max_retries", "canary");
        let e = StoreRoot::open("s3://bucket/x", &options).unwrap_err();
        assert!(e.message().contains("max_retries") && !e.to_string().contains("canary"), "{e}");
    }
}
