//! What value do msgpack's bytes say?
//!
//! A type's `Deserialize` is compiled anew for every function here that it calls. So what does not
//! depend on the type is read into a [`Token`] by functions that exist once, and each request of a
//! type calls the few visits that can answer it.
use std::borrow::Cow;

use bytes::Bytes;
use serde::de::value::SeqDeserializer;
use serde::de::{self, DeserializeSeed, Expected, Unexpected, Visitor};

use super::aside::ASIDE;
use super::refusal::{Error, Step};
use super::{MAX_DEPTH, SOME_OF_NIL};

/// A value, or the beginning of one that holds others.
enum Token<'de> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Str(&'de str),
    Bin(&'de [u8]),
    Seq(usize),
    Map(usize),
    /// So many `Some`s around a nil.
    SomeOfNil(u8),
    /// Bytes that lie elsewhere, under this number.
    Aside(u32),
}

#[derive(Clone, Copy)]
enum Integer {
    Unsigned(u64),
    Signed(i64),
}

impl Token<'_> {
    /// In the words of a visitor that does not expect it.
    #[cold]
    fn unexpected(self, expected: &dyn Expected) -> Error {
        let unexpected = match self {
            Token::Nil => Unexpected::Unit,
            Token::Bool(value) => Unexpected::Bool(value),
            Token::Unsigned(value) => Unexpected::Unsigned(value),
            Token::Signed(value) => Unexpected::Signed(value),
            Token::F32(value) => Unexpected::Float(value.into()),
            Token::F64(value) => Unexpected::Float(value),
            Token::Str(value) => Unexpected::Str(value),
            Token::Bin(value) => Unexpected::Bytes(value),
            Token::Seq(_) => Unexpected::Seq,
            Token::Map(_) => Unexpected::Map,
            Token::SomeOfNil(_) => Unexpected::Option,
            Token::Aside(_) => Unexpected::Other("byte array"),
        };
        de::Error::invalid_type(unexpected, expected)
    }
}

/// Reads from a slice, forwards only.
pub(super) struct Deserializer<'de> {
    bytes: &'de [u8],
    depth: u16,
    /// A text that comes before the next byte, though it did not travel.
    unsent: Option<&'static str>,
}

