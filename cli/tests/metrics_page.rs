//! `docs/metrics.md` is what the programs say of their metrics.

const PAGE: &str = include_str!("../../docs/metrics.md");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
/// Set, the page is rewritten.
const WRITE: &str = "WRITE_PAGES";

fn page() -> String {
    let control_plane = postrider_control_plane::metrics::Metrics::new().table();
    let agent = postrider_agent::metrics::Metrics::new().table();
    format!(
        "\
# Metrics

<!-- Made from the code: `{WRITE}=1 cargo test -p postrider-cli --test metrics_page` writes this page. -->

Both programs show them on their admin port, at `/metrics`, in Prometheus' text format (settings `admin_listen`, `--admin-listen`).
A scrape reads neither the store nor each subscription. Counters begin at 0 with each start. Histograms have buckets from half a
millisecond to a minute. Labels have few values: pools beyond 200 are counted together as `pool=\"other\"`, versions of agents
beyond 20 as `version=\"other\"`; no label names a tenant, a subscription or an endpoint.

## Control plane

{control_plane}
## Agent

{agent}"
    )
}

#[test]
fn the_page_is_what_the_programs_say() {
    let page = page();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(PATH, &page).unwrap();
        return;
    }
    assert!(
        page == PAGE,
        "docs/metrics.md is not what the programs say; {WRITE}=1 cargo test -p postrider-cli --test metrics_page writes it"
    );
}

/// Alert rules and dashboards of others rest on these.
#[test]
fn names_keep_to_the_conventions() {
    let page = page();
    let names: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        let kind =
            page.lines().find_map(|line| line.strip_prefix(&format!("| `{name}` | "))?.split(' ').next());
        assert!(name.starts_with("postrider_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == Some("counter"), "{name} is a {kind:?}");
        assert!(!name.ends_with("_ms") && !name.contains("_millis"), "{name}");
    }
}
