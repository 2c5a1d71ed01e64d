//! Expressions of on-demand features, in CEL: read once, checked, and evaluated by the same code online and offline.
//!
//! Names are resolved when the expression is compiled: `view.feature` and `request.field` become numbers of inputs, so
//! that evaluating one looks nothing up. What an evaluation may cost is bounded by what an expression may say: it has no
//! loops but those over one list, no loop within a loop, and no regular expressions.
//!
//! The types of operands are tried, not proved: the expression is evaluated once with ordinary values of its inputs'
//! types, and refused when no operator takes them. A moment is a whole number of microseconds there.
//!
//! Not SQL or Python: neither ends by itself, and the second cannot be bounded.

use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, operators};
use cel::common::types::{CelBool, CelBytes, CelDouble, CelInt, CelList, CelNull, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::parser::Parser;
use cel::{Context, Env, ExecutionError, IdedExpr};
use halny_types::project::features::{FeatureType, Scalar};

use crate::{Moment, Value};

/// The most parts (names, numbers, operators) of an expression.
const NODES_MAX: usize = 500;
/// The longest list that an expression reads, and the longest text: with longer ones it is not evaluated.
pub(crate) const LIST_ITEMS_MAX: usize = 1_024;
/// The most bytes of text that an expression reads in one value.
pub(crate) const TEXT_BYTES_MAX: usize = 16 << 10;

/// What may be called. Operators have names too.
const FUNCTIONS: [&str; 30] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::NOT_STRICTLY_FALSE,
    operators::IN,
    "bool",
    "bytes",
    "contains",
    "double",
    "endsWith",
    "int",
    "size",
    "startsWith",
    "string",
    "type",
    "uint",
];

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// What is wrong with an expression, and what would be right.
pub(crate) type Trouble = (String, String);

/// Tells the number and the type of the input that an expression calls `owner.name`.
pub(crate) type Inputs<'a> = dyn Fn(&str, &str) -> Result<(usize, FeatureType), Trouble> + 'a;

/// An expression that was compiled.
#[derive(Debug)]
pub(crate) struct Expression {
    root: IdedExpr,
    /// Those of the inputs that it reads.
    reads: Vec<usize>,
    value_type: FeatureType,
}

/// Why a feature was not computed. It is null then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

impl Expression {
    /// Compiles an expression that gives a value of `value_type`; `input` is the number and type of a name.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub(crate) fn compile(text: &str, value_type: FeatureType, input: &Inputs<'_>) -> Result<Expression, Trouble> {
        let parsed = Parser::new().max_recursion_depth(48).parse(text).map_err(|errors| {
            let first = errors.errors.first();
            let (place, what) = first.map_or((1, "it is empty"), |error| (error.pos.1, error.msg.as_str()));
            let wrong = format!("the expression cannot be read at character {place}: {what}");
            (wrong, "write it in CEL, such as \"double(view.a) / 2.0\"".to_owned())
        })?;
        let mut root = parsed;
        let mut reader = Reader { input, inputs: Vec::new(), locals: Vec::new(), nodes: 0, added: false };
        reader.expression(&mut root)?;
        let mut inputs = reader.inputs;
        inputs.sort_unstable();
        inputs.dedup();
        let expression = Expression { root, reads: inputs.iter().map(|(at, _)| *at).collect(), value_type };
        expression.try_out(&inputs)?;
        Ok(expression)
    }

    /// Evaluates with ordinary values, of which an operator that takes none of their types is seen.
    fn try_out(&self, inputs: &[(usize, FeatureType)]) -> Result<(), Trouble> {
        let count = inputs.iter().map(|(at, _)| at + 1).max().unwrap_or(0);
        let mut values = vec![Value::Null; count];
        for (at, value_type) in inputs {
            values[*at] = ordinary(*value_type);
        }
        let values: Vec<&Value> = values.iter().collect();
        let conversions = "convert one side, such as double(view.count), since CEL mixes no types".to_owned();
        use ExecutionError as E;
        match self.run(&values) {
            // What depends on the values, such as a division by zero, is null when it happens.
            Err(E::DivisionByZero(_) | E::RemainderByZero(_) | E::Overflow(..) | E::IndexOutOfBounds(_)) => Ok(()),
            Err(E::NoSuchKey(_) | E::DuplicateKey(_) | E::FunctionError { .. }) => Ok(()),
            Err(error) => Err((format!("the expression cannot be evaluated: {error}"), conversions)),
            Ok(value) if read(value.as_ref(), self.value_type).is_none() => {
                let is = value.get_type().name();
                let wrong = format!("the expression gives {is}, and the feature is {}", self.value_type);
                Err((wrong, "write another type, or convert it, such as int(...)".to_owned()))
            }
            Ok(_) => Ok(()),
        }
    }

    /// Computes the feature. `inputs` are all inputs by number.
    ///
    /// # Errors
    /// When it cannot be: an operator has no meaning for these values, a number is out of range, a text too long.
    pub(crate) fn evaluate(&self, inputs: &[&Value]) -> Result<Value, Failed> {
        let fits = |at: &usize| match inputs.get(*at) {
            Some(Value::List(items)) => {
                items.len() <= LIST_ITEMS_MAX && items.iter().map(bytes).sum::<usize>() <= 64 << 10
            }
            Some(one) => bytes(one) <= TEXT_BYTES_MAX,
            None => false,
        };
        if !self.reads.iter().all(fits) {
            return Err(Failed);
        }
        let value = self.run(inputs).map_err(|_| Failed)?;
        read(value.as_ref(), self.value_type).ok_or(Failed)
    }

    fn run(&self, inputs: &[&Value]) -> Result<Box<dyn Val>, ExecutionError> {
        let resolver = Given(inputs);
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(&resolver);
        let value = cel::Value::resolve_val(&self.root, &context)?;
        // What borrows the inputs is made its own; results are small.
        cel::Value::try_from(value.as_ref())?.try_into()
    }
}

