//! Two ends, a virtual clock, and a link between them that a seed makes misbehave. The reference is two lists: what was said and what was heard.

use std::collections::VecDeque;
use std::time::Duration;

use longshore_session::control::{Auth, AuthMode, Capabilities, Concurrency, Handshake, Register, Token, Worker as About};
use longshore_session::{
    Admission, Binding, Gateway, GatewayConfig, Greeting, Hail, LinkConfig, Message, Now, Output, Payload, Refusal, Socket, Worker,
    WorkerConfig, code,
};

/// Per mille of frames, or of steps for `cut` and `forget`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) lose: u64,
    pub(crate) repeat: u64,
    pub(crate) reorder: u64,
    pub(crate) truncate: u64,
    pub(crate) cut: u64,
    /// The gateway's session is reset, or its proof is not taken at the next resume.
    pub(crate) forget: u64,
}

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn hits(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Worker,
    Gateway,
}

/// What flies, with the end that it flies to.
type Flying = (Duration, End, Vec<u8>);

pub(crate) struct World {
    pub(crate) at: Duration,
    pub(crate) rng: Rng,
    pub(crate) worker: Worker,
    pub(crate) gateway: Gateway,
    faults: Faults,
    flying: Vec<Flying>,
    at_worker: Option<Binding>,
    at_gateway: Option<Binding>,
    is_connected: bool,
    /// The connection breaks while this frame, counted from 0 over the world's life, is on its way.
    pub(crate) cut_at: Option<usize>,
    pub(crate) n_frames: usize,
    pub(crate) transcript: Vec<Vec<u8>>,
    keeps_transcript: bool,
    n_sessions: u64,
    forgets_next: bool,
    /// To the worker, to the gateway.
    pub(crate) to_say: [VecDeque<u64>; 2],
    pub(crate) said: [Vec<u64>; 2],
    pub(crate) heard: [Vec<u64>; 2],
    pub(crate) acknowledged: [usize; 2],
    pub(crate) n_opened: [usize; 2],
}

