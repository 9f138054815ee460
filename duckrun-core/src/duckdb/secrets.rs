//! Secrets for DuckDB's own extensions (`httpfs`, `azure`), from the storage options that also open the stores of tables.
//!
//! Nothing of duckrun needs them: they are for SQL that names remote files by itself. Invariant: the text of a statement is
//! shown to DuckDB and to nobody else, and what DuckDB says about it is not repeated, because it quotes the statement.
//!
//! The extensions of DuckDB 1.5.5 take these statements: `httpfs` read an emulated S3 with one, `azure` took every kind of credential.

use std::fmt;

use url::Url;

use crate::{Error, Result, StorageOptions, quote_ident, quote_literal};

/// A `CREATE SECRET` statement. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct CreateSecret {
    sql: String,
    extension: &'static str,
}

impl CreateSecret {
    /// The statement, secrets and all, for a DuckDB connection.
    pub fn expose(&self) -> &str {
        &self.sql
    }

    /// The DuckDB extension that the secret is for.
    pub fn extension(&self) -> &'static str {
        self.extension
    }
}

impl fmt::Debug for CreateSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateSecret").field("extension", &self.extension).finish_non_exhaustive()
    }
}

/// The temporary secret that lets DuckDB's own extension read the store of a URL with these options.
///
/// `s3://` becomes a secret of the type `s3`, `gs://` one of the type `gcs` (with an HMAC key: the extension takes no other
/// credential of Google), `az://`, `azure://`, `abfs://` and `abfss://` one of the type `azure` (an account key, a SAS, a
/// bearer token or a service principal). Options that have no counterpart there are left out.
///
/// ```
/// use duckrun_core::{StorageOptions, duckdb::create_secret};
/// let options = StorageOptions::default().with("aws_secret_access_key", "it's").with("aws_region", "eu-west-1");
/// let secret = create_secret("lake", "s3://bucket/warehouse", &options)?;
/// assert_eq!(secret.extension(), "httpfs");
/// assert_eq!(
///     secret.expose(),
///     "CREATE OR REPLACE TEMPORARY SECRET \"lake\" \
///      (TYPE s3, SECRET 'it''s', REGION 'eu-west-1', SCOPE 's3://bucket')"
/// );
/// # Ok::<(), duckrun_core::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a URL of another store, and for credentials that the
/// extension does not take. Values are never part of the message.
pub fn create_secret(name: &str, url: &str, options: &StorageOptions) -> Result<CreateSecret> {
    let parsed = Url::parse(url).map_err(|_| Error::invalid("a secret is for the URL of a store"))?;
    let options = Options(options);
    let scope = |scheme: &str| format!("{scheme}://{}", parsed.host_str().unwrap_or_default());
    let (extension, clauses) = match parsed.scheme() {
        "s3" | "s3a" => ("httpfs", s3(&options, "s3", &scope("s3"))),
        "gs" | "gcs" => ("httpfs", gcs(&options, &scope("gs"))?),
        "az" | "azure" | "adl" | "abfs" | "abfss" => ("azure", azure(&options)?),
        other => {
            return Err(Error::invalid(format!(
                "DuckDB's extensions have no secret for {other}:// that storage options could fill"
            )));
        }
    };
    let clauses: Vec<String> = clauses.into_iter().map(|(key, value)| format!("{key} {value}")).collect();
    let sql = format!("CREATE OR REPLACE TEMPORARY SECRET {} ({})", quote_ident(name), clauses.join(", "));
    Ok(CreateSecret { sql, extension })
}

type Clauses = Vec<(&'static str, String)>;

struct Options<'a>(&'a StorageOptions);

impl Options<'_> {
    /// The option under the first of its names, without case.
    fn get(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.0.expose().find(|(key, _)| key.eq_ignore_ascii_case(name))).map(|(_, v)| v)
    }

    fn is_on(&self, names: &[&str]) -> bool {
        self.get(names).is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on" | "y"))
    }
}

