//! Shortened ids: a unique prefix, or a unique tail, of at least four characters.

use longshore_client::{Client, JobFilter, JobId};
use longshore_model::limits::PAGE_MAX;

use crate::exit::Exit;
use crate::failure::Failure;

const SHORTEST: usize = 4;
/// Pages of the newest jobs that are looked through.
const PAGES_MAX: usize = 20;

/// The job that `text` names.
pub(crate) async fn resolve(client: &Client, text: &str) -> Result<JobId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let body = body(text)?;
    let mut found: Vec<JobId> = Vec::new();
    let mut filter = JobFilter { limit: Some(PAGE_MAX), ..JobFilter::default() };
    let mut seen = 0;
    for _ in 0..PAGES_MAX {
        let page = client.jobs(&filter).await?;
        seen += page.items.len();
        found.extend(page.items.iter().map(|job| job.id).filter(|id| names(body, *id)));
        filter.cursor = page.next_cursor;
        // Two are too many, whatever else there is.
        if filter.cursor.is_none() || found.len() > 1 {
            return only_one(text, &found);
        }
    }
    // Another one with this end may be among the older jobs, and cancelling or deleting the wrong one is not mended.
    Err(Failure::new(
        Exit::Usage,
        format!("{text:?} may not be unique: there are more jobs than the {seen} newest, which were looked through"),
    )
    .hint("give the whole id")
    .code("ambiguous_id"))
}

/// Without the type prefix; refused when it could not be part of an id.
fn body(text: &str) -> Result<&str, Failure> {
    let body = text.strip_prefix(JobId::PREFIX).unwrap_or(text);
    if body.len() < SHORTEST || !body.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Err(Failure::new(Exit::Usage, format!("{text:?} is not a job id"))
            .because(format!("an id is `j-` and 26 characters of 0-9 a-z; at least {SHORTEST} from its beginning or its end will do"))
            .hint("longshore job list")
            .code("unknown_id"));
    }
    Ok(body)
}

fn names(body: &str, id: JobId) -> bool {
    let id = id.to_string();
    let whole = id.strip_prefix(JobId::PREFIX).unwrap_or(&id);
    whole.starts_with(body) || whole.ends_with(body)
}

fn only_one(text: &str, found: &[JobId]) -> Result<JobId, Failure> {
    match found {
        [id] => Ok(*id),
        [] => Err(Failure::new(Exit::NotFound, format!("there is no job {text:?}")).hint("longshore job list").code("unknown_id")),
        several => {
            let shown = several.iter().take(5).map(JobId::to_string).collect::<Vec<_>>().join("\n");
            Err(Failure::new(Exit::Usage, format!("{text:?} could be any of {} jobs", several.len())).hint(shown).code("ambiguous_id"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> [JobId; 2] {
        ["j-01ktest0000000000000abcdef", "j-01ktest0000000000000abcxyz"].map(|text| text.parse().unwrap())
    }

    #[track_caller]
    fn check(text: &str, expected: Result<usize, Exit>) {
        let found = body(text).map(|body| ids().into_iter().filter(|id| names(body, *id)).collect::<Vec<_>>());
        let one = found.and_then(|found| only_one(text, &found)).map_err(|failure| failure.exit);
        assert_eq!(one, expected.map(|idx| ids()[idx]), "{text}");
    }

    #[test]
    fn unique_prefixes_and_tails_name_a_job() {
        check("abcdef", Ok(0));
        check("j-abcdef", Ok(0));
        check("cxyz", Ok(1));
        check("01ktest0000000000000abcx", Ok(1));
        check("j-01ktest0000000000000abcx", Ok(1));
        check("01kt", Err(Exit::Usage));
        check("zzzz", Err(Exit::NotFound));
        check("xyz", Err(Exit::Usage));
        check("../x", Err(Exit::Usage));
        check("*", Err(Exit::Usage));
        check("", Err(Exit::Usage));
    }
}