fn bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 8,
    }
}

/// A value that most operators have a meaning for.
fn ordinary(value_type: FeatureType) -> Value {
    let one = match value_type.of {
        Scalar::Int32 => Value::Int32(1),
        Scalar::Int64 => Value::Int64(1),
        Scalar::Float32 => Value::Float32(1.0),
        Scalar::Float64 => Value::Float64(1.0),
        Scalar::Bool => Value::Bool(true),
        Scalar::String => Value::String("1".to_owned()),
        Scalar::Bytes => Value::Bytes(b"1".to_vec()),
        Scalar::UnixTimestamp => Value::Timestamp(Moment(1)),
    };
    if value_type.list { Value::List(vec![one]) } else { one }
}

/// Names of inputs, as the compiled expression has them: no name of a user's begins so.
const INPUT: &str = "__";

struct Given<'a>(&'a [&'a Value]);

impl VariableResolver for Given<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let at: usize = variable.strip_prefix(INPUT)?.parse().ok()?;
        self.0.get(at).map(|value| CowVal::Owned(given(value)))
    }
}

fn given<'b>(value: &'b Value) -> Box<dyn Val + 'b> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Int32(value) => Box::new(CelInt::from(i64::from(*value))),
        Value::Int64(value) => Box::new(CelInt::from(*value)),
        Value::Float32(value) => Box::new(CelDouble::from(f64::from(*value))),
        Value::Float64(value) => Box::new(CelDouble::from(*value)),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::String(value) => Box::new(CelString::from(value.as_str())),
        Value::Bytes(value) => Box::new(CelBytes::from(value.as_slice())),
        Value::Timestamp(value) => Box::new(CelInt::from(value.0)),
        Value::List(items) => Box::new(CelList::from(items.iter().map(given).collect::<Vec<_>>())),
    }
}

/// The result as a value of the feature's type; nothing when it is none. A whole number may become a float; nothing else
/// changes its type.
fn read(value: &dyn Val, value_type: FeatureType) -> Option<Value> {
    match cel::Value::try_from(value).ok()? {
        cel::Value::Null => Some(Value::Null),
        cel::Value::List(items) if value_type.list => {
            items.iter().map(|item| read_scalar(item, value_type.of)).collect::<Option<Vec<_>>>().map(Value::List)
        }
        one if !value_type.list => read_scalar(&one, value_type.of),
        _ => None,
    }
}

fn read_scalar(value: &cel::Value, scalar: Scalar) -> Option<Value> {
    let whole = || match value {
        cel::Value::Int(value) => Some(*value),
        cel::Value::UInt(value) => i64::try_from(*value).ok(),
        _ => None,
    };
    let number = || match value {
        cel::Value::Float(value) => Some(*value),
        _ => whole().map(|whole| whole as f64),
    };
    Some(match (scalar, value) {
        (Scalar::Int32, _) => Value::Int32(i32::try_from(whole()?).ok()?),
        (Scalar::Int64, _) => Value::Int64(whole()?),
        (Scalar::Float32, _) => Value::Float32(number()? as f32),
        (Scalar::Float64, _) => Value::Float64(number()?),
        (Scalar::UnixTimestamp, _) => Value::Timestamp(Moment(whole()?)),
        (Scalar::Bool, cel::Value::Bool(value)) => Value::Bool(*value),
        (Scalar::String, cel::Value::String(value)) => Value::String(value.as_ref().clone()),
        (Scalar::Bytes, cel::Value::Bytes(value)) => Value::Bytes(value.as_ref().clone()),
        _ => return None,
    })
}

/// Resolves the names of an expression, and refuses what cannot be bounded.
struct Reader<'a> {
    input: &'a Inputs<'a>,
    inputs: Vec<(usize, FeatureType)>,
    /// Variables of the loop around.
    locals: Vec<String>,
    nodes: usize,
    /// Whether a sum is around, within a loop: there lists and texts would grow with every turn.
    added: bool,
}

type Checked = Result<(), Trouble>;

