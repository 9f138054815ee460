//! DuckDB's logical types as values. `Display` writes what DuckDB's own parser reads, every nested name quoted.

use std::fmt;

use crate::{Result, quote_ident, quote_literal};

/// A DuckDB logical type, as `DESCRIBE` prints it.
///
/// ```
/// use duckrun_core::types::DuckType;
/// let ty = DuckType::parse("STRUCT(a INTEGER, \"b c\" DECIMAL(9,2)[])[3]")?;
/// assert_eq!(ty.to_string(), r#"STRUCT("a" INTEGER, "b c" DECIMAL(9,2)[])[3]"#);
/// # Ok::<(), duckrun_core::Error>(())
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DuckType {
    /// `BOOLEAN`.
    Boolean,
    /// `TINYINT`: 8 bits.
    TinyInt,
    /// `SMALLINT`: 16 bits.
    SmallInt,
    /// `INTEGER`: 32 bits.
    Integer,
    /// `BIGINT`: 64 bits.
    BigInt,
    /// `HUGEINT`: 128 bits.
    HugeInt,
    /// `UTINYINT`: 8 bits, unsigned.
    UTinyInt,
    /// `USMALLINT`: 16 bits, unsigned.
    USmallInt,
    /// `UINTEGER`: 32 bits, unsigned.
    UInteger,
    /// `UBIGINT`: 64 bits, unsigned.
    UBigInt,
    /// `UHUGEINT`: 128 bits, unsigned.
    UHugeInt,
    /// `BIGNUM` (formerly `VARINT`): an integer of any size.
    BigNum,
    /// `FLOAT`: 32 bits.
    Float,
    /// `DOUBLE`: 64 bits.
    Double,
    /// `DECIMAL(width,scale)`.
    Decimal {
        /// All digits, at most 38.
        width: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// `VARCHAR`.
    Varchar,
    /// `BLOB`.
    Blob,
    /// `BIT`: a string of bits.
    Bit,
    /// `UUID`.
    Uuid,
    /// `JSON`: text that was checked.
    Json,
    /// `DATE`.
    Date,
    /// `TIME`: microseconds of a day.
    Time,
    /// `TIME_NS`: nanoseconds of a day.
    TimeNs,
    /// `TIME WITH TIME ZONE`.
    TimeTz,
    /// `TIMESTAMP`: microseconds, no zone.
    Timestamp,
    /// `TIMESTAMP_S`: seconds, no zone.
    TimestampS,
    /// `TIMESTAMP_MS`: milliseconds, no zone.
    TimestampMs,
    /// `TIMESTAMP_NS`: nanoseconds, no zone.
    TimestampNs,
    /// `TIMESTAMP WITH TIME ZONE`: an instant in microseconds.
    TimestampTz,
    /// `TIMESTAMPTZ_NS`: an instant in nanoseconds.
    TimestampTzNs,
    /// `INTERVAL`.
    Interval,
    /// `VARIANT`.
    Variant,
    /// `GEOMETRY`, with or without a coordinate system.
    Geometry,
    /// `TYPE`: a type as a value.
    Type,
    /// The type of a bare `NULL`.
    Null,
    /// `ENUM('a', 'b')`.
    Enum(Vec<String>),
    /// `STRUCT(a INTEGER, ...)`.
    Struct(Vec<(String, DuckType)>),
    /// `TUPLE(INTEGER, ...)`: a row whose fields have no names.
    Tuple(Vec<DuckType>),
    /// `UNION(a INTEGER, ...)`.
    Union(Vec<(String, DuckType)>),
    /// `INTEGER[]`.
    List(Box<DuckType>),
    /// `INTEGER[3]`.
    Array(Box<DuckType>, u32),
    /// `MAP(key, value)`.
    Map(Box<DuckType>, Box<DuckType>),
    /// A type that this version does not know, as it was written. It is always refused.
    Other(String),
}

impl DuckType {
    /// Reads a type as `DESCRIBE` or `typeof` prints it. DuckDB's aliases (`int`, `text`, ...) are understood as well.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for text that is not a type. A name that is merely
    /// unknown becomes [`DuckType::Other`].
    pub fn parse(text: &str) -> Result<Self> {
        super::parse::parse(text)
    }

    /// The type of a name without parameters, in upper case; aliases included.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "BOOLEAN" | "BOOL" | "LOGICAL" => Self::Boolean,
            "TINYINT" | "INT1" => Self::TinyInt,
            "SMALLINT" | "INT2" | "INT16" | "SHORT" => Self::SmallInt,
            "INTEGER" | "INT" | "INT4" | "INT32" | "INTEGRAL" | "SIGNED" => Self::Integer,
            "BIGINT" | "INT8" | "INT64" | "LONG" | "OID" => Self::BigInt,
            "HUGEINT" | "INT128" => Self::HugeInt,
            "UTINYINT" | "UINT8" => Self::UTinyInt,
            "USMALLINT" | "UINT16" => Self::USmallInt,
            "UINTEGER" | "UINT32" => Self::UInteger,
            "UBIGINT" | "UINT64" => Self::UBigInt,
            "UHUGEINT" | "UINT128" => Self::UHugeInt,
            "BIGNUM" | "VARINT" => Self::BigNum,
            "FLOAT" | "FLOAT4" | "REAL" => Self::Float,
            "DOUBLE" | "FLOAT8" | "DOUBLE PRECISION" => Self::Double,
            "DECIMAL" | "DEC" | "NUMERIC" => Self::Decimal { width: 18, scale: 3 },
            "VARCHAR" | "TEXT" | "STRING" | "CHAR" | "BPCHAR" | "NVARCHAR" => Self::Varchar,
            "BLOB" | "BYTEA" | "BINARY" | "VARBINARY" => Self::Blob,
            "BIT" | "BITSTRING" => Self::Bit,
            "UUID" | "GUID" => Self::Uuid,
            "JSON" => Self::Json,
            "DATE" => Self::Date,
            "TIME" | "TIME WITHOUT TIME ZONE" => Self::Time,
            "TIME_NS" => Self::TimeNs,
            "TIME WITH TIME ZONE" | "TIMETZ" => Self::TimeTz,
            "TIMESTAMP" | "DATETIME" | "TIMESTAMP_US" | "TIMESTAMP WITHOUT TIME ZONE" => Self::Timestamp,
            "TIMESTAMP_S" => Self::TimestampS,
            "TIMESTAMP_MS" => Self::TimestampMs,
            "TIMESTAMP_NS" => Self::TimestampNs,
            "TIMESTAMP WITH TIME ZONE" | "TIMESTAMPTZ" => Self::TimestampTz,
            "TIMESTAMPTZ_NS" => Self::TimestampTzNs,
            "INTERVAL" => Self::Interval,
            "VARIANT" => Self::Variant,
            "GEOMETRY" => Self::Geometry,
            "TYPE" => Self::Type,
            "NULL" => Self::Null,
            "STRUCT" | "ROW" => Self::Struct(Vec::new()),
            "TUPLE" => Self::Tuple(Vec::new()),
            _ => return None,
        })
    }
}

