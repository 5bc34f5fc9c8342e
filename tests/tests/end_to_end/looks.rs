//! Looks at endpoints through agents: diagnoses, and validation handshakes.

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, BodyFormat, OutcomeClass, RateLimit, Role, ValidationState};
use postrider_tests::api::{Api, no_retries};
use postrider_tests::applicant::{credentials, hello, new_key};
use postrider_tests::receiver::Answer;
use postrider_tests::world::{AgentSettings, TENANT, World};
use prost_types::FieldMask;
use tonic::{Code, Status};

const ORIGIN: &str = "webhook_origin = \"postrider.example.com\"";

async fn diagnose(api: &Api, subscription: &str, agent: &str) -> Result<v1::Diagnosis, Status> {
    let request = v1::DiagnoseSubscriptionRequest {
        tenant: api.tenant(),
        subscription: subscription.to_owned(),
        agent: agent.to_owned(),
    };
    let answer = api.subscriptions().diagnose_subscription(request).await?.into_inner();
    answer.diagnosis.ok_or_else(|| Status::internal("no diagnosis"))
}

async fn validate(
    api: &Api,
    subscription: &str,
    apply_rate: bool,
) -> Result<v1::ValidateSubscriptionResponse, Status> {
    let request = v1::ValidateSubscriptionRequest {
        tenant: api.tenant(),
        subscription: subscription.to_owned(),
        agent: String::new(),
        apply_rate,
    };
    Ok(api.subscriptions().validate_subscription(request).await?.into_inner())
}

/// The API as somebody sees it who is confined to the tenant.
async fn confined(world: &World) -> Result<Api> {
    let request = v1::CreateTokenRequest {
        role: Role::Operator.into(),
        tenant: TENANT.to_owned(),
        ..Default::default()
    };
    let made = world.api.tokens().create_token(request).await?.into_inner();
    Api::new(world.control_plane.channel()?, TENANT, &made.secret)
}

async fn subscribe(world: &World, url: &str) -> Result<String> {
    let wanted = v1::Subscription {
        url: url.to_owned(),
        retry_policy: no_retries(),
        headers: [("authorization".to_owned(), "Bearer the-s3cret".to_owned())].into(),
        ..v1::Subscription::default()
    };
    Ok(world.api.subscribe(wanted, "").await?.id)
}

#[tokio::test]
async fn an_endpoint_is_looked_at_from_where_the_agent_is_and_nothing_is_delivered() -> Result<()> {
    let world = World::start().await?;
    world.receiver.script("/a", [Answer::Status(405)]);
    let id = subscribe(&world, &world.receiver.url("/a")).await?;
    let agent = world.agent_connected().await?;
    let seen = diagnose(&world.api, &id, "").await?;
    assert_eq!((seen.outcome(), seen.http_status), (OutcomeClass::HttpStatus, 405));
    assert_eq!((&*seen.agent, &*seen.pool, &*seen.method), (&*agent.id, "default", "HEAD"));
    assert_eq!(seen.peer, format!("127.0.0.1:{}", world.receiver.port()));
    assert!(!seen.through_proxy && seen.http_version == "HTTP/1.1" && seen.certificates.is_empty());
    let timings = seen.timings.context("no timings")?;
    assert!(timings.connect.is_some() && timings.first_byte.is_some() && timings.total.is_some());
    let asked = world.receiver.posts();
    assert_eq!((asked.len(), asked[0].method.as_str(), asked[0].body.len()), (1, "HEAD", 0));
    // The endpoint sees the headers that every delivery has, and no signature; the answer has neither.
    assert_eq!(asked[0].headers["authorization"], "Bearer the-s3cret");
    assert!(!asked[0].headers.contains_key("webhook-signature"));
    assert!(!format!("{seen:?}").contains("s3cret"));
    assert!(world.api.deliveries_in(&[]).await?.is_empty(), "no delivery, no attempt");

    let printed = world.cli().run(&["subscriptions", "diagnose", &id, "--agent", &agent.id]).await?;
    assert!(printed.stdout.contains("reached: the endpoint answered HEAD with 405"), "{}", printed.stdout);
    let stranger = diagnose(&world.api, &id, "agt-nobody").await.err().context("somebody looked")?;
    assert_eq!(stranger.code(), Code::FailedPrecondition, "{stranger:?}");
    diagnose(&world.api, &id, "").await?;
    let often = diagnose(&world.api, &id, "").await.err().context("a fourth look at once")?;
    assert_eq!(often.code(), Code::ResourceExhausted, "{often:?}");
    let audited = v1::ListAuditRecordsRequest { action: "DiagnoseSubscription".into(), ..Default::default() };
    assert_eq!(world.api.audit().list_audit_records(audited).await?.into_inner().records.len(), 3);
    let logs = world.agent.log() + &world.control_plane.log();
    assert!(!logs.contains("the-s3cret"), "a header's value is in a log");
    Ok(())
}

