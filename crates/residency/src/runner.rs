//! One instance of a model as a lane runs it: items to tensors, device, tensors to answers.

use std::time::Duration;

use halny_batching::{Ran, RunFailure, Runner};
use halny_engine::{EngineError, Instance, Tensor};
use halny_tasks::{Answer, Collator, Item, TaskError};
use halny_types::{Blame, Tick};

/// An instance with the buffers that are reused from batch to batch.
pub struct ModelRunner {
    instance: Box<dyn Instance>,
    collator: Collator,
    outputs: Vec<Tensor>,
}

impl ModelRunner {
    /// A runner of this instance.
    #[must_use]
    pub fn new(instance: Box<dyn Instance>, collator: Collator) -> ModelRunner {
        ModelRunner { instance, collator, outputs: Vec::new() }
    }

    /// Runs each batch twice, smallest first, for as long as `budget` allows, and tells of the
    /// second runs how many tokens they had, padding counted, and how long they took: the first
    /// run of a shape allocates and tunes, the second is what it will take.
    ///
    /// # Errors
    /// What the first batch that fails says.
    pub fn warm_up(&mut self, batches: &[Vec<Item>], budget: Duration) -> Result<Vec<(usize, Duration)>, String> {
        let began = Tick::now();
        let mut seen: Vec<(usize, Duration)> = Vec::new();
        for batch in batches {
            let longest = batch.iter().map(Item::length).max().unwrap_or(1);
            let tokens = longest * batch.iter().map(Item::rows).sum::<usize>();
            let expected = seen
                .last()
                .map_or(Duration::ZERO, |(before, took)| took.mul_f64(2.0 * tokens as f64 / (*before).max(1) as f64));
            if began.until(Tick::now()) + expected > budget {
                break;
            }
            let items: Vec<&Item> = batch.iter().collect();
            self.run(&items).map_err(|failure| failure.cause)?;
            let again = Tick::now();
            self.run(&items).map_err(|failure| failure.cause)?;
            seen.push((tokens, again.until(Tick::now())));
        }
        Ok(seen)
    }
}

impl Runner for ModelRunner {
    type Item = Item;
    type Answer = Answer;

    fn run(&mut self, items: &[&Item]) -> Result<Ran<Answer>, RunFailure> {
        self.collator.collate(items).map_err(task_failure)?;
        let report = self.instance.run(&self.collator.inputs(), &mut self.outputs).map_err(engine_failure)?;
        let answers = self.collator.split(items, &self.outputs).map_err(task_failure)?;
        Ok(Ran { answers, device_time: report.device_time })
    }
}

fn engine_failure(error: EngineError) -> RunFailure {
    let cause = match &error {
        EngineError::Run { cause } => cause.clone(),
        other => other.to_string(),
    };
    RunFailure { fault: error.fault(), message: error.to_string(), cause }
}

fn task_failure(error: TaskError) -> RunFailure {
    RunFailure { fault: error.fault(), message: error.to_string(), cause: error.to_string() }
}
