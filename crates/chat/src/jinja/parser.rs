//! Tokens to statements.

use super::SyntaxError;
use super::expressions::describe;
use super::lexer::{self, Token};
use super::tree::{Body, Expr, For, Kind, Macro, Statement, Step, Target};

/// How deep blocks and brackets may be nested. None of 71 published templates has more than 14.
pub(super) const DEPTH_MAX: usize = 64;

/// The statements of a source.
pub(crate) fn parse(source: &str) -> Result<Body, SyntaxError> {
    let mut parser = Parser { tokens: lexer::tokens(source)?, at: 0, depth: 0, loops: 0, branches: 0 };
    let body = parser.body(&[])?;
    if *parser.token() != Token::End {
        return parser.fail(format!("unexpected {}", describe(parser.token())));
    }
    Ok(body)
}

pub(super) struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    depth: usize,
    /// Loops around here, within the same macro.
    loops: usize,
    /// Branches around here: what may never run may name filters that are not there.
    pub(super) branches: usize,
}

impl Parser {
    pub(super) fn token(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(token, _)| token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    pub(super) fn advance(&mut self) {
        self.at += 1;
    }

    pub(super) fn fail<T>(&self, what: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { line: self.line(), what: what.into() })
    }

    /// Does what goes one level deeper.
    pub(super) fn deeper<T>(
        &mut self,
        inner: impl FnOnce(&mut Parser) -> Result<T, SyntaxError>,
    ) -> Result<T, SyntaxError> {
        if self.depth >= DEPTH_MAX {
            return self.fail(format!("blocks and brackets are nested deeper than {DEPTH_MAX}"));
        }
        self.depth += 1;
        let found = inner(self);
        self.depth -= 1;
        found
    }

