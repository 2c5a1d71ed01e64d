//! What makes a running server read its project file again: the file changed, SIGHUP, or the
//! operator asked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Editors write a file in several steps; this long after the last one it is whole.
const SETTLE: Duration = Duration::from_millis(100);

/// Waits for reasons to read the project file again.
pub(crate) struct Reasons {
    changed: Arc<Notify>,
    asked: Arc<Notify>,
    hangup: Signal,
    _watcher: Option<RecommendedWatcher>,
}

/// Why the file is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The file, or its folder's entry for it, changed.
    Changed,
    /// SIGHUP, or `POST /halny/v1/reload`: files of models are looked at again too.
    Asked,
}

impl Reasons {
    /// Watches `file`. `asked` is told by the operator's port.
    pub(crate) fn new(file: &Path, asked: Arc<Notify>) -> anyhow::Result<Reasons> {
        let changed = Arc::new(Notify::new());
        Ok(Reasons {
            _watcher: watch(file, Arc::clone(&changed)),
            changed,
            asked,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next reason.
    pub(crate) async fn next(&mut self) -> Reason {
        tokio::select! {
            () = self.asked.notified() => Reason::Asked,
            _ = self.hangup.recv() => Reason::Asked,
            () = self.changed.notified() => {
                while tokio::time::timeout(SETTLE, self.changed.notified()).await.is_ok() {}
                Reason::Changed
            }
        }
    }
}

/// Watches the folder, not the file: most editors replace the file, and the watch on the old one
/// would see nothing more. Where watching is impossible SIGHUP still works.
fn watch(file: &Path, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let name = file.file_name()?.to_owned();
    let watched = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let concerns = |event: &notify::Event| {
            !event.kind.is_access() && event.paths.iter().any(|path| path.file_name() == Some(name.as_os_str()))
        };
        if event.as_ref().is_ok_and(concerns) {
            changed.notify_one();
        }
    })
    .and_then(|mut watcher| {
        let folder = file.parent().unwrap_or(Path::new("."));
        watcher.watch(folder, RecursiveMode::NonRecursive).map(|()| watcher)
    });
    match watched {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(%error, "the project file is not watched; send SIGHUP after changing it");
            None
        }
    }
}