impl Reader<'_> {
    fn expression(&mut self, node: &mut IdedExpr) -> Checked {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            let wrong = format!("the expression has more than {NODES_MAX} parts");
            return Err((wrong, "compute part of it in a feature of its own".to_owned()));
        }
        match &mut node.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) if self.locals.contains(name) => Ok(()),
            Expr::Ident(name) => {
                let wrong = format!("{name:?} alone is nothing that the expression could read");
                Err((wrong, "write view.feature, or request.field".to_owned()))
            }
            Expr::Select(select) => {
                let (Expr::Ident(owner), field, test) = (&select.operand.expr, &select.field, select.test) else {
                    let wrong = format!("{:?} is read of something that has no names", select.field);
                    return Err((wrong, "write view.feature, or request.field".to_owned()));
                };
                let (at, value_type) = (self.input)(owner, field)?;
                self.reads(at, value_type, false)?;
                let input = Expr::Ident(format!("{INPUT}{at}"));
                node.expr = if test { not_null(input) } else { input };
                Ok(())
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => list.elements.iter_mut().try_for_each(|item| self.expression(item)),
            Expr::Map(map) => map.entries.iter_mut().try_for_each(|entry| match &mut entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.expression(&mut entry.key).and_then(|()| self.expression(&mut entry.value))
                }
                EntryExpr::StructField(field) => self.expression(&mut field.value),
            }),
            Expr::Comprehension(_) => self.comprehension(node),
            Expr::Struct(_) | Expr::Unspecified => Err((
                "the expression makes a message, and there are none here".to_owned(),
                "compute a plain value".to_owned(),
            )),
        }
    }

    /// Takes note of an input. Within a loop a whole list stands only where it is searched or measured.
    fn reads(&mut self, at: usize, value_type: FeatureType, measured: bool) -> Checked {
        let grows = value_type.list || matches!(value_type.of, Scalar::String | Scalar::Bytes);
        if !self.locals.is_empty() && !measured && (value_type.list || (grows && self.added)) {
            let wrong = "a list or a text would be added up in every turn of a loop".to_owned();
            return Err((wrong, "use `in` or size() there, or take the sum out of the loop".to_owned()));
        }
        self.inputs.push((at, value_type));
        Ok(())
    }

    fn call(&mut self, call: &mut CallExpr) -> Checked {
        if !FUNCTIONS.contains(&call.func_name.as_str()) {
            let wrong = format!("there is no function {:?} here", call.func_name);
            let known: Vec<&str> =
                FUNCTIONS.into_iter().filter(|name| name.starts_with(|c: char| c.is_alphabetic())).collect();
            return Err((wrong, format!("write one of {}, all, exists, filter or map", known.join(", "))));
        }
        let measures = matches!(call.func_name.as_str(), operators::IN | "size");
        let around = self.added;
        self.added |= call.func_name == operators::ADD;
        let operands = call.target.iter_mut().map(Box::as_mut).chain(call.args.iter_mut());
        for operand in operands {
            // `in` and size() read a whole list without making another.
            if measures
                && let Expr::Select(select) = &operand.expr
                && let (Expr::Ident(owner), false) = (&select.operand.expr, select.test)
            {
                let (at, value_type) = (self.input)(owner, &select.field)?;
                self.reads(at, value_type, true)?;
                operand.expr = Expr::Ident(format!("{INPUT}{at}"));
                self.nodes += 1;
                continue;
            }
            self.expression(operand)?;
        }
        self.added = around;
        Ok(())
    }

    fn comprehension(&mut self, node: &mut IdedExpr) -> Checked {
        let Expr::Comprehension(it) = &mut node.expr else { return Ok(()) };
        if !self.locals.is_empty() {
            let wrong = "the expression has a loop within a loop".to_owned();
            return Err((wrong, "compute the inner one in a feature of its own".to_owned()));
        }
        self.expression(&mut it.iter_range)?;
        self.expression(&mut it.accu_init)?;
        self.locals = [Some(it.iter_var.clone()), it.iter_var2.clone(), Some(it.accu_var.clone())]
            .into_iter()
            .flatten()
            .collect();
        if let Some(taken) = self.locals.iter().find(|name| name.starts_with(INPUT)) {
            return Err((format!("{taken:?} cannot be the name of a variable"), "write a name such as `x`".to_owned()));
        }
        self.expression(&mut it.loop_cond)?;
        // The sum that gathers results is the loop's own.
        let step = match &mut it.loop_step.expr {
            Expr::Call(call) if call.func_name == operators::ADD => {
                call.args.iter_mut().try_for_each(|part| self.expression(part))
            }
            _ => self.expression(&mut it.loop_step),
        };
        step?;
        self.expression(&mut it.result)?;
        self.locals.clear();
        Ok(())
    }
}

/// `has(view.feature)`: it is there.
fn not_null(input: Expr) -> Expr {
    let part = |expr| IdedExpr { id: 0, expr };
    let args = vec![part(input), part(Expr::Literal(LiteralValue::Null))];
    Expr::Call(CallExpr { func_name: operators::NOT_EQUALS.to_owned(), target: None, args })
}

#[cfg(test)]
#[path = "expression_tests.rs"]
mod tests;
