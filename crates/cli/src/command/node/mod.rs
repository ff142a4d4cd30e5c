//! `longshore node`: the common reads and writes of hosts. Each submits its operation, waits for the answers, and shows a table of hosts.

mod ask;
mod package;

use std::collections::BTreeMap;

use ask::Ask;
use clap::{Args, Subcommand};
use longshore_model::operation::Operation;
use longshore_model::unit::{ByteSize, Span};
use longshore_model::wire::args::{DnsGetArgs, DnsSetArgs, ExecArgs, HostnameSetArgs, NoArgs, PingArgs, ShellArgs};
use longshore_model::wire::result::{
    CommandResult, DisksResult, DnsResult, DnsSetResult, HostnameResult, HostnameSetResult, LoadResult, MemoryResult, OsResult, PingResult,
    StatusResult, UptimeResult,
};

use crate::app::App;
use crate::command::job::pair;
use crate::command::secret::SecretFlags;
use crate::exit::Exit;
use crate::failure::Failure;

/// Ask hosts, or change them, and see the answers as a table.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples\n  longshore node disk --target _all\n  longshore node dns get --target group:web\n  longshore node package install my-package@1.0.0 https://packages.example/my-package-1.0.0.zip --target _all\n  longshore node exec --target web-01 -- systemctl is-active nginx\n  longshore node exec --target web-01 --timeout 6h --wait 5m -- ./backup"
)]
pub(crate) enum Node {
    /// System, uptime, load, memory and disks.
    Status(Ask),
    /// The host's name; `set` changes it.
    Hostname(Hostname),
    /// Size and free space of the disks.
    Disk(Ask),
    /// Memory.
    Memory(Ask),
    /// Load averages.
    Load(Ask),
    /// How long ago the host was started.
    Uptime(Ask),
    /// Operating system, kernel and architecture.
    Os(Ask),
    /// Name servers and search domains.
    #[command(subcommand)]
    Dns(Dns),
    /// What is installed of packages; `install` and `uninstall` change it.
    #[command(subcommand)]
    Package(package::Package),
    /// Send ICMP echo packets to an address, from the host.
    Ping(Ping),
    /// Run a program with its arguments, without a shell.
    Exec(Exec),
    /// Run a script with /bin/sh.
    Shell(Shell),
}

/// The host's name.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Hostname {
    #[command(subcommand)]
    change: Option<HostnameChange>,
    #[command(flatten)]
    ask: Ask,
}

/// What can be done to a host's name.
#[derive(Debug, Subcommand)]
enum HostnameChange {
    /// Set it, for now and after a reboot.
    Set {
        /// The new name.
        name: String,
        #[command(flatten)]
        ask: Ask,
    },
}

