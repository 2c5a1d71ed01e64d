//! The promises of the crate, each tried with whatever requests, arrivals, departures and cells
//! `proptest` thinks of, on a decoder whose every slip changes the text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use halny_engine::testsuite::decoder::{END, FakeDecoder, FakeLanguage, fake_next};
use halny_engine::{DecoderLimits, TokenId};
use halny_generation::fairness::{READ, WRITTEN};
use halny_generation::job::Sink;
use halny_generation::refusal::GenerationError;
use halny_generation::request::{Event, FinishReason, Finished, Request};
use halny_generation::sampling::SamplingOptions;
use halny_generation::scheduler::{Scheduler, Settings};
use halny_generation::text::StopStrings;
use halny_types::{Priority, RequestContext, TenantId, Tick};
use proptest::prelude::*;

/// What a client has received.
#[derive(Default)]
struct Received {
    text: String,
    finished: Option<Finished>,
    error: Option<GenerationError>,
    gone: bool,
}

#[derive(Clone, Default)]
struct Client(Rc<RefCell<Received>>);

impl Sink for Client {
    fn send(&mut self, event: Result<Event, GenerationError>) {
        let mut received = self.0.borrow_mut();
        assert!(received.finished.is_none() && received.error.is_none(), "an event after the end");
        match event {
            Ok(Event::Text { text, .. }) => received.text.push_str(&text),
            Ok(Event::Finished(finished)) => received.finished = Some(finished),
            Err(error) => received.error = Some(error),
        }
    }

    fn is_gone(&self) -> bool {
        self.0.borrow().gone
    }
}

fn limits(cells: usize, sequences: usize, step_tokens: usize, shares: bool) -> DecoderLimits {
    DecoderLimits { cells, sequences, step_tokens, context: cells, shares }
}

fn settings(running: usize) -> Settings {
    Settings { running, stretch: 1.7 }
}

fn request(tenant: &str, prompt: Vec<TokenId>, max_tokens: usize) -> Request {
    let context = RequestContext::new(TenantId::new(tenant).unwrap(), Tick::from_millis(1), Duration::from_secs(3_600));
    Request {
        context,
        prompt: prompt.into(),
        max_tokens,
        sampling: SamplingOptions { temperature: 0.0, ..SamplingOptions::default() },
        answer: 0,
        stop: StopStrings::default(),
        include_stop: false,
        ignore_end: false,
        grammar: None,
        adapter: None,
    }
}

/// What the model says to this request alone, greedily.
fn alone(request: &Request) -> String {
    let mut tokens = request.prompt.to_vec();
    let mut text = String::new();
    while text.len() < request.max_tokens {
        let next = fake_next(&tokens, request.adapter);
        if next == END {
            break;
        }
        tokens.push(next);
        text.push(char::from(u8::try_from(next).unwrap()));
    }
    text
}

struct World {
    decoder: FakeDecoder,
    scheduler: Scheduler<Client>,
    now: Cell<u64>,
}

impl World {
    fn new(limits: DecoderLimits, settings: Settings) -> World {
        let scheduler = Scheduler::new(Arc::new(FakeLanguage::default()), limits, settings);
        World { decoder: FakeDecoder::new(limits), scheduler, now: Cell::new(1) }
    }

    fn submit(&mut self, request: Request) -> Client {
        let client = Client::default();
        self.scheduler.submit(request, client.clone());
        client
    }

    fn step(&mut self) -> halny_generation::scheduler::StepReport {
        let now = &self.now;
        self.scheduler.step(&mut self.decoder, &|| {
            now.set(now.get() + 1);
            Tick::from_millis(now.get())
        })
    }

    fn taken(&self) -> usize {
        self.decoder.counts().cells.load(Ordering::SeqCst)
    }

    fn run_out(&mut self) {
        for _ in 0..20_000 {
            if self.scheduler.running() + self.scheduler.waiting() == 0 {
                return;
            }
            self.step();
        }
        panic!("it does not end: {} run, {} wait", self.scheduler.running(), self.scheduler.waiting());
    }
}

/// A request as proptest makes it: when it comes, when its client leaves, whose it is, what it says.
#[derive(Clone, Debug)]
struct Asked {
    at: usize,
    leaves: Option<usize>,
    tenant: u8,
    trunk: usize,
    tail: Vec<u8>,
    max_tokens: usize,
    adapter: Option<usize>,
    priority: Priority,
}