impl<'de> Deserializer<'de> {
    #[inline]
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        Deserializer { bytes, depth: MAX_DEPTH, unsent: None }
    }

    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.bytes.is_empty()
    }

    #[inline]
    pub(super) fn rest(&self) -> &'de [u8] {
        self.bytes
    }

    /// Bytes that were not read.
    pub(super) fn left(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn peek(&self) -> Result<u8, Error> {
        self.bytes.first().copied().ok_or_else(cut)
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Error> {
        let (&first, rest) = self.bytes.split_first().ok_or_else(cut)?;
        self.bytes = rest;
        Ok(first)
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (chunk, rest) = self.bytes.split_first_chunk().ok_or_else(cut)?;
        self.bytes = rest;
        Ok(*chunk)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'de [u8], Error> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or_else(cut)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// A length behind its marker: of one, two or four bytes.
    #[inline]
    fn len8(&mut self) -> Result<usize, Error> {
        self.byte().map(usize::from)
    }

    #[inline]
    fn len16(&mut self) -> Result<usize, Error> {
        self.chunk().map(|chunk| u16::from_be_bytes(chunk).into())
    }

    #[inline]
    fn len32(&mut self) -> Result<usize, Error> {
        self.chunk().map(|chunk| u32::from_be_bytes(chunk) as usize)
    }

    fn token(&mut self) -> Result<Token<'de>, Error> {
        if let Some(text) = self.unsent.take() {
            return Ok(Token::Str(text));
        }
        match self.integer() {
            Some(Integer::Unsigned(value)) => return Ok(Token::Unsigned(value)),
            Some(Integer::Signed(value)) => return Ok(Token::Signed(value)),
            None => {}
        }
        Ok(match self.byte()? {
            marker @ 0x80..=0x8f => Token::Map(usize::from(marker & 0x0f)),
            marker @ 0x90..=0x9f => Token::Seq(usize::from(marker & 0x0f)),
            marker @ 0xa0..=0xbf => self.str(usize::from(marker & 0x1f))?,
            0xc0 => Token::Nil,
            0xc2 => Token::Bool(false),
            0xc3 => Token::Bool(true),
            0xc4 => self.len8().and_then(|len| self.bin(len))?,
            0xc5 => self.len16().and_then(|len| self.bin(len))?,
            0xc6 => self.len32().and_then(|len| self.bin(len))?,
            0xca => Token::F32(f32::from_be_bytes(self.chunk()?)),
            0xcb => Token::F64(f64::from_be_bytes(self.chunk()?)),
            // Of those that are whole, none comes here.
            0..=0x7f | 0xcc..=0xd3 | 0xe0..=0xff => return Err(cut()),
            0xd4 => self.some_of_nil()?,
            0xd6 => self.aside()?,
            0xd9 => self.len8().and_then(|len| self.str(len))?,
            0xda => self.len16().and_then(|len| self.str(len))?,
            0xdb => self.len32().and_then(|len| self.str(len))?,
            0xdc => Token::Seq(self.len16()?),
            0xdd => Token::Seq(self.len32()?),
            0xde => Token::Map(self.len16()?),
            0xdf => Token::Map(self.len32()?),
            marker @ (0xc1 | 0xc7..=0xc9 | 0xd5 | 0xd7 | 0xd8) => return Err(unknown_marker(marker)),
        })
    }

    #[inline]
    fn str(&mut self, len: usize) -> Result<Token<'de>, Error> {
        match std::str::from_utf8(self.take(len)?) {
            Ok(text) => Ok(Token::Str(text)),
            Err(error) => Err(de::Error::custom(error)),
        }
    }

    #[inline]
    fn bin(&mut self, len: usize) -> Result<Token<'de>, Error> {
        self.take(len).map(Token::Bin)
    }

    /// Behind a fixext1 marker.
    #[cold]
    fn some_of_nil(&mut self) -> Result<Token<'de>, Error> {
        match self.chunk()? {
            [kind, _] if kind != SOME_OF_NIL as u8 => Err(unknown_marker(0xd4)),
            [_, 0] => Err(Error::new("an optional value with nothing around its nil")),
            [_, somes] => Ok(Token::SomeOfNil(somes)),
        }
    }

    /// Behind a fixext4 marker.
    #[cold]
    fn aside(&mut self) -> Result<Token<'de>, Error> {
        match self.chunk()? {
            [kind, a, b, c, d] if kind == ASIDE as u8 => Ok(Token::Aside(u32::from_be_bytes([a, b, c, d]))),
            _ => Err(unknown_marker(0xd6)),
        }
    }

    /// Goes into something that holds so many values. Every value takes a byte at least: a length
    /// that announces more is a lie.
    #[inline]
    fn enter(&mut self, values: usize) -> Result<(), Error> {
        if values > self.bytes.len() {
            return Err(cut());
        }
        self.deepen()
    }

    #[inline]
    fn deepen(&mut self) -> Result<(), Error> {
        self.depth = self.depth.checked_sub(1).ok_or_else(too_deep)?;
        // An error ends the whole reading, so nothing needs the depth after one.
        Ok(())
    }

    fn seq<V: Visitor<'de>>(
        &mut self,
        len: usize,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.enter(len)?;
        let mut elements = Elements { deserializer: self, len, left: len, names: Names::Fields(fields) };
        let value = visitor.visit_seq(&mut elements);
        elements.leave(value)
    }

    fn map<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value, Error> {
        // A key that did not travel takes no byte.
        self.enter(len.saturating_mul(2) - usize::from(self.unsent.is_some()))?;
        let mut elements = Elements { deserializer: self, len, left: len, names: Names::Key(&[]) };
        let value = visitor.visit_map(&mut elements);
        elements.leave(value)
    }

    /// Reads a value that nobody wants.
    fn skip(&mut self) -> Result<(), Error> {
        let values = match self.token()? {
            Token::Seq(len) => len,
            Token::Map(len) => len.saturating_mul(2),
            _ => return Ok(()),
        };
        self.enter(values)?;
        for _ in 0..values {
            self.skip()?;
        }
        self.depth += 1;
        Ok(())
    }

    fn some_around_nil<V: Visitor<'de>>(&mut self, somes: u8, visitor: V) -> Result<V::Value, Error> {
        // What is inside is read from bytes that say so.
        let inside: &'static [u8] = match somes {
            0 | 1 => &[0xc0],
            more => &SOMES[usize::from(more - 1)],
        };
        let depth = self.depth.checked_sub(1).ok_or_else(too_deep)?;
        visitor.visit_some(&mut Deserializer { bytes: inside, depth, unsent: None })
    }

    fn any<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Nil => visitor.visit_unit(),
            Token::Bool(value) => visitor.visit_bool(value),
            Token::Unsigned(value) => visitor.visit_u64(value),
            Token::Signed(value) => visitor.visit_i64(value),
            Token::F32(value) => visitor.visit_f32(value),
            Token::F64(value) => visitor.visit_f64(value),
            Token::Str(value) => visitor.visit_borrowed_str(value),
            Token::Bin(value) => visitor.visit_borrowed_bytes(value),
            Token::Seq(len) => self.seq(len, &[], visitor),
            Token::Map(len) => self.map(len, visitor),
            Token::SomeOfNil(somes) => self.some_around_nil(somes, visitor),
            Token::Aside(number) => visitor.visit_bytes(&piece(number)?),
        }
    }

    fn number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.integer() {
            Some(Integer::Unsigned(value)) => visitor.visit_u64(value),
            Some(Integer::Signed(value)) => visitor.visit_i64(value),
            None => Err(self.token()?.unexpected(&visitor)),
        }
    }

    /// As [`Deserializer::token`], for what is an integer and is whole: this fits into registers.
    fn integer(&mut self) -> Option<Integer> {
        let (&marker, rest) = self.bytes.split_first()?;
        let (integer, rest) = match marker {
            0..=0x7f => (Integer::Unsigned(marker.into()), rest),
            0xe0..=0xff => (Integer::Signed((marker as i8).into()), rest),
            0xcc => fixed(rest, |at| Integer::Unsigned(u8::from_be_bytes(at).into()))?,
            0xcd => fixed(rest, |at| Integer::Unsigned(u16::from_be_bytes(at).into()))?,
            0xce => fixed(rest, |at| Integer::Unsigned(u32::from_be_bytes(at).into()))?,
            0xcf => fixed(rest, |at| Integer::Unsigned(u64::from_be_bytes(at)))?,
            0xd0 => fixed(rest, |at| Integer::Signed(i8::from_be_bytes(at).into()))?,
            0xd1 => fixed(rest, |at| Integer::Signed(i16::from_be_bytes(at).into()))?,
            0xd2 => fixed(rest, |at| Integer::Signed(i32::from_be_bytes(at).into()))?,
            0xd3 => fixed(rest, |at| Integer::Signed(i64::from_be_bytes(at)))?,
            _ => return None,
        };
        self.bytes = rest;
        Some(integer)
    }

    fn float<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::F32(value) => visitor.visit_f32(value),
            Token::F64(value) => visitor.visit_f64(value),
            Token::Unsigned(value) => visitor.visit_u64(value),
            Token::Signed(value) => visitor.visit_i64(value),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn text<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Str(value) => visitor.visit_borrowed_str(value),
            Token::Bin(value) => visitor.visit_borrowed_bytes(value),
            Token::Aside(number) => visitor.visit_bytes(&piece(number)?),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn bytes<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Bin(value) => visitor.visit_borrowed_bytes(value),
            Token::Str(value) => visitor.visit_borrowed_str(value),
            Token::Seq(len) => self.seq(len, &[], visitor),
            Token::Aside(number) => visitor.visit_bytes(&piece(number)?),
            other => Err(other.unexpected(&visitor)),
        }
    }

    /// A sequence, for a visitor that wants one: bytes are a sequence of numbers to it.
    #[inline]
    fn elements<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.short_seq() {
            Some(len) => self.seq(len, &[], visitor),
            None => self.other_elements(visitor),
        }
    }

    fn other_elements<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Seq(len) => self.seq(len, &[], visitor),
            Token::Bin(bytes) => byte_by_byte(bytes, visitor),
            Token::Aside(number) => byte_by_byte(&piece(number)?, visitor),
            other => Err(other.unexpected(&visitor)),
        }
    }

    /// The length of a sequence, if one comes next, and it is short as most are.
    #[inline]
    fn short_seq(&mut self) -> Option<usize> {
        match self.bytes.split_first() {
            Some((&marker @ 0x90..=0x9f, rest)) => {
                self.bytes = rest;
                Some(usize::from(marker & 0x0f))
            }
            _ => None,
        }
    }

    fn fields<V: Visitor<'de>>(&mut self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        let len = match self.bytes {
            [marker @ 0x90..=0x9f, rest @ ..]
                if usize::from(marker & 0x0f) == fields.len() && self.unsent.is_none() =>
            {
                self.bytes = rest;
                fields.len()
            }
            _ => match self.layout(fields, &visitor)? {
                Layout::Positional(len) => len,
                Layout::Named(len) => return self.map(len, visitor),
            },
        };
        // The one place where it is called for a type: so it is compiled into whoever wants the value, which is
        // not moved from hand to hand then.
        self.seq(len, fields, visitor)
    }

    /// Reads the beginning of a struct.
    fn layout(&mut self, fields: &'static [&'static str], expected: &dyn Expected) -> Result<Layout, Error> {
        match self.token()? {
            Token::Seq(len) if len == fields.len() => Ok(Layout::Positional(len)),
            Token::Seq(len) => self.unusual_layout(len, fields, expected),
            Token::Map(len) => Ok(Layout::Named(len)),
            other => Err(other.unexpected(expected)),
        }
    }

    /// A struct by position whose length is unusual, or wrong.
    #[cold]
    fn unusual_layout(
        &mut self,
        len: usize,
        fields: &'static [&'static str],
        expected: &dyn Expected,
    ) -> Result<Layout, Error> {
        let expected = expected.to_string();
        if len == 1 && fields.len() == 2 && expected.starts_with("adjacently tagged enum ") {
            // A variant without content is written as the tag alone, which serde reads from a map only.
            self.unsent = Some(fields[0]);
            return Ok(Layout::Named(len));
        }
        if len != fields.len() && expected.starts_with("struct ") {
            // Read by position, a field that only one side skips would shift the others in silence.
            return Err(Error::new(format!(
                "{len} fields came by position for the {} of {expected}: if one has `skip_serializing` or \
                 `skip_deserializing` alone, it needs both, which is `skip`, or `skip_serializing_if`",
                fields.len()
            )));
        }
        // Any other visitor knows what it does.
        Ok(Layout::Positional(len))
    }
}

