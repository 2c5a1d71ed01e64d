//! GGUF headers changed at random: no panic, no read past the file, no memory by what they claim.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unsafe_code, reason = "an allocator that counts can only be written so")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::{self, Read},
    panic::{AssertUnwindSafe, catch_unwind},
};

use halny_registry::{gguf, testsuite::gguf::Builder};

/// The bytes that the test's thread holds, and the most that it held at once.
struct Counting;

thread_local! {
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

fn count(change: impl Fn(usize) -> usize) {
    // A thread that is ending has no counter any more.
    let _ = HELD.try_with(|held| {
        let now = change(held.get().0);
        held.set((now, held.get().1.max(now)));
    });
}

// SAFETY: everything is done by the system's allocator; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|held| held.saturating_add(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(|held| held.saturating_sub(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes held while `work` runs, beyond those held before.
fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(|held| {
        held.set((held.get().0, held.get().0));
        held.get().0
    });
    let result = work();
    (result, HELD.with(|held| held.get().1) - before)
}

/// A reader that knows how far it was read, and claims nothing about its end.
struct Watched<'a> {
    bytes: &'a [u8],
    read: &'a Cell<usize>,
}

impl Read for Watched<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.bytes.read(into)?;
        self.read.set(self.read.get() + n);
        Ok(n)
    }
}

/// Numbers from a seed that a failure prints (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const EXTREMES: [u64; 16] = [
    0,
    1,
    2,
    7,
    9,
    0x7f,
    0xff,
    0xffff,
    1 << 20,
    i32::MAX as u64,
    1 << 31,
    u32::MAX as u64,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// One change of a kind that broke readers of this format.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(8) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.below(256) as u8,
        2 => bytes.insert(at, random.below(256) as u8),
        3 => drop(bytes.drain(at..(at + 1 + random.below(16)).min(bytes.len()))),
        4 | 5 => {
            let width = random.pick(&[4, 8]);
            let number = random.pick(&EXTREMES).wrapping_add(random.below(3) as u64).wrapping_sub(1).to_le_bytes();
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        6 => bytes.truncate(at),
        _ => {
            let from = random.below(other.len());
            let section = &other[from..(from + random.below(200)).min(other.len())];
            let end = (at + random.below(200)).min(bytes.len());
            bytes.splice(at..end, section.iter().copied());
        }
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}

/// One change of a value or a shape that leaves the layout sound: what the layout's checks let pass.
fn twist(file: &mut Builder, random: &mut Random) {
    let number = random.pick(&EXTREMES);
    match random.below(6) {
        0 => {
            let at = random.below(file.keys.len());
            drop(file.keys.remove(at));
        }
        1 => {
            let at = random.below(file.tensors.len());
            let tensor = &mut file.tensors[at];
            let dim = random.below(tensor.dims.len());
            tensor.dims[dim] = random.pick(&[1, 2, 31, 64, number]);
        }
        2 => {
            let at = random.below(file.tensors.len());
            file.tensors[at].code = random.below(44) as u32;
        }
        _ => {
            let at = random.below(file.keys.len());
            let bytes = &mut file.keys[at].1.bytes;
            let end = bytes.len();
            let width = random.pick(&[1, 4]).min(end);
            let from = if end > 12 { end - width } else { 0 };
            bytes[from..from + width].copy_from_slice(&number.to_le_bytes()[..width]);
        }
    }
}

/// A vocabulary of 260 tokens makes up most of a header; with few, changes hit everything else.
fn starts() -> Vec<Builder> {
    let few: Vec<String> = (0..16).map(|number| format!("w{number}")).collect();
    let small = Builder::model()
        .set("tokenizer.ggml.model", "gpt2")
        .set("tokenizer.ggml.tokens", few)
        .set("tokenizer.ggml.scores", vec![0_f32; 16])
        .set("tokenizer.ggml.token_type", vec![1_i32; 16])
        .set("tokenizer.ggml.merges", vec!["w 1", "w 2"])
        .set("llama.feed_forward_length", vec![64_u32])
        .set("llama.expert_count", 4_u32)
        .set("llama.expert_used_count", 2_u32)
        .set("llama.attention.sliding_window", 64_u32)
        .tensor("token_embd.weight", &[32, 16], 0);
    vec![Builder::model(), small, Builder::adapter()]
}

#[test]
fn ten_thousand_mutated_headers_never_panic_and_never_overread() {
    let starts = starts();
    let headers: Vec<Vec<u8>> = starts.iter().map(Builder::header).collect();
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..10_000_u64 {
        let mut random = Random(seed);
        let mut file = random.pick(&[0, 1, 1, 2].map(|at: usize| &starts[at])).clone();
        // Half of the changes are of what is said, the others of the bytes that say it.
        if random.below(2) == 0 {
            twist(&mut file, &mut random);
        }
        let mut bytes = file.header();
        let other = random.below(headers.len());
        for _ in 0..random.pick(&[0, 1, 1, 2, 4]) {
            mutate(&mut bytes, &headers[other], &mut random);
        }
        // As if the data followed, most of the time: a change should get further than the places.
        if random.below(8) > 0 {
            bytes.resize(bytes.len() + (72 << 10), 0);
        }
        let read = Cell::new(0);
        let check = || gguf::check(Watched { bytes: &bytes, read: &read }, bytes.len() as u64);
        let (result, peak) = peak_bytes(|| catch_unwind(AssertUnwindSafe(check)));
        let result = result.unwrap_or_else(|_| panic!("seed {seed}: a panic"));
        // The buffer that is read through, then what is kept: at most a few bytes each.
        let limit = (80 << 10) + 16 * bytes.len();
        assert!(peak <= limit, "seed {seed}: {peak} bytes held for a file of {}", bytes.len());
        assert!(read.get() <= bytes.len(), "seed {seed}: {} bytes read", read.get());
        match result {
            Ok(summary) => {
                accepted += 1;
                assert!(summary.data_bytes < bytes.len() as u64, "seed {seed}: {summary:?}");
            }
            Err(reason) => {
                refused += 1;
                assert!((8..600).contains(&reason.len()), "seed {seed}: {reason}");
            }
        }
    }
    // Both must happen, or the changes are too tame or too wild to find anything.
    assert!(accepted > 300 && refused > 3000, "{accepted} accepted, {refused} refused");
}

#[test]
fn nothing_is_held_for_what_a_header_only_claims() {
    let mut headers = Vec::new();
    for claimed in [1 << 20, 1 << 27, 1 << 40, u64::MAX] {
        headers.push(Builder { claimed_keys: Some(claimed), ..Builder::model() }.header());
        headers.push(Builder { claimed_tensors: Some(claimed), ..Builder::model() }.header());
        for code in [0, 4, 8, 12] {
            let lie = halny_registry::testsuite::gguf::Value::array(code, claimed, &[]);
            headers.push(Builder::model().set("tokenizer.ggml.scores", lie).header());
        }
    }
    for header in headers {
        // The size lies as well: a file of 64 GiB of which nothing comes after the header.
        let (result, peak) = peak_bytes(|| gguf::check(header.as_slice(), 64 << 30));
        result.unwrap_err();
        assert!(peak < (80 << 10) + 16 * header.len(), "{peak}");
    }
}
