//! hello of actix-web on the socket of listenfd, or on the address that it is told.
use actix_web::{App, HttpServer, web};

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let server = HttpServer::new(|| App::new().route("/", web::get().to(|| async { "hello\n" }))).workers(2);
    let server = match listenfd::ListenFd::from_env().take_tcp_listener(0)? {
        Some(passed) => server.listen(passed)?,
        None => server.bind(std::env::args().nth(1).unwrap())?,
    };
    server.run().await
}
