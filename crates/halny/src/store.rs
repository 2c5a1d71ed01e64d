//! `halny store migrate`: moves the metadata of a project to another database.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use halny_store::transfer::{Moved, transfer};
use halny_store::{Database, Place};

use crate::background::place_of;
use crate::engines::variable;
use crate::project::ProjectFile;

/// Works on what outlives a server.
#[derive(Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Move everything from the project's database into another, empty one, and check that all of it is there
    Migrate(MigrateArgs),
}

#[derive(Args)]
struct MigrateArgs {
    /// The new database: postgres://user@host:5432/database, or a folder for SQLite. A password is named by
    /// --password-env
    #[arg(long)]
    to: String,

    /// The environment variable that holds the password of the new database's user
    #[arg(long)]
    password_env: Option<String>,

    /// The project whose database is moved: a folder with a halny.toml, or the file itself
    #[arg(long, short, default_value = ".")]
    project: PathBuf,
}

pub(crate) fn run(args: StoreArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match args.verb {
        Verb::Migrate(args) => runtime.block_on(migrate(args)),
    }
}

#[expect(clippy::print_stdout, reason = "the answer of a command-line program")]
async fn migrate(args: MigrateArgs) -> anyhow::Result<()> {
    let file = ProjectFile::read(&args.project)?;
    let project = file.check()?.project;
    let from = place_of(&project.store, &file.folder)?;
    let is_url = args.to.contains("://");
    let into = if is_url {
        let password = args.password_env.as_deref().map(|name| variable("--password-env", name)).transpose()?;
        Place::Postgres { url: args.to.clone(), password }
    } else {
        Place::Folder(PathBuf::from(&args.to))
    };
    if from == into {
        bail!("the project's database is there already");
    }
    let from = Database::open(&from).await.context("the project's database cannot be opened")?;
    let into = Database::open(&into).await.context("the new database cannot be opened")?;
    let place = if is_url { "PostgreSQL".to_owned() } else { args.to.clone() };
    println!("{:12}  {:>9}  SHA-256 of its rows, summed", "table", "rows");
    let told = |moved: &Moved| println!("{:12}  {:>9}  {}", moved.table, moved.rows, moved.digest);
    transfer(&from, &into, &place, told).await?;
    from.close().await;
    into.close().await;
    println!("everything is there; write into halny.toml, before the server is started again:\n");
    if is_url {
        println!("[store]\nengine = \"postgres\"\nurl = \"{}\"", without_password(&args.to));
        if let Some(name) = &args.password_env {
            println!("password_env = \"{name}\"");
        }
    } else {
        println!("[store]\nfolder = \"{}\"", args.to);
    }
    println!("\nblobs stay where they are; if they were in the old database's folder, say so with `blobs`");
    Ok(())
}

fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    match rest.split_at_checked(end).and_then(|(place, tail)| Some((place.rsplit_once('@')?, tail))) {
        Some(((user, host), tail)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{host}{tail}")
        }
        None => url.to_owned(),
    }
}
