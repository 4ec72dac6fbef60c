//! Values of the binary protocol: parameters out, rows in.

use pontoon_mysql_wire::{Reader, WireError, write};

/// A parameter of a prepared statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The type's number.
    pub kind: u8,
    /// Whether it is unsigned.
    pub unsigned: bool,
    /// The value as it is sent; `None` for NULL.
    pub bytes: Option<Vec<u8>>,
    /// Whether its value was sent as long data, so that none goes with the execution.
    pub sent: bool,
}

impl Parameter {
    /// Reads `int:5`, `ubigint:7`, `str:abc`, `datetime:2026-01-02 03:04:05.000006`, `null`, `long` and so on.
    ///
    /// # Errors
    /// Says what it cannot read.
    pub fn parse(word: &str) -> Result<Parameter, String> {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        let unsigned = name.len() > 1 && name.starts_with('u');
        let bad = || format!("no such parameter: {word}");
        let number = || value.parse::<i128>().map_err(|_| bad());
        let mut sent = false;
        let (kind, bytes) = match name.trim_start_matches('u') {
            "null" => (6, None),
            "tiny" => (1, Some((number()? as u8).to_le_bytes().to_vec())),
            "short" => (2, Some((number()? as u16).to_le_bytes().to_vec())),
            "int" => (3, Some((number()? as u32).to_le_bytes().to_vec())),
            "bigint" => (8, Some((number()? as u64).to_le_bytes().to_vec())),
            "float" => (
                4,
                Some(value.parse::<f32>().map_err(|_| bad())?.to_le_bytes().to_vec()),
            ),
            "double" => (
                5,
                Some(value.parse::<f64>().map_err(|_| bad())?.to_le_bytes().to_vec()),
            ),
            "decimal" => (246, Some(text(value.as_bytes()))),
            "str" => (254, Some(text(value.as_bytes()))),
            "varchar" => (253, Some(text(value.as_bytes()))),
            "json" => (245, Some(text(value.as_bytes()))),
            "blob" => (252, Some(text(&unhex(value).ok_or_else(bad)?))),
            "date" | "datetime" | "timestamp" => {
                let kind = match name {
                    "date" => 10,
                    "timestamp" => 7,
                    _ => 12,
                };
                (kind, Some(moment(value).ok_or_else(bad)?))
            }
            "time" => (11, Some(span(value).ok_or_else(bad)?)),
            "long" => {
                sent = true;
                (252, Some(Vec::new()))
            }
            _ => return Err(bad()),
        };
        Ok(Parameter {
            kind,
            unsigned,
            bytes,
            sent,
        })
    }
}

/// What follows the header of COM_STMT_EXECUTE: NULL bitmap, types when `types`, values.
pub fn encode(out: &mut Vec<u8>, parameters: &[Parameter], types: bool) {
    if parameters.is_empty() {
        return;
    }
    let mut bitmap = vec![0u8; parameters.len().div_ceil(8)];
    for (index, parameter) in parameters.iter().enumerate() {
        if parameter.bytes.is_none() {
            bitmap[index / 8] |= 1 << (index % 8);
        }
    }
    out.extend_from_slice(&bitmap);
    out.push(u8::from(types));
    if types {
        for parameter in parameters {
            out.push(parameter.kind);
            out.push(if parameter.unsigned { 0x80 } else { 0 });
        }
    }
    for parameter in parameters.iter().filter(|parameter| !parameter.sent) {
        out.extend_from_slice(parameter.bytes.as_deref().unwrap_or_default());
    }
}

/// The values of a binary row as text; `None` for NULL.
///
/// # Errors
/// When the row is not one of `columns` (type, unsigned).
pub fn decode(row: &[u8], columns: &[(u8, bool)]) -> Result<Vec<Option<Vec<u8>>>, WireError> {
    let mut reader = Reader::new(row);
    if reader.u8("a row's header")? != 0 {
        return Err(WireError::Malformed("a binary row that does not begin with 0"));
    }
    let bitmap = reader.bytes((columns.len() + 9) / 8, "the NULL bitmap")?;
    let mut values = Vec::with_capacity(columns.len());
    for (index, (kind, unsigned)) in columns.iter().enumerate() {
        let bit = index + 2;
        if bitmap[bit / 8] & (1 << (bit % 8)) != 0 {
            values.push(None);
            continue;
        }
        values.push(Some(read(&mut reader, *kind, *unsigned)?));
    }
    if !reader.is_empty() {
        return Err(WireError::Malformed("bytes after a binary row"));
    }
    Ok(values)
}

