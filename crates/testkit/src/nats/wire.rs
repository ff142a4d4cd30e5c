//! The few words of the NATS protocol that tests speak themselves. No client library: the kit must not share code with what it tests.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A connection without credentials, and without headers: the server takes them off what it delivers.
#[derive(Debug)]
pub(super) struct Wire {
    stream: BufReader<TcpStream>,
    /// What the server said of itself.
    pub(super) info: Value,
}

/// What the server sent.
pub(super) enum Frame {
    Message { subject: String, payload: Vec<u8> },
    Pong,
}

impl Wire {
    pub(super) async fn connect(port: u16) -> Option<Self> {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.ok()?);
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let info = serde_json::from_str(line.strip_prefix("INFO ")?).ok()?;
        let mut wire = Self { stream, info };
        wire.say("CONNECT {\"verbose\":false,\"pedantic\":false}\r\n").await?;
        Some(wire)
    }

    pub(super) async fn subscribe(&mut self, subject: &str) -> Option<()> {
        self.say(&format!("SUB {subject} 1\r\n")).await
    }

    pub(super) async fn publish(&mut self, subject: &str, reply: &str, payload: &str) -> Option<()> {
        self.say(&format!("PUB {subject} {reply} {}\r\n{payload}\r\n", payload.len())).await
    }

    pub(super) async fn ping(&mut self) -> Option<()> {
        self.say("PING\r\n").await
    }

    /// The next message or answer to a ping; `None` when the connection is no more.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await.ok()? == 0 || line.starts_with("-ERR") {
                return None;
            }
            match line.trim_end() {
                "PING" => self.say("PONG\r\n").await?,
                "PONG" => return Some(Frame::Pong),
                // `MSG subject sid [reply] size`.
                line => {
                    let Some(words) = line.strip_prefix("MSG ") else { continue };
                    let (subject, size) = (words.split(' ').next()?, words.split(' ').next_back()?.parse::<usize>().ok()?);
                    let mut payload = vec![0; size + 2];
                    self.stream.read_exact(&mut payload).await.ok()?;
                    payload.truncate(size);
                    return Some(Frame::Message { subject: subject.to_owned(), payload });
                }
            }
        }
    }

    async fn say(&mut self, words: &str) -> Option<()> {
        self.stream.write_all(words.as_bytes()).await.ok()
    }
}

/// Asks whoever answers `subject`, such as the server itself below `$JS.API`. `None` if nobody does in time.
pub(super) async fn ask(wire: &mut Wire, subject: &str, payload: &str) -> Option<Value> {
    let asked = async {
        wire.subscribe("testkit.answer").await?;
        wire.publish(subject, "testkit.answer", payload).await?;
        loop {
            if let Frame::Message { payload, .. } = wire.next().await? {
                return serde_json::from_slice(&payload).ok();
            }
        }
    };
    tokio::time::timeout(ANSWER_WITHIN, asked).await.ok().flatten()
}

/// Listens to what others say to each other through the server.
#[derive(Debug)]
pub struct Tap(Wire);

impl Tap {
    pub(super) async fn open(port: u16, subject: &str) -> Option<Self> {
        let mut tap = Self(Wire::connect(port).await?);
        tap.0.subscribe(subject).await?;
        // The answer tells that the subscription is there.
        tap.heard_within().await?;
        Some(tap)
    }

    /// The subjects of all messages the server has taken since the last call, oldest first.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn heard(&mut self) -> Vec<String> {
        self.heard_within().await.expect("the server answers")
    }

    async fn heard_within(&mut self) -> Option<Vec<String>> {
        let listen = async {
            self.0.ping().await?;
            let mut heard = Vec::new();
            loop {
                match self.0.next().await? {
                    Frame::Message { subject, .. } => heard.push(subject),
                    Frame::Pong => return Some(heard),
                }
            }
        };
        tokio::time::timeout(ANSWER_WITHIN, listen).await.ok().flatten()
    }
}
