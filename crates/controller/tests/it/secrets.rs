//! Secrets among arguments: sealed before anything is stored, masked wherever they are shown, the same through repeats.

use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Definition, Outcome};
use longshore_model::wire::rest::JobView;
use longshore_model::wire::secret::{Secret, Secrets};
use longshore_seal::{JobSigner, OpeningKeys, TrustedKeys, generate_opening_key, generate_signing_key};
use longshore_store::memory;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Agent, House, problem};

const SECRET: &str = "hunter2-hunter2";

struct Safe {
    house: House,
    agent: Agent,
    keys: OpeningKeys,
    trusted: TrustedKeys,
}

impl Safe {
    async fn start() -> Self {
        let keys = OpeningKeys::parse(&generate_opening_key()).unwrap();
        let signer = JobSigner::parse(&generate_signing_key()).unwrap();
        let trusted = TrustedKeys::parse(&signer.trusted_key()).unwrap();
        let house = House::on(memory::open(memory::MemoryOptions::default()), |config| {
            config.sealing_key = Some(keys.sealing_key());
            config.job_signer = Some(signer);
        })
        .await;
        let agent = house.agent(1, "web-01").await;
        Self { house, agent, keys, trusted }
    }

    async fn stored(&self, job: &JobView) -> Definition {
        self.house.store.ledger.load(job.id).await.unwrap().unwrap().definition
    }

    /// What the agent would be run with, had it been given this definition.
    fn opens(&self, definition: &Definition) -> bool {
        let opened = self.keys.open(definition).unwrap();
        self.trusted.check(definition, self.agent.id, &[]).unwrap();
        opened == Secrets::from([("TOKEN".to_owned(), Secret::Plain(SECRET.to_owned()))])
    }
}

fn body() -> Value {
    json!({"operation": "command.shell", "args": {"command": "deploy", "env": {"A": "b"}, "secrets": {"TOKEN": SECRET}}})
}

#[tokio::test]
async fn secrets_are_stored_sealed_and_shown_masked() {
    let safe = Safe::start().await;
    let house = &safe.house;
    let response = house.post("/api/v1/jobs", &body()).await;
    assert_eq!(response.status(), 201);
    let text = response.text().await.unwrap();
    let job: JobView = serde_json::from_str(&text).unwrap();
    assert_eq!(job.args["secrets"], json!({"TOKEN": "***"}));
    let definition = safe.stored(&job).await;
    assert!(safe.opens(&definition));
    let mut shown = vec![text, serde_json::to_string(&definition).unwrap()];

    let task = safe.agent.take().await;
    assert!(safe.opens(&task.delivery.definition), "what an agent is offered is signed, and opens");
    task.complete().await;
    let door = house.post("/api/v1/nodes/_any/command/exec?wait=1ms", &json!({"command": ["x"], "secrets": {"TOKEN": SECRET}})).await;
    assert_eq!(door.status(), 202);
    shown.push(door.text().await.unwrap());
    let earlier = json!({"operation": {"type": "command.shell.execute", "data": {"command": "x", "secrets": {"TOKEN": SECRET}}}, "target_hostname": "_any"});
    let made: Value = house.post("/job", &earlier).await.json().await.unwrap();
    let earlier = house.get(&format!("/job/{}", made["job_id"].as_str().unwrap())).await;
    assert_eq!(earlier["operation"]["data"]["secrets"], json!({"TOKEN": "***"}));
    let id = job.id;
    for path in
        [format!("/api/v1/jobs/{id}"), "/api/v1/jobs".to_owned(), format!("/job/{id}"), "/job".to_owned(), "/api/v1/audit".to_owned()]
    {
        shown.push(house.get(&path).await.to_string());
    }
    for path in [format!("/api/v1/jobs/{id}/events"), format!("/api/v1/jobs/{id}/logs")] {
        shown.push(house.request(Method::GET, &path).send().await.unwrap().text().await.unwrap());
    }
    shown.push(earlier.to_string());
    for text in shown {
        assert!(!text.contains("hunter2") && !text.is_empty(), "{text}");
    }
}