/// Bytes, for who wants a sequence of numbers.
fn byte_by_byte<'de, V: Visitor<'de>>(bytes: &[u8], visitor: V) -> Result<V::Value, Error> {
    let mut elements = SeqDeserializer::new(bytes.iter().copied());
    let value = visitor.visit_seq(&mut elements)?;
    elements.end()?;
    Ok(value)
}

/// What lies elsewhere.
#[cold]
fn piece(number: u32) -> Result<Bytes, Error> {
    super::aside::piece(number).ok_or_else(|| Error::new(format!("its byte string {number} did not come with it")))
}

/// An integer of `N` bytes, and what is behind it.
fn fixed<const N: usize>(bytes: &[u8], integer: impl FnOnce([u8; N]) -> Integer) -> Option<(Integer, &[u8])> {
    bytes.split_first_chunk().map(|(at, rest)| (integer(*at), rest))
}

/// How a struct's fields are told apart.
enum Layout {
    Positional(usize),
    Named(usize),
}

/// `Some`s around a nil, by their number.
static SOMES: [[u8; 3]; 256] = {
    let mut somes = [[0xd4, SOME_OF_NIL as u8, 0]; 256];
    let mut count = 0;
    while count < somes.len() {
        somes[count][2] = count as u8;
        count += 1;
    }
    somes
};

