//! A controller that says what a test tells it to, for what a real one says too rarely.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// It answers on threads of its own until the test's process ends.
pub(crate) struct Fake {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<String>>>,
    arrived: Mutex<Receiver<()>>,
}

/// What it says.
pub(crate) enum Reply {
    Json(u16, Value),
    /// Server-sent events, and then the end of the connection.
    Events(&'static str),
    /// Nothing for so long, and then the end of the connection.
    Hang(Duration),
}

impl Fake {
    /// Each request is handed over as `METHOD PATH?QUERY` with how many of the same method and path came before.
    pub(crate) fn start(answer: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answer, log) = (Arc::new(answer), seen.clone());
        let (arrival, arrived) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let (answer, log, arrival) = (answer.clone(), log.clone(), arrival.clone());
                std::thread::spawn(move || serve(stream, &*answer, &log, &arrival));
            }
        });
        Self { url, seen, arrived: Mutex::new(arrived) }
    }

    /// Waits until a request with this text has come.
    pub(crate) fn wait_for(&self, text: &str) {
        let arrived = self.arrived.lock().unwrap();
        while !self.seen().iter().any(|request| request.contains(text)) {
            arrived.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|_| panic!("no {text} among {:?}", self.seen()));
        }
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, answer: &dyn Fn(&str, usize) -> Reply, log: &Mutex<Vec<String>>, arrival: &Sender<()>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let request = line.trim().strip_suffix(" HTTP/1.1")?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    let before = {
        let mut log = log.lock().unwrap();
        let path = |request: &str| request.split('?').next().unwrap_or_default().to_owned();
        let before = log.iter().filter(|other| path(other) == path(&request)).count();
        log.push(request.clone());
        before
    };
    let _ = arrival.send(());
    let mut stream = stream;
    let mut respond = |status: u16, kind: &str, body: &str| {
        let length = if kind == "text/event-stream" { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        write!(stream, "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{length}connection: close\r\n\r\n{body}").ok()
    };
    match answer(&request, before) {
        Reply::Json(status, body) => respond(status, "application/json", &body.to_string()),
        Reply::Events(text) => respond(200, "text/event-stream", text),
        Reply::Hang(time) => {
            stream.set_read_timeout(Some(time)).ok()?;
            let _ = stream.read(&mut [0]);
            Some(())
        }
    }
}

/// The job of most tests.
pub(crate) const ID: &str = "j-01ktest0000000000000abcdef";

pub(crate) fn job(status: &str) -> Value {
    json!({
        "id": ID, "status": status, "operation": "command.exec", "args": {"command": ["true"]}, "target": "_any", "submitted_by": "x",
        "submitted_at": "2026-07-27T10:00:00Z", "expires_at": "2026-07-27T11:00:00Z", "timeout": "5m", "max_attempts": 1,
        "annotations": {}, "timeline": [], "executions": [],
    })
}

pub(crate) fn page(ids: &[&str], next: Option<&str>) -> Reply {
    let item = |id: &&str| {
        json!({
            "id": id, "status": "failed", "operation": "command.exec", "target": "_any", "hosts": [], "attempts": 1, "submitted_by": "x",
            "submitted_at": "2026-07-27T10:00:00Z", "annotations": {},
        })
    };
    Reply::Json(200, json!({ "items": ids.iter().map(item).collect::<Vec<_>>(), "next_cursor": next, "counts": {} }))
}

pub(crate) fn problem(status: u16, code: &str) -> Reply {
    let retryable = status == 503;
    let body = json!({ "type": "x", "title": "x", "status": status, "detail": "it is so", "code": code, "retryable": retryable });
    Reply::Json(status, body)
}
