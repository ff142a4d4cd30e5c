//! Arguments of `network.*`, parsed.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::call::{CallError, fault, parsed};
use super::names::{DomainName, InterfaceName, Peer, address};
use crate::limits::{
    NAME_SERVERS_MAX, PING_COUNT_MAX, PING_INTERVAL_MAX, PING_INTERVAL_MIN, PING_TIMEOUT_MAX, SEARCH_DOMAINS_MAX, TIMEOUT_MIN,
};
use crate::unit::Span;
use crate::wire::args::{DnsSetArgs, PingArgs};

const COUNT_DEFAULT: u32 = 4;
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);

/// What `network.dns.set` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsChange {
    /// For one interface rather than for the whole host.
    pub interface: Option<InterfaceName>,
    /// 1 to [`NAME_SERVERS_MAX`] different addresses, the first one first.
    pub servers: Vec<IpAddr>,
    /// At most [`SEARCH_DOMAINS_MAX`] different domains; `None` leaves them as they are.
    pub search: Option<Vec<DomainName>>,
}

/// What `network.ping.run` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// Whom to ask.
    pub peer: Peer,
    /// Packets, 1 to [`PING_COUNT_MAX`].
    pub count: u32,
    /// From one packet to the next, [`PING_INTERVAL_MIN`] to [`PING_INTERVAL_MAX`].
    pub interval: Duration,
    /// For each answer, more than 0 and at most [`PING_TIMEOUT_MAX`].
    pub timeout: Duration,
}

impl DnsChange {
    pub(super) fn parse(args: &DnsSetArgs) -> Result<Self, CallError> {
        if !(1..=NAME_SERVERS_MAX).contains(&args.servers.len()) {
            return Err(fault("/args/servers", format!("1 to {NAME_SERVERS_MAX} addresses")));
        }
        if args.search.as_ref().is_some_and(|search| search.len() > SEARCH_DOMAINS_MAX) {
            return Err(fault("/args/search", format!("at most {SEARCH_DOMAINS_MAX} domains")));
        }
        let server = |pointer: &str, text: &str| address(text).map_err(|error| fault(pointer, error.to_string()));
        Ok(Self {
            interface: interface(args.interface.as_deref())?,
            servers: distinct("/args/servers", &args.servers, server)?,
            search: args.search.as_ref().map(|search| distinct("/args/search", search, parsed::<DomainName>)).transpose()?,
        })
    }

    pub(super) fn args(&self) -> DnsSetArgs {
        DnsSetArgs {
            interface: self.interface.as_ref().map(ToString::to_string),
            servers: self.servers.iter().map(ToString::to_string).collect(),
            search: self.search.as_ref().map(|search| search.iter().map(ToString::to_string).collect()),
        }
    }
}

impl Ping {
    pub(super) fn parse(args: &PingArgs) -> Result<Self, CallError> {
        let count = args.count.unwrap_or(COUNT_DEFAULT);
        if !(1..=PING_COUNT_MAX).contains(&count) {
            return Err(fault("/args/count", format!("1 to {PING_COUNT_MAX}")));
        }
        Ok(Self {
            peer: parsed("/args/address", &args.address)?,
            count,
            interval: span("/args/interval", args.interval.as_deref(), PING_INTERVAL_MIN, PING_INTERVAL_MIN..=PING_INTERVAL_MAX)?,
            timeout: span("/args/timeout", args.timeout.as_deref(), TIMEOUT_DEFAULT, TIMEOUT_MIN..=PING_TIMEOUT_MAX)?,
        })
    }

    pub(super) fn args(&self) -> PingArgs {
        PingArgs {
            address: self.peer.to_string(),
            count: Some(self.count),
            interval: Some(Span(self.interval).to_string()),
            timeout: Some(Span(self.timeout).to_string()),
        }
    }
}

pub(super) fn interface(name: Option<&str>) -> Result<Option<InterfaceName>, CallError> {
    name.map(|name| parsed("/args/interface", name)).transpose()
}

fn distinct<T: PartialEq + ToString>(
    pointer: &str,
    texts: &[String],
    parse: impl Fn(&str, &str) -> Result<T, CallError>,
) -> Result<Vec<T>, CallError> {
    let mut all = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let pointer = format!("{pointer}/{index}");
        let value = parse(&pointer, text)?;
        if all.contains(&value) {
            return Err(fault(pointer, format!("{} is there twice", value.to_string())));
        }
        all.push(value);
    }
    Ok(all)
}

fn span(pointer: &str, text: Option<&str>, default: Duration, bounds: RangeInclusive<Duration>) -> Result<Duration, CallError> {
    let Some(text) = text else { return Ok(default) };
    let Span(span) = parsed(pointer, text)?;
    if !bounds.contains(&span) {
        return Err(fault(pointer, format!("{} to {}", Span(*bounds.start()), Span(*bounds.end()))));
    }
    Ok(span)
}
