use super::*;
use std::net::TcpListener;
#[test]
fn first() {
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = l.local_addr().unwrap().port();
    let c = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let a = l.accept().unwrap();
    println!("{:#?}", Diag::default().tcp(port).unwrap());
    println!("{:#?}", Diag::default().unix().unwrap().len());
    println!("{:?} {:?}", listen_overflows(), somaxconn());
}