    pub(super) fn skip(&mut self, operator: &str) -> bool {
        let found = matches!(self.token(), Token::Operator(here) if *here == operator);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, operator: &str) -> Result<(), SyntaxError> {
        if self.skip(operator) {
            return Ok(());
        }
        self.fail(format!("`{operator}` belongs before {}", describe(self.token())))
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = matches!(self.token(), Token::Name(here) if here == name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn next_is_name(&self, name: &str) -> bool {
        matches!(self.tokens.get(self.at + 1), Some((Token::Name(next), _)) if next == name)
    }

    pub(super) fn name(&mut self) -> Result<String, SyntaxError> {
        let Token::Name(name) = self.token() else {
            return self.fail(format!("a name belongs before {}", describe(self.token())));
        };
        let name = name.clone();
        self.advance();
        Ok(name)
    }

    /// The name in `name=`.
    pub(super) fn skip_keyword_argument(&mut self) -> Option<String> {
        let (Token::Name(name), Some((Token::Operator("="), _))) = (self.token(), self.tokens.get(self.at + 1)) else {
            return None;
        };
        let name = name.clone();
        self.at += 2;
        Some(name)
    }

    fn close(&mut self) -> Result<(), SyntaxError> {
        if *self.token() != Token::BlockEnd {
            return self.fail(format!("unexpected {}", describe(self.token())));
        }
        self.advance();
        Ok(())
    }

    /// Statements up to one of the tags `ends`, whose name comes next.
    fn body(&mut self, ends: &[&str]) -> Result<Body, SyntaxError> {
        self.deeper(|parser| {
            let mut body = Vec::new();
            loop {
                let line = parser.line();
                let kind = match parser.token() {
                    Token::Data(text) => {
                        let text = text.clone();
                        parser.advance();
                        Kind::Data(text)
                    }
                    Token::PrintBegin => {
                        parser.advance();
                        let value = parser.tuple(false, Parser::expression)?;
                        if *parser.token() != Token::PrintEnd {
                            return parser.fail(format!("unexpected {}", describe(parser.token())));
                        }
                        parser.advance();
                        Kind::Print(value)
                    }
                    Token::BlockBegin => {
                        parser.advance();
                        if matches!(parser.token(), Token::Name(name) if ends.contains(&name.as_str())) {
                            return Ok(body);
                        }
                        parser.statement()?
                    }
                    Token::End if !ends.is_empty() => {
                        return parser.fail(format!("`{{% {} %}}` is missing", ends[ends.len() - 1]));
                    }
                    _ => return Ok(body),
                };
                body.push(Statement { line, kind });
            }
        })
    }

    /// Closes the tag, reads statements up to the tag `end`, and closes that.
    fn body_until(&mut self, end: &str) -> Result<Body, SyntaxError> {
        self.close()?;
        let body = self.body(&[end])?;
        self.advance();
        self.close()?;
        Ok(body)
    }

    fn statement(&mut self) -> Result<Kind, SyntaxError> {
        let keyword = self.name()?;
        match keyword.as_str() {
            "for" => self.for_loop(),
            "if" => self.if_chain(),
            "set" => self.set(),
            "with" => self.with(),
            "filter" => {
                let mut filters = vec![self.filter()?];
                self.filters(&mut filters)?;
                Ok(Kind::Filter { filters, body: self.body_until("endfilter")? })
            }
            "macro" => {
                let name = self.name()?;
                Ok(Kind::Macro(self.macro_of(name, "endmacro")?))
            }
            "call" => self.call(),
            "generation" => Ok(Kind::Generation(self.body_until("endgeneration")?)),
            "break" | "continue" => {
                if self.loops == 0 {
                    return self.fail(format!("`{keyword}` stands outside of a loop"));
                }
                self.close()?;
                Ok(if keyword == "break" { Kind::Break } else { Kind::Continue })
            }
            "include" | "import" | "from" | "extends" | "block" => {
                self.fail(format!("`{keyword}` reads other templates, which a chat template may not"))
            }
            other => self.fail(format!("unknown tag `{}`", super::shortened(other, 40))),
        }
    }

    fn for_loop(&mut self) -> Result<Kind, SyntaxError> {
        let target = self.target()?;
        if !self.skip_name("in") {
            return self.fail(format!("`in` belongs before {}", describe(self.token())));
        }
        let items = self.tuple(false, Parser::any)?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        if self.skip_name("recursive") {
            return self.fail("loops that call themselves are not supported; use a macro");
        }
        self.close()?;
        self.loops += 1;
        let body = self.body(&["else", "endfor"])?;
        self.loops -= 1;
        let otherwise = if self.skip_name("else") { self.body_until("endfor")? } else { self.ended()? };
        Ok(Kind::For(Box::new(For { target, items, condition, body, otherwise })))
    }

    /// Passes the name of an end tag and closes it: nothing more belongs to the statement.
    fn ended(&mut self) -> Result<Body, SyntaxError> {
        self.advance();
        self.close()?;
        Ok(Vec::new())
    }

    fn if_chain(&mut self) -> Result<Kind, SyntaxError> {
        let mut branches = Vec::new();
        self.branches += 1;
        loop {
            let condition = self.tuple(false, Parser::any)?;
            self.close()?;
            branches.push((condition, self.body(&["elif", "else", "endif"])?));
            if self.skip_name("elif") {
                continue;
            }
            let otherwise = if self.skip_name("else") { self.body_until("endif")? } else { self.ended()? };
            self.branches -= 1;
            return Ok(Kind::If { branches, otherwise });
        }
    }

    fn set(&mut self) -> Result<Kind, SyntaxError> {
        let target = self.target()?;
        if self.skip("=") {
            let value = self.tuple(false, Parser::expression)?;
            self.close()?;
            return Ok(Kind::Set { target, value });
        }
        let mut filters = Vec::new();
        self.filters(&mut filters)?;
        Ok(Kind::Capture { target, filters, body: self.body_until("endset")? })
    }

    fn with(&mut self) -> Result<Kind, SyntaxError> {
        let mut assignments = Vec::new();
        while *self.token() != Token::BlockEnd {
            if !assignments.is_empty() {
                self.expect(",")?;
            }
            let target = self.target_item()?;
            self.expect("=")?;
            assignments.push((target, self.expression()?));
        }
        Ok(Kind::With { assignments, body: self.body_until("endwith")? })
    }

    fn macro_of(&mut self, name: String, end: &str) -> Result<Macro, SyntaxError> {
        let mut parameters = Vec::new();
        if self.skip("(") {
            while !self.skip(")") {
                let parameter = self.name()?;
                let default = if self.skip("=") { Some(self.expression()?) } else { None };
                parameters.push((parameter, default));
                if !self.skip(",") {
                    self.expect(")")?;
                    break;
                }
            }
        }
        let outer = std::mem::take(&mut self.loops);
        let body = self.body_until(end)?;
        self.loops = outer;
        Ok(Macro { name, parameters, body })
    }

    fn call(&mut self) -> Result<Kind, SyntaxError> {
        // The parameters of `caller` stand before the call, its body after it.
        let mut caller = Macro { name: "caller".to_owned(), parameters: Vec::new(), body: Vec::new() };
        if self.skip("(") {
            while !self.skip(")") {
                caller.parameters.push((self.name()?, None));
                if !self.skip(",") {
                    self.expect(")")?;
                    break;
                }
            }
        }
        let call = self.expression()?;
        if !matches!(&call, Expr::Steps(_, steps) if matches!(steps.last(), Some(Step::Call(_)))) {
            return self.fail("`call` needs a call");
        }
        let outer = std::mem::take(&mut self.loops);
        caller.body = self.body_until("endcall")?;
        self.loops = outer;
        Ok(Kind::Call { caller, call })
    }

    fn target(&mut self) -> Result<Target, SyntaxError> {
        let first = self.target_item()?;
        if !matches!(self.token(), Token::Operator(",")) {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip(",") {
            if !matches!(self.token(), Token::Name(name) if name != "in")
                && !matches!(self.token(), Token::Operator("("))
            {
                break;
            }
            items.push(self.target_item()?);
        }
        Ok(Target::Several(items))
    }

    fn target_item(&mut self) -> Result<Target, SyntaxError> {
        if self.skip("(") {
            let inner = self.deeper(Parser::target)?;
            self.expect(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if matches!(name.as_str(), "true" | "True" | "false" | "False" | "none" | "None") {
            return self.fail(format!("`{name}` cannot be assigned to"));
        }
        if self.skip(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }
}
