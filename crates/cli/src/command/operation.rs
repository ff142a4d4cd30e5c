//! `longshore operation`: the catalogue.

use clap::Subcommand;
use longshore_client::OperationView;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render::Table;

/// The catalogue of what jobs can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Operation {
    /// List the operations.
    #[command(visible_alias = "ls")]
    List,
    /// One operation with the schemas of its arguments and its result.
    Show {
        /// Such as `command.exec`.
        name: String,
    },
}

impl Operation {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let catalogue = app.client()?.operations().await?;
        match self {
            Self::List => {
                let table = |wide| table(app, &catalogue.items, wide);
                app.out.list(&catalogue, &catalogue.items, table, |operation| operation.name.clone())?;
            }
            Self::Show { name } => {
                let Some(operation) = catalogue.items.iter().find(|operation| operation.name == name) else {
                    let near = catalogue.items.iter().map(|operation| (strsim::jaro_winkler(&name, &operation.name), &operation.name));
                    let failure = Failure::new(Exit::NotFound, format!("there is no operation `{name}`"));
                    return Err(match near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness > 0.7) {
                        Some((_, near)) => failure.hint(format!("did you mean `{near}`?")),
                        None => failure.hint("longshore operation list"),
                    });
                };
                app.out.item(operation, |_| text(operation), || operation.name.clone())?;
            }
        }
        Ok(Exit::Done)
    }
}

fn table(app: &App, operations: &[OperationView], wide: bool) -> String {
    let headings = ["NAME", "KIND", "SUMMARY", "PERMISSION", "TIMEOUT"];
    let n_columns = if wide { 5 } else { 3 };
    let mut table = Table::new(&app.out, &headings[..n_columns]);
    for operation in operations {
        let cells = [&operation.name, &operation.kind, &operation.summary, &operation.permission, &operation.timeout];
        table.row(cells.into_iter().take(n_columns));
    }
    table.text()
}

fn text(operation: &OperationView) -> String {
    let schema = |schema: &serde_json::Value| serde_json::to_string_pretty(schema).unwrap_or_default().replace('\n', "\n  ");
    let retry = if operation.retry_safe { "may be repeated" } else { "is not repeated unless the submission says so" };
    format!(
        "{}: {}\n  {}, needs {}, {} an attempt, {retry}\n\narguments\n  {}\n\nresult\n  {}",
        operation.name,
        operation.summary,
        operation.kind,
        operation.permission,
        operation.timeout,
        schema(&operation.args_schema),
        schema(&operation.result_schema)
    )
}
