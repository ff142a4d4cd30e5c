//! `longshore package list`.

use clap::Args;
use longshore_exec::package::{Broken, Installed, Packages};
use serde::Serialize;
use serde_json::{Value, json};

use super::Place;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

/// Whose packages.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    place: Place,
}

/// A row of the inventory.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    version: String,
    status: &'static str,
    nodes: Vec<String>,
    directory: String,
    environment: bool,
    #[serde(flatten)]
    receipt: Value,
    why: Option<String>,
}

impl List {
    pub(super) fn perform(self, app: &App) -> Result<Exit, Failure> {
        let path = self.place.path(app)?;
        let mut rows = Vec::new();
        // A directory that nobody made yet has nothing in it.
        if path.exists() {
            let fault = |error: &(dyn std::error::Error + 'static)| {
                Failure::new(Exit::Failed, format!("{} cannot be read", path.display())).caused_by(error)
            };
            let packages = Packages::read(&path).map_err(|error| fault(&error))?;
            let inventory = packages.inventory().map_err(|error| fault(&error))?;
            rows.extend(inventory.installed.iter().map(of_installed));
            rows.extend(inventory.broken.into_iter().map(of_broken));
        }
        let table = |wide: bool| {
            let mut headings = vec!["NAME", "VERSION", "STATUS", "NODES"];
            headings.extend(wide.then_some(["DIGEST", "DIRECTORY"]).into_iter().flatten());
            headings.push("WHY");
            let mut table = render::Table::new(&app.out, &headings);
            for row in &rows {
                let mut cells = vec![row.name.clone(), row.version.clone(), row.status.to_owned(), row.nodes.join(", ")];
                if wide {
                    cells.extend([row.receipt["sha256"].as_str().unwrap_or("-").to_owned(), row.directory.clone()]);
                }
                cells.push(row.why.clone().unwrap_or_default());
                table.row(cells);
            }
            table.text()
        };
        app.out.list(&json!({ "items": rows }), &rows, table, |row| format!("{}@{}", row.name, row.version))?;
        if rows.is_empty() {
            app.out.say(format!("There is no package in {}.", path.display()));
        }
        Ok(Exit::Done)
    }
}

fn of_installed(installed: &Installed) -> Row {
    let remarks: Vec<_> = installed.manifest.remarks().iter().map(ToString::to_string).collect();
    let receipt = installed.receipt();
    Row {
        name: installed.name.to_string(),
        version: installed.version.to_string(),
        status: "installed",
        nodes: installed.manifest.nodes.iter().map(|node| node.node_type.to_string()).collect(),
        directory: installed.directory.display().to_string(),
        environment: installed.python.is_some(),
        receipt: receipt.map_or_else(
            || json!({}),
            |receipt| {
                json!({ "sha256": receipt.sha256, "format": receipt.format, "source": receipt.source, "signed_by": receipt.signed_by,
                    "installed_at": receipt.installed_at })
            },
        ),
        why: (!remarks.is_empty()).then(|| remarks.join("; ")),
    }
}

fn of_broken(broken: Broken) -> Row {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    Row {
        name: or_dash(broken.name),
        version: or_dash(broken.version),
        status: "failed",
        nodes: Vec::new(),
        why: Some(format!("{}: {}", broken.directory.display(), broken.why)),
        directory: broken.directory.display().to_string(),
        environment: false,
        receipt: json!({}),
    }
}
