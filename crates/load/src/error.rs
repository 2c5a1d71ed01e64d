//! What can keep a run from starting, or from being a measurement.

use std::io;
use std::path::PathBuf;

/// Why no run took place. Errors of single requests are not here: they are counted in the report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// An option outside what is allowed.
    #[error("{option} was given as {value}; it has to be {allowed}")]
    Refused {
        /// The option's name, in words.
        option: &'static str,
        /// What was given.
        value: String,
        /// What would be accepted.
        allowed: String,
    },
    /// An address such as `127.0.0.1:8080`.
    #[error("the address {url:?} has no scheme; write http://{url}")]
    NoScheme {
        /// The address as given.
        url: String,
    },
    /// An `https` address.
    #[error(
        "the address {url:?} is https, which the load generator does not support: encryption would count towards the server's figures; give the server's plain http address"
    )]
    HttpsUnsupported {
        /// The address as given.
        url: String,
    },
    /// An address that is not one.
    #[error("the address {url:?} cannot be used: {reason}; write it as http://host:port or http://host:port/prefix")]
    BadUrl {
        /// The address as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host's name has no address.
    #[error("the host {host:?} has no address: {source}")]
    Resolve {
        /// The host as given.
        host: String,
        /// The resolver's answer.
        source: io::Error,
    },
    /// Nothing listens there.
    #[error("cannot connect to {url}: {source}; check that the server is started and listens there")]
    Connect {
        /// The address tried.
        url: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The texts, or the quantiles, cannot be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The text file holds nothing but blank lines.
    #[error("{path:?} holds no text: write one text a line")]
    NoTexts {
        /// The file.
        path: PathBuf,
    },
    /// A line is not UTF-8.
    #[error("line {line} of {path:?} is not UTF-8; convert the file first")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// The template does not make a request.
    #[error("the request template cannot be used: {reason}")]
    Template {
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The operating system allows too few open files.
    #[error(
        "the run needs {wanted} open files and the hard limit is {hard}; ask for fewer connections or raise the hard limit (ulimit -Hn)"
    )]
    FileLimit {
        /// Open files the run needs.
        wanted: u64,
        /// The hard limit of this process.
        hard: u64,
    },
    /// The server's process cannot be read.
    #[error(
        "cannot read the processor time of process {pid}: {source}; check the process id, and that it belongs to you"
    )]
    ServerProcess {
        /// The process asked for.
        pid: u32,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A thread, a runtime or a timer could not be made.
    #[error("the operating system refused the load generator a thread or a timer: {0}")]
    System(#[from] io::Error),
    /// A thread of the generator ended without its result.
    #[error("a thread of the load generator ended without a result; please report it")]
    WorkerLost,
}

impl LoadError {
    pub(crate) fn refused(option: &'static str, value: impl ToString, allowed: impl Into<String>) -> Self {
        Self::Refused { option, value: value.to_string(), allowed: allowed.into() }
    }
}
