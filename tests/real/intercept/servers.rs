//! Servers that bind for themselves, as small as their language lets them be.

use std::process::Command;

use crate::support::Place;

pub(super) struct Server {
    file: &'static str,
    /// `PORT` stands for the port where there is no argument to say it.
    text: &'static str,
    /// Makes the program, where the file itself is none.
    build: &'static str,
    /// `PORT` again, and `DIR` for where the file is.
    command: &'static str,
}

impl Server {
    /// Puts the file there, builds it, and says how to start it.
    pub(super) fn words(&self, place: &Place, port: &str) -> Vec<String> {
        place.write(self.file, &self.text.replace("PORT", port));
        if !self.build.is_empty() {
            let status = Command::new("sh").args(["-ec", self.build]).current_dir(place.path("")).status();
            assert!(status.unwrap().success(), "{}", self.build);
        }
        let directory = place.path("");
        let word = |word: &str| word.replace("PORT", port).replace("DIR/", &directory);
        self.command.split(' ').map(word).collect()
    }
}

/// It tries at its start which families there are, by binding sockets of its own.
pub(super) const GO: Server = Server {
    file: "server.go",
    text: r#"package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(response http.ResponseWriter, request *http.Request) {
		fmt.Fprint(response, request.RemoteAddr)
	})
	panic(http.ListenAndServe(":"+os.Args[1], nil))
}
"#,
    build: "CGO_ENABLED=0 go build server.go",
    command: "DIR/server PORT",
};

/// Binds [::] if there is IPv6.
pub(super) const NODE: Server = Server {
    file: "server.js",
    text: r#"
const answer = ({ socket }, response) => response.end(`${socket.remoteAddress}:${socket.remotePort}`);
require("http").createServer(answer).listen(process.argv[2]);
"#,
    build: "",
    command: "node DIR/server.js PORT",
};

pub(super) const JVM: Server = Server {
    file: "Server.java",
    text: r#"
import com.sun.net.httpserver.*;
import java.net.InetSocketAddress;

public class Server {
    public static void main(String[] arguments) {
        new Thread(() -> serve(Integer.parseInt(arguments[0]))).start();
    }

    static void serve(int port) {
        try {
            HttpServer server = HttpServer.create(new InetSocketAddress(port), 0);
            server.createContext("/", exchange -> {
                InetSocketAddress peer = exchange.getRemoteAddress();
                byte[] body = (peer.getAddress().getHostAddress() + ":" + peer.getPort()).getBytes();
                exchange.sendResponseHeaders(200, body.length);
                exchange.getResponseBody().write(body);
                exchange.close();
            });
            server.start();
        } catch (java.io.IOException error) {
            throw new RuntimeException(error);
        }
    }
}
"#,
    build: "",
    command: "java DIR/Server.java PORT",
};

pub(super) const CPYTHON: Server = Server {
    file: "server.py",
    text: r#"
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write("{}:{}".format(*self.client_address).encode())

http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
"#,
    build: "",
    command: "python3 DIR/server.py PORT",
};

pub(super) const NGINX: Server = Server {
    file: "nginx.conf",
    text: r#"
daemon off;
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    server {
        listen 127.0.0.1:PORT;
        listen [::1]:PORT;
        return 200 "nginx";
    }
}
"#,
    build: "",
    command: "nginx -p DIR/ -c nginx.conf",
};

pub(super) const HAPROXY: Server = Server {
    file: "haproxy.cfg",
    text: r#"
defaults
    mode http
    timeout client 10s
frontend web
    bind 127.0.0.1:PORT,[::1]:PORT
    http-request return status 200 content-type text/plain string haproxy
"#,
    build: "",
    command: "haproxy -db -f DIR/haproxy.cfg",
};

pub(super) const ASYNCIO: Server = Server {
    file: "server.py",
    text: r#"
import asyncio, sys

async def answer(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\n\r\nasyncio")
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(answer, ["127.0.0.1", "::1"], int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
"#,
    build: "",
    command: "python3 DIR/server.py PORT",
};
