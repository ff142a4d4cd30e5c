//! `longshore agent …`: what agents know of their hosts and arguments that name it, and agents that are lost, stopped, copied and removed.

use std::time::{Duration, Instant};

use longshore_client::AgentCondition;
use longshore_testkit::{Process, Signal, eventually};
use serde_json::json;

use crate::fleet::{Fleet, PATIENCE, longshore};
use crate::run::{User, text};

/// Settings of an agent that beats every second.
const QUICK: &str = "nats: {registry: {ttl: 3s}}\n";
/// Three heartbeats and a second.
const LOST_WITHIN: Duration = Duration::from_secs(4);

/// A fleet of agents that beat every second.
async fn quick_fleet(n_agents: usize) -> Fleet {
    let mut fleet = Fleet::start(0).await;
    let settings = fleet.dir.path().join("quick.yaml");
    std::fs::write(&settings, QUICK).unwrap();
    for _ in 0..n_agents {
        fleet.add_agent(&["--config", settings.to_str().unwrap()]).await;
    }
    fleet
}

#[tokio::test]
async fn arguments_that_name_facts_are_each_hosts_own_and_stay_one_word() {
    let mut fleet = Fleet::start(0).await;
    fleet.add_agent(&["--label", "group:web.dev"]).await;
    fleet.add_agent(&["--label", "group:db"]).await;
    // An agent that goes by a name that was made to break out of a script.
    let hostile = "a'b $(touch owned); x";
    let (data, url) = (fleet.dir.path().join("hostile").display().to_string(), fleet.nats.url());
    let words = ["agent", "start", "-o", "json", "--nats-url", &url, "--data", &data, "--agent-hostname", hostile, "--label", "group:odd"];
    let agent = Process::spawn(longshore(fleet.dir.path(), &words));
    agent.wait_for_line(|line| line.starts_with('{'), PATIENCE).await;

    let user = User::of(&fleet);
    let shown = async |words: &[&str]| {
        let said = user.types(words).await;
        (said.status.code(), text(&said.stdout) + &text(&said.stderr))
    };
    let echo =
        ["node", "exec", "--yes", "--target", "_all", "--", "printf", "<%s>", "@fact.hostname", r"\@fact.hostname", "@fact.label.group"];
    let all = eventually("three answers", PATIENCE, async || {
        let (code, said) = shown(&echo).await;
        (code == Some(0) && said.matches("<@fact.hostname>").count() == 3).then_some(said)
    })
    .await;
    for expected in ["<host-0><@fact.hostname><web.dev>", "<host-1><@fact.hostname><db>", &format!("<{hostile}><@fact.hostname><odd>")] {
        assert!(all.contains(expected), "{expected} in {all}");
    }
    let (code, said) = shown(&["node", "shell", "echo \"on @fact.hostname\"", "--yes", "--target", "group:web"]).await;
    assert!(code == Some(0) && said.contains("on host-0"), "{said}");
    let (code, said) = shown(&["node", "shell", "echo '@fact.hostname'", "--yes", "--target", "group:odd"]).await;
    assert!(code == Some(6) && said.contains("a shell takes for its own"), "{said}");
    let (code, said) = shown(&["node", "exec", "--target", "host-0", "--", "echo", "@fact.hostnmae"]).await;
    assert!(code == Some(6) && said.contains("did you mean hostname"), "{said}");
    let (code, said) = shown(&["node", "dns", "get", "--interface", "@fact.label.group", "--target", "host-1"]).await;
    assert!(said.contains("the host has no network interface \"db\""), "{code:?} {said}");

    let facts = user.data(&["agent", "facts", "host-0"]).await;
    assert_eq!((&facts["facts"]["hostname"], &facts["facts"]["label"]["group"]), (&json!("host-0"), &json!("web.dev")));
    let (code, table) = shown(&["agent", "facts", "host-1"]).await;
    assert!(code == Some(0) && table.contains("@fact.label.group") && table.contains("@fact.kernel"), "{table}");
    let (code, table) = shown(&["agent", "list"]).await;
    assert!(code == Some(0) && table.contains("CONDITIONS") && table.contains("group:web.dev"), "{table}");
    let (code, one) = shown(&["agent", "show", "host-1"]).await;
    assert!(code == Some(0) && one.starts_with("host-1 a-") && one.contains("last seen"), "{one}");
    assert_eq!(shown(&["agent", "show", "nowhere"]).await.0, Some(3));
}

