//! Emulators of S3 (moto, from PyPI) and Azure Blob Storage (Azurite, from npm) in processes of their own.
//!
//! They are installed below a folder of the caller's once, and listen on a free port of the loopback device. Both honour conditional
//! puts. Where they cannot be installed the reason is returned, so that a test can say that it was skipped.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use duckrun::StorageOptions;

const MOTO: &str = "moto[server]==5.2.5";

/// moto looks whether an object exists and then writes it, on several threads and without a lock: of two conditional puts at once
/// both may be told that they were first (seen once in an hour of tests: "version 1 was acknowledged twice"). S3 decides.
const MOTO_SERVER: &str = "
import sys, threading
from moto.s3 import responses
from moto.server import main
one_at_a_time, put = threading.RLock(), responses.S3Response._key_response_put
def atomic(self, *args, **kwargs):
    with one_at_a_time:
        return put(self, *args, **kwargs)
responses.S3Response._key_response_put = atomic
main(sys.argv[1:])
";
const AZURITE: &str = "azurite@3.35.0";
/// The bucket or container that is made.
const BUCKET: &str = "lake";
/// The account that every Azurite has; the key is in its documentation.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// Which store is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulated {
    /// Amazon S3, by moto. Any access key is accepted.
    S3,
    /// Azure Blob Storage, by Azurite.
    Azure,
}

/// A running emulator with an empty bucket (or container); it ends when this is dropped.
#[derive(Debug)]
pub struct Emulator {
    emulated: Emulated,
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Emulator {
    /// Installs the emulator below `tools` unless it is there, and starts it. Blocks.
    ///
    /// # Errors
    /// Why it cannot be installed or started.
    pub fn start(emulated: Emulated, tools: &Path) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let port = free_port().map_err(|e| e.to_string())?;
        let mut command = match emulated {
            Emulated::S3 => {
                let mut command = Command::new(python(tools)?);
                command.args(["-c", MOTO_SERVER, "-H", "127.0.0.1", "-p", &port.to_string()]);
                command
            }
            Emulated::Azure => {
                let mut command = Command::new("node");
                command.arg(azurite(tools)?).args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
                command.args(["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location"]);
                command.arg(folder.path());
                command
            }
        };
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let mut emulator = Self { emulated, process, port, _folder: folder };
        emulator.wait()?;
        emulator.make_bucket(tools)?;
        Ok(emulator)
    }

    /// The URL of a folder in the bucket.
    pub fn url(&self, path: &str) -> String {
        match self.emulated {
            Emulated::S3 => format!("s3://{BUCKET}/{path}"),
            Emulated::Azure => format!("az://{BUCKET}/{path}"),
        }
    }

    /// The options that reach it; `secret` is the access key of S3, which accepts any.
    pub fn options(&self, secret: &str) -> StorageOptions {
        let endpoint = self.endpoint();
        let options = StorageOptions::default().with("allow_http", "true");
        match self.emulated {
            Emulated::S3 => options
                .with("aws_endpoint", endpoint)
                .with("aws_region", "us-east-1")
                .with("aws_access_key_id", "somebody")
                .with("aws_secret_access_key", secret),
            Emulated::Azure => options
                .with("azure_storage_endpoint", endpoint)
                .with("azure_storage_account_name", ACCOUNT)
                .with("azure_storage_account_key", KEY),
        }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        match self.emulated {
            Emulated::S3 => format!("http://127.0.0.1:{}", self.port),
            Emulated::Azure => format!("http://127.0.0.1:{}/{ACCOUNT}", self.port),
        }
    }

