//! Types and values, with the one order that keys and comparisons follow.

use std::cmp::Ordering;
use std::fmt;

/// The type of a column: those that a Delta table has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Type {
    /// `boolean`
    Bool,
    /// `byte`, 8 bits
    Byte,
    /// `short`, 16 bits
    Short,
    /// `integer`, 32 bits
    Int,
    /// `long`, 64 bits
    Long,
    /// `float`, 32 bits
    Float,
    /// `double`, 64 bits
    Double,
    /// `decimal(precision, scale)`
    Decimal(u8, u8),
    /// `string`
    Text,
    /// `binary`
    Binary,
    /// `date`
    Date,
    /// `timestamp`: an instant
    Timestamp,
    /// `timestamp_ntz`: no zone
    TimestampNtz,
    /// `array`
    List(Box<Type>),
    /// `struct`
    Struct(Vec<(String, Type)>),
}

impl Type {
    /// Whether the type can be a key: it has one order and no parts.
    pub fn is_scalar(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Struct(_))
    }
}

/// One value. Integers of every width are [`Value::Int`], both floats are [`Value::Float`].
#[derive(Clone)]
pub enum Value {
    /// NULL
    Null,
    /// A truth value
    Bool(bool),
    /// An integer
    Int(i64),
    /// A float; a 32-bit one is held exactly
    Float(f64),
    /// A decimal by its digits, at the scale of its column
    Decimal(i128),
    /// Text
    Text(String),
    /// Bytes
    Binary(Vec<u8>),
    /// Days since 1970-01-01
    Date(i32),
    /// Microseconds since 1970-01-01, with or without zone
    Timestamp(i64),
    /// Elements of an array
    List(Vec<Value>),
    /// Fields of a struct, in its order
    Struct(Vec<Value>),
}

impl Value {
    /// Whether this is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The order of values that are not NULL: NaN equals NaN and is the greatest, -0.0 equals 0.0, text and bytes are compared
    /// byte by byte. NULL comes last, for sorting only.
    ///
    /// # Panics
    /// When values of two types are compared: an error of the test.
    #[allow(clippy::panic)]
    pub fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Null, Self::Null) => Ordering::Equal,
            (Self::Null, _) => Ordering::Greater,
            (_, Self::Null) => Ordering::Less,
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) | (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())),
            (Self::Decimal(a), Self::Decimal(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Self::Binary(a), Self::Binary(b)) => a.cmp(b),
            (Self::Date(a), Self::Date(b)) => a.cmp(b),
            (Self::List(a), Self::List(b)) | (Self::Struct(a), Self::Struct(b)) => {
                a.iter().zip(b).map(|(a, b)| a.order(b)).find(|o| o.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            _ => panic!("{self:?} and {other:?} are of two types"),
        }
    }

    /// Whether two values are one and the same to a key: NULL is NULL, NaN is NaN, -0.0 is 0.0.
    pub fn matches(&self, other: &Self) -> bool {
        self.order(other).is_eq()
    }

    /// The form that two values share only if a reader cannot tell them apart: -0.0 is not 0.0, every NaN is the same.
    fn exact(&self) -> String {
        match self {
            Self::Float(f) if f.is_nan() => "Float(NaN)".to_owned(),
            Self::List(v) => format!("List({v:?})"),
            Self::Struct(v) => format!("Struct({v:?})"),
            Self::Null => "NULL".to_owned(),
            Self::Bool(v) => v.to_string(),
            Self::Int(v) => v.to_string(),
            Self::Float(v) => format!("{v:?}f"),
            Self::Decimal(v) => format!("{v}m"),
            Self::Text(v) => format!("{v:?}"),
            Self::Binary(v) => format!("x{v:02x?}"),
            Self::Date(v) => format!("day {v}"),
            Self::Timestamp(v) => format!("{v} us"),
        }
    }
}

/// Stored values are the same if a reader cannot tell them apart: -0.0 and 0.0 differ, NaN equals NaN.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.exact() == other.exact()
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.exact())
    }
}

impl From<i64> for Value {
    fn from(v: i64) -> Self {
        Self::Int(v)
    }
}

impl From<f64> for Value {
    fn from(v: f64) -> Self {
        Self::Float(v)
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Bool(v)
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Null, Into::into)
    }
}