#[cold]
fn cut() -> Error {
    Error::new("it ends too early")
}

#[cold]
fn too_deep() -> Error {
    Error::new(format!("it nests deeper than {MAX_DEPTH} levels"))
}

#[cold]
fn unknown_marker(marker: u8) -> Error {
    Error::new(format!("no value begins with the msgpack marker {marker:#04x}"))
}

/// Numbers are mostly one byte: that case is short enough to stand where the value is read.
macro_rules! numbers {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.bytes.split_first() {
                Some((&small @ 0..=0x7f, rest)) => {
                    self.bytes = rest;
                    visitor.visit_u8(small)
                }
                _ => self.number(visitor),
            }
        }
    )*};
}

macro_rules! forward {
    ($($method:ident $to:ident;)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.$to(visitor)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &mut Deserializer<'de> {
    type Error = Error;

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32
    }

    /// As the others; these are whole words as well, often: hashes, times, sizes.
    #[inline]
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match *self.bytes {
            [small @ 0..=0x7f, ref rest @ ..] => {
                self.bytes = rest;
                visitor.visit_u8(small)
            }
            [0xcf, a, b, c, d, e, f, g, h, ref rest @ ..] => {
                self.bytes = rest;
                visitor.visit_u64(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
            _ => self.number(visitor),
        }
    }

    forward! {
        deserialize_any any;
        deserialize_f32 float;
        deserialize_f64 float;
        deserialize_char text;
        deserialize_str text;
        deserialize_string text;
        deserialize_bytes bytes;
        deserialize_byte_buf bytes;
        deserialize_seq elements;
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Bool(value) => visitor.visit_bool(value),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.bytes {
            [0xc4, 16, ..] => {
                self.take(2)?;
                visitor.visit_i128(i128::from_be_bytes(self.chunk()?))
            }
            _ => self.number(visitor),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.bytes {
            [0xc4, 16, ..] => {
                self.take(2)?;
                visitor.visit_u128(u128::from_be_bytes(self.chunk()?))
            }
            _ => self.number(visitor),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Nil => visitor.visit_unit(),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Nil | Token::Seq(0) => visitor.visit_unit(),
            other => Err(other.unexpected(&visitor)),
        }
    }

    /// The key of a field, or the name of a variant.
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Str(name) => visitor.visit_borrowed_str(name),
            Token::Unsigned(index) => visitor.visit_u64(index),
            Token::Bin(name) => visitor.visit_borrowed_bytes(name),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.skip()?;
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.peek()? {
            0xc0 => {
                self.byte()?;
                visitor.visit_none()
            }
            0xd4 => self.any(visitor),
            // Counted, though it takes no byte: `struct L(Option<Box<L>>)` would go on for ever.
            _ => {
                self.deepen()?;
                let value = visitor.visit_some(&mut *self)?;
                self.depth += 1;
                Ok(value)
            }
        }
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Error> {
        self.elements(visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.elements(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Map(len) => self.map(len, visitor),
            other => Err(other.unexpected(&visitor)),
        }
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.fields(fields, visitor)
    }

    /// A variant is `name`, or `{name: content}`; a number stands for a name, too.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.peek()? {
            0x81 => {
                self.byte()?;
                self.deepen()?;
                let value = visitor.visit_enum(Variant { deserializer: self, content: true, name: &[], variants })?;
                self.depth += 1;
                Ok(value)
            }
            0xa0..=0xbf | 0xd9..=0xdb | 0..=0x7f | 0xcc..=0xcf => {
                visitor.visit_enum(Variant { deserializer: self, content: false, name: &[], variants })
            }
            // The visitor says what it would have liked.
            _ => Err(self.token()?.unexpected(&visitor)),
        }
    }
}

/// The elements of a sequence, or the pairs of a map.
struct Elements<'d, 'de> {
    deserializer: &'d mut Deserializer<'de>,
    len: usize,
    left: usize,
    names: Names<'de>,
}

/// What the values of something that holds others are called.
enum Names<'de> {
    /// By their order; more are elements.
    Fields(&'static [&'static str]),
    /// By the key before each, as it came.
    Key(&'de [u8]),
}

