//! The bounded pool of threads for work that would keep an async thread too long: tokenising,
//! decoding, resizing.
//!
//! The device never waits for this work and the network never waits behind it. The queue is
//! bounded: work that finds it full is refused at once. Work whose client has left before it
//! began is never begun. What ends a request that was accepted is not refused: it goes before
//! what begins one, and there is no more of it than there are requests at work.
//!
//! Not `tokio::task::spawn_blocking`: its queue has no bound and its 512 threads would fight the
//! device's own for the cores. Not `rayon`: it is made to split one task over all cores, and its
//! queue has no bound either.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select_biased, unbounded};
use halny_types::{Blame, Fault};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

/// The pool. Cloning shares it; when the last clone goes, its threads finish what waits and end.
#[derive(Clone)]
pub struct CpuPool {
    queues: Arc<Queues>,
    limit: usize,
}

struct Queues {
    /// What begins a request.
    beginning: Sender<Work>,
    /// What ends one.
    finishing: Sender<Work>,
}

/// Why the pool did not do its work.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PoolError {
    /// As much work waits as may.
    #[error("{limit} inputs wait to be decoded already; try again shortly")]
    Full {
        /// How much may wait.
        limit: usize,
    },
    /// The work panicked. The pool lives on.
    #[error("the input could not be processed")]
    Panicked,
}

impl Blame for PoolError {
    fn fault(&self) -> Fault {
        match self {
            PoolError::Full { .. } => Fault::Overload,
            PoolError::Panicked => Fault::Ours,
        }
    }
}

impl CpuPool {
    /// A pool of `threads` threads in front of which at most `limit` pieces of work wait.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn new(threads: NonZeroUsize, limit: usize) -> std::io::Result<CpuPool> {
        let (beginning, begins) = bounded(limit.max(1));
        let (finishing, finishes) = unbounded();
        for number in 0..threads.get() {
            let (begins, finishes) = (begins.clone(), finishes.clone());
            std::thread::Builder::new().name(format!("cpu-{number}")).spawn(move || serve(&begins, &finishes))?;
        }
        Ok(CpuPool { queues: Arc::new(Queues { beginning, finishing }), limit: limit.max(1) })
    }

    /// Does `work` on one of the pool's threads.
    ///
    /// # Errors
    /// [`PoolError::Full`] at once when too much waits; [`PoolError::Panicked`] when `work` did.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        let (piece, result) = piece(work);
        self.queues.beginning.try_send(piece).map_err(|refused| match refused {
            TrySendError::Full(_) => PoolError::Full { limit: self.limit },
            TrySendError::Disconnected(_) => PoolError::Panicked,
        })?;
        result.result().await
    }

    /// Does the last `work` of a request that was accepted: it waits for its turn, however much
    /// waits, unless it is `small`, which is done here as in [`CpuPool::run_unless`].
    ///
    /// # Errors
    /// [`PoolError::Panicked`] when `work` did.
    pub async fn finish_unless<T: Send + 'static>(
        &self,
        small: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        if small {
            return here(work);
        }
        let (piece, result) = piece(work);
        self.queues.finishing.send(piece).map_err(|_| PoolError::Panicked)?;
        result.result().await
    }

    /// Does `work` here when it is `small`, which its caller promises means well under 500
    /// microseconds: handing it over would cost as much as doing it.
    ///
    /// # Errors
    /// As [`CpuPool::run`].
    pub async fn run_unless<T: Send + 'static>(
        &self,
        small: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        if small { here(work) } else { self.run(work).await }
    }
}

/// Does `work` on the thread that asks.
fn here<T>(work: impl FnOnce() -> T) -> Result<T, PoolError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| PoolError::Panicked)
}

