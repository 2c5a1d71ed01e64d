//! What a run is asked to do, and the limits on it.

use std::path::PathBuf;
use std::time::Duration;

use crate::{Lengths, LoadError, template::Template};

/// The largest values a run accepts. They are far above what one machine can drive; they are there
/// so that a slip of the keyboard is an error and not a machine out of memory.
pub mod limits {
    use std::time::Duration;

    /// Connections that carry load.
    pub const CONNECTIONS_MAX: usize = 65_536;
    /// Connections held open without load.
    pub const IDLE_CONNECTIONS_MAX: usize = 1_000_000;
    /// Threads of the generator.
    pub const THREADS_MAX: usize = 64;
    /// Requests a second.
    pub const RATE_PER_S_MAX: f64 = 1_000_000.0;
    /// Measured requests of one run.
    pub const COUNT_MAX: u64 = 1_000_000_000;
    /// The measured window, and the warm-up.
    pub const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
    /// One request.
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
    /// Texts in one request.
    pub const TEXTS_PER_REQUEST_MAX: usize = 65_536;
    /// Bytes of a text file.
    pub const TEXT_FILE_BYTES_MAX: u64 = 256 << 20;
    /// Bytes of all prepared request bodies together.
    pub const BODY_BYTES_MAX: usize = 1 << 30;
    /// Bytes of one answer.
    pub const ANSWER_BYTES_MAX: usize = 256 << 20;
    /// Requests of the open loop that wait for a connection, in one thread.
    pub const PENDING_MAX: usize = 1_000_000;
    /// Bytes of a request template.
    pub const TEMPLATE_BYTES_MAX: usize = 1 << 20;
}

/// The protocol spoken, and what it needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Api {
    /// `POST /v1/embeddings` as OpenAI defines it. An address that ends in `/v1` is understood too.
    OpenAi {
        /// The model's name.
        model: String,
        /// Asks for vectors cut to this many dimensions.
        dimensions: Option<u32>,
        /// Asks for `encoding_format: base64`, which is what the `openai` Python client does.
        base64: bool,
    },
    /// `POST /v2/models/{model}/infer` of the Open Inference Protocol, texts as one `BYTES` tensor.
    OpenInference {
        /// The model's name.
        model: String,
        /// The input tensor's name.
        input: String,
        /// The tensor's shape is `[texts, 1]` where true (Triton models with a batch dimension),
        /// `[texts]` where false.
        column: bool,
        /// Sends and asks for tensors in Triton's binary tensor extension.
        binary: bool,
    },
    /// `POST` of any JSON to any path, for servers with a shape of their own.
    Template {
        /// The path, with its query if any.
        path: String,
        /// A JSON document. `{text}` inside a string of it stands for the text; a string that is
        /// exactly `{texts}` stands for the list of the request's texts, and one that is exactly
        /// `{json}` for the text as the JSON value that it is.
        template: String,
    },
}

impl Api {
    /// The name of the protocol as reports print it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::OpenAi { .. } => "openai",
            Self::OpenInference { binary: false, .. } => "oip-json",
            Self::OpenInference { binary: true, .. } => "oip-binary",
            Self::Template { .. } => "template",
        }
    }
}

/// When requests of the open loop are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// At equal distances.
    Fixed,
    /// As a Poisson process: what many clients that know nothing of each other look like.
    Poisson,
}

/// What decides that the next request is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Each connection sends its next request when the last is answered.
    Closed {
        /// Connections, which is also the number of requests in flight.
        connections: usize,
    },
    /// A schedule that the server cannot delay.
    Open {
        /// Requests a second, all threads together.
        rate_per_s: f64,
        /// The distances between them.
        arrivals: Arrivals,
        /// Connections opened at most. A request that finds none free waits for one, and that wait
        /// is part of its latency.
        connections_max: usize,
    },
}

/// Where the texts come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Texts {
    /// A file with one text a line; blank lines are skipped. Cycled when it ends.
    File {
        /// The file.
        path: PathBuf,
        /// Shuffled once, with the run's seed.
        shuffled: bool,
    },
    /// The texts themselves, in this order. Cycled when they end.
    Given(Vec<String>),
    /// Made-up texts of common English words, about one token each; a tokeniser's special tokens
    /// come on top.
    Synthetic {
        /// The lengths, in tokens.
        lengths: Lengths,
        /// How many different texts are made before they repeat.
        distinct: usize,
    },
}

/// The server's process, when it runs on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSampling {
    /// Its process id.
    pub pid: u32,
    /// Counts the processes it started too, and theirs. Servers that fork workers need this.
    pub descendants: bool,
}

/// Connections held open without load while the run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// How many.
    pub connections: usize,
    /// What they have said.
    pub kind: IdleKind,
}

/// What an idle connection has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleKind {
    /// Nothing.
    Silent,
    /// The first lines of a request, never finished: the slow client a header timeout is for.
    PartialHead,
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server: `http://host:port`, with a path prefix if it has one.
    pub url: String,
    /// The protocol.
    pub api: Api,
    /// Headers added to each request, such as `Authorization`. They are never printed.
    pub headers: Vec<(String, String)>,
    /// What sends the next request.
    pub load: Load,
    /// The texts.
    pub texts: Texts,
    /// Texts in each request.
    pub texts_per_request: usize,
    /// The seed of everything random: arrivals, lengths, words, shuffling.
    pub seed: u64,
    /// Load before the measured window, in no figure.
    pub warm_up: Duration,
    /// The measured window; it ends earlier when `count` is reached.
    pub duration: Duration,
    /// Measured requests at most.
    pub count: Option<u64>,
    /// How long a request may take, from its intended time.
    pub timeout: Duration,
    /// Answers later than this are no goodput.
    pub deadline: Option<Duration>,
    /// Threads of the generator. One drives tens of thousands of requests a second.
    pub threads: usize,
    /// Samples the server's process.
    pub server: Option<ServerSampling>,
    /// Holds idle connections.
    pub idle: Option<Idle>,
}

