//! The flags of an agent, each onto its setting: those of `agent start`, and those of the earlier `job worker start`.

use clap::Args;
use longshore_model::Label;
use longshore_model::unit::Span;

use crate::app::Flag;
use crate::exit::Exit;
use crate::failure::Failure;

/// The agent's own.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentFlags {
    /// Host of the broker, instead of --nats-url; localhost unless given.
    #[arg(long, value_name = "HOST", conflicts_with = "nats_url")]
    agent_host: Option<String>,
    /// Port of the broker, instead of --nats-url; 4222 unless given.
    #[arg(long, value_name = "PORT", conflicts_with = "nats_url")]
    agent_port: Option<u16>,
    /// Name of the connection, for whoever looks at the broker.
    #[arg(long, value_name = "NAME")]
    agent_client_name: Option<String>,
    /// Agents with the same group share the work for `_any`.
    #[arg(long, value_name = "NAME")]
    agent_queue_group: Option<String>,
    /// Name it goes by; the system's host name unless given.
    #[arg(long, value_name = "NAME")]
    agent_hostname: Option<String>,
    /// Executions it runs at once.
    #[arg(long, visible_alias = "agent-max-jobs", value_name = "N")]
    max_jobs: Option<usize>,
    /// Group it belongs to, such as group:web.dev; may be repeated.
    #[arg(long = "label", value_name = "KEY:VALUE")]
    labels: Vec<Label>,
    #[command(flatten)]
    consumer: ConsumerFlags,
}

/// The same by their earlier names.
#[derive(Debug, Clone, Args)]
pub(crate) struct WorkerFlags {
    /// Host of the broker, instead of --nats-url; localhost unless given.
    #[arg(long, value_name = "HOST", conflicts_with = "nats_url")]
    worker_host: Option<String>,
    /// Port of the broker, instead of --nats-url; 4222 unless given.
    #[arg(long, value_name = "PORT", conflicts_with = "nats_url")]
    worker_port: Option<u16>,
    /// Name of the connection, for whoever looks at the broker.
    #[arg(long, value_name = "NAME")]
    worker_client_name: Option<String>,
    /// Agents with the same group share the work for `_any`.
    #[arg(long, value_name = "NAME")]
    worker_queue_group: Option<String>,
    /// Name it goes by; the system's host name unless given.
    #[arg(long, value_name = "NAME")]
    worker_hostname: Option<String>,
    /// Executions it runs at once.
    #[arg(long, value_name = "N")]
    worker_max_jobs: Option<usize>,
    #[command(flatten)]
    consumer: ConsumerFlags,
}

/// How it takes work from the broker.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "How it takes work from the broker")]
struct ConsumerFlags {
    /// How often the broker offers the same work; -1 for no bound.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    consumer_max_deliver: Option<i64>,
    /// How long a claim lasts without being extended.
    #[arg(long, value_name = "DURATION")]
    consumer_ack_wait: Option<Span>,
    /// How many claims there may be at once, over all agents; -1 for no bound.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    consumer_max_ack_pending: Option<i64>,
    /// The pace at which waiting work is offered.
    #[arg(long, value_name = "POLICY", value_parser = ["instant", "original"])]
    consumer_replay_policy: Option<String>,
    /// Waits between the attempts of jobs that do not say what theirs are, such as 30s,2m.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    consumer_back_off: Vec<Span>,
}

impl AgentFlags {
    pub(crate) fn flags(self) -> Result<Vec<Flag>, Failure> {
        let mut flags = self.consumer.flags();
        flags.extend(broker("--agent-host", self.agent_host, self.agent_port));
        let mut put = |key, name, value: Option<String>| flags.extend(value.map(|value| (key, name, value)));
        put("agent.client_name", "--agent-client-name", self.agent_client_name);
        put("agent.queue_group", "--agent-queue-group", self.agent_queue_group);
        put("agent.hostname", "--agent-hostname", self.agent_hostname);
        put("agent.max_jobs", "--max-jobs", self.max_jobs.map(|n| n.to_string()));
        put("agent.labels", "--label", labels(&self.labels)?);
        Ok(flags)
    }
}

impl WorkerFlags {
    pub(crate) fn flags(self) -> Vec<Flag> {
        let mut flags = self.consumer.flags();
        flags.extend(broker("--worker-host", self.worker_host, self.worker_port));
        let mut put = |key, name, value: Option<String>| flags.extend(value.map(|value| (key, name, value)));
        put("agent.client_name", "--worker-client-name", self.worker_client_name);
        put("agent.queue_group", "--worker-queue-group", self.worker_queue_group);
        put("agent.hostname", "--worker-hostname", self.worker_hostname);
        put("agent.max_jobs", "--worker-max-jobs", self.worker_max_jobs.map(|n| n.to_string()));
        flags
    }
}

