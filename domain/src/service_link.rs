//! The variables that Kubernetes sets by itself: for each Service of a namespace, in the environment of each of its pods.
//!
//! A Service that is named as the program is gets variables that look as the program's settings do. Who refuses settings that it
//! does not know must tell them apart.

/// Whether a variable is one of those that are set for a Service, such as `POSTRIDER_PORT_7070_TCP` for a Service named
/// `postrider`. They come together: `is_set` says which others there are.
#[must_use]
pub fn is_service_link(variable: &str, is_set: impl Fn(&str) -> bool) -> bool {
    let marks = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];
    let services =
        marks.iter().flat_map(|mark| variable.match_indices(mark).map(move |(at, _)| (at, mark.len())));
    services
        .filter(|(at, length)| {
            let rest = &variable[at + length..];
            rest.is_empty() || rest.starts_with('_')
        })
        .any(|(at, _)| is_set(&format!("{}_SERVICE_HOST", &variable[..at])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_for_a_service_is_told_from_settings() {
        let set = ["POSTRIDER_SERVICE_HOST", "POSTRIDER_CONTROL_PLANE_SERVICE_HOST"];
        let is_link = |name: &str| is_service_link(name, |other| set.contains(&other));
        for name in [
            "POSTRIDER_SERVICE_HOST",
            "POSTRIDER_SERVICE_PORT",
            "POSTRIDER_SERVICE_PORT_API",
            "POSTRIDER_PORT",
            "POSTRIDER_PORT_7070_TCP",
            "POSTRIDER_PORT_7070_TCP_ADDR",
            "POSTRIDER_CONTROL_PLANE_PORT_7071_TCP_PROTO",
        ] {
            assert!(is_link(name), "{name}");
        }
        for name in [
            "POSTRIDER_PORTS",
            "POSTRIDER_API_PORT",
            "POSTRIDER_AGENT_SERVICE_HOST",
            "POSTRIDER_DATA_DIR",
            "POSTRIDER",
        ] {
            assert!(!is_link(name), "{name}");
        }
    }
}
