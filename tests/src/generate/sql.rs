//! The model's values and expressions as DuckDB's SQL.

use crate::model::{Compare, Expr, Rows, Type, Value};

/// An identifier, quoted.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A type's name.
pub fn type_name(ty: &Type) -> String {
    match ty {
        Type::Bool => "BOOLEAN".into(),
        Type::Byte => "TINYINT".into(),
        Type::Short => "SMALLINT".into(),
        Type::Int => "INTEGER".into(),
        Type::Long => "BIGINT".into(),
        Type::Float => "FLOAT".into(),
        Type::Double => "DOUBLE".into(),
        Type::Decimal(p, s) => format!("DECIMAL({p},{s})"),
        Type::Text => "VARCHAR".into(),
        Type::Binary => "BLOB".into(),
        Type::Date => "DATE".into(),
        Type::Timestamp => "TIMESTAMPTZ".into(),
        Type::TimestampNtz => "TIMESTAMP".into(),
        Type::List(item) => format!("{}[]", type_name(item)),
        Type::Struct(fields) => {
            let fields: Vec<String> = fields.iter().map(|(n, t)| format!("{} {}", quoted(n), type_name(t))).collect();
            format!("STRUCT({})", fields.join(", "))
        }
    }
}

/// A value as an expression of exactly its type.
pub fn literal(value: &Value, ty: &Type) -> String {
    let cast = |text: String| format!("CAST({text} AS {})", type_name(ty));
    match (value, ty) {
        (Value::Null, _) => cast("NULL".into()),
        (Value::Bool(b), _) => b.to_string(),
        (Value::Int(i), _) => cast(format!("'{i}'")),
        (Value::Float(f), _) if f.is_nan() => cast("'nan'".into()),
        (Value::Float(f), _) if f.is_infinite() => cast(if *f > 0.0 { "'inf'" } else { "'-inf'" }.into()),
        (Value::Float(f), Type::Float) => cast(format!("'{:e}'", *f as f32)),
        (Value::Float(f), _) => cast(format!("'{f:e}'")),
        (Value::Decimal(digits), Type::Decimal(_, scale)) => cast(format!("'{}'", decimal(*digits, *scale))),
        (Value::Decimal(digits), _) => cast(format!("'{digits}'")),
        (Value::Text(t), _) => format!("'{}'", t.replace('\'', "''")),
        (Value::Binary(bytes), _) => {
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            format!("unhex('{hex}')")
        }
        (Value::Date(days), _) => format!("(DATE '1970-01-01' + ({days})::INTEGER)"),
        (Value::Timestamp(us), _) => cast(format!("make_timestamp(({us})::BIGINT)")),
        (Value::List(items), Type::List(item)) => {
            let items: Vec<String> = items.iter().map(|v| literal(v, item)).collect();
            cast(format!("[{}]", items.join(", ")))
        }
        (Value::Struct(values), Type::Struct(fields)) => {
            let fields: Vec<String> =
                values.iter().zip(fields).map(|(v, (n, t))| format!("{} := {}", quoted(n), literal(v, t))).collect();
            cast(format!("struct_pack({})", fields.join(", ")))
        }
        (Value::List(_) | Value::Struct(_), _) => cast("NULL".into()),
    }
}

/// The digits of a decimal with their point.
pub fn decimal(digits: i128, scale: u8) -> String {
    let sign = if digits < 0 { "-" } else { "" };
    let scale = usize::from(scale);
    let text = format!("{:0width$}", digits.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = text.split_at(text.len() - scale);
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// Rows as a SELECT, in their order.
pub fn select(rows: &Rows) -> String {
    let names: Vec<String> = rows.columns.iter().map(|c| quoted(&c.name)).collect();
    let line = |row: &Vec<Value>| {
        let cells: Vec<String> = row.iter().zip(&rows.columns).map(|(v, c)| literal(v, &c.ty)).collect();
        format!("({})", cells.join(", "))
    };
    if rows.rows.is_empty() {
        let none = line(&rows.columns.iter().map(|_| Value::Null).collect());
        return format!("SELECT * FROM (VALUES {none}) AS t({}) WHERE false", names.join(", "));
    }
    let lines: Vec<String> = rows.rows.iter().map(line).collect();
    format!("SELECT * FROM (VALUES {}) AS t({})", lines.join(", "), names.join(", "))
}

/// A CREATE TABLE for the columns of these rows.
pub fn create_table(name: &str, rows: &Rows) -> String {
    let columns: Vec<String> =
        rows.columns.iter().map(|c| format!("{} {}", quoted(&c.name), type_name(&c.ty))).collect();
    format!("CREATE TABLE {name} ({})", columns.join(", "))
}

/// An expression, with the columns of the table and of the incoming rows under these aliases. `columns` gives literals their
/// types: a literal stands beside a column in every comparison that is generated.
pub fn expression(expr: &Expr, target: &str, source: &str, columns: &Rows) -> String {
    let of = |e: &Expr| expression(e, target, source, columns);
    match expr {
        Expr::Target(name) => qualified(target, name),
        Expr::Source(name) => qualified(source, name),
        Expr::Literal(Value::Null) => "NULL".into(),
        Expr::Literal(value) => format!("{value:?}"),
        Expr::Compare(a, how, b) => {
            let ty = column_of(a).or_else(|| column_of(b)).and_then(|n| columns.columns.iter().find(|c| c.name == n));
            let side = |e: &Expr| match (e, ty) {
                (Expr::Literal(v), Some(c)) => literal(v, &c.ty),
                _ => of(e),
            };
            let sign = match how {
                Compare::Equal => "=",
                Compare::NotEqual => "<>",
                Compare::Less => "<",
                Compare::LessOrEqual => "<=",
                Compare::Greater => ">",
                Compare::GreaterOrEqual => ">=",
            };
            format!("({} {sign} {})", side(a), side(b))
        }
        Expr::IsNull(a) => format!("({} IS NULL)", of(a)),
        Expr::And(a, b) => format!("({} AND {})", of(a), of(b)),
        Expr::Or(a, b) => format!("({} OR {})", of(a), of(b)),
        Expr::Not(a) => format!("(NOT {})", of(a)),
        Expr::Coalesce(a, b) => format!("coalesce({}, {})", of(a), of(b)),
    }
}

fn qualified(alias: &str, name: &str) -> String {
    if alias.is_empty() { quoted(name) } else { format!("{alias}.{}", quoted(name)) }
}

fn column_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Target(name) | Expr::Source(name) => Some(name),
        _ => None,
    }
}
