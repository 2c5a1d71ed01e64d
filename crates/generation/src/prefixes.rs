//! Who holds which cells: a radix tree over everything that is computed, so that equal prefixes are
//! computed once (Zheng et al., "SGLang: Efficient Execution of Structured Language Model Programs",
//! NeurIPS 2024).
//!
//! A node is a run of tokens whose cells exist; a path from the root to a node is a prefix that a new
//! sequence can share. Every sequence has its *tip*, the node at which its tokens end. A sequence
//! that is done stays as a memory of its tokens (*idle*) until its cells are wanted: then the leaf
//! that was used longest ago goes first, from its end.
//!
//! Two nodes stand for different cells even where their tokens are equal: sequences that computed the
//! same tokens side by side hold them twice. So the lengths of all nodes add up to the cells taken,
//! which is what [`Prefixes::taken`] promises and the decoder's own books are compared with.
//!
//! Each tenant has trees of its own, one for each adapter: prefixes are never shared between two.

use std::collections::HashMap;

use halny_engine::{Decoder, DecoderLimits, SequenceId, TokenId};
use halny_types::TenantId;

/// Whose prefixes, made with which weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Space {
    /// The tenant.
    pub tenant: TenantId,
    /// The adapter that changed the weights.
    pub adapter: Option<usize>,
}

/// Fewer cells than this are not taken from a leaf: each cut costs the decoder a walk over its cells.
const CUT_MIN: usize = 64;

type NodeId = usize;

#[derive(Debug)]
struct Node {
    /// `None` for a root.
    parent: Option<NodeId>,
    tokens: Vec<TokenId>,
    /// Tokens from the root to the end of this node.
    end: usize,
    children: Vec<NodeId>,
    /// Sequences that end here. A node without children has at least one.
    tips: Vec<SequenceId>,
    /// Running sequences that end here or below.
    running: usize,
    /// When a sequence last ran through here; larger is later.
    used: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    Running(NodeId),
    Idle(NodeId),
}

/// The cells of one decoder.
#[derive(Debug)]
pub struct Prefixes {
    limits: DecoderLimits,
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
    roots: HashMap<Space, NodeId>,
    places: Vec<Place>,
    taken: usize,
    /// Cells that no running sequence holds.
    reclaimable: usize,
    uses: u64,
}

impl Prefixes {
    /// Nothing computed yet.
    #[must_use]
    pub fn new(limits: DecoderLimits) -> Prefixes {
        Prefixes {
            limits,
            nodes: Vec::new(),
            vacant: Vec::new(),
            roots: HashMap::new(),
            places: vec![Place::Free; limits.sequences],
            taken: 0,
            reclaimable: 0,
            uses: 0,
        }
    }

    /// Cells that hold something.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Cells that are free, or can be made so without touching what runs.
    #[must_use]
    pub fn available(&self) -> usize {
        self.limits.cells - self.taken + self.reclaimable
    }

