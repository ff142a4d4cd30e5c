//! What files and programs say of name servers. Pure; whatever the text is, there is an answer and it is bounded.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use globset::Glob;
use serde_json::Value;

const ENTRIES_MAX: usize = 64;
const ENTRY_BYTES_MAX: usize = 512;

/// Name servers and search domains, as their source writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) servers: Vec<String>,
    pub(super) search: Vec<String>,
}

/// What one netplan file says of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Definition {
    /// Such as `ethernets`.
    pub(super) section: String,
    pub(super) id: String,
    pub(super) settings: Settings,
    /// How the interface is recognised, where that is not by `id`.
    match_name: Option<String>,
    match_mac: Option<String>,
    set_name: Option<String>,
}

impl Definition {
    /// Other settings for the interface of another definition.
    pub(super) fn in_place_of(other: &Self, settings: Settings) -> Self {
        Self { settings, ..other.clone() }
    }

    /// Whether it is for the interface of this name and hardware address.
    pub(super) fn is_for(&self, interface: &str, mac: &str) -> bool {
        if self.set_name.as_deref() == Some(interface) {
            return true;
        }
        match (&self.match_name, &self.match_mac) {
            (None, None) => self.id == interface,
            (name, address) => {
                let by_name = |pattern: &String| Glob::new(pattern).is_ok_and(|glob| glob.compile_matcher().is_match(interface));
                name.as_ref().is_none_or(by_name) && address.as_ref().is_none_or(|address| address.eq_ignore_ascii_case(mac))
            }
        }
    }
}

/// The address in a server as systemd-resolved writes it: `[ADDRESS]:PORT%INTERFACE#NAME`, most of it optional.
pub(super) fn address(server: &str) -> Option<IpAddr> {
    let server = server.split(['#', '%']).next()?;
    if let Some(rest) = server.strip_prefix('[') {
        return rest.split(']').next()?.parse().ok();
    }
    server.parse().ok().or_else(|| server.split_once(':')?.0.parse().ok())
}

/// `/etc/resolv.conf`.
pub(super) fn resolv_conf(text: &str) -> Settings {
    let mut settings = Settings::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => settings.servers.extend(words.next().filter(|word| is_entry(word)).map(str::to_owned)),
            // The last one counts.
            Some("search") => settings.search = entries(words),
            Some("domain") => settings.search = entries(words.take(1)),
            _ => {}
        }
    }
    settings.servers.truncate(ENTRIES_MAX);
    settings
}

/// The same file with other servers, and other search domains if they are given. Every other line stays.
pub(super) fn resolv_conf_with(text: &str, servers: &[String], search: Option<&[String]>) -> String {
    let mut ours: Vec<_> = servers.iter().map(|server| format!("nameserver {server}")).collect();
    if let Some(search) = search.filter(|search| !search.is_empty()) {
        ours.insert(0, format!("search {}", search.join(" ")));
    }
    let is_replaced = |line: &str| match line.split_whitespace().next() {
        Some("nameserver") => true,
        Some("search" | "domain") => search.is_some(),
        _ => false,
    };
    let mut lines = Vec::new();
    for line in text.lines() {
        match is_replaced(line) {
            true => lines.append(&mut ours),
            false => lines.push(line.to_owned()),
        }
    }
    lines.append(&mut ours);
    lines.join("\n") + "\n"
}

/// What `resolvectl dns` and `resolvectl domain` print: lines such as `Link 2 (eth0): 192.0.2.1`, long ones broken with white
/// space at the beginning of the next. Everything listed, each once.
pub(super) fn resolvectl(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for line in text.lines() {
        let rest = match line.chars().next() {
            Some(c) if c.is_whitespace() => line,
            Some(_) => match line.split_once("): ").or_else(|| line.split_once("Global: ")) {
                Some((_, rest)) => rest,
                None => continue,
            },
            None => continue,
        };
        for entry in entries(rest.split_whitespace()) {
            if !all.contains(&entry) && all.len() < ENTRIES_MAX {
                all.push(entry);
            }
        }
    }
    all
}

/// A netplan file.
///
/// # Errors
/// It is not YAML.
pub(super) fn netplan(text: &str) -> Result<Vec<Definition>, String> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let document: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())?;
    let Some(sections) = document.get("network").and_then(Value::as_object) else { return Ok(Vec::new()) };
    let mut definitions = Vec::new();
    for (section, ids) in sections {
        for (id, definition) in ids.as_object().into_iter().flatten().filter(|(_, definition)| definition.is_object()) {
            let text = |path: &str| definition.pointer(path).and_then(Value::as_str).map(str::to_owned);
            let list = |path: &str| {
                let list = definition.pointer(path).and_then(Value::as_array);
                entries(list.into_iter().flatten().filter_map(Value::as_str))
            };
            definitions.push(Definition {
                section: section.clone(),
                id: id.clone(),
                settings: Settings { servers: list("/nameservers/addresses"), search: list("/nameservers/search") },
                match_name: text("/match/name"),
                match_mac: text("/match/macaddress"),
                set_name: text("/set-name"),
            });
        }
    }
    Ok(definitions)
}