pub(crate) fn now(at: Duration) -> Now {
    Now {
        at,
        wall: jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(1_766_600_000) + jiff::SignedDuration::try_from(at).unwrap(),
    }
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn worker_config() -> WorkerConfig {
    let auth = Auth { mode: AuthMode::Token, token: Some(Token("let-me-in".to_owned())), fingerprint: None };
    let about = About {
        worker_name: "w".to_owned(),
        worker_instance_id: Some("w-1".to_owned()),
        version: "0.1.0".to_owned(),
        hostname: "h".to_owned(),
    };
    let capabilities = Capabilities {
        concurrency: Concurrency { max_parallel: 1, per_node_limits: None },
        runtimes: vec!["python".to_owned()],
        features: Vec::new(),
    };
    let register = Register { capabilities, payload_types: None, packages: None, manifests: None, channels: None };
    WorkerConfig::new(LinkConfig::of_worker("default", "w-1"), Handshake { protocol: 1, auth, worker: about }, register)
}

pub(crate) fn gateway_config() -> GatewayConfig {
    GatewayConfig::new("default", "w-1")
}

pub(crate) fn message(n: u64) -> Message {
    Message::new("biz.exec.feedback", Payload::from_iter([("n".to_owned(), n.into())]))
}

pub(crate) fn admission(name: &str) -> Admission {
    Admission { session_id: name.to_owned(), session_token: Token(format!("token of {name}")), expires_at: None }
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults, worker: WorkerConfig, gateway: GatewayConfig) -> Self {
        let start = now(Duration::ZERO);
        Self {
            at: Duration::ZERO,
            rng: Rng(seed),
            worker: Worker::new(worker, u128::from(seed), start).unwrap(),
            gateway: Gateway::new(gateway, u128::from(seed) << 64 | 1, start),
            faults,
            flying: Vec::new(),
            at_worker: None,
            at_gateway: None,
            is_connected: false,
            cut_at: None,
            n_frames: 0,
            transcript: Vec::new(),
            keeps_transcript: false,
            n_sessions: 0,
            forgets_next: false,
            to_say: Default::default(),
            said: Default::default(),
            heard: Default::default(),
            acknowledged: [0; 2],
            n_opened: [0; 2],
        }
    }

    pub(crate) fn keep_transcript(&mut self) {
        self.keeps_transcript = true;
    }

    pub(crate) fn say(&mut self, n_to_worker: u64, n_to_gateway: u64) {
        self.to_say = [(0..n_to_worker).collect(), (0..n_to_gateway).collect()];
    }

    pub(crate) fn is_done(&self) -> bool {
        self.to_say.iter().all(VecDeque::is_empty)
            && self.heard == self.said
            && self.worker.stats().outbox == 0
            && self.gateway.stats().outbox == 0
    }

    /// Runs until everything was heard and acknowledged.
    pub(crate) fn run(&mut self, limit: Duration) {
        while !self.is_done() {
            self.step();
            assert!(self.at < limit, "not done after {limit:?}: {self:?}");
        }
    }

    /// The next thing that happens.
    pub(crate) fn step(&mut self) {
        self.speak();
        self.perform();
        let landing = self.flying.iter().map(|(at, ..)| *at).min();
        let timers = [self.worker.next_deadline(), self.gateway.next_deadline()];
        let next = timers.into_iter().chain([landing]).flatten().min().expect("something is always to come");
        self.at = self.at.max(next);
        let time = now(self.at);
        if landing.is_some_and(|landing| landing <= self.at) {
            self.land();
        }
        self.worker.tick(time);
        self.gateway.tick(time);
        self.perform();
        self.misfortune();
        self.hear();
        self.check();
    }

    fn speak(&mut self) {
        let time = now(self.at);
        for _ in 0..self.rng.below(4) {
            if let Some(n) = self.to_say[0].pop_front() {
                match self.gateway.send(message(n), time) {
                    Ok(_) => self.said[0].push(n),
                    Err(_) => self.to_say[0].push_front(n),
                }
            }
            if let Some(n) = self.to_say[1].pop_front() {
                match self.worker.send(message(n), time) {
                    Ok(_) => self.said[1].push(n),
                    Err(_) => self.to_say[1].push_front(n),
                }
            }
        }
    }

    fn hear(&mut self) {
        let time = now(self.at);
        for _ in 0..self.rng.below(4) {
            if let Some(envelope) = self.worker.next_delivery(time) {
                self.heard[0].push(envelope.payload["n"].as_u64().unwrap());
            }
            if let Some(envelope) = self.gateway.next_delivery(time) {
                self.heard[1].push(envelope.payload["n"].as_u64().unwrap());
            }
        }
    }

    /// INV-51: a prefix of what was said, in order, once; and no end holds more than it may.
    fn check(&self) {
        for end in 0..2 {
            assert!(self.said[end].starts_with(&self.heard[end]), "end {end} heard {:?}", self.heard[end]);
            assert!(self.acknowledged[end] <= self.said[end].len());
        }
        for stats in [self.worker.stats(), self.gateway.stats()] {
            assert!(stats.under_way <= 64 && stats.held <= 64, "{stats:?}");
        }
    }

    fn misfortune(&mut self) {
        if self.is_connected && self.rng.hits(self.faults.cut) {
            self.cut();
        }
        if self.rng.hits(self.faults.forget) {
            if self.rng.hits(500) {
                self.gateway.reset(&Refusal::new(code::STALE_BINDING, "forgotten"), now(self.at));
                self.perform();
            } else {
                self.forgets_next = true;
            }
        }
    }

    /// The connection breaks: what flies is lost, and both ends learn of it.
    pub(crate) fn cut(&mut self) {
        let time = now(self.at);
        self.is_connected = false;
        self.flying.clear();
        if let Some(binding) = self.at_worker.take() {
            self.worker.disconnected(binding, None, "cut", time);
        }
        if let Some(binding) = self.at_gateway.take() {
            self.gateway.disconnected(binding, "cut", time);
        }
    }

    pub(crate) fn perform(&mut self) {
        let time = now(self.at);
        loop {
            if let Some(output) = self.worker.next_output() {
                match output {
                    Output::Connect => {
                        self.cut();
                        self.at_worker = Some(self.worker.connected(time));
                        self.is_connected = true;
                    }
                    Output::Transmit { to, text } if Some(to) == self.at_worker => self.fly(End::Gateway, text.into_string().into_bytes()),
                    Output::Close { binding, .. } if Some(binding) == self.at_worker => self.cut(),
                    Output::Acknowledged { .. } => self.acknowledged[1] += 1,
                    Output::Opened { .. } => self.n_opened[0] += 1,
                    Output::HeartbeatDue => self.worker.heartbeat(true, Payload::new(), None, time),
                    Output::Transmit { .. } | Output::Close { .. } | Output::Detached { .. } => {}
                    Output::Dropped(_)
                    | Output::Skipped { .. }
                    | Output::Uncertain { .. }
                    | Output::Stopped(_)
                    | Output::Drain(_)
                    | Output::Registered(_)
                    | Output::Heartbeat(_)
                    | Output::Authenticate(_)
                    | Output::Expired => panic!("{output:?}"),
                }
            } else if let Some(output) = self.gateway.next_output() {
                match output {
                    Output::Transmit { to, text } if Some(to) == self.at_gateway => self.fly(End::Worker, text.into_string().into_bytes()),
                    Output::Close { binding, .. } if Some(binding) == self.at_gateway => self.hang_up(),
                    Output::Acknowledged { .. } => self.acknowledged[0] += 1,
                    Output::Opened { .. } => self.n_opened[1] += 1,
                    Output::Transmit { .. } | Output::Close { .. } | Output::Detached { .. } => {}
                    Output::Registered(_) | Output::Heartbeat(_) => {}
                    Output::Dropped(_)
                    | Output::Skipped { .. }
                    | Output::Uncertain { .. }
                    | Output::Connect
                    | Output::HeartbeatDue
                    | Output::Stopped(_)
                    | Output::Drain(_)
                    | Output::Authenticate(_)
                    | Output::Expired => panic!("{output:?}"),
                }
            } else {
                return;
            }
        }
    }

    /// The gateway closes: what it said before still arrives, and then the worker learns of it.
    fn hang_up(&mut self) {
        self.at_gateway = None;
        self.flying.retain(|(_, end, _)| *end == End::Worker);
        let mut last: Vec<_> = std::mem::take(&mut self.flying);
        last.sort_by_key(|(at, ..)| *at);
        for (_, _, bytes) in last {
            if let Some(binding) = self.at_worker {
                let _ = self.worker.receive(binding, &bytes, now(self.at));
            }
        }
        self.cut();
    }

    fn fly(&mut self, end: End, mut bytes: Vec<u8>) {
        if self.keeps_transcript {
            self.transcript.push(bytes.clone());
        }
        self.n_frames += 1;
        if self.cut_at == Some(self.n_frames - 1) {
            return self.cut();
        }
        if self.rng.hits(self.faults.lose) {
            return;
        }
        if self.rng.hits(self.faults.truncate) {
            bytes.truncate(usize::try_from(self.rng.below(bytes.len() as u64)).unwrap());
        }
        let latest = self.flying.iter().filter(|(_, to, _)| *to == end).map(|(at, ..)| *at).max().unwrap_or_default();
        let mut lands = (self.at + Duration::from_micros(1 + self.rng.below(3000))).max(latest + Duration::from_nanos(1));
        if self.rng.hits(self.faults.reorder) {
            lands = self.at + Duration::from_micros(1 + self.rng.below(300_000));
        }
        if self.rng.hits(self.faults.repeat) {
            self.flying.push((lands + Duration::from_micros(self.rng.below(300_000)), end, bytes.clone()));
        }
        self.flying.push((lands, end, bytes));
    }

    fn land(&mut self) {
        let Some(first) = (0..self.flying.len()).min_by_key(|at| self.flying[*at].0) else { return };
        let (_, end, bytes) = self.flying.swap_remove(first);
        let time = now(self.at);
        match end {
            End::Worker => {
                if let Some(binding) = self.at_worker {
                    let _ = self.worker.receive(binding, &bytes, time);
                }
            }
            End::Gateway => match self.at_gateway {
                Some(binding) => {
                    let _ = self.gateway.receive(binding, &bytes, time);
                }
                None if self.is_connected => self.greet(&bytes),
                None => {}
            },
        }
    }

    fn greet(&mut self, bytes: &[u8]) {
        let time = now(self.at);
        let result = Greeting::read(bytes, &gateway_config().link).and_then(|greeting| {
            let name = match &greeting.hail {
                Hail::Handshake(_) => {
                    self.n_sessions += 1;
                    format!("s-{}", self.n_sessions)
                }
                Hail::Resume(_) if std::mem::take(&mut self.forgets_next) => return Err(Refusal::new(code::SESSION_TOKEN, "forgotten")),
                Hail::Resume(resume) => resume.session_id.clone(),
            };
            self.gateway.greet(&greeting, admission(&name), Socket::New, time)
        });
        match result {
            Ok(binding) => self.at_gateway = Some(binding),
            Err(refusal) => {
                let text = refusal.frame("default", "scheduler-control", time, u128::from(self.rng.next()));
                if let Some(binding) = self.at_worker {
                    let _ = self.worker.receive(binding, text.as_str().as_bytes(), time);
                }
                self.cut();
            }
        }
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("World")
            .field("worker", &(self.worker.phase(), self.worker.stats()))
            .field("gateway", &(self.gateway.phase(), self.gateway.stats()))
            .field("said", &self.said.each_ref().map(Vec::len))
            .field("heard", &self.heard.each_ref().map(Vec::len))
            .field("n_opened", &self.n_opened)
            .finish_non_exhaustive()
    }
}
