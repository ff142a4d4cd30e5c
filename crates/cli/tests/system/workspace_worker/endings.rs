//! What a job of a worker without a fleet leaves when it has ended: nothing.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::Place;

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn steps_of_a_worker_have_a_place_for_temporary_files_that_goes_with_the_job() {
    let place = Place::new().await;
    // As long as a name may be.
    let id = "n".repeat(255);
    place.prepare("").await;
    place.job(&id, &["f=$(mktemp) && echo kept > $f && test \"$(dirname $f)\" = \"$TMPDIR\" && echo $f > path"]);
    place.send(&json!({ "id": id })).await;
    let (code, said) = place.run("").await;
    assert_eq!((code, &place.result(&id)["status"]), (Some(0), &json!("success")), "{said}");
    let path = place.read(&id, "path");
    assert!(Path::new(path.trim()).is_absolute() && !Path::new(path.trim()).exists(), "{path}");
    place.assert_nothing_left();
    assert!(!names(place.home.path()).iter().any(|name| name.starts_with('n')), "nothing where it was started");

    place.send(&json!({ "id": ".longshore-tmp-x", "steps": ["true"] })).await;
    let (code, said) = place.run("").await;
    assert!(code == Some(1) && said.contains("the name belongs to Longshore"), "{said}");
}