impl Options {
    /// A closed loop over 16 connections for 10 seconds after 1 second of warm-up, one synthetic
    /// text of 16 tokens a request.
    #[must_use]
    pub fn new(url: impl Into<String>, api: Api) -> Self {
        Self {
            url: url.into(),
            api,
            headers: Vec::new(),
            load: Load::Closed { connections: 16 },
            texts: Texts::Synthetic { lengths: Lengths::Fixed(16), distinct: 4096 },
            texts_per_request: 1,
            seed: 1,
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs(10),
            count: None,
            timeout: Duration::from_secs(30),
            deadline: None,
            threads: 1,
            server: None,
            idle: None,
        }
    }

    /// Checks everything that can be known before the server is touched.
    ///
    /// # Errors
    /// [`LoadError::Refused`] with the option, what was given and what is allowed, or
    /// [`LoadError::Template`].
    pub fn validate(&self) -> Result<(), LoadError> {
        self.validate_load()?;
        within("threads", self.threads, 1, limits::THREADS_MAX)?;
        within("texts a request", self.texts_per_request, 1, limits::TEXTS_PER_REQUEST_MAX)?;
        if let Some(count) = self.count {
            within("the number of requests", count, 1, limits::COUNT_MAX)?;
        }
        duration("the duration", self.duration, Duration::from_millis(1), limits::DURATION_MAX)?;
        duration("the warm-up", self.warm_up, Duration::ZERO, limits::DURATION_MAX)?;
        duration("the timeout", self.timeout, Duration::from_millis(1), limits::TIMEOUT_MAX)?;
        if let Some(deadline) = self.deadline {
            duration("the deadline", deadline, Duration::from_millis(1), self.timeout)?;
        }
        if let Some(idle) = self.idle {
            within("idle connections", idle.connections, 1, limits::IDLE_CONNECTIONS_MAX)?;
        }
        match &self.texts {
            Texts::File { .. } => {}
            Texts::Given(texts) => {
                within("the number of texts", texts.len(), 1, 100_000_000)?;
            }
            Texts::Synthetic { lengths, distinct } => {
                lengths.validate()?;
                within("distinct texts", *distinct, 1, 1_000_000)?;
            }
        }
        self.validate_api()
    }

    fn validate_load(&self) -> Result<(), LoadError> {
        let connections = match self.load {
            Load::Closed { connections } => connections,
            Load::Open { rate_per_s, connections_max, .. } => {
                if !(rate_per_s.is_finite() && rate_per_s > 0.0 && rate_per_s <= limits::RATE_PER_S_MAX) {
                    return Err(LoadError::refused(
                        "the rate",
                        rate_per_s,
                        format!("a number of requests a second above 0 and at most {}", limits::RATE_PER_S_MAX),
                    ));
                }
                connections_max
            }
        };
        within("connections", connections, 1, limits::CONNECTIONS_MAX)?;
        if connections < self.threads {
            return Err(LoadError::refused(
                "threads",
                self.threads,
                format!("at most the number of connections, {connections}"),
            ));
        }
        Ok(())
    }

    fn validate_api(&self) -> Result<(), LoadError> {
        match &self.api {
            Api::OpenAi { model, dimensions, .. } => {
                named("the model", model)?;
                if *dimensions == Some(0) {
                    return Err(LoadError::refused("dimensions", 0, "1 or more"));
                }
                Ok(())
            }
            Api::OpenInference { model, input, .. } => {
                named("the model", model)?;
                named("the input tensor", input)
            }
            Api::Template { path, template } => {
                if !path.starts_with('/') {
                    return Err(LoadError::refused("the path", path, "a path that starts with /"));
                }
                Template::parse(template)?.check(self.texts_per_request)
            }
        }
    }

    /// Connections under load at most.
    pub(crate) fn connections_max(&self) -> usize {
        match self.load {
            Load::Closed { connections } => connections,
            Load::Open { connections_max, .. } => connections_max,
        }
    }
}

fn within<T: PartialOrd + std::fmt::Display>(option: &'static str, value: T, low: T, high: T) -> Result<(), LoadError> {
    if value < low || value > high {
        return Err(LoadError::refused(option, value, format!("between {low} and {high}")));
    }
    Ok(())
}

fn duration(option: &'static str, value: Duration, low: Duration, high: Duration) -> Result<(), LoadError> {
    if value < low || value > high {
        return Err(LoadError::refused(option, format!("{value:?}"), format!("between {low:?} and {high:?}")));
    }
    Ok(())
}

fn named(option: &'static str, value: &str) -> Result<(), LoadError> {
    let printable = !value.is_empty() && value.len() <= 512 && !value.chars().any(char::is_control);
    if printable {
        Ok(())
    } else {
        Err(LoadError::refused(option, format!("{value:?}"), "a name of 1 to 512 printable characters"))
    }
}
