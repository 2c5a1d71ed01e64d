//! Finding and reading a project file.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use halny_features::Definitions;
use halny_jobs::schedule::Times;
use halny_types::project::{Checked, Problem, Project, check, problem_at};

/// The name of a project file.
pub(crate) const FILE_NAME: &str = "halny.toml";

/// A project file and where it lies.
pub(crate) struct ProjectFile {
    /// The file.
    pub(crate) path: PathBuf,
    /// Its folder: relative sources start here.
    pub(crate) folder: PathBuf,
    /// What it said when it was read.
    pub(crate) text: String,
}

impl ProjectFile {
    /// Reads the project at `path`: a file, or a folder that holds a `halny.toml`.
    pub(crate) fn read(path: &Path) -> anyhow::Result<ProjectFile> {
        let path = if path.is_dir() { path.join(FILE_NAME) } else { path.to_path_buf() };
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the project file {}; name it with --project", path.display()))?;
        let path = std::fs::canonicalize(&path)?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(ProjectFile { path, folder, text })
    }

    /// Checks what was read. The error names every problem, a line each.
    pub(crate) fn check(&self) -> anyhow::Result<Checked> {
        let name = self.path.file_name().map_or_else(|| FILE_NAME.into(), |name| name.to_string_lossy());
        match check(&self.text) {
            Ok(checked) => {
                for warning in &checked.warnings {
                    tracing::warn!("{}", warning.render(&name));
                }
                // Expressions of features are compiled by who evaluates them.
                if let Err(problems) = Definitions::new(&checked.project) {
                    return not_right(&name, problems.into_iter().map(|problem| problem.located(&self.text)));
                }
                // So are times, by who keeps schedules.
                let wrong: Vec<Problem> = wrong_times(&checked.project, &self.text).collect();
                if !wrong.is_empty() {
                    return not_right(&name, wrong.into_iter());
                }
                Ok(checked)
            }
            Err(problems) => not_right(&name, problems.into_iter()),
        }
    }
}

fn wrong_times(project: &Project, text: &str) -> impl Iterator<Item = Problem> {
    project.schedules.iter().enumerate().filter_map(move |(at, schedule)| {
        let wrong = Times::parse(&schedule.cron, &schedule.timezone).err()?;
        // A time zone that is one is not what is wrong.
        let field = if Times::parse("* * * * *", &schedule.timezone).is_err() { "timezone" } else { "cron" };
        let right = match field {
            "cron" => "write five fields of cron, such as \"30 3 * * *\", or six with seconds first",
            _ => "write a name of the IANA database, such as \"Europe/Warsaw\"",
        };
        Some(problem_at(text, &format!("/schedules/{at}/{field}"), wrong, right.to_owned()))
    })
}

fn not_right(name: &str, problems: impl Iterator<Item = Problem>) -> anyhow::Result<Checked> {
    let lines: Vec<String> = problems.map(|problem| problem.render(name)).collect();
    bail!("the project file is not right\n{}", lines.join("\n"))
}

/// The folder for what may be kept between starts: the project's, `$HALNY_CACHE`, `~/.cache/halny`.
pub(crate) fn cache_folder(checked: &Checked) -> anyhow::Result<PathBuf> {
    if let Some(folder) = &checked.project.cache.folder {
        return Ok(folder.clone());
    }
    if let Some(folder) = std::env::var_os("HALNY_CACHE").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME").context("neither HALNY_CACHE nor HOME is set; set HALNY_CACHE to a folder")?;
    Ok(PathBuf::from(home).join(".cache/halny"))
}