fn read(reader: &mut Reader<'_>, kind: u8, unsigned: bool) -> Result<Vec<u8>, WireError> {
    const WHAT: &str = "a value";
    let number = match kind {
        1 => i128::from(reader.u8(WHAT)? as i8),
        2 | 13 => i128::from(reader.u16(WHAT)? as i16),
        3 | 9 => i128::from(reader.u32(WHAT)? as i32),
        8 => i128::from(reader.u64(WHAT)? as i64),
        4 => return Ok(f32::from_bits(reader.u32(WHAT)?).to_string().into_bytes()),
        5 => return Ok(f64::from_bits(reader.u64(WHAT)?).to_string().into_bytes()),
        7 | 10 | 11 | 12 => {
            let length = usize::from(reader.u8(WHAT)?);
            let bytes = reader.bytes(length, WHAT)?;
            let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            return Ok(format!("t{kind}:{}", parts.join(".")).into_bytes());
        }
        _ => return Ok(reader.lenenc_bytes(WHAT)?.to_vec()),
    };
    let bits = match kind {
        1 => 8,
        2 | 13 => 16,
        3 | 9 => 32,
        _ => 64,
    };
    let number = if unsigned && number < 0 {
        number + (1i128 << bits)
    } else {
        number
    };
    Ok(number.to_string().into_bytes())
}

fn text(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write::lenenc_bytes(&mut out, bytes);
    out
}

/// Bytes of hexadecimal digits.
pub fn unhex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
        .collect()
}

/// `YYYY-MM-DD[ HH:MM:SS[.ffffff]]`; an empty one is the zero date.
fn moment(value: &str) -> Option<Vec<u8>> {
    if value.is_empty() {
        return Some(vec![0]);
    }
    let (date, time) = value.split_once(['T', ' ']).unwrap_or((value, ""));
    let mut fields = date.split('-');
    let mut out = Vec::new();
    write::u16(&mut out, fields.next()?.parse().ok()?);
    out.push(fields.next()?.parse().ok()?);
    out.push(fields.next()?.parse().ok()?);
    if !time.is_empty() {
        clock(&mut out, time)?;
    }
    Some([&[out.len() as u8][..], &out].concat())
}

/// `[-][D.]HH:MM:SS[.ffffff]`, days before `d`.
fn span(value: &str) -> Option<Vec<u8>> {
    let (negative, value) = match value.strip_prefix('-') {
        Some(rest) => (1, rest),
        None => (0, value),
    };
    if value.is_empty() {
        return Some(vec![0]);
    }
    let (days, time) = value.split_once('d').unwrap_or(("0", value));
    let mut out = vec![negative];
    write::u32(&mut out, days.parse().ok()?);
    clock(&mut out, time)?;
    Some([&[out.len() as u8][..], &out].concat())
}

fn clock(out: &mut Vec<u8>, time: &str) -> Option<()> {
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    for field in time.split(':') {
        out.push(field.parse().ok()?);
    }
    if !fraction.is_empty() {
        write::u32(out, fraction.parse().ok()?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_what_the_protocol_says() {
        let bytes = |word: &str| Parameter::parse(word).unwrap().bytes.unwrap();
        assert_eq!(bytes("int:-1"), [255; 4]);
        assert_eq!(bytes("utiny:200"), [200]);
        assert_eq!(bytes("date:2026-11-23"), [4, 0xEA, 7, 11, 23]);
        assert_eq!(
            bytes("datetime:2026-11-23 01:02:03.000004"),
            [11, 0xEA, 7, 11, 23, 1, 2, 3, 4, 0, 0, 0]
        );
        assert_eq!(bytes("time:-1d02:03:04"), [8, 1, 1, 0, 0, 0, 2, 3, 4]);
        assert_eq!(bytes("blob:00ff"), [2, 0, 255]);
        assert!(Parameter::parse("int:x").is_err() && Parameter::parse("money:1").is_err());
    }

    #[test]
    fn a_binary_row_is_read_back() {
        let mut row = vec![0, 0b0000_1000];
        row.extend_from_slice(&(-5i32).to_le_bytes());
        row.extend_from_slice(&[2, b'h', b'i']);
        let values = decode(&row, &[(3, false), (8, false), (253, false)]).unwrap();
        assert_eq!(values, [Some(b"-5".to_vec()), None, Some(b"hi".to_vec())]);
        assert!(decode(&row[..5], &[(3, false), (8, false), (253, false)]).is_err());
    }
}
