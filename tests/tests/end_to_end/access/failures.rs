//! Whoever has no token gets tired first.

use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, Role};
use postrider_tests::raw;
use postrider_tests::world::{Guarded, TENANT, token};
use tonic::Code;
use tonic_types::StatusExt as _;

const CALL: &str = "postrider.v1.TenantService/ListTenants";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_wrong_tokens_is_slowed_down_and_hurts_no_right_one() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let right = world.token(Role::Viewer, None).await?;
    let api = world.api(TENANT, &right.secret)?;
    let attacker = world.control_plane.channel_from(Some([127, 0, 0, 66].into()))?;
    let wrong = token();
    let authorization = format!("Bearer {}", wrong.as_str());
    let (mut unauthenticated, mut slowed) = (0, 0);
    for _ in 0..400 {
        let status = raw::call(&attacker, Some(&authorization), CALL, Vec::new()).await.err();
        let status = status.context("a token that nobody made was taken")?;
        match status.code() {
            Code::Unauthenticated => unauthenticated += 1,
            Code::ResourceExhausted => {
                let details = status.get_error_details();
                let reason = details.error_info().map(|info| info.reason.as_str());
                assert_eq!(reason, Some("TOO_MANY_FAILURES"));
                let wait = details.retry_info().and_then(|retry| retry.retry_delay).context("no delay")?;
                assert!(wait > Duration::ZERO && wait < Duration::from_secs(5), "{wait:?}");
                slowed += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(unauthenticated >= 50 && slowed >= 100, "{unauthenticated} looked at, {slowed} slowed down");
    // The right token is good from there too, and the flood is not its trouble.
    let bearer = format!("Bearer {}", right.secret);
    raw::call(&attacker, Some(&bearer), CALL, Vec::new()).await?;
    api.tenants().list_tenants(v1::ListTenantsRequest::default()).await?;
    // Another address is not the attacker's.
    let other = world.control_plane.channel_from(Some([127, 0, 0, 67].into()))?;
    let status = raw::call(&other, None, CALL, Vec::new()).await.err().context("no token was taken")?;
    assert_eq!(status.code(), Code::Unauthenticated);

    let log = world.control_plane.log();
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("rejected calls without a valid token")).collect();
    let of = |address: &str| lines.iter().filter(|line| line.contains(address)).count();
    assert_eq!((of("127.0.0.66\""), of("127.0.0.67\"")), (1, 1), "one line a minute and address: {lines:#?}");
    assert!(lines[0].contains("TOKEN_UNKNOWN") && !log.contains(wrong.as_str()), "{}", lines[0]);
    let secret = &wrong.as_str()[40..90];
    assert!(!log.contains(secret) && !log.contains(&right.secret), "the log tells a token");
    Ok(())
}
