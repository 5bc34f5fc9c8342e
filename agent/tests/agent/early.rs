//! Answers that come before the request was read, and answers that are not quite HTTP.

use postrider_agent::transport::Transport as _;
use postrider_proto::agent::OutcomeKind;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::endpoint::{Endpoint, policy, request, transport, with};
use crate::secured::{Authority, BOTH};

/// Reads the beginning of a request, answers, and closes with the rest unread: the other side gets a reset.
async fn answer_and_reset(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) {
    stream.read_u8().await.unwrap();
    // Who has gone already has gone.
    let _sent = stream.write_all(answer.as_bytes()).await;
    let _flushed = stream.flush().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_not_lost_to_a_write_that_fails() {
    let authority = Authority::new();
    for (status, tls) in [(200, false), (429, false), (200, true), (410, true), (429, true)] {
        let answer = format!("HTTP/1.1 {status} X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n");
        let acceptor = authority.server(&["127.0.0.1"]).acceptor(&["http/1.1"], BOTH);
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(16).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if tls {
                    answer_and_reset(acceptor.accept(stream).await.unwrap(), &answer).await;
                } else {
                    answer_and_reset(stream, &answer).await;
                }
            }
        });
        let scheme = if tls { "https" } else { "http" };
        for _ in 0..40 {
            // Each on a connection of its own.
            let transport = with(policy(&[port]), authority.roots(), &[]);
            let mut large = request(format!("{scheme}://127.0.0.1:{port}/"));
            large.body = vec![b'x'; 1 << 20].into();
            let report = transport.post(large).await;
            assert_eq!(report.kind, OutcomeKind::Response, "{scheme} {status}: {}", report.detail);
            let response = report.response.unwrap();
            assert_eq!(response.status, status);
            assert!(response.headers.contains(&("retry-after", "7".to_owned())));
        }
    }
}

#[tokio::test]
async fn header_fields_that_nobody_reads_decide_nothing() {
    for fields in [
        "x-a: b\r\n c\r\n",
        "x-a: b\r\n\tc\r\n",
        "x-a:\r\n b\r\n",
        "no colon at all\r\n",
        "x-a : b\r\n",
        "x a: b\r\n",
        "x-(a): b\r\n",
        ": b\r\n",
        "x-a: \x01b\r\n",
        "x-\u{e9}: \u{e9}\r\n",
        "x-a: b\n",
    ] {
        for end in ["content-length: 2\r\n\r\nok", "content-length: 2\r\nretry-after: 7\r\n\r\nok"] {
            let endpoint = Endpoint::answering(format!("HTTP/1.1 200 OK\r\n{fields}{end}").leak()).await;
            let transport = transport(&endpoint);
            for _ in 0..2 {
                let report = transport.post(request(endpoint.url("http"))).await;
                assert_eq!(report.kind, OutcomeKind::Response, "{fields:?}: {}", report.detail);
                let response = report.response.unwrap();
                assert_eq!((response.status, &response.body[..]), (200, &b"ok"[..]), "{fields:?}");
                assert!(response.headers.contains(&("content-length", "2".to_owned())), "{fields:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_frames_a_response_is_still_read_strictly() {
    for head in [
        "content-length: x\r\n",
        "content-length: 2\r\ncontent-length: 3\r\n",
        "content-length: -1\r\n",
        "content-length: 2,3\r\n",
    ] {
        let endpoint = Endpoint::answering(format!("HTTP/1.1 200 OK\r\n{head}\r\nok").leak()).await;
        let report = transport(&endpoint).post(request(endpoint.url("http"))).await;
        assert_eq!(report.kind, OutcomeKind::Protocol, "{head:?}");
    }
}
