//! Trace context: the trace that an event belongs to, as W3C Trace Context writes it. It is passed on, not taken part in.

use crate::violation::Violation;

const MAX_STATE: usize = 512;
const MAX_MEMBERS: usize = 32;

/// `traceparent` and `tracestate`, both as they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    parent: String,
    state: String,
}

impl TraceContext {
    /// What an emitter gives; nothing when both are empty.
    ///
    /// # Errors
    /// A violation of `trace_parent` or `trace_state`.
    pub fn new(parent: &str, state: &str) -> Result<Option<Self>, Violation> {
        if parent.is_empty() && state.is_empty() {
            return Ok(None);
        }
        if !is_parent(parent) {
            return Err(Violation::new(
                "trace_parent",
                "must be a traceparent of W3C Trace Context: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, in small \
                 letters, neither id all zeros",
            ));
        }
        if !is_state(state) {
            return Err(Violation::new(
                "trace_state",
                "must be a tracestate of W3C Trace Context: up to 32 members key=value joined by commas, at most 512 \
                 characters, each key once",
            ));
        }
        Ok(Some(Self { parent: parent.to_owned(), state: state.to_owned() }))
    }

    /// The trace in a call's metadata: the lines of each header, `None` for a line that is not printable ASCII.
    ///
    /// Lines of `tracestate` are one list (RFC 9110, 5.3); a list that cannot be read is left out. Of several lines of
    /// `traceparent` none is taken: nobody can say which is right. What is no trace is no problem of the caller.
    #[must_use]
    pub fn carried(parents: &[Option<&str>], states: &[Option<&str>]) -> Option<Self> {
        let [Some(parent)] = parents else { return None };
        let state = states.iter().copied().collect::<Option<Vec<_>>>().unwrap_or_default().join(",");
        Self::new(parent, &state).or_else(|_| Self::new(parent, "")).ok().flatten()
    }

    /// The value of `traceparent`.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// The value of `tracestate`; empty for none.
    #[must_use]
    pub fn state(&self) -> &str {
        &self.state
    }
}

/// Versions above 00 may have more after the flags.
fn is_parent(text: &str) -> bool {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
    };
    let id = |part: &str, length: usize| hex(part, length) && part.bytes().any(|b| b != b'0');
    let mut parts = text.splitn(5, '-');
    let mut next = || parts.next().unwrap_or_default();
    let (version, trace, span, flags) = (next(), next(), next(), next());
    let rest = parts.next();
    hex(version, 2)
        && version != "ff"
        && id(trace, 32)
        && id(span, 16)
        && hex(flags, 2)
        && rest.is_none_or(|rest| {
            version != "00" && text.len() <= 256 && rest.bytes().all(|b| b.is_ascii_graphic())
        })
}

fn is_state(text: &str) -> bool {
    let members: Vec<&str> = text
        .split(',')
        .map(|member| member.trim_matches([' ', '\t']))
        .filter(|member| !member.is_empty())
        .collect();
    let mut keys: Vec<&str> =
        members.iter().map(|member| member.split('=').next().unwrap_or_default()).collect();
    keys.sort_unstable();
    let twice = keys.windows(2).any(|pair| pair[0] == pair[1]);
    text.len() <= MAX_STATE
        && text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\t'))
        && members.len() <= MAX_MEMBERS
        && !twice
        && members.iter().all(|member| is_member(member))
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    // As level 2 has it, which includes the keys of level 1.
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let key = key.len() <= 256
        && key.bytes().next().is_some_and(first)
        && key.bytes().all(|b| first(b) || matches!(b, b'_' | b'-' | b'*' | b'/' | b'@'));
    let in_value = |b: u8| matches!(b, b' '..=b'~') && !matches!(b, b',' | b'=');
    key && (1..=256).contains(&value.len()) && value.bytes().all(in_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_traceparent() {
        let table = [
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-", false),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0\r", false),
            ("nonsense", false),
        ];
        for (text, good) in table {
            assert_eq!(TraceContext::new(text, "").is_ok(), good, "{text}");
        }
        assert_eq!(TraceContext::new("", ""), Ok(None));
        assert_eq!(TraceContext::new("", "a=b").unwrap_err().field, "trace_parent");
    }

    #[test]
    fn what_metadata_carries() {
        let one = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let other = "00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-01";
        let lines: Vec<String> = (0..4)
            .map(|line| (0..8).map(|n| format!("k{line}{n}=v")).collect::<Vec<_>>().join(","))
            .collect();
        let four: Vec<Option<&str>> = lines.iter().map(|line| Some(line.as_str())).collect();
        let five = [four.as_slice(), &[Some("x=v")]].concat();
        let all = lines.join(",");
        type Lines<'l> = &'l [Option<&'l str>];
        let table: [(Lines<'_>, Lines<'_>, Option<&str>); 14] = [
            (&[], &[], None),
            (&[], &[Some("a=1")], None),
            (&[Some(one)], &[], Some("")),
            (&[Some(one)], &[Some("a=1")], Some("a=1")),
            (&[Some(one)], &[Some("a=1"), Some("b=2")], Some("a=1,b=2")),
            (&[Some(one)], &[Some("a=1"), Some(""), Some("b=2")], Some("a=1,,b=2")),
            (&[Some(one)], &four, Some(&all)),
            (&[Some(one)], &five, Some("")),
            (&[Some(one)], &[Some("a=1"), Some("a=2")], Some("")),
            (&[Some(one)], &[Some("a=1"), None], Some("")),
            (&[Some(one), Some(other)], &[Some("a=1")], None),
            (&[Some(one), Some(one)], &[], None),
            (&[Some(one), None], &[], None),
            (&[Some("nonsense")], &[Some("a=1")], None),
        ];
        for (parents, states, state) in table {
            let carried = TraceContext::carried(parents, states);
            assert_eq!(carried.as_ref().map(TraceContext::state), state, "{parents:?} {states:?}");
            assert!(carried.is_none_or(|trace| trace.parent() == one));
        }
    }

    #[test]
    fn what_is_a_tracestate() {
        let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        let table = [
            ("congo=t61rcWkgMzE", true),
            ("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE", true),
            ("fw529a3039@dt=FfD3;r*/~", true),
            ("a=1,,b=2", true),
            (&many(32), true),
            (&many(33), false),
            ("a=1,a=2", false),
            ("A=1", false),
            ("1a=1", true),
            ("a@=1,a@b@c=1,a@fifteen-letters=1", true),
            (&format!("{}=1", "k".repeat(256)), true),
            (&format!("{}=1", "k".repeat(257)), false),
            ("@a=1", false),
            ("_a=1", false),
            ("a b=1", false),
            ("a=", false),
            ("a", false),
            ("a=b=c", false),
            ("a=\u{e9}", false),
            ("a=1\r\nx: y", false),
            (&format!("a={}", "x".repeat(600)), false),
        ];
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (text, good) in table {
            assert_eq!(TraceContext::new(parent, text).is_ok(), good, "{text}");
        }
    }
}
