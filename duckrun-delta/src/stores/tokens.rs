//! Bearer tokens from a callback, kept until shortly before they expire or until the store refuses them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use duckrun_core::{Clock, Result, SystemClock};
use tokio::sync::Mutex;

/// How long before its expiry a token is replaced.
const MARGIN: TimeDelta = TimeDelta::minutes(5);

/// A bearer token. `Debug` does not show it.
#[derive(Clone)]
pub struct Token {
    secret: String,
    expires: Option<DateTime<Utc>>,
}

impl Token {
    /// A token that is good until it is refused.
    pub fn new(secret: impl Into<String>) -> Self {
        Self { secret: secret.into(), expires: None }
    }

    /// Says when it expires; it is replaced five minutes before.
    #[must_use]
    pub fn expiring(mut self, at: DateTime<Utc>) -> Self {
        self.expires = Some(at);
        self
    }

    /// The token, for the code that sends it.
    pub fn expose(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Where bearer tokens come from: implemented by an embedder, called by a store's client before a request that needs one.
///
/// Called by one task at a time; never while a token is good. An error fails the request that asked.
#[async_trait]
pub trait TokenProvider: fmt::Debug + Send + Sync {
    /// A fresh token.
    async fn token(&self) -> Result<Token>;
}

/// A provider's current token.
pub(crate) struct Tokens {
    provider: Arc<dyn TokenProvider>,
    clock: Arc<dyn Clock>,
    current: Mutex<Option<Token>>,
    /// Counts replacements, so that many requests that meet one refused token replace it once.
    generation: AtomicU64,
}

impl Tokens {
    pub(crate) fn new(provider: Arc<dyn TokenProvider>) -> Arc<Self> {
        Self::with_clock(provider, Arc::new(SystemClock))
    }

    fn with_clock(provider: Arc<dyn TokenProvider>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { provider, clock, current: Mutex::default(), generation: AtomicU64::new(0) })
    }

    /// The generation of the token that a request made now would carry.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The store refused the token of this generation.
    pub(crate) async fn refused(&self, generation: u64) {
        let mut current = self.current.lock().await;
        if self.generation() == generation {
            *current = None;
        }
    }

    #[cfg_attr(not(any(feature = "azure", feature = "gcs")), allow(dead_code))]
    pub(super) async fn get(&self) -> Result<Token> {
        let mut current = self.current.lock().await;
        if let Some(token) = &*current
            && token.expires.is_none_or(|at| self.clock.now() + MARGIN < at)
        {
            return Ok(token.clone());
        }
        let fresh = self.provider.token().await?;
        self.generation.fetch_add(1, Ordering::SeqCst);
        *current = Some(fresh.clone());
        Ok(fresh)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("provider", &self.provider).finish_non_exhaustive()
    }
}

#[cfg(any(feature = "azure", feature = "gcs"))]
fn failed(e: duckrun_core::Error) -> object_store::Error {
    object_store::Error::Unauthenticated { path: String::new(), source: Box::new(e) }
}

/// For Azure and OneLake.
#[cfg(feature = "azure")]
#[derive(Debug)]
pub(crate) struct AzureTokens(pub(crate) Arc<Tokens>);

#[cfg(feature = "azure")]
#[async_trait]
impl object_store::CredentialProvider for AzureTokens {
    type Credential = object_store::azure::AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<Self::Credential>> {
        let token = self.0.get().await.map_err(failed)?;
        Ok(Arc::new(object_store::azure::AzureCredential::BearerToken(token.secret)))
    }
}

/// For Google.
#[cfg(feature = "gcs")]
#[derive(Debug)]
pub(crate) struct GoogleTokens(pub(crate) Arc<Tokens>);

#[cfg(feature = "gcs")]
#[async_trait]
impl object_store::CredentialProvider for GoogleTokens {
    type Credential = object_store::gcp::GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<Self::Credential>> {
        let token = self.0.get().await.map_err(failed)?;
        Ok(Arc::new(object_store::gcp::GcpCredential { bearer: token.secret }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex as StdMutex;

    #[derive(Debug)]
    struct Counting(AtomicU64, DateTime<Utc>);

    #[async_trait]
    impl TokenProvider for Counting {
        async fn token(&self) -> Result<Token> {
            let n = self.0.fetch_add(1, Ordering::SeqCst);
            Ok(Token::new(format!("t{n}")).expiring(self.1 + TimeDelta::hours(n as i64 + 1)))
        }
    }

    #[derive(Debug)]
    struct Hand(StdMutex<DateTime<Utc>>);

    impl Clock for Hand {
        fn now(&self) -> DateTime<Utc> {
            *self.0.lock().unwrap()
        }
    }

    #[tokio::test]
    async fn tokens_are_asked_for_before_expiry_and_after_a_refusal() {
        let start = DateTime::UNIX_EPOCH;
        let clock = Arc::new(Hand(StdMutex::new(start)));
        let tokens = Tokens::with_clock(Arc::new(Counting(AtomicU64::new(0), start)), clock.clone());
        let get = async || tokens.get().await.unwrap().expose().to_owned();
        assert_eq!((get().await, get().await), ("t0".into(), "t0".into()));
        *clock.0.lock().unwrap() = start + TimeDelta::minutes(56);
        assert_eq!(get().await, "t1");
        let generation = tokens.generation();
        tokens.refused(generation).await;
        assert_eq!(get().await, "t2");
        // Late news of the old token does not cost the new one.
        tokens.refused(generation).await;
        assert_eq!(get().await, "t2");
        assert!(!format!("{tokens:?} {:?}", tokens.get().await.unwrap()).contains("t2"));
    }
}
