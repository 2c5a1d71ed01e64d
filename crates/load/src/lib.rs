//! A load generator for OpenAI and Open Inference Protocol servers: open and closed loop, honest about waiting.
//!
//! A figure is only as good as the load behind it. Three things make one wrong without anyone
//! noticing, and this crate exists to keep them out:
//!
//! - *Coordinated omission.* A generator that waits for an answer before it sends the next request
//!   stops asking while the server is stalled, so the stall is hardly in its percentiles. In the
//!   open loop every request has an intended time that the server cannot move, and its latency
//!   counts from then, waiting for a connection included.
//! - *A generator that cannot keep up.* Its own lateness is recorded and reported; a run whose
//!   generator was late says so in [`GeneratorReport::notes`].
//! - *A generator that eats the server's processor.* It often shares the machine. Bodies are made
//!   before the run, answers are counted and thrown away, and each thread drives its own
//!   connections with no lock and no message between threads
//!   (`examples/client_cost.rs` prints what a request costs the client).
//!
//! Refusals (429 and 503) are neither successes nor errors: a server that sheds load well must be
//! seen to, so they are counted apart with latencies of their own.
//!
//! Not `wrk`, `oha` or `k6`, because none of them speaks Triton's binary tensor extension or draws
//! text lengths from a distribution, and most measure in the closed loop only. Not `reqwest`,
//! because its pool, redirects and decompression cost more processor time a request than the rest
//! of the generator together.
//!
//! ```no_run
//! use halny_load::{Api, Options, Stop};
//!
//! # fn main() -> Result<(), halny_load::LoadError> {
//! let api = Api::OpenAi { model: "minilm".into(), dimensions: None, base64: false };
//! let options = Options::new("http://127.0.0.1:8080", api);
//! let report = halny_load::run(&options, &Stop::default(), &mut |_| {})?;
//! println!("{}", halny_load::table(&report));
//! # Ok(())
//! # }
//! ```

mod bodies;
mod clock;
mod closed_loop;
mod connection;
mod error;
mod file_limit;
mod idle;
mod lengths;
mod open_loop;
mod options;
mod plot;
mod progress;
mod recorder;
mod report;
mod run;
mod schedule;
mod server_process;
mod table;
mod target;
mod template;
mod texts;
mod worker;

pub use error::LoadError;
pub use lengths::{LENGTH_MAX, Lengths};
pub use options::{Api, Arrivals, Idle, IdleKind, Load, Options, ServerSampling, Texts, limits};
pub use plot::svg;
pub use progress::{Progress, terminal_bar};
pub use report::{
    CurvePoint, GeneratorReport, IdleReport, LoadReport, Percentiles, Report, SCHEMA, ServerReport, TargetReport,
    TimelinePoint,
};
pub use run::{Stop, run};
pub use schedule::Schedule;
pub use table::table;
