//! A template's tree.
//!
//! Chains that associate to the left (`a + b + c`, `a.b.c | d`) are kept as lists, so that the height
//! of a tree is the depth of its source's brackets and blocks and nothing recurses deeper than that.

use std::sync::Arc;

/// Statements in order.
pub(crate) type Body = Vec<Statement>;

/// A statement and the line it begins on.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) line: u32,
    pub(crate) kind: Kind,
}

/// What a statement does.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Writes text.
    Data(String),
    /// Writes a value.
    Print(Expr),
    For(Box<For>),
    If {
        branches: Vec<(Expr, Body)>,
        otherwise: Body,
    },
    Set {
        target: Target,
        value: Expr,
    },
    /// Sets what the body writes, after filters.
    Capture {
        target: Target,
        filters: Vec<Step>,
        body: Body,
    },
    With {
        assignments: Vec<(Target, Expr)>,
        body: Body,
    },
    /// Writes what the body writes, after filters.
    Filter {
        filters: Vec<Step>,
        body: Body,
    },
    Macro(Macro),
    /// Calls with the body as `caller`.
    Call {
        caller: Macro,
        call: Expr,
    },
    /// `{% generation %}`: marks what an assistant said, for training. Here it is its body.
    Generation(Body),
    Break,
    Continue,
}

#[derive(Debug)]
pub(crate) struct For {
    pub(crate) target: Target,
    pub(crate) items: Expr,
    pub(crate) condition: Option<Expr>,
    pub(crate) body: Body,
    pub(crate) otherwise: Body,
}

#[derive(Debug)]
pub(crate) struct Macro {
    pub(crate) name: String,
    pub(crate) parameters: Vec<(String, Option<Expr>)>,
    pub(crate) body: Body,
}

/// What a value is assigned to.
#[derive(Debug)]
pub(crate) enum Target {
    Name(String),
    /// `namespace.attribute`
    Attribute(String, String),
    Several(Vec<Target>),
}

#[derive(Debug)]
pub(crate) enum Expr {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Arc<str>),
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    Arithmetic(Box<Expr>, Vec<(Operator, Expr)>),
    /// `a ~ b ~ c`
    Concat(Vec<Expr>),
    If(Box<Choice>),
    /// A value and what is done to it, one step after the other.
    Steps(Box<Expr>, Vec<Step>),
}

#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) condition: Expr,
    pub(crate) then: Expr,
    pub(crate) otherwise: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

#[derive(Debug)]
pub(crate) enum Step {
    Attribute(Arc<str>),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Arguments),
    Filter(String, Arguments),
    Test { name: String, negated: bool, arguments: Arguments },
}

/// What is passed to a call.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) positional: Vec<Expr>,
    pub(crate) named: Vec<(Arc<str>, Expr)>,
    /// `*list`
    pub(crate) spread: Option<Expr>,
    /// `**map`
    pub(crate) spread_named: Option<Expr>,
}