impl Elements<'_, '_> {
    /// Whether there is one more.
    #[inline]
    fn next(&mut self) -> bool {
        let is_there = self.left > 0;
        self.left -= usize::from(is_there);
        is_there
    }

    fn next_pair(&mut self) -> bool {
        self.names = match self.deserializer.unsent {
            Some(_) => Names::Fields(&[]),
            None => Names::Key(self.deserializer.bytes),
        };
        self.next()
    }

    #[cold]
    fn inside(&self, error: Error) -> Error {
        let index = self.len - self.left - 1;
        error.inside(match self.names {
            Names::Fields(fields) => match fields.get(index) {
                Some(&field) => Step::Field(Cow::Borrowed(field)),
                None => Step::Element(index),
            },
            Names::Key(key) => Step::Field(printed(key, &[])),
        })
    }

    /// All of them were read. The value stays where it is: a move costs as much as a number.
    #[inline]
    fn leave<T>(self, value: Result<T, Error>) -> Result<T, Error> {
        self.deserializer.depth += 1;
        if self.left > 0 && value.is_ok() { Err(self.too_many()) } else { value }
    }

    #[cold]
    fn too_many(&self) -> Error {
        Error::new(format!("{} elements came where {} were expected", self.len, self.len - self.left))
    }
}

/// A key, or the name of a variant, for people.
#[cold]
pub(super) fn printed(bytes: &[u8], variants: &'static [&'static str]) -> Cow<'static, str> {
    match Deserializer::new(bytes).token() {
        Ok(Token::Str(name)) => Cow::Owned(name.chars().take(MAX_PRINTED_CHARS).collect()),
        Ok(Token::Unsigned(index)) => match usize::try_from(index).ok().and_then(|index| variants.get(index)) {
            Some(variant) => Cow::Borrowed(variant),
            None => Cow::Owned(index.to_string()),
        },
        Ok(Token::Signed(key)) => Cow::Owned(key.to_string()),
        Ok(Token::Bool(key)) => Cow::Owned(key.to_string()),
        _ => Cow::Borrowed("?"),
    }
}

