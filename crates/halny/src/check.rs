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
    let models = checked.project.models.len();
    println!("{} is right: {models} model{}", file.path.display(), if models == 1 { "" } else { "s" });
    Ok(())
}