/// A netplan file that sets nothing but name servers. Text goes in as JSON strings, which YAML takes as they are.
pub(super) fn netplan_file(definitions: &[Definition]) -> String {
    let mut sections: BTreeMap<&str, Vec<&Definition>> = BTreeMap::new();
    for definition in definitions {
        sections.entry(&definition.section).or_default().push(definition);
    }
    let mut text = "# Written by Longshore (network.dns.set), which replaces this file.\nnetwork:\n  version: 2\n".to_owned();
    for (section, definitions) in sections {
        let _infallible = writeln!(text, "  {}:", Value::from(section));
        for Definition { id, settings: Settings { servers, search }, .. } in definitions {
            let (id, servers) = (Value::from(id.as_str()), Value::from(servers.clone()));
            let _infallible = writeln!(text, "    {id}:\n      nameservers:\n        addresses: {servers}");
            if !search.is_empty() {
                let _infallible = writeln!(text, "        search: {}", Value::from(search.clone()));
            }
        }
    }
    text
}

/// A drop-in of systemd-resolved. An empty assignment forgets what files before it say.
pub(super) fn drop_in(servers: &[String], search: Option<&[String]>) -> String {
    let mut text = "# Written by Longshore (network.dns.set), which replaces this file.\n[Resolve]\nDNS=\n".to_owned();
    let _infallible = writeln!(text, "DNS={}", servers.join(" "));
    if let Some(search) = search {
        let _infallible = writeln!(text, "Domains=\nDomains={}", search.join(" "));
    }
    text
}

/// The search domains in a drop-in of ours, if it sets them.
pub(super) fn drop_in_search(text: &str) -> Option<Vec<String>> {
    text.lines().filter_map(|line| line.strip_prefix("Domains=")).next_back().map(|domains| entries(domains.split_whitespace()))
}

/// The interface of the default route with the lowest metric, by `/proc/net/route`.
pub(super) fn default_interface(routes: &str) -> Option<String> {
    let default = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let &[interface, "00000000", _gateway, _flags, _references, _use, metric, "00000000", ..] = words.as_slice() else { return None };
        Some((metric.parse::<u32>().ok()?, interface.to_owned()))
    };
    routes.lines().filter_map(default).min().map(|(_, interface)| interface)
}

fn entries<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    words.filter(|word| is_entry(word)).take(ENTRIES_MAX).map(str::to_owned).collect()
}