fn asked() -> impl Strategy<Value = Asked> {
    let leaves = prop_oneof![3 => Just(None), 1 => (0usize..60).prop_map(Some)];
    (
        0usize..60,
        leaves,
        0u8..3,
        0usize..40,
        prop::collection::vec(0u8..3, 1..20),
        1usize..30,
        prop::option::weighted(0.2, 0usize..2),
        prop_oneof![3 => Just(Priority::Interactive), 1 => Just(Priority::System), 2 => Just(Priority::Batch)],
    )
        .prop_map(|(at, leaves, tenant, trunk, tail, max_tokens, adapter, priority)| Asked {
            at,
            leaves,
            tenant,
            trunk,
            tail,
            max_tokens,
            adapter,
            priority,
        })
}

fn made(asked: &Asked) -> Request {
    let trunk = (0..asked.trunk).map(|at| 40 + at as TokenId);
    let prompt: Vec<TokenId> = trunk.chain(asked.tail.iter().map(|byte| TokenId::from(*byte))).collect();
    let mut request = request(["a", "b", "c"][usize::from(asked.tenant)], prompt, asked.max_tokens);
    request.adapter = asked.adapter;
    request.context.priority = asked.priority;
    request
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_token_is_lost_or_repeated_and_every_cell_comes_back(
        asked in prop::collection::vec(asked(), 1..40),
        cells in 90usize..260,
        sequences in 2usize..9,
        step_tokens in 8usize..40,
        running in 1usize..8,
        shares in any::<bool>(),
    ) {
        let mut world = World::new(limits(cells, sequences, step_tokens, shares), settings(running));
        let mut clients: Vec<(usize, Request, Client)> = Vec::new();
        for step in 0..70 {
            for (place, asked) in asked.iter().enumerate().filter(|(_, asked)| asked.at == step) {
                let request = made(asked);
                let client = world.submit(request.clone());
                clients.push((place, request, client));
            }
            for (place, _, client) in &clients {
                if asked[*place].leaves == Some(step) {
                    client.0.borrow_mut().gone = true;
                }
            }
            world.step();
        }
        world.run_out();
        for (place, request, client) in &clients {
            let received = client.0.borrow();
            let wanted = alone(request);
            prop_assert_eq!(&received.error, &None);
            match &received.finished {
                Some(finished) => {
                    prop_assert_eq!(&received.text, &wanted, "request {}", place);
                    let ended = if wanted.len() == request.max_tokens { FinishReason::Length } else { FinishReason::End };
                    prop_assert_eq!(&finished.reason, &ended);
                    prop_assert_eq!(finished.usage.prompt_tokens, request.prompt.len());
                    let written = wanted.len() + usize::from(ended == FinishReason::End);
                    prop_assert_eq!(finished.usage.written_tokens, written);
                }
                None => {
                    prop_assert!(received.gone, "request {} was lost", place);
                    prop_assert!(wanted.starts_with(&received.text));
                }
            }
        }
        prop_assert_eq!(world.scheduler.cells_running(), 0);
        prop_assert_eq!(world.scheduler.cells_taken(), world.taken());
        world.scheduler.forget(&mut world.decoder);
        prop_assert_eq!(world.taken(), 0, "cells that nobody holds are still taken");
    }

    #[test]
    fn equal_seeds_give_equal_texts_whatever_runs_beside(
        seed in any::<u64>(),
        neighbours in prop::collection::vec(asked(), 0..12),
        cells in 90usize..200,
    ) {
        let sampled = || {
            let mut request = request("a", (60..80).collect(), 24);
            request.sampling = SamplingOptions { seed: Some(seed), temperature: 1.5, ..SamplingOptions::default() };
            request.ignore_end = true;
            request
        };
        let mut quiet = World::new(limits(400, 4, 64, true), settings(4));
        let expected = quiet.submit(sampled());
        quiet.run_out();
        let mut busy = World::new(limits(cells, 6, 16, true), settings(5));
        for asked in &neighbours[..neighbours.len() / 2] {
            busy.submit(made(asked));
        }
        let client = busy.submit(sampled());
        for asked in &neighbours[neighbours.len() / 2..] {
            busy.step();
            busy.submit(made(asked));
        }
        busy.run_out();
        prop_assert_eq!(&client.0.borrow().text, &expected.0.borrow().text);
        prop_assert!(client.0.borrow().finished.is_some());
    }

    #[test]
    fn tenants_that_both_wait_differ_by_no_more_than_the_papers_bound(
        lengths in prop::collection::vec((1usize..30, 1usize..20), 200),
        cells in 80usize..200,
        weights in prop::collection::vec(0u8..10, 200),
    ) {
        // Two tenants always have something waiting; `a` asks for long things, `b` for any.
        // Prompts are read in the step in which they are admitted, as the paper has it.
        let at_once = Settings { running: 16, stretch: 1e9 };
        let mut world = World::new(limits(cells, 16, cells, true), at_once);
        let mut clients: Vec<(&str, Request, Client)> = Vec::new();
        for ((prompt, max_tokens), coin) in lengths.iter().zip(&weights) {
            let tenant = if *coin < 7 { "a" } else { "b" };
            // Prompts that share nothing, so that what is read is what is asked.
            let mark = clients.len() as TokenId;
            let prompt: Vec<TokenId> = (0..*prompt).map(|at| (mark * 7 + at as TokenId) % 200).collect();
            let mut request = request(tenant, prompt, *max_tokens);
            request.ignore_end = true;
            clients.push((tenant, request.clone(), world.submit(request)));
        }
        let longest = clients.iter().map(|(_, request, _)| request.prompt.len()).max().unwrap() as u64;
        // The paper's bound: 2 max(w_p L_input, w_q M), M being the tokens that fit into the cache.
        let bound = 2 * (READ * longest).max(WRITTEN * cells as u64);
        loop {
            let waits = |tenant: &str| clients.iter().any(|(owner, _, client)| {
                let client = client.0.borrow();
                *owner == tenant && client.finished.is_none() && client.text.is_empty()
            });
            if !(waits("a") && waits("b")) {
                break;
            }
            world.step();
            let service = |tenant: &str| -> u64 {
                let of = |(owner, request, client): &(&str, Request, Client)| {
                    let written = client.0.borrow().text.len() as u64;
                    let read = if written > 0 { request.prompt.len() as u64 } else { 0 };
                    if *owner == tenant { READ * read + WRITTEN * written } else { 0 }
                };
                clients.iter().map(of).sum()
            };
            prop_assert!(service("a").abs_diff(service("b")) <= bound, "{} and {}, bound {bound}", service("a"), service("b"));
        }
    }
}

