//! The command line's side of the unix socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, runtime::Runtime};

/// Nobody answers at the socket.
#[derive(Debug, thiserror::Error)]
#[error("no agent answers at {}: {source}; {remedy}", .socket.display())]
pub struct NoAgent {
    socket: PathBuf,
    remedy: &'static str,
    #[source]
    source: io::Error,
}

/// The agent's answer was an error.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
struct Refused {
    error: String,
}

/// Asks the agent behind a socket.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// Of the agent at `socket`; nothing is asked yet.
    pub fn new(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start")?;
        Ok(Self {
            socket: socket.to_owned(),
            runtime,
        })
    }

    /// GET.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.exchange(Method::GET, path, Vec::new())
    }

    /// POST of a JSON body.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> Result<T> {
        self.exchange(Method::POST, path, serde_json::to_vec(body)?)
    }

    /// GET of a file.
    pub fn bytes(&self, path: &str) -> Result<Bytes> {
        self.runtime
            .block_on(self.whole(Method::GET, path, Vec::new()))
    }

    async fn whole(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes> {
        let response = self.send(method, path, body).await?;
        let collected = response.into_body().collect().await;
        Ok(collected
            .context("the agent's answer broke off")?
            .to_bytes())
    }

    fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T> {
        self.runtime.block_on(async {
            let bytes = self.whole(method, path, body).await?;
            serde_json::from_slice(&bytes)
                .context("the agent's answer makes no sense; is it of another version?")
        })
    }

    /// GET of a stream of lines, each handed to `line` as it comes, until the agent ends it or
    /// `line` fails.
    pub fn lines(&self, path: &str, mut line: impl FnMut(&str) -> Result<()>) -> Result<()> {
        self.runtime.block_on(async {
            let mut body = self.send(Method::GET, path, Vec::new()).await?.into_body();
            let mut rest: Vec<u8> = Vec::new();
            while let Some(frame) = body.frame().await {
                // A chunk that breaks off is how it looks when the agent ends.
                let Ok(frame) = frame else {
                    break;
                };
                let Some(data) = frame.data_ref() else {
                    continue;
                };
                rest.extend_from_slice(data);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let whole: Vec<u8> = rest.drain(..=end).collect();
                    line(String::from_utf8_lossy(&whole).trim_end())?;
                }
            }
            Ok(())
        })
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| self.no_agent(source))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // What goes wrong here shows in the response.
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender
            .send_request(request)
            .await
            .context("the agent did not answer")?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        Err(refusal(status, &bytes))
    }

    fn no_agent(&self, source: io::Error) -> NoAgent {
        let remedy = if source.kind() == io::ErrorKind::PermissionDenied {
            "only the agent's user and group may ask it"
        } else {
            "start one with `bgp-observer run`, or name its socket with --socket"
        };
        NoAgent {
            socket: self.socket.clone(),
            remedy,
            source,
        }
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> anyhow::Error {
    #[derive(serde::Deserialize)]
    struct Problem {
        error: String,
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => Refused {
            error: problem.error,
        }
        .into(),
        Err(_) => anyhow::anyhow!("the agent answered {status}"),
    }
}

/// A stream or answer that must not end ended.
pub fn ended() -> Result<()> {
    bail!("the agent ended the stream: it stopped or was restarted")
}

/// `text` as part of a query.
pub fn query(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
