//! A model's text, as it comes, to content and calls of tools.
//!
//! A call is passed on when its JSON is complete and proves to be a call, and not before: what was
//! sent to a client cannot be taken back, and everything that proves to be no call is content, down
//! to its markers. Only up to 1 KiB of whitespace beside a call is dropped. Every byte is looked at
//! once, whatever a model writes.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::messages::is_tool_name;
use crate::tool_format::ToolFormat;

/// The longest call, its markers included; what is longer is content.
pub(crate) const CALL_BYTES_MAX: usize = 1024 * 1024;

/// The most whitespace beside a call that is dropped.
const SPACE_BYTES_MAX: usize = 1024;

const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

const PYTHON_TAG: &str = "<|python_tag|>";

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text for the user.
    Content(String),
    /// A call begins.
    CallBegin {
        /// Which call of the answer, from 0.
        index: usize,
        /// The call's id: nine letters and digits, the only form that every known template takes.
        id: String,
        /// The tool's name.
        name: String,
    },
    /// More of a call's arguments, as JSON. All fragments of a call together are one object.
    CallArguments {
        /// Which call of the answer, from 0.
        index: usize,
        /// The next part.
        fragment: String,
    },
    /// A call is complete.
    CallEnd {
        /// Which call of the answer, from 0.
        index: usize,
    },
}

/// Reads an answer as it comes.
#[derive(Debug)]
pub struct ToolParser {
    format: ToolFormat,
    /// What was read and not passed on.
    held: String,
    state: State,
    calls: usize,
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Content, until a marker. `beside_call`: nothing but whitespace since the last call.
    Content { beside_call: bool },
    /// Where a call may begin without a marker: the start of an answer, or after a call.
    Start { after_call: bool },
    /// `held` is a marker and then JSON.
    Json(Scan),
    /// After the JSON of a call, before the marker that closes it.
    Close,
    /// No call can come any more.
    Rest,
}

/// How far JSON was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scan {
    /// Where the JSON may begin: after the marker.
    begin: usize,
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
    after_call: bool,
}

enum Scanned {
    /// The value ends here.
    Complete(usize),
    /// What was looked at up to here is no call.
    Broken(usize),
    Open(Scan),
}

/// A call as models write it.
#[derive(Deserialize)]
struct Call<'t> {
    name: String,
    #[serde(borrow, default)]
    arguments: Option<&'t RawValue>,
    #[serde(borrow, default)]
    parameters: Option<&'t RawValue>,
}

impl ToolParser {
    /// A parser of one answer. Ids of calls follow from `seed`: give each answer another one.
    #[must_use]
    pub fn new(format: ToolFormat, seed: u64) -> ToolParser {
        let state = match format {
            ToolFormat::LlamaJson => State::Start { after_call: false },
            ToolFormat::Hermes | ToolFormat::Mistral => State::Content { beside_call: false },
        };
        ToolParser { format, held: String::new(), state, calls: 0, seed }
    }