#[tokio::test]
async fn a_killed_agent_is_lost_within_three_heartbeats_and_a_second_and_one_that_was_stopped_is_no_alarm() {
    let mut fleet = quick_fleet(2).await;
    let state = async |fleet: &Fleet, host: usize| {
        let agents = fleet.client.agents().await.unwrap().items;
        agents.iter().find(|agent| agent.hostname == format!("host-{host}")).map(|agent| agent.state)
    };
    let killed_at = Instant::now();
    fleet.agents[0].process().kill9();
    let is_lost = async || (state(&fleet, 0).await == Some(AgentCondition::Offline)).then_some(killed_at.elapsed());
    let after = eventually("it to be lost", PATIENCE, is_lost).await;
    println!("lost after {after:?}");
    assert!(after < LOST_WITHIN, "after {after:?}");
    let alarms = fleet.client.status().await.unwrap().alarms;
    assert_eq!(alarms.iter().map(|alarm| alarm.hostname.as_str()).collect::<Vec<_>>(), ["host-0"]);
    let user = User::of(&fleet);
    let status = text(&user.types(&["status"]).await.stdout);
    assert!(status.contains("alarm") && status.contains("longshore agent remove host-0"), "{status}");

    fleet.agents[1].process().signal(Signal::TERM);
    fleet.agents[1].process().wait(PATIENCE).await;
    // Longer than a heartbeat lasts: whatever would be said of it has been said.
    let stopped_at = Instant::now();
    eventually("the stop to be long ago", PATIENCE, async || {
        assert_ne!(state(&fleet, 1).await, Some(AgentCondition::Offline), "a clean stop is no crash");
        (stopped_at.elapsed() > LOST_WITHIN).then_some(())
    })
    .await;
    assert_eq!(state(&fleet, 1).await, Some(AgentCondition::Stopped));
    let alarms = fleet.client.status().await.unwrap().alarms;
    assert_eq!(alarms.iter().map(|alarm| alarm.hostname.as_str()).collect::<Vec<_>>(), ["host-0"]);
    let log = fleet.controller.process().output();
    let warned: Vec<_> = log.lines().filter(|line| line.contains("an agent is lost")).collect();
    assert!(warned.len() == 1 && warned[0].contains("host-0") && warned[0].contains("WARN"), "{warned:?}");

    fleet.agents[0].kill_and_restart().await;
    eventually("it to be back", PATIENCE, async || (state(&fleet, 0).await == Some(AgentCondition::Ready)).then_some(())).await;
    assert_eq!(fleet.client.status().await.unwrap().alarms, []);
    let user = User::of(&fleet);
    let online = user.types(&["agent", "remove", "host-0"]).await;
    assert_eq!(online.status.code(), Some(1), "{}", text(&online.stderr));
    let removed = user.types(&["agent", "remove", "host-1"]).await;
    assert_eq!(removed.status.code(), Some(0), "{}", text(&removed.stderr));
    assert_eq!(state(&fleet, 1).await, None);
    assert_eq!(user.types(&["agent", "facts", "host-1"]).await.status.code(), Some(3));
}

#[tokio::test]
async fn a_copied_agent_is_refused_and_the_first_goes_on() {
    let fleet = quick_fleet(1).await;
    let copy = fleet.dir.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(fleet.dir.path().join("agent-0/agent.id"), copy.join("agent.id")).unwrap();
    let user = User::of(&fleet);
    let (url, data) = (fleet.nats.url(), copy.display().to_string());
    let refused = user.types(&["agent", "start", "--nats-url", &url, "--data", &data, "--agent-hostname", "copy"]).await;
    let stderr = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("another agent, on host-0, runs as a-") && stderr.contains("agent.id"), "{stderr}");
    let agents = fleet.client.agents().await.unwrap().items;
    assert_eq!(agents.iter().map(|agent| agent.hostname.as_str()).collect::<Vec<_>>(), ["host-0"]);
    let echo = user.types(&["run", "--target", "host-0", "--", "echo", "still here"]).await;
    assert_eq!(text(&echo.stdout), "still here\n");
    // With an identity of its own, and the same name, it is another agent, and nobody chooses between the two.
    std::fs::remove_file(copy.join("agent.id")).unwrap();
    let words = ["agent", "start", "-o", "json", "--nats-url", &url, "--data", &data, "--agent-hostname", "host-0"];
    let twin = Process::spawn(longshore(fleet.dir.path(), &words));
    twin.wait_for_line(|line| line.starts_with('{'), PATIENCE).await;
    let ids: Vec<_> = eventually("two of one name", PATIENCE, async || {
        let agents = fleet.client.agents().await.unwrap().items;
        (agents.len() == 2).then(|| agents.iter().map(|agent| agent.id.to_string()).collect())
    })
    .await;
    let ambiguous = user.types(&["run", "--target", "host-0", "--", "true"]).await;
    let stderr = text(&ambiguous.stderr);
    assert_ne!(ambiguous.status.code(), Some(0), "{stderr}");
    assert!(ids.iter().all(|id| stderr.contains(id)), "{ids:?} in {stderr}");
    let chosen = user.types(&["run", "--target", &ids[0], "--", "true"]).await;
    assert_eq!(chosen.status.code(), Some(0), "{}", text(&chosen.stderr));
}
