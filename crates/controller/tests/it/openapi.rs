//! The committed description: a change of the API shows in review.

use longshore_model::wire::problem::ErrorCode;

#[test]
fn the_committed_description_is_the_served_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let served = longshore_controller::openapi().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &served).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == served, "{path} is not what is served: run the tests with UPDATE=1 and read the difference");
}

#[test]
fn codes_are_described_as_they_are_sent() {
    let document = serde_json::to_value(longshore_controller::openapi()).unwrap();
    let sent: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(document["components"]["schemas"]["ErrorCode"]["enum"], serde_json::json!(sent));
}

#[test]
fn every_operation_has_a_name_and_says_how_it_refuses() {
    let document = serde_json::to_value(longshore_controller::openapi()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["license"]["identifier"], "Apache-2.0");
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    let mut names = std::collections::BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
            if path.starts_with("/api/v1") {
                let refusal = &operation["responses"]["401"]["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(refusal, "#/components/schemas/Problem", "{method} {path}");
            }
        }
    }
    assert_eq!(names.len(), 51);
}