impl ConsumerFlags {
    fn flags(self) -> Vec<Flag> {
        let mut flags: Vec<Flag> = Vec::new();
        let mut put = |key, name, value: Option<String>| flags.extend(value.map(|value| (key, name, value)));
        put("agent.consumer.max_deliver", "--consumer-max-deliver", self.consumer_max_deliver.map(|n| n.to_string()));
        put("agent.consumer.ack_wait", "--consumer-ack-wait", self.consumer_ack_wait.map(|span| span.to_string()));
        put("agent.consumer.max_ack_pending", "--consumer-max-ack-pending", self.consumer_max_ack_pending.map(|n| n.to_string()));
        put("agent.consumer.replay_policy", "--consumer-replay-policy", self.consumer_replay_policy);
        let waits: Vec<_> = self.consumer_back_off.iter().map(ToString::to_string).collect();
        put("agent.consumer.back_off", "--consumer-back-off", (!waits.is_empty()).then(|| waits.join(",")));
        flags
    }
}

/// The address of the broker when nobody names another.
pub(crate) const LOCAL_BROKER: &str = "nats://localhost:4222";

fn broker(name: &'static str, host: Option<String>, port: Option<u16>) -> Option<Flag> {
    if host.is_none() && port.is_none() {
        return None;
    }
    let host = host.unwrap_or_else(|| "localhost".to_owned());
    // An IPv6 address has brackets in a URL.
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
    Some(("nats.url", name, format!("nats://{host}:{}", port.unwrap_or(4222))))
}

/// The labels as one setting. Keys and values are tokens, so quotes keep them text: `1` and `true` are labels, too.
fn labels(labels: &[Label]) -> Result<Option<String>, Failure> {
    for (idx, label) in labels.iter().enumerate() {
        if let Some(other) = labels[..idx].iter().find(|other| other.key() == label.key()) {
            return Err(Failure::new(Exit::Usage, format!("--label {other} and --label {label} have the same key"))
                .because("an agent has one value of each key; a longer one belongs to the shorter ones' groups, too"));
        }
    }
    let pairs: Vec<String> =
        labels.iter().map(|label| format!("'{}': '{}'", label.key(), label.segments().collect::<Vec<_>>().join("."))).collect();
    Ok((!pairs.is_empty()).then(|| format!("{{{}}}", pairs.join(", "))))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::command::job::{Job, Worker};
    use crate::role::agent::Agent;
    use crate::settings::{Settings, Sources};

    fn settings(line: &[&str]) -> Settings {
        let command = Cli::try_parse_from([&["longshore"], line].concat()).unwrap().command;
        let flags = if let Command::Agent(Agent::Start(start)) = command {
            start.own.flags().unwrap()
        } else if let Command::Job(Job::Worker(Worker::Start(start))) = command {
            start.own.flags()
        } else {
            panic!("{line:?}")
        };
        Sources { flags, ..Sources::default() }.load().unwrap().settings
    }

    #[test]
    fn every_flag_has_its_setting_by_both_names() {
        let consumer = [
            "--consumer-max-deliver",
            "-1",
            "--consumer-ack-wait",
            "7s",
            "--consumer-max-ack-pending",
            "9",
            "--consumer-replay-policy",
            "original",
            "--consumer-back-off",
            "30s,2m",
        ];
        for (command, prefix) in [(&["agent", "start"][..], "agent"), (&["job", "worker", "start"], "worker")] {
            let own = [("host", "h"), ("port", "1"), ("client-name", "c"), ("queue-group", "q"), ("hostname", "n"), ("max-jobs", "3")];
            let own: Vec<String> = own.into_iter().flat_map(|(name, value)| [format!("--{prefix}-{name}"), value.to_owned()]).collect();
            let line: Vec<&str> = command.iter().copied().chain(own.iter().map(String::as_str)).chain(consumer).collect();
            let Settings { nats, agent, .. } = settings(&line);
            assert_eq!(nats.url.as_deref(), Some("nats://h:1"));
            assert_eq!(
                (agent.client_name.as_str(), agent.queue_group.as_str(), agent.hostname.as_str(), agent.max_jobs),
                ("c", "q", "n", 3)
            );
            let consumer = &agent.consumer;
            assert_eq!((consumer.max_deliver, consumer.ack_wait.to_string().as_str(), consumer.max_ack_pending), (-1, "7s", 9));
            assert_eq!(consumer.replay_policy, crate::settings::ReplayPolicy::Original);
            assert_eq!(consumer.back_off.iter().map(ToString::to_string).collect::<Vec<_>>(), ["30s", "2m"]);
        }
        let settings = settings(&["agent", "start", "--agent-port", "5", "--label", "rack:1", "--label", "group:true.x"]);
        assert_eq!(settings.nats.url.as_deref(), Some("nats://localhost:5"));
        assert_eq!(settings.agent.labels().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>(), ["group:true.x", "rack:1"]);
        assert_eq!(broker("x", Some("::1".to_owned()), None).unwrap().2, "nats://[::1]:4222");
        let labels = |texts: [&str; 2]| super::labels(&texts.map(|text| text.parse().unwrap()));
        assert_eq!(labels(["group:web", "group:db"]).unwrap_err().exit, Exit::Usage);
        for line in
            [&["agent", "start", "--agent-host", "h", "--nats-url", "nats://x"][..], &["agent", "start", "--consumer-replay-policy", "x"]]
        {
            assert!(Cli::try_parse_from([&["longshore"], line].concat()).is_err(), "{line:?}");
        }
    }
}
