//! Work on what others sent, by libraries that panic where it lies to them.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, on this thread; nothing when it panics.
///
/// What `work` had in its hands may be in any state then, and is to be dropped. Whoever logs panics asks [`is_guarded`]
/// whether this is one: that a client's bytes are wrong is no news, and a stack trace for each would let clients fill the
/// log, and take the memory that reading debug information takes.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    let before = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    done.ok()
}

/// Whether this thread is doing guarded work.
#[must_use]
pub fn is_guarded() -> bool {
    GUARDED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_nothing_and_what_is_around_stays_guarded() {
        assert!(!is_guarded());
        assert_eq!(guarded(|| (guarded(is_guarded), is_guarded())), Some((Some(true), true)));
        let bytes = [1_u8];
        assert_eq!(guarded(|| bytes[bytes.len()]), None);
        assert_eq!(guarded(|| (guarded(|| bytes[bytes.len()]), is_guarded())), Some((None, true)));
        assert!(!is_guarded());
    }
}