#[tokio::test]
async fn repeats_have_the_same_secrets_though_nobody_here_can_open_them() {
    let safe = Safe::start().await;
    let first: JobView = safe.house.post("/api/v1/jobs", &body()).await.json().await.unwrap();
    safe.agent.take().await.complete().await;
    let mut last = first.id;
    for _ in 0..2 {
        let again: JobView =
            safe.house.request(Method::POST, &format!("/api/v1/jobs/{last}/retry")).send().await.unwrap().json().await.unwrap();
        assert_eq!((again.retry_of, &again.args["secrets"]), (Some(last), &json!({"TOKEN": "***"})));
        let task = safe.agent.take().await;
        assert_eq!(task.job, again.id);
        assert!(safe.opens(&task.delivery.definition));
        assert_eq!(task.delivery.definition.sealed_for, Some(first.id));
        task.start().await;
        task.answer(Outcome::Failed, json!(null)).await;
        last = again.id;
    }
}

#[tokio::test]
async fn the_same_body_with_the_same_key_is_the_same_job_and_its_fingerprint_cannot_be_guessed() {
    let safe = Safe::start().await;
    let mut body = body();
    body["idempotency_key"] = "once".into();
    let first: JobView = safe.house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    let again = safe.house.post("/api/v1/jobs", &body).await;
    assert_eq!((again.status().as_u16(), again.headers()["idempotent-replayed"].as_bytes()), (200, &b"true"[..]));
    assert_eq!(again.json::<JobView>().await.unwrap().id, first.id);
    body["args"]["secrets"]["TOKEN"] = "hunter3-hunter3".into();
    assert_eq!(problem(safe.house.post("/api/v1/jobs", &body).await).await.code, ErrorCode::IdempotencyConflict, "another secret");
    assert_eq!(
        safe.house.store.ledger.load(first.id).await.unwrap().unwrap().definition.args["secrets"],
        safe.stored(&first).await.args["secrets"]
    );
}

#[tokio::test]
async fn shares_for_many_are_each_signed_and_open() {
    let safe = Safe::start().await;
    let second = safe.house.agent(2, "web-02").await;
    let mut body = body();
    body["target"] = "_all".into();
    let job: JobView = safe.house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    assert_eq!(job.executions.len(), 2);
    assert!(safe.opens(&safe.agent.inbox().await[0].delivery.definition));
    let theirs = second.inbox().await.remove(0).delivery.definition;
    safe.trusted.check(&theirs, second.id, &[]).unwrap();
    assert!(safe.trusted.check(&theirs, safe.agent.id, &[]).is_err(), "nobody else's");
}

#[tokio::test]
async fn without_a_sealing_key_jobs_with_secrets_are_refused_and_nothing_is_stored() {
    let (house, _agent) = House::with_agent().await;
    let refused = problem(house.post("/api/v1/jobs", &body()).await).await;
    assert_eq!((refused.status, refused.code, refused.errors[0].pointer.as_str()), (422, ErrorCode::NoSealingKey, "/args/secrets"));
    assert!(refused.hint.unwrap().contains("longshore key generate"));
    assert_eq!(house.get("/api/v1/jobs").await["items"], json!([]));
    // One without secrets is none the worse.
    house.submit(json!({})).await;
}

#[tokio::test]
async fn hostile_secrets_are_refused_without_being_repeated() {
    let safe = Safe::start().await;
    let many: serde_json::Map<String, Value> = (0..33).map(|n| (format!("N{n}"), SECRET.into())).collect();
    for secrets in [
        json!(SECRET),
        json!([SECRET]),
        json!({"": SECRET}),
        json!({"A=B": SECRET}),
        json!({"A": [SECRET]}),
        json!({"A": {"plain": SECRET}}),
        json!({"A": {"sealed": SECRET}}),
        json!({"A": format!("{SECRET}\0")}),
        json!({"A": SECRET.repeat(5000)}),
        json!({"A": ""}),
        Value::Object(many),
    ] {
        let mut body = body();
        body["args"]["secrets"] = secrets.clone();
        let refused = problem(safe.house.post("/api/v1/jobs", &body).await).await;
        let told = format!("{refused:?}");
        assert_eq!(refused.status, 422, "{told}");
        assert!(refused.errors[0].pointer.starts_with("/args/secrets") && !told.contains("hunter2"), "{told}");
    }
    assert_eq!(safe.house.get("/api/v1/jobs").await["items"], json!([]));
    let audit = safe.house.get("/api/v1/audit").await.to_string();
    assert!(!audit.contains("hunter2"), "{audit}");
}