/// Of a key in a path: it comes from the peer.
const MAX_PRINTED_CHARS: usize = 100;

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if !self.next() {
            return Ok(None);
        }
        match seed.deserialize(&mut *self.deserializer) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(self.inside(error)),
        }
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        // `enter` has bounded it by the bytes that are here.
        Some(self.left)
    }
}

impl<'de> de::MapAccess<'de> for Elements<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        if !self.next_pair() {
            return Ok(None);
        }
        seed.deserialize(&mut *self.deserializer).map(Some)
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        match seed.deserialize(&mut *self.deserializer) {
            Ok(value) => Ok(value),
            Err(error) => Err(self.inside(error)),
        }
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// An enum's variant: its name comes next, and then, if there is any, its content.
struct Variant<'d, 'de> {
    deserializer: &'d mut Deserializer<'de>,
    content: bool,
    /// As it came.
    name: &'de [u8],
    variants: &'static [&'static str],
}

impl<'d, 'de> Variant<'d, 'de> {
    fn content(&mut self) -> Result<&mut Deserializer<'de>, Error> {
        if self.content { Ok(self.deserializer) } else { Err(Error::new("the variant came without its content")) }
    }

    #[inline]
    fn inside<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(error.inside(Step::Field(printed(self.name, self.variants)))),
        }
    }
}

impl<'de> de::EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Error;
    type Variant = Self;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(mut self, seed: V) -> Result<(V::Value, Self), Error> {
        self.name = self.deserializer.bytes;
        let variant = seed.deserialize(&mut *self.deserializer)?;
        Ok((variant, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        if !self.content {
            return Ok(());
        }
        match self.deserializer.byte()? {
            0xc0 | 0x90 => Ok(()),
            _ => Err(Error::new("the variant came with a content, and has none here")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(mut self, seed: T) -> Result<T::Value, Error> {
        let value = self.content().and_then(|content| seed.deserialize(content));
        self.inside(value)
    }

    fn tuple_variant<V: Visitor<'de>>(mut self, _len: usize, visitor: V) -> Result<V::Value, Error> {
        let value = self.content().and_then(|content| content.elements(visitor));
        self.inside(value)
    }

    fn struct_variant<V: Visitor<'de>>(
        mut self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let value = self.content().and_then(|content| content.fields(fields, visitor));
        self.inside(value)
    }
}
