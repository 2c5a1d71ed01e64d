//! What a program says: lines on standard output, and the end of what it complains about.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::Progress;

/// The longest line of its output that is read.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// What is kept of what it says on standard error: its end.
const ERROR_BYTES: usize = 2_048;

/// A line of a program's output that says something.
pub(super) enum Heard {
    Progress(Progress),
    Checkpoint,
    Result(Value),
    Nothing,
}

pub(super) fn heard(line: &str) -> Heard {
    let mut words = line.splitn(4, ' ');
    match words.next() {
        Some("checkpoint") if words.next().is_none() => Heard::Checkpoint,
        Some("progress") => {
            let done = words.next().and_then(|word| word.parse().ok());
            let total = words.next().and_then(|word| word.parse().ok());
            let message = words.next().unwrap_or_default().to_owned();
            done.map_or(Heard::Nothing, |done| Heard::Progress(Progress { done, total, message }))
        }
        _ => serde_json::from_str(line).map_or(Heard::Nothing, Heard::Result),
    }
}

/// The lines of an output. What is longer than a line may be is passed over whole.
pub(super) struct Lines<R> {
    output: BufReader<R>,
    line: Vec<u8>,
    is_long: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(output: R) -> Lines<R> {
        Lines { output: BufReader::new(output), line: Vec::new(), is_long: false }
    }

    /// The next line; nothing at the end. Dropped where it waits, it loses nothing.
    async fn next(&mut self) -> Option<String> {
        loop {
            let piece = self.output.fill_buf().await.ok()?;
            let is_over = piece.is_empty();
            let end = piece.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(piece.len(), |end| end + 1);
            if self.line.len() + taken > LINE_BYTES_MAX {
                self.is_long = true;
                self.line.clear();
            } else if !self.is_long {
                self.line.extend_from_slice(piece.get(..taken).unwrap_or_default());
            }
            self.output.consume(taken);
            if is_over && self.line.is_empty() {
                return None;
            }
            if end.is_some() || is_over {
                let is_long = std::mem::take(&mut self.is_long);
                let text = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim_end().to_owned();
                if !is_long {
                    return Some(text);
                }
                if is_over {
                    return None;
                }
            }
        }
    }
}

pub(super) async fn next_line<R: AsyncRead + Unpin>(lines: &mut Option<Lines<R>>) -> Option<String> {
    lines.as_mut()?.next().await
}

/// The end of what a program says.
pub(super) async fn last_of(output: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut output) = output else { return String::new() };
    let (mut end, mut piece) = (Vec::new(), vec![0; 8_192]);
    while let Ok(count) = output.read(&mut piece).await {
        if count == 0 {
            break;
        }
        end.extend_from_slice(piece.get(..count).unwrap_or_default());
        let over = end.len().saturating_sub(ERROR_BYTES);
        end.drain(..over);
    }
    String::from_utf8_lossy(&end).trim().to_owned()
}
