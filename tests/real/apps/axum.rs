//! hello of axum on the socket of listenfd, or on the address that it is told.
use axum::{Router, routing::get};

#[tokio::main]
async fn main() {
    let listener = match listenfd::ListenFd::from_env().take_tcp_listener(0).unwrap() {
        Some(passed) => {
            passed.set_nonblocking(true).unwrap();
            tokio::net::TcpListener::from_std(passed).unwrap()
        }
        None => tokio::net::TcpListener::bind(std::env::args().nth(1).unwrap()).await.unwrap(),
    };
    let served = axum::serve(listener, Router::new().route("/", get(|| async { "hello\n" })));
    if std::env::var_os("GRACEFUL").is_some() {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        served.with_graceful_shutdown(async move { term.recv().await.unwrap() }).await.unwrap();
    } else {
        served.await.unwrap();
    }
}
