//! HTTP GET as far as labs need it: one request per connection, on loopback or inside a namespace.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// Gets `path`; fails unless the answer is 200.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let (status, body) = ask(address, path)?;
    if status != 200 {
        bail!("GET http://{address}{path}: {status}: {}", body.trim());
    }
    Ok(body)
}

/// Gets `path` whatever the status. HTTP/1.0, so that the body ends with the connection.
pub fn ask(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let fetch = || -> Result<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .context("no end of the header")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    };
    fetch().with_context(|| format!("GET http://{address}{path}"))
}
