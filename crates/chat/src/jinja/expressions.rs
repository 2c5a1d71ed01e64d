//! Tokens to expressions, with the precedences of Jinja 3.1's `parser.py`.

use std::sync::Arc;

use super::SyntaxError;
use super::lexer::Token;
use super::parser::Parser;
use super::tree::{Arguments, Choice, Comparison, Expr, Operator, Step};
use super::{filters, tests};

impl Parser {
    /// A whole expression: `a if b else c` and all that binds tighter.
    pub(super) fn expression(&mut self) -> Result<Expr, SyntaxError> {
        self.deeper(|parser| {
            let mut expr = parser.any()?;
            // Each `if` without an `else` wraps what came before: as deep as brackets would be.
            for _ in 0..super::parser::DEPTH_MAX {
                if !parser.skip_name("if") {
                    return Ok(expr);
                }
                let condition = parser.any()?;
                let otherwise = if parser.skip_name("else") { Some(parser.expression()?) } else { None };
                expr = Expr::If(Box::new(Choice { condition, then: expr, otherwise }));
            }
            parser.fail("expressions are nested too deeply")
        })
    }

    /// `a or b`: what may stand where `if` means something else.
    pub(super) fn any(&mut self) -> Result<Expr, SyntaxError> {
        let mut parts = vec![self.all()?];
        while self.skip_name("or") {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Expr::Any))
    }

    fn all(&mut self) -> Result<Expr, SyntaxError> {
        let mut parts = vec![self.not()?];
        while self.skip_name("and") {
            parts.push(self.not()?);
        }
        Ok(one_or(parts, Expr::All))
    }

    fn not(&mut self) -> Result<Expr, SyntaxError> {
        if self.skip_name("not") {
            return self.deeper(|parser| Ok(Expr::Not(Box::new(parser.not()?))));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expr, SyntaxError> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.token() {
                Token::Operator("==") => Comparison::Equal,
                Token::Operator("!=") => Comparison::Unequal,
                Token::Operator("<") => Comparison::Less,
                Token::Operator("<=") => Comparison::LessEqual,
                Token::Operator(">") => Comparison::Greater,
                Token::Operator(">=") => Comparison::GreaterEqual,
                Token::Name(name) if name == "in" => Comparison::In,
                Token::Name(name) if name == "not" && self.next_is_name("in") => {
                    self.advance();
                    Comparison::NotIn
                }
                _ if rest.is_empty() => return Ok(first),
                _ => return Ok(Expr::Compare(Box::new(first), rest)),
            };
            self.advance();
            rest.push((comparison, self.sum()?));
        }
    }

    fn sum(&mut self) -> Result<Expr, SyntaxError> {
        self.arithmetic(&[("+", Operator::Add), ("-", Operator::Subtract)], Parser::concat)
    }

    fn concat(&mut self) -> Result<Expr, SyntaxError> {
        let mut parts = vec![self.product()?];
        while self.skip("~") {
            parts.push(self.product()?);
        }
        Ok(one_or(parts, Expr::Concat))
    }

    fn product(&mut self) -> Result<Expr, SyntaxError> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Remainder),
        ];
        self.arithmetic(&operators, Parser::power)
    }

    fn power(&mut self) -> Result<Expr, SyntaxError> {
        self.arithmetic(&[("**", Operator::Power)], |parser| parser.unary(true))
    }

    fn arithmetic(
        &mut self,
        operators: &[(&str, Operator)],
        operand: impl Fn(&mut Parser) -> Result<Expr, SyntaxError>,
    ) -> Result<Expr, SyntaxError> {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some((_, operator)) = operators.iter().find(|(sign, _)| self.skip(sign)) {
            rest.push((*operator, operand(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Arithmetic(Box::new(first), rest) })
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr, SyntaxError> {
        let base = if self.skip("-") {
            self.deeper(|parser| Ok(Expr::Negative(Box::new(parser.unary(false)?))))?
        } else if self.skip("+") {
            self.deeper(|parser| Ok(Expr::Positive(Box::new(parser.unary(false)?))))?
        } else {
            self.primary()?
        };
        let mut steps = Vec::new();
        self.postfix(&mut steps)?;
        if with_filters {
            self.filters_and_tests(&mut steps)?;
        }
        Ok(with_steps(base, steps))
    }

    pub(super) fn primary(&mut self) -> Result<Expr, SyntaxError> {
        let found = match self.token().clone() {
            Token::Name(name) => match name.as_str() {
                "true" | "True" => Expr::Bool(true),
                "false" | "False" => Expr::Bool(false),
                "none" | "None" => Expr::None,
                _ => Expr::Name(name),
            },
            Token::Int(number) => Expr::Int(number),
            Token::Float(number) => Expr::Float(number),
            Token::Text(mut text) => {
                self.advance();
                // Strings that stand side by side are one string.
                while let Token::Text(more) = self.token() {
                    text.push_str(more);
                    self.advance();
                }
                return Ok(Expr::Text(Arc::from(text)));
            }
            Token::Operator("(") => {
                self.advance();
                let inner = self.tuple(true, Parser::expression)?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Operator("[") => return Ok(Expr::List(self.bracketed("[", "]", Parser::expression)?)),
            Token::Operator("{") => {
                return Ok(Expr::Map(self.bracketed("{", "}", |parser| {
                    let key = parser.expression()?;
                    parser.expect(":")?;
                    Ok((key, parser.expression()?))
                })?));
            }
            other => return self.fail(format!("unexpected {}", describe(&other))),
        };
        self.advance();
        Ok(found)
    }

    /// One expression, or several with commas: a tuple.
    pub(super) fn tuple(
        &mut self,
        may_be_empty: bool,
        item: impl Fn(&mut Parser) -> Result<Expr, SyntaxError>,
    ) -> Result<Expr, SyntaxError> {
        let mut items = Vec::new();
        let mut comma = false;
        while !self.tuple_ends() {
            items.push(item(self)?);
            comma = self.skip(",");
            if !comma {
                break;
            }
        }
        match items.pop() {
            Some(only) if items.is_empty() && !comma => Ok(only),
            Some(last) => {
                items.push(last);
                Ok(Expr::Tuple(items))
            }
            None if may_be_empty => Ok(Expr::Tuple(items)),
            None => self.fail(format!("an expression is missing before {}", describe(self.token()))),
        }
    }

    fn tuple_ends(&self) -> bool {
        match self.token() {
            Token::BlockEnd | Token::PrintEnd | Token::Operator(")") => true,
            Token::Name(name) => matches!(name.as_str(), "in" | "recursive"),
            _ => false,
        }
    }

    fn bracketed<T>(
        &mut self,
        open: &str,
        close: &'static str,
        item: impl Fn(&mut Parser) -> Result<T, SyntaxError>,
    ) -> Result<Vec<T>, SyntaxError> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.skip(close) {
            items.push(item(self)?);
            if !self.skip(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(items)
    }

    /// `.attribute`, `[item]`, `[from:to]` and calls.
    fn postfix(&mut self, steps: &mut Vec<Step>) -> Result<(), SyntaxError> {
        loop {
            if self.skip(".") {
                let step = match self.token() {
                    Token::Name(name) => Step::Attribute(Arc::from(name.as_str())),
                    Token::Int(place) => Step::Item(Expr::Int(*place)),
                    _ => return self.fail("a name or a number belongs after `.`"),
                };
                self.advance();
                steps.push(step);
            } else if self.skip("[") {
                steps.push(self.subscript()?);
            } else if matches!(self.token(), Token::Operator("(")) {
                steps.push(Step::Call(self.arguments()?));
            } else {
                return Ok(());
            }
        }
    }

    fn subscript(&mut self) -> Result<Step, SyntaxError> {
        let mut parts: [Option<Expr>; 3] = [None, None, None];
        let mut colons = 0;
        for part in &mut parts {
            if !matches!(self.token(), Token::Operator(":" | "]")) {
                *part = Some(self.expression()?);
            }
            if colons < 2 && self.skip(":") {
                colons += 1;
            } else {
                break;
            }
        }
        self.expect("]")?;
        if colons > 0 {
            return Ok(Step::Slice(Box::new(parts)));
        }
        match parts {
            [Some(item), ..] => Ok(Step::Item(item)),
            _ => self.fail("an item is missing between `[` and `]`"),
        }
    }

    fn filters_and_tests(&mut self, steps: &mut Vec<Step>) -> Result<(), SyntaxError> {
        loop {
            if matches!(self.token(), Token::Operator("|")) {
                self.filters(steps)?;
            } else if self.skip_name("is") {
                steps.push(self.test()?);
            } else if matches!(self.token(), Token::Operator("(")) {
                steps.push(Step::Call(self.arguments()?));
            } else {
                return Ok(());
            }
        }
    }

    /// `| filter` as often as it stands here.
    pub(super) fn filters(&mut self, steps: &mut Vec<Step>) -> Result<(), SyntaxError> {
        while self.skip("|") {
            steps.push(self.filter()?);
        }
        Ok(())
    }

    /// The name of a filter, and what is passed to it.
    pub(super) fn filter(&mut self) -> Result<Step, SyntaxError> {
        let name = self.name()?;
        if self.branches == 0 && !filters::NAMES.contains(&name.as_str()) {
            return self.fail(format!("there is no filter `{name}`"));
        }
        let arguments =
            if matches!(self.token(), Token::Operator("(")) { self.arguments()? } else { Arguments::default() };
        Ok(Step::Filter(name, arguments))
    }

    fn test(&mut self) -> Result<Step, SyntaxError> {
        let negated = self.skip_name("not");
        let name = self.name()?;
        if self.branches == 0 && !tests::NAMES.contains(&name.as_str()) {
            return self.fail(format!("there is no test `{name}`"));
        }
        let mut arguments = Arguments::default();
        match self.token() {
            Token::Operator("(") => arguments = self.arguments()?,
            Token::Name(word)
                if matches!(word.as_str(), "else" | "or" | "and" | "is" | "if" | "in" | "not" | "recursive") => {}
            Token::Name(_) | Token::Text(_) | Token::Int(_) | Token::Float(_) | Token::Operator("[" | "{") => {
                let base = self.deeper(Parser::primary)?;
                let mut steps = Vec::new();
                self.postfix(&mut steps)?;
                arguments.positional.push(with_steps(base, steps));
            }
            _ => {}
        }
        Ok(Step::Test { name, negated, arguments })
    }

    pub(super) fn arguments(&mut self) -> Result<Arguments, SyntaxError> {
        self.expect("(")?;
        let mut found = Arguments::default();
        while !self.skip(")") {
            if self.skip("*") {
                found.spread = Some(self.expression()?);
            } else if self.skip("**") {
                found.spread_named = Some(self.expression()?);
            } else if let Some(name) = self.skip_keyword_argument() {
                found.named.push((Arc::from(name), self.expression()?));
            } else if found.named.is_empty() && found.spread.is_none() && found.spread_named.is_none() {
                found.positional.push(self.expression()?);
            } else {
                return self.fail("an argument without a name follows one with a name");
            }
            if !self.skip(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(found)
    }
}

fn one_or(mut parts: Vec<Expr>, several: impl Fn(Vec<Expr>) -> Expr) -> Expr {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            several(parts)
        }
        None => Expr::None,
    }
}

fn with_steps(base: Expr, steps: Vec<Step>) -> Expr {
    if steps.is_empty() { base } else { Expr::Steps(Box::new(base), steps) }
}

/// A token as an error names it.
pub(super) fn describe(token: &Token) -> String {
    match token {
        Token::Data(_) => "text".to_owned(),
        Token::BlockBegin => "`{%`".to_owned(),
        Token::BlockEnd => "`%}`".to_owned(),
        Token::PrintBegin => "`{{`".to_owned(),
        Token::PrintEnd => "`}}`".to_owned(),
        Token::Name(name) => format!("`{}`", super::shortened(name, 40)),
        Token::Text(_) => "a string".to_owned(),
        Token::Int(_) | Token::Float(_) => "a number".to_owned(),
        Token::Operator(operator) => format!("`{operator}`"),
        Token::End => "the end".to_owned(),
    }
}
