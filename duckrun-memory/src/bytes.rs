//! Numbers of bytes for people: the units that the constants are written in, and one way to print them.

use std::fmt;

/// 2^20 bytes.
pub const MIB: u64 = 1 << 20;

/// 2^30 bytes.
pub const GIB: u64 = 1 << 30;

/// Prints a number of bytes in the largest binary unit that keeps it readable: `512 MiB`, `1.5 GiB`, `900 B`.
///
/// Rounded for reading, never for parsing: what is handed to another library is the `u64` itself.
///
/// ```
/// use duckrun_memory::Bytes;
/// assert_eq!(Bytes(512 << 20).to_string(), "512 MiB");
/// assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", GIB), ("MiB", MIB), ("KiB", 1 << 10)];
        let Some((unit, size)) = UNITS.into_iter().find(|(_, size)| self.0 >= *size) else {
            return f.pad(&format!("{} B", self.0));
        };
        let tenths = (u128::from(self.0) * 10 + u128::from(size) / 2) / u128::from(size);
        let text = match tenths % 10 {
            0 => format!("{} {unit}", tenths / 10),
            tenth if tenths < 1000 => format!("{}.{tenth} {unit}", tenths / 10),
            _ => format!("{} {unit}", (tenths + 5) / 10),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_the_largest_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (MIB, "1 MiB"),
            (MIB * 3 / 2, "1.5 MiB"),
            (MIB * 235 + MIB / 3, "235 MiB"),
            (GIB * 2, "2 GiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>8}|", Bytes(MIB)), "   1 MiB|");
    }
}
