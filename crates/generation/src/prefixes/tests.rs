#![allow(clippy::unwrap_used)]
use std::sync::atomic::Ordering;

use halny_engine::StepToken;
use halny_engine::testsuite::decoder::FakeDecoder;
use proptest::prelude::*;

use super::*;

fn limits(cells: usize, sequences: usize, shares: bool) -> DecoderLimits {
    DecoderLimits { cells, sequences, step_tokens: 64, context: cells, shares }
}

fn space(tenant: &str) -> Space {
    Space { tenant: TenantId::new(tenant).unwrap(), adapter: None }
}

/// A tree, its decoder, and what runs: its place, its tokens, how many are computed.
struct World {
    prefixes: Prefixes,
    decoder: FakeDecoder,
    running: Vec<(SequenceId, Vec<TokenId>, usize)>,
}

impl World {
    fn new(limits: DecoderLimits) -> World {
        World { prefixes: Prefixes::new(limits), decoder: FakeDecoder::new(limits), running: Vec::new() }
    }

    fn open(&mut self, tenant: &str, tokens: &[TokenId]) -> Option<usize> {
        let most = tokens.len() - 1;
        let (sequence, shared) = self.prefixes.open(&mut self.decoder, &space(tenant), tokens, most)?;
        self.running.push((sequence, tokens.to_vec(), shared));
        Some(shared)
    }

    /// Computes up to `count` tokens of a running sequence; whether there was room.
    fn compute(&mut self, place: usize, count: usize) -> bool {
        (0..count).step_by(64).all(|at| self.compute_step(place, (count - at).min(64)))
    }

    fn compute_step(&mut self, place: usize, count: usize) -> bool {
        let (sequence, tokens, computed) = &mut self.running[place];
        let end = (*computed + count).min(tokens.len());
        if end == *computed {
            return true;
        }
        if !self.prefixes.make_room(&mut self.decoder, end - *computed) {
            return false;
        }
        let step: Vec<StepToken> = (*computed..end)
            .map(|at| StepToken { token: tokens[at], position: at as u32, sequence: *sequence, wants_logits: false })
            .collect();
        self.decoder.step(&step, None).unwrap();
        self.prefixes.extend(*sequence, &tokens[*computed..end]);
        *computed = end;
        true
    }

    fn close(&mut self, place: usize) {
        let (sequence, ..) = self.running.swap_remove(place);
        self.prefixes.close(&mut self.decoder, sequence);
    }

    fn check(&self) {
        let held = self.decoder.counts().cells.load(Ordering::SeqCst);
        assert_eq!(self.prefixes.taken(), held, "the books and the decoder disagree");
        let nodes = self.prefixes.nodes.iter().flatten();
        assert_eq!(nodes.clone().map(|node| node.tokens.len()).sum::<usize>(), held);
        let idle: usize = nodes.clone().filter(|node| node.running == 0).map(|node| node.tokens.len()).sum();
        assert_eq!(self.prefixes.reclaimable, idle);
        for node in nodes {
            let above = node.parent.map_or(0, |parent| self.prefixes.node(parent).end);
            assert_eq!(node.end, above + node.tokens.len());
            assert!(node.parent.is_none() || !node.children.is_empty() || !node.tips.is_empty(), "a leaf nobody holds");
        }
    }
}

#[test]
fn a_second_prompt_shares_what_the_first_computed_and_computes_its_last_token_itself() {
    let mut world = World::new(limits(256, 8, true));
    let prompt: Vec<TokenId> = (0..100).collect();
    assert_eq!(world.open("a", &prompt), Some(0));
    assert!(world.compute(0, 60));
    assert_eq!(world.open("a", &prompt), Some(60), "what is computed so far is shared, whoever runs");
    assert!(world.compute(0, 40) && world.compute(1, 40));
    world.close(0);
    world.close(0);
    assert_eq!(world.open("a", &prompt), Some(99));
    world.check();
}

#[test]
fn prompts_of_two_tenants_share_nothing() {
    let mut world = World::new(limits(256, 8, true));
    let prompt: Vec<TokenId> = (0..50).collect();
    world.open("a", &prompt);
    world.compute(0, 50);
    world.close(0);
    assert_eq!(world.open("b", &prompt), Some(0));
    assert_eq!(world.open("a", &prompt), Some(49));
    world.check();
}