/// Name servers and search domains.
#[derive(Debug, Subcommand)]
pub(crate) enum Dns {
    /// What they are.
    Get {
        /// Of one interface; of the whole host unless given.
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Change them.
    Set {
        /// IP addresses of the name servers, the first one first.
        #[arg(required = true, value_name = "SERVER")]
        servers: Vec<String>,
        /// A domain in which short names are looked up. May be repeated; they stay as they are unless given.
        #[arg(long, value_name = "DOMAIN", value_delimiter = ',')]
        search: Vec<String>,
        /// Remove the search domains.
        #[arg(long, conflicts_with = "search")]
        no_search: bool,
        /// For one interface; for the whole host unless given.
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
}

/// Send ICMP echo packets.
#[derive(Debug, Args)]
pub(crate) struct Ping {
    /// An address, or a name that the agent looks up.
    address: String,
    /// Packets to send; 4 unless given.
    #[arg(long, value_name = "N")]
    count: Option<u32>,
    /// From one packet to the next; 200ms unless given.
    #[arg(long, value_name = "DURATION")]
    interval: Option<Span>,
    /// How long to wait for each answer; 2s unless given.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    #[command(flatten)]
    ask: Ask,
}

/// What a program or a script is run with.
#[derive(Debug, Args)]
pub(crate) struct Surroundings {
    /// Working directory; the agent's state directory unless given.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// A variable of its environment. May be repeated. Everybody may read it; see --secret.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Stop it after this, up to 168h; 5m unless given. The job goes on while nobody waits for it: see --wait.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    /// Output kept in the answer, of stdout and stderr together, at most 64MiB; 128KiB of each unless given.
    #[arg(long, value_name = "SIZE")]
    max_output: Option<ByteSize>,
    #[command(flatten)]
    secrets: SecretFlags,
}

/// Run a program.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    surroundings: Surroundings,
    /// The program and its words.
    #[arg(last = true, required = true, value_name = "CMD")]
    words: Vec<String>,
}

/// Run a script.
#[derive(Debug, Args)]
pub(crate) struct Shell {
    /// The script.
    script: String,
    #[command(flatten)]
    surroundings: Surroundings,
    #[command(flatten)]
    ask: Ask,
}

impl Node {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let nothing = NoArgs {};
        match self {
            Self::Status(ask) => ask.perform::<StatusResult>(app, Operation::NodeStatusGet, &nothing).await,
            Self::Disk(ask) => ask.perform::<DisksResult>(app, Operation::NodeDiskGet, &nothing).await,
            Self::Memory(ask) => ask.perform::<MemoryResult>(app, Operation::NodeMemoryGet, &nothing).await,
            Self::Load(ask) => ask.perform::<LoadResult>(app, Operation::NodeLoadGet, &nothing).await,
            Self::Uptime(ask) => ask.perform::<UptimeResult>(app, Operation::NodeUptimeGet, &nothing).await,
            Self::Os(ask) => ask.perform::<OsResult>(app, Operation::NodeOsGet, &nothing).await,
            Self::Hostname(hostname) => hostname.perform(app).await,
            Self::Dns(dns) => dns.perform(app).await,
            Self::Package(package) => package.perform(app).await,
            Self::Ping(ping) => ping.perform(app).await,
            Self::Exec(Exec { ask, surroundings, words }) => {
                let (ask, Surroundings { cwd, max_output, secrets, .. }, env) = surroundings.around(ask)?;
                let max_output = max_output.map(|max| max.to_string());
                let args = ExecArgs { command: words, cwd, env, max_output, secrets: secrets.read()? };
                ask.perform::<CommandResult>(app, Operation::CommandExec, &args).await
            }
            Self::Shell(Shell { script, surroundings, ask }) => {
                let (ask, Surroundings { cwd, max_output, secrets, .. }, env) = surroundings.around(ask)?;
                let max_output = max_output.map(|max| max.to_string());
                let args = ShellArgs { command: script, cwd, env, max_output, secrets: secrets.read()? };
                ask.perform::<CommandResult>(app, Operation::CommandShell, &args).await
            }
        }
    }
}

impl Surroundings {
    /// Whoever is asked, with the time-out; and the variables.
    fn around(self, mut ask: Ask) -> Result<(Ask, Self, BTreeMap<String, String>), Failure> {
        let env = self.env.iter().map(|text| pair("--env", text)).collect::<Result<_, _>>()?;
        ask.timeout = self.timeout;
        Ok((ask, self, env))
    }
}

impl Hostname {
    async fn perform(self, app: &App) -> Result<Exit, Failure> {
        match self.change {
            None => self.ask.perform::<HostnameResult>(app, Operation::NodeHostnameGet, &NoArgs {}).await,
            Some(HostnameChange::Set { name, ask }) => {
                ask.perform::<HostnameSetResult>(app, Operation::NodeHostnameSet, &HostnameSetArgs { hostname: name }).await
            }
        }
    }
}

impl Dns {
    async fn perform(self, app: &App) -> Result<Exit, Failure> {
        match self {
            Self::Get { interface, ask } => ask.perform::<DnsResult>(app, Operation::NetworkDnsGet, &DnsGetArgs { interface }).await,
            Self::Set { servers, search, no_search, interface, ask } => {
                let search = (no_search || !search.is_empty()).then_some(search);
                ask.perform::<DnsSetResult>(app, Operation::NetworkDnsSet, &DnsSetArgs { interface, servers, search }).await
            }
        }
    }
}

impl Ping {
    async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let Self { address, count, interval, timeout, ask } = self;
        let text = |span: Option<Span>| span.map(|span| span.to_string());
        let args = PingArgs { address, count, interval: text(interval), timeout: text(timeout) };
        ask.perform::<PingResult>(app, Operation::NetworkPingRun, &args).await
    }
}