#[test]
fn a_long_prompt_is_read_in_pieces_while_others_write() {
    let mut world = World::new(limits(2_000, 8, 512, true), settings(8));
    let mut streams: Vec<Client> = Vec::new();
    for stream in 0..4u32 {
        let mut request = request("a", vec![stream, 7, 9], 1_000);
        request.ignore_end = true;
        streams.push(world.submit(request));
    }
    for _ in 0..20 {
        world.step();
    }
    let long = world.submit(request("b", (0..1_000).map(|at| at % 200).collect(), 4));
    let mut reading = 0;
    while long.0.borrow().text.is_empty() {
        let report = world.step();
        assert!(report.gaps.len() == streams.len(), "a stream stood still");
        reading += usize::from(report.read > 0);
    }
    // The fake takes a microsecond a token: beside four that write, 1.8 times as long is three more.
    assert!(reading > 20, "the prompt was read in {reading} steps");
}

#[test]
fn requests_that_share_a_prefix_wait_for_the_one_that_reads_it() {
    let mut world = World::new(limits(4_000, 32, 64, true), settings(16));
    let clients: Vec<Client> = (0..16u32)
        .map(|client| {
            let prompt = (0..512).map(|at| at % 200).chain([client, client + 1]).collect();
            world.submit(request("a", prompt, 3))
        })
        .collect();
    world.run_out();
    assert!(clients.iter().all(|client| client.0.borrow().finished.is_some()));
    let computed = world.decoder.counts().computed.load(Ordering::SeqCst);
    assert!(computed < 512 + 16 * 8, "{computed} tokens were computed; alone they are {}", 16 * 516);
}

#[test]
fn who_leaves_is_gone_before_the_next_step() {
    let mut world = World::new(limits(300, 4, 64, true), settings(4));
    let mut endless = request("a", (0..50).collect(), 200);
    endless.ignore_end = true;
    let client = world.submit(endless);
    world.step();
    world.step();
    assert!(world.scheduler.cells_running() >= 50);
    client.0.borrow_mut().gone = true;
    let report = world.step();
    assert_eq!((report.read, report.written), (0, 0), "a step was computed for nobody");
    assert_eq!((world.scheduler.running(), world.scheduler.cells_running()), (0, 0));
}