#[tokio::test]
async fn what_the_agents_policy_refuses_is_told_to_the_operator_and_not_to_the_tenant() -> Result<()> {
    let world = World::start().await?;
    let inside = subscribe(&world, "http://10.1.2.3:8080/").await?;
    let port = format!("http://127.0.0.1:{}/", world.control_plane.api_address().port());
    let other_port = subscribe(&world, &port).await?;
    let tenant = confined(&world).await?;
    for (id, codes) in [(&inside, &["v4_private", "port"][..]), (&other_port, &["port"])] {
        let seen = diagnose(&world.api, id, "").await?;
        assert_eq!(seen.outcome(), OutcomeClass::RefusedByPolicy);
        assert!(codes.contains(&&*seen.refusal_code), "{seen:?}");
        assert!(seen.refusal.contains("agent's owner"), "{}", seen.refusal);
        assert_eq!(seen.timings.and_then(|timings| timings.connect), None, "nothing was dialled");
        let told = diagnose(&tenant, id, "").await?;
        assert_eq!(told.outcome(), OutcomeClass::RefusedByPolicy);
        assert_eq!(told.detail, "the agent's egress policy does not allow this endpoint");
        let hidden = [&told.refusal_code, &told.refusal, &told.peer];
        assert!(hidden.iter().all(|text| text.is_empty()) && told.addresses.is_empty(), "{told:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_tls_endpoints_chain_is_shown_though_it_is_not_accepted() -> Result<()> {
    let mut world = World::without_agent(AgentSettings::default(), &[]).await?;
    // The API's own port: its authority is unknown to the agent.
    let port = world.control_plane.api_address().port();
    world.agent.settings.ports.push(port);
    world.agent.start()?;
    world.agent_connected().await?;
    let id = subscribe(&world, &format!("https://127.0.0.1:{port}/")).await?;
    let seen = diagnose(&world.api, &id, "").await?;
    assert_eq!(seen.outcome(), OutcomeClass::Tls, "{seen:?}");
    assert_eq!(seen.detail, "the endpoint's certificate is from an unknown authority");
    let own = seen.certificates.first().context("no chain")?;
    assert!(!own.issuer.is_empty() && own.not_after.is_some(), "{own:?}");
    assert_eq!(own.names, ["localhost"]);
    Ok(())
}

#[tokio::test]
async fn without_an_agent_or_with_one_that_is_too_old_it_is_said_what_to_do() -> Result<()> {
    let world = World::without_agent(AgentSettings::default(), &[]).await?;
    world.api.allow_pool("old").await?;
    let wanted = v1::Subscription {
        url: "https://hooks.example.com/".into(),
        pool: "old".into(),
        ..v1::Subscription::default()
    };
    let id = world.api.subscribe(wanted, "").await?.id;
    let nobody = diagnose(&world.api, &id, "").await.err().context("nobody is there")?;
    assert_eq!(nobody.code(), Code::Unavailable);
    assert!(nobody.message().contains("no agent of the pool old is connected"), "{nobody:?}");
    let (port, join) = (world.control_plane.agent_port(&world.api).await?, world.api.join("old", 1).await?);
    let key = new_key()?;
    let identity = port.enroll(&join, &key).await?;
    let mut session = port.connect(Some(&credentials(&identity, &key)), hello(&identity)).await?;
    session.hear().await?;
    world.api.agent_connected(&identity.agent_id, 1).await?;
    let old = diagnose(&world.api, &id, "").await.err().context("it cannot look")?;
    assert_eq!(old.code(), Code::FailedPrecondition);
    assert!(old.message().contains("version test, is too old"), "{old:?}");
    Ok(())
}

fn answer(headers: &[(&'static str, &str)]) -> Answer {
    Answer::Headers(200, headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
}

#[tokio::test]
async fn an_endpoint_is_asked_for_its_consent_and_its_answer_is_kept() -> Result<()> {
    let mut world = World::with(AgentSettings::default(), &[ORIGIN]).await?;
    let consent = [("webhook-allowed-origin", "postrider.example.com"), ("webhook-allowed-rate", "120")];
    world.receiver.script("/a", [answer(&consent), Answer::Status(204)]);
    let wanted = v1::Subscription {
        body_format: BodyFormat::Cloudevents.into(),
        validation_handshake: true,
        rate_limit: Some(RateLimit { per_second: 5.0, burst: 1 }),
        ..v1::Subscription::default()
    };
    let id = world.subscribe_with("/a", wanted).await?.subscription;
    let done = validate(&world.api, &id, false).await?;
    let asked = world.receiver.posts();
    assert_eq!((asked.len(), asked[0].method.as_str()), (1, "OPTIONS"));
    assert_eq!(asked[0].headers["webhook-request-origin"], "postrider.example.com");
    assert_eq!(asked[0].headers["webhook-request-rate"], "300");
    let kept = done.subscription.and_then(|subscription| subscription.validation).context("not kept")?;
    assert_eq!((kept.state(), kept.allowed_rate_per_minute), (ValidationState::Validated, 120));
    assert_eq!(kept.allowed_origin, "postrider.example.com");
    assert!(
        done.warnings.iter().any(|warning| warning.contains("set rate_limit to 2 a second")),
        "{:?}",
        done.warnings
    );

    // It outlives a restart; a refusal takes its place.
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    world.agent_connected().await?;
    assert_eq!(world.api.subscription(&id).await?.validation, Some(kept));
    let refused = validate(&world.api, &id, false).await?;
    let kept = refused.subscription.and_then(|subscription| subscription.validation).context("not kept")?;
    assert_eq!(kept.state(), ValidationState::Refused);
    assert!(kept.detail.contains("without WebHook-Allowed-Origin"), "{}", kept.detail);

    // What is allowed becomes the limit when that is wanted.
    world.receiver.script("/a", [answer(&consent)]);
    let applied = world.cli().json(&["subscriptions", "validate", &id, "--apply-rate"]).await?;
    assert_eq!(applied["subscription"]["rate_limit"]["per_second"], 2.0);
    assert_eq!(applied["subscription"]["validation"]["state"], "validated");
    assert_eq!(applied["diagnosis"]["method"], "OPTIONS");
    // Another URL is another endpoint.
    let moved = v1::Subscription {
        tenant: world.api.tenant(),
        id: id.clone(),
        url: world.receiver.url("/b"),
        ..v1::Subscription::default()
    };
    let update_mask = Some(FieldMask { paths: vec!["url".into()] });
    let request = v1::UpdateSubscriptionRequest { subscription: Some(moved), update_mask };
    let moved = world.api.subscriptions().update_subscription(request).await?.into_inner();
    assert_eq!(moved.subscription.context("no subscription")?.validation, None);
    assert!(
        moved.warnings.iter().any(|warning| warning.contains("was not asked yet")),
        "{:?}",
        moved.warnings
    );
    Ok(())
}

#[tokio::test]
async fn the_handshake_is_for_cloudevents_when_it_is_wanted_and_never_for_what_the_policy_refuses()
-> Result<()> {
    let world = World::with(AgentSettings::default(), &[ORIGIN]).await?;
    let wanted = |format: BodyFormat, handshake| v1::Subscription {
        url: "http://10.1.2.3/".into(),
        body_format: format.into(),
        validation_handshake: handshake,
        ..v1::Subscription::default()
    };
    let wrong = world.api.subscribe(wanted(BodyFormat::Event, true), "").await.err().context("taken")?;
    let wrong = wrong.downcast::<Status>()?;
    assert_eq!(wrong.code(), Code::InvalidArgument, "{wrong:?}");
    let unwanted = world.api.subscribe(wanted(BodyFormat::Cloudevents, false), "").await?.id;
    let refused = validate(&world.api, &unwanted, false).await.err().context("asked")?;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let inside = world.api.subscribe(wanted(BodyFormat::Cloudevents, true), "").await?.id;
    let done = validate(&world.api, &inside, false).await?;
    let kept = done.subscription.and_then(|subscription| subscription.validation).context("not kept")?;
    assert_eq!(kept.state(), ValidationState::Unreachable);
    assert_eq!(kept.detail, "the agent's egress policy does not allow this endpoint");

    let nameless = World::start().await?;
    let id = nameless.api.subscribe(wanted(BodyFormat::Cloudevents, true), "").await?.id;
    let refused = validate(&nameless.api, &id, false).await.err().context("asked by nobody")?;
    assert!(refused.message().contains("webhook_origin"), "{refused:?}");
    Ok(())
}
