//! The closed loop: each connection sends its next request when the last is answered.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::LoadError;
use crate::recorder::{Failure, Outcome};
use crate::worker::{Admission, Worker};

/// A server that is gone refuses a connection within microseconds; without a pause the loop would
/// fill a processor with errors.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(crate) async fn run(worker: &Rc<Worker>, connections: usize) -> Result<(), LoadError> {
    worker.recorder.borrow_mut().connections_peak = connections as u64;
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn_local(drive(Rc::clone(worker)));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|_| LoadError::WorkerLost)?;
    }
    Ok(())
}

async fn drive(worker: Rc<Worker>) {
    tokio::time::sleep_until(worker.plan.begin.into()).await;
    let mut connection = None;
    let mut pause = PAUSE_MIN;
    loop {
        let intended = Instant::now();
        let admission = worker.admit(intended);
        if admission == Admission::RunOver {
            return;
        }
        let due = worker.due(intended, admission);
        if worker.perform(&mut connection, due).await == Outcome::Failed(Failure::Connect) {
            let end = worker.plan.window.end;
            tokio::time::sleep_until((Instant::now() + pause).min(end).into()).await;
            pause = (pause * 2).min(PAUSE_MAX);
        } else {
            pause = PAUSE_MIN;
        }
    }
}
