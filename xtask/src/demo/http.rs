//! Enough HTTP/1.1 to talk to a controller on loopback: one request a connection, JSON both ways.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A controller's REST API, with a token.
#[derive(Clone)]
pub(crate) struct Api {
    authority: String,
    token: String,
}

impl Api {
    pub(crate) fn new(url: &str, token_file: &Path) -> Result<Self> {
        let authority = url.strip_prefix("http://").with_context(|| format!("{url} is not an http address"))?;
        let token = std::fs::read_to_string(token_file).with_context(|| format!("no token in {}", token_file.display()))?;
        Ok(Self { authority: authority.trim_end_matches('/').to_owned(), token: token.trim().to_owned() })
    }

    /// Gives the status and the document.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, Value)> {
        self.request("GET", path, None)
    }

    /// Gives the status and the document.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        self.request("POST", path, Some(body))
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let Self { authority, token } = self;
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\nAccept: application/json\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(authority).with_context(|| format!("no connection to {authority}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all((head + &body).as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        parse(&String::from_utf8(answer)?)
    }
}

fn parse(answer: &str) -> Result<(u16, Value)> {
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no end of its head")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the answer has no status")?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let document = match (is_chunked, body) {
        (true, _) => bail!("the answer came in chunks"),
        (false, "") => Value::Null,
        (false, text) => serde_json::from_str(text).with_context(|| format!("status {status}, and a body that is not JSON: {text}"))?,
    };
    Ok((status, document))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let (status, document) = parse("HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\n{\"a\": 1}").unwrap();
        assert_eq!((status, document["a"].as_u64()), (201, Some(1)));
        assert_eq!(parse("HTTP/1.1 204 No Content\r\n\r\n").unwrap(), (204, Value::Null));
        assert!(parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").is_err());
        assert!(parse("").is_err());
    }
}
