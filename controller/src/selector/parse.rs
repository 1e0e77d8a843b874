//! Reads selectors: words and marks first, then a descent of four levels.

use hostler_proto::name::nearest;
use thiserror::Error;

use super::{Expr, Pattern, STOPPED, UNREACHABLE};

/// Longest text: some thousands of names.
const LONGEST: usize = 64 << 10;
/// Deepest nesting of parentheses and "not".
const DEEPEST: usize = 64;
/// The same of what was understood once and printed, which has parentheses around everything.
const DEEPEST_PRINTED: usize = 3 * DEEPEST;
const STATES: [&str; 6] = ["up", "down", STOPPED, UNREACHABLE, "never", "revoked"];
const STATUSES: [&str; 4] = ["ok", "warning", "critical", "unknown"];

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the selector is not understood at column {column}: {problem}")]
pub struct InvalidSelector {
    column: usize,
    problem: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Open,
    Close,
    Comma,
    Equal,
    Unequal,
    Bang,
}

struct Parser<'a> {
    tokens: Vec<(usize, Token<'a>)>,
    at: usize,
    end: usize,
    depth: usize,
    deepest: usize,
}

pub(super) fn parse(text: &str) -> Result<Expr, InvalidSelector> {
    let error = |column, problem: &str| InvalidSelector { column, problem: problem.to_owned() };
    if text.len() > LONGEST {
        return Err(error(1, "it is longer than 64 KiB; name hosts by a label or a pattern"));
    }
    if text.trim().is_empty() {
        return Err(error(1, "nothing is selected; write \"all\" for every host"));
    }
    whole(text, DEEPEST)
}

/// Reads what was printed. It is longer and deeper than what was typed.
pub(super) fn parse_printed(text: &str) -> Result<Expr, InvalidSelector> {
    whole(text, DEEPEST_PRINTED)
}

fn whole(text: &str, deepest: usize) -> Result<Expr, InvalidSelector> {
    let end = text.chars().count() + 1;
    let mut parser = Parser { tokens: tokens(text)?, at: 0, end, depth: 0, deepest };
    let expr = parser.any()?;
    match parser.peek() {
        None => Ok(expr),
        Some(_) => Err(parser.expected("\"and\", \"or\", \",\" or the end")),
    }
}

