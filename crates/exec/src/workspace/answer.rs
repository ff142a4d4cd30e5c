//! What of a manifest goes into an answer, which has to fit a record.

use longshore_model::limits::ANSWER_FILES_MAX;
use longshore_model::wire::result::WorkspaceResult;
use serde::Serialize;

/// Bytes of names in an answer, so that with everything else it fits a record.
const ANSWER_NAME_BYTES_MAX: usize = 512 * 1024;
/// Bytes of the steps' scripts and names in an answer.
const ANSWER_SCRIPT_BYTES_MAX: usize = 128 * 1024;

/// Cuts the lists and texts down to what fits an answer; the manifest in the archive has all of them.
pub(crate) fn for_answer(mut result: WorkspaceResult) -> WorkspaceResult {
    let files = &mut result.files;
    let mut room = (ANSWER_FILES_MAX, ANSWER_NAME_BYTES_MAX);
    files.unlisted += cut(&mut files.created, &mut room);
    files.unlisted += cut(&mut files.modified, &mut room);
    files.unlisted += cut(&mut files.deleted, &mut room);
    files.unlisted += cut(&mut files.skipped, &mut room);
    let share = ANSWER_SCRIPT_BYTES_MAX / result.steps.len().max(1) / 2;
    for step in &mut result.steps {
        if let Some(name) = &mut step.name {
            shorten(name, share);
        }
        shorten(&mut step.command, share);
    }
    result
}

/// Keeps as many items as there is room for, in number and in bytes of JSON. Gives how many it left out.
fn cut<T: Serialize>(items: &mut Vec<T>, (names, bytes): &mut (usize, usize)) -> usize {
    let fits = items.iter().take_while(|item| {
        let (Some(name), Some(left)) = (names.checked_sub(1), bytes.checked_sub(json_bytes(item) + 1)) else { return false };
        (*names, *bytes) = (name, left);
        true
    });
    let fits = fits.count();
    let left_out = items.len() - fits;
    items.truncate(fits);
    left_out
}

fn shorten(text: &mut String, bytes: usize) {
    if json_bytes(text) > bytes {
        // One byte is at most six in JSON.
        text.truncate(text.floor_char_boundary(bytes / 6));
        text.push('…');
    }
}

fn json_bytes<T: Serialize + ?Sized>(value: &T) -> usize {
    serde_json::to_string(value).map_or(usize::MAX / 2, |json| json.len())
}
