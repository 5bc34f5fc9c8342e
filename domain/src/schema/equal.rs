//! Equality of JSON values as JSON Schema has it: numbers by value, objects without order. Each step is charged.

use jsonschema::json::cmp;
use serde_json::{Number, Value};

use crate::cost::charge;

/// What a comparison of two values costs, beside their bytes.
const STEP: u64 = 12;
/// What a byte of a key costs: it is written and hashed.
const KEY_BYTE: u64 = 1;
/// From here on a double is beyond every whole number that JSON data is read as.
const WHOLE_BELOW: f64 = 18_446_744_073_709_551_616.0;
/// Below it too.
const WHOLE_FROM: f64 = -9_223_372_036_854_775_808.0;

/// Whether two values are equal.
pub(super) fn equal(left: &Value, right: &Value) -> bool {
    let cost = match (left, right) {
        (Value::String(left), Value::String(right)) if left.len() == right.len() => left.len() as u64 / 8,
        _ => 0,
    };
    if !charge(STEP + cost) {
        return false;
    }
    match (left, right) {
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, left)| right.get(name).is_some_and(|right| equal(left, right)))
        }
        _ => cmp::equal(left, right),
    }
}

/// Bytes that two values share exactly when they are equal.
pub(super) fn key(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    let before = out.len();
    match value {
        Value::Null => out.push(b'n'),
        Value::Bool(true) => out.push(b't'),
        Value::Bool(false) => out.push(b'f'),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            begin(b'[', items.len(), out);
            items.iter().for_each(|item| write(item, out));
        }
        Value::Object(entries) => {
            begin(b'{', entries.len(), out);
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_unstable_by_key(|(name, _)| *name);
            for (name, value) in entries {
                write_text(name, out);
                write(value, out);
            }
        }
    }
    let own = if value.is_array() || value.is_object() { 9 } else { out.len() - before };
    charge(STEP + own as u64 * KEY_BYTE);
}

fn begin(kind: u8, length: usize, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&(length as u64).to_le_bytes());
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    begin(b's', text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

fn write_number(number: &Number, out: &mut Vec<u8>) {
    let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    let double = number.as_f64().unwrap_or_default();
    let is_whole = double.fract() == 0.0 && (WHOLE_FROM..WHOLE_BELOW).contains(&double);
    match whole.or_else(|| is_whole.then_some(double as i128)) {
        Some(whole) => {
            out.push(b'w');
            out.extend_from_slice(&whole.to_le_bytes());
        }
        None => {
            out.push(b'd');
            out.extend_from_slice(&double.to_bits().to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let number = prop::sample::select(vec![
            "0",
            "-0",
            "-0.0",
            "1",
            "1.0",
            "1e0",
            "1.5",
            "-1",
            "9007199254740993",
            "9007199254740992",
            "9007199254740992.0",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775808",
            "-9223372036854775808.0",
            "1e300",
        ]);
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            number.prop_map(str::to_owned),
            prop::sample::select(vec![r#""""#, r#""a""#, r#""1""#, r#""null""#]).prop_map(str::to_owned),
        ];
        let text = leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
                prop::collection::vec((prop::sample::select(vec!["a", "b"]), inner), 0..3).prop_map(
                    |entries| {
                        let entries: Vec<_> =
                            entries.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                        format!("{{{}}}", entries.join(","))
                    }
                ),
            ]
        });
        text.prop_map(|text| serde_json::from_str(&text).expect("JSON"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn keys_are_equal_exactly_when_values_are(left in value(), right in value()) {
            prop_assert_eq!(equal(&left, &right), cmp::equal(&left, &right));
            prop_assert_eq!(key(&left) == key(&right), cmp::equal(&left, &right), "{} {}", left, right);
            prop_assert!(equal(&left, &left) && key(&left) == key(&left));
        }
    }
}