#[test]
fn the_leaf_used_longest_ago_goes_first_and_a_shared_trunk_last() {
    let mut world = World::new(limits(300, 8, true));
    let trunk: Vec<TokenId> = (0..80).collect();
    let with = |tail: TokenId| [trunk.clone(), (0..70).map(|at| tail + at).collect()].concat();
    for tail in [1_000, 2_000, 3_000] {
        world.open("a", &with(tail));
        world.compute(0, 200);
        world.close(0);
    }
    assert_eq!(world.prefixes.taken(), 80 + 3 * 70);
    // The first is used again: the second is now the oldest.
    assert_eq!(world.prefixes.known(&space("a"), &with(1_000), 150), (150, 150));
    world.open("a", &with(1_000));
    world.close(0);
    assert!(world.prefixes.make_room(&mut world.decoder, 300 - 290 + 70));
    let known = |tail| world.prefixes.known(&space("a"), &with(tail), 150).0;
    assert_eq!((known(1_000), known(2_000), known(3_000)), (150, 80, 150));
    world.check();
}

#[test]
fn what_was_used_last_is_remembered_however_long_it_is() {
    let mut world = World::new(limits(300, 8, true));
    let from = |first: TokenId| (first..first + 100).collect::<Vec<TokenId>>();
    for first in [0, 1_000] {
        world.open("a", &from(first));
        world.compute(0, 100);
        world.close(0);
    }
    world.prefixes.trim(&mut world.decoder, 10);
    let known = |first| world.prefixes.known(&space("a"), &from(first), 99).0;
    assert_eq!((known(0), known(1_000)), (0, 99));
    world.check();
}

#[test]
fn a_decoder_that_cannot_share_remembers_nothing() {
    let mut world = World::new(limits(100, 4, false));
    let prompt: Vec<TokenId> = (0..40).collect();
    world.open("a", &prompt);
    world.compute(0, 40);
    world.close(0);
    assert_eq!(world.prefixes.taken(), 0);
    assert_eq!(world.open("a", &prompt), Some(0));
    world.check();
}

#[derive(Clone, Debug)]
enum Act {
    Open(u8, Vec<u8>),
    Compute(usize, usize),
    Close(usize),
    MakeRoom(usize),
    Trim(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0u8..2, prop::collection::vec(0u8..3, 1..40)).prop_map(|(tenant, tokens)| Act::Open(tenant, tokens)),
        5 => (any::<usize>(), 1usize..20).prop_map(|(place, count)| Act::Compute(place, count)),
        2 => any::<usize>().prop_map(Act::Close),
        1 => (0usize..120).prop_map(Act::MakeRoom),
        1 => (0usize..120).prop_map(Act::Trim),
    ]
}

proptest! {
    #[test]
    fn the_books_agree_with_the_decoder_whatever_happens(shares in any::<bool>(), acts in prop::collection::vec(act(), 1..120)) {
        let mut world = World::new(limits(120, 6, shares));
        for act in acts {
            let count = world.running.len();
            match act {
                Act::Open(tenant, tokens) => {
                    let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId::from).collect();
                    world.open(["a", "b"][usize::from(tenant)], &tokens);
                }
                Act::Compute(place, tokens) if count > 0 => { world.compute(place % count, tokens); }
                Act::Close(place) if count > 0 => world.close(place % count),
                Act::Trim(cells) => {
                    world.prefixes.trim(&mut world.decoder, cells);
                    let idle = world.prefixes.places.iter().filter(|place| matches!(place, Place::Idle(_))).count();
                    prop_assert!(idle <= 1 || world.prefixes.remembered() <= cells);
                }
                Act::MakeRoom(cells) => {
                    let can = world.prefixes.available() >= cells;
                    prop_assert_eq!(world.prefixes.make_room(&mut world.decoder, cells), can);
                }
                _ => {}
            }
            world.check();
        }
        while !world.running.is_empty() {
            world.close(0);
        }
        world.prefixes.forget(&mut world.decoder);
        world.check();
        prop_assert_eq!(world.prefixes.taken(), 0);
        prop_assert_eq!(world.prefixes.available(), 120);
    }
}