impl fmt::Display for DuckType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Boolean => "BOOLEAN",
            Self::TinyInt => "TINYINT",
            Self::SmallInt => "SMALLINT",
            Self::Integer => "INTEGER",
            Self::BigInt => "BIGINT",
            Self::HugeInt => "HUGEINT",
            Self::UTinyInt => "UTINYINT",
            Self::USmallInt => "USMALLINT",
            Self::UInteger => "UINTEGER",
            Self::UBigInt => "UBIGINT",
            Self::UHugeInt => "UHUGEINT",
            Self::BigNum => "BIGNUM",
            Self::Float => "FLOAT",
            Self::Double => "DOUBLE",
            Self::Decimal { width, scale } => return write!(f, "DECIMAL({width},{scale})"),
            Self::Varchar => "VARCHAR",
            Self::Blob => "BLOB",
            Self::Bit => "BIT",
            Self::Uuid => "UUID",
            Self::Json => "JSON",
            Self::Date => "DATE",
            Self::Time => "TIME",
            Self::TimeNs => "TIME_NS",
            Self::TimeTz => "TIME WITH TIME ZONE",
            Self::Timestamp => "TIMESTAMP",
            Self::TimestampS => "TIMESTAMP_S",
            Self::TimestampMs => "TIMESTAMP_MS",
            Self::TimestampNs => "TIMESTAMP_NS",
            Self::TimestampTz => "TIMESTAMP WITH TIME ZONE",
            Self::TimestampTzNs => "TIMESTAMPTZ_NS",
            Self::Interval => "INTERVAL",
            Self::Variant => "VARIANT",
            Self::Geometry => "GEOMETRY",
            Self::Type => "TYPE",
            Self::Null => "\"NULL\"",
            Self::Enum(labels) => {
                let labels: Vec<_> = labels.iter().map(|l| quote_literal(l)).collect();
                return write!(f, "ENUM({})", labels.join(", "));
            }
            Self::Struct(fields) if fields.is_empty() => "STRUCT",
            Self::Struct(fields) => return write!(f, "STRUCT({})", members(fields)),
            Self::Union(fields) => return write!(f, "UNION({})", members(fields)),
            Self::Tuple(fields) => {
                let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
                return write!(f, "TUPLE({})", fields.join(", "));
            }
            Self::List(element) => return write!(f, "{element}[]"),
            Self::Array(element, n) => return write!(f, "{element}[{n}]"),
            Self::Map(key, value) => return write!(f, "MAP({key}, {value})"),
            Self::Other(text) => text,
        };
        f.write_str(name)
    }
}

/// `"a" INTEGER, "b" VARCHAR`.
fn members(fields: &[(String, DuckType)]) -> String {
    let fields: Vec<_> = fields.iter().map(|(name, ty)| format!("{} {ty}", quote_ident(name))).collect();
    fields.join(", ")
}