fn s3(options: &Options<'_>, kind: &str, scope: &str) -> Clauses {
    let mut clauses = vec![("TYPE", kind.to_owned())];
    let mut text = |key, names: &[&str]| {
        if let Some(value) = options.get(names) {
            clauses.push((key, quote_literal(value)));
        }
    };
    text("KEY_ID", &["aws_access_key_id", "access_key_id"]);
    text("SECRET", &["aws_secret_access_key", "secret_access_key"]);
    text("SESSION_TOKEN", &["aws_session_token", "aws_token", "session_token", "token"]);
    text("REGION", &["aws_region", "region", "aws_default_region", "default_region"]);
    if let Some(endpoint) = options.get(&["aws_endpoint", "aws_endpoint_url", "endpoint", "endpoint_url"]) {
        let plain = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).trim_end_matches('/');
        clauses.push(("ENDPOINT", quote_literal(plain)));
        if !options.is_on(&["aws_virtual_hosted_style_request", "virtual_hosted_style_request"]) {
            clauses.push(("URL_STYLE", "'path'".to_owned()));
        }
        if endpoint.starts_with("http://") {
            clauses.push(("USE_SSL", "false".to_owned()));
        }
    }
    clauses.push(("SCOPE", quote_literal(scope)));
    clauses
}

fn gcs(options: &Options<'_>, scope: &str) -> Result<Clauses> {
    let key = options.get(&["aws_access_key_id", "access_key_id"]);
    let secret = options.get(&["aws_secret_access_key", "secret_access_key"]);
    let (Some(key), Some(secret)) = (key, secret) else {
        return Err(Error::invalid(
            "DuckDB's extension reads Google Cloud Storage with an HMAC key only (access_key_id and secret_access_key): add one, or \
             read without the extension, which takes every credential",
        ));
    };
    let values = [("TYPE", "gcs".to_owned()), ("KEY_ID", quote_literal(key)), ("SECRET", quote_literal(secret))];
    Ok(values.into_iter().chain([("SCOPE", quote_literal(scope))]).collect())
}

fn azure(options: &Options<'_>) -> Result<Clauses> {
    let account = options.get(&["azure_storage_account_name", "account_name"]);
    let key = options.get(&[
        "azure_storage_account_key",
        "azure_storage_access_key",
        "azure_storage_master_key",
        "account_key",
        "access_key",
        "master_key",
    ]);
    let sas = options.get(&["azure_storage_sas_key", "azure_storage_sas_token", "sas_key", "sas_token"]);
    let token = options.get(&["bearer_token", "token", "access_token", "azure_storage_token"]);
    let endpoint = options.get(&["azure_storage_endpoint", "azure_endpoint", "endpoint"]);
    let client = (
        options.get(&["azure_storage_client_id", "azure_client_id", "client_id"]),
        options.get(&["azure_storage_client_secret", "azure_client_secret", "client_secret"]),
        options.get(&[
            "azure_storage_tenant_id",
            "azure_storage_authority_id",
            "azure_tenant_id",
            "azure_authority_id",
            "authority_id",
            "tenant_id",
        ]),
    );
    let mut clauses = vec![("TYPE", "azure".to_owned())];
    let named = |clauses: &mut Clauses| clauses.extend(account.map(|name| ("ACCOUNT_NAME", quote_literal(name))));
    if let Some(token) = token {
        clauses.extend([("PROVIDER", "access_token".to_owned()), ("ACCESS_TOKEN", quote_literal(token))]);
        named(&mut clauses);
    } else if let (Some(id), Some(secret), Some(tenant)) = client {
        clauses.push(("PROVIDER", "service_principal".to_owned()));
        clauses.push(("TENANT_ID", quote_literal(tenant)));
        clauses.push(("CLIENT_ID", quote_literal(id)));
        clauses.push(("CLIENT_SECRET", quote_literal(secret)));
        named(&mut clauses);
    } else if key.is_some() || sas.is_some() {
        let sas = sas.map(|sas| sas.trim_start_matches('?'));
        let parts = [
            ("AccountName", account),
            ("AccountKey", key),
            ("SharedAccessSignature", sas.filter(|_| key.is_none())),
            ("BlobEndpoint", endpoint),
        ];
        let mut text = String::new();
        for (name, value) in parts {
            let Some(value) = value else { continue };
            if value.contains(';') {
                return Err(Error::invalid(format!(
                    "a storage option has a semicolon, which {name} of a connection string cannot hold"
                )));
            }
            text.push_str(&format!("{name}={value};"));
        }
        clauses.push(("CONNECTION_STRING", quote_literal(text.trim_end_matches(';'))));
    } else if account.is_some() {
        // Public containers.
        named(&mut clauses);
    } else {
        return Err(Error::invalid(
            "DuckDB's extension azure needs an account name, and an account key, a SAS, a bearer token or a service principal",
        ));
    }
    Ok(clauses)
}