#[test]
fn who_is_too_late_is_told_whether_it_waits_or_runs() {
    let mut world = World::new(limits(300, 4, 64, true), settings(1));
    let mut slow = request("a", (0..50).collect(), 200);
    slow.ignore_end = true;
    slow.context.deadline = Tick::from_millis(40);
    let mut behind = request("a", (0..50).collect(), 200);
    behind.context.deadline = Tick::from_millis(20);
    let (slow, behind) = (world.submit(slow), world.submit(behind));
    world.run_out();
    for client in [&slow, &behind] {
        assert_eq!(client.0.borrow().error, Some(GenerationError::Late));
    }
    assert!(!slow.0.borrow().text.is_empty());
    assert_eq!(world.scheduler.cells_running(), 0);
}

#[test]
fn a_request_the_model_fails_on_fails_alone() {
    let mut world = World::new(limits(300, 8, 64, true), settings(8));
    world.decoder.poison = Some(250);
    let good: Vec<(Request, Client)> = (0..3u32)
        .map(|at| {
            let request = request("a", vec![at, 1, 2], 10);
            (request.clone(), world.submit(request))
        })
        .collect();
    let bad = world.submit(request("b", vec![1, 250, 3], 10));
    world.run_out();
    assert_eq!(bad.0.borrow().error, Some(GenerationError::Failed));
    for (request, client) in &good {
        assert_eq!(client.0.borrow().text, alone(request));
    }
    world.scheduler.forget(&mut world.decoder);
    assert_eq!(world.taken(), 0);
}

#[test]
fn a_request_that_fits_nowhere_ends_instead_of_waiting_for_ever() {
    let mut world = World::new(limits(100, 4, 64, true), settings(4));
    let mut endless = request("a", (0..60).collect(), 100);
    endless.ignore_end = true;
    let client = world.submit(endless);
    world.run_out();
    assert_eq!(client.0.borrow().error, Some(GenerationError::Failed));
}

#[test]
fn device_time_is_shared_out_to_the_last_nanosecond() {
    let mut world = World::new(limits(300, 8, 64, true), settings(8));
    let clients: Vec<Client> = (0..5u32).map(|at| world.submit(request("a", (at..at + 17).collect(), 9))).collect();
    let mut total = Duration::ZERO;
    while world.scheduler.running() + world.scheduler.waiting() > 0 {
        total += world.step().device_time;
    }
    let shared: Duration =
        clients.iter().map(|client| client.0.borrow().finished.as_ref().unwrap().usage.device_time).sum();
    assert_eq!(shared, total);
}

/// All places, or all cells, are the background's; someone comes who is not of it.
#[test]
fn background_requests_make_room_and_lose_nothing() {
    for (running, cells) in [(1, 400), (3, 400), (8, 85)] {
        let mut world = World::new(limits(cells, 8, 32, true), settings(running));
        let long = |tail: TokenId| {
            let mut request = request("a", (0..20).map(|at| at % 7 + tail).collect(), 60);
            request.context.priority = Priority::Batch;
            request
        };
        let written_long = (0..200).map(long).filter(|request| alone(request).len() > 55).take(4);
        let background: Vec<(Request, Client)> =
            written_long.map(|request| (request.clone(), world.submit(request))).collect();
        assert_eq!(background.len(), 4);
        (0..45).for_each(|_| _ = world.step());
        assert!(world.scheduler.running() > 0 && world.scheduler.waiting_background() > 0, "there is no room left");
        let asked = request("b", (50..70).collect(), 10);
        let client = world.submit(asked.clone());
        let gave_way = world.step().preempted;
        assert!(gave_way > 0, "with {running} places and {cells} cells");
        // Its prompt fits a step: it has its first token, if it has any, and goes on with every step.
        let steps = alone(&asked).len() + 1;
        (0..steps).for_each(|_| _ = world.step());
        assert!(client.0.borrow().finished.is_some(), "{running} places, {cells} cells");
        world.run_out();
        for (request, client) in &background {
            assert_eq!(client.0.borrow().text, alone(request));
        }
        world.scheduler.forget(&mut world.decoder);
        assert_eq!(world.taken(), 0);
    }
}

#[test]
fn background_requests_share_steps_where_there_is_room() {
    let mut world = World::new(limits(1_000, 8, 64, true), settings(8));
    let mut background = request("a", (1..20).collect(), 30);
    background.context.priority = Priority::Batch;
    let _client = world.submit(background);
    let _other = world.submit(request("b", (30..60).collect(), 30));
    let mut preempted = 0;
    for _ in 0..200 {
        preempted += world.step().preempted;
    }
    assert_eq!((preempted, world.scheduler.running()), (0, 0));
}