/// Whether a word can be a server or a domain; `.` alone is how an empty search list is written.
fn is_entry(word: &str) -> bool {
    word != "." && (1..=ENTRY_BYTES_MAX).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn resolv_conf_is_read_as_the_resolver_reads_it() {
        for (text, servers, search) in [
            (
                "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.example b.example\n",
                &["192.0.2.1", "2001:db8::1"][..],
                &["a.example", "b.example"][..],
            ),
            ("# nameserver 1.1.1.1\n; nameserver 1.1.1.1\n\tnameserver\t192.0.2.1 # why\r\noptions edns0\n", &["192.0.2.1"], &[]),
            ("search a\ndomain b c\n", &[], &["b"]),
            ("domain b\nsearch a c\n", &[], &["a", "c"]),
            ("nameserver 127.0.0.53\nsearch .\n", &["127.0.0.53"], &[]),
            ("nameserver fe80::1%eth0", &["fe80::1%eth0"], &[]),
            ("nameserver\nsearch\nnameservers 1.1.1.1\n\u{fffd}\u{1b}[31m\n", &[], &[]),
            ("", &[], &[]),
        ] {
            assert_eq!(resolv_conf(text), Settings { servers: own(servers), search: own(search) }, "{text:?}");
        }
        assert_eq!(resolv_conf(&"nameserver 192.0.2.1\n".repeat(1000)).servers.len(), ENTRIES_MAX);
    }

    #[test]
    fn resolv_conf_keeps_every_other_line() {
        let servers = own(&["192.0.2.9", "2001:db8::9"]);
        for (text, search, expected) in [
            ("", None, "nameserver 192.0.2.9\nnameserver 2001:db8::9\n"),
            (
                "# a\nnameserver 1.1.1.1\noptions ndots:2\nnameserver 8.8.8.8\nsearch x\n",
                None,
                "# a\nnameserver 192.0.2.9\nnameserver 2001:db8::9\noptions ndots:2\nsearch x\n",
            ),
            (
                "domain x\nnameserver 1.1.1.1\n# z",
                Some(&["y.example", "z.example"][..]),
                "search y.example z.example\nnameserver 192.0.2.9\nnameserver 2001:db8::9\n# z\n",
            ),
            ("search x\noptions rotate\n", Some(&[]), "nameserver 192.0.2.9\nnameserver 2001:db8::9\noptions rotate\n"),
        ] {
            let search = search.map(own);
            let written = resolv_conf_with(text, &servers, search.as_deref());
            assert_eq!(written, expected);
            assert_eq!(resolv_conf_with(&written, &servers, search.as_deref()), written, "once more changes nothing");
        }
    }

    #[test]
    fn resolvectl_is_read_with_its_broken_lines() {
        for (text, expected) in [
            ("Link 2 (eth0): 192.0.2.1 fe80::1%2\n", &["192.0.2.1", "fe80::1%2"][..]),
            ("Global: 1.1.1.1#one.one\nLink 2 (eth0): 192.0.2.1\nLink 3 (docker0):\n", &["1.1.1.1#one.one", "192.0.2.1"]),
            ("Link 2 (eth0): 192.0.2.1\n        192.0.2.2\n        192.0.2.1\n", &["192.0.2.1", "192.0.2.2"]),
            ("Link 2 (eth0): lan ~.\n", &["lan", "~."]),
            ("Failed to resolve interface\n\u{1b}[0m\n", &[]),
            ("", &[]),
        ] {
            assert_eq!(resolvectl(text), own(expected), "{text:?}");
        }
        assert_eq!(resolvectl(&format!("Global: {}", "x ".repeat(1_000_000))).len(), 1);
    }

    #[test]
    fn servers_are_compared_by_their_address() {
        for (server, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:5353", Some("192.0.2.1")),
            ("192.0.2.1#dns.example", Some("192.0.2.1")),
            ("[2001:db8::1]:53%eth0#dns.example", Some("2001:db8::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("dns.example", None),
            ("", None),
        ] {
            assert_eq!(address(server), expected.map(|text| text.parse().unwrap()), "{server}");
        }
    }

    const NETPLAN: &str = "network:\n  version: 2\n  renderer: networkd\n  ethernets:\n    eth0:\n      dhcp4: true\n      nameservers:\n        \
                           search: [lan, example.com]\n        addresses: [192.0.2.1, '2001:db8::1']\n    \
                           uplink:\n      match: {macaddress: 'AA:BB:CC:00:11:22'}\n      set-name: wan0\n    \
                           rest:\n      match: {name: 'en*'}\n  wifis: {}\n";

    #[test]
    fn netplan_definitions_find_their_interfaces() {
        let definitions = netplan(NETPLAN).unwrap();
        let found = |interface, mac| definitions.iter().find(|definition| definition.is_for(interface, mac)).map(|found| found.id.as_str());
        assert_eq!(found("eth0", ""), Some("eth0"));
        assert_eq!(found("wan0", ""), Some("uplink"));
        assert_eq!(found("x", "aa:bb:cc:00:11:22"), Some("uplink"));
        assert_eq!(found("enp1s0", ""), Some("rest"));
        assert_eq!((found("rest", ""), found("uplink", "")), (None, None));
        assert_eq!(definitions[0].settings, Settings { servers: own(&["192.0.2.1", "2001:db8::1"]), search: own(&["lan", "example.com"]) });
    }

    #[test]
    fn netplan_files_of_ours_are_read_back() {
        let mut definitions = netplan(NETPLAN).unwrap();
        definitions.truncate(1);
        definitions[0].id = "odd: \"id\"".to_owned();
        assert_eq!(netplan(&netplan_file(&definitions)).unwrap(), definitions);
    }

    #[test]
    fn what_is_not_netplan_is_refused_or_empty_and_never_a_panic() {
        assert!(netplan("network: [").is_err());
        for text in [
            "",
            "# nothing\n",
            "[]",
            "7",
            "network:",
            "network: 7",
            "network: {ethernets: 7}",
            "network: {ethernets: {eth0: 7}}",
            "network: {ethernets: {eth0: {nameservers: {addresses: 7}, match: 8}}}",
        ] {
            let definitions = netplan(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(definitions.iter().all(|definition| definition.settings == Settings::default()), "{text}");
        }
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                    d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
                    g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n";
        assert!(netplan(bomb).is_err());
    }

    #[test]
    fn drop_ins_say_what_they_set() {
        let text = drop_in(&own(&["192.0.2.1", "192.0.2.2"]), Some(&own(&["a", "b"])));
        assert!(text.ends_with("[Resolve]\nDNS=\nDNS=192.0.2.1 192.0.2.2\nDomains=\nDomains=a b\n"), "{text}");
        assert_eq!(drop_in_search(&text), Some(own(&["a", "b"])));
        assert_eq!(drop_in_search(&drop_in(&own(&["192.0.2.1"]), None)), None);
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                     eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                     eth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_interface(table), Some("eth0".to_owned()));
        assert_eq!(default_interface("garbage\n\u{fffd}"), None);
    }
}
