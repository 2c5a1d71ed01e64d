//! `halny check`: what is wrong with a project file, and what would be right.

use std::path::PathBuf;

use clap::Args;
use halny_types::project::Project;

use crate::project::ProjectFile;

/// Checks a project file whole.
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The project: a folder with a halny.toml, or the file itself
    #[arg(default_value = ".")]
    project: PathBuf,

    /// Print the JSON Schema of project files instead
    #[arg(long)]
    schema: bool,
}

#[expect(clippy::print_stdout, reason = "the answer of a command-line program")]
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    if args.schema {
        println!("{}", serde_json::to_string_pretty(&halny_types::project::schema())?);
        return Ok(());
    }
    let file = ProjectFile::read(&args.project)?;
    let checked = file.check()?;
    for warning in &checked.warnings {
        println!("warning: {}", warning.render("halny.toml"));
    }
    let Project { models, routes, feature_views, feature_services, schedules, commands, webhooks, .. } =
        &checked.project;
    let others = [
        (routes.len(), "route"),
        (feature_views.len(), "feature view"),
        (feature_services.len(), "feature service"),
        (schedules.len(), "schedule"),
        (commands.len(), "command"),
        (webhooks.len(), "webhook"),
    ];
    let declared = others.into_iter().filter(|(count, _)| *count > 0);
    let declared = std::iter::once((models.len(), "model")).chain(declared);
    let counted = declared.map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }));
    println!("{} is right: {}", file.path.display(), counted.collect::<Vec<_>>().join(", "));
    Ok(())
}
