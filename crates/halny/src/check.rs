//! `halny check`: what is wrong with a project file, and what would be right.

use std::path::PathBuf;

use clap::Args;

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
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (models, routes) = (checked.project.models.len(), checked.project.routes.len());
    let routes = if routes == 0 { String::new() } else { format!(", {}", count(routes, "route")) };
    println!("{} is right: {}{routes}", file.path.display(), count(models, "model"));
    Ok(())
}