/// Creates a secret on a connection. What DuckDB says of a statement that fails is left out: it would quote the secret.
pub(super) fn create(conn: &duckdb::Connection, secret: &CreateSecret) -> Result<()> {
    let extension = secret.extension;
    if conn.execute_batch(&format!("LOAD {extension}")).is_err() {
        return Err(Error::unsupported(format!(
            "DuckDB's extension {extension} was asked for and is not installed where DuckDB looks for it: install it there (INSTALL \
             {extension}), or leave the extensions out, since tables and sources of object stores are read without them"
        )));
    }
    conn.execute_batch(&secret.sql).map_err(|_| {
        Error::invalid(format!("DuckDB's extension {extension} does not take a secret of these storage options"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(url: &str, options: &[(&str, &str)]) -> String {
        let options = StorageOptions::from_iter(options.iter().copied());
        match create_secret("x\"y", url, &options) {
            Ok(secret) => {
                assert!(!format!("{secret:?}").contains("canary"));
                let head = "CREATE OR REPLACE TEMPORARY SECRET \"x\"\"y\" (";
                secret.expose().strip_prefix(head).and_then(|s| s.strip_suffix(')')).unwrap().to_owned()
            }
            Err(e) => {
                assert!(!format!("{e} {e:?}").contains("canary"), "{e}");
                e.to_string()
            }
        }
    }

    #[test]
    fn options_become_secrets_of_each_store() {
        let s3 = [("aws_access_key_id", "k"), ("AWS_SECRET_ACCESS_KEY", "canary'); DROP"), ("aws_session_token", "t")];
        assert_eq!(
            sql("s3://b/x", &s3),
            "TYPE s3, KEY_ID 'k', SECRET 'canary''); DROP', SESSION_TOKEN 't', SCOPE 's3://b'"
        );
        let local = [("aws_endpoint", "http://127.0.0.1:9000/"), ("allow_http", "true")];
        assert_eq!(
            sql("s3://b", &local),
            "TYPE s3, ENDPOINT '127.0.0.1:9000', URL_STYLE 'path', USE_SSL false, SCOPE 's3://b'"
        );
        let hosted = [("endpoint", "https://s3.example"), ("virtual_hosted_style_request", "true")];
        assert_eq!(sql("s3a://b", &hosted), "TYPE s3, ENDPOINT 's3.example', SCOPE 's3://b'");
        let hmac = [("access_key_id", "k"), ("secret_access_key", "s")];
        assert_eq!(sql("gs://b/y", &hmac), "TYPE gcs, KEY_ID 'k', SECRET 's', SCOPE 'gs://b'");
        let account = ("azure_storage_account_name", "acc");
        assert_eq!(
            sql("az://c", &[account, ("azure_storage_account_key", "canary==")]),
            "TYPE azure, CONNECTION_STRING 'AccountName=acc;AccountKey=canary=='"
        );
        assert_eq!(
            sql("az://c", &[account, ("sas_token", "?sv=1&sig=canary"), ("azure_storage_endpoint", "http://h:1/acc")]),
            "TYPE azure, CONNECTION_STRING 'AccountName=acc;SharedAccessSignature=sv=1&sig=canary;BlobEndpoint=http://h:1/acc'"
        );
        for name in ["bearer_token", "token", "access_token"] {
            let expected = "TYPE azure, PROVIDER access_token, ACCESS_TOKEN 'canary', ACCOUNT_NAME 'acc'";
            assert_eq!(sql("abfss://c@acc.dfs.core.windows.net/x", &[account, (name, "canary")]), expected);
        }
        let principal = [("client_id", "i"), ("client_secret", "canary"), ("tenant_id", "t")];
        assert_eq!(
            sql("abfss://c@acc.dfs.core.windows.net/x", &principal),
            "TYPE azure, PROVIDER service_principal, TENANT_ID 't', CLIENT_ID 'i', CLIENT_SECRET 'canary'"
        );
    }

    #[test]
    fn what_the_extensions_do_not_take_is_said_without_values() {
        for (url, options, says) in [
            ("gs://b", vec![("google_service_account_key", "canary")], "HMAC"),
            ("az://c", vec![], "account name"),
            ("az://c", vec![("account_name", "a"), ("account_key", "canary;x")], "semicolon"),
            ("https://h/canary", vec![], "https://"),
            ("canary", vec![], "the URL of a store"),
        ] {
            let e = sql(url, &options);
            assert!(e.contains(says), "{e}");
        }
    }
}