fn tokens(text: &str) -> Result<Vec<(usize, Token<'_>)>, InvalidSelector> {
    let word = |c: char| c.is_ascii_alphanumeric() || "-_.*?/:+@".contains(c);
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut column = 1;
    while let Some(first) = rest.chars().next() {
        let (length, token) = match first {
            c if c.is_whitespace() => (c.len_utf8(), None),
            '(' => (1, Some(Token::Open)),
            ')' => (1, Some(Token::Close)),
            ',' => (1, Some(Token::Comma)),
            '=' => (1, Some(Token::Equal)),
            '!' if rest.starts_with("!=") => (2, Some(Token::Unequal)),
            '!' => (1, Some(Token::Bang)),
            c if word(c) => {
                let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
                (length, Some(Token::Word(&rest[..length])))
            }
            other => {
                let problem = format!("\"{other}\" has no meaning here");
                return Err(InvalidSelector { column, problem });
            }
        };
        if let Some(token) = token {
            tokens.push((column, token));
        }
        column += rest[..length].chars().count();
        rest = &rest[length..];
    }
    Ok(tokens)
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|(_, token)| *token)
    }

    fn take(&mut self, token: Token<'_>) -> bool {
        let is = self.peek() == Some(token);
        self.at += usize::from(is);
        is
    }

    fn error(&self, problem: String) -> InvalidSelector {
        let column = self.tokens.get(self.at).map_or(self.end, |(column, _)| *column);
        InvalidSelector { column, problem }
    }

    fn expected(&self, what: &str) -> InvalidSelector {
        self.error(format!("{what} is expected"))
    }

    fn need(&mut self, token: Token<'_>, what: &str) -> Result<(), InvalidSelector> {
        if self.take(token) { Ok(()) } else { Err(self.expected(what)) }
    }

    /// `a or b`, and `a,b`, which is the same and binds as loosely.
    fn any(&mut self) -> Result<Expr, InvalidSelector> {
        let mut parts = vec![self.both()?];
        while self.take(Token::Word("or")) || self.take(Token::Comma) {
            parts.push(self.both()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::Or(parts) })
    }

    fn both(&mut self) -> Result<Expr, InvalidSelector> {
        let mut parts = vec![self.one()?];
        while self.take(Token::Word("and")) {
            parts.push(self.one()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::And(parts) })
    }

    fn one(&mut self) -> Result<Expr, InvalidSelector> {
        self.depth += 1;
        if self.depth > self.deepest {
            return Err(self.error(format!("it is nested deeper than {}", self.deepest)));
        }
        let expr = self.unnested();
        self.depth -= 1;
        expr
    }

    fn unnested(&mut self) -> Result<Expr, InvalidSelector> {
        if self.take(Token::Word("not")) {
            return Ok(Expr::Not(Box::new(self.one()?)));
        }
        if self.take(Token::Bang) {
            return Ok(Expr::Not(Box::new(Expr::Has(self.key()?))));
        }
        if self.take(Token::Open) {
            let inner = self.any()?;
            self.need(Token::Close, "\")\"")?;
            return Ok(inner);
        }
        let Some(Token::Word(word)) = self.peek() else {
            return Err(self.expected("a host, a pattern, a label or \"not\""));
        };
        match self.tokens.get(self.at + 1).map(|(_, token)| *token) {
            Some(Token::Open) if word == "has" => {
                self.at += 2;
                let key = self.key()?;
                self.need(Token::Close, "\")\"")?;
                return Ok(Expr::Has(key));
            }
            Some(Token::Open) if word == "check" => {
                self.at += 2;
                return self.check();
            }
            Some(Token::Equal) => {
                let key = self.key()?;
                self.at += 1;
                let values = vec![self.value(&key)?];
                return Ok(Expr::Is { key, values });
            }
            Some(Token::Unequal) => {
                let key = self.key()?;
                self.at += 1;
                let values = vec![self.value(&key)?];
                return Ok(Expr::Not(Box::new(Expr::Is { key, values })));
            }
            Some(Token::Word("in")) => {
                let key = self.key()?;
                self.at += 1;
                self.need(Token::Open, "\"(\"")?;
                let mut values = vec![self.value(&key)?];
                while self.take(Token::Comma) {
                    values.push(self.value(&key)?);
                }
                self.need(Token::Close, "\",\" or \")\"")?;
                return Ok(Expr::Is { key, values });
            }
            _ => {}
        }
        let expr = match word {
            "all" => Expr::All,
            // The whole fleet is meant by one word alone, which nobody types by mistake.
            _ if word.chars().all(|c| "*?".contains(c)) => {
                return Err(self.error("write \"all\" for every host".to_owned()));
            }
            _ if word.contains(['*', '?']) => Pattern::new(word)
                .map(Expr::Pattern)
                .ok_or_else(|| self.error(format!("\"{word}\" is no pattern")))?,
            _ => word.parse().map(Expr::Name).map_err(|e| self.error(format!("{e}")))?,
        };
        self.at += 1;
        Ok(expr)
    }

    /// What follows `check(`.
    fn check(&mut self) -> Result<Expr, InvalidSelector> {
        let Some(Token::Word(word)) = self.peek() else {
            return Err(self.expected("a check or a pattern"));
        };
        let name =
            Pattern::new(word).ok_or_else(|| self.error(format!("\"{word}\" is no pattern")))?;
        self.at += 1;
        self.need(Token::Close, "\")\"")?;
        let statuses = if self.take(Token::Equal) {
            vec![self.status()?]
        } else if self.take(Token::Unequal) {
            // Every other one: a host that has no such check is not meant.
            let other = self.status()?;
            STATUSES.iter().filter(|s| **s != other).map(ToString::to_string).collect()
        } else if self.take(Token::Word("in")) {
            self.need(Token::Open, "\"(\"")?;
            let mut statuses = vec![self.status()?];
            while self.take(Token::Comma) {
                statuses.push(self.status()?);
            }
            self.need(Token::Close, "\",\" or \")\"")?;
            statuses
        } else {
            return Err(self.expected("\"=\", \"!=\" or \"in\""));
        };
        Ok(Expr::Check { name, statuses })
    }

    fn status(&mut self) -> Result<String, InvalidSelector> {
        match self.peek() {
            Some(Token::Word(word)) if STATUSES.contains(&word) => {
                self.at += 1;
                Ok(word.to_owned())
            }
            _ => Err(self.error(format!("a check is one of {}", STATUSES.join(", ")))),
        }
    }

    fn key(&mut self) -> Result<String, InvalidSelector> {
        let Some(Token::Word(word)) = self.peek() else { return Err(self.expected("a label")) };
        let reserved = ["and", "or", "not", "in", "all"].contains(&word);
        if reserved || word.contains(['*', '?']) {
            return Err(self.error(format!("\"{word}\" is no label")));
        }
        self.at += 1;
        Ok(word.to_owned())
    }

    fn value(&mut self, key: &str) -> Result<String, InvalidSelector> {
        let Some(Token::Word(word)) = self.peek() else { return Err(self.expected("a value")) };
        if key == "state" && !STATES.contains(&word) {
            let guess = nearest(word, STATES).map(|s| format!("; did you mean {s}?"));
            let problem =
                format!("a state is one of {}{}", STATES.join(", "), guess.unwrap_or_default());
            return Err(self.error(problem));
        }
        self.at += 1;
        Ok(word.to_owned())
    }
}