/// The life of one of the pool's threads.
fn serve(begins: &Receiver<Work>, finishes: &Receiver<Work>) {
    loop {
        let piece = select_biased! {
            recv(finishes) -> piece => piece,
            recv(begins) -> piece => piece,
        };
        match piece {
            Ok(piece) => piece(),
            // Both ends went together: what waits is done, and no more comes.
            Err(_) => break,
        }
    }
    finishes.iter().chain(begins).for_each(|piece| piece());
}

/// `work` for a thread of the pool, and what waits for its result.
fn piece<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> (Work, Awaited<T>) {
    let (sender, result) = oneshot::channel();
    let work: Work = Box::new(move || {
        // A receiver that has gone meanwhile is no error: nobody waits for the result.
        let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
    });
    let work = Arc::new(Mutex::new(Some(work)));
    let taken = Arc::clone(&work);
    let piece = move || {
        let work = taken.lock().take();
        if let Some(work) = work {
            work();
        }
    };
    (Box::new(piece), Awaited { work, result })
}

/// Waits for a result. Dropping it, as when the client has left, lets go of work that was not begun
/// and of all the memory in it, though its place in the queue stays until its turn.
struct Awaited<T> {
    work: Arc<Mutex<Option<Work>>>,
    result: oneshot::Receiver<std::thread::Result<T>>,
}

impl<T> Awaited<T> {
    async fn result(mut self) -> Result<T, PoolError> {
        (&mut self.result).await.ok().and_then(Result::ok).ok_or(PoolError::Panicked)
    }
}

impl<T> Drop for Awaited<T> {
    fn drop(&mut self) {
        let unbegun = self.work.lock().take();
        drop(unbegun);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn pool(threads: usize, limit: usize) -> CpuPool {
        CpuPool::new(NonZeroUsize::new(threads).unwrap(), limit).unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_pool_lives_on() {
        let pool = pool(1, 4);
        assert_eq!(pool.run::<()>(|| panic!("work fails")).await, Err(PoolError::Panicked));
        assert_eq!(pool.run(|| 7).await, Ok(7));
        assert_eq!(pool.run_unless::<()>(true, || panic!("work fails")).await, Err(PoolError::Panicked));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_work_without_a_client_is_not_begun() {
        let pool = pool(1, 2);
        let (open, gate) = crossbeam_channel::bounded::<()>(0);
        let (began, running) = oneshot::channel();
        let done = Arc::new(AtomicUsize::new(0));
        let blocked = tokio::task::LocalSet::new();
        blocked
            .run_until(async {
                let holder = pool.clone();
                let first = tokio::task::spawn_local(async move {
                    holder
                        .run(move || {
                            began.send(()).unwrap();
                            gate.recv().unwrap();
                        })
                        .await
                });
                running.await.unwrap();
                let count = |done: &Arc<AtomicUsize>| {
                    let done = Arc::clone(done);
                    move || done.fetch_add(1, Ordering::SeqCst)
                };
                let mut left = Box::pin(pool.run(count(&done)));
                let mut stays = Box::pin(pool.run(count(&done)));
                assert!(futures_pending(left.as_mut()).await && futures_pending(stays.as_mut()).await);
                assert_eq!(pool.run(count(&done)).await, Err(PoolError::Full { limit: 2 }));
                let mut last = Box::pin(pool.finish_unless(false, count(&done)));
                assert!(futures_pending(last.as_mut()).await, "what ends a request is not refused");
                let held = Arc::new(());
                let holder = Arc::clone(&held);
                let mut large = Box::pin(pool.finish_unless(false, move || drop(holder)));
                assert!(futures_pending(large.as_mut()).await);
                drop(large);
                assert_eq!(Arc::strong_count(&held), 1, "what nobody waits for is let go before its turn");
                drop(left);
                open.send(()).unwrap();
                first.await.unwrap().unwrap();
                stays.await.unwrap();
                assert_eq!(last.await, Ok(0), "and goes before what begins one");
                assert_eq!(done.load(Ordering::SeqCst), 2);
            })
            .await;
    }

    /// Polls once and tells whether the future still waits.
    async fn futures_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }
}
