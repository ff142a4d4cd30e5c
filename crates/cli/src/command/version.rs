//! `longshore version`.

use serde_json::json;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

pub(crate) fn perform(app: &App) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    app.out.item(&json!({ "version": version }), |_| format!("longshore {version}"), || version.to_owned())?;
    Ok(Exit::Done)
}
