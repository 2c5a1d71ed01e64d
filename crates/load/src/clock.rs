//! Waiting for a moment to within some tens of microseconds.
//!
//! Not `tokio::time::sleep_until`, because it rounds up to whole milliseconds: at a median of 5 ms
//! that alone would add a tenth to every latency of an open loop.

use std::io;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer of the operating system that wakes a task.
pub(crate) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// Needs to be called inside a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "deprecated for types whose descriptor can change; an OwnedFd's cannot, and the replacement is unsafe"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    /// Returns at `moment`, or at once when it has passed. Never early.
    pub(crate) async fn until(&self, moment: Instant) -> io::Result<()> {
        loop {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let value = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(left) };
            // Setting the timer also forgets an earlier expiry, so it need not be read.
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &value)?;
            self.0.readable().await?.clear_ready();
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

/// Processor time of this process, all threads, user and system.
pub(crate) fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
