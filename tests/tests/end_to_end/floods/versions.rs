//! Which versions of TLS are spoken, and that no session is resumed where a certificate decides.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1;
use postrider_tests::frames::{Port, frame, kind};
use postrider_tests::world::{ControlPlane, Security, TENANT, TlsFiles};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::Besieged;

/// Kinds of records. Source: RFC 8446, section 5.1.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// The alert 'protocol version'; it is fatal. Source: RFC 8446, section 6.
const FATAL_VERSION: [u8; 2] = [2, 70];

/// A ClientHello of TLS 1.`minor - 1`, with everything that servers ask for. Source: RFC 5246, section 7.4.1.2.
fn hello_of(minor: u8) -> Vec<u8> {
    // ECDHE with ECDSA and AES: of 1.2, and of before.
    let ciphers: [u16; 2] = [0xc02b, 0xc009];
    let ciphers: Vec<u8> = ciphers.into_iter().flat_map(u16::to_be_bytes).collect();
    let groups: &[u8] = &[0, 10, 0, 4, 0, 2, 0, 23];
    let formats: &[u8] = &[0, 11, 0, 2, 1, 0];
    let signatures: &[u8] = &[0, 13, 0, 4, 0, 2, 4, 3];
    let master_secret: &[u8] = &[0, 23, 0, 0];
    let extensions = [groups, formats, signatures, master_secret].concat();
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
    let body = [
        &[3, minor][..],
        &[7; 32],
        &[0],
        &length(&ciphers),
        &ciphers,
        &[1, 0],
        &length(&extensions),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &length(&body), &body].concat();
    [&[22, 3, 1][..], &length(&message), &message].concat()
}

async fn spoken(
    port: &Port,
    version: &'static SupportedProtocolVersion,
    trust: &str,
) -> io::Result<ProtocolVersion> {
    let port = Port::with_versions(port.address, trust, None, &[version]).map_err(io::Error::other)?;
    let stream = port.secured().await?;
    stream.get_ref().1.protocol_version().ok_or_else(|| io::Error::other("no version"))
}

#[tokio::test]
async fn agents_speak_tls_1_3_callers_1_2_or_newer_and_nobody_older_ones() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    let [api, agents] = besieged.ports().await?;
    let ca = std::fs::read_to_string(besieged.control_plane.ca().context("it has one")?)?;
    assert_eq!(spoken(&api, &TLS13, &ca).await?, ProtocolVersion::TLSv1_3);
    assert_eq!(spoken(&api, &TLS12, &ca).await?, ProtocolVersion::TLSv1_2);
    let authority = besieged.agents().await?.trust;
    assert_eq!(spoken(&agents, &TLS13, &authority).await?, ProtocolVersion::TLSv1_3);
    let refused = spoken(&agents, &TLS12, &authority).await.err().context("agents speak 1.2")?;
    ensure!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    assert_eq!(answer(&api, 3).await?.first(), Some(&HANDSHAKE), "1.2 by hand");
    for (port, minor) in [(&api, 2), (&api, 1), (&agents, 3), (&agents, 2)] {
        let answer = answer(port, minor).await?;
        assert_eq!((answer[0], &answer[5..]), (ALERT, &FATAL_VERSION[..]), "{minor}: {answer:?}");
    }
    Ok(())
}

/// The beginning of what a port says to a ClientHello.
async fn answer(port: &Port, minor: u8) -> Result<Vec<u8>> {
    let mut stream = port.plain().await?;
    stream.write_all(&hello_of(minor)).await?;
    let mut answer = vec![0; 7];
    timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test]
async fn who_speaks_in_the_clear_to_a_port_with_tls_is_cut_off() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    for port in besieged.ports().await? {
        for words in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
            let mut stream = port.plain().await?;
            stream.write_all(words.as_bytes()).await?;
            let mut answer = Vec::new();
            // The connection may also be reset, for what was not read of it.
            let _reset = timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await?;
            ensure!(answer.len() <= 7 && !answer.starts_with(b"HTTP"), "{answer:?}");
        }
    }
    Ok(())
}

/// Connects, waits for what comes after the handshake (tickets would), and says which kind of handshake it was.
async fn handshake(port: &Port) -> Result<HandshakeKind> {
    let stream = port.secured().await?;
    let made = stream.get_ref().1.handshake_kind().context("no handshake")?;
    let mut wire = postrider_tests::frames::Wire::new(stream);
    let settings = frame(kind::SETTINGS, 0, 0, &[]);
    wire.send(&[postrider_tests::frames::PREFACE, &settings].concat()).await?;
    timeout(Duration::from_secs(5), wire.ear.next()).await??.context("the connection is closed")?;
    Ok(made)
}

#[tokio::test]
async fn an_agent_that_wants_to_resume_a_session_shows_its_certificate_anew() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    let agent = besieged.enrolled().await?;
    // The client's TLS remembers sessions: it is the port that gives nothing to resume them by.
    let port = besieged.agent_port(Some(&agent)).await?;
    for _ in 0..3 {
        assert_eq!(handshake(&port).await?, HandshakeKind::Full);
    }
    let request = v1::RevokeAgentRequest { agent: agent.hello.agent_id.clone(), reason: String::new() };
    besieged.api.agents().revoke_agent(request).await?;
    ensure!(handshake(&port).await.is_err(), "it is revoked");
    // That the test could see one: callers of the API do resume theirs.
    let api = besieged.api_port()?;
    assert_eq!(handshake(&api).await?, HandshakeKind::Full);
    assert_eq!(handshake(&api).await?, HandshakeKind::Resumed);
    Ok(())
}

#[tokio::test]
async fn where_callers_need_a_certificate_they_show_it_each_time() -> Result<()> {
    let folder = TempDir::with_prefix("postrider-test-")?;
    let files = TlsFiles::with_clients(&folder.path().join("tls"))?;
    let (_, pair) = files.clients.clone().context("it has clients")?;
    let credentials = postrider_tests::applicant::Credentials {
        chain: std::fs::read_to_string(pair.cert)?,
        key: rcgen::KeyPair::from_pem(&std::fs::read_to_string(pair.key)?)?.into(),
    };
    let trust = std::fs::read_to_string(&files.ca)?;
    let control_plane = ControlPlane::start(folder.path(), &[], Security::Tls(files)).await?;
    super::call(&control_plane.api(TENANT)?).await?;
    let port = Port::new(control_plane.api_address(), &trust, Some(&credentials))?;
    for _ in 0..3 {
        assert_eq!(handshake(&port).await?, HandshakeKind::Full);
    }
    let stranger = Port::new(control_plane.api_address(), &trust, None)?;
    ensure!(handshake(&stranger).await.is_err(), "it has shown no certificate");
    Ok(())
}