    /// Cells that are free now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.limits.cells - self.taken
    }

    /// Cells that are remembered: no running sequence holds them.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.reclaimable
    }

    /// How many of the first `most` tokens could be shared, and how many of these no running sequence
    /// holds: sharing them makes them unavailable.
    #[must_use]
    pub fn known(&self, space: &Space, tokens: &[TokenId], most: usize) -> (usize, usize) {
        let Some((node, known)) = self.longest(space, tokens.get(..most).unwrap_or(tokens)) else { return (0, 0) };
        let mut held = 0;
        let mut at = Some(node);
        while let Some(node) = at {
            let node = self.node(node);
            if node.running > 0 {
                held = node.end.min(known);
                break;
            }
            at = node.parent;
        }
        (known, known - held)
    }

    /// Gives a place to a new sequence, which shares as many of its first `most` tokens as are known.
    /// Tells how many; `None` when every place is taken by what runs.
    pub fn open(
        &mut self,
        decoder: &mut dyn Decoder,
        space: &Space,
        tokens: &[TokenId],
        most: usize,
    ) -> Option<(SequenceId, usize)> {
        let known = if self.limits.shares { tokens.get(..most).unwrap_or(tokens) } else { &[] };
        let mut found = self.longest(space, known);
        let sequence = match self.free_place() {
            Some(sequence) => sequence,
            None => {
                // What is about to be shared is used now, and not the first to go.
                self.touch(found.map(|(node, _)| node));
                let sequence = self.vacate(decoder)?;
                found = self.longest(space, known);
                sequence
            }
        };
        let (tip, shared) = match found {
            Some((node, shared)) if shared > 0 => (self.split(node, shared), shared),
            _ => (self.root(space), 0),
        };
        if shared > 0 {
            let giver = self.holder(tip)?;
            decoder.share(giver, sequence, u32::try_from(shared).unwrap_or(u32::MAX));
        }
        self.node_mut(tip).tips.push(sequence);
        self.set_place(sequence, Place::Running(tip));
        self.count_running(tip, true);
        self.touch(Some(tip));
        Some((sequence, shared))
    }

    /// These tokens of a running sequence have been computed.
    pub fn extend(&mut self, sequence: SequenceId, tokens: &[TokenId]) {
        let Place::Running(tip) = self.place(sequence) else { return };
        self.taken += tokens.len();
        let node = self.node_mut(tip);
        if node.parent.is_some() && node.children.is_empty() && node.tips.len() == 1 {
            node.tokens.extend_from_slice(tokens);
            node.end += tokens.len();
            return;
        }
        let end = node.end + tokens.len();
        let used = node.used;
        node.tips.retain(|tip| *tip != sequence);
        let child = self.insert(Node {
            parent: Some(tip),
            tokens: tokens.to_vec(),
            end,
            children: Vec::new(),
            tips: vec![sequence],
            running: 1,
            used,
        });
        self.node_mut(tip).children.push(child);
        self.set_place(sequence, Place::Running(child));
    }

    /// A running sequence is done. Its tokens are remembered as long as nobody wants their cells.
    pub fn close(&mut self, decoder: &mut dyn Decoder, sequence: SequenceId) {
        let Place::Running(tip) = self.place(sequence) else { return };
        self.count_running(tip, false);
        self.touch(Some(tip));
        self.set_place(sequence, Place::Idle(tip));
        let node = self.node(tip);
        let redundant = node.parent.is_none() || !node.children.is_empty() || node.tips.len() > 1;
        if redundant {
            self.leave(decoder, sequence, tip);
        } else if !self.limits.shares {
            self.drop_leaf(decoder, tip);
        }
    }

    /// Frees cells of idle sequences until `cells` are free; tells whether they are.
    pub fn make_room(&mut self, decoder: &mut dyn Decoder, cells: usize) -> bool {
        while self.free() < cells {
            let Some(leaf) = self.oldest_leaf() else { return false };
            let wanted = (cells - self.free()).max(CUT_MIN);
            if self.limits.shares && self.node(leaf).tokens.len() > wanted {
                self.cut_leaf(decoder, leaf, wanted);
            } else {
                self.drop_leaf(decoder, leaf);
            }
        }
        true
    }

    /// Forgets what was used longest ago until at most `cells` are remembered. What was used last stays,
    /// however long it is: a single conversation goes on.
    pub fn trim(&mut self, decoder: &mut dyn Decoder, cells: usize) {
        while self.reclaimable > cells && self.places.iter().filter(|place| matches!(place, Place::Idle(_))).count() > 1
        {
            let Some(leaf) = self.oldest_leaf() else { return };
            self.drop_leaf(decoder, leaf);
        }
    }

    /// Forgets every idle sequence.
    pub fn forget(&mut self, decoder: &mut dyn Decoder) {
        while let Some(leaf) = self.oldest_leaf() {
            self.drop_leaf(decoder, leaf);
        }
    }

    /// The deepest point of the tree that `tokens` lead to: a node, and how many tokens were matched;
    /// the match may end inside the node.
    fn longest(&self, space: &Space, tokens: &[TokenId]) -> Option<(NodeId, usize)> {
        let mut at = *self.roots.get(space)?;
        let mut matched = 0;
        loop {
            let rest = tokens.get(matched..).unwrap_or_default();
            let common = |child: &NodeId| {
                let run = &self.node(*child).tokens;
                (run.iter().zip(rest).take_while(|(a, b)| a == b).count(), *child)
            };
            let best = self.node(at).children.iter().map(common).max_by_key(|(common, _)| *common);
            match best {
                Some((common, child)) if common > 0 => {
                    matched += common;
                    at = child;
                    if common < self.node(child).tokens.len() {
                        return Some((at, matched));
                    }
                }
                _ => return Some((at, matched)),
            }
        }
    }

    /// The node that ends exactly after `end` tokens on the way to `node`, which is cut in two where
    /// it goes on beyond that.
    fn split(&mut self, node: NodeId, end: usize) -> NodeId {
        let lower = self.node_mut(node);
        let start = lower.end - lower.tokens.len();
        if end == lower.end {
            return node;
        }
        let rest = lower.tokens.split_off(end - start);
        let upper_tokens = std::mem::replace(&mut lower.tokens, rest);
        let (parent, running, used) = (lower.parent, lower.running, lower.used);
        let upper = Node { parent, tokens: upper_tokens, end, children: vec![node], tips: Vec::new(), running, used };
        let upper = self.insert(upper);
        self.node_mut(node).parent = Some(upper);
        if let Some(parent) = parent {
            for child in &mut self.node_mut(parent).children {
                if *child == node {
                    *child = upper;
                }
            }
        }
        upper
    }

    /// A sequence that holds everything up to `node`.
    fn holder(&self, mut node: NodeId) -> Option<SequenceId> {
        loop {
            let here = self.node(node);
            match here.tips.first() {
                Some(tip) => return Some(*tip),
                None => node = *here.children.first()?,
            }
        }
    }

    /// The leaf that was used longest ago, of those that no running sequence ends in.
    fn oldest_leaf(&self) -> Option<NodeId> {
        let idle = self.places.iter().filter_map(|place| match place {
            Place::Idle(tip) => Some(*tip),
            _ => None,
        });
        idle.filter(|tip| self.node(*tip).children.is_empty() && self.node(*tip).running == 0)
            .min_by_key(|tip| self.node(*tip).used)
    }

    /// Takes `count` cells from the end of an idle leaf.
    fn cut_leaf(&mut self, decoder: &mut dyn Decoder, leaf: NodeId, count: usize) {
        let node = self.node_mut(leaf);
        node.tokens.truncate(node.tokens.len() - count);
        node.end -= count;
        let (end, tips) = (node.end, node.tips.clone());
        for tip in tips {
            decoder.keep(tip, u32::try_from(end).unwrap_or(u32::MAX));
        }
        self.taken -= count;
        self.reclaimable -= count;
    }

    /// Frees an idle leaf. The sequence that ended there remembers what is before it, unless others do.
    fn drop_leaf(&mut self, decoder: &mut dyn Decoder, leaf: NodeId) {
        let Some(node) = self.nodes.get_mut(leaf).and_then(Option::take) else { return };
        self.vacant.push(leaf);
        self.taken -= node.tokens.len();
        self.reclaimable -= node.tokens.len();
        let Some(parent) = node.parent else { return };
        self.node_mut(parent).children.retain(|child| *child != leaf);
        for tip in node.tips {
            let above = self.node(parent);
            let needed = above.parent.is_some() && above.children.is_empty() && above.tips.is_empty();
            if needed && self.limits.shares {
                decoder.keep(tip, u32::try_from(above.end).unwrap_or(u32::MAX));
                self.node_mut(parent).tips.push(tip);
                self.set_place(tip, Place::Idle(parent));
            } else {
                decoder.keep(tip, 0);
                self.set_place(tip, Place::Free);
            }
        }
        self.tidy(parent);
    }

    /// An idle sequence gives up its place; others hold all its cells.
    fn leave(&mut self, decoder: &mut dyn Decoder, sequence: SequenceId, tip: NodeId) {
        decoder.keep(sequence, 0);
        self.node_mut(tip).tips.retain(|other| *other != sequence);
        self.set_place(sequence, Place::Free);
        self.tidy(tip);
    }

    /// Joins a node at which nothing ends any more with its only child, and drops empty roots.
    fn tidy(&mut self, node: NodeId) {
        let here = self.node(node);
        if !here.tips.is_empty() || here.children.len() > 1 {
            return;
        }
        match (here.parent, here.children.first().copied()) {
            (None, None) => {
                self.roots.retain(|_, root| *root != node);
                self.remove(node);
            }
            (Some(parent), Some(child)) => {
                let Some(upper) = self.nodes.get_mut(node).and_then(Option::take) else { return };
                self.vacant.push(node);
                let lower = self.node_mut(child);
                let rest = std::mem::replace(&mut lower.tokens, upper.tokens);
                lower.tokens.extend(rest);
                lower.used = lower.used.max(upper.used);
                lower.parent = Some(parent);
                for entry in &mut self.node_mut(parent).children {
                    if *entry == node {
                        *entry = child;
                    }
                }
            }
            _ => {}
        }
    }

    fn free_place(&self) -> Option<SequenceId> {
        let place = self.places.iter().position(|place| *place == Place::Free)?;
        u16::try_from(place).ok().map(SequenceId)
    }

    /// Frees leaves until a place is free.
    fn vacate(&mut self, decoder: &mut dyn Decoder) -> Option<SequenceId> {
        loop {
            if let Some(sequence) = self.free_place() {
                return Some(sequence);
            }
            let leaf = self.oldest_leaf()?;
            self.drop_leaf(decoder, leaf);
        }
    }

    /// One running sequence more, or less, ends at `tip`.
    fn count_running(&mut self, tip: NodeId, more: bool) {
        let mut at = Some(tip);
        let mut changed = 0;
        while let Some(node) = at {
            let node = self.node_mut(node);
            if more {
                changed += if node.running == 0 { node.tokens.len() } else { 0 };
                node.running += 1;
            } else {
                node.running -= 1;
                changed += if node.running == 0 { node.tokens.len() } else { 0 };
            }
            at = node.parent;
        }
        if more {
            self.reclaimable -= changed;
        } else {
            self.reclaimable += changed;
        }
    }

    /// A path is used now.
    fn touch(&mut self, mut at: Option<NodeId>) {
        self.uses += 1;
        let now = self.uses;
        while let Some(node) = at {
            let node = self.node_mut(node);
            node.used = now;
            at = node.parent;
        }
    }

    fn root(&mut self, space: &Space) -> NodeId {
        if let Some(root) = self.roots.get(space) {
            return *root;
        }
        let root = Node {
            parent: None,
            tokens: Vec::new(),
            end: 0,
            children: Vec::new(),
            tips: Vec::new(),
            running: 0,
            used: self.uses,
        };
        let root = self.insert(root);
        self.roots.insert(space.clone(), root);
        root
    }

    fn insert(&mut self, node: Node) -> NodeId {
        match self.vacant.pop() {
            Some(vacant) => {
                self.nodes[vacant] = Some(node);
                vacant
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() - 1
            }
        }
    }

    fn remove(&mut self, node: NodeId) {
        self.nodes[node] = None;
        self.vacant.push(node);
    }

    fn place(&self, sequence: SequenceId) -> Place {
        self.places.get(usize::from(sequence.0)).copied().unwrap_or(Place::Free)
    }

    fn set_place(&mut self, sequence: SequenceId, place: Place) {
        if let Some(entry) = self.places.get_mut(usize::from(sequence.0)) {
            *entry = place;
        }
    }

    /// A node that the tree refers to. Ids never leave this module, and a node is removed only together
    /// with what refers to it.
    fn node(&self, node: NodeId) -> &Node {
        self.nodes[node].as_ref().unwrap_or_else(|| unreachable!("a node that was removed"))
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Node {
        self.nodes[node].as_mut().unwrap_or_else(|| unreachable!("a node that was removed"))
    }
}

#[cfg(test)]
mod tests;