    fn wait(&mut self) -> Result<(), String> {
        let (started, address) = (Instant::now(), SocketAddr::from(([127, 0, 0, 1], self.port)));
        while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(format!("the emulator of {:?} ended with {status}", self.emulated));
            }
            if started.elapsed() > STARTS_WITHIN {
                return Err(format!("the emulator of {:?} does not answer", self.emulated));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn make_bucket(&self, tools: &Path) -> Result<(), String> {
        match self.emulated {
            Emulated::S3 => {
                let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(|e| e.to_string())?;
                let request = format!(
                    "PUT /{BUCKET} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                let mut answer = String::new();
                stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
                stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
                if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(format!("no bucket: {answer}")) }
            }
            // A request that must be signed, which Node does without a package of its own.
            Emulated::Azure => {
                let _ = tools;
                run(Command::new("node").args(["-e", MAKE_CONTAINER, &self.port.to_string(), ACCOUNT, KEY, BUCKET]))
            }
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A proxy before Azurite that wants bearer tokens: each is good for a number of requests, and answered with 401 after them. It
/// ends when this is dropped.
#[derive(Debug)]
pub struct BearerProxy {
    process: Child,
    port: u16,
    counts: PathBuf,
    _folder: tempfile::TempDir,
}

impl BearerProxy {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub async fn start(emulator: &Emulator, good_for: u64) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (port, counts) = (free_port().map_err(|e| e.to_string())?, folder.path().join("counts"));
        let mut command = Command::new("node");
        let arguments = [port.to_string(), emulator.port.to_string(), good_for.to_string()];
        command.args(["-e", BEARER_PROXY]).args(arguments).args([ACCOUNT, KEY]).arg(&counts);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let mut proxy = Self { process, port, counts, _folder: folder };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if started.elapsed() > STARTS_WITHIN || !matches!(proxy.process.try_wait(), Ok(None)) {
                return Err("the proxy does not answer".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(proxy)
    }

    /// The options that reach the emulator through it, without a credential.
    pub fn options(&self) -> StorageOptions {
        StorageOptions::default()
            .with("allow_http", "true")
            .with("azure_storage_endpoint", format!("http://127.0.0.1:{}/{ACCOUNT}", self.port))
            .with("azure_storage_account_name", ACCOUNT)
    }

    /// Requests that it has answered with 401.
    pub fn refused(&self) -> u64 {
        self.count(0)
    }

    /// Requests that it has handed on.
    pub fn served(&self) -> u64 {
        self.count(1)
    }

    fn count(&self, nth: usize) -> u64 {
        let text = fs::read_to_string(&self.counts).unwrap_or_default();
        text.split_whitespace().nth(nth).and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

impl Drop for BearerProxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// "Create an account SAS" of Azure Storage takes the place of the token, which Azurite knows nothing of over HTTP.
const BEARER_PROXY: &str = r#"
const [port, to, goodFor, account, key, counts] = process.argv.slice(1);
const http = require('http'), crypto = require('crypto'), fs = require('fs');
const q = { sv: '2021-08-06', ss: 'b', srt: 'sco', sp: 'rwdlacxfti', st: '', se: '2199-01-01T00:00:00Z', sip: '', spr: 'https,http' };
const text = [account, q.sp, q.ss, q.srt, q.st, q.se, q.sip, q.spr, q.sv, '', ''].join('\n');
const sig = crypto.createHmac('sha256', Buffer.from(key, 'base64')).update(text, 'utf8').digest('base64');
const sas = ['sv', 'ss', 'srt', 'sp', 'se', 'spr'].map(k => `${k}=${encodeURIComponent(q[k])}`).join('&') + `&sig=${encodeURIComponent(sig)}`;
const used = new Map();
let refused = 0, served = 0;
const count = () => fs.writeFileSync(counts, `${refused} ${served}`);
http.createServer((request, answer) => {
    const token = (request.headers.authorization || '').match(/^Bearer (.+)$/);
    const times = token ? (used.get(token[1]) || 0) : Infinity;
    if (times >= Number(goodFor)) {
        refused++; count(); request.resume();
        request.on('end', () => { answer.writeHead(401, { 'x-ms-error-code': 'InvalidAuthenticationInfo' }); answer.end(); });
        return;
    }
    used.set(token[1], times + 1); served++; count();
    const headers = { ...request.headers, host: `127.0.0.1:${to}` };
    delete headers.authorization;
    const path = request.url + (request.url.includes('?') ? '&' : '?') + sas;
    const on = http.request({ host: '127.0.0.1', port: to, method: request.method, path, headers }, got => {
        answer.writeHead(got.statusCode, got.headers); got.pipe(answer);
    });
    on.on('error', () => answer.destroy());
    request.pipe(on);
}).listen(port, '127.0.0.1');
"#;

/// "Authorize with Shared Key" of the Blob service, for the one request that object_store does not make.
const MAKE_CONTAINER: &str = r#"
const [port, account, key, name] = process.argv.slice(1);
const date = new Date().toUTCString(), version = '2021-08-06';
const text = ['PUT', '', '', '', '', '', '', '', '', '', '', '', `x-ms-date:${date}`, `x-ms-version:${version}`,
    `/${account}/${account}/${name}`, 'restype:container'].join('\n');
const hmac = require('crypto').createHmac('sha256', Buffer.from(key, 'base64')).update(text, 'utf8').digest('base64');
const request = require('http').request({ host: '127.0.0.1', port, method: 'PUT', path: `/${account}/${name}?restype=container`,
    headers: { 'x-ms-date': date, 'x-ms-version': version, 'Content-Length': 0, Authorization: `SharedKey ${account}:${hmac}` } },
    answer => { if (answer.statusCode !== 201) { console.error(answer.statusCode); process.exit(1); } answer.resume(); });
request.on('error', e => { console.error(e.message); process.exit(1); });
request.end();
"#;

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A Python with moto.
fn python(tools: &Path) -> Result<PathBuf, String> {
    let venv = tools.join("moto");
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    installed(tools, "moto", MOTO, || {
        let base = if cfg!(windows) { "python" } else { "python3" };
        run(Command::new(base).args(["-m", "venv"]).arg(&venv))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", MOTO]))
    })?;
    Ok(python)
}

/// Azurite's script for the Blob service.
fn azurite(tools: &Path) -> Result<PathBuf, String> {
    let folder = tools.join("azurite");
    installed(tools, "azurite", AZURITE, || {
        let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
        run(Command::new(npm)
            .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
            .arg(&folder)
            .arg(AZURITE))
    })?;
    Ok(folder.join("node_modules/azurite/dist/src/blob/main.js"))
}

/// Installs into `tools/name` unless that has been done; one process at a time, the others wait and find it done.
fn installed(tools: &Path, name: &str, what: &str, install: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let text = |e: std::io::Error| e.to_string();
    fs::create_dir_all(tools).map_err(text)?;
    let lock = File::create(tools.join(format!("{name}.lock"))).map_err(text)?;
    lock.lock().map_err(text)?;
    // Written last, so that a half-made installation is not taken for a whole one.
    let done = tools.join(format!("{name}.txt"));
    if fs::read_to_string(&done).is_ok_and(|made| made == what) {
        return Ok(());
    }
    let _ = fs::remove_dir_all(tools.join(name));
    install()?;
    fs::write(&done, what).map_err(text)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{:?} failed: {}", command.get_program(), error.trim().lines().last().unwrap_or_default()))
}
