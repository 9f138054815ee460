//! Reads the text of a DuckDB type. One pass, no backtracking; nesting is bounded so that no text can exhaust the stack.

use super::DuckType;
use crate::{Error, Result};

/// Deepest accepted nesting; DuckDB's own expression depth limit is 1,000, a lake's schema is far from either.
const MAX_DEPTH: usize = 128;

/// Parses a whole text as one type.
pub(super) fn parse(text: &str) -> Result<DuckType> {
    let mut p = Parser { text, at: 0 };
    let ty = p.ty(0)?;
    p.blanks();
    if p.at < text.len() { Err(p.fail("something follows it")) } else { Ok(ty) }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn fail(&self, why: &str) -> Error {
        Error::invalid(format!("{:?} is not a DuckDB type: {why} at byte {}", self.text, self.at))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes a punctuation mark, if it is next.
    fn take(&mut self, mark: char) -> bool {
        self.blanks();
        let found = self.rest().starts_with(mark);
        if found {
            self.at += mark.len_utf8();
        }
        found
    }

    fn need(&mut self, mark: char) -> Result<()> {
        if self.take(mark) { Ok(()) } else { Err(self.fail(&format!("{mark:?} is missing"))) }
    }

    /// A type with its `[]` and `[n]` suffixes.
    fn ty(&mut self, depth: usize) -> Result<DuckType> {
        if depth > MAX_DEPTH {
            return Err(self.fail("it is nested too deeply"));
        }
        let mut ty = self.base(depth)?;
        let mut suffixes = depth;
        while self.take('[') {
            suffixes += 1;
            if suffixes > MAX_DEPTH {
                return Err(self.fail("it is nested too deeply"));
            }
            self.blanks();
            ty = if self.rest().starts_with(']') {
                DuckType::List(Box::new(ty))
            } else {
                DuckType::Array(Box::new(ty), self.number()?)
            };
            self.need(']')?;
        }
        Ok(ty)
    }

    fn base(&mut self, depth: usize) -> Result<DuckType> {
        self.blanks();
        let start = self.at;
        if self.rest().starts_with('"') {
            let name = self.quoted('"')?;
            // DuckDB quotes its keyword types; any other quoted name is a type of the user's.
            return Ok(DuckType::of_name(&name)
                .filter(|ty| *ty == DuckType::Null)
                .unwrap_or_else(|| DuckType::Other(self.text[start..self.at].to_owned())));
        }
        let name = self.words()?;
        if !self.take('(') {
            return Ok(
                DuckType::of_name(&name).unwrap_or_else(|| DuckType::Other(self.text[start..self.at].to_owned()))
            );
        }
        let ty = match name.as_str() {
            "DECIMAL" | "DEC" | "NUMERIC" => self.decimal()?,
            "ENUM" => DuckType::Enum(self.list(|p| p.quoted('\''))?),
            "STRUCT" | "ROW" => DuckType::Struct(self.list(|p| p.member(depth))?),
            "UNION" => DuckType::Union(self.list(|p| p.member(depth))?),
            "TUPLE" => DuckType::Tuple(self.list(|p| p.ty(depth + 1))?),
            "MAP" => {
                let key = self.ty(depth + 1)?;
                self.need(',')?;
                DuckType::Map(Box::new(key), Box::new(self.ty(depth + 1)?))
            }
            // Parameters that change nothing here: VARCHAR(10), GEOMETRY('OGC:CRS84').
            _ => {
                self.skip_parameters()?;
                self.need(')')?;
                let known = DuckType::of_name(&name);
                return Ok(known.unwrap_or_else(|| DuckType::Other(self.text[start..self.at].to_owned())));
            }
        };
        self.need(')')?;
        Ok(ty)
    }

    /// The words of a name such as `TIMESTAMP WITH TIME ZONE`, in upper case with one blank between them.
    fn words(&mut self) -> Result<String> {
        let mut words: Vec<String> = Vec::new();
        loop {
            let before = self.at;
            self.blanks();
            let length = self.rest().find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '$')));
            let word = &self.rest()[..length.unwrap_or(self.rest().len())];
            if word.is_empty() {
                self.at = before;
                break;
            }
            self.at += word.len();
            words.push(word.to_ascii_uppercase());
        }
        if words.is_empty() { Err(self.fail("a name is missing")) } else { Ok(words.join(" ")) }
    }

    /// `name TYPE`, the name quoted or not.
    fn member(&mut self, depth: usize) -> Result<(String, DuckType)> {
        self.blanks();
        let name = if self.rest().starts_with('"') {
            self.quoted('"')?
        } else {
            let length = self.rest().find(|c: char| c.is_whitespace() || "()[],\"'".contains(c));
            let name = &self.rest()[..length.unwrap_or(self.rest().len())];
            if name.is_empty() {
                return Err(self.fail("a field's name is missing"));
            }
            self.at += name.len();
            name.to_owned()
        };
        Ok((name, self.ty(depth + 1)?))
    }

    /// Text between quotes; a doubled quote stands for one.
    fn quoted(&mut self, quote: char) -> Result<String> {
        self.need(quote)?;
        let mut out = String::new();
        let mut chars = self.rest().char_indices().peekable();
        while let Some((i, c)) = chars.next() {
            if c != quote {
                out.push(c);
            } else if chars.next_if(|(_, next)| *next == quote).is_some() {
                out.push(quote);
            } else {
                self.at += i + c.len_utf8();
                return Ok(out);
            }
        }
        Err(self.fail("a quote is not closed"))
    }

    fn number<N: std::str::FromStr>(&mut self) -> Result<N> {
        self.blanks();
        let length = self.rest().find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest().len());
        let number = self.rest()[..length].parse().map_err(|_| self.fail("a number is missing or too large"))?;
        self.at += length;
        Ok(number)
    }

    fn decimal(&mut self) -> Result<DuckType> {
        let width = self.number()?;
        let scale = if self.take(',') { self.number()? } else { 0 };
        if width == 0 || width > 38 || scale > width {
            return Err(self.fail("a decimal has 1 to 38 digits, and no more after the point than in all"));
        }
        Ok(DuckType::Decimal { width, scale })
    }

    /// One or more items, separated by commas.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.take(',') {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Anything up to the closing parenthesis, which is left.
    fn skip_parameters(&mut self) -> Result<()> {
        let mut open = 0_usize;
        loop {
            self.blanks();
            match self.rest().chars().next() {
                Some(quote @ ('\'' | '"')) => drop(self.quoted(quote)?),
                Some(')') if open == 0 => return Ok(()),
                Some(c) => {
                    open = match c {
                        '(' => open + 1,
                        ')' => open - 1,
                        _ => open,
                    };
                    self.at += c.len_utf8();
                }
                None => return Err(self.fail("a parenthesis is not closed")),
            }
        }
    }
}