    /// Reads more of the answer, and gives what is certain by now.
    #[must_use]
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut out = Vec::new();
        while self.step(&mut out, false) {}
        out
    }

    /// Ends the answer, and gives what was held back.
    #[must_use]
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut out = Vec::new();
        while self.step(&mut out, true) {}
        let beside_call = match self.state {
            State::Content { beside_call } => beside_call,
            State::Start { after_call } => after_call,
            State::Close => true,
            State::Json(_) | State::Rest => false,
        };
        let space = self.held.trim_start_matches(SPACE).is_empty();
        if !(beside_call && space) {
            self.content(&mut out, self.held.len());
        }
        self.held.clear();
        self.state = State::Rest;
        out
    }

    /// How many calls were passed on.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Passes the first `bytes` of what is held on as content.
    fn content(&mut self, out: &mut Vec<Piece>, bytes: usize) {
        let text: String = self.held.drain(..bytes).collect();
        match out.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Content(before)) => before.push_str(&text),
            _ => out.push(Piece::Content(text)),
        }
    }

    /// Goes on by one step; `false` when more text is needed.
    fn step(&mut self, out: &mut Vec<Piece>, ended: bool) -> bool {
        match self.state {
            State::Content { beside_call } => self.step_content(out, beside_call),
            State::Start { after_call } => self.step_start(ended, after_call),
            State::Json(scan) => self.step_json(out, scan),
            State::Close => self.step_close(ended),
            State::Rest => {
                self.content(out, self.held.len());
                false
            }
        }
    }

    fn marker(&self) -> &'static str {
        match self.format {
            ToolFormat::Hermes => "<tool_call>",
            ToolFormat::Mistral => "[TOOL_CALLS]",
            ToolFormat::LlamaJson => PYTHON_TAG,
        }
    }

    fn step_content(&mut self, out: &mut Vec<Piece>, beside_call: bool) -> bool {
        let marker = self.marker();
        let found = self.held.find(marker);
        // A marker may have begun at the end: its longest beginning there is kept.
        let open = || (1..marker.len()).rev().find(|length| self.held.ends_with(&marker[..*length])).unwrap_or(0);
        let end = found.unwrap_or_else(|| self.held.len() - open());
        let kept = self.held[..end].trim_end_matches(SPACE).len().max(end.saturating_sub(SPACE_BYTES_MAX));
        self.content(out, kept);
        let beside_call = beside_call && kept == 0;
        self.state = State::Content { beside_call };
        let Some(found) = found else { return false };
        // The whitespace before the marker stays held: it is content again if no call follows.
        self.state = State::Json(Scan::new(found - kept + marker.len(), beside_call));
        true
    }

    fn step_start(&mut self, ended: bool, after_call: bool) -> bool {
        let text = self.held.trim_start_matches(SPACE);
        let mut rest = text;
        if after_call && let Some(after) = rest.strip_prefix(';') {
            rest = after.trim_start_matches(SPACE);
        }
        let space = self.held.len() - rest.len();
        if !ended && space <= SPACE_BYTES_MAX && PYTHON_TAG.starts_with(rest) && rest.len() < PYTHON_TAG.len() {
            return false;
        }
        if space <= SPACE_BYTES_MAX && (rest.starts_with('{') || rest.starts_with(PYTHON_TAG)) {
            let tag = if rest.starts_with('{') { 0 } else { PYTHON_TAG.len() };
            self.state = State::Json(Scan::new(space + tag, after_call));
            return true;
        }
        if ended && rest.is_empty() {
            return false;
        }
        self.state = State::Rest;
        true
    }

    fn step_json(&mut self, out: &mut Vec<Piece>, scan: Scan) -> bool {
        let array = self.format == ToolFormat::Mistral;
        match scan.go_on(self.held.as_bytes(), array) {
            Scanned::Open(scan) => {
                self.state = State::Json(scan);
                false
            }
            Scanned::Complete(end) => {
                if self.calls_of(out, scan.begin, end) {
                    self.held.drain(..end);
                    self.state = match self.format {
                        ToolFormat::Hermes => State::Close,
                        ToolFormat::Mistral => State::Content { beside_call: true },
                        ToolFormat::LlamaJson => State::Start { after_call: true },
                    };
                } else {
                    self.give_up(out, end);
                }
                true
            }
            Scanned::Broken(end) => {
                self.give_up(out, end);
                true
            }
        }
    }

    /// Passes on as content what proved to be no call.
    fn give_up(&mut self, out: &mut Vec<Piece>, end: usize) {
        self.content(out, end);
        self.state = match self.format {
            ToolFormat::LlamaJson => State::Rest,
            ToolFormat::Hermes | ToolFormat::Mistral => State::Content { beside_call: false },
        };
    }

    fn step_close(&mut self, ended: bool) -> bool {
        const CLOSE: &str = "</tool_call>";
        let rest = self.held.trim_start_matches(SPACE);
        let space = self.held.len() - rest.len();
        if space <= SPACE_BYTES_MAX {
            if rest.starts_with(CLOSE) {
                self.held.drain(..space + CLOSE.len());
            } else if !ended && CLOSE.starts_with(rest) {
                return false;
            }
        }
        self.state = State::Content { beside_call: true };
        true
    }

    /// Passes on the calls of a complete piece of JSON; `false` when it is none.
    fn calls_of(&mut self, out: &mut Vec<Piece>, begin: usize, end: usize) -> bool {
        let Some(calls) = read_calls(self.format, &self.held[begin..end]) else { return false };
        for (name, arguments) in calls {
            let index = self.calls;
            self.calls += 1;
            out.push(Piece::CallBegin { index, id: call_id(self.seed, index), name });
            out.push(Piece::CallArguments { index, fragment: arguments });
            out.push(Piece::CallEnd { index });
        }
        true
    }
}

impl Scan {
    fn new(begin: usize, after_call: bool) -> Scan {
        Scan { begin, at: begin, depth: 0, in_string: false, escaped: false, after_call }
    }

    /// Looks for the end of the value. Whether it is JSON shows when it is read.
    fn go_on(mut self, text: &[u8], array: bool) -> Scanned {
        while let Some(byte) = text.get(self.at) {
            let begins = if array { matches!(byte, b'[' | b'{') } else { *byte == b'{' };
            if self.depth == 0 && !begins && !byte.is_ascii_whitespace() {
                return Scanned::Broken(self.at);
            }
            self.at += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Scanned::Complete(self.at);
                    }
                }
                _ => {}
            }
            // Only between characters: what is given up is cut there.
            if self.at >= CALL_BYTES_MAX && text.get(self.at).is_none_or(|next| (*next as i8) >= -0x40) {
                return Scanned::Broken(self.at);
            }
        }
        Scanned::Open(self)
    }
}

/// The names and arguments of calls.
fn read_calls(format: ToolFormat, json: &str) -> Option<Vec<(String, String)>> {
    let json = json.trim_matches(SPACE);
    let calls: Vec<Call<'_>> =
        if json.starts_with('[') { serde_json::from_str(json).ok()? } else { vec![serde_json::from_str(json).ok()?] };
    if calls.is_empty() {
        return None;
    }
    calls.into_iter().map(|call| Some((call.name.clone(), arguments_of(format, &call)?))).collect()
}

fn arguments_of(format: ToolFormat, call: &Call<'_>) -> Option<String> {
    if !is_tool_name(&call.name) {
        return None;
    }
    let Some(raw) = call.arguments.or(call.parameters) else {
        // Without markers around it, JSON with a name alone is an answer, not a call.
        return (format != ToolFormat::LlamaJson).then(|| "{}".to_owned());
    };
    let text = raw.get();
    if text.starts_with('{') {
        return Some(text.to_owned());
    }
    // Some models write the arguments as a string, as OpenAI's protocol does.
    let inner: String = serde_json::from_str(text).ok()?;
    let object: serde_json::Value = serde_json::from_str(&inner).ok()?;
    object.is_object().then_some(inner)
}

/// Nine letters and digits, by the finaliser of SplitMix64.
fn call_id(seed: u64, index: usize) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut bits = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    let mut id = String::with_capacity(9);
    for _ in 0..9 {
        id.push(char::from(DIGITS[(bits % 62) as usize]));
        bits /= 62;
    }
    id
}

#[cfg(test)]
mod tests;
