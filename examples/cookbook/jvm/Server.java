// supervise -l 127.0.0.1:8080 --intercept-bind -- java Server.java
// Debian: openjdk-17-jdk-headless. The server listens as it always did, from whichever thread.

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

public class Server {
    public static void main(String[] arguments) throws IOException {
        byte[] body = "hello from jvm\n".getBytes();
        HttpServer server = HttpServer.create(new InetSocketAddress(8080), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> {
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }
}
